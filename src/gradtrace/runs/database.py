"""The tables of a run's file, and how they are opened: SQLite with a write-ahead log.

A process that is killed leaves what was committed; the next one that opens the file finds it whole (SQLite's
documentation, "Write-Ahead Logging"). Over NFS the log's shared memory does not work: such a folder is refused.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gradtrace.errors import TraceFileError

FORMAT = "gradtrace run"
VERSION = 1

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
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA journal_size_limit={MOST_LOG_BYTES}")
        connection.executescript(SCHEMA)
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?), ('version', ?)", (FORMAT, str(VERSION)))
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
        raise TraceFileError(f"cannot read {path}: there is no such file")
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise TraceFileError(f"{path} is not the file of a run: it is no SQLite database")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
    except sqlite3.OperationalError as error:
        connection.close()
        if "no such table" in str(error):
            raise TraceFileError(f"{path} is a database, but not of a gradtrace run") from error
        raise TraceFileError(f"cannot read {path}: {error}") from error
    except sqlite3.Error as error:
        connection.close()
        raise TraceFileError(f"{path} is damaged or cut off: {error}") from error
    if meta.get("format") != FORMAT or not meta.get("version", "").isdigit():
        connection.close()
        raise TraceFileError(f"{path} is a database, but not of a gradtrace run")
    if int(meta["version"]) > VERSION:
        connection.close()
        raise TraceFileError(
            f"{path} was written by a newer gradtrace (run format {meta['version']}; this one reads up to {VERSION}): "
            "upgrade it"
        )
    return connection


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
