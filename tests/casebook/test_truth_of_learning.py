"""Do the networks of `learning` fail to learn, and do their twins learn? Plain PyTorch, apart from the rules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.casebook.measurements import observe, rms, train
from torch import nn

from gradtrace.casebook import CASES
from gradtrace.casebook.case import Setup
from gradtrace.casebook.tasks import cross_entropy


def built(name: str) -> Setup:
    return CASES[name].build()


def learnt(name: str, num_steps: int = 100) -> float:
    """The loss after training over that before, mean over the batches."""
    setup = built(name)
    losses = train(setup, num_steps)
    return sum(losses[-4:]) / sum(losses[:4])


@pytest.mark.parametrize("name", ["one_class", "clamped_residual"])
def test_every_gradient_is_exactly_zero(name: str) -> None:
    seen = observe(built(name))
    assert all(gradient is not None and not gradient.any() for gradient in seen.parameters.values())


@pytest.mark.parametrize(
    ("ill", "well", "num_steps"),
    [
        ("clamped_residual", "clamped_residual_near", 60),
        ("large_start", "he_start", 20),
        pytest.param("post_norm_in_training", "pre_norm_in_training", 40, marks=pytest.mark.long),
    ],
)
def test_what_is_ill_does_not_learn_and_its_twin_does(ill: str, well: str, num_steps: int) -> None:
    setup = built(ill)
    chance = math.log(10) if ill == "large_start" else math.log(32) if ill.startswith("post") else 1.0
    losses = train(setup, num_steps)
    assert not min(losses[-4:]) < 0.97 * chance
    assert learnt(well, num_steps) < 0.9


@pytest.mark.parametrize(("name", "weight", "gates"), [
    ("constant_weights", "hidden.linear1.weight", 1), ("constant_weights", "hidden.linear2.weight", 1),
    ("constant_lstm", "lstm.weight_ih_l0", 4), ("constant_lstm", "lstm.weight_hh_l0", 4),
])  # fmt: skip
def test_no_step_parts_copies(name: str, weight: str, gates: int) -> None:
    setup = built(name)
    before = setup.model.get_parameter(weight).detach().clone()
    train(setup, 60)
    after = setup.model.get_parameter(weight).detach()
    assert (after - before).abs().max() > 0.01
    assert all((gate - gate[:1]).abs().max() < 1e-3 * gate.abs().max() for gate in after.chunk(gates))


def test_what_is_constant_apart_from_the_weights_is_parted_at_once() -> None:
    setup = built("constant_biases")
    assert learnt("constant_biases", 60) < 0.2
    train(setup, 2)
    head = setup.model.get_parameter("head.weight").detach()
    assert (head - head[:1]).abs().max() > 0.1 * head.abs().max()


def test_confident_and_wrong_outputs_stay_so() -> None:
    setup = built("softmax_absolute")
    pixels, labels = setup.batches[0]
    p = setup.model(pixels)
    slope = (p * (1 - p)).amax(1)
    assert float((slope < 0.0125).float().mean()) > 0.5  # one-hot
    assert float((p.argmax(1) == labels).float().mean()) < 0.3  # and wrong
    losses = train(setup, 100)
    assert losses[-1] > 0.8 * losses[0]
    assert min(losses) > 0.1  # what the constant zero gets


def test_the_penalty_makes_up_the_early_gradient() -> None:
    for name, drowned in (("penalised_sigmoid", True), ("penalised_relu", False)):
        setup = built(name)
        first = next(p for p in setup.model.parameters() if p.dim() > 1)
        (data,) = torch.autograd.grad(cross_entropy(setup.model, setup.batches[0]), first)
        assert bool(data.norm() < 1e-2 * (2e-2 * first).norm()) is drowned
        train(setup, 100)
        loss = float(cross_entropy(setup.model, setup.batches[0]).detach())
        assert (loss > 2.2) is drowned


@pytest.mark.long
def test_the_unet_of_sigmoids_learns_no_more_than_a_constant() -> None:
    for name, ill in (("unet_of_sigmoids", True), ("unet_with_skips", False)):
        setup = built(name)
        share = float(torch.stack([mask.mean() for _, mask in setup.batches]).mean())
        constant = -share * math.log(share) - (1 - share) * math.log(1 - share)
        assert (train(setup, 200)[-1] > 0.95 * constant) is ill


def test_no_output_reaches_the_targets() -> None:
    _, targets = built("targets_out_of_range").batches[0]
    assert float((targets - targets.clamp(0, 1)).square().mean()) > float(targets.var())
    setup = built("sigmoid_pixels")
    assert all(float(t.min()) >= 0.0 and float(t.max()) <= 1.0 for _, t in setup.batches)


def test_counts_as_probabilities_have_no_minimum() -> None:
    losses = train(built("counts_as_probabilities"), 300)
    assert losses[-1] < -1.0


def test_the_loss_of_raw_features_stays_far_above_a_constant_s() -> None:
    for name, ill in (("raw_features_adam", True), ("raw_pixels_adam", False)):
        setup = built(name)
        constant = float(setup.batches[0][1].var())
        assert (train(setup, 100)[-1] > 100 * constant) is ill


def test_examples_behind_the_clip_stay_without_gradient() -> None:
    def without(setup: Setup, batch: Any) -> float:
        inputs = batch[0].clone().requires_grad_()
        setup.loss_fn(setup.model, (inputs, batch[1])).backward()
        assert inputs.grad is not None
        return float((inputs.grad == 0).all(1).float().mean())

    for name, ill in (("clipped_relu_output", True), ("positive_output", False)):
        setup = built(name)
        assert without(setup, setup.batches[0]) > 0.2
        losses = train(setup, 200)
        setup.model.zero_grad()
        assert (without(setup, setup.batches[0]) > 0.2) is ill
        assert (losses[-1] > 0.9 * losses[0]) is ill


def test_a_tenth_of_the_rate_saves_no_large_start() -> None:
    for rate in (1.0, 0.1):
        setup = built("large_start")
        losses = train(setup, 20, rate=rate)
        assert max(losses) > 10 * losses[0] or not any(p.grad is not None and p.grad.any() for p in
                                                       setup.model.parameters() if p.dim() > 1)  # fmt: skip


def test_the_handwritten_lstm_forgets_its_first_step() -> None:
    for name, ill in (("handwritten_lstm", True), ("handwritten_lstm_short", False)):
        setup = built(name)
        series, labels = setup.batches[0]
        series = series.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(setup.model, (series, labels)), series)
        assert (rms(gradient[:, 0]) < 1e-3 * rms(gradient[:, -1])) is ill


def test_the_signal_fades_until_no_unit_is_on() -> None:
    setup = built("faded_signal")
    x = setup.batches[0][0]
    sizes = []
    for part in setup.model.get_submodule("hidden").children():
        x = part(x)
        sizes.append(rms(x))
    assert sizes[-1] == 0.0
    assert any(0.0 < size < 1e-2 for size in sizes)
    scaled = built("faded_signal")
    with torch.no_grad():
        for p in scaled.model.parameters():
            p.mul_(math.sqrt(2.0) / 0.16 if p.dim() > 1 else 1.0)  # He's gain, the same biases
    assert rms(scaled.model.get_submodule("hidden")(setup.batches[0][0])) > 0.1


@pytest.mark.long
def test_post_norm_is_even_before_training_and_lost_after() -> None:
    setup = built("post_norm_in_training")
    before = observe(setup).gradients
    train(setup, 24)
    after = observe(setup).gradients
    for gradients, lost in ((before, False), (after, True)):
        found = [rms(g) for g in gradients if g is not None]
        assert (found[0] < 1e-3 * found[-1]) is lost


def test_the_saturated_first_layer_learns_as_fast_as_with_standardised_inputs() -> None:
    setup = built("wide_tanh")
    x = setup.batches[0][0]
    first = next(m for m in setup.model.modules() if isinstance(m, nn.Linear))
    slope = 1 - torch.tanh(first(x)) ** 2
    assert float((slope < 0.05).float().mean()) > 0.5
    plain = built("wide_tanh")
    plain.batches[:] = [(x / 10.0, y) for x, y in plain.batches]
    assert train(setup, 60)[-1] < 1.1 * train(plain, 60)[-1]


def test_the_frozen_model_moves_nowhere_and_the_padding_is_divided_by_zero() -> None:
    assert not any(p.requires_grad for p in built("frozen_model").model.parameters())
    setup = built("padded_directions")
    assert setup.model.embed.weight[0].norm() == 0.0  # type: ignore[union-attr, index, operator]
    loss = setup.loss_fn(setup.model, setup.batches[0])
    assert math.isnan(float(loss.detach()))
    assert math.isfinite(observe(built("directions")).loss)


def test_a_generator_that_lowers_what_is_flat_fools_nobody() -> None:
    """Of the two losses one moves what the discriminator says of the fakes."""
    for name, ill in (("minimax_game", True), ("not_saturating_game", False)):
        setup = built(name)
        generator, discriminator = setup.model["generator"], setup.model["discriminator"]  # type: ignore[index]
        before = discriminator(generator(setup.batches[0])).mean()
        assert float(before.detach()) < 1e-3
        train(setup, 60)
        after = discriminator(generator(setup.batches[0])).mean()
        assert (float(after.detach()) < 1e-3) is ill
