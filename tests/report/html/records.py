"""Runs and recurrences written out by hand, with what a page must show of them."""

from __future__ import annotations

import math

import numpy as np

from gradtrace.records.entries import RunEntries
from gradtrace.records.exhibit import OptimizerStats
from gradtrace.records.finding import Finding
from gradtrace.records.lyapunov import LyapunovSpectrum
from gradtrace.records.run import (
    EventKind,
    Run,
    RunEvent,
    RunHeader,
    RunSteps,
    Scalar,
    Series,
    WatchedParameter,
)
from gradtrace.records.run_ranks import RunRanks
from gradtrace.records.time import Chain, Reach, ThroughTime
from gradtrace.records.vocabulary import Cause, Severity, Symptom

SPIKE_STEP, SPIKE_LAYER = 137, 7


def run(num_layers: int = 24, num_steps: int = 300, name: str = "layers.{}") -> Run:
    """Gradients shrink towards the input; one layer has a spike at one step, which is skipped."""
    names = [f"{name.format(layer)}.{kind}" for layer in range(num_layers) for kind in ("weight", "bias")]
    parameters = tuple(WatchedParameter(n, (32, 32) if n.endswith("weight") else (32,), "float32", 0) for n in names)
    generator = np.random.default_rng(0)
    noise = np.exp(generator.normal(0, 0.3, (num_steps, len(Series), len(names))))
    depth = np.repeat(np.arange(num_layers), 2)
    level = np.stack([10.0 ** (-4 + 4 * depth / num_layers), np.full(len(names), 3.0), np.full(len(names), 1e-3)])
    series = (noise * level).astype(np.float32)
    if num_steps > SPIKE_STEP:
        series[SPIKE_STEP, 0, 2 * SPIKE_LAYER] = np.inf
    steps = np.arange(num_steps)
    loss = 2.3 * np.exp(-steps / 100) + 0.05 * generator.random(num_steps)
    norms = np.sqrt((series[:, 0] ** 2).sum(axis=1))
    scalars = np.stack([loss, np.full(num_steps, 1e-3), norms, np.minimum(norms, 1.0), np.full(num_steps, np.nan)], 1)
    assert scalars.shape == (num_steps, len(Scalar))
    table = RunSteps(steps, np.ones(num_steps, np.int64), steps * 0.05, scalars, scalars, series, series,
                     (steps == SPIKE_STEP).astype(np.int64), np.zeros(num_steps, np.int64))  # fmt: skip
    events = (
        RunEvent(0, EventKind.SAMPLE),
        RunEvent(SPIKE_STEP, EventKind.NONFINITE, "gradient of layers.7.weight is inf"),
        RunEvent(SPIKE_STEP, EventKind.SKIPPED, "the scaler halved"),
        RunEvent(200, EventKind.RESUMED, "from </script><b>checkpoint"),
    )
    finding = Finding(Symptom.NONFINITE, Cause.NUMERIC_FORMAT, ("layers.7",), Severity.WARNING,
                      "The gradient of layers.7 overflowed.", step=SPIKE_STEP)  # fmt: skip
    header = RunHeader("0" * 32, 1.7e9, ("train.py", "--lr", "1e-3"), "train.py", parameters,
                       (OptimizerStats("Adam", True, 1e-8, 1e-3, tuple(names)),), (("torch", "2.13"),))  # fmt: skip
    return Run(header, table, events, (finding,), (0,), True, ("The watch was detached for a while.",))


def four_ranks() -> RunRanks:
    """Rank 2 has a loss of its own, rank 1 is slow, rank 3 breaks at last; nobody reports from step 16 to 39."""
    steps = np.array([*range(16), *range(40, 60)])
    generator = np.random.default_rng(0)
    loss, gradient = (generator.lognormal(0.0, 0.05, (len(steps), 4)) for _ in range(2))
    seconds, nonfinite = np.full((len(steps), 4), 0.1), np.zeros((len(steps), 4), bool)
    loss[:, 2] *= 3.0
    seconds[:, 1] = 0.4
    loss[-1, 3], gradient[-1, 3], nonfinite[-1, 3] = np.nan, np.inf, True
    layers = generator.lognormal(0.0, 0.05, (len(steps), 4, 5)) * 10.0 ** -np.arange(5)
    layers[:, 2] *= 3.0
    layers[20:, 0, 4] *= 0.02  # one layer of one rank, in the second half
    layers[-1, 3, 1] = np.inf
    return RunRanks(steps, loss, seconds, nonfinite, gradient, (0, 1, 2, 3, 4), layers)


def entries_of(num_parameters: int) -> RunEntries:
    """Of gradients at three steps; a tenth of them zero, and of the last parameter nothing is known at first."""
    largest = np.full((3, num_parameters), 0.25, np.float32)
    largest[1, 0], largest[0, -1] = np.inf, np.nan
    zeros = np.where(np.isnan(largest), np.nan, np.float32(0.1))
    return RunEntries(np.array([0, 10, 40]), largest, zeros, np.where(np.isinf(largest), np.float32(0.5), zeros * 0))


def pooled_run() -> Run:
    """Two old rows that pool ten steps each."""
    whole = run(3, 20)
    steps = whole.steps
    table = RunSteps(
        first=np.array([0, 10]),
        count=np.array([10, 10]),
        time_s=steps.time_s[[9, 19]],
        scalars_low=np.stack([steps.scalars_low[:10].min(0), steps.scalars_low[10:].min(0)]),
        scalars_high=np.stack([steps.scalars_high[:10].max(0), steps.scalars_high[10:].max(0)]),
        series_low=np.stack([steps.series_low[:10].min(0), steps.series_low[10:].min(0)]),
        series_high=np.stack([steps.series_high[:10].max(0), steps.series_high[10:].max(0)]),
        nonfinite=np.array([0, 0]),
        nan_losses=np.array([0, 0]),
    )
    return Run(whole.header, table)


def through_time(num_steps: int = 40) -> ThroughTime:
    """An RNN that keeps 0.7 of the gradient at each step, cut behind step 4."""
    hidden = tuple(0.7 ** (num_steps - t) if t > 4 else 0.0 for t in range(num_steps + 1))
    linear = tuple(0.9 * x for x in hidden[1:])
    recurrent = tuple(hidden[t - 1] for t in range(1, num_steps + 1))
    targets = tuple(range(8, num_steps + 1, 8))
    rows = tuple(tuple(0.7 ** (t - s) if s > 4 else 0.0 for s in range(t + 1)) for t in targets)
    reach = Reach("random", targets, rows, tuple(5 for _ in targets))
    chain = Chain("rnn", "RNN", "rnn_tanh", 0, "forward", 0, hidden, linear, recurrent, cuts=(4,), singular_value=1.2,
                  reach=reach)  # fmt: skip
    exponents = tuple(math.log(0.7) - 0.1 * i for i in range(6))
    spectrum = LyapunovSpectrum("rnn", "rnn_tanh", 0, "forward", exponents, (0.01,) * 6, 6, num_steps, 4, 1.2)
    losses = (Reach("loss", targets, rows),)
    told = ("rnn forgets after 20 steps.", "A state was cut behind step 4.")
    return ThroughTime("net.py:build", 1.0, 0.5, (chain,), losses, "", (spectrum,), told)
