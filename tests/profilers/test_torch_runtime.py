import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from profilers.errors import ModelError, TargetError
from profilers.kernels import Tensor
from profilers.onnx_models import make_model
from profilers.onnx_torch import OnnxNode
from profilers.runtimes import torch_common, torch_cpu, torch_cuda
from profilers.runtimes.torch_cpu import ProfiledEagerSession, TorchCpu
from profilers.runtimes.torch_cuda import CudaSession, TorchCuda, captured, l2_flush
from profilers.runtimes.torch_trace import (
    SCOPE,
    CompiledKernel,
    compiled_kernels,
    peak_bytes,
    record,
    scope_durations_us,
)
from profilers.targets import Target

FLOAT = TensorProto.FLOAT
RECORDED = Path(__file__).parent / "recorded"


def recorded(name):
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))["traceEvents"]


def make_torch_target(runtime="torch-cpu", precision="fp32", threads=1):
    return Target(runtime, "2.0", precision, threads, 1, "0123456789ab", "Toy device")


@pytest.fixture
def chain(make_proto):
    """Three ReLUs in a row on 256 floats."""
    nodes = [helper.make_node("Relu", [a], [b], name=f"relu {b}") for a, b in ("xa", "ab", "by")]
    ends = ({"x": (FLOAT, (1, 256))}, {"y": (FLOAT, (1, 256))})
    return make_model(make_proto(nodes, *ends), name="chain")


@pytest.fixture
def feed(chain):
    return chain.random_inputs(np.random.default_rng(0))


# --- On the CPU -----------------------------------------------------------------------------------


def test_every_run_has_a_row_and_the_first_was_made_when_loading(chain, feed):
    session = TorchCpu(make_torch_target()).profiled_session(chain, feed)
    assert session.trace().duration_us.shape == (1, 3)
    session.run()
    trace = session.trace()
    assert trace.duration_us.shape == (2, 3)
    assert (trace.duration_us > 0).all()
    assert [node.name for node in trace.nodes] == ["relu a", "relu b", "relu y"]


def test_a_model_without_nodes_has_runs_of_no_kernels(make_proto):
    x = (FLOAT, (1, 4))
    constant = np.ones((1, 4), np.float32)
    model = make_model(make_proto([], {"x": x}, {"y": x}, {"y": constant}), name="constant")
    feed = model.random_inputs(np.random.default_rng(0))
    session = TorchCpu(make_torch_target()).profiled_session(model, feed)
    session.run()
    assert session.trace().duration_us.shape == (2, 0)


def test_a_node_is_timed_from_its_call_to_its_return(chain, feed):
    loaded = torch_common.load(chain, feed, make_torch_target(), "cpu")
    ticks = iter([0, 5_000, 6_000, 8_000, 9_000, 9_500])
    session = ProfiledEagerSession(loaded, 1, clock_ns=lambda: next(ticks))
    assert session.trace().duration_us.tolist() == [[5.0, 2.0, 0.5]]


def test_the_peak_is_what_the_widest_moment_of_a_run_holds(chain, feed):
    # A ReLU's input and output, of 1024 bytes each; the first one's input is the model's.
    trace = TorchCpu(make_torch_target()).profiled_session(chain, feed).trace()
    assert trace.peak_memory_bytes == 2048


def test_threads_are_those_of_the_target_in_a_run_and_as_before_after_it(chain, feed, monkeypatch):
    before = torch.get_num_threads()
    seen = []
    forward = OnnxNode.forward

    def spy(self, *inputs):
        seen.append(torch.get_num_threads())
        return forward(self, *inputs)

    monkeypatch.setattr(OnnxNode, "forward", spy)
    session = TorchCpu(make_torch_target(threads=before + 1)).session(chain, feed)
    assert session.run() is None
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_bf16_kernels_are_told_from_fp32_kernels(chain, feed):
    session = TorchCpu(make_torch_target(precision="bf16")).profiled_session(chain, feed)
    assert session.trace().nodes[0].kernel.inputs == (Tensor("bfloat16", (1, 256)),)
    assert session.trace().peak_memory_bytes == 1024


def test_a_closed_session_holds_no_model_and_cannot_run(chain, feed):
    session = TorchCpu(make_torch_target()).session(chain, feed)
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.run()


def test_a_model_that_fails_in_its_first_run_is_one_clear_error(make_proto, feed):
    proto = make_proto(
        [helper.make_node("Gather", ["w", "i"], ["y"])],
        {"i": (TensorProto.INT64, (2,))},
        {"y": (FLOAT, (2,))},
        {"w": np.ones(1, dtype=np.float32)},
    )
    model = make_model(proto, name="out-of-bounds")
    runtime = TorchCpu(make_torch_target())
    for load in (runtime.session, runtime.profiled_session):
        with pytest.raises(ModelError, match=r"PyTorch 2.0 cannot run out-of-bounds: index 7"):
            load(model, {"i": np.array([0, 7])})


