"""How does a patch come into the user's file? Where it can be taken back, and the file is the one that was tried."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from gradtrace.commands.ending import UNHEALTHY
from gradtrace.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from gradtrace.records.repair import Repair
    from gradtrace.repair.patch import UserFile


def write_patch(repair: Repair, file: UserFile, target: str | None, *, force: bool = False) -> None:
    """The patch into its files, if they are still those that were tried; then `target`, a factory, is checked."""
    from gradtrace.repair.patch import name_in_diff, parts_of, patched_text

    best = repair.best
    if best is None:
        return  # what was shown says why: all is well, or nothing helped
    if not best.diff:
        raise InputError(f"there is no patch to write: {best.no_diff or 'the file of the factory is not known'}")
    parts = parts_of(best.diff)
    chosen = {path: text for path, text in file.texts.items() if name_in_diff(path) in parts}
    for path, text in chosen.items():
        if path != file.path:
            may_write(path, True, force)
        if hashlib.sha256(path.read_bytes()).digest() != hashlib.sha256(text.encode()).digest():
            raise InputError(f"{path} has changed since the change was tried; run gradtrace fix again")
    for path, text in chosen.items():
        path.write_bytes(patched_text(text, parts[name_in_diff(path)]).encode())
    written = " and ".join(str(path) for path in chosen)
    if target is not None:
        click.echo(f"\nWrote {written}. It is now:", err=True)
        _check_again(target)
    else:
        click.echo(f"\nWrote {written}. Watch it train: gradtrace run {file.path}", err=True)


def may_write(path: Path, write: bool, force: bool) -> None:
    """Raise `InputError` where an edit could not be taken back."""
    if write and not force and (state := _uncommitted(path)):
        told = "commit it first, so that the patch can be taken back, or add --force"
        raise InputError(f"{path} {state}: {told}")


def _uncommitted(path: Path) -> str:
    """What version control has against an edit, or ''."""
    try:
        found = subprocess.run(
            ["git", "status", "--porcelain", "--", path.name],
            cwd=path.resolve().parent, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "is not under version control that could be asked"
    if found.returncode:
        return "is not under version control"
    if found.stdout.startswith("??"):
        return "is not under version control"
    return "has edits that are not committed" if found.stdout.strip() else ""


def _check_again(target: str) -> None:
    """`gradtrace check` on the file as it is now, in a process of its own: this one has the old module."""
    done = subprocess.run([sys.executable, "-m", "gradtrace", "check", target], check=False)
    if done.returncode > UNHEALTHY:
        raise InputError("the edited file could not be checked: see above")
