import pytest

from hwnas.config import SearchConfig, check_trusted
from hwnas.errors import ConfigError
from hwnas.front.finalists import export_again
from hwnas.report.explain import explain_again

EVIL = "from pathlib import Path\nPath('marker').write_text('it ran')\ndef f(*given): ...\n"


@pytest.mark.parametrize(("key", "name"), [("space", "evil.py:f"), ("data", "evil:f")])
def test_code_that_a_strangers_folder_names_is_not_run(key, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "config.toml").write_text(f'[search]\n{key} = "{name}"\n')
    for call in (
        lambda: export_again(tmp_path, "t000", tmp_path / "x.onnx", batch=1),
        lambda: explain_again(tmp_path, tmp_path / "m.db"),
    ):
        with pytest.raises(ConfigError, match=f"names code that would be run: {name}.*--trust"):
            call()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "config",
    [
        SearchConfig(data="folder:photos"),
        SearchConfig(data="csv:rows.csv", space="mlp"),
        SearchConfig(data="text:reviews", space="text_transformer"),
    ],
)
def test_files_of_data_are_no_code(config, tmp_path):
    check_trusted(config, tmp_path, trust=False)


def test_code_runs_where_it_is_trusted(tmp_path):
    check_trusted(SearchConfig(space="mine.py:space", data="m:f"), tmp_path, trust=True)