def test_the_profiler_is_silent_and_tells_of_the_operators(capfd):
    x = torch.ones(2, 3)
    events = record(lambda: x.relu(), shapes=True, memory=True)
    assert capfd.readouterr().err == ""
    (kernel,) = compiled_kernels(events, cuda=False)
    assert (kernel.name, kernel.inputs) == ("relu", (Tensor("float", (2, 3)),))
    assert kernel.duration_us > 0
    assert peak_bytes(events) == 24
    assert peak_bytes([]) is None


# --- Compiled -------------------------------------------------------------------------------------


def test_compiled_kernels_are_a_chain_from_the_inputs_to_the_outputs(chain, feed):
    loaded = torch_common.load(chain, feed, make_torch_target(), "cpu")
    kernels = [
        CompiledKernel("cpp_fused_relu", (), (), 2.0),
        CompiledKernel("addmm", (Tensor("float", (1, 4)),), (("arguments", "1 1"),), 3.0),
        CompiledKernel("cpp_fused_relu", (), (), 1.0),
    ]
    nodes = torch_common.compiled_nodes(loaded, [torch.ones(1, 256)], kernels)
    assert [node.name for node in nodes] == ["0:cpp_fused_relu", "1:addmm", "2:cpp_fused_relu"]
    assert nodes[0].reads == ("x",) and nodes[-1].writes == ("y",)
    assert nodes[1].reads == nodes[0].writes and nodes[2].reads == nodes[1].writes
    assert nodes[0].kernel.inputs == nodes[-1].kernel.outputs == (Tensor("float", (1, 256)),)
    # Of the same name, but no shape is told: they must not pass for one kernel.
    assert nodes[0].kernel.key != nodes[2].kernel.key
    assert nodes[1].kernel.attributes == (("arguments", "1 1"),)


def test_a_compiled_model_without_a_trace_is_one_kernel(chain, feed):
    loaded = torch_common.load(chain, feed, make_torch_target(), "cpu")
    recording = torch_common.CompiledRecording(loaded, [torch.ones(1, 256)])
    recording.add((), 7.0)
    trace = recording.trace(None)
    assert [node.kernel.kind for node in trace.nodes] == ["inductor:graph"]
    assert trace.duration_us.tolist() == [[7.0]]
    with pytest.raises(ModelError, match="2 compiled kernels are not the 1 of the runs before"):
        recording.add((CompiledKernel("a", (), (), 1.0),) * 2, 7.0)


def test_a_model_that_dynamo_cannot_take_whole_is_compiled_in_parts(chain, feed, monkeypatch):
    asked = []

    def compile_(module, *, fullgraph=False, **settings):
        asked.append(fullgraph)
        if fullgraph:
            return lambda *inputs: (_ for _ in ()).throw(torch._dynamo.exc.Unsupported("no"))
        return module

    monkeypatch.setattr(torch, "compile", compile_)
    loaded = torch_common.load(chain, feed, make_torch_target(), "cpu")
    (y,) = torch_common.compiled(loaded)()
    assert asked == [True, False]
    assert y.tolist() == np.maximum(feed["x"], 0).tolist()


@pytest.mark.slow
def test_inductor_s_kernels_on_the_cpu_are_in_the_trace(chain, feed):
    session = TorchCpu(make_torch_target("torch-cpu-compile")).profiled_session(chain, feed)
    session.run()
    trace = session.trace()
    assert [node.kernel.kind for node in trace.nodes] == ["inductor:cpp_fused_relu"]
    assert trace.duration_us.shape == (2, 1)


# --- Traces of a GPU ------------------------------------------------------------------------------


def test_a_node_s_time_is_that_of_the_kernels_that_its_scope_launched():
    # Node 0: 2.25 + 18.5 µs, one launched by the driver's call. Node 1: 1.5. Node 2: nothing. The
    # flush before them and the kernel of another thread are nobody's.
    durations_us = scope_durations_us(recorded("kineto_cuda.json"), 3)
    assert durations_us is not None
    assert durations_us.tolist() == [20.75, 1.5, 0.0]


def test_a_trace_without_a_gpu_says_so():
    on_cpu = [e for e in recorded("kineto_cuda.json") if e.get("cat") != "kernel"]
    on_cpu = [e for e in on_cpu if e.get("cat") != "gpu_memset"]
    assert scope_durations_us(on_cpu, 3) is None


