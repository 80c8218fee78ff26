"""How is a record kept in a file, and read back by anyone? As gzipped strict JSON with a header; nothing is unpickled.

    {"format": "gradtrace", "version": 1, "kind": "trace", "tables": {"Trace": ..., "Op": ..., ...}}

`version` goes up when an older reader would misread a file; a new field with a default does not need it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import zlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from gradtrace.errors import TraceFileError
from gradtrace.records.codec import CodecError, decode, encode, encode_float
from gradtrace.records.consistency import check
from gradtrace.records.files import GZIP, RECORDS, check_output, kind_of, open_plain, parse
from gradtrace.records.finding import Diagnosis
from gradtrace.records.prediction import Prediction
from gradtrace.records.repair import Repair
from gradtrace.records.time import ThroughTime
from gradtrace.records.trace import Trace

FORMAT = "gradtrace"
VERSION = 1
Record = Trace | Diagnosis | Prediction | ThroughTime | Repair
KINDS: dict[str, type[Record]] = {
    "trace": Trace,
    "diagnosis": Diagnosis,
    "prediction": Prediction,
    "through_time": ThroughTime,
    "repair": Repair,
}

MAX_BYTES = 1 << 29
"""Most that a file may unpack to: about ten times what 1e5 ops take."""
FREE_BYTES = 1 << 24
"""Up to here any compression ratio is believed; beyond, MAX_RATIO (deflate itself stops at 1032)."""
MAX_RATIO = 25
"""[bytes of text per byte] Traces of layers that are all alike reach 15."""
BYTES_PER_VALUE = 4
"""[bytes of text] Fewer per value, on average, no record takes beyond FREE_BYTES; a Python object takes 30."""
PIECE_BYTES = 1 << 16
START = RECORDS[0]
"""How the text of a record begins."""


def pack(record: Record) -> bytes:
    """`record` as gzipped JSON; raises `TypeError` for what is none of `KINDS`."""
    kind = next((kind for kind, record_type in KINDS.items() if type(record) is record_type), None)
    if kind is None:
        kinds = " or ".join(record_type.__name__ for record_type in KINDS.values())
        raise TypeError(f"only a {kinds} can be saved, but it is {type(record).__name__}")
    document = {"format": FORMAT, "version": VERSION, "kind": kind, "tables": encode(record)}
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode(), compresslevel=5, mtime=0)


def save(record: Record, path: str | Path) -> None:
    """Write `record` to `path` as gzipped JSON; the file appears whole or not at all.

    Raises:
        TraceFileError: the file cannot be written, or there is another that gradtrace did not save.
    """
    write_whole(Path(path), pack(record), ours=RECORDS)


def write_whole(path: Path, content: bytes, ours: tuple[bytes, ...]) -> None:
    """The whole file or nothing; a pipe or a device is written into, and a link followed.

    Raises:
        TraceFileError: the file cannot be written, or there is another that shows none of the signs of `ours`.
    """
    check_output(path, ours=ours)
    path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_bytes(content)
        else:
            temporary.write_bytes(content)
            temporary.replace(path)
    except OSError as error:
        raise TraceFileError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load(path: str | Path) -> Record:
    """Read what `save` wrote.

    Raises:
        TraceFileError: there is no such file, it is cut off, not ours, or from a newer version.
    """
    path = Path(path)
    with open_plain(path) as file:
        try:
            packed = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise TraceFileError(f"cannot read {path}: {error.strerror or error}") from error
    return unpack(packed, path)


def unpack(packed: bytes, path: Path) -> Record:
    """The record that `pack` packed, found in `path`; raises `TraceFileError` as `load` does."""
    document = _parse(_decompress(packed, path), path)
    if document.get("format") != FORMAT:
        raise TraceFileError(f"{path} is JSON, but not a gradtrace file: its header does not say so")
    version, kind = document.get("version"), document.get("kind")
    if type(version) is not int or version < 1:
        raise TraceFileError(f"{path} is damaged: its header has no version")
    if version > VERSION:
        raise TraceFileError(
            f"{path} was written by a newer gradtrace (format {version}; this one reads up to {VERSION}): upgrade it"
        )
    if not isinstance(kind, str) or kind not in KINDS:
        known = " or ".join(map(repr, KINDS))
        raise TraceFileError(f"{path} holds {kind!r}, where {known} was expected")
    try:
        record: Record = decode(KINDS[kind], document.get("tables"))
        check(record)
    except CodecError as error:
        raise TraceFileError(f"{path} is damaged: {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise TraceFileError(f"{path} is damaged: a value in it is not what was expected ({error})") from error
    return record


def _decompress(packed: bytes, path: Path) -> bytes:
    """Piece by piece: what does not begin as a record is not unpacked further, however large it would become."""
    if not packed.startswith(GZIP):
        raise TraceFileError(f"{path} is not a gradtrace file: it is {kind_of(path)}")
    limit = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * len(packed)))
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: with gzip's header and checksum
    text, waiting = bytearray(), packed
    try:
        while not unpacker.eof:
            piece = unpacker.decompress(waiting, PIECE_BYTES)
            waiting = unpacker.unconsumed_tail
            if not piece and not waiting:
                break
            text += piece
            seen = bytes(text[: 2 * len(START)]).translate(None, b" \t\r\n")[: len(START)]
            if not START.startswith(seen) or not seen:
                raise TraceFileError(f"{path} is gzipped, but does not hold a record of gradtrace")
            if len(text) > limit:
                raise TraceFileError(f"{path} unpacks to more than {limit >> 20} MiB, which no record does: not read")
    except zlib.error as error:
        raise TraceFileError(f"{path} is damaged: {error}") from error
    if not unpacker.eof:
        raise TraceFileError(f"{path} is cut off: its end is missing")
    if len(text) > FREE_BYTES and BYTES_PER_VALUE * text.count(b",") > len(text):
        raise TraceFileError(f"{path} holds more values than its size allows: not read")
    return bytes(text)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        document = parse(text)
    except ValueError as error:
        raise TraceFileError(f"{path} is damaged: it does not hold JSON") from error
    assert isinstance(document, dict), "it begins as an object does"
    return document


# ----------------------------------------------------------------------------------------------------- for programs


def to_json(diagnosis: Diagnosis) -> str:
    """The verdict as strict JSON: findings in full, each trace without its ops.

    A number that is not finite is the string 'nan', 'inf' or '-inf'.

    >>> json.loads(to_json(Diagnosis(findings=())))["healthy"]
    True
    """
    verdict = {"format": FORMAT, "version": VERSION, "kind": "verdict", **_verdict(diagnosis)}
    return json.dumps(verdict, indent=2, allow_nan=False)


def repair_to_json(repair: Repair) -> str:
    """The repair as strict JSON: shares and trials in full, the verdict as in `to_json`."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "kind": "repair",
        **{
            name: plain(getattr(repair, name))
            for name in ("title", "optimizer", "steps", "seeds", "notes", "shares", "trials")
        },
        "best": repair.best.title if repair.best is not None else None,
        "diagnosis": _verdict(repair.diagnosis),
    }
    return json.dumps(document, indent=2, allow_nan=False)


