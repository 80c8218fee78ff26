"""Sentences on number formats: complete in the report, short in the terminal, silent where nothing would be lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report.samples import chain
from tests.report.test_terminal import console_of, text_of

from gradtrace.records.finding import Diagnosis
from gradtrace.records.trace import Coverage, TensorStats, Trace
from gradtrace.report.html.formats import formats
from gradtrace.report.number_formats import share, short_words, told
from gradtrace.report.terminal import show, show_trace


def traced(*bins: tuple[tuple[int, int], ...], note: str = "") -> Trace:
    """A chain whose layers have gradients with these histograms."""
    trace = chain(len(bins), 0.5, 1.0, "relu")
    gradients = [
        TensorStats((sum(n for _, n in each),), "float32", "cpu", 1.0, 1.5 * 2.0 ** each[-1][0], 0.0, log2_counts=each)
        for each in bins
    ]
    parameters = tuple(replace(p, gradient=g) for p, g in zip(trace.parameters, gradients, strict=True))
    return replace(trace, parameters=parameters, coverage=Coverage(notes=(note,) if note else ()))


HEALTHY = ((-12, 40), (-8, 60))
SINKING = ((-40, 30), (-20, 70))


def test_healthy_gradients_are_not_worth_a_line():
    assert short_words(traced(HEALTHY, HEALTHY)) == []


def test_the_terminal_says_what_half_precision_loses_and_what_saves_it():
    (line,) = short_words(traced(HEALTHY, SINKING))
    assert line == (
        "Number formats: in fp16 15.0% of the gradient's entries would become zero. "
        "A loss scale from 2^15 to 2^23 keeps them all."
    )


def test_a_layer_that_loses_most_is_named_however_small_it_is():
    (line,) = short_words(traced(((-8, 10**6),), ((-40, 3), (-30, 1))))
    assert "<0.1% of the gradient's entries would become zero, most of layers.1.weight" in line


def test_without_a_scale_for_all_it_says_what_the_best_leaves():
    (line,) = short_words(traced(((-60, 25), (-3, 75))))
    assert line.endswith(
        "No loss scale keeps them all: at 2^18, the largest without overflow, 25.0% would still become zero."
    )


def test_overflow_is_told_too():
    (line,) = short_words(traced(((10, 5), (20, 5))))
    assert "up to 50.0% of the gradient's entries would overflow" in line
    assert "A loss scale from 2^-35 to 2^-5 keeps them all" in line


def test_a_scaled_loss_is_not_forgotten():
    trace = traced(SINKING, note="the loss was scaled by 65536")
    assert short_words(trace)[0].endswith("keeps them all (the loss was scaled by 65536 already).")
    assert told(trace)[-1] == "The loss was scaled by 65536: scales are on top of that."


@pytest.mark.parametrize("draw", [show_trace, lambda t, c: show(Diagnosis((), (t,)), c)])
@pytest.mark.parametrize("width", [80, 120])
def test_it_is_drawn_within_the_width(draw, width):
    console = console_of(width)
    draw(traced(HEALTHY, SINKING), console)
    text = text_of(console)
    assert "Number formats: in fp16 15.0%" in text
    assert max(map(len, text.splitlines())) <= width


def test_the_section_has_a_sentence_for_each_format_that_loses():
    section = formats(traced(HEALTHY, SINKING))
    assert section is not None
    assert (
        section.answer
        == "The gradients of the parameters are float32. In bf16 every entry would survive, without loss scaling."
    )
    assert [note.partition(":")[0] for note in section.notes] == ["fp16", "fp8 e4m3", "fp8 e5m2"]
    table = section.plots[0].table
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert (row["parameter"], row["0 in fp16"], row["0 in bf16"]) == ("layers.1.weight", "30.0%", "0%")
    assert not any(column.startswith("above") for column in table.columns)


def test_columns_for_overflow_come_where_something_overflows():
    table = formats(traced(((10, 5), (20, 5)))).plots[0].table
    assert [c for c in table.columns if c.startswith("above")] == ["above fp16", "above fp8 e4m3", "above fp8 e5m2"]
    assert dict(zip(table.columns, table.rows[0], strict=True))["above fp8 e4m3"] == "100%"


def test_a_share_is_never_told_as_nothing_or_all():
    assert [share(x) for x in (0.0, 4e-4, 0.0006, 0.9994, 0.99999, 1.0)] == [
        "0%", "<0.1%", "0.1%", "99.9%", ">99.9%", "100%",
    ]  # fmt: skip
