from dataclasses import fields, replace
from pathlib import Path

import pytest

from hwnas.config import SearchConfig, check_same_run, read_config, write_config
from hwnas.errors import ConfigError, RunFolderError

OTHER = SearchConfig(
    data="folder:x", data_path="/x", space="s", budgets=("latency_ms<=5", "params<=1e6"),
    strategy="random", trials=5, minutes=1.5, patience=4, finalists=3, search_epochs=0.5,
    final_epochs=2.0, recipe=("flip=true",), seed=7, evaluator="mine:train", workers=3,
    executor="ray", gpus_per_trial=0.5,
    trial_seconds=9.0, trial_memory_mb=500.0, threads=2, batch=4, networks=9, level=0.8,
    guide_epochs=3.0, int8=False, dynamic_batch=True, raw_input=True,
)  # fmt: skip


@pytest.mark.parametrize("config", [SearchConfig(), OTHER])
def test_a_config_comes_back_from_its_file(tmp_path, config):
    write_config(tmp_path, {"search": config.to_table()})
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    assert SearchConfig.from_table(read_config(tmp_path / "config.toml")["search"]) == config


def test_the_other_config_differs_in_nearly_every_field():
    same = [f.name for f in fields(OTHER)
            if getattr(OTHER, f.name) == getattr(SearchConfig(), f.name)]  # fmt: skip
    assert same == ["target", "precision"]  # there is one of each


