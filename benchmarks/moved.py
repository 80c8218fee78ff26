"""Does a change move the gradient by as much as it promises? `python -m benchmarks.moved`.

For networks with a deficit between the late and the first layer: every change that predicts how many decades it moves,
beside what a trace of the changed copy measures before any step.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table

from gradtrace.casebook import CASES
from gradtrace.checkup.check import check
from gradtrace.errors import InputError
from gradtrace.records.repair import Role, Trial
from gradtrace.repair.before import measured
from gradtrace.repair.changes.table import propose_all
from gradtrace.repair.given import chosen_optimizers
from gradtrace.repair.shares import shares_of
from gradtrace.repair.situation import Situation

NETWORKS = ("deep_sigmoid", "deep_tanh", "small_std", "default_init", "twice_he", "conv_sigmoid", "tanh_large_weights")
INTERVAL = 0.5
"""[decades] A factor of three either way: what a layer's fluctuation at finite width makes over a dozen layers."""


def moved(name: str) -> Iterator[tuple[str, float, float]]:
    """(change, decades predicted, decades measured) for one case."""
    setup = CASES[name].build()
    optimizers, _ = chosen_optimizers(setup.optimizer, setup.model)
    diagnosis = check(setup.model, setup.loss_fn, setup.batches, optimizer=setup.optimizer)
    situation = Situation(setup.model, setup.loss_fn, setup.batches, optimizers, diagnosis)
    shares = shares_of(situation)
    for change in propose_all(situation)[0]:
        if change.predicted_decades is not None:
            trial = measured(Trial(change.title, Role.CANDIDATE, (change,)), situation, shares)
            if trial.moved_decades is not None:
                yield change.title, change.predicted_decades, trial.moved_decades


def main() -> None:
    """Print the table and the totals."""
    torch.set_num_threads(1)
    console, errors = Console(width=120), list[float]()
    table = Table("network", "change", "predicted", "measured")
    for name in NETWORKS:
        try:
            for title, predicted, found in moved(name):
                errors.append(abs(found - predicted))
                table.add_row(name, title, f"{predicted:+.2f}", f"{found:+.2f}")
        except InputError as error:
            table.add_row(name, str(error), "", "")
    console.print(table)
    within = sum(error <= INTERVAL for error in errors) / len(errors)
    console.print(
        f"Moved decades, predicted against measured: median error {statistics.median(errors):.2f} decades over "
        f"{len(errors)} changes; {within:.0%} within {INTERVAL} decades."
    )


if __name__ == "__main__":
    main()
