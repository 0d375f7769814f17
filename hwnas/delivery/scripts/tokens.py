"""Classes of texts: python predict.py front/NAME.onnx "a text" FILE.txt ...

Needs numpy and onnxruntime only. Of token ids that stand for no words: FILE.npy of them.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


def read(source: str, about: dict[str, Any]) -> Any:
    """Token ids of one text as the model takes them, (1, length)."""
    ids = np.zeros(about["example"]["shape"], np.int64)
    if source.endswith(".npy"):
        ids[:] = np.load(source)
    else:
        text = Path(source).read_text(encoding="utf-8") if source.endswith(".txt") else source
        number = {word: i for i, word in enumerate(about["preprocessing"]["words"], start=2)}
        words = re.findall(r"\w+|[^\w\s]", text.lower())[: len(ids)]
        ids[: len(words)] = [number.get(word, 1) for word in words]
    return ids[None]


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
