"""A gradient norm that grows over a run: in which layer, by which factor, and whether the steps feel it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradtrace
from gradtrace.diagnosis.timeline import growth
from gradtrace.diagnosis.timeline.factors import growth_by_factor, with_factors
from gradtrace.records.exhibit import OptimizerStats
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Run, RunHeader, RunSteps, Scalar, WatchedParameter
from gradtrace.records.trace import Trace
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom

NUM_STEPS, NUM_LAYERS = 300, 4
T = np.arange(NUM_STEPS) / NUM_STEPS


def made(
    decades: float = 2.0,
    *,
    loss: np.ndarray | float = 1.0,
    ratios: np.ndarray | float = 1e-3,
    seed: int = 0,
    noise: float = 0.2,
    scale: float = 1.0,
    shape: np.ndarray = T,
    adaptive: bool = False,
    clip: float = np.inf,
) -> Run:
    """Layer 2's gradient, the largest, grows by so many decades; the loss wavers by 5 %."""
    generator = np.random.default_rng(seed)
    gradients = np.exp(generator.normal(0, noise, (NUM_STEPS, NUM_LAYERS))) * [0.1, 0.1, 1.0, 0.1]
    gradients[:, 2] *= 10 ** (decades * shape)
    scalars = np.full((NUM_STEPS, len(Scalar)), np.nan)
    scalars[:, 0] = scale * loss * np.exp(generator.normal(0, 0.05, NUM_STEPS))
    scalars[:, 1] = 0.1
    scalars[:, 2] = scale * np.linalg.norm(gradients, axis=1)
    scalars[:, 3] = np.minimum(scalars[:, 2], clip)
    updates = (np.ones(NUM_STEPS) * ratios)[:, None] * np.ones(NUM_LAYERS)
    series = np.stack([scale * gradients, np.ones_like(gradients), updates], axis=1).astype(np.float32)
    none = np.zeros(NUM_STEPS, np.int64)
    t = np.arange(NUM_STEPS)
    steps = RunSteps(t, none + 1, 0.1 * t, scalars, scalars, series, series, none, none)
    parameters = tuple(WatchedParameter(f"layers.{i}.weight", (8, 8), "float32", 0) for i in range(NUM_LAYERS))
    kind = "Adam" if adaptive else "SGD"
    optimizer = OptimizerStats(kind, adaptive, 1e-8, 0.1, tuple(parameter.name for parameter in parameters))
    return Run(RunHeader("0" * 32, 0.0, parameters=parameters, optimizers=(optimizer,)), steps)


GROWING = 1e-2 * 10 ** (2 * T)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_steps_that_grow_with_it_beyond_the_healthy_and_a_loss_that_stands_are_a_warning(scale: float) -> None:
    (found,) = growth.judge(made(ratios=GROWING, scale=scale))
    assert (found.symptom, found.cause, found.severity) == (Symptom.EXPLODING, Cause.LEARNING_RATE, Severity.WARNING)
    assert (found.where, found.step) == (("layers.2",), 0)
    assert growth.growth_of(found) == pytest.approx(1.8, abs=0.15)  # from the first tenth's middle to the last's
    assert "100 % of its square's growth is in layers.2.weight" in found.message
    assert "The steps grow with it" in found.message
    assert found.remedies


def test_it_is_critical_only_where_the_loss_rises_with_steps_that_replace_the_weights() -> None:
    rising = 1.0 + T
    assert growth.judge(made(ratios=100 * GROWING, loss=rising))[0].severity is Severity.CRITICAL
    assert growth.judge(made(ratios=GROWING, loss=rising))[0].severity is Severity.WARNING
    assert growth.judge(made(ratios=100 * GROWING))[0].severity is Severity.WARNING


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (made(ratios=GROWING, loss=np.exp(-3 * T)), "The loss keeps falling"),
        (made(ratios=0.1 * GROWING), "The steps grow with it"),  # to a tenth at most
        (made(ratios=0.5, adaptive=True), "Adam divides by the gradient's own size"),
        (made(ratios=0.5, clip=1.0), "clipping holds them"),
        (made(ratios=np.nan), "is not known"),
    ],
)
def test_growth_that_the_steps_do_not_feel_or_that_does_no_harm_is_a_remark(run: Run, told: str) -> None:
    (found,) = growth.judge(run)
    assert found.severity is Severity.INFO
    assert told in found.message
    assert not found.remedies


