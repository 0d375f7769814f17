import os
import sqlite3
import subprocess
import sys

import optuna
import pytest

from hwnas import record_storage
from hwnas.errors import ConfigError, RunFolderError
from hwnas.record import Record
from hwnas.record_place import engine_options, new_study_name, parse_place, place_text
from hwnas.record_storage import has_trials
from hwnas.report.study import read_study
from hwnas.strategies import Trial

PREDICTED = {"latency_ms": 1.5, "high_ms": 1.65}
FEASIBLE = {"latency_ms <= 2": -0.175}


@pytest.fixture
def space(make_toy):
    return make_toy().problem.space


@pytest.fixture
def genotypes(space):
    return [(i, *(0,) * (len(space.choices) - 1)) for i in range(2)] * 4


def start(record, number, genotype, share=1.0):
    return record.start(Trial(number, genotype, None, share=share), PREDICTED, FEASIBLE)


def write(record, genotypes):
    """Finish trial 0, fail trial 1, leave trial 2 running."""
    record.finish(start(record, 0, genotypes[0]), (0.25, 1.5), {"seconds": 3.5})
    record.fail(start(record, 1, genotypes[1]), "ValueError: diverged")
    return start(record, 2, genotypes[2])


def test_what_was_written_is_read_again(tmp_path, space, genotypes):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
    with Record.open(path, space, create=False) as record:
        assert record.trials() == [
            Trial(0, genotypes[0], (0.25, 1.5)),
            Trial(1, genotypes[1], None, "ValueError: diverged"),
        ]
        assert record.interrupted() == [Trial(2, genotypes[2], None)]
        assert record.results() == {
            0: {"seconds": 3.5, "predicted": PREDICTED},
            1: {"predicted": PREDICTED},
        }
    assert {file.name for file in tmp_path.iterdir()} == {"search.db", "search.db.lock"}


def test_the_study_is_an_ordinary_one_for_optuna(tmp_path, space, genotypes):
    with Record.open(tmp_path / "search.db", space, create=True) as record:
        write(record, genotypes)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'search.db'}")
    assert study.metric_names == ["error", "latency_ms"]
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    complete, failed, running = study.trials
    assert (complete.values, complete.params) == ([0.25, 1.5], space.options(genotypes[0]))
    assert complete.constraints == FEASIBLE
    assert [t.state.name for t in (complete, failed, running)] == ["COMPLETE", "FAIL", "RUNNING"]
    assert study.best_trials == [complete]
    study._storage.remove_session()


def test_trials_with_a_share_of_the_training_are_not_on_the_front_of_the_study(
    tmp_path, space, genotypes
):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        record.finish(start(record, 0, genotypes[0], share=1 / 3), (0.1, 1.0), {})
        record.fail(start(record, 1, genotypes[1], share=1 / 9), "ValueError: diverged")
        record.finish(start(record, 2, genotypes[0]), (0.2, 1.0), {})
        start(record, 3, genotypes[1], share=1 / 3)
    with Record.open(path, space, create=False) as record:
        assert record.trials() == [
            Trial(0, genotypes[0], (0.1, 1.0), share=1 / 3),
            Trial(1, genotypes[1], None, "ValueError: diverged", share=1 / 9),
            Trial(2, genotypes[0], (0.2, 1.0)),
        ]
        assert record.interrupted() == [Trial(3, genotypes[1], None, share=1 / 3)]
        states = [row.state.name for row in record.study.trials]
        assert states == ["PRUNED", "FAIL", "COMPLETE", "RUNNING"]
        assert [row.values for row in record.study.best_trials] == [[0.2, 1.0]]


def test_trials_that_were_recorded_without_a_share_had_the_whole_training(
    tmp_path, space, genotypes
):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM trial_user_attributes WHERE key = 'share'")
    connection.close()
    with Record.open(path, space, create=False) as record:
        shares = [trial.share for trial in (*record.trials(), *record.interrupted())]
    assert shares == [1.0, 1.0, 1.0]


def test_trials_are_read_in_the_order_in_which_they_ended(tmp_path, space, genotypes):
    with Record.open(tmp_path / "search.db", space, create=True) as record:
        handles = [start(record, i, genotypes[i]) for i in range(3)]
        for number in (2, 0):
            record.finish(handles[number], (0.5, 1.0), {})
    with Record.open(tmp_path / "search.db", space, create=True) as record:
        record.finish(start(record, 1, genotypes[1]), (0.5, 1.0), {})
        assert [trial.number for trial in record.trials()] == [2, 0, 1]


