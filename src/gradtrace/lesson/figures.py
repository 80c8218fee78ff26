"""Which pictures does the lesson show, what do they begin with, and what stands in the table beside them?

The page computes pictures and tables anew when a control moves; the tables written here, of what gradtrace measured at
the controls' first values, are those that a reader without JavaScript sees.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

from gradtrace.data import digits
from gradtrace.lesson.facts import NAMES, SATURATED_FRAC, facts
from gradtrace.lesson.setting import (
    CHAIN_INPUT,
    CHAIN_TARGET,
    INPUT_SIZE,
    NUM_CLASSES,
    NUM_DIGITS,
    NUM_PIXELS,
    RATIO_EVERY,
)
from gradtrace.lesson.words import percent
from gradtrace.report.html.repair import repair_section
from gradtrace.report.html.section import Plot, Table
from gradtrace.report.html.waterfall import waterfall
from gradtrace.report.words import decades, short

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradtrace.lesson.measured import Lesson, Measured, MeasuredInTime

COMPARED = ("sigmoid", "tanh", "relu", "gelu")
READINGS = {
    "bound": "The last layer is on the right. A decade down is a factor of ten.",
    "exploding": "The last layer is on the right. Red lines: where a number format ends, if the gradient is 1 there.",
    "deep": "The last layer is on the right. With α = 0 there is no skip connection.",
}
GAIN_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
LARGEST_HALF = 65504.0
"""The largest number of float16."""
LARGEST_SINGLE = 3.4028234663852886e38
"""And of float32."""


def figures(lesson: Lesson) -> dict[str, Plot]:
    """Every picture by its key, in the order of the page."""
    made = (
        _chain(lesson),
        _waterfall(lesson),
        _slopes(),
        _decades(lesson, "bound", "sigmoid", "Bound and measurement", bound=True, parts=True),
        _growth(lesson),
        _sizes(lesson),
        *_training(lesson),
        _compare(lesson),
        _decades(lesson, "exploding", "exploding", "A product of large factors", parts=True, limits=True),
        _decades(lesson, "deep", "deep_skip_scaled", "A hundred layers", twin=True),
        _sameness(lesson),
        _recurrent(lesson),
        *repair_section(lesson.repair).plots,
    )
    return {plot.key: plot for plot in made}


def _chain(lesson: Lesson) -> Plot:
    chain = lesson.chain
    data = {
        "input": CHAIN_INPUT,
        "target": CHAIN_TARGET,
        "depth": len(chain.weights),
        "setting": chain.setting,
        "measured": [{"setting": chain.setting, "gradients": chain.gradients, "learns": chain.learns}],
    }
    rows = zip(chain.slopes, chain.weights, chain.gradients, chain.learns, strict=True)
    table = [(str(l), *map(short, row)) for l, row in enumerate(rows, 1)]
    return Plot(
        "chain", "chain", "Four layers of one unit",
        "Above, the values on their way forward. Below, the loss gradient on its way back: between two bars stands the "
        "factor that makes the left one from the right one.",
        data, Table(("layer l", "a′(l)", "f′(l) = W(l)", "L′(l)", "dL/dW(l)"), tuple(reversed(table))),
    )  # fmt: skip


def _waterfall(lesson: Lesson) -> Plot:
    section = waterfall(lesson.trace)
    assert section is not None
    (plot,) = section.plots
    return Plot(plot.key, plot.kind, "The waterfall of gradtrace", plot.reading, plot.data, plot.table)


def _slopes() -> Plot:
    rows = tuple(
        (
            each.name, short(each.most), short(each.at), short(each.low), short(each.high),
            short(each.layers_to_thousandth), short(each.slope_second),
        )
        for each in map(facts, NAMES)
    )  # fmt: skip
    columns = (
        "activation",
        "max a′",
        "at z =",
        "saturated below",
        "saturated above",
        "layers until a thousandth, at best",
        "E[a′²] for z ~ N(0, 1)",
    )
    data = {"rows": rows, "saturated_frac": SATURATED_FRAC, "setting": {"activation": "sigmoid", "z": 0.0}}
    return Plot("slopes", "slopes", "An activation and its slope",
                "The shaded part is flat: there the slope is next to nothing.", data, Table(columns, rows))  # fmt: skip


def _of(measured: Iterable[Measured | MeasuredInTime]) -> list[dict[str, Any]]:
    return [{"setting": each.setting.as_dict(), "decades": each.decades} for each in measured]


def _decades(lesson: Lesson, key: str, name: str, title: str, *, limits: bool = False, **shown: bool) -> Plot:
    measured = lesson.networks[name]
    formats = {"float16 ends": LARGEST_HALF, "float32 ends": LARGEST_SINGLE}
    data = {
        "setting": measured.setting.as_dict(),
        "measured": _of(lesson.networks.values()) if key == "bound" else _of(_like(lesson, key)),
        "limits": [[words, math.log10(most)] for words, most in formats.items()] if limits else [],
        **shown,
    }
    reading = READINGS[key]
    return Plot(key, "decades", title, reading, data, Table(("layer l", "|L′(l)|", "decades"), _rows(measured, 1)))


def _rows(measured: Measured | MeasuredInTime, first: int) -> tuple[tuple[str, ...], ...]:
    """From the last layer or step back to the first."""
    both = enumerate(zip(measured.norms, measured.decades, strict=True), first)
    return tuple(reversed([(str(l), short(norm), decades(change)) for l, (norm, change) in both]))


def _like(lesson: Lesson, start: str) -> list[Measured]:
    return [measured for name, measured in lesson.networks.items() if name.startswith(start)]


def _growth(lesson: Lesson) -> Plot:
    sigmoid = facts("sigmoid")
    rows = tuple((short(scale), short(sigmoid.gain(scale)), short(scale * sigmoid.most)) for scale in GAIN_SCALES)
    return Plot(
        "growth", "growth", "The gain of one layer",
        "Above the middle line a layer makes the gradient larger, below it smaller. Twenty layers raise it to the "
        "twentieth power.",
        {"setting": lesson.networks["sigmoid"].setting.as_dict()},
        Table(("σ", "gain of one layer", "at best"), rows),
    )  # fmt: skip


def _sizes(lesson: Lesson) -> Plot:
    measured = lesson.networks["sigmoid"]
    both = enumerate(zip(measured.saturated_frac, measured.derivative_rms, strict=True), 1)
    rows = tuple((str(l), percent(flat), short(rms)) for l, (flat, rms) in both)
    data = {
        "setting": measured.setting.as_dict() | {"layer": 10},
        "saturated_frac": SATURATED_FRAC,
        "measured": [
            {"setting": each.setting.as_dict(), "saturated": each.saturated_frac} for each in lesson.networks.values()
        ],
    }
    return Plot(
        "sizes", "sizes", "Pre-activations over the slope",
        "The bars say how many units of the layer have a pre-activation of that size (the tallest fills the picture). "
        "The curve is a′ at that size, in parts of its maximum.",
        data, Table(("layer l", "saturated", "rms of a′"), rows),
    )  # fmt: skip


def _training(lesson: Lesson) -> tuple[Plot, Plot]:
    runs = list(lesson.training.values())
    pixels, labels = digits()
    images = (16 * pixels[:NUM_DIGITS]).astype("uint8").tobytes()
    data = {
        "setting": runs[0].setting.as_dict(),
        "measured": [
            {"setting": run.setting.as_dict(), "losses": run.losses, "ratios": run.update_ratios} for run in runs
        ],
        "ratio_every": RATIO_EVERY,
        "images": base64.b64encode(images).decode(),
        "labels": labels[:NUM_DIGITS].tolist(),
        "pixels": NUM_PIXELS,
        "classes": NUM_CLASSES,
    }
    names = tuple(NAMES[run.setting.activation] for run in runs)
    steps = range(0, runs[0].setting.num_steps, 10)
    losses = tuple((str(step), *(short(run.losses[step]) for run in runs)) for step in steps)
    layers = range(len(runs[0].update_ratios))
    ratios = tuple((str(l + 1), *(short(run.update_ratios[l]) for run in runs)) for l in layers)
    return (
        Plot(
            "losses", "losses", "The loss over the training",
            "Solid lines were trained in PyTorch, dashed ones in this page.",
            data, Table(("step", *names), losses),
        ),
        Plot(
            "updates", "updates", "How far one step moves each layer",
            "The update ratio |new W − W| / |W|, on average over the training: dots as gradtrace measured it. "
            "Above a hundred is drawn as a hundred.",
            {}, Table(("layer l", *names), ratios),
        ),
    )  # fmt: skip


def _compare(lesson: Lesson) -> Plot:
    names = [f"{name}_pytorch" for name in COMPARED]
    shown = [lesson.networks[name] for name in names]
    data = {
        "names": COMPARED,
        "setting": shown[0].setting.as_dict() | {"weights": "1"},
        "measured": _of(lesson.networks.values()),
    }
    rows = [(str(l + 1), *(decades(each.decades[l]) for each in shown)) for l in range(shown[0].setting.depth)]
    return Plot("compare", "compare", "One network, four activations", "The last layer is on the right.", data,
                Table(("layer l", *(NAMES[name] for name in COMPARED)), tuple(reversed(rows))))  # fmt: skip


def _sameness(lesson: Lesson) -> Plot:
    plain, skip = lesson.sameness.values()
    rows = tuple((str(l), short(a), short(b)) for l, (a, b) in enumerate(zip(plain, skip, strict=True)))
    data = {"setting": lesson.networks["deep_skip_scaled"].setting.as_dict()}
    return Plot("sameness", "sameness", "How alike have different inputs become?",
                "The mean cosine between what the layer makes of two different inputs. At 1 it can no longer tell them "
                "apart.", data, Table(("layer l", "plain stack", "with skip connections"), rows))  # fmt: skip


def _recurrent(lesson: Lesson) -> Plot:
    measured = lesson.recurrent["middle"]
    data = {
        "setting": measured.setting.as_dict(),
        "input_size": INPUT_SIZE,
        "measured": _of(lesson.recurrent.values()),
    }
    return Plot("recurrent", "recurrent", "Back through time", "The last time step is on the right.", data,
                Table(("step t", "|L′(t)|", "decades"), _rows(measured, 0)))  # fmt: skip
