"""Published trainings that learn nothing, or a part, and what their losses say of it; with their healthy twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.monitor.watch import Watch
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom


class LookBack(nn.Module):
    """A language model with post-norm layers, which is asked for the token before; embeddings are scaled by `scale`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.token, self.place, self.scale = nn.Embedding(20, 32), nn.Embedding(16, 32), scale
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.token(tokens) * self.scale + self.place(torch.arange(tokens.shape[1]))
        logits: Tensor = self.head(self.encoder(hidden))
        return logits


def looked_back(scale: float, rate: float) -> Watch:
    torch.manual_seed(0)
    model = LookBack(scale)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with gradtrace.watch(model, optimizer, budget=0.3) as watch:
        for _ in range(300):
            tokens = torch.randint(0, 20, (32, 16))
            loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    return watch


@pytest.mark.parametrize(
    ("scale", "rate", "cause"),
    [(32**0.5, 0.05, Cause.LEARNING_RATE), (32**0.5, 0.003, Cause.ATTENTION_SATURATION), (1.0, 0.003, None)],
)
def test_who_makes_attention_one_hot(scale: float, rate: float, cause: Cause | None) -> None:
    """By plain torch it learns nothing with large steps, a part with large embeddings, and all of it with neither."""
    found = [f for f in looked_back(scale, rate).diagnosis.findings if f.symptom is Symptom.SATURATED]
    grave = [f for f in found if f.severity is not Severity.INFO]
    assert [f.cause for f in grave] == ([cause] if cause is not None else [])
    if cause is Cause.LEARNING_RATE:
        assert grave[0].severity is Severity.CRITICAL
        assert "Steps of up to" in grave[0].message
    elif cause is not None:
        assert grave[0].severity is Severity.WARNING
        assert "has come down all the same" in grave[0].message


PROTOTYPES = 10


@pytest.mark.parametrize(
    ("rate", "squared", "ill"),
    [
        (0.02, True, True),  # the outputs creep to the mean of the targets
        (10.0, True, False),
        (0.5, False, False),
        (0.0, True, False),  # (another finding)
    ],
)
def test_a_training_that_is_over_before_it_has_learnt_what_a_constant_knows(
    rate: float, squared: bool, ill: bool
) -> None:
    """Digits through two sigmoids and a squared error: by plain torch the first is right as often as chance."""
    torch.manual_seed(0)
    labels = torch.randint(0, PROTOTYPES, (640,))
    x = (torch.rand(PROTOTYPES, 64)[labels] + 0.2 * torch.randn(640, 64)).clamp(0.0, 1.0)
    model = nn.Sequential(nn.Linear(64, 50), nn.Sigmoid(), nn.Linear(50, PROTOTYPES))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for step in range(150):
            batch = slice(64 * (step % 10), 64 * (step % 10) + 64)
            output = model(x[batch])
            target = nn.functional.one_hot(labels[batch], PROTOTYPES).float()
            loss = (
                nn.functional.mse_loss(output.sigmoid(), target)
                if squared
                else nn.functional.cross_entropy(output, labels[batch])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = [f for f in watch.diagnosis.findings if f.severity is not Severity.INFO]
    told = [f for f in found if "over before it has learnt anything" in f.message]
    assert bool(told) is ill
    if ill:
        assert told == found
        assert (told[0].symptom, told[0].cause) == (Symptom.UNDERFLOW, Cause.LEARNING_RATE)
    elif rate:
        assert found == []


@pytest.mark.parametrize("of_loss", [True, False])
def test_the_exponential_of_a_loss_and_one_of_outputs_under_the_same_steps(of_loss: bool) -> None:
    """By plain torch the cross entropy itself trains at this rate; a Poisson rate of such outputs is the steps' own."""
    torch.manual_seed(0)
    centres, labels = 6.0 * torch.randn(5, 20), torch.randint(0, 5, (500,))
    x = centres[labels] + 4.0 * torch.randn(500, 20)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for step in range(50):
            batch = slice(20 * (step % 25), 20 * (step % 25) + 20)
            output, target = model(x[batch]), labels[batch]
            if of_loss:
                loss = torch.exp(nn.functional.cross_entropy(output, target) / 2)
            else:
                loss = (torch.exp(output) - nn.functional.one_hot(target, 5) * output).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    first = watch.diagnosis.findings[0]
    assert first.symptom is Symptom.NONFINITE
    assert first.cause is (Cause.UNSAFE_OP if of_loss else Cause.LEARNING_RATE)
    assert first.remedies[0].title.startswith("Train on the loss itself") is of_loss


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_weights_that_a_network_writes_far_too_large(scale: float) -> None:
    """By plain torch all of it is learnt at a scale of 1, and at 20 the loss stays above that of a constant."""
    torch.manual_seed(0)

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64 * 84))
            with torch.no_grad():
                for parameter in self.net[2].parameters():
                    parameter *= scale

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            first, second, third = self.net(z).split([64 * 16, 64 * 64, 64 * 4])
            hidden = nn.functional.linear(x, first.view(64, 16)).relu()
            hidden = nn.functional.linear(hidden, second.view(64, 64)).relu()
            return nn.functional.linear(hidden, third.view(4, 64))

    model, z, x = Hyper(), torch.randn(8), torch.randn(512, 16)
    target = (x @ torch.randn(16, 4)).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradtrace.watch(model, optimizer, budget=1.0) as watch:
        for _ in range(150):
            rows = torch.randint(0, 512, (64,))
            loss = nn.functional.cross_entropy(model(z, x[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    products = [op for op in watch.traces[0].ops if op.function == "linear" and op.name.startswith("Mm")]
    assert products
    assert all(op.factor is Factor.WEIGHT for op in products)
    found = [f for f in watch.diagnosis.findings if f.severity is not Severity.INFO]
    if scale > 1.0:
        assert (found[0].symptom, found[0].cause) == (Symptom.EXPLODING, Cause.LARGE_WEIGHTS)
        assert "writes the weights of 3 maps" in found[0].message
        assert found[0].where == ("net.2",)
    else:
        assert found == []


@pytest.mark.parametrize("kind", ["fine-tuned", "few of many classes", "given up"])
def test_short_ways_that_are_no_fault(kind: str) -> None:
    """What is good already moves little; a batch of four knows no entropy; of a run that was given up nobody knows."""
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    y = torch.tanh(x @ torch.randn(16, 4))
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4))
    if kind == "fine-tuned":
        quick = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(100):
            quick.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            quick.step()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    watch = gradtrace.watch(model, optimizer, budget=10.0)
    watch.start()
    for _ in range(120):
        rows = torch.randint(0, 256, (4 if kind == "few of many classes" else 64,))
        output = model(x[rows])
        if kind == "few of many classes":
            loss = nn.functional.cross_entropy(output, y[rows].argmax(1))
        else:
            loss = nn.functional.mse_loss(output, y[rows] + (3.0 if kind == "given up" else 0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    watch.close(finished=kind != "given up")
    assert not [f for f in watch.diagnosis.findings if "over before it has learnt anything" in f.message]