def test_an_interrupted_proposal_is_failed_in_the_study_once_it_runs_again(
    tmp_path, space, genotypes
):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
    for _ in range(2):  # killed a second time, on the same proposal
        with Record.open(path, space, create=True) as record:
            assert record.interrupted() == [Trial(2, genotypes[2], None)]
            start(record, 2, genotypes[2])
    with Record.open(path, space, create=True) as record:
        record.finish(start(record, 2, genotypes[2]), (0.5, 1.5), {})
        assert record.interrupted() == []
        assert [trial.number for trial in record.trials()] == [0, 1, 2]
        rows = record.study.trials
    states = [row.state.name for row in rows]
    assert states == ["COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert [row.user_attrs.get("failure") for row in rows[2:5]] == ["interrupted"] * 3


def test_a_trial_killed_between_its_outcome_and_its_state_is_not_run_again(
    tmp_path, space, genotypes, monkeypatch
):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        handle = write(record, genotypes)
        monkeypatch.setattr(record, "_set_state", lambda *_: None)
        record.finish(handle, (0.5, 1.5), {})
    with Record.open(path, space, create=True) as record:
        assert record.interrupted() == []
        assert record.trials()[-1] == Trial(2, genotypes[2], (0.5, 1.5))
        assert record.study.trials[2].values == [0.5, 1.5]


def test_a_killed_process_loses_nothing_that_was_written(tmp_path, space, genotypes):
    path = tmp_path / "search.db"
    pid = os.fork()
    if pid == 0:
        write(Record.open(path, space, create=True), genotypes)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    with Record.open(path, space, create=True) as record:
        assert len(record.trials()) == 2
        assert record.interrupted() == [Trial(2, genotypes[2], None)]


def test_a_second_search_is_refused_but_reading_is_not(tmp_path, space, genotypes):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
        with pytest.raises(RunFolderError, match=r"another search is running on .*search\.db"):
            Record.open(path, space, create=True)
        with Record.open(path, space, create=False) as reader:
            assert len(reader.trials()) == 2
            with pytest.raises(ValueError, match="opened for reading"):
                start(reader, 3, genotypes[3])
    Record.open(path, space, create=True).close()


def test_a_record_of_another_space_is_refused(tmp_path, space, make_toy):
    Record.open(tmp_path / "search.db", space, create=True).close()
    other = make_toy(n_stages=1).problem.space
    for create in (True, False):
        with pytest.raises(RunFolderError, match="the space 'toy' as it was then, not of 'toy'"):
            Record.open(tmp_path / "search.db", other, create=create)


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_one_clear_message_and_stays_as_it_is(
    tmp_path, space, create
):
    path = tmp_path / "search.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=r"search\.db: file is not a database\. Use another"):
        Record.open(path, space, create=create)
    assert path.read_bytes() == before


def test_a_damaged_record_is_one_clear_message(tmp_path, space, genotypes):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)  # the first page, with the schema, is whole
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"search\.db: .*(malformed|corrupt)"):
        Record.open(path, space, create=True)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("genotype", "[0]"),
        ("genotype", "7"),
        ("genotype", "[999, 0, 0, 0, 0, 0, 0, 0]"),
        ("share", "2"),
        ("share", "[]"),
        ("proposal", "-1"),
        ("proposal", "{}"),
        ("predicted", "3"),
        ("outcome", "3"),
        ("outcome", "{}"),
        ("outcome", '{"told": 0, "objectives": [1, NaN], "failure": null, "result": {}}'),
        ("outcome", '{"told": 0, "objectives": [1], "failure": null, "result": {}}'),
        ("outcome", '{"told": 0, "objectives": null, "failure": null, "result": {}}'),
        ("outcome", '{"told": -1, "objectives": [1, 2], "failure": null, "result": {}}'),
        ("outcome", '{"told": 0, "objectives": [1, 2], "failure": null, "result": 5}'),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_a_trial_that_no_search_wrote_is_one_clear_message(
    tmp_path, space, genotypes, attribute, value, create
):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = ? AND trial_id = 1",
            (value, attribute),
        )
    connection.close()
    with (
        pytest.raises(RunFolderError, match=r"cannot \w+ the record .*trial 0 is not as a search"),
        Record.open(path, space, create=create) as record,
    ):
        record.trials()


