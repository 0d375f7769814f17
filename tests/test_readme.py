"""What the README shows is run, on a small space and with short trainings."""

import re
from functools import partial
from pathlib import Path

import hwnas.config
import hwnas.spaces.catalog

README = Path(__file__).parent.parent / "README.md"


def test_the_python_example_of_the_readme_delivers_a_front(
    tmp_path, monkeypatch, make_tiny_space, capsys
):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    short = partial(
        hwnas.config.SearchConfig,
        networks=8, finalists=3, search_epochs=0.5, final_epochs=2,
    )  # fmt: skip
    monkeypatch.setattr(hwnas.config, "SearchConfig", short)
    monkeypatch.setitem(hwnas.spaces.catalog.SPACES, "mobile", make_tiny_space)
    monkeypatch.chdir(tmp_path)
    # Eight trials are enough to show that every line of it works.
    exec(re.sub(r"trials=\d+", "trials=8", code).replace("=80", "=8").replace("40%", "90%"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.fullmatch(r"t\d+: 0\.\d+ at \d+\.\d+ ms, predicted .* to .*", x) for x in lines)
    assert (tmp_path / "runs" / "demo" / "report.html").exists()


def test_every_command_that_the_readme_names_exists():
    from hwnas.cli import app

    known = {command.name for command in app.registered_commands} | {"bench"}
    named = set(re.findall(r"^hwnas (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= known
    assert "search" in named


def test_no_figure_of_the_readme_was_left_out():
    assert "FIGURE" not in README.read_text(encoding="utf-8")
