"""Is each case what it says? Plain PyTorch measurement, apart from the rules and from gradtrace's trace."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.casebook.measurements import (
    Observed,
    early_over_late,
    first_over_last_step,
    observe,
    one_hot,
    optimizers_of,
    rms,
    train,
)
from torch import nn

from gradtrace.casebook import _FAMILIES, CASES
from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.tasks import token_batches, token_cross_entropy
from gradtrace.casebook.vanishing import Captioner, caption_batches, signal_model
from gradtrace.records.vocabulary import Cause, Symptom

CLEAR, HEALTHY = 1e3, 1e2
IN_TIME = {"rnn_last_step", "gru_last_step", "lstm_forgets", "expanding_relu_rnn", "contracting_loop", "expanding_loop"}
IN_TRAINING = {Cause.LEARNING_RATE, Cause.INPUT_SCALE, Cause.REDUCTION_SCALE}


def cases(symptom: Symptom, *causes: Cause) -> list[str]:
    """Those whose truth is here; of some it lies in what training does (`test_truth_of_learning`, `_of_pairing`)."""
    found = [n for n, case in CASES.items() if case.symptom is symptom and (not causes or case.cause in causes)]
    elsewhere = " ".join(_FAMILIES[family] for family in ("learning", "pairing", "symmetry")).split()
    return [name for name in found if name not in elsewhere]


# ------------------------------------------------------------------------------------------------------- vanishing


@pytest.mark.parametrize("name", cases(Symptom.VANISHING))
def test_vanishing_by_three_decades(name: str) -> None:
    setup = CASES[name].build()
    if name in IN_TIME:
        assert first_over_last_step(setup) <= 1 / CLEAR
    else:
        assert max(early_over_late(setup)) <= 1 / CLEAR


@pytest.mark.parametrize("name", cases(Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE))
def test_bounded_derivatives_are_not_yet_saturated(name: str) -> None:
    hidden = [unit for unit in observe(CASES[name].build()).units if unit.name == "sigmoid"]
    assert all(unit.flat_frac < 0.05 for unit in hidden)


@pytest.mark.parametrize("name", cases(Symptom.VANISHING, Cause.DEPTH_WITHOUT_SKIP))
def test_each_of_many_layers_is_nearly_right(name: str) -> None:
    gradients = [rms(g) for g in observe(CASES[name].build()).gradients if g is not None]
    per_layer = math.log10(gradients[-2] / gradients[0]) / (len(gradients) - 2)
    assert 0.0 < per_layer < 0.1


@pytest.mark.parametrize(
    ("model", "batches"),
    [(lambda: signal_model(pre=True), token_batches), (lambda: Captioner(28, pre=True), caption_batches)],
)
def test_the_prenorm_twins_of_the_postnorm_cases_are_well(model, batches) -> None:
    twin = seeded(lambda: Setup(model(), token_cross_entropy, batches()))()
    assert 1 / HEALTHY <= early_over_late(twin)[1] <= HEALTHY


def test_one_small_and_one_large_layer_are_the_only_ones() -> None:
    for name, layer in (("one_small_layer", 3), ("one_large_layer", 2)):
        found = [rms(g) for g in observe(CASES[name].build()).gradients if g is not None]
        jumps = [abs(math.log10(a / b)) for a, b in pairwise(found)]
        assert jumps.index(max(jumps)) == layer - 1  # what the layer passes down, over what it received
        assert sorted(jumps)[-2] < 0.6


# ------------------------------------------------------------------------------------------------------- exploding


@pytest.mark.parametrize(
    "name", [n for n in cases(Symptom.EXPLODING) if CASES[n].cause not in {*IN_TRAINING, Cause.LOSS_FUNCTION}]
)
def test_exploding_by_three_decades(name: str) -> None:
    setup = CASES[name].build()
    if name in IN_TIME:
        assert first_over_last_step(setup) >= CLEAR
    else:
        assert min(early_over_late(setup)) >= CLEAR


def test_the_error_of_which_the_negative_is_minimised_grows_for_ever_and_falls_without_the_minus() -> None:
    errors = [-loss for loss in train(CASES["negated_loss"].build(), 200)]
    assert errors[-1] > 10 * errors[100] > 100 * errors[0]
    setup = CASES["negated_loss"].build()
    losses = train(replace(setup, loss_fn=lambda model, batch: -setup.loss_fn(model, batch)), 200)
    assert losses[-1] < 0.1 * losses[0]


def diverged(losses: list[float]) -> bool:
    return not all(map(math.isfinite, losses)) or losses[-1] >= 10 * losses[0]


def put_right(name: str, setup: Setup) -> float:
    """Undo the fault, in `setup` or as a factor of the learning rate (returned)."""
    cause = CASES[name].cause
    if cause is Cause.LEARNING_RATE:
        return 1e-3
    if cause is Cause.REDUCTION_SCALE:
        return 1.0 / (32 * 16 if "tokens" in name else 256)
    for index, (x, y) in enumerate(setup.batches):
        setup.batches[index] = ((x - x.mean()) / x.std(), y if name == "raw_features" else y / 1e6)
    return 1.0


@pytest.mark.parametrize("name", [n for n in cases(Symptom.EXPLODING) if CASES[n].cause in IN_TRAINING])
def test_training_diverges_and_does_not_once_put_right(name: str) -> None:
    assert diverged(train(CASES[name].build(), 8))
    setup = CASES[name].build()
    losses = train(setup, 30, rate=put_right(name, setup))
    assert not diverged(losses)
    assert losses[-2] < losses[0]


# ------------------------------------------------------------------------------------------- saturated, dead units


@pytest.mark.parametrize("name", cases(Symptom.SATURATED, Cause.SATURATED_PREACTIVATION, Cause.INPUT_SCALE))
def test_most_units_of_the_blamed_layer_are_flat(name: str) -> None:
    case = CASES[name]
    units = [unit for unit in observe(case.build()).units if unit.name != "relu"]
    assert units[0].flat_frac > 0.5
    if case.cause is Cause.INPUT_SCALE:  # and it is the input's scale: the layers behind are well
        assert all(unit.flat_frac < 0.1 for unit in units[1:])
        setup = case.build()
        setup.batches[0] = (setup.batches[0][0] / setup.batches[0][0].std(), setup.batches[0][1])
        assert all(unit.flat_frac < 0.1 for unit in observe(setup).units)


def test_the_tanhs_that_lose_everything_are_flat() -> None:
    setup = CASES["tanh_vanishing"].build()
    assert all(unit.flat_frac > 0.9 for unit in observe(setup).units)
    assert max(early_over_late(setup)) <= 1 / CLEAR  # hence `also`


@pytest.mark.parametrize("name", cases(Symptom.SATURATED, Cause.ATTENTION_SATURATION))
def test_most_attention_rows_are_one_hot(name: str) -> None:
    setup = CASES[name].build()
    rows = [unit.flat_frac for unit in observe(setup).units if unit.name == "softmax"]
    if not rows:  # nn.MultiheadAttention keeps its softmax to itself: ask it for the weights
        layer: nn.TransformerEncoderLayer = setup.model.blocks[0]  # type: ignore[union-attr,index,assignment]
        tokens, _ = setup.batches[0]
        x = layer.norm1(setup.model.embedding(tokens) + setup.model.positions)  # type: ignore[operator]
        _, weights = layer.self_attn(x, x, x, need_weights=True, average_attn_weights=False)
        rows = [float(one_hot(weights).float().mean())]
    assert min(rows) > 0.5


@pytest.mark.parametrize("name", cases(Symptom.DEAD_UNITS))
def test_most_units_of_a_layer_are_zero_on_every_sample(name: str) -> None:
    case = CASES[name]
    setup = case.build()
    if case.steps:
        assert max(unit.dead_frac for unit in observe(setup).units) < 0.5
        losses = train(setup, case.steps)
        assert not diverged(losses)  # the units die, the loss does not run away
    for batch in setup.batches:
        assert max(unit.dead_frac for unit in observe(setup, batch).units) > 0.75


# -------------------------------------------------------------------------------------------------------- nonfinite


@pytest.mark.parametrize("name", cases(Symptom.NONFINITE))
def test_something_is_not_finite(name: str) -> None:
    case = CASES[name]
    setup = case.build()
    if case.steps:
        assert math.isfinite(observe(setup).loss)
        train(setup, case.steps)
        assert any(not p.isfinite().all() for p in setup.model.parameters())
        return
    seen = observe(setup)
    gradients = [g for g in seen.parameters.values() if g is not None]
    assert not math.isfinite(seen.loss) or any(not g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", ["sqrt_zero", "self_distance", "acos_one", "where_trap"])
def test_the_forward_pass_is_finite_and_only_the_backward_pass_is_not(name: str) -> None:
    seen = observe(CASES[name].build())
    assert math.isfinite(seen.loss)
    assert any(not g.isfinite().all() for g in seen.parameters.values() if g is not None)


@pytest.mark.parametrize("name", ["half_overflow", "half_sum", "half_adam"])
def test_what_overflows_in_float16_does_not_in_float32(name: str) -> None:
    setup = in_float32(CASES[name].build())
    train(setup, 2)
    assert all(p.isfinite().all() for p in setup.model.parameters())
    assert math.isfinite(observe(setup).loss)


def in_float32(setup: Setup) -> Setup:
    def wide(x: torch.Tensor) -> torch.Tensor:
        return x.float() if x.is_floating_point() else x

    setup.model.float()
    return Setup(setup.model, setup.loss_fn, [tuple(map(wide, batch)) for batch in setup.batches], setup.optimizer)


@pytest.mark.parametrize(
    ("name", "place"), [("exp_overflow", "features.act2"), ("half_overflow", "hidden.linear2"), ("sqrt_zero", None)]
)
def test_the_first_module_with_a_nonfinite_output_is_the_one_blamed(name: str, place: str | None) -> None:
    setup = CASES[name].build()
    born: list[str] = []
    for path, module in setup.model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda _m, _i, out, path=path: None if out.isfinite().all() else born.append(path)
            )
    setup.loss_fn(setup.model, setup.batches[0])
    assert (born[0] if born else None) == place


# -------------------------------------------------------------------------------------------------------- underflow


@pytest.mark.parametrize("name", [n for n in cases(Symptom.UNDERFLOW) if not optimizers_of(CASES[n].build())])
def test_most_of_the_gradient_is_rounded_to_zero(name: str) -> None:
    setup = CASES[name].build()
    first = observe(setup).gradients[0]
    assert first is not None
    assert float((first == 0).float().mean()) > 0.5
    twin = in_float32(CASES[name].build())
    if hasattr(twin.model, "cast"):
        twin.model.cast = nn.Identity()
    wide = observe(twin).gradients[0]
    assert wide is not None
    assert float((wide == 0).float().mean()) < 0.01
    assert 1 / HEALTHY <= early_over_late(twin)[1] <= HEALTHY  # the format alone is to blame
    for key, gradient in observe(setup).parameters.items():
        true = observe(twin).parameters[key]
        assert gradient is not None
        assert true is not None
        if not key.startswith("head"):  # and what is left of the parameters' gradient is wrong
            assert (gradient.float() - true).norm() > 0.5 * true.norm()


@pytest.mark.parametrize("name", [n for n in cases(Symptom.UNDERFLOW) if optimizers_of(CASES[n].build())])
def test_the_step_is_rounded_away(name: str) -> None:
    setup = CASES[name].build()
    before = {key: p.detach().clone() for key, p in setup.model.named_parameters()}
    gradients = observe(setup).parameters
    train(setup, 1)
    moving = {key: g != 0 for key, g in gradients.items() if g is not None}
    unmoved = sum(int(((p == before[key]) & moving[key]).sum()) for key, p in setup.model.named_parameters())
    assert unmoved / sum(int(mask.sum()) for mask in moving.values()) > 0.5


# ----------------------------------------------------------------------------------------------------- disconnected


@pytest.mark.parametrize("name", cases(Symptom.DISCONNECTED))
def test_parameters_have_no_gradient_or_no_optimizer(name: str) -> None:
    case = CASES[name]
    setup = case.build()
    gradients = observe(setup).parameters
    held = {id(p) for optimizer in optimizers_of(setup) for group in optimizer.param_groups for p in group["params"]}
    orphans = {key for key, p in setup.model.named_parameters() if held and id(p) not in held and p.requires_grad}
    cut = {key for key, g in gradients.items() if g is None or not g.any()}
    unregistered = {"plain_list", "plain_tensor"}
    assert bool(orphans | cut) != (name in unregistered)
    if name in unregistered:
        loss = setup.loss_fn(setup.model, setup.batches[0])
        leaves, known = leaves_of(loss), {id(p) for p in setup.model.parameters()}
        assert any(id(leaf) not in known for leaf in leaves)
    elif case.where:
        assert all(key.startswith(case.where) for key in orphans | cut)


def leaves_of(loss: torch.Tensor) -> list[torch.Tensor]:
    stack, seen, leaves = [loss.grad_fn], set(), []
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        stack.extend(following for following, _ in node.next_functions)
    return leaves


@pytest.mark.parametrize("name", ["detach", "data_attribute", "no_grad", "item", "argmax", "rounding"])
def test_the_loss_depends_on_what_is_cut(name: str) -> None:
    setup = CASES[name].build()
    before = observe(setup).loss
    with torch.no_grad():
        for key, parameter in setup.model.named_parameters():
            if key.startswith(CASES[name].where):
                parameter.add_(torch.randn_like(parameter))
    assert observe(setup).loss != before


# --------------------------------------------------------------------------------------------------- loss saturated


def per_example_gradient(seen: Observed) -> float:
    """Mean over examples of |dl_i / dz_i|, z the last layer's output and l_i the loss of example i."""
    gradient = seen.gradients[-1]
    return 0.0 if gradient is None else float(gradient.double().flatten(1).norm(dim=1).sum())


