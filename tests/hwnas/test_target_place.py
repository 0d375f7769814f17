from dataclasses import replace

from hwnas.target_place import TargetPlace
from profilers.isolation import IsolatedProfiler
from profilers.profiler import Profiler
from profilers.targets import make_target


def test_only_a_trusted_runtime_is_asked_in_this_process():
    target = make_target()
    with TargetPlace.here(target).open_asker() as asker:
        assert isinstance(asker, Profiler)
    with TargetPlace.here(replace(target, runtime="openvino-cpu")).open_asker() as asker:
        assert isinstance(asker, IsolatedProfiler) and asker.target.runtime == "openvino-cpu"


def test_models_are_measured_in_a_process_of_their_own():
    with TargetPlace.here(make_target()).open_profiler(references_ms=[1.0]) as profiler:
        assert isinstance(profiler, IsolatedProfiler)
