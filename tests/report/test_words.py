"""Names and sentences fit into any number of cells, whatever they are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gradtrace.report.words import ascii_text, clean, padded, shorten, wrapped

TEXTS = st.text("ab._/ 网络é", max_size=60)


@given(TEXTS, st.integers(6, 40))
def test_shortened_names_fit_and_keep_their_end(text, width):
    told = shorten(text, width)
    assert cell_len(told) <= width
    if cell_len(text) <= width:
        assert told == text
    elif text:
        assert told[-1] == text[-1]


@given(TEXTS, st.integers(6, 40), st.booleans())
def test_padded_names_have_exactly_their_width(text, width, right):
    assert cell_len(padded(text, width, right=right)) == width


@given(TEXTS, st.integers(6, 40), st.sampled_from(["", "  "]))
def test_wrapped_lines_fit_and_lose_nothing(text, width, rest):
    lines = wrapped(text, width, rest)
    assert max(map(cell_len, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.text(max_size=40).map(clean))
def test_ascii_takes_as_many_cells(text):
    assert ascii_text(text).isascii()
    assert len(ascii_text(text)) == cell_len(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("where is it   net.py:3", ["where is it  ", "  net.py:3"]),
        ("a " * 5, ["a a a a a"]),
        ("", [""]),
    ],
)
def test_blanks_between_words_stay(text, told):
    assert [line.rstrip() for line in wrapped(text, 14, "  ")] == [line.rstrip() for line in told]
