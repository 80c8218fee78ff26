"""What the lesson measures with gradtrace is what the lecture's equations give, and what its sentences claim of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradtrace.lesson import measurement
from gradtrace.lesson.chain import measure_chain
from gradtrace.lesson.facts import facts
from gradtrace.lesson.network import measure
from gradtrace.lesson.presets import DEEP, NETWORKS, RECURRENT, TRAINING
from gradtrace.lesson.proof import prove
from gradtrace.lesson.setting import CHAIN_INPUT, CHAIN_TARGET, CHAIN_WEIGHTS, Setting
from gradtrace.records.repair import Role
from gradtrace.records.vocabulary import Factor
from gradtrace.theory import backprop

EXACT = 1e-9
CHAOTIC = {"tanh_large": 1e-6, "sigmoid_large": 1e-6, "exploding_tanh": 1e-6}
"""Networks that make more of a rounding error, as of any small difference, from layer to layer."""


def mean_product(y, start):
    """The loss of the lesson's networks: mean of t y."""
    return float(np.mean(y * start)), start / y.size


ORACLE = [name for name, s in NETWORKS.items() if s.activation in backprop.ACTIVATIONS and not s.alpha]


@pytest.mark.parametrize("name", ORACLE)
def test_every_network_agrees_with_the_equations_at_every_layer(lesson, name):
    setting, measured = NETWORKS[name], lesson.networks[name]
    layers = [backprop.Layer(W, np.zeros(setting.width), setting.activation) for W in setting.weights()]
    oracle, exact = backprop.backward(layers, *setting.batch(), mean_product), CHAOTIC.get(name, EXACT)
    assert measured.loss == pytest.approx(oracle.loss, rel=exact)
    assert measured.norms == pytest.approx([layer.norm for layer in oracle.layers], rel=exact)
    gains = [math.log10(layer.activation_gain) for layer in oracle.layers]
    assert measured.activation_decades == pytest.approx(gains, abs=exact)
    relative = [np.linalg.norm(o.dW) / np.linalg.norm(l.W) for o, l in zip(oracle.layers, layers, strict=True)]
    assert measured.relative_gradient == pytest.approx(relative, rel=exact)
    assert measured.activations_lost_decades + measured.weights_lost_decades == pytest.approx(measured.lost_decades)


@pytest.mark.parametrize("name", RECURRENT)
def test_every_recurrence_agrees_with_the_equations_at_every_step(lesson, name):
    setting, measured = RECURRENT[name], lesson.recurrent[name]
    x, start = setting.batch()
    cell = backprop.Recurrence(np.eye(setting.width), setting.weights(), np.zeros(setting.width))
    readout = backprop.Layer(np.eye(setting.width), np.zeros(setting.width))
    oracle = backprop.backward_through_time(cell, readout, x, start, mean_product)
    norms = [np.linalg.norm(oracle.input_gradient), *(step.norm for step in oracle.layers)]
    assert measured.norms == pytest.approx(norms, rel=EXACT)
    assert measured.singular_value == pytest.approx(np.linalg.norm(setting.weights(), 2), rel=1e-6)


def test_the_chain_of_single_units_agrees_with_the_equations(lesson):
    layers = [backprop.Layer(np.array([[w]]), np.zeros(1), "sigmoid") for w in CHAIN_WEIGHTS]
    oracle = backprop.backward(layers, np.array([[CHAIN_INPUT]]), np.array([[CHAIN_TARGET]]))
    assert lesson.chain == measure_chain()
    assert lesson.chain.loss == pytest.approx(oracle.loss, rel=EXACT)
    assert lesson.chain.gradients == pytest.approx([float(layer.gradient[0, 0]) for layer in oracle.layers], rel=EXACT)
    assert lesson.chain.learns == pytest.approx([float(layer.dW[0, 0]) for layer in oracle.layers], rel=EXACT)
    assert lesson.chain.slopes == pytest.approx([layer.activation_gain for layer in oracle.layers], rel=EXACT)


def test_a_skip_connection_agrees_with_autograd():
    setting = Setting("tanh", 6, 1.3, width=8, alpha=0.4)
    x, start = map(torch.from_numpy, setting.batch())
    ys = [x.requires_grad_()]
    for W in map(torch.from_numpy, setting.weights()):
        ys.append(ys[-1] + 0.4 * torch.tanh(ys[-1]) @ W.T)
        ys[-1].retain_grad()
    (start * ys[-1]).mean().backward()
    gradients = [y.grad for y in ys[1:]]
    assert measure(setting).norms == pytest.approx([float(g.norm()) for g in gradients if g is not None], rel=EXACT)


# --------------------------------------------------------------------------------------------- the lecture's sentences


def test_the_activations_obey_their_bound_and_sigmoids_come_close(lesson):
    for name, measured in lesson.networks.items():
        setting = measured.setting
        bound = (setting.depth - 1) * math.log10(facts(setting.activation).most)
        if not setting.alpha and setting.activation not in ("gelu", "silu"):
            assert measured.activations_lost_decades <= bound + 1e-9, name
    sigmoid = lesson.networks["sigmoid"]
    bound = 19 * math.log10(0.25)
    assert bound - 1 < sigmoid.activations_lost_decades < bound
    assert sigmoid.lost_decades == pytest.approx(-12.0, abs=0.05)


