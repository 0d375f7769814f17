"""Making the forms of one network: files under `forms/`, kept while the network is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from hwnas.data import DataSet
from hwnas.delivery.forms import DYNAMIC_BATCH, FP16, INT8, RAW
from hwnas.delivery.half import fp16_twin
from hwnas.delivery.int8 import Twin, int8_twins
from hwnas.delivery.metadata import OF_FP32, graph_digest, read_about, save_about
from hwnas.delivery.raw_input import with_raw_input
from hwnas.errors import ExportMismatchError
from hwnas.evaluation import INPUT_KEY, PREPARED, inputs_for, preprocessing_of
from hwnas.evaluation import RAW as RAW_INPUT
from hwnas.export import PARITY_ATOL, network_to_onnx, run_onnx
from hwnas.front.verify import N_PARITY_EXAMPLES, Trained
from profilers.errors import ModelError
from profilers.onnx_models import load_model

FORMS = "forms"
PARENT_KEY = "parent_digest"


class Maker:
    """Makes the forms of one network.

    Args:
        trained: The network.
        parent: Its fp32 model.
        data: That it was trained on.
        folder: The run folder.

    Attributes:
        parent: As given.
        logits: Of the fp32 model for the first examples of the validation split.
    """

    def __init__(self, trained: Trained, parent: Path, data: DataSet, folder: Path) -> None:
        self.parent = parent
        self._trained = trained
        self._data = data
        self._folder = folder
        self._model = load_model(parent, batch=1)
        self._digest = graph_digest(onnx.load(parent))
        some = np.arange(min(N_PARITY_EXAMPLES, len(data.validation)))
        self._examples = data.validation.take(some).inputs
        self.logits = run_onnx(parent, inputs_for(self._model, data, self._examples).numpy())

    def path(self, form: str) -> Path:
        """Where the form lies."""
        return self._folder / FORMS / f"{self._trained.name}.{form}.onnx"

    def int8(
        self, val_accuracy: float, fastest: Callable[[list[Twin]], Twin], *, symmetric: bool
    ) -> Path:
        """The INT8 form; `fastest` says which of several to keep.

        Raises:
            ModelError: It cannot be quantized.
        """

        def make() -> tuple[onnx.ModelProto, str]:
            twins = int8_twins(
                self.parent, self._data, val_accuracy=val_accuracy, symmetric=symmetric
            )
            twin = fastest(twins) if len(twins) > 1 else twins[0]
            return twin.proto, str(twin.scheme)

        return self._made(INT8, make)

    def fp16(self) -> Path:
        """The fp16 form.

        Raises:
            ModelError: It cannot be converted.
        """
        return self._made(FP16, lambda: (fp16_twin(self.parent), "16-bit weights and activations"))

    def dynamic_batch(self) -> Path:
        """The form for any number of examples at once.

        Raises:
            ExportMismatchError: It computes something else for one, a few or many examples.
        """

        def make() -> tuple[onnx.ModelProto, str]:
            architecture = self._trained.architecture
            proto = network_to_onnx(
                self._trained.network,
                architecture.input_shape,
                batch=None,
                input_type=architecture.input_type,
            )
            return proto, "any number of examples at once"

        return self._made(DYNAMIC_BATCH, make)

    def raw(self, base: Path | None = None, form: str = "") -> Path:
        """The form at `base`, or the fp32 one, with the preprocessing in front.

        Raises:
            ExportMismatchError: It computes something else.
            ValueError: The data need no preprocessing.
        """
        data = self._data

        def make() -> tuple[onnx.ModelProto, str]:
            proto = with_raw_input(
                onnx.load(base or self.parent),
                preprocessing_of(self._model, data),
                data.input_shape,
                data.train.inputs.dtype,
            )
            parts = [read_about(base)["how"]] if base else []
            return proto, ", ".join([*parts, "preprocessing included"])

        return self._made(f"{form}.{RAW}" if form else RAW, make)

    def difference(self, path: Path) -> float:
        """Largest difference of a form's logits from the fp32 one's; NaN: of another shape."""
        inputs = inputs_for(load_model(path, batch=1), self._data, self._examples).numpy()
        worst = 0.0
        for n in (len(inputs), 1, 3):  # one run of a form for any batch
            logits = run_onnx(path, inputs[:n])
            expected = self.logits[:n]
            if logits.shape != expected.shape:
                return float("nan")
            worst = np.maximum(worst, np.abs(logits - expected).max())  # NaN if one is
        return float(worst)

    def _made(self, form: str, make: Callable[[], tuple[onnx.ModelProto, str]]) -> Path:
        """The form's file, from before or made now."""
        path = self.path(form)
        if self._is_there(path):
            return path
        proto, how = make()
        of_parent = read_about(self.parent)
        about = {key: value for key, value in of_parent.items() if key not in OF_FP32} | {
            "form": form,
            "how": how,
            PARENT_KEY: self._digest,
            INPUT_KEY: RAW_INPUT if form.endswith(RAW) else PREPARED,
        }
        part = path.with_name(f"{path.name}.unchecked")
        save_about(proto, part, about)
        try:
            worst = self.difference(part)
            if not form.startswith((INT8, FP16)) and not worst <= PARITY_ATOL:
                raise ExportMismatchError(
                    f"outputs differ from the fp32 form's by up to {worst:.3g} on "
                    f"{len(self._examples)} real inputs, more than {PARITY_ATOL}"
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def _is_there(self, path: Path) -> bool:
        try:
            return path.exists() and read_about(path).get(PARENT_KEY) == self._digest
        except ModelError:  # half a file
            return False
