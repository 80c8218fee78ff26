"""What lies at a path, before any of it is believed? Only plain files are opened: a pipe never ends."""

from __future__ import annotations

import json
import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gradtrace.errors import TraceFileError

if TYPE_CHECKING:
    from io import BufferedReader

SQLITE = b"SQLite format 3\0"
"""How a run's file begins (sqlite.org, Database File Format, section 1.3)."""
GZIP = b"\x1f\x8b"
"""How a saved record begins (RFC 1952)."""

BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (SQLITE, "an SQLite database"),
    (GZIP, "a gzipped file"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint is one: gradtrace reads what it wrote itself)"),
    (b"PAR1", "a Parquet table"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"%PDF", "a PDF document"),
    (b"\x80\x02", "a pickle, which gradtrace never opens"),
    (b"\x80\x04", "a pickle, which gradtrace never opens"),
    (b"\x80\x05", "a pickle, which gradtrace never opens"),
    (b"<!doctype html", "a web page: open it in a browser"),
    (b"step,num_steps,", "the table of an exported run: read the run itself"),
)
SEEN_BYTES = 4096
END_BYTES = 1 << 16
"""How much of its end may tell whose an output is: a zip archive and a Parquet table say it there."""

RECORDS = (b'{"format":"gradtrace"',)
PAGES = (b'<meta name="generator" content="gradtrace">',)
"""By what an output of ours is known: a saved record, unpacked, and a page."""


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file to read.

    Raises:
        TraceFileError: there is none, or it is a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise TraceFileError(f"cannot read {path}: it is {_special(mode)}")
        return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except TraceFileError:  # which is a ValueError too
        raise
    except FileNotFoundError as error:
        raise TraceFileError(f"cannot read {path}: there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise TraceFileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _special(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def beginning(path: Path) -> bytes:
    """The first bytes of a plain file; raises `TraceFileError` as `open_plain`."""
    with open_plain(path) as file:
        try:
            return file.read(SEEN_BYTES)
        except OSError as error:
            raise TraceFileError(f"cannot read {path}: {error.strerror or error}") from error


def starts_with(path: Path, sign: bytes) -> bool:
    """Whether a plain file begins so; raises `TraceFileError` where there is none."""
    return beginning(path).startswith(sign)


def kind_of(path: Path) -> str:
    """What a plain file seems to be, in words."""
    seen = beginning(path)
    if not seen:
        return "empty"
    for sign, words in BEGINNINGS:
        if seen[: len(sign)].lower() == sign.lower():
            return words
    if b'"kind": "verdict"' in seen:
        return "the verdict of check --format json, which has no traces: keep the diagnosis with check --save FILE"
    if seen.lstrip()[:1] in b"{[" and seen.strip():
        return "JSON that is not gzipped"
    try:
        seen[:-4].decode() if len(seen) == SEEN_BYTES else seen.decode()
    except UnicodeDecodeError:
        return "none of the kinds that gradtrace writes"
    return "text"


def refuse_constant(constant: str) -> NoReturn:
    """For `json.loads`: NaN and Infinity are not JSON."""
    raise ValueError(f"{constant} is not strict JSON")


def parse(text: str | bytes) -> object:
    """Strict JSON; raises `ValueError`, also for what is nested too deep."""
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


# ------------------------------------------------------------------------------------------------------------- to write


def check_output(path: Path, source: Path | None = None, *, ours: tuple[bytes, ...]) -> None:
    """Raise `TraceFileError` unless `path` may be written: nothing is lost that gradtrace did not make for this.

    Args:
        path: where to.
        source: what is read, which is never overwritten.
        ours: signs, one of which an earlier output has near its beginning (of what is gzipped: unpacked) or its end:
            nothing else is overwritten.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise TraceFileError(f"cannot write {path}: {'it is a folder' if path.is_dir() else 'there is no such folder'}")
    if not path.is_file():
        return
    if source is not None and source.exists() and path.samefile(source):
        raise TraceFileError(f"{path} is what is read: it is not overwritten; name another file")
    seen = beginning(path)
    if seen.startswith(SQLITE):
        raise TraceFileError(f"{path} is a database: it is not overwritten; name another file")
    if seen and not any(sign in part for sign in ours for part in (_unpacked(seen), _end(path))):
        raise TraceFileError(f"{path} is there already, and is none of gradtrace's: name another file")


def _unpacked(seen: bytes) -> bytes:
    """The beginning of what is gzipped; of other files their own."""
    if seen.startswith(GZIP):
        with suppress(zlib.error):
            return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(seen, SEEN_BYTES)
    return seen


def _end(path: Path) -> bytes:
    with open_plain(path) as file:
        file.seek(-min(END_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return file.read(END_BYTES)