def test_a_trial_that_ended_twice_is_one_clear_message(tmp_path, space, genotypes):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = 0 "
            "WHERE key = 'proposal' AND trial_id = 2"
        )
    connection.close()
    with pytest.raises(RunFolderError, match="ended twice"):
        Record.open(path, space, create=True)


@pytest.mark.parametrize("sql", [
    "CREATE VIRTUAL TABLE harm USING fts5(x); PRAGMA writable_schema = 1; "
    "UPDATE sqlite_master SET rootpage = 2 WHERE name = 'harm'",
    "ALTER TABLE trials RENAME TO t; CREATE VIEW trials AS WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS trial_id FROM n",
    "CREATE TRIGGER harm AFTER INSERT ON trials BEGIN DELETE FROM trials; END",
    "ALTER TABLE trials ADD COLUMN large AS (zeroblob(1000000000))",
])  # fmt: skip
@pytest.mark.parametrize("create", [True, False])
def test_a_database_that_computes_what_it_holds_is_refused(tmp_path, space, genotypes, sql, create):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
    with sqlite3.connect(path) as connection:
        connection.executescript(sql)
    connection.close()
    assert has_trials(path)  # nobody knows; the record says what is wrong
    with pytest.raises(RunFolderError, match="which is no plain table"):
        Record.open(path, space, create=create)
    with pytest.raises(RunFolderError, match="which is no plain table"):
        read_study(path, "search")


def test_the_database_of_another_program_is_not_touched(tmp_path, space):
    path = tmp_path / "search.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match="not of a search"):
        Record.open(path, space, create=True)
    assert path.read_bytes() == before


def test_an_optuna_database_without_our_study_is_refused_for_reading(tmp_path, space):
    optuna.logging.disable_default_handler()
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'search.db'}", study_name="mine")
    optuna.logging.enable_default_handler()
    with pytest.raises(RunFolderError, match="holds no search"):
        Record.open(tmp_path / "search.db", space, create=False)


def test_reading_what_does_not_exist_creates_nothing(tmp_path, space):
    with pytest.raises(RunFolderError, match="there is no record of a search"):
        Record.open(tmp_path / "search.db", space, create=False)
    assert not list(tmp_path.iterdir())


def test_an_empty_file_is_a_search_that_was_killed_at_once(tmp_path, space):
    (tmp_path / "search.db").touch()
    with Record.open(tmp_path / "search.db", space, create=True) as record:
        assert record.trials() == []


@pytest.mark.parametrize("place", ["missing/search.db", "."])
def test_a_place_that_cannot_be_written_is_one_clear_message(tmp_path, space, place):
    with pytest.raises(RunFolderError, match="cannot open the record"):
        Record.open(tmp_path / place, space, create=True)


def test_a_record_in_a_file_may_be_given_by_url_and_hold_several_studies(
    tmp_path, space, genotypes
):
    url = f"sqlite:///{tmp_path / 'search.db'}"
    for study in ("first", "second"):
        with Record.open(url, space, create=True, study=study) as record:
            assert record.trials() == [] and record.where == str(tmp_path / "search.db")
            write(record, genotypes)
    with Record.open(tmp_path / "search.db", space, create=False, study="first") as record:
        assert len(record.trials()) == 2 and record.study.study_name == "first"
    with pytest.raises(RunFolderError, match="holds no search"):
        Record.open(url, space, create=False, study="third")


def test_a_place_may_have_braces_in_its_name(tmp_path, space, genotypes):
    path = tmp_path / "{data}" / "{}.db"
    path.parent.mkdir()
    with Record.open(path, space, create=True) as record:
        write(record, genotypes)
    with Record.open(path, space, create=False) as record:
        assert len(record.trials()) == 2
    assert list(tmp_path.iterdir()) == [path.parent]


def test_a_search_in_a_file_with_others_is_begun_by_its_own_trials(tmp_path, space, genotypes):
    path = tmp_path / "search.db"
    with Record.open(path, space, create=True, study="first") as record:
        write(record, genotypes)
    assert has_trials(path, "first") and not has_trials(path, "second")


def test_a_record_says_whether_a_search_was_begun(tmp_path, space, genotypes):
    path = tmp_path / "search.db"
    assert not has_trials(path)
    with Record.open(path, space, create=True) as record:
        assert not has_trials(path)
        start(record, 0, genotypes[0])
        assert has_trials(path)
    path.write_bytes(b"no database")
    assert has_trials(path)  # the record is to say what is wrong with it


