"""``python -m gradtrace.casebook``: every case, truth beside verdict, and the totals."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gradtrace.casebook import CASES
from gradtrace.casebook.case import Case
from gradtrace.casebook.score import Score, Totals, score, total

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A case, its score or the error that came instead, and the seconds it took."""

    case: Case
    score: Score | None
    seconds: float
    error: str = ""


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="NAME", help="Run this case alone (may be repeated).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(only: tuple[str, ...], as_json: bool) -> None:
    """Run the casebook."""
    for name in only:
        if name not in CASES:
            near = difflib.get_close_matches(name, CASES, n=1)
            raise click.UsageError(f"there is no case {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    errors = Console(stderr=True)
    names = only or tuple(CASES)
    results = [run(CASES[name]) for name in track(names, "checking", console=errors, transient=True)]
    totals = total([one.score for one in results], [one.case for one in results])
    if as_json:
        click.echo(
            json.dumps({"cases": [_record(one) for one in results], "totals": dataclasses.asdict(totals)}, indent=1)
        )
    else:
        console = Console(width=None if sys.stdout.isatty() else 180)
        console.print(_table(results))
        console.print(_sentence(totals, results), highlight=False)
    sys.exit(0 if all(one.score is not None for one in results) else 1)


def run(case: Case) -> Result:
    """Build it, check it, score it."""
    start = time.perf_counter()
    try:
        diagnosis = check(case)
    except Exception as error:
        return Result(case, None, time.perf_counter() - start, f"{type(error).__name__}: {error}")
    return Result(case, score(case, diagnosis), time.perf_counter() - start)


def check(case: Case) -> Diagnosis:
    """`gradtrace.check` on a case."""
    import gradtrace

    setup = case.build()
    return gradtrace.check(
        setup.model,
        setup.loss_fn,
        setup.batches,
        optimizer=setup.optimizer,
        steps=case.steps,
        accumulate=case.accumulate,
    )


def _table(results: list[Result]) -> Table:
    table = Table(title="casebook", show_edge=False)
    for column in ("case", "truth", "where", "verdict", "where said"):
        table.add_column(column, overflow="fold")
    for column in ("symptom", "cause", "where", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in results:
        case, said = one.case, one.score
        truth = (case.name, f"{case.symptom} / {case.cause}", _places(case.where))
        if said is None:
            table.add_row(
                *truth, f"[red]{one.error}", "", _mark(False), _mark(False), _mark(False), f"{one.seconds:.1f}"
            )
            continue
        marks = (_mark(said.symptom_right), _mark(said.cause_right), _mark(said.where_right))
        table.add_row(*truth, f"{said.symptom} / {said.cause}", _places(said.where), *marks, f"{one.seconds:.1f}")
    return table


def _places(where: tuple[str, ...]) -> str:
    return ", ".join(place or "(model)" for place in where[:2]) + (" ..." if len(where) > 2 else "")


def _mark(right: bool) -> str:
    return "[green]right" if right else "[red]wrong"


def _sentence(totals: Totals, results: list[Result]) -> str:
    n, ill = totals.num_cases, totals.num_cases - totals.num_healthy
    failed = sum(one.score is None for one in results)
    return (
        f"\nSymptoms right {totals.symptoms_right} of {n}, causes {totals.causes_right} of {n}, where "
        f"{totals.where_right} of the {ill} ill. False alarms {totals.false_alarms} of {totals.num_healthy} healthy, "
        f"misses {totals.misses} of {ill}. {sum(one.seconds for one in results):.0f} s."
        + (f" [red]{failed} could not be run." if failed else "")
    )


def _record(one: Result) -> dict[str, Any]:
    case = one.case
    truth = {"symptom": case.symptom, "cause": case.cause, "where": case.where, "source": case.source}
    said = dataclasses.asdict(one.score) if one.score else None
    return {"name": case.name, "truth": truth, "verdict": said, "seconds": round(one.seconds, 3), "error": one.error}


if __name__ == "__main__":
    main()