def _verdict(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "title": diagnosis.title,
        "healthy": diagnosis.healthy,
        "findings": plain(diagnosis.findings),
        "losses": plain(diagnosis.losses),
        "refusals": plain(diagnosis.refusals),
        "moved": plain(diagnosis.moved),
        "traces": [_summary(trace) for trace in diagnosis.traces],
    }


def document(record: ThroughTime) -> str:
    """All of a record through time as strict JSON."""
    return json.dumps(plain(record), indent=2, allow_nan=False)


def prediction_json(prediction: Prediction) -> str:
    """All of a prediction as strict JSON, each layer with its growth."""
    whole = {"format": FORMAT, "version": VERSION, "kind": "prediction", **plain(prediction)}
    whole["layers"] = [{**plain(layer), "growth": plain(layer.split.growth)} for layer in prediction.layers]
    return json.dumps(whole, indent=2, allow_nan=False)


def _summary(trace: Trace) -> dict[str, Any]:
    kept = ("loss", "probe", "batch_size", "coverage", "nonfinite", "severed")
    return {
        **{name: plain(getattr(trace, name)) for name in kept},
        "num_ops": len(trace.ops),
        "num_parameters": len(trace.parameters),
        "environment": dict(trace.environment),
    }


def plain(value: Any) -> Any:
    """Dicts, lists and JSON numbers for a tree of records."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return encode_float(value) if isinstance(value, float) else value
