"""Which kinds of change are there? One visible table; candidates are proposed in this order, the smallest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes import (
    activation,
    clipping,
    connect,
    decay,
    embedding,
    eps,
    features,
    formats,
    group_norm,
    initialisation,
    likelihood,
    log_space,
    lone_norm,
    loss,
    neighbours,
    norm,
    objective,
    output,
    placebo,
    rate,
    recurrence,
    residual,
    scale,
    skip,
    stable,
    symmetry,
    transformer,
    unsafe,
    warmup,
)
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.recurrent_draws import CHRONO, GATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.change import Change
    from gradtrace.repair.situation import Situation

KINDS: dict[str, Kind] = {
    "stable": stable.KIND,
    "unsafe": unsafe.KIND,
    "connect": connect.KIND,
    "lone_norm": lone_norm.KIND,
    "log_space": log_space.KIND,
    "objective": objective.KIND,
    "loss": loss.KIND,
    "likelihood": likelihood.KIND,
    "output": output.KIND,
    "formats": formats.KIND,
    "features": features.KIND,
    "scale": scale.KIND,
    "embedding": embedding.KIND,
    "neighbours": neighbours.KIND,
    "transformer": transformer.KIND,
    "recurrence": recurrence.KIND,
    "activation": activation.KIND,
    "symmetry": symmetry.KIND,
    "initialisation": initialisation.KIND,
    "norm": norm.KIND,
    "group_norm": group_norm.KIND,
    "skip": skip.KIND,
    "residual": residual.KIND,
    "rate": rate.KIND,
    "warmup": warmup.KIND,
    "clipping": clipping.KIND,
    "eps": eps.KIND,
    "decay": decay.KIND,
    "placebo": placebo.KIND,
}
OF_STEPS = ("rate", "warmup", "clipping", "eps", "decay")
"""Kinds that leave the network as it is."""
OF_THE_ENDS = ("stable", "unsafe", "connect", "log_space", "objective", "loss", "likelihood", "output", "formats",
               "features", "scale", "embedding")  # fmt: skip
"""Kinds that change what goes in, what comes out and how it is weighed, and no weight or layer between."""
MENDS: dict[Cause, tuple[str, ...]] = {
    Cause.ACTIVATION_DERIVATIVE: ("activation",),
    Cause.SATURATED_PREACTIVATION: ("initialisation", "norm", "features", "scale", "embedding"),
    Cause.SMALL_WEIGHTS: ("symmetry", "initialisation", "decay"),
    Cause.LARGE_WEIGHTS: ("initialisation", "embedding"),
    Cause.DEPTH_WITHOUT_SKIP: ("skip", "initialisation"),
    Cause.RECURRENT_CONTRACTION: ("recurrence",),
    Cause.RECURRENT_EXPANSION: ("recurrence",),
    Cause.BATCHNORM_EXPLOSION: ("skip", "group_norm"),
    Cause.RESIDUAL_GROWTH: ("residual",),
    Cause.ATTENTION_SATURATION: ("transformer",),
    Cause.POST_NORM: ("transformer",),
    Cause.LEARNING_RATE: ("rate", "warmup"),
    Cause.INPUT_SCALE: ("features", "scale", "embedding"),
    Cause.NUMERIC_FORMAT: ("formats",),
    Cause.DETACHED_GRAPH: ("connect", "lone_norm"),
    Cause.LOSS_FUNCTION: ("log_space", "objective", "loss", "likelihood", "output"),
    Cause.UNSAFE_OP: ("stable", "unsafe", "log_space"),
    Cause.REDUCTION_SCALE: ("scale", "neighbours"),
}
"""Kinds that take a cause away, as `gradtrace.remedies` has them, and not what it leads to alone."""
OF_THE_NETWORK = tuple(name for name in KINDS if name not in (*OF_STEPS, "placebo"))


def mends(changes: Sequence[Change], cause: Cause | None) -> bool:
    """Whether all of these, and there are some, take `cause` away."""
    return cause is not None and bool(changes) and all(_mends(change, cause) for change in changes)


def _mends(change: Change, cause: Cause) -> bool:
    """Whoever draws all weights draws those of a recurrence as `recurrence` does."""
    is_in_time = cause in (Cause.RECURRENT_CONTRACTION, Cause.RECURRENT_EXPANSION)
    return change.kind in MENDS.get(cause, ()) or (
        is_in_time and any(draw.how in (GATES, CHRONO) for draw in change.draws)
    )


def propose_all(
    situation: Situation, kinds: Sequence[str] = (*OF_THE_NETWORK, *OF_STEPS)
) -> tuple[list[Change], list[str]]:
    """Every change of these kinds that fits the findings, and why a kind could not propose itself."""
    found: list[Change] = []
    notes: list[str] = []
    for name in kinds:
        kind = KINDS[name]
        try:
            found += kind.propose(situation)
        except InputError as error:
            notes.append(f"no change of kind {name}: {error}")
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            notes.append(f"proposing {name} failed ({type(error).__name__}: {error}); please report it")
    return found, notes
