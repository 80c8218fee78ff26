"""Which kinds of change are there? One visible table; candidates are proposed in this order, the smallest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.repair.changes import (
    activation,
    clipping,
    connect,
    eps,
    formats,
    initialisation,
    loss,
    norm,
    placebo,
    rate,
    recurrence,
    residual,
    scale,
    skip,
    symmetry,
    transformer,
    unsafe,
    warmup,
)
from gradtrace.repair.changes.kind import Kind

if TYPE_CHECKING:
    from gradtrace.records.change import Change
    from gradtrace.repair.situation import Situation

KINDS: dict[str, Kind] = {
    "unsafe": unsafe.KIND,
    "connect": connect.KIND,
    "loss": loss.KIND,
    "formats": formats.KIND,
    "scale": scale.KIND,
    "transformer": transformer.KIND,
    "recurrence": recurrence.KIND,
    "activation": activation.KIND,
    "symmetry": symmetry.KIND,
    "initialisation": initialisation.KIND,
    "norm": norm.KIND,
    "skip": skip.KIND,
    "residual": residual.KIND,
    "rate": rate.KIND,
    "warmup": warmup.KIND,
    "clipping": clipping.KIND,
    "eps": eps.KIND,
    "placebo": placebo.KIND,
}


def propose_all(situation: Situation) -> tuple[list[Change], list[str]]:
    """Every change that fits the findings, and why a kind could not propose itself."""
    found: list[Change] = []
    notes: list[str] = []
    for name, kind in KINDS.items():
        if name == "placebo":
            continue
        try:
            found += kind.propose(situation)
        except InputError as error:
            notes.append(f"no change of kind {name}: {error}")
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            notes.append(f"proposing {name} failed ({type(error).__name__}: {error}); please report it")
    return found, notes
