"""Traces and diagnoses written out by hand, for every renderer."""

from __future__ import annotations

import math
from dataclasses import replace

from gradtrace.records.finding import Diagnosis, Evidence, Finding, Remedy
from gradtrace.records.lyapunov import LyapunovSpectrum
from gradtrace.records.time import Chain, Reach, ThroughTime
from gradtrace.records.trace import ActivationStats, Birth, Coverage, Op, ParameterStats, Site, TensorStats, Trace
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom

DERIVATIVES = {"sigmoid": 0.25, "relu": 1.0}


def stats(norm: float, shape: tuple[int, ...] = (128, 32)) -> TensorStats:
    return TensorStats(shape, "float32", "cpu", norm, norm, 0.0)


def activation_stats(function: str) -> ActivationStats:
    return ActivationStats(function, DERIVATIVES[function], 0.2, 0.2, 0.0, 0.0, 32)


def chain(num_layers: int, a: float, f: float, function: str, name: str = "layers.{}") -> Trace:
    """A loss that passes on 0.1, then layers whose activation passes on `a` and whose weights `f`."""
    ops = [Op(0, "NllLossBackward0", Factor.LOSS, Site(None), stats(1.0, ()), (stats(0.1),), ((1, 0),), (1.0,))]
    parameters, norm = [], 0.1
    for layer in reversed(range(num_layers)):
        index, module, wobble = len(ops), name.format(layer), 1 + 0.05 * math.sin(layer)
        site, below = Site(module, "Linear", source=f"net.py:{layer + 3}"), norm * a * f * wobble
        ops += [
            Op(index, "ActivationBackward0", Factor.ACTIVATION, site, stats(norm), (stats(norm * a * wobble),),
               ((index + 1, 0),), (1.0,), activation=activation_stats(function)),
            Op(index + 1, "AddmmBackward0", Factor.WEIGHT, site, stats(norm * a * wobble), (stats(below),),
               ((index + 2, 0) if layer else None,), (1.0,), weights=(f"{module}.weight",)),
        ]  # fmt: skip
        parameters.append(
            ParameterStats(f"{module}.weight", (32, 32), "float32", "cpu", 3.3, stats(norm / 2, (32, 32)))
        )
        norm = below
    return Trace(tuple(ops), tuple(reversed(parameters)), loss=2.31, batch_size=128)


def residual(num_blocks: int) -> Trace:
    """Pre-norm blocks of two layers each; the path goes along the skips."""
    ops = [Op(0, "MseLossBackward0", Factor.LOSS, Site(None), stats(1.0, ()), (stats(0.1),), ((1, 0),), (1.0,))]
    norm = 0.1
    for block in reversed(range(num_blocks)):
        for layer in ("mlp", "attn"):
            index, site = len(ops), Site(f"blocks.{block}.{layer}", "Linear", source="net.py:9")
            ops += [
                Op(index, "AddBackward0", Factor.RESHAPE, Site(f"blocks.{block}", "Block"), stats(norm),
                   (stats(norm), stats(norm)), ((index + 2, 0), (index + 1, 0)), (0.9, 1.0)),
                Op(index + 1, "AddmmBackward0", Factor.WEIGHT, site, stats(norm), (stats(norm / 5),), ((index + 2, 0),),
                   (0.1,), weights=(f"blocks.{block}.{layer}.weight",)),
            ]  # fmt: skip
            norm *= 1.05
    index = len(ops)
    ops.append(Op(index, "EmbeddingBackward0", Factor.WEIGHT, Site("embed", "Embedding"), stats(norm), (), (), (),
                  weights=("embed.weight",)))  # fmt: skip
    coverage = Coverage(no_gradient=("head.bias",), opaque=("rnn (net.py:30)",), notes=("traced uncompiled",))
    return Trace(tuple(ops), (), loss=0.02, coverage=coverage, severed=("detach (net.py:12)",))


def vanishing() -> Diagnosis:
    remedy = Remedy(
        "Use ReLU and initialise for it.",
        "nn.ReLU()\nnn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
        "He et al., 2015",
    )
    finding = Finding(
        Symptom.VANISHING,
        Cause.ACTIVATION_DERIVATIVE,
        tuple(f"layers.{i}" for i in range(20)),
        Severity.CRITICAL,
        "The gradient at layers.0 is 3e-19 of that at the output: each sigmoid passes on a fifth of it, 0.25 at most.",
        (Evidence("gain per layer", -0.92, "decades per layer"), Evidence("saturated", 0.031, "fraction")),
        (remedy, Remedy("Put normalisation between the layers.")),
        source="net.py:3",
    )
    return Diagnosis((finding,), (chain(20, 0.2, 0.6, "sigmoid"),), losses=(2.31, 2.30, 2.30), title="net.py:build")


