import pytest

from hwnas.bench.kept import Kept, read_kept
from hwnas.errors import ConfigError, RunFolderError


def test_a_result_is_made_once_also_by_later_processes(tmp_path):
    path = tmp_path / "deep" / "results.json"
    made = []

    def make():
        made.append(1)
        return {"accuracy": 0.5}

    for _ in range(2):
        with Kept.open(path, {"n": 3, "names": ("a",)}) as kept:
            assert kept.once("first", make) == {"accuracy": 0.5}
            assert kept.once("first", make) == {"accuracy": 0.5}
    assert made == [1]
    assert read_kept(path)["first"] == {"accuracy": 0.5}


def test_what_was_made_before_an_interruption_stays(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    path = tmp_path / "results.json"
    with Kept.open(path, {}) as kept:
        kept.once("first", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            kept.once("second", interrupted)
    with Kept.open(path, {}) as kept:
        assert kept.get("first") == 1
        assert kept.once("second", lambda: 2) == 2


def test_results_of_another_experiment_are_refused_by_what_differs(tmp_path):
    path = tmp_path / "results.json"
    with Kept.open(path, {"minutes": 40, "space": "mobile"}) as kept:
        kept.put("first", 1)
    with (
        pytest.raises(ConfigError, match="minutes was 40, is 20; name"),
        Kept.open(path, {"minutes": 20, "space": "mobile"}),
    ):
        pass


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "results.json"
    with Kept.open(path, {}), pytest.raises(RunFolderError, match="another"), Kept.open(path, {}):
        pass


@pytest.mark.parametrize("text", ["{", "[]", '{"asked": 3}'])
def test_a_file_that_is_none_of_ours_is_told(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(RunFolderError, match="cannot read the results"), Kept.open(path, {}):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "results.json"
    with pytest.raises(RunFolderError, match="cannot write"), Kept.open(path, {}):
        pass