def test_compiled_kernels_on_a_gpu_have_the_time_of_all_that_they_launched():
    relu, addmm, unknown = compiled_kernels(recorded("kineto_cuda_compiled.json"), cuda=True)
    assert (relu.name, relu.duration_us) == ("triton_poi_fused_relu", 3.0)
    assert relu.inputs == (Tensor("float16", (1, 16, 6, 6)), Tensor("float16", (16,)))
    assert (addmm.name, addmm.duration_us) == ("addmm", 6.0)  # a copy of 1 and a product of 5
    assert addmm.attributes == (("arguments", "1 1"),)
    # Launched by nothing that the trace names: under the GPU's own name, not dropped.
    assert (unknown.name, unknown.inputs, unknown.duration_us) == ("static_launch_kernel", (), 2.0)


# --- On a GPU that is not there -------------------------------------------------------------------


class FakeCuda:
    """A GPU whose clock moves only in `synchronize`; what is called of it is in `log`."""

    def __init__(self):
        self.now_ms = 0.0
        self.queue = []
        self.log = []
        self.capturing = None
        self.current = "main"
        self.allocated = 1000
        self.peak = 0

    def launch(self, name, ms):
        self.log.append(f"launch {name} on {self.current}")
        (self.queue if self.capturing is None else self.capturing).append((name, ms))

    def synchronize(self):
        self.log.append("synchronize")
        self.drain()

    def drain(self):
        for item, ms in self.queue:
            self.now_ms += ms
            if isinstance(item, FakeEvent):
                item.reached_ms = self.now_ms
        self.queue.clear()

    def Event(self, *, enable_timing):
        assert enable_timing
        return FakeEvent(self)

    def Stream(self):
        return SimpleNamespace(
            name="side", wait_stream=lambda other: self.log.append(f"side waits for {other.name}")
        )

    def current_stream(self):
        return SimpleNamespace(
            name=self.current,
            wait_stream=lambda other: self.log.append(f"main waits for {other.name}"),
        )

    @contextmanager
    def stream(self, stream):
        self.current = stream.name
        yield
        self.current = "main"

    def CUDAGraph(self):
        kernels = []
        return SimpleNamespace(
            kernels=kernels,
            replay=lambda: (self.log.append("replay"), self.queue.extend(kernels)),
        )

    @contextmanager
    def graph(self, graph):
        self.capturing = graph.kernels
        yield
        self.capturing = None

    def memory_allocated(self):
        return self.allocated

    def max_memory_allocated(self):
        return self.peak

    def reset_peak_memory_stats(self):
        self.peak = self.allocated

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=1000)


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda
        self.reached_ms = None

    def record(self):
        self.reached_ms = None
        self.cuda.log.append("record")
        self.cuda.queue.append((self, 0.0))

    def synchronize(self):
        self.cuda.synchronize()

    def elapsed_time(self, end):
        assert self.reached_ms is not None and end.reached_ms is not None, "read before it is there"
        return end.reached_ms - self.reached_ms


@pytest.fixture
def cuda():
    return FakeCuda()


@pytest.fixture
def launching(cuda, monkeypatch):
    """Every node launches a kernel of 0.5 ms, and takes 256 bytes at its widest."""
    forward = OnnxNode.forward

    def launch(self, *inputs):
        cuda.launch(self.node.name, 0.5)
        cuda.peak = max(cuda.peak, cuda.allocated + 256)
        return forward(self, *inputs)

    monkeypatch.setattr(OnnxNode, "forward", launch)
    return cuda


def test_a_run_is_timed_between_its_events_and_read_after_the_wait(cuda):
    session = CudaSession(
        lambda: cuda.launch("net", 2.0), cuda, before=lambda: cuda.launch("flush", 9.0)
    )
    assert session.run() == 2.0
    assert cuda.log == [
        "launch flush on main", "record", "launch net on main", "record", "synchronize",
    ]  # fmt: skip
    assert session.run() == 2.0


def test_a_graph_is_captured_once_after_warming_up_aside_and_then_replayed(cuda):
    replay = captured(lambda: cuda.launch("net", 2.0), cuda)
    warm_up = ["launch net on side"] * torch_cuda.N_WARMUP
    capture = "launch net on main"
    assert cuda.log == ["side waits for main", *warm_up, "main waits for side", capture]
    cuda.synchronize()
    cuda.log.clear()
    assert CudaSession(replay, cuda, before=lambda: None).run() == 2.0
    assert cuda.log == ["record", "replay", "record", "synchronize"]


