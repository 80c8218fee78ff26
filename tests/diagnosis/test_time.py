"""The rule of time: ill and healthy twins, both sides of its thresholds, and what it says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.diagnosis.judge import judge_trace
from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Cause, Severity, Symptom


class Net(nn.Module):
    """A linear recurrence h = g Q h + x with Q a rotation of coordinates: every number is known."""

    def __init__(self, gain, read="last", cell=False):
        super().__init__()
        make = nn.RNNCell if cell else nn.RNN
        self.rnn = make(4, 16, nonlinearity="relu").double()
        self.head, self.read = nn.Linear(16, 1).double(), read
        with torch.no_grad():
            for name, parameter in self.rnn.named_parameters():
                if "weight_hh" in name:
                    parameter.copy_(gain * torch.eye(16)[torch.randperm(16)])
                elif "weight" in name:
                    parameter.abs_()
                else:
                    parameter.fill_(0.5)

    def forward(self, x):
        states = self.rnn(x)[0]
        return self.head(states[-1] if self.read == "last" else states)


def square(model, x):
    return model(x).square().mean()


def series(length):
    return torch.rand(length, 4, 4, dtype=torch.float64)


def found(gain, length, read="last", scale=1.0):
    diagnosis = gradtrace.check(Net(gain, read), lambda m, x: scale * square(m, x), [series(length)])
    return diagnosis, [
        f for f in diagnosis.findings if f.cause in (Cause.RECURRENT_CONTRACTION, Cause.RECURRENT_EXPANSION)
    ]


def evidence(finding):
    return {one.name: one.value for one in finding.evidence}


def test_contraction_says_where_horizon_and_length():
    diagnosis, (finding,) = found(0.5, 40)
    assert (finding.symptom, finding.cause) == (Symptom.VANISHING, Cause.RECURRENT_CONTRACTION)
    assert finding.severity is Severity.CRITICAL
    assert finding.where == ("rnn",)
    numbers = evidence(finding)
    assert numbers["sequence length"] == 40
    assert numbers["horizon (1e-3)"] == pytest.approx(math.log(1e-3) / math.log(0.5), abs=1e-6)
    assert numbers["horizon (half)"] == pytest.approx(1.0, abs=1e-6)
    assert numbers["largest Lyapunov exponent"] == pytest.approx(math.log(0.5), abs=1e-6)
    assert "10 steps" in finding.message
    assert finding.source
    assert diagnosis.through_time is not None


def test_expansion_says_where_to_clip():
    diagnosis, (finding,) = found(1.5, 40)
    assert (finding.symptom, finding.cause) == (Symptom.EXPLODING, Cause.RECURRENT_EXPANSION)
    threshold = evidence(finding)["clipping threshold"]
    extent = evidence(finding)["early against late steps"]
    assert threshold == pytest.approx(diagnosis.through_time.gradient_norm / 10**extent)
    assert f"max_norm={threshold:.2g}" in finding.remedies[0].code


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_the_loss_may_be_of_any_size(gain):
    verdicts = []
    for scale in (1e-6, 1.0, 1e6):
        torch.manual_seed(0)
        verdicts.append([(f.symptom, f.cause, f.severity, f.where) for f in found(gain, 40, scale=scale)[0].findings])
    assert verdicts[0] == verdicts[1] == verdicts[2]


@pytest.mark.parametrize(
    ("length", "severity"), [(9, None), (12, Severity.CRITICAL)], ids=["covered", "beyond the horizon"]
)
def test_healthy_when_the_horizon_covers_the_data(length, severity):
    diagnosis, findings = found(0.5, length)  # the horizon is 9.97 steps
    assert [f.severity for f in findings] == ([severity] if severity else [])
    assert diagnosis.healthy == (severity is None)


def test_a_loss_at_every_step_is_healthy_and_the_horizon_is_told():
    diagnosis, (finding,) = found(0.5, 40, read="every")
    assert diagnosis.healthy
    assert finding.severity is Severity.INFO
    assert "10 steps" in finding.message
    assert not finding.remedies


def test_a_short_horizon_is_silent_where_it_covers_the_data():
    assert found(0.5, 9, read="every")[1] == []


def test_a_loss_that_weighs_the_early_steps_is_no_expansion():
    """Early states get 1e4 times as much, by the loss; a random gradient keeps its size over all steps."""
    weights = torch.logspace(4, 0, 40, dtype=torch.float64)
    loss_fn = lambda m, x: (m(x)[:, 0, 0] * weights).sum()  # noqa: E731
    diagnosis = gradtrace.check(Net(1.0, "every"), loss_fn, [series(40)])
    chain = diagnosis.through_time.chains[0]
    assert math.log10(chain.hidden[1] / chain.hidden[-1]) > 4
    assert diagnosis.healthy


@pytest.mark.parametrize("joined", [False, True])
def test_the_remedy_names_the_weight_of_a_loop_where_the_state_alone_meets_it(joined):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.step = nn.Linear(3, 8), nn.Linear(11 if joined else 8, 8)

        def forward(self, x):
            h = torch.zeros(len(x), 8)
            for t in range(x.shape[1]):
                new = self.step(torch.cat([x[:, t], h], 1)) if joined else self.into(x[:, t]) + self.step(h)
                h = torch.tanh(new)
            return h

    torch.manual_seed(0)
    found = gradtrace.check(Loop(), square, [torch.randn(4, 30, 3)]).findings[0]
    assert found.cause is Cause.RECURRENT_CONTRACTION
    named = found.remedies[0].code == "torch.nn.init.orthogonal_(model.step.weight)"
    assert named is not joined  # a part of the joined one is the input's


def test_the_remedy_fits_the_cell():
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 16).double()
    diagnosis = gradtrace.check(lstm, lambda m, x: m(x)[0][-1].square().mean(), [series(60)])
    finding = diagnosis.findings[0]
    assert finding.cause is Cause.RECURRENT_CONTRACTION
    assert "log_()" in finding.remedies[0].code
    assert not any("torch.nn.LSTM(" in remedy.code for remedy in finding.remedies)
    namespace = {"model": lstm, "torch": torch}
    exec(finding.remedies[0].code, namespace)  # what it says can be done, and helps
    after = gradtrace.check(lstm, lambda m, x: m(x)[0][-1].square().mean(), [series(60)])
    assert after.through_time.horizon.steps > 60
    assert after.healthy


def test_a_saved_trace_is_judged_alike(tmp_path):
    diagnosis, _ = found(0.5, 40)
    diagnosis.traces[0].save(tmp_path / "trace.json.gz")
    again = judge_trace(gradtrace.load(tmp_path / "trace.json.gz"))
    assert [f.cause for f in again.findings] == [f.cause for f in diagnosis.findings]
    assert again.through_time == diagnosis.through_time


def test_a_trace_alone_gives_no_verdict_through_time_and_says_so():
    rnn = nn.LSTM(4, 16)
    trace = gradtrace.trace(rnn, lambda m, x: m(x)[0][-1].square().mean(), torch.rand(40, 2, 4))
    assert any("step by step" in refusal for refusal in judge_trace(trace).refusals)


# ------------------------------------------------------------------------------------------------------ whatever comes


def last(model, x):
    return model(x)[0][-1].square().mean()


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_one_step_and_eval_mode_are_healthy(kind):
    assert gradtrace.check(kind(4, 8), last, [torch.randn(1, 3, 4)]).healthy
    rnn = kind(4, 8, 2, dropout=0.5).eval()
    assert gradtrace.check(rnn, last, [torch.randn(3, 3, 4)]).healthy
    assert not rnn.training


def test_a_sequence_of_length_zero_is_one_sentence():
    with pytest.raises(InputError, match=r"raised RuntimeError: .*larger than 0"):
        gradtrace.check(nn.LSTM(4, 8, batch_first=True), lambda m, x: m(x)[0].sum(), [torch.randn(3, 0, 4)])


def test_nan_in_the_sequence_is_told_as_nonfinite():
    x = torch.randn(9, 3, 4)
    x[4, 1] = math.nan
    diagnosis = gradtrace.check(nn.GRU(4, 8), last, [x])
    assert diagnosis.findings[0].symptom is Symptom.NONFINITE
    assert not any("report" in refusal for refusal in diagnosis.refusals)


@pytest.mark.parametrize(("window", "severity"), [(12, None), (4, Severity.INFO), (1, Severity.WARNING)])
def test_a_state_detached_in_the_loop(window, severity):
    """A gradient falls to 1e-3 within 10 steps: windows of 12 lose nothing, windows of 1 all of the recurrence."""

    class Windowed(Net):
        def forward(self, x):
            h, outputs = None, []
            for t, row in enumerate(x):
                h = h.detach() if h is not None and t % window == 0 else h
                h = self.rnn(row, h)
                outputs.append(self.head(h))
            return torch.stack(outputs)

    diagnosis = gradtrace.check(Windowed(0.5, cell=True), square, [series(36)])
    cut = [f for f in diagnosis.findings if f.cause is Cause.DETACHED_GRAPH]
    assert [f.severity for f in cut] == ([severity] if severity else [])
    if severity is Severity.INFO:
        assert f"behind step {window}" in cut[0].message


def test_a_state_kept_from_batch_to_batch_is_healthy():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.state = nn.RNN(4, 16), torch.ones(1, 3, 16)

        def forward(self, x):
            states, state = self.rnn(x, self.state)
            self.state = state.detach()
            return states

    diagnosis = gradtrace.check(Stateful(), lambda m, x: m(x).square().mean(), [torch.randn(30, 3, 4)] * 2)
    assert diagnosis.healthy
    assert diagnosis.through_time.chains[0].detached_start
    assert not any(f.cause is Cause.DETACHED_GRAPH for f in diagnosis.findings)  # 30 steps cover its horizon


def test_the_rate_is_that_of_a_step_between_the_ends_that_are_compared():
    _, (finding,) = found(0.5, 100)
    assert "from the last tenth to the first of 100 steps of rnn (0.30 decades per step)" in finding.message
    _, (finding,) = found(0.05, 5)
    assert "from the last to the first of 5 steps of rnn (1.30 decades per step)" in finding.message


def test_per_step_is_per_step_that_a_gradient_came_to():
    torch.manual_seed(0)
    model = nn.LSTM(4, 16, batch_first=True)
    diagnosis = gradtrace.check(model, lambda m, x: m(x)[0][:, -1].square().mean(), [torch.randn(4, 600, 4)])
    finding = next(f for f in diagnosis.findings if f.cause is Cause.RECURRENT_CONTRACTION)
    assert "shrinks to nothing from the last tenth to the first of 600 steps" in finding.message
    told = evidence(finding)
    both = told["activations per step"] + told["recurrent weights per step"]
    assert both == pytest.approx(told["a random gradient per step"], rel=0.1)


class Window(nn.Module):
    """A bidirectional layer that is read in the middle of its window, or where either direction ends."""

    def __init__(self, forget, read):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(4, 8, bidirectional=True).double()
        self.head, self.read = nn.Linear(16, 1).double(), read
        with torch.no_grad():
            for name, parameter in self.rnn.named_parameters():
                if "bias_ih" in name:
                    parameter[8:16] = forget

    def forward(self, x):
        states = self.rnn(x)[0]
        if self.read == "middle":
            return self.head(states[len(x) // 2])
        return self.head(torch.cat([states[-1, :, :8], states[0, :, 8:]], dim=-1))


@pytest.mark.parametrize(
    ("forget", "read", "severity"),
    [(-4.0, "middle", Severity.CRITICAL), (4.0, "middle", None), (-4.0, "ends", Severity.INFO)],
)
def test_either_end_is_far_from_the_middle_of_a_window(forget, read, severity):
    """Read where both directions end, the ends are near; read in the middle, no direction reaches either of them."""
    diagnosis = gradtrace.check(Window(forget, read), square, [series(40)])
    found = [f for f in diagnosis.findings if f.cause is Cause.RECURRENT_CONTRACTION]
    assert [f.severity for f in found] == ([] if severity is None else [severity])
    if read == "middle" and found:
        assert "of 21 steps" in found[0].message
    elif found:
        assert "what lies between" in found[0].message


class StateSpace(nn.Module):
    """h = exp(sign dt a) h + dt u, a linear state space whose eigenvalues are above one where the minus is missing."""

    def __init__(self, sign):
        super().__init__()
        torch.manual_seed(0)
        self.read, self.rate, self.head = nn.Linear(1, 16), nn.Parameter(torch.linspace(-2, -0.5, 16)), nn.Linear(16, 1)
        self.step, self.sign = nn.Parameter(torch.full((16,), -1.0)), sign

    def forward(self, x):
        u, dt = self.read(x), nn.functional.softplus(self.step)
        decay, h = torch.exp(self.sign * dt * self.rate.exp()), 0.0
        for t in range(x.shape[1]):
            h = decay * h + dt * u[:, t]
        return self.head(h)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_state_space_without_its_minus_expands(sign):
    model, x = StateSpace(sign), torch.randn(32, 64, 1)
    target = x[:, -8:].mean(1)
    loss = lambda model, x: (model(x) - target).square().mean()  # noqa: E731
    findings = [f for f in gradtrace.check(model, loss, [x]).findings if f.severity is not Severity.INFO]
    if sign < 0:
        assert findings == []
        return
    (finding,) = findings
    assert (finding.symptom, finding.cause, finding.where) == (
        Symptom.EXPLODING, Cause.RECURRENT_EXPANSION, ("step",),
    )  # fmt: skip
    assert any("below one" in remedy.title for remedy in finding.remedies)
