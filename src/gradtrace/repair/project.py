"""Which files of the user's does the network come from? Those of imported modules that lie in the project's folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

_OWN = __name__.partition(".")[0]


def project_modules(folder: Path) -> dict[str, Path]:
    """Name -> file of every imported module of the user's within the folder."""
    found = {}
    for name, module in list(sys.modules.items()):
        path = _file_of(module)
        if path is None or name == "__main__" or name.partition(".")[0] == _OWN:
            continue
        if path.is_relative_to(folder) and "site-packages" not in path.parts:
            found[name] = path
    return found


def project_files(folder: Path) -> list[Path]:
    """Their files, each once."""
    return sorted(set(project_modules(folder).values()))


def text_of(path: Path) -> str:
    """A source as it lies there, every end of line its own; raises `InputError`."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not in UTF-8, and could not be patched") from error


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    path = Path(file)
    return path.resolve() if path.is_absolute() and path.is_file() else None  # torch has modules of no file
