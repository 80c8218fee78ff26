"""Whose file is it while it is written? One writer's: a second one, in this process or another, is told so.

The claim is an advisory lock of the kernel's (flock(2)) on the file itself, beside SQLite's own locks, which are of
another kind (fcntl(2)); it ends with the process, however that ends. A descriptor of the file must not be closed while
SQLite has it open (its locks would be lost: sqlite.org, "How To Corrupt", section 2.2), so that within a process a
table tells.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.errors import TraceFileError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

try:
    import fcntl
except ImportError:  # no POSIX: within the process only
    fcntl = None  # type: ignore[assignment]

Place = tuple[int, int]
"""Device and inode: what a file is, whatever its name."""

_held: dict[Place, int] = {}
"""Descriptors of this process's claims."""
_lock = threading.Lock()


@dataclass(slots=True)
class Claim:
    """The right to write one file."""

    path: Path
    place: Place | None = None

    @classmethod
    def on(cls, path: Path) -> Self:
        """Not yet taken; raises `TraceFileError` where the file is there, and another writer's."""
        claim = cls(path)
        if path.is_file():
            claim.take()
        return claim

    def take(self) -> None:
        """Once the file is there; raises `TraceFileError` where it is another writer's."""
        if self.place is not None:
            return
        found = place_of(self.path)
        assert found is not None, "it was opened just now"
        with _lock:
            if found in _held:
                raise TraceFileError(f"{self.path} is being written by another watch of this process")
            descriptor = os.open(self.path, os.O_RDONLY)
            if fcntl is not None:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    os.close(descriptor)
                    raise TraceFileError(f"{self.path} is being written by another process") from error
                except OSError:  # a file system without such locks
                    pass
            _held[found] = descriptor
            self.place = found

    def is_lost(self) -> bool:
        """Whether the file was deleted, or another lies at its path."""
        return self.place is not None and place_of(self.path) != self.place

    def release(self) -> None:
        """After SQLite has let go of the file."""
        with _lock:
            descriptor = _held.pop(self.place, None) if self.place is not None else None
            self.place = None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def place_of(path: Path) -> Place | None:
    """Of the file that lies there now; None: none does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _forget_in_child() -> None:
    """A forked child writes nothing, and must not hold the claim when its parent has gone."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    for descriptor in _held.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
