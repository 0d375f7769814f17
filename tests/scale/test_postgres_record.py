"""The record of a search in PostgreSQL: what holds in a file holds there."""

import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import optuna
import pytest
import sqlalchemy

from hwnas.dashboard import serve_dashboard
from hwnas.errors import RunFolderError
from hwnas.record import Record
from hwnas.record_place import parse_place, place_text
from hwnas.record_storage import has_trials
from hwnas.report.write import write_report
from hwnas.strategies import Trial

PASSWORD = "from-the-tests"
PREDICTED = {"latency_ms": 1.5, "high_ms": 1.65}
GENOTYPES = [(i % 2, 0, 0, 0, 0, 0) for i in range(8)]
# A process that opens a record as a search does, says so, and waits to be told to end.
SEARCH = """
import sys
from hwnas.record import Record
from hwnas.spaces.base import Choice, SearchSpace

space = SearchSpace("small", (Choice("width", (8, 16)),), lambda options: (3, 8, 8), ())
with Record.open(sys.argv[1], space, create=True, study=sys.argv[2]):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def open_record(database, make_tiny_space):
    """Open a record in the test's database, as a search does unless `create` is False."""

    def call(study="own", *, create=True, url=database):
        return Record.open(url, make_tiny_space((1, 8, 8), 10), create=create, study=study)

    return call


def start(record, number):
    return record.start(Trial(number, GENOTYPES[number], None), PREDICTED, {"params <= 9": -1.0})


def write(record):
    """Finish trial 0, fail trial 1, leave trial 2 running."""
    record.finish(start(record, 0), (0.25, 1.5), {"seconds": 3.5})
    record.fail(start(record, 1), "ValueError: diverged")
    return start(record, 2)