@pytest.mark.parametrize("name", cases(Symptom.LOSS_SATURATED))
def test_the_loss_is_large_and_flat(name: str) -> None:
    seen = observe(CASES[name].build())
    assert seen.loss > 0.4
    assert per_example_gradient(seen) <= 1e-3 * seen.loss


@pytest.mark.parametrize("name", ["converged", "he_relu", "tiny_units", "huge_units", "resnet"])
def test_the_same_measure_is_about_one_where_the_loss_is_sound(name: str) -> None:
    seen = observe(CASES[name].build())
    assert per_example_gradient(seen) > 0.05 * seen.loss


# ---------------------------------------------------------------------------------------------------------- healthy

UNEVEN = {
    "policy_head": "a last layer scaled by 0.01 lets little through, until its first steps",
    "default_relu_adam": "Adam evens it out",
    "constant_biases": "a head of zeros lets nothing through, until its first step",
    "zero_head": "a last layer of zeros lets nothing through, until its first step",
    "directions": "each word is divided by its length, of about four, and by their number: Adam evens it out",
    "lora": "`up` is zero, and so is the gradient of `down` until it has moved",
}


@pytest.mark.parametrize("name", [name for name in cases(Symptom.HEALTHY) if name != "signed_distance"])
def test_healthy_gradients_are_finite_and_even(name: str) -> None:
    setup = CASES[name].build()
    seen = observe(setup)
    assert math.isfinite(seen.loss)
    assert all(g.isfinite().all() for g in seen.gradients if g is not None)
    if name in UNEVEN:
        train(setup, 20 if name != "default_relu_adam" else 100)
    # the last layer or the one before: pooling and zero-initialised branches make one of them odd
    assert any(1 / HEALTHY <= ratio <= HEALTHY for ratio in early_over_late(setup))


