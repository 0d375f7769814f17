"""The script `predict.py` of a run folder: a copy of the one for its kind of data."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from hwnas.data.kinds import Kind
from hwnas.errors import RunFolderError

SCRIPT = "predict.py"
# What is given to it, behind the model.
USES: dict[Kind, str] = {
    "image": "IMAGE.png",
    "signal": "SIGNAL.npy",
    "table": "VALUE,VALUE,...",
    "tokens": '"a text"',
}


def write_predict_script(kind: Kind, folder: Path) -> Path:
    """Write a script that runs delivered models; it needs numpy and ONNX Runtime only.

    Raises:
        RunFolderError: It cannot be written.
    """
    source = resources.files("hwnas.delivery.scripts") / f"{kind}.py"
    path = folder / SCRIPT
    try:
        path.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
    return path
