"""Golden files: `GRADTRACE_REWRITE=1 pytest tests/report` writes them anew; look at the difference then."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from tests.report.samples import SAMPLES, chain
from torch import nn

import gradtrace
from gradtrace.records.trace import Trace
from gradtrace.report.findings import STYLES
from gradtrace.report.picture import LOOKS
from gradtrace.report.terminal import show, show_trace

GOLDEN = Path(__file__).with_name("golden")
REWRITE = os.environ.get("GRADTRACE_REWRITE") == "1"


def console_of(width: int, *, colour: bool = False, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    return Console(file=file, width=width, force_terminal=colour, color_system="256" if colour else None,
                   legacy_windows=False, _environ={})  # fmt: skip


def text_of(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.TextIOWrapper)
    file.flush()
    return file.buffer.getvalue().decode(file.encoding)  # type: ignore[attr-defined]


def drawn(name: str, width: int, **options) -> str:
    console = console_of(width, **options)
    show(SAMPLES[name](), console)
    return text_of(console)


@pytest.mark.parametrize("colour", [False, True], ids=["plain", "colour"])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SAMPLES)
def test_golden(name, width, colour):
    found = drawn(name, width, colour=colour)
    path = GOLDEN / f"{name}_{width}{'_colour' if colour else ''}.txt"
    if REWRITE:
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8"), f"{path.name} differs; see the docstring of this file"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_line_is_too_wide_or_ends_in_blanks(name, width):
    lines = drawn(name, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_markup_and_control_characters_show_as_text(width):
    text = drawn("hostile", width)
    assert "\x1b" not in text
    for name in (
        "[red]x[/red]",
        "<script>alert(1)</script>",
        "[bold]log of zero[/bold]",
        "[red]<script>2",
        "<eps>)[/]",
    ):
        assert name in text


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_will_do(name, encoding):
    assert drawn(name, 80, encoding=encoding).isascii()


def test_ascii_consoles_get_ascii_bars():
    text = drawn("vanishing", 80, encoding="ascii")
    assert "====" in text
    assert "━" not in text


@pytest.mark.parametrize("name", ["thousand", "deep"])
def test_a_thousand_layers_fold(name):
    assert len(drawn(name, 80).splitlines()) < 45


def test_a_random_cotangent_starts_at_the_output():
    console = console_of(80)
    show_trace(replace(chain(3, 0.2, 0.5, "sigmoid"), probe="random"), console)
    assert "From the output to layers.0" in text_of(console)


def test_a_trace_is_drawn_without_a_verdict():
    console = console_of(80)
    show_trace(chain(3, 0.2, 0.5, "sigmoid"), console)
    text = text_of(console)
    assert "layers.0" in text
    assert "Healthy" not in text


WIDE = "decoder_block_{}_网络.eine_sehr_lange_bezeichnung_für_eine_schicht"


def drawn_of(trace: Trace, width: int, encoding: str = "utf-8") -> list[str]:
    console = console_of(width, encoding=encoding)
    show_trace(trace, console)
    return text_of(console).splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_wide_characters_take_two_cells(width):
    lines = drawn_of(chain(12, 0.2, 0.6, "sigmoid", name=WIDE), width)
    assert max(map(cell_len, lines)) <= width
    ends = {cell_len(line) for line in lines if line.startswith("…") and "━" in line}
    assert len(ends) == 1


def test_long_names_keep_what_tells_them_apart():
    lines = drawn_of(chain(12, 0.2, 0.6, "sigmoid", name=WIDE), 80)
    assert len({line.split()[0] for line in lines if line.startswith("…")}) == 12


def test_columns_stay_in_line_without_unicode():
    trace = chain(12, 0.2, 0.6, "sigmoid", name=WIDE)
    plain, ascii_only = drawn_of(trace, 80), drawn_of(trace, 80, "ascii")
    assert [cell_len(line) for line in plain] == [len(line) for line in ascii_only]


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("style", [*(look.style for look in LOOKS.values()), *STYLES.values()])
def test_colours_are_read_on_black_and_on_white(style):
    level = luminance(style.removeprefix("bold "))
    assert min((level + 0.05) / 0.05, 1.05 / (level + 0.05)) >= 4.5


def test_of_one_module_s_weights_each_is_told_by_its_name():
    """As of a network of bare tensors, whose module is the model."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.Wxh, self.Why = (nn.Parameter(torch.randn(8, 8) / 8**0.5) for _ in range(2))

        def forward(self, x):
            return torch.tanh(x @ self.Wxh) @ self.Why

    torch.manual_seed(0)
    x = torch.randn(16, 8)
    console = console_of(120)
    show(gradtrace.check(Bare(), lambda model, x: model(x).square().mean(), [x, x]), console)
    text = text_of(console)
    assert "From the loss to Wxh:" in text
    assert re.search(r"Healthy: Wxh gets \S+ times the gradient of Why", text)