def search_process(url, study):
    return subprocess.Popen(
        [sys.executable, "-c", SEARCH, url, study], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_what_was_written_is_read_again_and_goes_on(open_record):
    with open_record() as record:
        write(record)
    for create in (False, True):
        with open_record(create=create) as record:
            assert record.trials() == [
                Trial(0, GENOTYPES[0], (0.25, 1.5)),
                Trial(1, GENOTYPES[1], None, "ValueError: diverged"),
            ]
            assert record.interrupted() == [Trial(2, GENOTYPES[2], None)]
            assert record.results()[0] == {"seconds": 3.5, "predicted": PREDICTED}
    with open_record() as record:
        record.finish(start(record, 2), (0.5, 1.5), {})
        states = [row.state.name for row in record.study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]


def test_the_study_is_an_ordinary_one_for_optuna(open_record, database):
    with open_record() as record:
        write(record)
    storage = optuna.storages.RDBStorage(database)
    study = optuna.load_study(study_name="own", storage=storage)
    assert study.metric_names == ["error", "latency_ms"]
    assert [trial.values for trial in study.best_trials] == [[0.25, 1.5]]
    storage.engine.dispose()


def test_searches_share_a_database_but_not_a_study(open_record, database):
    place = parse_place(database)
    assert not has_trials(place, "own")
    with open_record("own") as own, open_record("other") as other:
        write(own)
        assert other.trials() == []
        assert has_trials(place, "own") and not has_trials(place, "other")
        with pytest.raises(RunFolderError, match="another search is running on study 'own' in"):
            open_record("own")
        with open_record("own", create=False) as reader:  # reading is allowed
            assert len(reader.trials()) == 2
    with open_record("own") as own:  # and again, now that it has ended
        assert len(own.trials()) == 2


@pytest.fixture
def run_folder(database, tmp_path):
    """A run that keeps the study `own` in the test's database, and has written nothing else."""
    noted = place_text(parse_place(database))
    (tmp_path / "config.toml").write_text(
        f'[search]\ntrials = 8\n\n[run]\nstorage = "{noted}"\nstudy = "own"\n'
    )
    return tmp_path


def test_the_report_of_a_search_that_goes_on_shows_its_own_trials(
    open_record, run_folder, database
):
    with open_record() as record, open_record("other") as other:
        write(record)
        other.fail(start(other, 4), "ValueError: of another run")
        page = write_report(run_folder, storage=database).read_text()
    assert "the best of 1 trial so far: 75.0 % validation accuracy" in page
    assert "ValueError: diverged" in page and "of another run" not in page
    assert "The record holds 2 of the 8 trials asked for." in page and PASSWORD not in page
    with pytest.raises(RunFolderError, match="give that as --storage, or in HWNAS_STORAGE"):
        write_report(run_folder)


@pytest.mark.filterwarnings("ignore::UserWarning")  # optuna's, of what it could not write
def test_the_dashboard_of_a_run_reads_the_server_and_cannot_change_it(
    open_record, run_folder, database, monkeypatch
):
    served = []
    module = ModuleType("optuna_dashboard")
    module.run_server = lambda storage, **_: served.append(storage)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", module)
    with open_record() as record:
        write(record)
        serve_dashboard(str(run_folder), port=8123, storage=database)
        (storage,) = served
        (study,) = storage.get_all_studies()
        assert study.study_name == "own" and len(storage.get_all_trials(study._study_id)) == 3
        with pytest.raises(optuna.exceptions.StorageInternalError):
            storage.delete_study(study._study_id)
        storage.engine.dispose()
        assert len(record.trials()) == 2


def test_a_killed_search_lets_go_of_its_study_at_once(database):
    killed = search_process(database, "own")
    assert killed.stdout.readline() == "open\n"
    second = search_process(database, "own")
    assert "another search is running" in second.communicate()[1]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    third = search_process(database, "own")
    assert third.communicate("")[0] == "open\n"


def test_searches_that_start_at_once_in_an_empty_database_do_not_disturb_each_other(database):
    searches = [search_process(database, f"study-{i}") for i in range(3)]
    ends = [search.communicate("") for search in searches]
    assert [out for out, _ in ends] == ["open\n"] * 3, ends


def test_reading_an_empty_database_creates_nothing_in_it(open_record, database):
    with pytest.raises(RunFolderError, match="holds no search"):
        open_record(create=False)
    engine = sqlalchemy.create_engine(database, poolclass=sqlalchemy.NullPool)
    assert sqlalchemy.inspect(engine).get_table_names() == []


def test_a_search_that_lost_its_lock_writes_no_more(open_record, database, postgres):
    with open_record() as record:
        write(record)
        postgres.query(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND "
            "database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            database=parse_place(database).database,
        )
        with open_record() as second:
            with pytest.raises(RunFolderError, match="cannot write the record .* start again"):
                start(record, 3)
            assert [trial.number for trial in second.interrupted()] == [2]


def test_a_server_that_goes_away_is_one_clear_message_and_loses_nothing(open_record, postgres):
    with open_record() as record:
        handle = write(record)
        postgres.stop()
        try:
            with pytest.raises(RunFolderError) as caught:
                record.finish(handle, (0.5, 1.5), {})
            message = str(caught.value)
            assert message.startswith("cannot write the record study 'own' in postgresql")
            assert "What was recorded before is kept" in message and "\n" not in message
            with pytest.raises(RunFolderError, match="cannot read the record"):
                record.trials()
            with pytest.raises(RunFolderError, match="Check the URL, that the server runs"):
                open_record()
        finally:
            postgres.start()
    with open_record() as record:
        assert len(record.trials()) == 2
        assert record.interrupted() == [Trial(2, GENOTYPES[2], None)]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"port": 1}, "[Cc]onnection refused"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_clear_message(open_record, database, change, match):
    url = sqlalchemy.make_url(database).set(**change).render_as_string(hide_password=False)
    with pytest.raises(RunFolderError, match=match) as caught:
        open_record(url=url)
    assert "from-the-tests" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RunFolderError, match=match):
        has_trials(parse_place(url))


def test_a_password_may_have_any_characters(open_record, database, postgres):
    password = "a{b}%/@:c"
    postgres.query(f"CREATE ROLE odd SUPERUSER LOGIN PASSWORD '{password}'".replace(":", r"\:"))
    url = sqlalchemy.make_url(database).set(username="odd", password=password)
    with open_record(url=url.render_as_string(hide_password=False)) as record:
        write(record)
        assert "a{b}" not in record.where and "odd@127.0.0.1" in record.where
