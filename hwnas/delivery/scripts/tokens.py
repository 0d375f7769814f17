"""Classes of texts: python predict.py front/NAME.onnx "a text" ...

Needs numpy and onnxruntime only. Of token ids that stand for no words: FILE.npy of them.
"""

import json
import re
import sys

import numpy as np
import onnxruntime as ort

model, *sources = sys.argv[1:] if len(sys.argv) > 2 else sys.exit(__doc__)
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["hwnas"])
number = {word: i for i, word in enumerate(about["preprocessing"].get("words", ()), start=2)}
for source in sources:
    words = re.findall(r"\w+|[^\w\s]", source.lower())
    ids = np.load(source) if source.endswith(".npy") else [number.get(word, 1) for word in words]
    x = np.resize(np.r_[ids, np.zeros(about["example"]["shape"])], about["example"]["shape"])
    x = x.astype(np.int64)
    batch = np.repeat(x[None], about["target"]["batch"], axis=0)
    logits = session.run(None, {session.get_inputs()[0].name: batch})[0][0]
    p = np.exp(logits - logits.max())
    print(f"{source[:40]}: {about['classes'][p.argmax()]} {100 / p.sum():.1f} %")
