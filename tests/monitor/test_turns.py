"""Where optimizers step after passes of their own, these are traced by turns: the two of a GAN have one each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.monitor.watch import Watch
from gradtrace.records.run import Scalar
from gradtrace.records.vocabulary import Cause, Severity, Symptom

Networks = dict[str, nn.Module]
Loop = Callable[[Networks, "dict[str, torch.optim.Optimizer]", int], None]

ONES, ZEROS = torch.ones(32, 1), torch.zeros(32, 1)


def networks(num_sigmoids: int = 0) -> Networks:
    torch.manual_seed(0)
    deep = [layer for _ in range(num_sigmoids) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    generator = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), *deep, nn.Linear(16, 4))
    return {"G": generator, "D": nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))}


def real() -> Tensor:
    return torch.randn(32, 4) * 0.5 + 1.0


def as_dcgan(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
    """Two passes for D, one for G, through what G made before D's step."""
    nets["D"].zero_grad()
    F.binary_cross_entropy_with_logits(nets["D"](real()), ONES).backward()
    fake = nets["G"](torch.randn(32, 6))
    F.binary_cross_entropy_with_logits(nets["D"](fake.detach()), ZEROS).backward()
    optimizers["D"].step()
    nets["G"].zero_grad()
    F.binary_cross_entropy_with_logits(nets["D"](fake), ONES).backward()
    optimizers["G"].step()