@pytest.mark.parametrize(
    "run",
    [
        made(0.9, ratios=GROWING),  # less than tenfold
        made(ratios=GROWING, shape=np.where(T < 0.55, 0.0, 1.0)),  # a jump
        made(-2.0, ratios=GROWING),
        made(ratios=GROWING, loss=10 ** (2 * T)),  # the loss's own scale
    ],
)
def test_what_is_not_sustained_or_is_the_loss_s_own_is_not_told(run: Run) -> None:
    assert growth.judge(run) == []


def test_growth_that_begins_late_is_told_since_half_way() -> None:
    late = np.maximum(0.0, 2.5 * (T - 0.6))
    (found,) = growth.judge(made(3.0, shape=late, ratios=1e-2 * 10 ** (3 * late)))
    assert (found.severity, found.step) == (Severity.WARNING, NUM_STEPS // 2)


def test_one_weight_whose_growth_the_others_hide_counts_by_its_steps_alone() -> None:
    def hidden(ratios: np.ndarray) -> Run:
        run = made(2.0, ratios=ratios)
        for series in (run.steps.series_low, run.steps.series_high):
            series[:, 0, 2] *= 1e-4
        run.steps.scalars_low[:, 2] = run.steps.scalars_high[:, 2] = np.linalg.norm(run.steps.series_low[:, 0], axis=1)
        return run

    assert growth.judge(hidden(0.1 * GROWING)) == []
    (found,) = growth.judge(hidden(GROWING))
    assert (found.severity, found.where) == (Severity.WARNING, ("layers.2",))
    assert "the gradient of layers.2.weight has grown" in found.message


@given(st.integers(0, 10_000), st.floats(0.05, 1.5))
@settings(max_examples=60, deadline=None)
def test_noise_without_a_trend_is_never_growth(seed: int, noise: float) -> None:
    assert growth.judge(made(0.0, seed=seed, noise=noise, ratios=GROWING)) == []


@given(st.integers(0, 10_000), st.floats(1.5, 6.0), st.sampled_from([1e-8, 1.0, 1e8]))
@settings(max_examples=40, deadline=None)
def test_a_steady_growth_is_found_in_its_layer_whatever_the_scale(seed: int, decades: float, scale: float) -> None:
    (found,) = growth.judge(made(decades, seed=seed, scale=scale))
    assert found.where == ("layers.2",)
    assert found.severity is Severity.INFO


@given(st.lists(st.floats(-3, 3), min_size=10, max_size=10, unique=True), st.floats(0.1, 5.0), st.floats(-9, 9))
def test_the_trend_is_odd_in_time_and_blind_to_level_and_unit(values: list[float], unit: float, level: float) -> None:
    array = np.round(np.array(values), 3)
    sigmas = growth.trend(array)[0]
    assert growth.trend(array[::-1])[0] == pytest.approx(-sigmas)
    assert growth.trend(unit * array + level)[0] == pytest.approx(sigmas, abs=0.3)
    assert abs(sigmas) <= growth.trend(np.arange(10.0))[0]


# ----------------------------------------------------------------------------------------------------------- factors


def traced(model: nn.Module, x: Tensor, factor: float = 1.0) -> Trace:
    return gradtrace.trace(model, lambda m, b: factor * m(b).square().sum(), x)


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 8, bias=False)).double()


