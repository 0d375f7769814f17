import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from profilers.errors import ModelError, TargetError
from profilers.isolation import IsolatedProfiler
from profilers.onnx_models import make_model
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.targets import make_target

HOOK = """
import faulthandler, os, sys, time
from profilers.errors import ModelError
from profilers.profiler import Profiler

DISASTERS = {
    "segfault": faulthandler._sigsegv,
    "abort": lambda: (os.write(2, b"terminate called: bad tensor\\n"), os.abort()),
    "exit": lambda: os._exit(7),
    "killed": lambda: os.kill(os.getpid(), 9),
    "slow": lambda: time.sleep(1),
    "hang": lambda: time.sleep(60),
    "interrupt": lambda: os.kill(os.getppid(), 2) or time.sleep(60),
    "own interrupt": lambda: os.kill(os.getpid(), 2),
    "litters": lambda: (litter(), os.abort()),
    "prints": lambda: os.write(1, b"a runtime that talks\\n"),
    "abort beside a fork": lambda: os.fork() and os.abort() or time.sleep(1000),
    "refused": lambda: (_ for _ in ()).throw(ModelError("the runtime's own words")),
    "bug": lambda: {}["missing"],
    "pid": lambda: (_ for _ in ()).throw(ModelError(str(os.getpid()))),
    "torch": lambda: (_ for _ in ()).throw(ModelError(str("torch" in sys.modules))),
}

def litter():
    import tempfile
    folder = tempfile.mkdtemp(prefix="hwnas-")
    open(os.path.join(folder, "model.onnx"), "w").close()
    os.write(2, folder.encode())

def end(target, **options):
    os._exit(3)

def fail(target, **options):
    raise ImportError("no such library")

class Crashing(Profiler):
    def kernels(self, model):
        DISASTERS.get(model.name, lambda: None)()
        return super().kernels(model)
"""


@pytest.fixture(scope="module")
def hook(tmp_path_factory):
    """Import path of a profiler that a model of a certain name takes down."""
    folder = tmp_path_factory.mktemp("hook")
    (folder / "crashing_hook.py").write_text(HOOK)
    sys.path.insert(0, str(folder))
    yield "crashing_hook:Crashing"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def crashing(hook):
    with IsolatedProfiler(make_target(), factory=hook) as profiler:
        yield profiler


def stack(name, channels=4):
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=2, channels=channels, size=4)
    return make_model(proto, name=name)