def test_a_naive_weight_scale_does_not_offset_and_the_critical_one_does(lesson):
    naive, critical = lesson.networks["sigmoid_naive"], lesson.networks["sigmoid_critical"]
    assert naive.setting.sigma_w == 4
    assert naive.lost_decades < -3
    assert abs(critical.lost_decades) < 1.5
    assert critical.saturated_frac[9] > 0.4
    assert abs(lesson.networks["relu"].lost_decades) < 1


def test_small_and_large_preactivations(lesson):
    small, large = lesson.networks["tanh_small"], lesson.networks["sigmoid_large"]
    assert small.activations_lost_decades > -0.01
    assert small.weights_lost_decades < -15
    assert large.saturated_frac[9] > 0.8
    assert large.activations_lost_decades < -20 < 20 < large.weights_lost_decades


def test_with_the_scale_of_pytorch_all_vanish_and_tanh_least(lesson):
    lost = {name: lesson.networks[f"{name}_pytorch"].lost_decades for name in ("sigmoid", "tanh", "relu", "gelu")}
    assert max(lost.values()) < -3
    assert max(lost, key=lost.__getitem__) == "tanh"


def test_exploding(lesson):
    assert lesson.networks["exploding"].lost_decades == pytest.approx(59 * math.log10(2), rel=0.1)
    assert 1 < lesson.networks["exploding_slowly"].lost_decades < 4
    assert lesson.networks["exploding_tanh"].lost_decades > 5


def test_a_skip_connection_keeps_what_a_plain_stack_loses(lesson):
    networks = lesson.networks
    assert networks["deep_low"].lost_decades < -5
    assert networks["deep_skip"].lost_decades > 10
    assert abs(networks["deep_skip_scaled"].lost_decades) < 0.3
    assert abs(networks["deep_skip_low"].lost_decades) < 0.3
    assert networks["deep_skip"].setting.alpha == 1
    assert networks["deep_skip_scaled"].setting.alpha == DEEP**-0.5
    assert lesson.sameness["deep"][-1] > 0.95
    assert lesson.sameness["deep_skip_scaled"][-1] < 0.3


def test_in_time_the_length_is_the_depth(lesson):
    lost = {name: measured.decades[0] for name, measured in lesson.recurrent.items()}
    assert lost["short"] > -2 > lost["middle"] > lost["long"]
    assert lost["long"] < -20
    assert lost["large"] > 3
    horizons = [lesson.recurrent[name].horizon_steps for name in ("short", "middle", "long")]
    assert max(horizons) < min(horizons) + 1  # it does not grow with the sequence


def test_early_weights_do_not_learn(lesson):
    sigmoid, relu = lesson.training["sigmoid"], lesson.training["relu"]
    assert sigmoid.losses[-1] > math.log(10) - 0.01
    assert relu.losses[-1] < 0.5
    assert sigmoid.update_ratios[0] < 1e-7 < 1e-3 < relu.update_ratios[0]
    assert sigmoid.update_ratios[-1] > 1e-4
    assert sigmoid.difference < 1e-5
    assert relu.difference > 0.3


def test_measuring_touches_nobodys_random_numbers(lesson):
    assert measure(NETWORKS["sigmoid"]) == lesson.networks["sigmoid"]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        for table in ("NETWORKS", "RECURRENT", "TRAINING"):
            full = getattr(measurement, table)
            patch.setattr(measurement, table, {name: full[name] for name in ("sigmoid", "short") if name in full})
        patch.setattr(measurement, "SAMENESS", ("sigmoid",))
        few = measurement.measure_lesson()
    assert torch.equal(torch.get_rng_state(), before)
    assert few.training["sigmoid"] == lesson.training["sigmoid"]
    assert few.recurrent["short"] == lesson.recurrent["short"]


def test_the_activations_are_proven_to_be_the_cause_and_no_placebo_passes(lesson):
    repair, sigmoid = lesson.repair, lesson.training["sigmoid"]
    assert [share.factor for share in repair.shares.shares] == [Factor.ACTIVATION, Factor.WEIGHT]
    assert math.fsum(share.decades for share in repair.shares.shares) + repair.shares.remaining == pytest.approx(
        repair.shares.deficit, abs=1e-9
    )
    assert repair.shares.shares[0].decades / repair.shares.deficit > 0.9
    assert repair.best.changes[0].kind == "activation"
    assert repair.best.moved_decades == pytest.approx(-repair.shares.deficit, abs=0.3)
    assert repair.best.confirmed.high < math.log(0.7)
    assert not {outcome.seed for outcome in repair.best.confirmation} & {o.seed for o in repair.best.outcomes}
    placebos = [trial for trial in repair.trials if trial.role is Role.PLACEBO]
    assert len(placebos) == 2
    for trial in placebos:
        assert trial.verdict == "helps no more than chance"
        assert trial.end == pytest.approx(repair.original.end, rel=0.01)
    # of the network that the chapter on learning trains: the same start, on other digits by a quarter
    assert repair.original.start == pytest.approx(sigmoid.losses[0], rel=0.01)
    assert any(trial.verdict.startswith("left behind") for trial in repair.candidates)


def test_the_proof_is_the_same_again(lesson):
    again = prove(TRAINING["sigmoid"])
    assert [(t.title, t.end, t.verdict) for t in again.trials] == [
        (t.title, t.end, t.verdict) for t in lesson.repair.trials
    ]
    assert again.shares == lesson.repair.shares
