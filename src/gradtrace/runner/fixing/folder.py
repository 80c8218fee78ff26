"""Where does the script run, so that what it writes lands nowhere near the user's files? In a fresh copy of the folder.

A symbolic link stays one: what is behind it is the user's. So is what the script names by absolute path; that is said.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.repair.project import text_of
from gradtrace.runner.watching import RUNS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradtrace.runner.script import Script

MOST_BYTES, MOST_FILES = 2**31, 50_000
"""Of a folder that is copied for every trial."""
LEFT_OUT = {".git", ".hg", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", "node_modules", "wandb",
            RUNS_FOLDER}  # fmt: skip
"""Folders that no training needs."""
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Folder:
    """The working folder, looked through once."""

    path: Path
    files: tuple[str, ...]
    """Relative; links and files."""
    num_bytes: int

    def copy(self, into: Path) -> None:
        """Every file, and the links."""
        for name in self.files:
            source, target = self.path / name, into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                target.symlink_to(_kept(source, self.path))
            elif source.is_file():  # and still there
                shutil.copy2(source, target)

    def sources(self, *, but: Path) -> Iterator[tuple[Path, str]]:
        """Python files and their texts as they are now."""
        for name in self.files:
            path = self.path / name
            if name.endswith(".py") and path.resolve() != but.resolve():
                with contextlib.suppress(OSError, InputError):
                    yield path, text_of(path)

    def within(self, script: Script) -> Script:
        """The script as it is named in a copy; one that lies elsewhere keeps its place."""
        if script.is_module:
            return script
        path = Path(os.path.abspath(script.name))  # noqa: PTH100 - links are kept
        if path.is_relative_to(self.path):
            return replace(script, name=str(path.relative_to(self.path)))
        return replace(script, name=str(path))


def look_through(path: Path) -> Folder:
    """The folder's files; raises `InputError` where it is too large to be copied for every trial."""
    names: list[str] = []
    size = 0
    for file in _files(path):
        names.append(str(file.relative_to(path)))
        size += 0 if file.is_symlink() else file.stat().st_size
        if size > MOST_BYTES or len(names) > MOST_FILES:
            raise InputError(
                f"every trial runs in a copy of the working folder, and {path} holds more than "
                f"{MOST_BYTES / 2**30:g} GiB or {MOST_FILES} files: start in a folder that holds the script and what "
                "it needs; data may lie elsewhere, behind a symbolic link"
            )
    return Folder(path, tuple(names), size)


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_symlink() or entry.is_file():
            yield path
        elif entry.is_dir() and entry.name not in LEFT_OUT and not (path / "pyvenv.cfg").exists():
            yield from _files(path)


def _kept(link: Path, folder: Path) -> Path:
    """What the link says, where that stays within the copy; else where it leads."""
    said = link.readlink()
    leads = Path(os.path.abspath(link.parent / said))  # noqa: PTH100
    return said if not said.is_absolute() and leads.is_relative_to(folder) else leads


def warnings(script: Script, folder: Folder) -> list[str]:
    """What has to be said before the script is started."""
    told = []
    named = list(dict.fromkeys([*_absolute(script.arguments), *_absolute(_literals(script))]))
    if named:
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        told.append(
            f"{script.name} names {', '.join(named[:MOST_NAMED])}{more} by absolute path: what it writes there, every "
            "trial writes there too"
        )
    if not script.is_module and Path(folder.within(script).name).is_absolute():
        told.append(f"{script.name} lies outside of the working folder: what it writes beside itself is not kept apart")
    return told


def _absolute(texts: Iterator[str] | tuple[str, ...]) -> Iterator[str]:
    for text in texts:
        path = text.partition("=")[2] if text.startswith("-") and "=" in text else text
        if path.startswith(("/", "~/")) and len(Path(path).parts) > 1 and not any(c in path for c in " \n<>{}|"):
            yield path


def _literals(script: Script) -> Iterator[str]:
    try:
        tree = ast.parse(Path(script.name).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            yield node.value
