"""Data in files, as users bring them."""

import textwrap

import pytest


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Write the body of `load()` to a module in the current directory; returns its data name."""
    monkeypatch.chdir(tmp_path)
    n_written = iter(range(100))

    def write(body):
        module = f"own_data_{tmp_path.name.replace('-', '_')}_{next(n_written)}"
        source = "import numpy as np\nimport torch\n\ndef load():\n" + textwrap.indent(body, "    ")
        (tmp_path / f"{module}.py").write_text(source)
        return f"{module}:load"

    return write
