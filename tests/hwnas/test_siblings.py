import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def import_hwnas(folder):
    """`import hwnas` where `folder` comes first on the path; what it prints."""
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import hwnas; print('fine')"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["predictors", "profilers"])
def test_a_folder_of_the_same_name_is_named_with_the_fix(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = import_hwnas(tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: `import {name}` found {tmp_path / name / '__init__.py'}")
    assert "Start Python elsewhere" in last and "pip install --force-reinstall" in last


def test_a_folder_without_a_package_in_it_does_no_harm(tmp_path):
    (tmp_path / "predictors").mkdir()
    done = import_hwnas(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr


def test_both_are_at_hand_from_hwnas():
    import hwnas

    assert hwnas.profilers.__distribution__ == hwnas.predictors.__distribution__ == "hwnas"
    assert hwnas.__version__
