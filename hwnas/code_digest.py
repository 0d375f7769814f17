"""What tells the user's code of today from that of yesterday: a module, and what it imports."""

from __future__ import annotations

import ast
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["code_digest", "own_digest"]

_INIT = "__init__"
_OURS = ("hwnas", "predictors", "profilers")  # told by their version


def code_digest(module: str) -> str:
    """A digest of the code of a module, and of all that it imports from the folder it lies in.

    Comments and layout do not count. Of installed packages nothing but the module itself counts,
    and an import whose name is made up while the program runs is not seen. Nothing is run for it.

    Args:
        module: A key of `sys.modules`.

    Returns:
        Hexadecimal digits; empty where the module has no source, such as a console.
    """
    try:
        path = Path(inspect.getfile(sys.modules[module])).resolve()
        depth = module.count(".") + (path.stem == _INIT)
        codes = _codes(path, path.parents[depth])
    except (KeyError, OSError, SyntaxError, TypeError, ValueError):
        return ""
    return hashlib.sha256(repr(sorted(codes.items())).encode()).hexdigest()


def own_digest() -> str:
    """Eight hexadecimal digits of the code of this distribution, which may be edited in place."""
    found = hashlib.sha256()
    for package in _OURS:
        root = Path(__file__).parents[1] / package
        for path in sorted(root.rglob("*.py")):
            found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:8]


def _codes(path: Path, root: Path) -> dict[str, str]:
    """The code of a file and of the files below `root` that it imports, by their place there."""
    codes: dict[str, str] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        place = file.relative_to(root).as_posix()
        if place not in codes:
            tree = ast.parse(file.read_bytes())
            codes[place] = ast.dump(tree)
            waiting += () if _is_installed(file) else _imported(tree, file, root)
    return codes


def _imported(tree: ast.AST, file: Path, root: Path) -> Iterator[Path]:
    """Files below `root` that importing what `tree` imports may run."""
    package = file.relative_to(root).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(tuple(alias.name.split(".")), root)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:  # a module or something in one
                yield from _files((*base, alias.name), root)


def _files(name: tuple[str, ...], root: Path) -> Iterator[Path]:
    """The module of that name, as far as there is one, and the packages that it is in."""
    if name and name[0] in _OURS:
        return
    for n in range(1, len(name) + 1):
        place = root.joinpath(*name[:n])
        found = [place.with_name(f"{place.name}.py"), place / f"{_INIT}.py"]
        yield from (file for file in found if file.is_file())


def _is_installed(path: Path) -> bool:
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    folders += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(path.is_relative_to(Path(folder).resolve()) for folder in folders)
