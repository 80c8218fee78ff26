"""What does one see of a run while it goes on? Its loss, the gradient by depth and time, and what was found so far.

gradtrace digits_mlp   step 1240   412 steps/s   1:03
loss           0.482 ▇▆▅▄▃▃▂▂▂▁▁▁▁
gradient       0.031 ▃▄▅█▅▄▄▃▃▃▃▂▂
20                   ▀▀▀▀▀▀▀▀▀▀▀▀▀
0                    ▀▀▀▀▀▀▀▀▀▀▀▀▀
gradient per weight, output on top: ■ most  ■ 1e-2  ■ 1e-4  ■ 1e-6  of it
CRITICAL vanishing since step 12: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.cells import set_cell_size
from rich.text import Text

from gradtrace.records.parameter_name import module_in
from gradtrace.records.run import Scalar
from gradtrace.records.vocabulary import Severity
from gradtrace.report.findings import STYLES
from gradtrace.report.strip import (
    ASCII_HEAT,
    COLOURS,
    NOT_MEASURED,
    SPAN_DECADES,
    column_of_steps,
    heat,
    layer_decades,
    pooled,
    sparkline,
)
from gradtrace.report.summary import at_end, last_step, speed
from gradtrace.report.words import ascii_text, clean, short, shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run

_LABEL, _NUMBER = 9, 9
_MAX_NAME = 28
_NUM_FINDINGS = 2
_NUM_AROUND = 4 + _NUM_FINDINGS
"""Lines besides the map: heading, loss, gradient, scale, findings."""


def draw_live(run: Run, width: int, height: int, *, ascii_only: bool = False, in_colour: bool = True) -> list[Text]:
    """Exactly `height` lines (seven or more) of at most `width` cells, whatever the run holds."""
    lines = draw_picture(run, width, height - _NUM_AROUND, ascii_only=ascii_only, in_colour=in_colour)
    lines += [told(finding) for finding in _worst(run)] or [Text("nothing found so far", "#008661")]
    lines += [Text()] * (height - len(lines))
    return [_fitted(line, width, ascii_only) for line in lines]


def draw_picture(run: Run, width: int, num_map: int, *, ascii_only: bool = False, in_colour: bool = True) -> list[Text]:
    """Heading, loss, gradient norm, and at most `num_map` lines of the gradient by depth; no findings.

    Without colour the map is of characters, whatever the encoding.
    """
    in_characters = ascii_only or not in_colour
    names = _layers(run)
    margin = max(_LABEL + _NUMBER + 1, min(max(map(len, names), default=0) + 1, _MAX_NAME, width // 4))
    columns = column_of_steps(run.steps, max(width - margin, 8))
    lines = [_heading(run)]
    lines += [
        _curve(run, name, label, columns, margin, ascii_only)
        for name, label in ((Scalar.LOSS, "loss"), (Scalar.GRADIENT_NORM, "gradient"))
    ]
    if len(columns) and names:
        lines += _map(run, columns, margin, num_map, in_characters)
    return [_fitted(line, width, ascii_only) for line in [*lines, _scale(in_characters)]]


def told(finding: Finding) -> Text:
    """A finding in one line."""
    since = "" if finding.step is None else f" since step {finding.step}"
    line = Text(finding.severity.value.upper(), STYLES[finding.severity])
    line.append(f" {finding.symptom.value.replace('_', ' ')}{since}: ", "bold")
    return line.append(clean(finding.message), "not bold")


def summary(run: Run) -> str:
    """Where the run is, in one plain line.

    >>> from gradtrace.records.run import RunHeader, RunSteps, Run
    >>> summary(Run(RunHeader("", 0.0), RunSteps.empty(0)))
    'no step yet'
    """
    if not len(run.steps.first):
        return "no step yet"
    told = [f"step {last_step(run)}"]
    for name, label in ((Scalar.LOSS, "loss"), (Scalar.GRADIENT_NORM, "gradient")):
        if (found := at_end(run, name)) is not None:
            told.append(f"{label} {short(found[1])}")
    return ", ".join([*told, f"{speed(run)} steps/s"])


def _layers(run: Run) -> list[str]:
    return list(dict.fromkeys(module_in(one.name) or one.name for one in run.header.parameters))


def _worst(run: Run) -> list[Finding]:
    return sorted(run.findings, key=lambda finding: -finding.severity.rank)[:_NUM_FINDINGS]


# ------------------------------------------------------------------------------------------------------------ lines


def _heading(run: Run) -> Text:
    line = Text("gradtrace ", "bold").append(clean(run.header.title))
    if not len(run.steps.first):
        return line.append("   waiting for the first step", "dim")
    line.append(f"   step {last_step(run)}   {speed(run)} steps/s   {_clock(float(run.steps.time_s[-1]))}")
    if broken := int(run.steps.nonfinite.sum()):
        line.append(f"   {broken} not finite", STYLES[Severity.CRITICAL])
    return line


def _clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _curve(run: Run, name: Scalar, label: str, columns: NDArray[np.int64], margin: int, ascii_only: bool) -> Text:
    found = at_end(run, name)
    value = "" if found is None else short(found[1])
    line = Text(label.ljust(_LABEL), "bold").append(value.rjust(_NUMBER), "not bold")
    line.pad_right(margin - len(line))
    curve = pooled(run.steps.scalar(name)[1], columns).tolist()
    return line.append(sparkline(curve, ascii_only=ascii_only), "not bold #007bc0")


def _map(run: Run, columns: NDArray[np.int64], margin: int, num_lines: int, in_characters: bool) -> list[Text]:
    """Each line begins with the name of the uppermost layer in it."""
    names, decades = layer_decades(run, columns)
    shapes = {one.name: "x".join(map(str, one.shape)) for one in run.header.parameters if len(one.shape) > 1}
    lines = []
    for layers, cells in heat(decades, num_lines, ascii_only=in_characters):
        name = clean(names[layers[-1]])
        if name.isdigit():  # of ``nn.Sequential``: says little by itself
            name = f"{name} {shapes.get(f'{name}.weight', '')}".rstrip()
        lines.append(Text(set_cell_size(shorten(name, margin - 1), margin)).append(cells))
    return lines


def _scale(in_characters: bool) -> Text:
    """What the colours, or the characters, mean: of the most that any layer has at that step."""
    shades = ASCII_HEAT if in_characters else COLOURS
    last = len(shades) - 1
    line = Text("gradient per weight, output on top: ", "dim")
    for decade in range(0, int(SPAN_DECADES) + 1, 2):
        place = round(last * (1 - decade / SPAN_DECADES))
        line.append(shades[place] if in_characters else "■", "" if in_characters else f"not dim {shades[place]}")
        line.append(" most  " if decade == 0 else f" 1e-{decade}  ")
    line.append("?" if in_characters else "■", "" if in_characters else f"not dim {NOT_MEASURED}")
    return line.append(" unmeasured")


def _fitted(line: Text, width: int, ascii_only: bool) -> Text:
    if ascii_only:
        line.plain = ascii_text(line.plain)
    line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return line
