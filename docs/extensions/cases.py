"""What does gradtrace say of every case of the casebook, and how does it look?

Checked once, and kept until the code changes. One of them as JSON:

    python -m docs.extensions.cases deep_sigmoid
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

from docs.extensions.drawing import draw

import gradtrace
from gradtrace.casebook import CASES

KEPT = Path(__file__).parents[1] / "_build"
MAX_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Shown:
    """A case: the truth, the verdict, the picture."""

    name: str
    family: str
    about: str
    source: str
    steps: int
    truth: tuple[str, str]
    """(symptom, cause)."""
    where: tuple[str, ...]
    verdict: tuple[str, str]
    places: tuple[str, ...]
    """Where the verdict says it is."""
    message: str
    is_right: bool
    picture: str


def show(name: str) -> Shown:
    """Build it, check it, draw it."""
    from gradtrace.casebook.__main__ import check
    from gradtrace.casebook.score import score

    case = CASES[name]
    diagnosis = check(case)
    said = score(case, diagnosis)
    first = next((f for f in diagnosis.findings if f.severity.value != "info"), None)
    return Shown(
        name=name,
        family=case.build.__module__.rpartition(".")[2],
        about=inspect.getdoc(case.build) or "",
        source=case.source,
        steps=case.steps,
        truth=(case.symptom.value, case.cause.value),
        where=case.where,
        verdict=(said.symptom.value, said.cause.value),
        places=said.where,
        message=first.message if first is not None else "",
        is_right=said.right,
        picture=draw(diagnosis),
    )


@cache
def shown() -> dict[str, Shown]:
    """All of them, in the order of the casebook; from the file that an earlier build of the same code left."""
    kept = KEPT / f"casebook-{_digest()}.json"
    if not kept.is_file():
        KEPT.mkdir(exist_ok=True)
        for old in KEPT.glob("casebook-*.json"):
            old.unlink()
        temporary = kept.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps([asdict(one) for one in _run_all()]), encoding="utf-8")
        temporary.replace(kept)
    return {one["name"]: Shown(**one) for one in json.loads(kept.read_text(encoding="utf-8"))}


def _run_all() -> list[Shown]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the workers: there is one for each core
    num_workers = min(MAX_WORKERS, os.cpu_count() or 1)
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(show, CASES))


def _digest() -> str:
    """Of everything that a verdict or its picture depends on."""
    package = Path(gradtrace.__file__).parent
    files = [*sorted(package.rglob("*.py")), Path(__file__), Path(__file__).with_name("drawing.py")]
    digest = hashlib.sha256(metadata.version("torch").encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.stdout.write(json.dumps([asdict(show(name)) for name in sys.argv[1:]], indent=1) + "\n")
