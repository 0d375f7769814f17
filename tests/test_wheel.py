"""What an installation puts on the machine of a user."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # From a copy: building leaves a folder beside the sources.
    source = tmp_path_factory.mktemp("source") / "hwnas"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "runs")
    shutil.copytree(ROOT, source, ignore=ignored)
    out = source.parent / "out"
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
               "--disable-pip-version-check", "--wheel-dir", str(out), str(source)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_top_level_is_the_three_packages_and_the_metadata(wheel):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert top == {"hwnas", "predictors", "profilers", f"hwnas-{version}.dist-info"}


def test_every_module_and_type_marker_is_in_it(wheel):
    names = set(wheel.namelist())
    for package in ("hwnas", "predictors", "profilers"):
        assert f"{package}/py.typed" in names
        sources = {str(p.relative_to(ROOT)) for p in (ROOT / package).rglob("*.py")}
        assert sources <= names
    assert not [name for name in names if "test" in Path(name).name]


def test_the_predictors_that_ship_are_in_it(wheel):
    shipped = {str(p.relative_to(ROOT)) for p in (ROOT / "predictors/pretrained").glob("*.npz")}
    assert shipped
    assert shipped <= set(wheel.namelist())


def test_the_command_is_installed(wheel):
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "hwnas = hwnas.cli:main" in wheel.read(entry).decode()
