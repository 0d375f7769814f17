"""ONNX Runtime, any of its execution providers: loading and running models.

What its profile says about the kernels is read in `onnx_profile.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from profilers.errors import ModelError
from profilers.onnx_models import OnnxModel
from profilers.precision import Converter
from profilers.runtimes.base import Feed, KernelTrace, Outputs, ShownGraph
from profilers.runtimes.catalog import runtime_spec
from profilers.runtimes.onnx_profile import as_one_kernel, read_trace
from profilers.targets import Target

_CPU = "CPUExecutionProvider"
_OPENVINO = "OpenVINOExecutionProvider"
# Providers with a memory of their own, by the name that ONNX Runtime gives it.
_DEVICE_MEMORY = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "MIGraphXExecutionProvider": "cuda",  # AMD's GPUs go by this name as well
    "CANNExecutionProvider": "cann",
    "DmlExecutionProvider": "dml",
}
_SYMMETRIC_INT8 = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


class OnnxRuntime:
    """Runs ONNX models with the execution provider that the target names.

    Nodes that the provider does not take run on the CPU, as they would for a user; their kernels
    have an attribute that says so.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._provider = runtime_spec(target.runtime).provider or _CPU
        self._convert = Converter(target.precision, symmetric=self._provider in _SYMMETRIC_INT8)

    def session(self, model: OnnxModel, feed: Feed) -> OnnxSession:
        """Load `model` with the runtime's defaults."""
        converted = self._convert(model)
        session = self._load(converted, ort.SessionOptions())
        self._refuse_hidden_failure(session, converted, feed)
        return OnnxSession(session, self._running(model), feed, self._memory)

    def profiled_session(self, model: OnnxModel, feed: Feed) -> ProfiledOnnxSession:
        """Load `model` with profiling on and memory patterns off.

        A memory pattern is one block for all tensors, planned after the first run; without it the
        arena is asked for every tensor, and its peak is that of the tensors in use.
        """
        folder = tempfile.TemporaryDirectory(prefix="hwnas-")
        try:
            converted = self._convert(model)
            try:
                session = self._load(converted, _profiling(Path(folder.name), keep_graph=True))
            except ModelError as error:
                # A provider that compiles parts of the model: ONNX Runtime cannot save the rest.
                if "compiled nodes" not in str(error):
                    raise
                session = self._load(converted, _profiling(Path(folder.name), keep_graph=False))
            self._refuse_hidden_failure(session, converted, feed)
            return ProfiledOnnxSession(
                session, self._running(model), feed, self._memory, self._provider, converted, folder
            )
        except BaseException:
            folder.cleanup()
            raise

    def outputs(self, model: OnnxModel, feeds: Iterable[Feed]) -> list[Outputs]:
        """What `model` computes of each of the inputs."""
        converted = self._convert(model)
        session = self._load(converted, ort.SessionOptions())
        try:
            return [tuple(session.run(None, dict(feed))) for feed in feeds]
        except Exception as error:  # the runtime's exceptions share no other base
            raise ModelError(f"{self._running(model)}: {_first_line(error)}") from None

    @property
    def _memory(self) -> str | None:
        return _DEVICE_MEMORY.get(self._provider)

    def _load(self, model: OnnxModel, options: ort.SessionOptions) -> ort.InferenceSession:
        options.intra_op_num_threads = self.target.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what matters is raised
        for name, size in model.dimensions.items():
            options.add_free_dimension_override_by_name(name, size)
        own_options = {}
        if self._provider == _OPENVINO:
            own_options["num_of_threads"] = str(self.target.threads)  # it has threads of its own
        providers = [(self._provider, own_options)]
        if self._provider != _CPU:
            providers.append((_CPU, {}))
        try:
            return ort.InferenceSession(
                model.proto.SerializeToString(), options, providers=providers
            )
        except Exception as error:  # the runtime's exceptions share no other base
            raise ModelError(
                f"ONNX Runtime {self.target.version} cannot load {model.name}: {_first_line(error)}"
            ) from None

    def _refuse_hidden_failure(
        self, session: ort.InferenceSession, model: OnnxModel, feed: Feed
    ) -> None:
        """Run models of unknown shapes on the CPU first, where OpenVINO would hide a failure.

        With one thread it goes on with empty tensors behind a node that has failed.
        """
        shapes = [output.shape or () for output in session.get_outputs()]
        if self._provider == _OPENVINO and any(type(n) is not int for s in shapes for n in s):
            plain = ort.InferenceSession(model.proto.SerializeToString(), providers=[_CPU])
            OnnxSession(plain, self._running(model), feed)

    def _running(self, model: OnnxModel) -> str:
        return f"ONNX Runtime {self.target.version} cannot run {model.name}"


def _profiling(folder: Path, *, keep_graph: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.enable_mem_pattern = False
    if keep_graph:
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        # Only the graph is read: keep the weights, often hundreds of megabytes, out of it.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "weights.bin"
        )
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
        )
    return options


class OnnxSession:
    """A session of ONNX Runtime and its inputs.

    Args:
        session: The loaded model.
        failure: Begins the message if it cannot run.
        feed: Its inputs.
        memory: Name of the device's memory, where inputs and outputs stay, so that copying them is
            no part of a run; None: the device computes in the CPU's memory.
    """

    def __init__(
        self, session: ort.InferenceSession, failure: str, feed: Feed, memory: str | None = None
    ) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        self._feed = dict(feed)
        self._binding: Any = None
        try:
            if memory is not None:
                self._binding = self._bind(memory)
            self.run()
        except Exception as error:  # the runtime's exceptions share no other base
            raise ModelError(f"{failure}: {_first_line(error)}") from None

    def _bind(self, memory: str) -> Any:
        binding = self._session.io_binding()
        for name, array in self._feed.items():
            binding.bind_cpu_input(name, array)  # copied now, to where the model reads it
        for name in self._names:
            binding.bind_output(name, memory)
        binding.synchronize_inputs()
        return binding

    def run(self) -> None:
        """One inference."""
        if self._binding is None:
            self._session.run(self._names, self._feed)
        else:
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()

    def close(self) -> None:
        """Nothing to free: the session goes with its last reference."""


class ProfiledOnnxSession(OnnxSession):
    """A session whose profile and optimized graph are written to a folder of its own."""

    def __init__(
        self,
        session: ort.InferenceSession,
        failure: str,
        feed: Feed,
        memory: str | None,
        provider: str,
        model: OnnxModel,
        folder: tempfile.TemporaryDirectory[str],
    ) -> None:
        super().__init__(session, failure, feed, memory)
        self._is_asynchronous = memory is not None
        self._provider = provider
        self._model = model
        self._folder = folder

    def trace(self) -> KernelTrace:
        """Read the profile of all runs; there is none after it."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        path = Path(self._folder.name) / "optimized.onnx"
        has_graph = path.exists()
        if has_graph:
            graph = onnx.load_model(path, load_external_data=False).graph
        else:
            graph = self._model.proto.graph
        trace = read_trace(events, graph, provider=self._provider, digest=self._model.digest)
        if self._is_asynchronous:
            # The device runs behind the CPU: a node's event ends when the node has been started.
            return as_one_kernel(trace, events, self._model)
        if not has_graph:
            return trace
        return replace(trace, graph=lambda: ShownGraph(onnx.load_model(path)))

    def close(self) -> None:
        """Remove the profile and the graph."""
        self._folder.cleanup()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
