"""What does not fit: outputs their loss (probabilities for logarithms, the wrong axis, bounds), data the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.healthy_designs import level_batches, level_net
from gradtrace.casebook.healthy_objectives import oscillator_batches, oscillator_residual, smoothed
from gradtrace.casebook.networks import mlp
from gradtrace.casebook.tasks import cross_entropy, digit_batches
from gradtrace.records.vocabulary import Cause, Symptom


def divergence_of_raw(model: nn.Module, batch: Any) -> Tensor:
    """Kullback-Leibler divergence from smoothed labels, of probabilities."""
    pixels, labels = batch
    return F.kl_div(F.softmax(model(pixels), dim=1), smoothed(labels), reduction="batchmean")


@seeded
def divergence_of_probabilities() -> Setup:
    """Probabilities for kl_div, which expects their logarithms: the loss is minus the probability."""
    return Setup(mlp(2, nn.ReLU), divergence_of_raw, digit_batches())


def softmax_over_samples(model: nn.Module, batch: Any) -> Tensor:
    """The samples compete for each class."""
    pixels, labels = batch
    return F.nll_loss(F.log_softmax(model(pixels), dim=0), labels)


@seeded
def batch_softmax() -> Setup:
    """A softmax over the batch: whatever the weights are, n samples of k classes leave a loss of log(n / k)."""
    return Setup(mlp(2, nn.ReLU), softmax_over_samples, digit_batches())


@seeded
def bounded_logits() -> Setup:
    """A sigmoid in front of cross entropy: of logits between 0 and 1 at least log(1 + 9 / e) is left."""
    model = mlp(2, nn.ReLU)
    model.add_module("squash", nn.Sigmoid())
    return Setup(model, cross_entropy, digit_batches())


@seeded
def straight_residual() -> Setup:
    """A differential equation of second order, and straight lines: u'' is zero, whatever the weights are."""
    return Setup(mlp(2, nn.ReLU, width=32, inputs=1, outputs=1), oscillator_residual, oscillator_batches())


@seeded
def levels_cut_to_zero() -> Setup:
    """Readings below one, cut to integers before they are scaled to levels: all of them are level 0."""
    return Setup(level_net(), cross_entropy, level_batches(cut_first=True))


def _unfit(name: str, build: Callable[[], Setup], source: str) -> Case:
    return Case(name, build, Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION, (), source)


CASES = (
    _unfit("divergence_of_probabilities", divergence_of_probabilities, "pytorch documentation of KLDivLoss"),
    _unfit("batch_softmax", batch_softmax, "NeuraLint (Nikanjam et al. 2021); pytorch warns of an implicit dim"),
    _unfit("bounded_logits", bounded_logits, "NeuraLint (Nikanjam et al. 2021); UMLAUT (Schoop et al. 2021)"),
    Case(
        "straight_residual",
        straight_residual,
        Symptom.VANISHING,
        Cause.ACTIVATION_DERIVATIVE,
        ("hidden",),
        "Raissi et al. 2019; Sitzmann et al. 2020, section 1",
    ),
    Case(
        "levels_cut_to_zero",
        levels_cut_to_zero,
        Symptom.DISCONNECTED,
        Cause.INPUT_SCALE,
        ("0",),
        "pytorch documentation of Tensor.long, which truncates; numpy's of astype",
    ),
)