def test_outputs_are_those_of_the_profiler(crashing, monkeypatch):
    monkeypatch.setattr("profilers.isolation.OUTPUTS_AT_ONCE", 2)  # three examples, two calls
    model, inputs = stack("small"), np.random.default_rng(0).standard_normal((3, 3, 4, 4))
    found = crashing.outputs(model, inputs.astype(np.float32))
    expected = Profiler(make_target()).outputs(model, inputs.astype(np.float32))
    assert found.shape == (3, 10)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("segfault", "SIGSEGV"),
        ("abort", r"SIGABRT \(terminate called: bad tensor\)"),
        ("exit", "exited with code 7"),
        ("killed", "SIGKILL, which is what happens when memory runs out"),
    ],
)
def test_a_model_that_ends_the_process_is_one_error_and_the_next_one_runs(crashing, name, what):
    with pytest.raises(ModelError, match=what) as caught:
        crashing.kernels(stack(name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert crashing.kernels(stack("sound"))


def test_a_hang_is_ended_at_the_time_limit(hook):
    start = time.monotonic()
    with IsolatedProfiler(make_target(), timeout_s=2.0, factory=hook) as profiler:
        with pytest.raises(ModelError, match="hang .*no answer in 2 s"):
            profiler.kernels(stack("hang"))
        assert profiler.kernels(stack("sound"))
    assert time.monotonic() - start < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of Unix")
def test_a_crash_beside_a_forked_child_is_seen(hook, monkeypatch):
    monkeypatch.setattr("profilers.isolation.WATCH_INTERVAL_S", 0.1)
    with IsolatedProfiler(make_target(), factory=hook) as profiler:
        with pytest.raises(ModelError, match="SIGABRT"):  # the child has the answers' pipe
            profiler.kernels(stack("abort beside a fork"))
        assert profiler.kernels(stack("sound"))


def test_a_time_in_which_nothing_could_be_read_does_not_count(hook, monkeypatch):
    """As if this process had been stopped for an hour in its first wait."""
    monkeypatch.setattr("profilers.isolation.WATCH_INTERVAL_S", 0.1)
    later = itertools.chain([0.0, 3600.0], itertools.count(3600.0, 0.1))
    with IsolatedProfiler(make_target(), timeout_s=60.0, factory=hook) as profiler:
        assert profiler.kernels(stack("sound"))
        monkeypatch.setattr("profilers.isolation.time", SimpleNamespace(monotonic=later.__next__))
        assert profiler.kernels(stack("slow"))


def test_a_crash_leaves_no_temporary_files_behind(hook, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with IsolatedProfiler(make_target(), factory=hook) as profiler:
        with pytest.raises(ModelError, match=rf"SIGABRT \({tmp_path}/hwnas-\w+/hwnas-\w+\)"):
            profiler.kernels(stack("litters"))
        assert list(tmp_path.iterdir()) == []
        assert profiler.kernels(stack("sound"))
        (folder,) = tmp_path.iterdir()  # of the process that is there now
    assert not folder.exists()


def test_errors_of_the_process_arrive_with_their_text_and_leave_it_running(crashing):
    with pytest.raises(ModelError) as before:
        crashing.kernels(stack("pid"))
    with pytest.raises(ModelError, match=r"^the runtime's own words$"):
        crashing.kernels(stack("refused"))
    with pytest.raises(ModelError, match="KeyError: 'missing'"):
        crashing.kernels(stack("bug"))
    crashing.kernels(stack("prints"))
    crashing.kernels(stack("own interrupt"))  # ignored: the parent decides
    with pytest.raises(ModelError) as after:
        crashing.kernels(stack("pid"))
    assert int(str(before.value)) == int(str(after.value)) != os.getpid()


def test_a_process_that_died_between_two_calls_is_replaced(crashing):
    with pytest.raises(ModelError) as caught:
        crashing.kernels(stack("pid"))
    os.kill(int(str(caught.value)), signal.SIGKILL)
    time.sleep(0.1)
    assert crashing.kernels(stack("sound"))


def test_the_process_does_not_import_torch(crashing):
    with pytest.raises(ModelError, match=r"^False$"):
        crashing.kernels(stack("torch"))


@pytest.fixture
def _interruptible():
    """Ctrl-C raises, also where the tests were started by a script that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_ends_the_process_and_goes_on_to_the_caller(crashing):
    with pytest.raises(ModelError) as caught:
        crashing.kernels(stack("pid"))
    with pytest.raises(KeyboardInterrupt):
        crashing.kernels(stack("interrupt"))
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(caught.value)), 0)
    assert crashing.kernels(stack("sound"))


def test_it_measures_what_the_profiler_measures(crashing):
    model, other = stack("small"), stack("large", channels=16)
    assert [n.kernel for n in crashing.kernels(model)] == [
        n.kernel for n in Profiler(make_target()).kernels(model)
    ]
    found = crashing.profile(model, seconds=0.05, tags={"family": "toy"})
    assert (found.name, found.digest, found.tags) == ("small", model.digest, {"family": "toy"})
    assert found.latency_ms > 0
    rounds = []
    both = crashing.latency(
        [model, other], seconds=0.05, on_round=lambda *done: rounds.append(done)
    )
    assert len(both) == 2
    assert [done for done, _ in rounds][:3] == [1, 2, 3]
    assert len(crashing.latency([model], seconds=0.02)) == 1


def test_an_error_of_the_callback_is_the_callers(crashing):
    def fail(done, of):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        crashing.latency([stack("small")], seconds=0.05, on_round=fail)
    assert crashing.kernels(stack("sound"))  # no answer of the broken call is in the pipe


@pytest.mark.parametrize(
    ("factory", "what"),
    [("end", "cannot be started: it exited with code 3"), ("fail", "ImportError: no such library")],
)
def test_a_process_that_cannot_start_says_so(hook, factory, what):
    factory = hook.replace("Crashing", factory)
    with pytest.raises(TargetError, match=what):
        IsolatedProfiler(make_target(), factory=factory).kernels(stack("sound"))


@pytest.mark.parametrize("doing", ["nothing", "hang"])
def test_the_process_and_its_files_end_with_a_parent_that_is_killed(hook, tmp_path, doing):
    script = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {sys.path!r}
        import numpy as np
        from profilers.errors import ModelError
        from profilers.isolation import IsolatedProfiler
        from profilers.onnx_models import make_model
        from profilers.reference import conv_stack
        from profilers.targets import make_target
        proto = conv_stack(np.random.default_rng(0), 1, n_layers=2, channels=4, size=4)
        profiler = IsolatedProfiler(make_target(), factory={hook!r})
        try:
            profiler.kernels(make_model(proto, name="pid"))
        except ModelError as error:
            print(error, flush=True)
        if {doing!r} == "hang":
            profiler.kernels(make_model(proto, name="hang"))
        input()
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    with parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.5)  # until it has got what it is to do
        assert is_running(pid) or sys.platform != "linux"
        assert len(list(tmp_path.glob("hwnas-*"))) == 1
        parent.kill()
    for _ in range(100):
        if not is_running(pid):
            assert list(tmp_path.glob("hwnas-*")) == []
            return
        time.sleep(0.05)
    pytest.fail("the process outlived its parent")


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
