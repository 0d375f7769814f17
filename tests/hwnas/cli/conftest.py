"""The command line in a folder of its own."""

import sys

import pytest

from hwnas import cli


@pytest.fixture
def hwnas(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder: `(exit code, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def call(line):
        monkeypatch.setattr(sys, "argv", ["hwnas", *line.split()])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code, out, err

    return call