def healthy() -> Diagnosis:
    return Diagnosis((), (chain(6, 0.7, 1.4, "relu"),), title="net.py:build")


def deep() -> Diagnosis:
    info = Finding(Symptom.DEAD_UNITS, Cause.NONE, ("blocks.3.mlp",), Severity.INFO, "A few units are silent.", step=4)
    return Diagnosis((info,), (residual(500),), refusals=("Dead units of rnn: its insides were not seen.",))


def hostile() -> Diagnosis:
    finding = Finding(Symptom.NONFINITE, Cause.UNSAFE_OP, ("[red]x[/red]", "<script>alert(1)</script>", "\x1b[31mx\n"),
                      Severity.WARNING, "[bold]log of zero[/bold] & <b>worse</b>", source="[link]net.py:1",
                      evidence=(Evidence("[blink]", math.nan), Evidence("norm", math.inf)),
                      remedies=(Remedy("[u]Add eps.", "torch.log(x + <eps>)[/]"),))  # fmt: skip
    trace = chain(3, 0.2, math.nan, "sigmoid", name="[red]<script>{}")
    birth = Birth("forward", "log", Site("[red]x", source="net.py:1"), "smallest operand 0")
    return Diagnosis(
        (finding,), (Trace(trace.ops, trace.parameters, math.nan, nonfinite=birth),), title="[red]<script>"
    )


def cut() -> Diagnosis:
    return Diagnosis((), (chain(5, 0.0, 1.0, "relu"),), title="all zero")


def through_time() -> ThroughTime:
    """An LSTM that loses a tenth of a decade a step, a loop whose state is cut once, and exponents of the former."""
    steps, rate = range(31), 10**-0.1
    falling = tuple(rate ** (30 - t) for t in steps)
    inner = tuple(0.5 * x for x in falling)
    reach = Reach("random", (15, 30), tuple(tuple(rate ** (t - s) for s in range(t + 1)) for t in (15, 30)))
    lstm = Chain("encoder.rnn", "LSTM", "lstm", 0, "forward", 0, hidden=falling, linear=falling[1:],
                 recurrent=tuple(0.3 * x for x in falling[1:]), cell=inner, carried=tuple(0.4 * x for x in inner[1:]),
                 read=tuple(0.1 * x for x in inner[1:]), reach=reach)  # fmt: skip
    seen = tuple(0.0 if t == 4 else 1.0 for t in range(9))
    cut_reach = Reach("random", (8,), ((0.0, 0.0, 0.0, 0.0, 0.4, 0.5, 0.6, 0.8, 1.0),), (4,))
    loop = Chain("[red]loop", "", "loop", 0, "forward", 0, hidden=seen, linear=seen[1:], recurrent=seen[:-1],
                 cuts=(4,), reach=cut_reach)  # fmt: skip
    spectrum = LyapunovSpectrum("encoder.rnn", "lstm", 0, "forward", (-0.23, -0.4), (0.01, 0.02), 64, 30, 4, 1.1)
    told = ("encoder.rnn: the gradient falls 1000-fold in 30 steps.", "[red]loop: the state is detached behind step 4.")
    return ThroughTime("net.py:build", 2.31, 0.7, (lstm, loop), spectra=(spectrum,), sentences=told)


def recurrent() -> Diagnosis:
    return Diagnosis((), (replace(chain(2, 0.7, 1.4, "relu"), through_time=through_time()),), title="net.py:build")


SAMPLES = {
    "recurrent": recurrent,
    "vanishing": vanishing,
    "healthy": healthy,
    "deep": deep,
    "thousand": lambda: Diagnosis((), (chain(1000, 0.2, 4.0, "sigmoid"),), title="a thousand"),
    "exploding": lambda: Diagnosis((), (chain(12, 0.9, 9.0, "relu"),), title="grows"),
    "hostile": hostile,
    "cut": cut,
    "empty": lambda: Diagnosis(()),
}