def test_each_factor_is_told_apart_and_they_add_up() -> None:
    """L = c |W2 tanh(W1 x)|^2: dL/dW1 = 2 c (W2^T y * a') x^T."""
    x = 1e-3 * torch.randn(16, 8, dtype=torch.float64)  # (where tanh is linear)
    model = linear()
    early = traced(model, x)
    with torch.no_grad():
        model[2].weight *= 10.0
    later = traced(model, x, 100.0)
    grew = growth_by_factor(early, later, "0")
    assert grew[Factor.WEIGHT] == pytest.approx(1.0)
    assert grew[Factor.LOSS] == pytest.approx(3.0)  # c a hundredfold, and y tenfold
    assert grew[Factor.ACTIVATION] == pytest.approx(0.0, abs=1e-6)
    assert grew[None] == pytest.approx(0.0, abs=1e-6)
    norms = [next(p.gradient.norm for p in t.parameters if p.name == "0.weight" and p.gradient) for t in (early, later)]
    assert sum(grew.values()) == pytest.approx(np.log10(norms[1] / norms[0]))
    louder = growth_by_factor(early, traced(linear(), 10 * x), "0")
    assert louder[None] == pytest.approx(1.0, abs=1e-2)  # what comes in; and what goes out
    assert louder[Factor.LOSS] == pytest.approx(1.0, abs=1e-2)


def test_the_sentence_needs_traces_that_show_the_growth() -> None:
    model, x = linear(), 1e-3 * torch.randn(16, 8, dtype=torch.float64)
    early = traced(model, x)
    with torch.no_grad():
        model[2].weight *= 10.0
    finding = Finding(
        Symptom.EXPLODING,
        Cause.LEARNING_RATE,
        ("0",),
        Severity.INFO,
        "It grew.",
        (Evidence(growth.GROWTH_OF_NORM, 2.0),),
        step=5,
    )
    told = with_factors(finding, [(0, early), (8, early), (64, traced(model, x))]).message
    assert told.startswith("It grew. From step 8 to 64 it grew by 2.0 decades: ")
    assert "+1.0 by the weights on the way (f')" in told
    assert "+1.0 by the loss's own gradient at the output" in told
    assert with_factors(finding, [(8, early), (64, early)]) == finding
    assert with_factors(finding, [(64, early)]) == finding
    assert growth_by_factor(early, early, "nowhere") == {}


# -------------------------------------------------------------------------------------------------- a real training


def normed(decay: float) -> tuple[list[Finding], list[float], Run]:
    """Weights under a norm, large at first: decay makes them small, and their gradient and each step's angle large."""
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Linear(16, 64, bias=False), nn.LayerNorm(64), nn.ReLU()),
        *(nn.Linear(64, 64, bias=False), nn.LayerNorm(64), nn.ReLU()),
        nn.Linear(64, 4),
    )
    hidden = [model[0].weight, model[3].weight]
    rest = [p for p in model.parameters() if all(p is not weight for weight in hidden)]
    for weight in hidden:
        weight.data *= 1000.0
    centres = torch.randn(4, 16)
    optimizer = torch.optim.SGD([{"params": hidden, "weight_decay": decay}, {"params": rest}], lr=1.0)
    losses = []
    with gradtrace.watch(model, optimizer, budget=100.0, every=150) as watch:
        for _ in range(600):
            labels = torch.randint(0, 4, (64,))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(centres[labels] + 1.5 * torch.randn(64, 16)), labels)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return [f for f in watch.diagnosis.findings if growth.growth_of(f) is not None], losses, watch.run


@pytest.mark.long
def test_weights_that_decay_under_a_norm_until_their_steps_are_too_large() -> None:
    found, losses, _ = normed(0.015)
    assert np.mean(losses[-100:]) > 1.1 * np.mean(losses[250:350])  # it had been lower
    assert [f.severity for f in found] == [Severity.WARNING]
    assert found[0].where[0] in ("0", "3")
    assert "by norms" in found[0].message  # 1 / |w|, twice
    healthy, kept, _ = normed(1e-4)
    assert np.mean(kept[-100:]) < np.mean(losses[-100:])
    assert healthy == []


@pytest.mark.parametrize(("held", "ill"), [((0, 0, 0, 0), True), ((0, 0, None, 0), False), ((None,) * 4, True)])
def test_a_gradient_that_nobody_clears_and_no_optimizer_applies_may_sum_up(held: tuple[int | None, ...], ill: bool):
    run = made(2.0, ratios=GROWING)
    columns = zip(run.header.parameters, held, strict=True)
    parameters = tuple(replace(parameter, optimizer=optimizer) for parameter, optimizer in columns)
    run = replace(run, header=replace(run.header, parameters=parameters))
    assert bool(growth.judge(run)) is ill
