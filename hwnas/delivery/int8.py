"""INT8 twins: static quantization by ONNX Runtime, calibrated on examples of the training split.

Weights are quantized symmetrically with a scale for each output channel, activations to unsigned
bytes; pairs of QuantizeLinear and DequantizeLinear mark what the runtime is to compute in INT8.
Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference, CVPR 2018. https://arxiv.org/abs/1712.05877
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwnas.data import DataSet
from hwnas.evaluation import evaluate_onnx, inputs_for
from hwnas.export import run_onnx
from profilers.errors import ModelError
from profilers.onnx_models import MAX_IR_VERSION, OnnxModel, load_model, node_attributes
from profilers.precision import quiet
from profilers.runtimes.catalog import runtime_spec
from profilers.targets import Target

N_CALIBRATION = 256  # examples
N_AT_ONCE = 32  # of them; all their activations are in memory
N_SENSITIVITY = 64  # examples that say which layers suffer most
SENSITIVE_SHARE = 0.25  # of the layers
MIN_WEIGHTS = 4000  # of a large layer
ROUNDING = 1e-9  # of differences of shares
GOOD_DROP = 0.005  # on validation; a scheme that drops more is the last resort
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Scheme:
    """One way to quantize a network.

    Attributes:
        calibration: How the range of an activation is found: `minmax`, `entropy` (least
            Kullback-Leibler divergence) or `percentile` (99.999).
        kept: Layers that stay in fp32: none, the `first`, the first and last (`ends`), those that
            change the logits most (`sensitive`), or all (and all operators between them) but large
            dense ones (`light`).
        weight_bits: 8, or 7: CPUs without VNNI add pairs of products in 16 bits, which 8 overflow.
    """

    calibration: str = "minmax"
    kept: str = ""
    weight_bits: int = 8

    def __str__(self) -> str:
        parts = [f"{self.calibration} ranges"]
        parts += [f"{self.weight_bits}-bit weights"] if self.weight_bits != 8 else []
        parts += [f"{_KEPT[self.kept]} in fp32"] if self.kept else []
        return ", ".join(parts)


_KEPT = {
    "first": "first layer",
    "ends": "first and last layer",
    "sensitive": "sensitive layers",
    "light": "all but large dense layers",
}
# INT8 gains little where there are few channels, as in the first layer, and in depthwise
# convolutions; what it costs to convert between the two may be more.
SCHEMES = (Scheme(), Scheme(kept="first"), Scheme(kept="light"))
# Tried in turn where those cost too much accuracy.
RESORTS = (
    Scheme("entropy", "first"),
    Scheme("percentile", "first"),
    Scheme("minmax", "ends"),
    Scheme("minmax", "ends", weight_bits=7),
    Scheme("minmax", "sensitive"),
)


@dataclass(frozen=True)
class Twin:
    """A quantized network, and what it is worth on the validation split."""

    scheme: Scheme
    proto: onnx.ModelProto
    val_accuracy: float


def why_no_int8(target: Target) -> str | None:
    """None where INT8 models are of use on `target`; else the reason, for people."""
    precisions = runtime_spec(target.runtime).precisions
    if "int8" in precisions:
        return None
    return f"{target.runtime} computes in {' and '.join(precisions)} only"


def int8_twins(
    path: Path, data: DataSet, *, val_accuracy: float, symmetric: bool = False
) -> list[Twin]:
    """INT8 networks that keep the accuracy of the one at `path`; else the most accurate one.

    Calibration sees the training split only; the validation split decides between schemes.

    Args:
        path: An fp32 model of one input.
        data: That it was trained on.
        val_accuracy: Of the fp32 model.
        symmetric: Quantize activations to signed numbers with 0 as 0, as GPUs need it.

    Returns:
        One for each scheme that keeps the accuracy; which of them is fastest, the target says.

    Raises:
        ModelError: It cannot be quantized.
    """
    model = load_model(path, batch=1)
    rng = np.random.default_rng(0)
    some = rng.permutation(len(data.train))[:N_CALIBRATION]
    examples = inputs_for(model, data, data.train.take(some).inputs).numpy()
    found: list[Twin] = []
    failure: ModelError | None = None
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        quantizer = _Quantizer(path, model, examples, Path(folder), symmetric=symmetric)
        scratch = Path(folder) / "twin.onnx"
        for scheme in SCHEMES + RESORTS:
            if scheme in RESORTS and _good(found, val_accuracy):
                break
            if scheme.kept == "light" and not quantizer.has_large_layers:
                continue
            if scheme in RESORTS and not found:
                break
            try:
                proto = quantizer.quantize(scheme)
                proto.metadata_props.extend(model.proto.metadata_props)
                scratch.write_bytes(proto.SerializeToString())
                scores = evaluate_onnx(scratch, data, split="validation")
            except ModelError as error:  # another scheme may do, or run
                failure = failure or error
                continue
            found.append(Twin(scheme, proto, scores.accuracy))
    if failure is not None and not found:
        raise failure
    return _good(found, val_accuracy) or [max(found, key=lambda twin: twin.val_accuracy)]


def _good(twins: Sequence[Twin], val_accuracy: float) -> list[Twin]:
    return [t for t in twins if val_accuracy - t.val_accuracy <= GOOD_DROP + ROUNDING]


class _Quantizer:
    """Quantizes one model by several schemes; what they share is computed once."""

    def __init__(
        self,
        path: Path,
        model: OnnxModel,
        examples: NDArray[np.generic],
        folder: Path,
        *,
        symmetric: bool,
    ) -> None:
        self._symmetric = symmetric
        self._name = model.name
        self._input = model.inputs[0]
        self._examples = examples
        self._folder = folder
        self._prepared = folder / "prepared.onnx"
        self._ranges: dict[str, Any] = {}
        with self._tools() as quantization:
            # Folds constants and infers shapes: a tensor without a shape is not quantized.
            quantization.quant_pre_process(str(path), str(self._prepared), skip_symbolic_shape=True)
            self._proto = onnx.load(self._prepared)
        nodes = self._proto.graph.node
        layers = [node.name for node in nodes if node.op_type in LAYERS]
        large = self._large_layers().difference(layers[:1])
        self._kept = {
            "": [],
            "first": layers[:1],
            "ends": [*layers[:1], *layers[-1:]],
            "light": [node.name for node in nodes if node.name not in large],
        }
        self._layers = layers
        self.has_large_layers = bool(large)

    def quantize(self, scheme: Scheme) -> onnx.ModelProto:
        """The model, quantized by `scheme`.

        Raises:
            ModelError: The quantizer cannot do it.
        """
        if scheme.kept not in self._kept:
            self._kept[scheme.kept] = self._most_sensitive()
        return self._quantized(
            scheme.calibration, scheme.weight_bits, exclude=self._kept[scheme.kept]
        )

    def _quantized(
        self,
        calibration: str,
        weight_bits: int = 8,
        *,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> onnx.ModelProto:
        with self._tools() as quantization:
            proto = onnx.ModelProto()
            proto.CopyFrom(self._proto)
            ranges = self._calibrated(quantization, calibration)
            signed, unsigned = quantization.QuantType.QInt8, quantization.QuantType.QUInt8
            quantizer = quantization.QDQQuantizer(
                proto,
                per_channel=True,
                reduce_range=weight_bits == 7,
                weight_qType=signed,
                activation_qType=signed if self._symmetric else unsigned,
                tensors_range=ranges,
                nodes_to_quantize=list(only),
                nodes_to_exclude=[*exclude, *self._without_range(ranges)],
                op_types_to_quantize=_operators(),
                extra_options={"ActivationSymmetric": self._symmetric},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            quantized: onnx.ModelProto = quantizer.model.model
        quantized.ir_version = min(quantized.ir_version, MAX_IR_VERSION)
        del quantized.metadata_props[:]
        return quantized

    def _calibrated(self, quantization: Any, calibration: str) -> Any:
        """The range of every tensor over the examples."""
        if calibration not in self._ranges:
            method = {
                "minmax": quantization.CalibrationMethod.MinMax,
                "entropy": quantization.CalibrationMethod.Entropy,
                "percentile": quantization.CalibrationMethod.Percentile,
            }[calibration]
            calibrator = quantization.create_calibrator(
                self._prepared,
                _operators(),
                augmented_model_path=str(self._folder / "augmented.onnx"),
                calibrate_method=method,
            )
            batch = self._input.shape[0]
            for start in range(0, len(self._examples), max(N_AT_ONCE, batch)):
                part = self._examples[start : start + max(N_AT_ONCE, batch)]
                calibrator.collect_data(_Feeds(self._input.name, part, batch))
            self._ranges[calibration] = calibrator.compute_data()
        return self._ranges[calibration]

    def _without_range(self, ranges: Any) -> list[str]:
        """Operators that meet infinities, such as the mask of causal attention: no byte is one."""
        endless = {
            name
            for name, data in ranges.data.items()
            if not all(np.isfinite(end).all() for end in data.range_value)
        }
        for tensor in self._proto.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                endless.add(tensor.name)
        return [
            node.name
            for node in self._proto.graph.node
            if not endless.isdisjoint((*node.input, *node.output))
        ]

    def _large_layers(self) -> set[str]:
        """Layers with many weights, each of which meets all channels."""
        n_weights = {t.name: math.prod(t.dims) for t in self._proto.graph.initializer}
        return {
            node.name
            for node in self._proto.graph.node
            if node.op_type in LAYERS
            and dict(node_attributes(node)).get("group", 1) == 1
            and max(n_weights.get(name, 0) for name in node.input) >= MIN_WEIGHTS
        }

    def _most_sensitive(self) -> list[str]:
        """The quarter of the layers that, each quantized alone, change the logits most."""
        some = self._examples[:N_SENSITIVITY]
        exact = run_onnx(self._prepared, some)
        changes = []
        for layer in self._layers:
            alone = self._folder / "alone.onnx"
            alone.write_bytes(self._quantized("minmax", only=[layer]).SerializeToString())
            changes.append(float(np.square(run_onnx(alone, some) - exact).mean()))
        order = np.argsort(changes)[::-1][: max(1, round(SENSITIVE_SHARE * len(changes)))]
        return [self._layers[i] for i in order]

    @contextlib.contextmanager
    def _tools(self) -> Iterator[Any]:
        """ONNX Runtime's quantizer, kept from printing; what it raises becomes one error."""
        from onnxruntime import quantization

        try:
            with quiet(), contextlib.redirect_stdout(io.StringIO()):
                yield quantization
        except ModelError:
            raise
        except Exception as error:  # the tools share no base class for what they cannot handle
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(f"{self._name} cannot be quantized: {reason}") from None


class _Feeds:
    """Examples as the calibration asks for them: one batch at a time, then None."""

    def __init__(self, name: str, examples: NDArray[np.generic], batch: int) -> None:
        n = len(examples)
        # A batch that is not full repeats examples: zeros would be in the ranges.
        rows = [np.arange(start, start + batch) % n for start in range(0, n, batch)]
        self._feeds = iter([{name: examples[row]} for row in rows])

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """The next batch."""
        return next(self._feeds, None)


def _operators() -> list[str]:
    """All that the quantizer knows."""
    from onnxruntime.quantization import registry

    return sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
