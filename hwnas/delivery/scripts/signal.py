"""Classes of signals: python predict.py front/NAME.onnx SIGNAL.npy ...

Needs numpy and onnxruntime only. A file holds one signal, an array (channels, length).
"""

import json
import sys

import numpy as np
import onnxruntime as ort

model, *sources = sys.argv[1:] if len(sys.argv) > 2 else sys.exit(__doc__)
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["hwnas"])
for source in sources:
    x = np.load(source).reshape(about["example"]["shape"])
    if about["input"] != "raw":
        mean, std = (np.array(about["preprocessing"][key])[:, None] for key in ("mean", "std"))
        x = (x - mean) / std
    x = x.astype(np.float32)
    batch = np.repeat(x[None], about["target"]["batch"], axis=0)
    logits = session.run(None, {session.get_inputs()[0].name: batch})[0][0]
    p = np.exp(logits - logits.max())
    print(f"{source[:40]}: {about['classes'][p.argmax()]} {100 / p.sum():.1f} %")
