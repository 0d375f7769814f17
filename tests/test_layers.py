"""Who may import whom: profilers <- predictors <- hwnas, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("profilers", "predictors", "hwnas")
HEAVY = ("torch", "onnx", "onnxruntime", "sklearn", "pandas", "optuna")


def imported(path):
    """Full names of all modules that a file imports, also within functions and relatively."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            yield ".".join([*package, *([node.module] if node.module else [])])


def top_levels(path):
    return {name.partition(".")[0] for name in imported(path)}


def files(*patterns):
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


@pytest.mark.parametrize(
    ("package", "allowed"), [(p, PACKAGES[: i + 1]) for i, p in enumerate(PACKAGES)]
)
def test_a_package_imports_only_itself_and_those_below(package, allowed):
    found = files(f"{package}/**/*.py")
    assert found
    for path in found:
        assert top_levels(path) & set(PACKAGES) <= set(allowed), path


@pytest.mark.parametrize("path", files("hwnas/strategies/*.py", "hwnas/pareto.py",
                                       "hwnas/budget.py", "hwnas/spaces/base.py"),
                         ids=lambda path: path.name)  # fmt: skip
def test_what_decides_about_a_search_touches_no_network_and_no_device(path):
    # Through other modules of ours too, as far as they are imported at the top.
    seen, queue = set(), [path]
    while queue:
        current = queue.pop()
        seen.add(current)
        assert not top_levels(current) & {"torch", "onnx", "onnxruntime"}, current
        for name in imported(current):
            base = ROOT.joinpath(*name.split("."))
            for candidate in (base.with_suffix(".py"), base / "__init__.py"):
                if candidate.exists() and candidate not in seen:
                    queue.append(candidate)


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["hwnas", "hwnas.cli", "hwnas.config", "hwnas.spaces", "profilers", "predictors"]
)
def test_importing_it_loads_nothing_heavy(module):
    loaded = loaded_by(f"import {module}")
    assert module.partition(".")[0] in loaded
    assert not loaded & set(HEAVY)


def test_searching_costs_loads_no_runtime():
    loaded = loaded_by("import hwnas.strategies, hwnas.feasibility")
    assert not loaded & {"torch", "onnx", "onnxruntime"}


def test_every_module_has_a_docstring_and_every_package_its_type_marker():
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
        for path in files(f"{package}/**/*.py"):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