def as_wgan(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
    """One step for G to three for D."""
    optimizers["D"].zero_grad()
    (nets["D"](nets["G"](torch.randn(32, 6)).detach()).mean() - nets["D"](real()).mean()).backward()
    optimizers["D"].step()
    if step % 3 == 2:
        optimizers["G"].zero_grad()
        (-nets["D"](nets["G"](torch.randn(32, 6))).mean()).backward()
        optimizers["G"].step()


def by_layer(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
    """One pass, and then two optimizers."""
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    F.binary_cross_entropy_with_logits(nets["D"](nets["G"](torch.randn(32, 6))), ONES).backward()
    for optimizer in optimizers.values():
        optimizer.step()


def trained(loop: Loop, nets: Networks, num_steps: int = 40, *, watched: bool = True) -> Watch | None:
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD(net.parameters(), 0.01) for name, net in nets.items()
    }
    if not watched:
        for step in range(num_steps):
            loop(nets, optimizers, step)
        return None
    with gradtrace.watch(nets, list(optimizers.values()), every=3, budget=10.0) as watch:
        for step in range(num_steps):
            loop(nets, optimizers, step)
    return watch


def passed_through(watch: Watch) -> list[set[str]]:
    """Per whole trace the networks whose weights its backward pass came by."""
    return [{name[0] for op in trace.ops for name in op.weights} for trace in watch.traces]


@pytest.mark.parametrize(("loop", "kinds"), [(as_dcgan, ["D", "DG"]), (as_wgan, ["D", "DG"]), (by_layer, ["DG"])])
def test_each_has_its_turn(loop: Loop, kinds: list[str]) -> None:
    watch = trained(loop, networks())
    assert watch is not None
    latest = ["".join(sorted(through)) for through in passed_through(watch)[1:]]
    assert len(latest) == 7
    assert {*latest} == {*kinds}
    assert min(map(latest.count, kinds)) >= 3
    assert len(kinds) == 1 or all(one != other for one, other in pairwise(latest))  # none has the late ones
    assert len(watch.trace_steps) == len(watch.traces)
    assert watch.diagnosis.healthy
    assert watch.run.notes == ()


@pytest.mark.parametrize("loop", [as_dcgan, as_wgan])
def test_training_is_what_it_is_without_a_watch(loop: Loop) -> None:
    one, other = networks(), networks()
    for nets, watched in ((one, True), (other, False)):
        torch.manual_seed(1)
        trained(loop, nets, watched=watched)
    weights = [[p for net in nets.values() for p in net.parameters()] for nets in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("loop", [as_dcgan, as_wgan])
def test_the_illness_of_the_one_that_comes_second_is_named(loop: Loop) -> None:
    watch = trained(loop, networks(num_sigmoids=10), num_steps=60)
    assert watch is not None
    diagnosis = watch.diagnosis
    finding = diagnosis.findings[0]
    assert (finding.symptom, finding.cause) == (Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE)
    assert finding.severity is Severity.CRITICAL
    assert all(place.startswith("G.") for place in finding.where)
    assert any(name.startswith("G.") for op in diagnosis.traces[0].ops for name in op.weights)


def test_what_d_s_pass_is_traced_for_looks_as_one_forward_pass() -> None:
    """The calls of passes that are not the turn's are in no trace; its ops have their modules and lines."""
    watch = trained(as_dcgan, networks())
    assert watch is not None
    trace = next(t for t, through in zip(watch.traces, passed_through(watch), strict=True) if "G" in through)
    modules = {op.site.module for op in trace.ops if op.weights}
    assert modules == {"G.0", "G.2", "D.0", "D.2"}
    assert all("test_turns.py" in op.site.source for op in trace.ops if op.weights)


def test_who_has_waited_long_enough_takes_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase for each of two networks: no step has both passes, but the first, in which there is none to wait for."""
    monkeypatch.setattr("gradtrace.monitor.traces.sampler.MOST_MISSED", 4)

    def one_after_the_other(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
        (as_wgan if step < 3 else only_d)(nets, optimizers, step)

    watch = trained(one_after_the_other, networks())
    assert watch is not None
    steps = watch.trace_steps
    assert passed_through(watch)[-3:] == [{"D"}] * 3
    assert steps[-1] - steps[-2] <= 3  # as often as is asked for


def only_d(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
    as_wgan(nets, optimizers, 0)


def test_an_optimizer_that_joins_late_has_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first trace showed, when there was one optimizer, is not held against a training that has two."""
    nets = networks(num_sigmoids=10)
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.SGD(net.parameters(), 0.01) for n, net in nets.items()
    }
    with gradtrace.watch(nets, optimizers["G"], every=2, budget=10.0) as watch:
        for step in range(40):
            if step == 1:
                watch.join(optimizers=[optimizers["D"]])
            if step == 2:  # cured
                cure(nets)
            g_first(nets, optimizers, step)
    latest = ["".join(sorted(through)) for through in passed_through(watch)[1:]]
    assert min(map(latest.count, ["D", "DG"])) >= 3
    assert not [f for f in watch.diagnosis.findings if f.symptom is Symptom.VANISHING]


def g_first(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
    for name, target in (("G", ONES), ("D", ZEROS)):
        optimizers[name].zero_grad()
        fake = nets["G"](torch.randn(32, 6))
        F.binary_cross_entropy_with_logits(nets["D"](fake if name == "G" else fake.detach()), target).backward()
        optimizers[name].step()


def test_passes_that_reach_now_these_and_now_those_are_of_one_kind() -> None:
    """An optimizer for each expert: what the latest trace does not show any more is over, whoever it reached."""
    nets = networks(num_sigmoids=10) | {"E": nn.Linear(4, 1), "D": nn.Linear(4, 1)}

    def routed(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
        if step == 4:  # cured
            cure(nets)
        expert = nets["D" if step < 4 else "E"]
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        F.mse_loss(expert(nets["G"](torch.randn(32, 6))), ONES).backward()
        for optimizer in optimizers.values():
            optimizer.step()

    watch = trained(routed, nets)
    assert watch is not None
    assert all(finding.step is not None and finding.step >= 4 for finding in watch.diagnosis.findings)


def cure(nets: Networks) -> None:
    """Weights large enough for the slope of a sigmoid."""
    with torch.no_grad():
        for layer in nets["G"].children():
            if isinstance(layer, nn.Linear) and layer.weight.shape == (16, 16):
                layer.weight.copy_(8.0 * nn.init.orthogonal_(torch.empty(16, 16)))


def minimax(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
    """G lowers log(1 - D) in place of raising log D: on logits, minus the loss of zeros."""
    fake = against_a_sure_one(nets, optimizers)
    (-F.binary_cross_entropy_with_logits(nets["D"](fake), ZEROS)).backward()
    optimizers["G"].step()


def not_saturating(nets: Networks, optimizers: dict[str, torch.optim.Optimizer], step: int) -> None:
    fake = against_a_sure_one(nets, optimizers)
    F.binary_cross_entropy_with_logits(nets["D"](fake), ONES).backward()
    optimizers["G"].step()


def against_a_sure_one(nets: Networks, optimizers: dict[str, torch.optim.Optimizer]) -> Tensor:
    """D's step; it told fakes from the real ones before the first."""
    with torch.no_grad():
        nets["D"][2].bias.fill_(-10.0)  # type: ignore[index, operator, union-attr]
    optimizers["D"].zero_grad()
    fake = nets["G"](torch.randn(32, 6))
    F.binary_cross_entropy_with_logits(nets["D"](fake.detach()), ZEROS).backward()
    optimizers["D"].step()
    optimizers["G"].zero_grad()
    return fake


@pytest.mark.parametrize(("loop", "ill"), [(minimax, True), (not_saturating, False)])
def test_a_generator_s_loss_that_saturates_is_named(loop: Loop, ill: bool) -> None:
    watch = trained(loop, networks())
    assert watch is not None
    found = {(f.symptom, f.cause) for f in watch.diagnosis.findings if f.severity is not Severity.INFO}
    assert ((Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION) in found) is ill


def test_where_all_is_well_the_picture_is_of_the_pass_that_reaches_most() -> None:
    """A temperature has a pass and an optimizer of its own, as in SAC: there are no layers in it to show."""
    torch.manual_seed(0)
    model, log_alpha = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4)), nn.Parameter(torch.zeros(()))
    temperature, actor = torch.optim.Adam([log_alpha], 1e-3), torch.optim.Adam(model.parameters(), 1e-3)
    with gradtrace.watch({"log_alpha": log_alpha, "pi": model}, [temperature, actor], budget=10.0) as watch:
        for _ in range(20):
            out = model(torch.randn(32, 4))
            for optimizer, loss in (
                (temperature, (log_alpha.exp() * out.detach().square()).mean()),
                (actor, (out - 1.0).square().mean()),
            ):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert watch.diagnosis.healthy
    reached = [{p.name for p in trace.parameters if p.gradient is not None} for trace in watch.diagnosis.traces]
    assert all(names >= {"pi.0.weight", "pi.2.weight"} for names in reached)


def test_a_recording_that_began_before_a_network_joined_is_given_up() -> None:
    """It knows no names of what it would see: a critic's pass, traced as one of a generator that it does not reach."""
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    moves_generator, moves_critic = (torch.optim.SGD(net.parameters(), 0.01) for net in (generator, critic))
    with Watch({"G": generator}, moves_generator, every=1, num_others=1, find=lambda _: {"C": critic}) as watch:
        for _ in range(4):
            for _ in range(2):
                moves_critic.zero_grad()
                critic(generator(torch.randn(8, 2)).detach()).mean().backward()
                moves_critic.step()
            moves_generator.zero_grad()
            critic(generator(torch.randn(8, 2))).mean().backward()
            moves_generator.step()
    assert watch.traces
    assert all({"C.weight", "G.weight"} <= {one.name for one in trace.parameters} for trace in watch.traces)
    losses = watch.run.steps.scalar(Scalar.LOSS)[0]
    assert np.isnan(losses[0])  # of the critic's first pass, before it joined, nobody knows the loss
    assert np.isfinite(losses[1:]).all()
