"""Classes of images: python predict.py front/NAME.onnx IMAGE.png ...

Needs numpy and onnxruntime; pillow too, unless the images are .npy files of the stored shape.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime as ort


def resized(x: Any, axis: int, to: int) -> Any:
    """Bilinear along one axis, with a low-pass filter where it shrinks."""
    n = x.shape[axis]
    far = abs((np.arange(to)[:, None] + 0.5) * n / to - np.arange(n) - 0.5)
    w = np.maximum(0, 1 - far / max(n / to, 1))
    return np.moveaxis(np.tensordot(w / w.sum(axis=1, keepdims=True), x, (1, axis)), 0, axis)


def pixels(path: str, channels: int, height: int, width: int) -> Any:
    """Bytes of an image file, (channels, height, width)."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(path)).convert("L" if channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


model, *sources = sys.argv[1:] if len(sys.argv) > 2 else sys.exit(__doc__)
session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["hwnas"])
how, is_bytes = about["preprocessing"], about["example"]["type"] == "uint8"
for source in sources:
    if not (is_bytes or source.endswith(".npy")):
        sys.exit(f"{source}: this model was trained on numbers, not bytes; give such a .npy file")
    shape = about["example"]["shape"]
    x = np.load(source).reshape(shape) if source.endswith(".npy") else pixels(source, *shape)
    if about["input"] != "raw":
        x = resized(resized(x, 1, how["input_shape"][1]), 2, how["input_shape"][2])
        x = np.clip(np.round(x), 0, 255) / 255 if is_bytes else x
        x = (x - np.c_[how["mean"]][:, None]) / np.c_[how["std"]][:, None]
    x = x.astype(np.float32 if about["input"] != "raw" else about["example"]["type"])
    batch = np.repeat(x[None], about["target"]["batch"], axis=0)
    logits = session.run(None, {session.get_inputs()[0].name: batch})[0][0]
    p = np.exp(logits - logits.max())
    print(f"{source[:40]}: {about['classes'][p.argmax()]} {100 / p.sum():.1f} %")
