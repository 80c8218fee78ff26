"""The record through time as text: numbers where they belong, strips in order, no line too wide."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.console import Console
from tests.report.samples import through_time

from gradtrace.records.time import Reach, ThroughTime
from gradtrace.report.fading import SHADES, compare_lags, compare_lengths
from gradtrace.report.through_time import stretches, to_text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_too_wide(width):
    lines = to_text(through_time(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


def test_what_is_told():
    text = to_text(through_time(), 120)
    (line,) = [line for line in text.splitlines() if line.startswith("t=") and line.endswith("cut")]
    assert line.startswith("t=4")
    text = " ".join(text.split())
    assert "encoder.rnn (LSTM), 30 steps: gradient of (h, c)" in text
    assert "cell path (forget gates) alone: -11.9" in text  # 30 steps of 0.4
    assert "largest Lyapunov exponent -0.2300 +- 0.0100" in text
    assert "Over 30 steps that predicts -3.00 decades; of a random gradient -3.00 were measured." in text


def test_steps_that_no_gradient_came_to_are_not_counted():
    record = through_time()
    chain = replace(record.chains[0], hidden=(0.0,) * 11 + record.chains[0].hidden[11:])
    text = " ".join(to_text(replace(record, chains=(chain,)), 120).split())
    assert "Over 19 of 30 steps (no gradient in the others): " in text


def test_the_heat_map_is_darkest_on_its_diagonal():
    text = to_text(through_time(), 120)
    (row,) = [line for line in text.splitlines() if line.startswith("t=30") and line.endswith("|")]
    strip = row[row.index("|") + 1 : -1]
    assert strip[-1] == "@"
    shades = [SHADES.index(c) for c in strip]
    assert shades == sorted(shades)


def test_positions_have_a_map_and_a_sentence():
    reach = Reach("loss", (2, 4), ((0.1, 0.5, 1.0), (0.1, 0.1, 0.1, 0.5, 1.0)))
    record = ThroughTime("net", 1.0, 1.0, losses=(reach,), positions="the input", sentences=("the input: far.",))
    text = to_text(record)
    assert "|dL_t/dx_s| of the input" in text
    assert "the input: far." in text


def test_plain_characters_where_the_terminal_has_no_others():
    text = to_text(through_time(), ascii_only=True)
    assert text.isascii()
    file = io.StringIO()
    through_time().show(Console(file=file, width=80))
    assert "encoder.rnn" in file.getvalue()


def test_stretches_cover_all_steps_once():
    for num_steps in (1, 7, 8, 100):
        pieces = stretches(num_steps, 8)[::-1]
        assert pieces[0][0] == 0
        assert pieces[-1][1] == num_steps
        assert all(a[1] == b[0] for a, b in pairwise(pieces))


def test_a_record_that_is_not_finite_can_be_drawn():
    nan = float("nan")
    record = through_time()
    chain = replace(record.chains[0], hidden=(nan,) * 31, cell=(nan,) * 31, linear=(nan,) * 30, recurrent=(nan,) * 30)
    assert "NaN" in to_text(replace(record, chains=(chain,)))


class _Row:
    name, num_steps, decades, horizon_steps, told = "RNN", 300, -73.0, 12.2, "vanishing"


class _Strip:
    def __init__(self, name, rate):
        self.name, self.curve = name, tuple(rate * lag for lag in range(301))


def test_the_lesson_fits_into_80_columns():
    lines = [
        *compare_lengths([_Row], 80).splitlines(),
        *compare_lags([_Strip("RNN", -0.3), _Strip("no", 0)], 80).splitlines(),
    ]
    assert max(map(len, lines)) <= 80
    assert "x0.57" in lines[1]  # 10 ** (-73 / 300)
    assert lines[-1].count("@") > 40
