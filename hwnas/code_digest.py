"""What tells the user's code of today from that of yesterday: modules, and what they import."""

from __future__ import annotations

import ast
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from hwnas import __version__

__all__ = ["code_digest", "own_digest", "own_version"]

_INIT = "__init__"
_OURS = ("hwnas", "predictors", "profilers")  # told by their version
MAX_FILES = 100  # the nearest: of large packages the rest is told by their versions
_UNREADABLE = (RecursionError, SyntaxError, ValueError)


def code_digest(*modules: str) -> str:
    """A digest of the code of modules, and of all that they import from where they lie.

    A module of a package is followed through that package, any other through what lies beside it,
    unless that is where packages are installed; `MAX_FILES` at most. Comments and layout do not
    count, and an import whose name is made up while the program runs is not seen. Nothing is run.

    Args:
        modules: Keys of `sys.modules`.

    Returns:
        Hexadecimal digits; empty where no module has a source, as in a console.
    """
    codes: dict[str, str] = {}
    for module in modules:
        with suppress(KeyError, OSError, TypeError):  # it has no source
            path = Path(inspect.getfile(sys.modules[module])).resolve()
            depth = module.count(".") + (path.stem == _INIT)
            codes |= _codes(path, path.parents[depth])
    if not codes:
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


@cache
def own_version() -> str:
    """What tells two installations apart: a package that is edited in place keeps its version."""
    return f"{__version__} (code {own_digest()})"


def _codes(path: Path, root: Path) -> dict[str, str]:
    """The code of a file and of the files below `root` that it imports, by their place there."""
    package = path.relative_to(root).parts[:-1]
    # The same wherever a package is installed: only what is in it, and all of that.
    inside = root / package[0] if package else root
    is_followed = bool(package) or not _is_installed(root)
    codes: dict[str, str] = {}
    waiting = [path]
    while waiting and len(codes) < MAX_FILES:
        file = waiting.pop(0)
        place = file.relative_to(root).as_posix()
        if place in codes or not file.is_relative_to(inside):
            continue
        source = file.read_bytes()
        try:
            tree = ast.parse(source)
            codes[place] = ast.unparse(tree)
        except _UNREADABLE:  # it may be for another version of Python
            codes[place] = hashlib.sha256(source).hexdigest()
        else:
            waiting += _imported(tree, file, root) if is_followed else ()
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


def _is_installed(folder: Path) -> bool:
    known = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    known.append(site.getusersitepackages())
    return any(folder.is_relative_to(Path(path).resolve()) for path in known)