def test_an_unknown_key_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match="unknown key in .search. 'trails'; did you mean 'trials"):
        SearchConfig.from_table({"trails": 5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"finalists": 0}, "finalists must be at least 1"),
        ({"networks": 7}, "networks must be at least 8, got 7"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"minutes": 0}, "minutes must be above 0"),
        ({"search_epochs": -1.0}, "search_epochs must be above 0"),
        ({"search_epochs": float("inf")}, "search_epochs must be finite"),
        ({"final_epochs": float("nan")}, "final_epochs must be above 0, got nan"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"executor": "rai"}, "unknown executor 'rai'; did you mean 'ray'"),
        ({"gpus_per_trial": -1.0}, "gpus_per_trial must be at least 0, got -1.0"),
        ({"trial_seconds": 0.0}, "trial_seconds must be above 0"),
        ({"trial_memory_mb": -5.0}, "trial_memory_mb must be above 0"),
        ({"level": 1.0}, "level must lie between 0 and 1, got 1.0"),
        ({"level": 0}, "level must lie between 0 and 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SearchConfig(), **changes)


def test_a_value_of_a_wrong_type_is_refused():
    with pytest.raises(ConfigError, match="wrong type"):
        SearchConfig.from_table({"trials": "many"})


@pytest.mark.parametrize("content", [b"[search", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"config\.toml is not TOML"):
        read_config(tmp_path / "config.toml")
    with pytest.raises(RunFolderError, match=r"config\.toml is not TOML"):
        check_same_run(tmp_path, {"search": {}}, has_trials=True)


def test_what_should_be_a_table_and_is_none_is_named(tmp_path):
    (tmp_path / "config.toml").write_text('run = "x"')
    with pytest.raises(RunFolderError, match="'run' must be a table, got 'x'"):
        read_config(tmp_path / "config.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"cannot read .*config\.toml: No such file"):
        read_config(tmp_path / "config.toml")


def asked(config, fingerprint="abc"):
    return {"search": config.to_table(), "run": {"data_fingerprint": fingerprint}}


def test_a_new_or_empty_folder_holds_no_run(tmp_path):
    check_same_run(tmp_path, asked(OTHER), has_trials=True)
    check_same_run(tmp_path / "new", asked(OTHER), has_trials=True)


def test_the_same_run_goes_on_also_with_more_trials_or_time(tmp_path):
    write_config(tmp_path, asked(OTHER) | {"spent": {"n_trials": 5}})
    check_same_run(tmp_path, asked(OTHER), has_trials=True)
    more = replace(OTHER, trials=50, minutes=None, workers=8, trial_seconds=1.0)
    check_same_run(tmp_path, asked(more), has_trials=True)


def test_a_run_from_before_an_option_goes_on_with_its_default_only(tmp_path):
    old = asked(replace(OTHER, evaluator="training"))
    del old["search"]["evaluator"]
    write_config(tmp_path, old)
    check_same_run(tmp_path, asked(replace(OTHER, evaluator="training")), has_trials=True)
    with pytest.raises(RunFolderError, match="evaluator is 'training' there, 'mine:train' asked"):
        check_same_run(tmp_path, asked(OTHER), has_trials=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed is 7 there, 8 asked"),
        ({"data": "digits"}, "data is 'folder:x' there, 'digits' asked"),
        ({"data_path": None}, "data_path is '/x' there, None asked"),
        ({"budgets": ()}, "budgets is .* there, .. asked"),
        ({"recipe": ("flip=false",)}, "recipe is .'flip=true'. there, .'flip=false'. asked"),
    ],
)
def test_another_run_is_refused_with_what_differs(tmp_path, changes, message):
    write_config(tmp_path, asked(OTHER))
    with pytest.raises(RunFolderError, match=f"holds another run: {message}.*--out"):
        check_same_run(tmp_path, asked(replace(OTHER, **changes)), has_trials=True)


def test_data_that_changed_under_the_same_name_is_noticed(tmp_path):
    write_config(tmp_path, asked(OTHER))
    message = "the data are not those.*data_fingerprint is 'abc' there, 'abd' asked"
    with pytest.raises(RunFolderError, match=message):
        check_same_run(tmp_path, asked(OTHER, "abd"), has_trials=True)


def test_a_given_predictor_is_not_dropped_in_silence(tmp_path):
    given, none = asked(OTHER), asked(OTHER)
    given["run"]["predictor"] = "abc"
    write_config(tmp_path, none)
    check_same_run(tmp_path, given, has_trials=False)  # as long as no trial was begun
    write_config(tmp_path, given)
    check_same_run(tmp_path, asked(OTHER) | {"run": given["run"] | {"predictor": "abd"}},
                   has_trials=False)  # fmt: skip
    with pytest.raises(RunFolderError, match="predictor is 'abc' there, None asked"):
        check_same_run(tmp_path, none, has_trials=False)


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match=r"is no run folder.*new or an empty folder"):
        check_same_run(tmp_path, asked(OTHER), has_trials=True)
    with pytest.raises(RunFolderError, match="is no run folder"):
        check_same_run(tmp_path / "thesis.tex", asked(OTHER), has_trials=True)


def test_what_a_run_that_was_killed_at_once_has_left_is_a_new_folder(tmp_path):
    for name in ("config.toml.part", "config.toml.lock"):
        (tmp_path / name).touch()
    check_same_run(tmp_path, asked(OTHER), has_trials=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_one_message_and_the_file_stays_as_it_was(tmp_path):
    write_config(tmp_path, {"search": {"seed": 1}})
    (tmp_path / "config.toml.part").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match=r"cannot write .*config\.toml: No space left"):
        write_config(tmp_path, {"search": {"seed": 2}})
    assert read_config(tmp_path / "config.toml") == {"search": {"seed": 1}}
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="cannot write"):
        write_config(tmp_path / "missing", {})


def test_before_the_first_trial_the_budget_may_change_but_not_what_was_measured(tmp_path):
    write_config(tmp_path, asked(OTHER))
    raised = replace(OTHER, budgets=("latency_ms<=9",), strategy="random", finalists=3)
    check_same_run(tmp_path, asked(raised), has_trials=False)
    with pytest.raises(RunFolderError, match="threads is"):
        check_same_run(tmp_path, asked(replace(raised, threads=1)), has_trials=False)
