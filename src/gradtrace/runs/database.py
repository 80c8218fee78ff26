"""The tables of a run's file, and how they are opened: SQLite with a write-ahead log.

A process that is killed leaves what was committed; the next one that opens the file finds it whole (SQLite's
documentation, "Write-Ahead Logging"). Over NFS the log's shared memory does not work: such a folder is refused.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gradtrace.errors import TraceFileError

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
"""

MOST_LOG_BYTES = 8 * 2**20
"""What the write-ahead log may keep after its rows went to the database: a large transaction leaves a large file."""

_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs", "lustre", "beegfs", "ceph"}


def create(path: Path) -> sqlite3.Connection:
    """A new run's file, or an old one to go on with.

    Raises:
        OSError, sqlite3.Error: the folder cannot be written, the disk is full, it is no database.
        TraceFileError: the file is another program's, or from a newer version; it is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False, isolation_level=None)
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            _check(path, dict(connection.execute("SELECT key, value FROM meta")))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA journal_size_limit={MOST_LOG_BYTES}")
        connection.executescript(SCHEMA)
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?), ('version', ?)", (FORMAT, str(VERSION)))
    except sqlite3.Error as error:
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
    if not path.is_file():
        raise TraceFileError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'there is no such file'}")
    try:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise TraceFileError(f"{path} is not the file of a run: it is no SQLite database")
    except OSError as error:
        raise TraceFileError(f"cannot read {path}: {error.strerror or error}") from error
    connection = _connect_to_read(path)
    try:
        _check(path, dict(connection.execute("SELECT key, value FROM meta")))
    except sqlite3.Error as error:
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
    except sqlite3.Error:
        pass  # it is said at the first query that matters
    return connection


def _check(path: Path, meta: dict[str, str]) -> None:
    """Raise `TraceFileError` unless this version reads such a run."""
    if meta.get("format") != FORMAT or not meta.get("version", "").isdigit():
        raise TraceFileError(f"{path} is a database, but not of a gradtrace run")
    if int(meta["version"]) > VERSION:
        raise TraceFileError(
            f"{path} was written by a newer gradtrace (run format {meta['version']}; this one reads up to {VERSION}): "
            "upgrade it"
        )


def _told(path: Path, error: sqlite3.Error) -> Exception:
    """What SQLite says of a file, in a sentence; what it says of a disk or a folder, as it is."""
    if "no such table: meta" in str(error) or "no such column" in str(error):
        return TraceFileError(f"{path} is a database, but not of a gradtrace run")
    if isinstance(error, sqlite3.OperationalError):
        return TraceFileError(f"cannot open {path}: {error}")
    return TraceFileError(f"{path} is damaged or cut off: {error}")


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
