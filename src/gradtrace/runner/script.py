"""How does Python start a script? The same here: ``__main__``, ``sys.argv``, ``sys.path`` and the source's own bytes.

The module made here stays ``sys.modules["__main__"]`` until the process ends, as Python's own would: workers that are
spawned import it again by its file or name, and pickles of its classes find it.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from types import CodeType


class Watchable(Protocol):
    """What is run under watch, as it is spoken of."""

    @property
    def name(self) -> str:
        """In a sentence."""

    @property
    def title(self) -> str:
        """Of its run."""

    @property
    def command(self) -> tuple[str, ...]:
        """What was typed to run it; () where it cannot be run again that way."""


@dataclass(frozen=True, slots=True)
class Script:
    """What stands on the command line: ``train.py a b`` or ``-m package.module a b``."""

    name: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    @property
    def title(self) -> str:
        """Short, for headings and file names: ``train`` of ``src/train.py``, ``package.train`` of the module."""
        return self.name if self.is_module else Path(self.name).resolve().stem

    @property
    def command(self) -> tuple[str, ...]:
        """As typed."""
        return (*(("-m",) if self.is_module else ()), self.name, *self.arguments)


def execute(script: Script) -> None:
    """Run `script` as ``__main__`` in this process; what it raises, it raises. `InputError` if there is none."""
    enter = _enter_module if script.is_module else _enter_file
    module, code = enter(script)
    exec(code, vars(module))


def check_exists(script: Script) -> None:
    """Raise `InputError` for a file that is not there, or not a module's name, before anything is imported for it."""
    path = Path(script.name)
    if script.is_module and path.suffix == ".py" and path.is_file():
        raise InputError(f"-m takes a module's name, and {script.name} is a file: gradtrace run {script.name}")
    if not script.is_module and not (path / "__main__.py" if path.is_dir() else path).is_file():
        missing = f"the folder {path} has no __main__.py" if path.is_dir() else f"there is no file {path}"
        hint = ""
        if not path.suffix and not path.is_dir() and "/" not in script.name:
            hint = f"; for a module: gradtrace run -m {script.name}"
        raise InputError(f"{missing} (from {Path.cwd()}){hint}")


def _enter_file(script: Script) -> tuple[ModuleType, CodeType]:
    check_exists(script)
    path = Path(script.name)
    folder = path.absolute() if path.is_dir() else path.resolve().parent  # for a link its target's, as Python has it
    file = os.path.join(os.getcwd(), script.name, *(["__main__.py"] if path.is_dir() else []))  # noqa: PTH109, PTH118
    known = {"__file__": file, "__loader__": importlib.machinery.SourceFileLoader("__main__", file)}
    module = _become_main(
        [script.name, *script.arguments], folder, known | ({"__package__": ""} if path.is_dir() else {})
    )
    with io.open_code(file) as source:
        return module, compile(source.read(), file, "exec", dont_inherit=True)


def _enter_module(script: Script) -> tuple[ModuleType, CodeType]:
    sys.argv = ["-m", *script.arguments]  # what Python shows to the packages that it imports on the way
    _replace_first_path(Path.cwd())
    spec = _find(script.name)
    loader: Any = spec.loader
    code = loader.get_code(spec.name)
    if code is None:
        raise InputError(f"{script.name} has no Python code to run")
    known = {"__spec__": spec, "__package__": spec.parent, "__cached__": spec.cached, "__loader__": loader}
    return _become_main([str(spec.origin), *script.arguments], None, known | {"__file__": spec.origin}), code


def _find(name: str) -> importlib.machinery.ModuleSpec:
    """The spec of a module, or of a package's ``__main__``."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name = f"{name}.__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the package is there; what it imports is not
        spec = None
    except ValueError:  # a name like ".x" or one whose __spec__ is None
        spec = None
    if spec is None or spec.loader is None:
        raise InputError(f"there is no module {name!r} (from {Path.cwd()})")
    return spec


def _become_main(argv: list[str], folder: Path | None, known: dict[str, Any]) -> ModuleType:
    module = ModuleType("__main__")
    annotations: dict[str, Any] = {"__annotations__": {}} if sys.version_info < (3, 14) else {}  # PEP 649
    vars(module).update({"__builtins__": builtins, "__cached__": None} | annotations | known)
    sys.argv = argv
    if folder is not None:
        _replace_first_path(folder)
    sys.modules["__main__"] = module
    return module


def _replace_first_path(folder: Path) -> None:
    """Python put the folder of *our* program first; the script expects its own there (unless started with ``-P``)."""
    if not getattr(sys.flags, "safe_path", False):  # which Python 3.10 does not know
        sys.path[0] = str(folder)
