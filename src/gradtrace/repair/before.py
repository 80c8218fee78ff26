"""What does a change do to the gradient before any step is made? Traced on a copy, beside the unchanged network."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.profile import profiles
from gradtrace.errors import InputError
from gradtrace.measure.ledger import ledger
from gradtrace.measure.path import Paths
from gradtrace.measure.trace import trace
from gradtrace.repair.applying import apply_changes

if TYPE_CHECKING:
    from gradtrace.records.repair import Shares, Trial
    from gradtrace.records.trace import Trace
    from gradtrace.repair.situation import Situation


def measured(trial: Trial, situation: Situation, shares: Shares | None) -> Trial:
    """What the change does to the gradient before any step; a change that does not fit is refused here."""
    try:
        twin = situation.twin()
        apply_changes(trial.changes, twin)
        if shares is None:
            return trial
        record = trace(twin.model, twin.training_loss_fn, situation.batches[0])
        paths = Paths(record)
        trial = replace(trial, levels=levels_of(record, paths))
        profile = next(iter(profiles(record, paths)), None)
    except InputError as error:
        return replace(trial, refused=str(error))
    if profile is None or not math.isfinite(profile.decades_norm):
        return trial
    return replace(trial, moved_decades=profile.decades_norm - shares.deficit)


def levels_of(record: Trace, paths: Paths) -> tuple[tuple[str, float], ...]:
    """(layer, decades of its gradient) from the loss on."""
    return tuple((row.module, row.product_log10) for row in ledger(record, paths))


def first_layer_of(situation: Situation) -> str:
    """The parameter of the earliest layer."""
    if situation.profile is not None and situation.profile.first.weights:
        return situation.profile.first.weights[0]
    return next((name for name, p in situation.model.named_parameters() if p.dim() > 1), "")
