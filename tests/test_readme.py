"""What the README shows is run, on a small space and with short trainings."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from typer.main import get_command

import hwnas.config
import hwnas.spaces.catalog
from hwnas.cli import app

README = Path(__file__).parent.parent / "README.md"


def test_the_python_example_of_the_readme_delivers_a_front(
    tmp_path, monkeypatch, make_tiny_space, capsys
):
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[-1]
    short = partial(
        hwnas.config.SearchConfig,
        networks=8, finalists=3, search_epochs=0.5, final_epochs=2, workers=0,
    )  # fmt: skip
    monkeypatch.setattr(hwnas.config, "SearchConfig", short)
    monkeypatch.setitem(hwnas.spaces.catalog.SPACES, "mobile", make_tiny_space)
    monkeypatch.chdir(tmp_path)
    # Eight trials are enough to show that every line works, and a budget that is met however noisy
    # it is: measuring eight networks of 20 µs may leave intervals wider than any share of them.
    for pattern, replacement in ((r"trials=\d+", "trials=8"), ("=80", "=8"), ("<=40%", "<=1000")):
        code, n = re.subn(pattern, replacement, code)
        assert n == 1, pattern
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(
        re.fullmatch(r"[tn]\w+: 0\.\d+ at \d+\.\d+ ms, predicted .* to .*", x) for x in lines
    )
    assert (tmp_path / "runs" / "python" / "report.html").exists()


def parse(words, command=None, parent=None):
    """Read a command line as `hwnas` would, down to the command that it names, and run nothing."""
    command = command or get_command(app)
    if not hasattr(command, "resolve_command"):
        return command.make_context(command.name, list(words), parent=parent)
    # A group leaves what comes behind its own options unread.
    context = command.make_context("hwnas", list(words), parent=parent)
    _, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return parse(rest, found, context)


def lines_of_the_readme():
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("hwnas ")]


@pytest.mark.parametrize("line", lines_of_the_readme())
def test_every_command_of_the_readme_is_one_with_its_options(line):
    parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize(
    "line", ["profil x.onnx", "profile x.onnx --fast", "search --trials many", "bench speed"]
)
def test_a_wrong_command_or_option_would_be_noticed(line):
    with pytest.raises(Exception, match=r"No such|should be a valid"):
        parse(line.split())


def test_the_readme_shows_commands():
    commands = {line.split()[1] for line in lines_of_the_readme()}
    assert {"search", "profile", "predict", "bench"} <= commands


def test_no_figure_was_left_out():
    for page in (README, *README.parent.glob("docs/*.md"), *README.parent.glob("data/**/*.md")):
        text = page.read_text(encoding="utf-8")
        assert "FIGURE" not in text, page
        assert "@@" not in text, page
