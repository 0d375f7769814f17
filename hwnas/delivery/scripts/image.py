"""Classes of images: python predict.py front/NAME.onnx IMAGE.png ...

Needs numpy and onnxruntime; pillow too, unless the images are .npy files of the stored shape.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime as ort


def weights(size: int, to: int) -> Any:
    """Bilinear resizing of one axis as a matrix (to, size), with a low-pass filter to shrink."""
    centres = (np.arange(to)[:, None] + 0.5) * size / to
    w = np.maximum(0, 1 - abs(np.arange(size) + 0.5 - centres) / max(size / to, 1))
    return w / w.sum(axis=1, keepdims=True)


def read(path: str, about: dict[str, Any]) -> Any:
    """The one image of a file as the model takes it, (1, channels, height, width)."""
    channels, height, width = about["example"]["shape"]
    if path.endswith(".npy"):
        image = np.load(path).reshape(channels, height, width)
    elif about["example"]["type"] != "uint8":
        sys.exit(f"{path}: this model was trained on numbers, not bytes; give such a .npy file")
    else:
        from PIL import Image, ImageOps

        pixels = ImageOps.exif_transpose(Image.open(path)).convert("L" if channels == 1 else "RGB")
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        image = np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1)
    if about["input"] == "raw":
        return image[None].astype(about["example"]["type"])
    is_bytes, how = about["example"]["type"] == "uint8", about["preprocessing"]
    _, to_height, to_width = how["input_shape"]
    x = weights(height, to_height) @ image @ weights(width, to_width).T
    x = np.clip(np.round(x), 0, 255) / 255 if is_bytes else x
    mean, std = (np.array(how[key])[:, None, None] for key in ("mean", "std"))
    return ((x - mean) / std)[None].astype(np.float32)


def main(path: str, *sources: str) -> None:
    """Print the most probable classes of each example, in percent."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["hwnas"])
    spec = session.get_inputs()[0]
    batch = spec.shape[0] if isinstance(spec.shape[0], int) else 1
    for source in sources:
        for x in read(source, about):
            logits = session.run(None, {spec.name: np.repeat(x[None], batch, axis=0)})[0][0]
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            best = [f"{about['classes'][i]} {100 * p[i]:.1f} %" for i in np.argsort(-p)[:3]]
            print(f"{source[:40]}: {', '.join(best)}")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 2 else sys.exit(__doc__)
