"""Which optimizer steps belong to one row? The table of loops, and what holds for any loop whatever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradtrace.monitor.step import Begins, Rows


def rows_of(told: str, num_optimizers: int = 1) -> list[str]:
    """`told`: b for a backward pass, a capital letter for an optimizer's step."""
    rows = Rows(num_optimizers)
    found: list[set[str]] = [set()]
    for one in told.replace(" ", ""):
        if one == "b":
            rows.backward()
        else:
            begins = rows.step(one)
            if begins is not Begins.NOTHING:
                found[-1] -= rows.members - {one} if begins is Begins.ROW_OF_BLOCK else set()
                found.append(set())
            found[-1] = {str(member) for member in rows.members}
            assert rows.number == len(found) - 1
    return ["".join(sorted(row)) for row in found]


@pytest.mark.parametrize(
    ("told", "num_optimizers", "expected"),
    [
        ("bA bA bA", 1, ["A", "A", "A"]),
        ("bbbA bbbA", 1, ["A", "A"]),
        ("A A A", 1, ["A", "A", "A"]),
        ("bABC bABC", 3, ["ABC", "ABC"]),
        ("bCBA bABC bCBA", 3, ["ABC", "ABC", "ABC"]),
        ("bCBA bAB bB bAB", 3, ["ABC", "AB", "B", "AB"]),
        ("bbAbB bbAbB", 2, ["AB", "AB"]),
        ("bAbAbAbB bAbAbAbB bAbAbAbB", 2, ["A", "A", "A", "B", "A", "A", "AB", "A", "A", "AB"]),
        ("bAbAbA bBbBbB", 2, ["A", "A", "A", "B", "B", "B"]),
        ("bA bAB bA bAB", 2, ["A", "AB", "A", "AB"]),
    ],
)
def test_the_table_of_loops(told: str, num_optimizers: int, expected: list[str]) -> None:
    assert rows_of(told, num_optimizers) == expected


@given(st.text("bABC", max_size=60), st.integers(1, 3))
def test_every_step_is_in_one_row_and_no_optimizer_twice(told: str, num_optimizers: int) -> None:
    rows = rows_of(told, num_optimizers)
    assert sum(len(row) for row in rows) == sum(one != "b" for one in told)
    for key in "ABC":
        assert sum(key in row for row in rows) == told.count(key)


@given(st.text("bABC", max_size=60))
def test_what_is_expected_is_the_row_at_hand_or_the_next(told: str) -> None:
    rows = Rows(1)
    for one in told:
        before = rows.expected
        assert before in (rows.number, rows.number + 1)
        if one == "b":
            rows.backward()
        else:
            rows.step(one)
        assert rows.number in (before - 1, before, before + 1)


@given(st.integers(1, 40))
def test_of_a_single_optimizer_the_expected_row_is_the_one_that_comes(num_steps: int) -> None:
    rows = Rows(1)
    for number in range(num_steps):
        rows.backward()
        assert rows.expected == number
        rows.step("A")
        assert rows.number == number
