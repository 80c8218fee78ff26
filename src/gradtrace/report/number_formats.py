"""How is it said what a smaller number format would lose, and which loss scale would save it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.number_formats import FormatLoss, LossScale, format_loss, loss_scale, parameter_gradients
from gradtrace.diagnosis.thresholds import FLUSHED_FRAC, HALF_FORMATS
from gradtrace.records.parameter_name import told_name
from gradtrace.report.words import clean, listed, shorten

if TYPE_CHECKING:
    from gradtrace.records.trace import Trace

SHORT_NAMES = {"float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8 e4m3", "float8_e5m2": "fp8 e5m2"}
SCALED = "the loss was scaled by"
"""How the note of a trace taken under a GradScaler begins."""
MOST_NAME = 40
"""Cells of a parameter's name within a sentence."""
SMALLEST_SHARE = 0.005
"""[fraction] From here on a share is one per cent when it is rounded to whole ones."""


def share(fraction: float) -> str:
    """To a tenth of a per cent, and never nothing for something.

    >>> share(0.0), share(1e-6), share(0.256), share(0.99999), share(1.0)
    ('0%', '<0.1%', '25.6%', '>99.9%', '100%')
    """
    if fraction in (0.0, 1.0):
        return f"{fraction:.0%}"
    return "<0.1%" if fraction < 0.0005 else ">99.9%" if fraction >= 0.9995 else f"{fraction:.1%}"


def told(trace: Trace) -> list[str]:
    """Sentences on all formats: what is lost without scaling, then one for each format that loses something."""
    held = [stats for _, stats in parameter_gradients(trace)]
    losses = {name: format_loss(held, name) for name in HALF_FORMATS}
    used = ", ".join(dict.fromkeys(clean(stats.dtype) for stats in held))
    kept = [SHORT_NAMES[name] for name, lost in losses.items() if lost.is_none]
    first = f"The gradients of the parameters are {used}. "
    if kept:
        first += f"In {_and(kept)} every entry would survive" + (", without loss scaling." if len(kept) < 4 else ".")
    else:
        first += "Every smaller format would lose some of their entries without loss scaling."
    notes = [_sentence(SHORT_NAMES[name], losses[name], loss_scale(held, name)) for name in losses]
    scaled = [f"{clean(note).capitalize()}: scales are on top of that." for note in trace.coverage.notes
              if note.startswith(SCALED)]  # fmt: skip
    return [first, *(note for note in notes if note), *scaled]


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(name: str, lost: FormatLoss, scale: LossScale | None) -> str:
    """``fp16: 12.0% ... would become zero. A loss scale from 2^3 to 2^17 keeps them all.``, or ''."""
    if lost.is_none or scale is None:
        return ""
    return f"{name}: {_loses(lost)}. {_saves(scale)}."


def _loses(lost: FormatLoss) -> str:
    parts = [f"{share(lost.flushed_frac)} of the gradient's entries would become zero"] if lost.flushed_frac else []
    of = "" if parts else " of the gradient's entries"
    parts += [f"up to {share(lost.overflow_frac)}{of} would overflow"] if lost.overflow_frac else []
    return " and ".join(parts)


def _saves(scale: LossScale) -> str:
    if scale.keeps_all:
        ends = f"from 2^{scale.low_log2} to 2^{scale.high_log2} keeps"
        return f"A loss scale {ends if scale.low_log2 < scale.high_log2 else f'of 2^{scale.low_log2} keeps'} them all"
    left = f"{share(scale.lost.flushed_frac)} would still become zero"
    return f"No loss scale keeps them all: at 2^{scale.high_log2}, the largest without overflow, {left}"


def short_words(trace: Trace) -> list[str]:
    """For the terminal: fp16 and bf16, and only where a share of the entries to speak of would be lost.

    Formats of 8 bits lose most gradients unless each tensor has a scale of its own; the report has them.
    """
    gradients, lines = parameter_gradients(trace), []
    for name in ("float16", "bfloat16"):
        whole, each = format_loss([g for _, g in gradients], name), {n: format_loss([g], name) for n, g in gradients}
        most = [n for n, lost in each.items() if max(lost.flushed_frac, lost.overflow_frac) > FLUSHED_FRAC]
        if not most and max(whole.flushed_frac, whole.overflow_frac) < SMALLEST_SHARE:
            continue
        where = (
            f", most of {listed([shorten(clean(told_name(n)), MOST_NAME) for n in most])}"
            if most and len(most) < len(each)
            else ""
        )
        scale = loss_scale([g for _, g in gradients], name)
        assert scale is not None
        already = "".join(f" ({clean(note)} already)" for note in trace.coverage.notes if note.startswith(SCALED))
        lines.append(f"Number formats: in {SHORT_NAMES[name]} {_loses(whole)}{where}. {_saves(scale)}{already}.")
    return lines
