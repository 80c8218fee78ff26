"""``python -m gradtrace.casebook.repaired``: does `gradtrace fix` restore ill networks, and leave the healthy alone?

Restored: the loss after the steps is below 0.7 of the unchanged network's over the same steps, and itself has fallen by
20 % (median over the paired seeds).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gradtrace.casebook import CASES
from gradtrace.records.repair import Role
from gradtrace.records.vocabulary import Symptom
from gradtrace.repair.pace import MOST_STEPS

if TYPE_CHECKING:
    from gradtrace.casebook.case import Case
    from gradtrace.records.repair import Repair, Trial

OF_UNCHANGED, OF_START = 0.7, 0.8


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of one case."""

    name: str
    ill: bool
    recommended: str
    by_first: bool
    by_any: bool
    placebo: bool
    """Whether a placebo would have passed for a remedy."""


def restored(trial: Trial | None, original: Trial | None) -> bool:
    """By the two numbers above."""
    if trial is None or original is None or trial.end is None or trial.start is None or original.end is None:
        return False
    return trial.end < OF_UNCHANGED * original.end and trial.end < OF_START * trial.start


def outcome(case: Case, repair: Repair) -> Restored:
    """The case beside its repair."""
    best = repair.best
    return Restored(
        name=case.name,
        ill=case.symptom is not Symptom.HEALTHY,
        recommended=best.title if best is not None else "",
        by_first=restored(best, repair.original),
        by_any=any(restored(trial, repair.original) for trial in repair.candidates),
        placebo=any(t.role is Role.PLACEBO and t.verdict.startswith("would have passed") for t in repair.trials),
    )


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="NAME", help="Run this case alone (may be repeated).")
@click.option("--steps", type=click.IntRange(min=1), default=MOST_STEPS, show_default=True)
def main(only: tuple[str, ...], steps: int) -> None:
    """Run the casebook through `fix`."""
    import gradtrace

    found = []
    for name in only or tuple(CASES):
        case = CASES[name]
        setup = case.build()
        repair = gradtrace.fix(
            setup.model, setup.loss_fn, setup.batches, setup.optimizer, steps=steps, time_budget_s=3600.0
        )
        found.append(outcome(case, repair))
        click.echo(_line(found[-1]))
    click.echo(totals(found))
    sys.exit(0)


def _line(one: Restored) -> str:
    if not one.ill:
        return f"{one.name:<28} healthy   {one.recommended or 'nothing recommended'}"
    how = "first" if one.by_first else "any" if one.by_any else "not"
    return f"{one.name:<28} {how:<9} {one.recommended or 'none of these helped'}"


def totals(found: list[Restored]) -> str:
    """The sentence at the end.

    >>> totals([Restored("a", True, "x", True, True, False), Restored("b", False, "", False, False, False)])
    'Restored by the first-ranked 1 of 1 ill, by any 1. Recommended on 0 of 1 healthy. Placebo in 0.'
    """
    ill = [one for one in found if one.ill]
    well = [one for one in found if not one.ill]
    return (
        f"Restored by the first-ranked {sum(one.by_first for one in ill)} of {len(ill)} ill, by any "
        f"{sum(one.by_any for one in ill)}. Recommended on {sum(bool(one.recommended) for one in well)} of {len(well)} "
        f"healthy. Placebo in {sum(one.placebo for one in found)}."
    )


if __name__ == "__main__":
    main()
