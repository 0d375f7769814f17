import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.request import Request

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from hwnas.dashboard import HOST, serve_dashboard
from hwnas.errors import ConfigError, RunFolderError
from hwnas.record import Record
from hwnas.spaces.base import Choice, SearchSpace

SPACE = SearchSpace("toy", (Choice("depth", (1, 2)),), lambda _: (1, 8, 8), ())


@pytest.fixture
def served(monkeypatch):
    """What the dashboard would be started with, by name."""
    found = {}
    module = type(sys)("optuna_dashboard")
    module.run_server = lambda storage, **given: found.update(given, storage=storage)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", module)
    return found


@pytest.fixture
def folder(tmp_path):
    with Record.open(tmp_path / "study.db", SPACE, create=True):
        pass
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")  # optuna's, of what it could not write
def test_the_record_is_shown_on_this_machine_alone_and_cannot_be_changed(folder, served) -> None:
    with Record.open(folder / "study.db", SPACE, create=True):  # a search is running
        serve_dashboard(str(folder), port=8123)
        storage = served["storage"]
        assert (served["host"], served["port"]) == (HOST, 8123)
        assert HOST == "127.0.0.1"
        (study,) = storage.get_all_studies()
        assert study.study_name == "search"
        with pytest.raises(StorageInternalError, match="exception is raised during the commit"):
            storage.delete_study(study._study_id)
        storage.engine.dispose()


def test_a_database_by_url_is_shown(tmp_path, served) -> None:
    optuna.create_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'own.db'}")
    serve_dashboard(f"sqlite:///{tmp_path / 'own.db'}", port=8124)
    assert [study.study_name for study in served["storage"].get_all_studies()] == ["mine"]
    served["storage"].engine.dispose()


def test_without_the_package_the_message_says_what_to_install(folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'hwnas\[dashboard\]'"):
        serve_dashboard(str(folder), port=8125)


def test_a_folder_without_a_record_is_an_error(tmp_path, served) -> None:
    with pytest.raises(RunFolderError, match="there is no record of a search at"):
        serve_dashboard(str(tmp_path), port=8126)
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(RunFolderError, match="cannot open the record"):
        serve_dashboard(str(tmp_path), port=8126)


def test_a_run_on_a_server_needs_that_server_to_be_named(tmp_path, served) -> None:
    (tmp_path / "config.toml").write_text(
        '[run]\nstorage = "postgresql+psycopg://bob@127.0.0.1:1/searches"\nstudy = "demo-1"\n'
    )
    with pytest.raises(RunFolderError, match="are in postgresql.*bob@127.0.0.1:1/searches: give"):
        serve_dashboard(str(tmp_path), port=8126)
    url = "postgresql://bob:secret@127.0.0.1:1/searches"
    # Without psycopg, the driver is named; with it, there is no server.
    match = r"pip install 'hwnas\[postgresql\]'|cannot open the record .* Check the URL"
    with pytest.raises((ConfigError, RunFolderError), match=match) as caught:
        serve_dashboard(str(tmp_path), port=8126, storage=url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_url_that_is_none_or_of_an_unknown_database_is_an_error(served) -> None:
    with pytest.raises(ConfigError, match="is no URL of a database"):
        serve_dashboard("://secret@nowhere", port=8127)


def test_a_port_in_use_is_named(folder, monkeypatch, served) -> None:
    def refuse(*_, **__):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(sys.modules["optuna_dashboard"], "run_server", refuse)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:8128: Address already in use.*--port"):
        serve_dashboard(str(folder), port=8128)


@pytest.mark.slow
def test_the_real_dashboard_answers(folder) -> None:
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    script = f"from hwnas.dashboard import serve_dashboard as s; s({str(folder)!r}, port={port})"
    server = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{port}/api/studies"
        answer = b""
        for _ in range(240):
            try:
                answer = urllib.request.urlopen(url, timeout=30).read()
                break
            except urllib.error.URLError:
                time.sleep(0.25)
        assert b'"study_name": "search"' in answer
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(Request(f"{url}/1", method="DELETE"), timeout=30)
        assert b'"study_name": "search"' in urllib.request.urlopen(url, timeout=30).read()
    finally:
        server.kill()
        server.wait()
