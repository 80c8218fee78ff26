"""Outputs against targets: shapes that broadcast, errors beside other terms, rates that a schedule holds back."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace import check
from gradtrace.measure.objective import reach
from gradtrace.records.vocabulary import Cause, Severity, Symptom

from .networks import batches
from .test_learning import findings, loud


def two_heads(weight: float) -> tuple[nn.Module, Any]:
    """A classifier with a regression of the mean pixel beside it, which counts `weight`."""
    torch.manual_seed(0)
    model = nn.Linear(16, 5)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        out = model(x)
        return weight * F.mse_loss(out[:, 0], x.mean(1)) + F.cross_entropy(out[:, 1:], y)

    return model, loss


@pytest.mark.parametrize("weight", [1e-4, 1.0])
def test_a_small_term_beside_a_large_one_is_not_far_from_its_targets(weight: float) -> None:
    """The distance is that of the squared error, whatever stands before it and beside it in the loss."""
    model, loss = two_heads(weight)
    assert loud(findings(model, loss, batches())) == []


def test_two_sides_that_both_learn_have_no_target() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        a, b = model(batch[0]), model(batch[0] + 0.01)
        return F.mse_loss(a, b) + 10.0

    assert loud(findings(model, loss, batches())) == []


@pytest.mark.parametrize(("target", "held"), [((4,), 4), ((4, 1), 1), ((1,), 1), ((), 1)])
def test_how_many_targets_an_output_is_held_against(target: tuple[int, ...], held: int) -> None:
    found = reach("mse_loss", (torch.zeros(4, 1), torch.arange(4.0)[: target[0] if target else 1].reshape(target)), {})
    if target == ():
        assert found is None or found[3].item() == 1.0
        return
    assert found is not None
    assert found[3].item() == held


def test_samples_of_one_target_are_no_fault() -> None:
    """Each output against eight noisy samples of its own target: their spread stays, and learning is possible."""
    torch.manual_seed(0)
    data = [(x, x[:, :1, None] + 2.0 * torch.randn(len(x), 8, 1)) for x, _ in batches()]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return F.mse_loss(model(batch[0])[:, None], batch[1])

    assert loud(findings(nn.Linear(16, 1), loss, data)) == []


@pytest.mark.parametrize("ill", [True, False])
def test_a_column_against_a_row(ill: bool) -> None:
    """[n, 1] against [n]: n^2 differences, and the best that all outputs can do is the targets' mean."""
    torch.manual_seed(0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        out = model(batch[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return F.mse_loss(out if ill else out[:, 0], batch[0][:, 0])

    found = findings(nn.Linear(16, 1), loss, batches())
    assert loud(found) == ([(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] if ill else [])


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_warm_up_begins_with_steps_that_are_rounded_away(scheduled: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 if scheduled else 1e-10)
    if scheduled:
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1e-9)
    found = check(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches(), optimizer=optimizer).findings
    expected = [] if scheduled else [(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)]
    assert loud(found) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_gradient_that_its_format_does_not_hold(dtype: torch.dtype) -> None:
    """|g| |W| is below 2^-24 an entry in front of the last layer, whose own gradient is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    with torch.no_grad():
        model[2].weight.mul_(1e-2)
        model[2].bias.zero_()
    data = [(x.to(dtype), 1e-3 * x[:, :1].to(dtype)) for x, _ in batches()]
    found = findings(model.to(dtype), lambda m, b: F.mse_loss(m(b[0]), b[1]), data)
    if dtype is torch.float16:
        assert (found[0].symptom, found[0].cause) == (Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)
    else:
        assert all(f.symptom is not Symptom.UNDERFLOW for f in found)


# ------------------------------------------------------------------------------------------------------- written out


@pytest.mark.parametrize("ill", [True, False])
@pytest.mark.parametrize("error", [lambda d: (d**2).mean(), lambda d: 0.5 * d.square().sum(1).mean()])
def test_targets_out_of_reach_of_an_error_that_is_written_out(ill: bool, error: Any) -> None:
    """A sigmoid reaches 1: of targets between 2 and 5 it misses more than a constant would."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
    data = [(x, torch.sigmoid(x[:, :1]) * (3.0 if ill else 1.0) + (2.0 if ill else 0.0)) for x, _ in batches()]
    found = findings(model, lambda m, b: error(m(b[0]) - b[1]), data)
    assert loud(found) == ([(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] if ill else [])


@pytest.mark.parametrize("ill", [True, False])
def test_a_column_against_a_row_in_an_error_that_is_written_out(ill: bool) -> None:
    torch.manual_seed(0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        out = model(batch[0])
        return ((out if ill else out[:, 0]) - batch[0][:, 0]).pow(2).mean()

    found = findings(nn.Linear(16, 1), loss, batches())
    assert loud(found) == ([(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] if ill else [])


@pytest.mark.parametrize("ill", [True, False])
def test_a_likelihood_that_is_written_out_and_saturated(ill: bool) -> None:
    """Sigmoids that are flat and wrong; the same ones, as flat, where they are right."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 1))
    with torch.no_grad():
        model[0].weight.mul_(0.0)
        model[0].weight[0, 0] = 400.0
        model[0].bias.zero_()
    data = [(x, (x[:, :1] < 0 if ill else x[:, :1] > 0).float()) for x, _ in batches()]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        p = torch.sigmoid(model(batch[0]))
        return ((p - batch[1]) ** 2).mean()

    found = findings(model, loss, data)
    assert loud(found) == ([(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] if ill else [])


@pytest.mark.parametrize("scale", [1e5, 1.0])
def test_far_targets_of_an_error_that_is_written_out(scale: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    data = [(x, scale * x[:, :1]) for x, _ in batches()]
    found = findings(model, lambda m, b: (m(b[0]) - b[1]).square().mean(), data)
    assert loud(found) == ([(Symptom.EXPLODING, Cause.INPUT_SCALE)] if scale > 1.0 else [])


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_a_cross_entropy_of_one_class_wants_an_output_for_each(num_outputs: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, num_outputs))
    data = [(x, torch.ones(len(x), 1) if num_outputs == 1 else y.clamp(max=1)) for x, y in batches()]
    found = findings(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), data)
    told = [f for f in found if f.cause is Cause.LOSS_FUNCTION]
    assert len(told) == (num_outputs == 1)
    assert all("an output for each class" in f.remedies[0].title for f in told)


@pytest.mark.parametrize("is_raw", [False, True])
def test_alignments_want_log_probabilities(*, is_raw: bool) -> None:
    """ctc_loss sums paths of scores: it falls for ever with them, where they are not normalised."""
    torch.manual_seed(0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        out = model(batch[0].view(4, 16, 16)).transpose(0, 1)  # sequences of 16, and time first
        lengths = torch.full((4,), 16), torch.full((4,), 5)
        return F.ctc_loss(out if is_raw else out.log_softmax(2), torch.arange(20).view(4, 5) % 4 + 1, *lengths)

    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
    found = [f for f in findings(model, loss, [batches()[0]]) if f.severity is not Severity.INFO]
    assert [f.cause for f in found] == [Cause.LOSS_FUNCTION] * is_raw
    assert all(f.message.startswith("ctc_loss expects log-probabilities") for f in found)


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("given", ["logarithms", "probabilities", "raw", "raw over a temperature"])
def test_a_divergence_wants_log_probabilities(given: str, log_target: bool) -> None:
    """kl_div is sum t (log t - x): of probabilities x it has no slope to speak of, of raw numbers no minimum."""
    torch.manual_seed(0)
    make = {"logarithms": F.log_softmax, "probabilities": F.softmax}

    def loss(model: nn.Module, batch: Any) -> Tensor:
        out = model(batch[0])
        target = F.log_softmax(batch[0][:, :4], dim=1)
        x = make[given](out, dim=1) if given in make else out
        if "temperature" in given:
            x = x / 3.0
        return F.kl_div(x, target if log_target else target.exp(), reduction="batchmean", log_target=log_target)

    found = [f for f in findings(nn.Linear(16, 4), loss, batches()) if f.severity is not Severity.INFO]
    assert [(f.symptom, f.cause) for f in found] == [(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] * (
        given != "logarithms"
    )
    for one in found:
        assert one.message.startswith("kl_div expects log-probabilities")
        assert "log_softmax" in one.remedies[0].code
        assert one.severity is (Severity.CRITICAL if given.startswith("raw") else Severity.WARNING)


def test_a_divergence_between_two_that_both_learn_has_probabilities_on_one_side() -> None:
    """As in mutual learning: the target is a softmax that learns too."""
    torch.manual_seed(0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        ours, theirs = model(batch[0]).chunk(2, dim=1)
        fit = F.cross_entropy(ours, batch[1]) + F.cross_entropy(theirs, batch[1])
        return fit + F.kl_div(F.log_softmax(ours, dim=1), F.softmax(theirs, dim=1), reduction="batchmean")

    assert loud(findings(nn.Linear(16, 8), loss, batches())) == []


@pytest.mark.parametrize("ill", [True, False])
def test_an_output_that_its_targets_draw_onto_its_bound_is_not_said_to_die_by_the_steps(ill: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 1), nn.ReLU())
    nn.init.constant_(model[2].bias, 0.5)  # type: ignore[arg-type]
    data = [(x, (-1.0 if ill else 1.0) * (1.0 + x[:, :1].abs())) for x, _ in batches()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    found = findings(model, loss, data, optimizer=optimizer, steps=20)
    assert loud(found) == ([(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] if ill else [])


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("written", ["log_softmax", "log of softmax", "positions"])
def test_a_softmax_over_the_batch_in_place_of_the_classes(written: str, dim: int) -> None:
    """The samples compete for each class, so that n of k classes leave a loss of log(n / k) at best."""
    torch.manual_seed(0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        out = model(batch[0])
        if written == "log_softmax":
            return F.nll_loss(F.log_softmax(out, dim=dim), batch[1])
        if written == "log of softmax":
            return F.nll_loss(torch.log(F.softmax(out, dim=dim)), batch[1])
        sequences = out.reshape(8, -1, 4)
        return F.nll_loss(F.log_softmax(sequences, dim=dim + 1).reshape(-1, 4), batch[1])

    found = [f for f in findings(nn.Linear(16, 4), loss, batches()) if f.severity is not Severity.INFO]
    assert [(f.symptom, f.cause) for f in found] == [(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] * (dim == 0)
    for one in found:
        assert "not taken over the classes" in one.message
        assert "cross_entropy" in one.remedies[0].code


def test_some_of_the_classes_need_not_add_up_to_one() -> None:
    torch.manual_seed(0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.nll_loss(F.log_softmax(model(batch[0]), dim=1)[:, :4], batch[1])

    assert loud(findings(nn.Linear(16, 9), loss, batches())) == []


@pytest.mark.parametrize(
    ("squash", "classes", "severity"),
    [("sigmoid", 10, Severity.WARNING), ("tanh", 100, Severity.WARNING), ("tanh", 4, Severity.INFO),
     ("none", 10, None), ("scaled", 10, None), ("wide", 10, None), ("relu", 10, None)],
)  # fmt: skip
def test_logits_that_an_activation_keeps_in_bounds(squash: str, classes: int, severity: Severity | None) -> None:
    """One class at b and the others at a leave log(1 + (k - 1) exp(a - b)), and no weights less."""
    torch.manual_seed(0)
    squashes = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "scaled": lambda z: 16 * torch.tanh(z),
        "wide": lambda z: F.hardtanh(z, -5.0, 5.0),
    }
    data = [(x, torch.arange(len(x)) % classes) for x, _ in batches()]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(squashes.get(squash, lambda z: z)(model(batch[0])), batch[1])

    found = findings(nn.Linear(16, classes), loss, data)
    assert [f.severity for f in found] == ([] if severity is None else [severity])
    for one in found:
        width = 1.0 if squash == "sigmoid" else 2.0
        assert one.evidence[0].value == pytest.approx(math.log1p((classes - 1) * math.exp(-width)), rel=1e-5)
        assert "expects logits" in one.message


@pytest.mark.parametrize(
    ("squash", "floor"), [(torch.tanh, math.log1p(math.exp(-1.0))), (torch.relu, 0.5 * math.log(2.0))]
)
def test_what_bounded_logits_leave_of_two_classes(squash: Any, floor: float) -> None:
    target = torch.tensor([[0.0], [1.0]])
    out = squash(torch.zeros(2, 1, requires_grad=True))
    found = reach("binary_cross_entropy_with_logits", (out, target), {})
    assert found is not None
    assert found[1].item() == pytest.approx(floor, rel=1e-5)
    found = reach("binary_cross_entropy_with_logits", (out, torch.full((2, 1), 0.5)), {})
    assert found is not None
    assert found[1].item() == pytest.approx(math.log(2.0), rel=1e-5)  # a target's own entropy, within bounds


@pytest.mark.parametrize(
    ("scale", "normed", "axis", "severity"),
    [
        (1.0, True, 1, Severity.WARNING),
        (10.0, True, 1, None),
        (1.0, False, 1, None),
        (1.0, True, 0, None),
    ],
)
def test_cosines_without_a_temperature(scale: float, normed: bool, axis: int, severity: Severity | None) -> None:
    torch.manual_seed(0)

    class Two(nn.Module):
        """Both of a pair, by one tower."""

        def __init__(self) -> None:
            super().__init__()
            self.tower = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            a, b = self.tower(x), self.tower(y)
            a = F.normalize(a, dim=axis) if normed else a
            cosines = a @ F.normalize(b, dim=axis).T
            return cosines if scale == 1.0 else scale * cosines

    pairs = [(x, x + 0.1 * torch.randn(96, 16)) for x in torch.randn(3, 96, 16)]
    found = check(Two(), lambda m, b: F.cross_entropy(m(*b), torch.arange(96)), pairs).findings
    told = [f for f in found if f.symptom is Symptom.LOSS_SATURATED]
    assert [(f.severity, f.where) for f in told] == ([(severity, ("tower.2",))] if severity else [])
    assert not severity or "temperature" in told[0].message


class Cosines(nn.Module):
    """Of features with 32 directions, written in some way, times a scale."""

    def __init__(self, form: str, scale: float) -> None:
        super().__init__()
        self.features, self.form, self.scale = nn.Linear(16, 24), form, scale
        self.directions = nn.Parameter(torch.randn(32, 24))

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.features(x), self.directions
        a, b = F.normalize(h, dim=-1), F.normalize(w, dim=-1)
        cosines = {
            "cosine_similarity": lambda: F.cosine_similarity(h[:, None], w[None], dim=-1),
            "bmm": lambda: torch.bmm(a[None], b.T[None])[0],
            "einsum": lambda: torch.einsum("nd,kd->nk", a, b),
            "one side": lambda: torch.bmm(a[None], w.T[None])[0],
            "over examples": lambda: torch.bmm(F.normalize(h, dim=0)[None], b.T[None])[0],
            "other axes": lambda: (F.normalize(h, dim=1)[:, None] * F.normalize(w, dim=0)[None]).sum(-1),
        }[self.form]()
        return cosines if self.scale == 1.0 else cosines * self.scale


@pytest.mark.parametrize(
    ("form", "scale", "ill"),
    [
        *((form, 1.0, True) for form in ("cosine_similarity", "bmm", "einsum")),
        *((form, 16.0, False) for form in ("cosine_similarity", "bmm", "einsum")),
        *((form, 1.0, False) for form in ("one side", "over examples", "other axes")),
    ],
)
def test_cosines_however_they_are_written(form: str, scale: float, ill: bool) -> None:
    torch.manual_seed(0)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    data = [(torch.randn(64, 16), torch.randint(0, 32, (64,))) for _ in range(2)]
    found = [f for f in check(Cosines(form, scale), loss_fn, data).findings if "they are cosines" in f.message]
    assert bool(found) is ill


@pytest.mark.parametrize(
    ("affine", "mean", "deviation", "ill"),
    [(False, 5.0, 3.0, True), (False, 0.0, 1.0, False), (False, 0.0, 9.0, True), (True, 5.0, 3.0, False)],
)
def test_an_output_whose_mean_and_variance_a_norm_has_fixed(
    affine: bool, mean: float, deviation: float, ill: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1), nn.BatchNorm1d(1, affine=affine))

    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        return F.mse_loss(model(batch), mean + deviation * batch[:, :1])

    batch = torch.randn(64, 16)
    found = [f for f in check(model, loss_fn, [batch, batch]).findings if "mean 0 and a variance" in f.message]
    assert [f.severity for f in found] == ([Severity.CRITICAL] if ill else [])
    if ill:  # no training goes below what is told
        floor = next(e.value for e in found[0].evidence if e.name == "loss that the range leaves at best")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            optimizer.step()
        assert floor < loss.item() < 1.1 * floor


def test_in_evaluation_a_norm_is_but_a_map() -> None:
    model = nn.Sequential(nn.Linear(16, 1), nn.BatchNorm1d(1, affine=False)).eval()
    found = reach("mse_loss", (model(torch.randn(8, 16)), 9.0 * torch.randn(8, 1)), {})
    assert found is not None
    assert found[1] == 0.0


@pytest.mark.parametrize("ill", [True, False])
def test_a_loss_of_margins_wants_targets_on_two_sides(ill: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))

    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        labels = (batch[:, :1] > 0).float()
        return F.soft_margin_loss(model(batch), labels if ill else 2.0 * labels - 1.0)

    data = [torch.randn(64, 16) for _ in range(2)]
    found = [f for f in check(model, loss_fn, data).findings if f.severity is not Severity.INFO]
    assert [(f.symptom, f.cause) for f in found] == ([(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] if ill else [])
    if not ill:
        return
    output = torch.randn(64, 1, requires_grad=True)  # none of those labelled 0 gets a gradient
    labels = (torch.arange(64).view(64, 1) % 2).float()
    (gradient,) = torch.autograd.grad(F.soft_margin_loss(output, labels), output)
    assert not gradient[labels == 0.0].any()
    assert bool((gradient[labels == 1.0] < 0.0).all())


def test_what_the_best_constant_gets_in_a_loss_of_margins() -> None:
    """log 2 of two sides that are as many."""
    targets = torch.tensor([[-1.0], [1.0]])
    found = reach("soft_margin_loss", (torch.zeros(2, 1, requires_grad=True), targets), {})
    assert found is not None
    assert found.tolist() == pytest.approx([math.log(2.0), 0.0, 0.0, 1.0])
    smoothed = reach("soft_margin_loss", (torch.zeros(2, 1, requires_grad=True), 0.9 * targets), {})
    assert smoothed is not None
    assert smoothed[2] == 0.0
    assert F.soft_margin_loss(torch.zeros(2, 1), targets).item() == pytest.approx(math.log(2.0))


@pytest.mark.parametrize("loss", [F.huber_loss, F.smooth_l1_loss])
@pytest.mark.parametrize("column", [True, False])
def test_a_huber_error_of_a_column_against_a_row(loss: Any, column: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    target = x[:, 0] - 2.0 * x[:, 1]
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (torch warns of the shapes, too)
        found = check(model, lambda m, b: loss(m(b[0]), b[1]), [(x, target[:, None] if column else target)]).findings
    told = [f for f in found if f.severity is not Severity.INFO]
    assert [f.cause for f in told] == ([] if column else [Cause.LOSS_FUNCTION])
    assert column or "broadcast" in told[0].message