def test_a_slope_sends_its_gradient_to_the_weights_alone() -> None:
    found = observe(CASES["signed_distance"].build()).parameters
    first, last = (rms(found[name]) for name in ("hidden.linear1.weight", "head.weight"))
    assert 1 / HEALTHY <= first / last <= HEALTHY


@pytest.mark.parametrize("name", cases(Symptom.HEALTHY))
def test_healthy_networks_train(name: str) -> None:
    case = CASES[name]
    setup = case.build()
    losses = train(setup, 40, case.accumulate)
    assert all(map(math.isfinite, losses))
    if "converged" in name:
        assert sum(losses[-4:]) <= 1.05 * sum(losses[:4])
    else:
        assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("name", ["fixup", "rezero", "layer_scale"])
def test_what_starts_at_zero_wakes_up(name: str) -> None:
    setup = CASES[name].build()
    train(setup, 2)
    assert all(g is not None and bool(g.any()) for key, g in observe(setup).parameters.items() if key != "positions")


# --------------------------------------------------------------------------------------------------------- registry


def test_all_symptoms_and_causes_appear() -> None:
    assert {case.symptom for case in CASES.values()} == set(Symptom)
    assert {case.cause for case in CASES.values()} == set(Cause)
    assert len(CASES) >= 60
    assert len(cases(Symptom.HEALTHY)) >= 22


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_documented_seeded_and_copyable(name: str) -> None:
    case: Case = CASES[name]
    assert case.name == name
    assert case.source
    assert case.build.__doc__
    state = torch.get_rng_state()
    setup, again = case.build(), case.build()
    assert torch.equal(torch.get_rng_state(), state)
    assert len(setup.batches) >= 2
    for one, other in zip(setup.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other) or one.isnan().any()
    copy.deepcopy((setup.model, setup.loss_fn, setup.optimizer))
    known = {path for path, _ in setup.model.named_modules()} | {path for path, _ in setup.model.named_parameters()}
    assert set(case.where) <= known


def test_every_family_lists_what_the_registry_names() -> None:
    from importlib import import_module

    for family, names in _FAMILIES.items():
        assert [case.name for case in import_module(f"gradtrace.casebook.{family}").CASES] == names.split()
    assert sum(len(names.split()) for names in _FAMILIES.values()) == len(CASES)
