"""Functions of the user's own, named on the command line: `FILE.py:FUNCTION`, `MODULE:FUNCTION`."""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hwnas.errors import HwnasError

__all__ = ["is_reference", "load_function", "module_name", "user_errors"]

OURS = str(Path(__file__).parent)


def is_reference(name: str) -> bool:
    """Whether `name` looks like `FILE.py:FUNCTION` or `MODULE:FUNCTION`.

    Example:
        >>> is_reference("spaces/mine.py:space"), is_reference("package.spaces:mine")
        (True, True)
        >>> is_reference("mobile"), is_reference("mobile:")
        (False, False)
    """
    where, _, function = name.rpartition(":")
    return bool(where) and function.isidentifier()


@contextmanager
def user_errors(name: str, error: type[HwnasError]) -> Iterator[None]:
    """Turn whatever the user's code raises into one message with the line of theirs that did.

    Meanwhile the current directory is importable.

    Args:
        name: What was being loaded or called.
        error: Of which class the message is; errors of ours pass as they are.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # a module may have been written a moment ago
    try:
        yield
    except HwnasError:
        raise
    except ModuleNotFoundError as reason:
        raise error(f"{name}: {reason}; looked in {here} and in the installed packages") from reason
    except Exception as reason:
        frames = traceback.extract_tb(reason.__traceback__)
        theirs = [frame for frame in frames if not frame.filename.startswith(OURS)]
        last = (theirs or frames)[-1]
        text = reason.args[0] if isinstance(reason, KeyError) and reason.args else reason
        raise error(
            f"{name}: {type(reason).__name__}: {text} ({last.filename}:{last.lineno})"
        ) from reason
    finally:
        sys.path.remove(here)


def load_function(name: str, error: type[HwnasError]) -> Callable[..., Any]:
    """The function that `FILE.py:FUNCTION` or `MODULE:FUNCTION` names.

    A module is looked for in the current directory first, then among the installed packages; a
    file may import what lies beside it.

    Args:
        name: For which `is_reference` holds.
        error: Which error of ours to raise.

    Raises:
        HwnasError: `error`; there is no such file, module or function, or it cannot be imported.
    """
    where, _, function_name = name.rpartition(":")
    with user_errors(name, error):
        is_file = where.endswith(".py")
        module = _run_file(Path(where), error) if is_file else importlib.import_module(where)
        function = getattr(module, function_name, None)
        if not callable(function):
            kind = "file" if is_file else "module"
            raise error(f"{name}: {kind} {where!r} has no function {function_name!r}")
        return function  # type: ignore[no-any-return]


def module_name(name: str) -> str:
    """What the module of a reference is called in `sys.modules`, once it was loaded."""
    where, _, _ = name.rpartition(":")
    return _file_module(Path(where).expanduser()) if where.endswith(".py") else where


def _file_module(path: Path) -> str:
    """A name of its own, without dots: it is in no package."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    return f"{path.stem.replace('.', '_')}_{digest}"


def _run_file(path: Path, error: type[HwnasError]) -> ModuleType:
    """Run a file as a module; each time anew, for it may have changed.

    Raises:
        HwnasError: `error`; it cannot be read.
    """
    path = path.expanduser()
    try:
        source = path.read_bytes()
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror or reason}") from None
    # Among the modules, where dataclasses and `inspect` look for the one of a class.
    module = ModuleType(_file_module(path))
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module
    beside = str(path.resolve().parent)
    sys.path.insert(0, beside)
    try:
        exec(compile(source, module.__file__, "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    finally:
        sys.path.remove(beside)
    return module