def test_the_order_of_starts_and_ends_is_on_record(tmp_path, space, genotypes):
    with Record.open(tmp_path / "search.db", space, create=True) as record:
        handles = [start(record, i, genotypes[i]) for i in range(2)]
        record.finish(handles[1], (0.5, 1.0), {})
        start(record, 2, genotypes[2])
        assert [row.user_attrs["after"] for row in record.study.trials] == [0, 0, 1]


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("run/study.db", "run/study.db"),
        ("sqlite:///run/study.db", "run/study.db"),
        ("postgresql://bob:pass%2Fword@db:5433/nas", "postgresql+psycopg://bob@db:5433/nas"),
        ("postgres://db/nas?password=secret&sslmode=require",
         "postgresql+psycopg://db/nas?sslmode=require"),
        ("postgresql+psycopg://bob@/nas?host=/run/pg", "postgresql+psycopg://bob@/nas?host=/run/pg"),
    ],
)  # fmt: skip
def test_a_place_is_written_down_without_its_password_and_found_again(location, text):
    place = parse_place(location)
    assert parse_place(place) == place  # with its password
    assert place_text(place).replace("%2F", "/") == text
    assert place_text(parse_place(place_text(place))) == place_text(place)


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("sqlite://", "needs a file that stays"),
        ("sqlite:///:memory:", "needs a file that stays"),
        ("mysql://bob:secret@db/nas", "in a file or in PostgreSQL, not in mysql"),
        ("postgresql://bob:secret@db:port/nas", "'postgresql://bob@db:port/nas' is no URL of a d"),
        ("://bob:secret@db", "is no URL of a database"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_clear_message(space, location, match):
    with pytest.raises(ConfigError, match=match) as caught:
        Record.open(location, space, create=True)
    assert "secret" not in str(caught.value)


def test_what_a_url_says_about_the_connection_counts():
    url = parse_place("postgresql://db/nas?connect_timeout=3")
    options = engine_options(url)["connect_args"]
    assert "connect_timeout" not in options and options["tcp_user_timeout"] == 60_000


def test_a_server_that_cannot_be_used_is_one_clear_message(space):
    # Without psycopg, the driver is named; with it, there is no server.
    match = r"pip install 'hwnas\[postgresql\]'|cannot open the record study 'search' in postgres"
    for create in (True, False):
        with pytest.raises((ConfigError, RunFolderError), match=match) as caught:
            Record.open("postgresql://bob:secret@127.0.0.1:1/hwnas", space, create=create)
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_studies_of_one_folder_name_have_names_of_their_own(tmp_path):
    names = {new_study_name(tmp_path / "demo") for _ in range(2)}
    assert len(names) == 2 and all(name.startswith("demo-") for name in names)


@pytest.mark.usefixtures("file_modes_hold")
def test_a_read_only_folder_is_one_clear_message(tmp_path, space):
    Record.open(tmp_path / "search.db", space, create=True).close()
    for file in (*tmp_path.iterdir(), tmp_path):
        file.chmod(0o500)
    try:
        with pytest.raises(RunFolderError, match="cannot open the record"):
            Record.open(tmp_path / "search.db", space, create=True)
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_one_clear_message_and_keeps_what_was_there(
    tmp_path, space, genotypes, monkeypatch
):
    path = tmp_path / "search.db"
    Record.open(path, space, create=True).close()
    connect = record_storage._connect

    def connect_with_little_room(path):
        connection = connect(path)
        n_pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {n_pages + 10}")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(record_storage, "_connect", connect_with_little_room)
        with Record.open(path, space, create=True) as record:
            handle = write(record, genotypes)
            with pytest.raises(RunFolderError, match=r"cannot write .*disk is full.*make room"):
                record.finish(handle, (0.5, 1.5), {"log": "x" * 100_000})
    with Record.open(path, space, create=True) as record:
        assert len(record.trials()) == 2
        assert record.interrupted() == [Trial(2, genotypes[2], None)]


def test_importing_the_record_prints_nothing_and_leaves_optuna_as_it_was(tmp_path, space, capfd):
    level = optuna.logging.get_verbosity()
    with Record.open(tmp_path / "search.db", space, create=True) as record:
        assert record.study.metric_names is not None
    assert optuna.logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")


def test_strategies_pareto_and_budget_import_no_torch_and_no_device():
    code = "import sys, hwnas.strategies, hwnas.pareto, hwnas.budget; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "onnxruntime", "pynvml", "optuna"} & set(done.stdout.split())
