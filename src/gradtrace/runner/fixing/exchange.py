"""What does a process that runs the script get told, and what does it answer? Frozen records, pickled into a file."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from pathlib import Path

from gradtrace.records.change import Change
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.repair import Shares
from gradtrace.repair.patch import Shape
from gradtrace.runner.script import Script


@dataclass(frozen=True, slots=True)
class Order:
    """Run the script up to so many steps, with these changes in."""

    script: Script
    steps: int
    seed: int = 0
    """0 leaves the script's own seeds as they are."""
    changes: tuple[Change, ...] = ()
    measured_by: tuple[Change, ...] = ()
    """Where the script's loss is no measure: what its value is to be that of."""
    is_probe: bool = False
    """Also look for what could be changed."""
    is_shape_only: bool = False
    """End as soon as the network is known."""
    first_layer: str = ""
    """Parameter whose updates are told."""
    seconds: float = math.inf
    """The steps end then, if there were `FEWEST` of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the script makes its optimizer: lines that change the network go behind it."""

    file: str
    line: int
    model: str
    """The model as the script names it there, or ''."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the first run of the script tells."""

    diagnosis: Diagnosis
    shares: Shares | None
    candidates: tuple[Change, ...]
    placebos: tuple[Change, ...]
    notes: tuple[str, ...]
    first_layer: str
    optimizer: str
    num_optimizers: int
    place: Place | None
    """Of the first one."""
    sets_rate: bool
    """The script sets the learning rate itself, with no scheduler of torch."""
    has_schedule: bool = False
    """A scheduler of torch does."""
    files: tuple[str, ...] = ()
    """Of the modules that it imports from its folder, relative."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of it."""

    losses: tuple[float, ...] = ()
    """By step; the last one is inf where a loss was not finite."""
    findings: tuple[Finding, ...] = ()
    levels: tuple[tuple[str, float], ...] = ()
    decades: float | None = None
    """Of the first layer's gradient against the late one's, at the first step."""
    first_layer_ratio: float | None = None
    start_s: float = 0.0
    """[seconds] Until the training began."""
    step_s: float = 0.0
    """[seconds] Of a step."""
    has_ended: bool = False
    """The script came to its end by itself."""
    failure: str = ""
    """Why it ended before it trained, half a sentence; or what it raised."""
    refused: str = ""
    """Why the changes do not fit."""
    own_seeds: tuple[int, ...] = ()
    writes: tuple[str, ...] = ()
    """Files outside of the copied folder that it wrote."""
    may_divide: bool = False
    """Whether a process that had imported torch before would have been the same to the script."""
    shape: Shape = ()
    probed: Probed | None = None


def write(path: Path, record: Order | Answer) -> None:
    """At once: what is there is whole."""
    beside = path.with_suffix(".part")
    beside.write_bytes(pickle.dumps(record))
    beside.replace(path)


def read(path: Path) -> Order | Answer:
    """What one of our own processes has written."""
    record: Order | Answer = pickle.loads(path.read_bytes())
    return record
