"""Classes of rows of numbers: python predict.py front/NAME.onnx ROWS.csv 5.1,3.5,1.4,0.2 ...

Needs numpy and onnxruntime only. Rows hold the features in the order of training, without the
class; a header is skipped.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime as ort


def read(source: str, about: dict[str, Any]) -> Any:
    """Rows of a file, or the one that is written out, as the model takes them, (n, features)."""
    rows = np.genfromtxt(source if source.endswith(".csv") else [source], delimiter=",", ndmin=2)
    x = rows[~np.isnan(rows).all(axis=1)]
    if about["input"] != "raw":
        x = (x - np.array(about["preprocessing"]["mean"])) / np.array(about["preprocessing"]["std"])
    return x.astype(np.float32)


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
