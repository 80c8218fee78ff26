"""The tables of a run's file, and how they are opened: SQLite with a write-ahead log.

A file may come from anywhere. What is read is held against the file's own size, so that a table which is a view without
an end, or computes its values, takes neither time nor memory.

A process that is killed leaves what was committed; the next one that opens the file finds it whole (SQLite's
documentation, "Write-Ahead Logging"). Over NFS the log's shared memory does not work: such a folder is refused.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path

from gradtrace.errors import TraceFileError
from gradtrace.records.files import SQLITE, kind_of, starts_with

FORMAT = "gradtrace run"
VERSION = 2

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    first INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_s REAL NOT NULL, nonfinite INTEGER NOT NULL,
    packed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (step INTEGER NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS findings (number INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS traces (step INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ranks (step INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS entries (step INTEGER PRIMARY KEY, packed BLOB NOT NULL);
"""

MOST_LOG_BYTES = 8 * 2**20
"""What the write-ahead log may keep after its rows went to the database: a large transaction leaves a large file."""

MOST_VALUE_BYTES = 256 * 2**20
"""Of one value: a whole trace takes less."""

STEPS_TOGETHER = 10_000
"""Instructions of SQLite's machine between two looks at how many there have been."""
MOST_STEPS_PER_BYTE = 16
"""A table scan takes about 15 instructions a row, and a row of ours more than 15 bytes."""
FREE_STEPS = 10_000_000
"""Believed of any file: a fraction of a second."""

BUSY_S = 0.05
"""[seconds] What a writing waits for another program at the most: training waits with it."""

_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs", "lustre", "beegfs", "ceph"}


def create(path: Path) -> sqlite3.Connection:
    """A new run's file, or an old one to go on with.

    Raises:
        OSError, sqlite3.Error: the folder cannot be written, the disk is full, it is no database.
        TraceFileError: the file is another program's, or from a newer version; it is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            _check(path, read_meta(connection))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA journal_size_limit={MOST_LOG_BYTES}")
        connection.executescript(SCHEMA)
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?), ('version', ?)", (FORMAT, str(VERSION)))
    except (sqlite3.Error, UnicodeDecodeError) as error:
        connection.close()
        if path.is_file():
            raise _told(path, error) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """A run's file, while it is written or afterwards.

    Raises:
        TraceFileError: there is no such file, it is no run of ours, cut off, or from a newer version.
    """
    if not starts_with(path, SQLITE):
        raise TraceFileError(f"{path} is not the file of a run: it is {kind_of(path)}")
    connection = _connect_to_read(path)
    try:
        _bounded(connection, path)
        _are_tables(connection, path)
        _check(path, read_meta(connection))
    except (sqlite3.Error, UnicodeDecodeError) as error:  # (it quotes the file)
        connection.close()
        raise _told(path, error) from error
    except TraceFileError:
        connection.close()
        raise
    return connection


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Without its log's shared memory where the folder is read-only, as long as all has been written into the file."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if not (log.is_file() and log.stat().st_size):
            connection.close()
            return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    except (sqlite3.Error, UnicodeDecodeError):
        pass  # it is said at the first query that matters
    return connection


def _bounded(connection: sqlite3.Connection, path: Path) -> None:
    """No value, and no query, is larger than a file of this size can make it."""
    if sys.version_info >= (3, 11):  # before, the size of the file alone bounds a value
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE_BYTES)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    num_left = FREE_STEPS + MOST_STEPS_PER_BYTE * path.stat().st_size

    def is_too_much() -> bool:
        nonlocal num_left
        num_left -= STEPS_TOGETHER
        return num_left < 0

    connection.set_progress_handler(is_too_much, STEPS_TOGETHER)


def _are_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `TraceFileError` where one of the tables is a view, is virtual, or computes its values."""
    names = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", SCHEMA)
    found = connection.execute("SELECT name, type, rootpage FROM sqlite_master LIMIT 100").fetchall()
    for name, kind, page in found:
        if name in names and (kind != "table" or not page):
            raise TraceFileError(f"{path} is damaged: its {name} are no table")
    for name in names:
        if any(column[6] for column in connection.execute(f"PRAGMA table_xinfo({name})")):
            raise TraceFileError(f"{path} is damaged: its {name} are computed")


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether it is there: files of earlier versions lack some."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone())


def read_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """What the file says of itself, as far as it is text."""
    found = connection.execute("SELECT key, value FROM meta LIMIT 100").fetchall()
    return {key: value for key, value in found if isinstance(key, str) and isinstance(value, str)}


def _check(path: Path, meta: dict[str, str]) -> None:
    """Raise `TraceFileError` unless this version reads such a run."""
    if meta.get("format") != FORMAT or not re.fullmatch("[0-9]{1,9}", meta.get("version", "")):
        raise TraceFileError(f"{path} is a database, but not of a gradtrace run")
    if int(meta["version"]) > VERSION:
        raise TraceFileError(
            f"{path} was written by a newer gradtrace (run format {meta['version']}; this one reads {VERSION}): "
            "upgrade it"
        )
    if int(meta["version"]) < VERSION:
        raise TraceFileError(
            f"{path} was written by an earlier gradtrace (run format {meta['version']}; this one reads {VERSION}): "
            "record the run again, or read it with that version"
        )


def _told(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> Exception:
    """What SQLite says of a file, in a sentence; what it says of a disk or a folder, as it is."""
    if "no such table: meta" in str(error) or "no such column" in str(error):
        return TraceFileError(f"{path} is a database, but not of a gradtrace run")
    if isinstance(error, sqlite3.OperationalError):
        return TraceFileError(f"cannot open {path}: {said(error)}")
    return TraceFileError(f"{path} is damaged or cut off: {said(error)}")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another program has locked the file for the moment."""
    return "is locked" in str(error)  # SQLITE_BUSY and SQLITE_LOCKED; Python 3.10 does not tell the code


def said(error: Exception) -> str:
    """An error's own words: the first line, without signs that would move the cursor."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return "".join(sign if sign.isprintable() else "?" for sign in line)[:200]


def remote_filesystem(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Name of the network file system that `path` lies on; None: it is local, or cannot be told."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
        place = path.absolute().resolve()
    except OSError:
        return None
    points = [(Path(line[1].replace("\\040", " ")), line[2]) for line in lines if len(line) > 2]
    over = [(point, kind) for point, kind in points if place.is_relative_to(point)]
    kind = max(over, key=lambda pair: len(pair[0].parts), default=(None, ""))[1]
    return kind if kind in _REMOTE else None