def test_the_flush_writes_more_than_the_second_level_cache_holds(cuda):
    buffer = l2_flush(cuda, "cpu")()
    assert buffer.nbytes > 1000
    assert not buffer.any()


@pytest.mark.parametrize("runtime", ["torch-cuda", "torch-cuda-graph"])
def test_a_session_on_the_gpu_has_the_gpu_s_time(launching, chain, feed, runtime):
    target = make_torch_target(runtime)
    session = TorchCuda(target, cuda=launching, device="cpu").session(chain, feed)
    launching.log.clear()
    assert session.run() == 1.5
    assert ("replay" in launching.log) == (runtime == "torch-cuda-graph")


def test_with_flushing_every_run_begins_with_it(launching, chain, feed, monkeypatch):
    monkeypatch.setattr(
        torch_cuda, "l2_flush", lambda cuda, device: lambda: cuda.launch("flush", 9.0)
    )
    target = make_torch_target("torch-cuda")
    session = TorchCuda(target, flush_l2=True, cuda=launching, device="cpu").session(chain, feed)
    launching.log.clear()
    assert session.run() == 1.5  # the flush is before the first event
    assert launching.log[:2] == ["launch flush on main", "record"]


def fake_recorder(run, *, cuda, shapes=False):
    """A trace in which the kernel of node i takes i + 1 µs, however long the run took."""
    assert cuda
    run()
    events = []
    for i in range(3):
        on_cpu = {"ph": "X", "tid": 7, "ts": 10.0 * i, "dur": 8.0}
        events += [
            on_cpu | {"cat": "user_annotation", "name": f"{SCOPE}{i}"},
            on_cpu | {"cat": "cuda_runtime", "name": "launch", "args": {"correlation": i}},
            {"ph": "X", "tid": 0, "cat": "kernel", "name": "k", "ts": 50.0 + i, "dur": i + 1.0,
             "args": {"correlation": i}},
        ]  # fmt: skip
    return events


@pytest.mark.parametrize("runtime", ["torch-cuda", "torch-cuda-graph"])
def test_nodes_on_the_gpu_have_the_times_of_the_trace(launching, chain, feed, runtime):
    session = TorchCuda(
        make_torch_target(runtime), cuda=launching, device="cpu", recorder=fake_recorder
    ).profiled_session(chain, feed)
    assert session.run() == 1.5
    trace = session.trace()
    assert trace.duration_us.tolist() == [[1.0, 2.0, 3.0]] * 2
    assert [node.name for node in trace.nodes] == ["relu a", "relu b", "relu y"]
    assert trace.peak_memory_bytes == 256  # beyond the 1000 bytes held before the run


def test_without_a_gpu_in_the_trace_every_node_is_timed_by_events(launching, chain, feed):
    asked = []

    def blind_recorder(run, **options):
        asked.append(options)
        run()
        return []

    session = TorchCuda(
        make_torch_target("torch-cuda"), cuda=launching, device="cpu", recorder=blind_recorder
    ).profiled_session(chain, feed)
    session.run()
    assert session.trace().duration_us.tolist() == [[500.0] * 3] * 2
    assert len(asked) == 1  # it is not asked again


def test_a_compiled_model_on_the_gpu_has_the_kernels_of_its_trace(cuda, chain, feed, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **settings: module)

    def recorder(run, *, cuda, shapes):
        assert cuda and shapes
        run()
        return recorded("kineto_cuda_compiled.json")

    session = TorchCuda(
        make_torch_target("torch-cuda-compile", "fp16"), cuda=cuda, device="cpu", recorder=recorder
    ).profiled_session(chain, feed)
    session.run()
    trace = session.trace()
    assert [node.kernel.kind for node in trace.nodes] == [
        "inductor:triton_poi_fused_relu", "inductor:addmm", "inductor:static_launch_kernel",
    ]  # fmt: skip
    assert trace.duration_us.tolist() == [[3.0, 6.0, 2.0]] * 2
    assert trace.nodes[0].kernel.inputs[0] == Tensor("float16", (1, 256))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_torch_without_cuda_is_a_clear_error():
    with pytest.raises(TargetError, match="torch-cuda-graph.* needs a PyTorch with CUDA"):
        TorchCuda(make_torch_target("torch-cuda-graph"))


def test_sessions_of_torch_modules_are_what_the_catalog_names():
    from profilers.runtimes.catalog import RUNTIMES

    modules = {"cpu": torch_cpu, "cuda": torch_cuda}
    for name, spec in RUNTIMES.items():
        if name.startswith("torch-"):
            assert hasattr(modules[name.split("-")[1]], spec.factory.split(":")[1])
