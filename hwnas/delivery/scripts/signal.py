"""Classes of signals: python predict.py front/NAME.onnx SIGNAL.npy ...

Needs numpy and onnxruntime only. A file is one signal (channels, length), or text with a row for
each step and a column for each channel.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime as ort


def read(path: str, about: dict[str, Any]) -> Any:
    """The one signal of a file as the model takes it, (1, channels, length)."""
    columns = None if path.endswith(".npy") else np.loadtxt(path, delimiter=",", ndmin=2)
    x = np.load(path) if columns is None else columns.T
    x = x.reshape(about["example"]["shape"])
    if about["input"] != "raw":
        mean, std = (np.array(about["preprocessing"][key])[:, None] for key in ("mean", "std"))
        x = (x - mean) / std
    return x[None].astype(np.float32)


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
