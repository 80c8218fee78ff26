"""Where on the terminal is there room for a picture, while a script writes what and when it likes?

In the last lines: they are taken out of the terminal's scrolling region (DECSTBM), so that the script's output,
progress bars included, scrolls above them as before, byte for byte. Each picture is one ``write``, with the cursor put
back where it was. A process killed on the spot cannot give the lines back; a small one that waits for it does.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAVE, _RESTORE, _WHOLE_REGION = "\x1b7", "\x1b8", "\x1b[r"
_MIN_ROWS, _MIN_COLUMNS = 24, 60
_MIN_HEIGHT, _MAX_HEIGHT = 9, 16


@dataclass(frozen=True, slots=True)
class Place:
    """Room for a picture."""

    rows: int
    """Of the whole terminal."""
    width: int
    height: int


def place_on(descriptor: int) -> Place | None:
    """The room that the terminal has; None if it is too small, or no terminal."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return None
    if size.lines < _MIN_ROWS or size.columns < _MIN_COLUMNS:
        return None
    return Place(size.lines, size.columns, min(max(size.lines // 3, _MIN_HEIGHT), _MAX_HEIGHT))


class Screen:
    """The last lines of the terminal behind `descriptor`; whoever opens it closes it."""

    def __init__(self, descriptor: int, place: Place) -> None:
        self._descriptor, self._place = descriptor, place
        self._guard = _guard(descriptor)
        # scroll what is there up by as many lines, and stay on the line where the cursor was
        self._write("\n" * place.height + f"\x1b[{place.height}A" + _SAVE + self._region() + _RESTORE)

    def draw(self, lines: Sequence[str]) -> Place | None:
        """Show `lines`, colours and all; returns the room for the next picture, None once there is too little."""
        top = self._place.rows - self._place.height + 1
        shown = [f"\x1b[{top + row};1H\x1b[2K{line}\x1b[0m" for row, line in enumerate(lines[: self._place.height])]
        self._write(_SAVE + self._region() + "\x1b[?7l" + "".join(shown) + "\x1b[?7h" + _RESTORE)
        place = place_on(self._descriptor)
        if place is not None:
            self._place = place
        return place

    def close(self) -> None:
        """Give the lines back, empty."""
        top = self._place.rows - self._place.height + 1
        self._write(_SAVE + _WHOLE_REGION + f"\x1b[{top};1H\x1b[J" + _RESTORE)
        with contextlib.suppress(OSError):
            os.write(self._guard, b"done\n")
        os.close(self._guard)

    def forget(self) -> None:
        """In a forked process: the lines are the parent's."""
        os.close(self._guard)

    def _region(self) -> str:
        return f"\x1b[1;{self._place.rows - self._place.height}r"

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, text.encode())


def _guard(descriptor: int) -> int:
    """A pipe whose other end is read by a process that nobody waits for: if nothing is said before the end, it acts."""
    read, write = os.pipe()
    reset = r"(read said || printf '\0337\033[r\0338\033[J') &"
    subprocess.run(["/bin/sh", "-c", reset], stdin=read, stdout=descriptor, start_new_session=True, check=False)
    os.close(read)
    return write
