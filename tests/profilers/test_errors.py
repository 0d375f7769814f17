import pytest

from profilers.errors import ModelError, ProfilerError, StoreError, TargetError, unknown_name


@pytest.mark.parametrize("error", [ModelError, TargetError, StoreError])
def test_one_root_for_all_errors(error):
    assert issubclass(error, ProfilerError)


def test_a_name_like_no_other_gets_the_list_without_a_guess():
    message = unknown_name("target", "zzz", ["b-runtime", "a-runtime"])
    assert message == "unknown target 'zzz'; (known: a-runtime, b-runtime)"


def test_the_nearest_of_several_is_proposed():
    assert "did you mean 'fp16'?" in unknown_name("precision", "pf16", ["fp32", "fp16", "int8"])
