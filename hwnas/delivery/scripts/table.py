"""Classes of rows of numbers: python predict.py front/NAME.onnx 5.1,3.5,1.4,0.2 ...

Needs numpy and onnxruntime only. A row holds the features in the order of training; the rows of a
file: tail -n +2 ROWS.csv | tr -d ' ' | xargs python predict.py front/NAME.onnx
"""

import json
import sys

import numpy as np
import onnxruntime as ort

model, *sources = sys.argv[1:] if len(sys.argv) > 2 else sys.exit(__doc__)
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["hwnas"])
for source in sources:
    x = np.array(source.split(","), float).reshape(about["example"]["shape"])
    if about["input"] != "raw":
        x = (x - about["preprocessing"]["mean"]) / about["preprocessing"]["std"]
    x = x.astype(np.float32)
    batch = np.repeat(x[None], about["target"]["batch"], axis=0)
    logits = session.run(None, {session.get_inputs()[0].name: batch})[0][0]
    p = np.exp(logits - logits.max())
    print(f"{source[:40]}: {about['classes'][p.argmax()]} {100 / p.sum():.1f} %")
