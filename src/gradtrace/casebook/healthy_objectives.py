"""Objectives and data that are well and out of the ordinary: derivatives in the loss, graphs, spectra, samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Setup, healthy, seeded
from gradtrace.casebook.networks import mlp
from gradtrace.casebook.tasks import cross_entropy, digit_batches, series_batches, squared_error


def oscillator_residual(model: nn.Module, batch: Any) -> Tensor:
    """U'' + u = 0 with u(0) = 1, u'(0) = 0: derivatives by autograd within the loss."""
    times = batch.detach().requires_grad_()
    u = model(times)
    (first,) = torch.autograd.grad(u.sum(), times, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), times, create_graph=True)
    at_zero = (u[0] - 1.0).square() + first[0].square()
    residual: Tensor = (second + u).square().mean() + at_zero.mean()
    return residual


def oscillator_batches() -> list[Tensor]:
    """Times from 0 to 3, the first one 0."""
    return [torch.cat([torch.zeros(1, 1), 3.0 * torch.rand(63, 1)]) for _ in range(2)]


@seeded
def physics_informed() -> Setup:
    """A physics-informed network: the loss holds second derivatives, so the tape holds backward passes."""
    return Setup(mlp(2, nn.Tanh, width=32, inputs=1, outputs=1), oscillator_residual, oscillator_batches())


def slope_of_one(model: nn.Module, batch: Any) -> Tensor:
    """|grad u| = 1: a first derivative in the loss."""
    points = batch.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
    error: Tensor = (slope.norm(dim=1) - 1.0).square().mean()
    return error


@seeded
def signed_distance() -> Setup:
    """A distance with a slope of one, by a network of straight lines: these have the first derivative that it takes."""
    return Setup(mlp(2, nn.ReLU, width=32, inputs=2, outputs=1), slope_of_one, [torch.randn(64, 2) for _ in range(2)])


class Cosine(nn.Module):
    """Logits between -16 and 16: sixteen times the cosine of the features and each class's direction."""

    def __init__(self, scale: float = 16.0) -> None:
        super().__init__()
        self.body, self.scale = mlp(1, nn.ReLU, outputs=32), scale
        self.directions = nn.Parameter(torch.randn(10, 32))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        return self.scale * F.linear(F.normalize(self.body(x), dim=1), F.normalize(self.directions, dim=1))


@seeded
def cosine_logits() -> Setup:
    """Logits that are bounded by design, and wide enough: of the cross entropy next to nothing is out of reach."""
    return Setup(Cosine(), cross_entropy, digit_batches())


def smoothed(labels: Tensor) -> Tensor:
    """Nine tenths and a hundredth on the label, a hundredth on each of the other classes [batch, 10]."""
    return 0.9 * F.one_hot(labels, 10) + 0.01


def soft_targets(model: nn.Module, batch: Any) -> Tensor:
    """Divergence of log-probabilities from smoothed labels."""
    pixels, labels = batch
    return F.kl_div(F.log_softmax(model(pixels), dim=1), smoothed(labels), reduction="batchmean")


@seeded
def distilled() -> Setup:
    """A divergence from soft targets, of logarithms as it must be."""
    return Setup(mlp(2, nn.ReLU), soft_targets, digit_batches())


class Variational(nn.Module):
    """Encoder to mean and log variance, a sample, decoder."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(1, nn.ReLU, outputs=2 * latent), mlp(1, nn.ReLU, inputs=latent, outputs=64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, 64] -> reconstruction, mean, log variance."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        sample = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(sample), mean, log_variance


def evidence_bound(model: nn.Module, batch: Any) -> Tensor:
    """Reconstruction and divergence from the standard normal, summed over features as they must be."""
    pixels, _ = batch
    out, mean, log_variance = model(pixels)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
    bound: Tensor = (out - pixels).square().sum(1) + divergence
    return bound.mean()


@seeded
def variational_autoencoder() -> Setup:
    """A variational autoencoder: noise within, a loss that sums over features, gradients through a sample."""
    model = Variational()
    return Setup(model, evidence_bound, digit_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


class Contrast(nn.Module):
    """Encoder with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.log_scale = mlp(2, nn.GELU, outputs=32), nn.Parameter(torch.tensor(2.66))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Two of [batch, 64] -> similarities [batch, batch]."""
        a, b = (F.normalize(self.encoder(view), dim=1) for view in (one, other))
        return self.log_scale.exp() * a @ b.T


def info_nce(model: nn.Module, batch: Any) -> Tensor:
    """Each view is to find its own other view."""
    one, other = batch
    logits = model(one, other)
    own = torch.arange(len(logits))
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


@seeded
def contrastive_views() -> Setup:
    """InfoNCE with a temperature of 0.07: sharp softmax rows in the loss, normalised embeddings."""
    batches = [(x + 0.3 * torch.randn_like(x), x + 0.3 * torch.randn_like(x)) for x, _ in digit_batches()]
    model = Contrast()
    return Setup(model, info_nce, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


class Windows(nn.Module):
    """A recurrence over windows of eight steps, the state detached between them; a label after each window."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, 8] -> [batch, 4], the mean over windows."""
        state, votes = torch.zeros(len(x), 32), []
        for window in x.split(8, dim=1):
            state = state.detach()
            for step in window.unbind(1):
                state = self.cell(step, state)
            votes.append(self.head(state))
        return torch.stack(votes).mean(0)


@seeded
def truncated_time() -> Setup:
    """Truncated backpropagation through time: the state is detached every eight steps, on purpose."""
    model = Windows()
    return Setup(model, cross_entropy, series_batches(24), torch.optim.Adam(model.parameters(), lr=1e-3))


class Spectral(nn.Module):
    """x + W F^-1(R F(x)): a layer of a Fourier neural operator, with complex weights R."""

    def __init__(self, channels: int = 16, modes: int = 6) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(channels, channels, modes, dtype=torch.cfloat) / channels**0.5)
        self.mix, self.modes = nn.Conv1d(channels, channels, 1), modes

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, length] -> the same."""
        spectrum = torch.fft.rfft(x)
        kept = torch.einsum("bik,iok->bok", spectrum[..., : self.modes], self.filters)
        filtered = torch.fft.irfft(F.pad(kept, (0, spectrum.shape[-1] - self.modes)), n=x.shape[-1])
        out: Tensor = x + F.gelu(filtered + self.mix(x))
        return out


@seeded
def fourier_operator() -> Setup:
    """A Fourier neural operator: complex parameters, transforms there and back."""
    model = nn.Sequential(nn.Conv1d(1, 16, 1), Spectral(), Spectral(), nn.Conv1d(16, 1, 1))
    batches = [(series := torch.randn(16, 1, 32), 0.5 * series.roll(3, dims=2)) for _ in range(2)]
    return Setup(model, squared_error, batches)


class GraphNet(nn.Module):
    """Messages along edges, summed where they arrive and divided by how many there are."""

    def __init__(self, dim: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, dim), nn.Linear(dim, 4)
        self.messages = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(depth))

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """[nodes, 8] and [2, edges] -> [nodes, 4]."""
        x, (source, target) = self.stem(nodes), edges
        degree = torch.bincount(target, minlength=len(x)).clamp(min=1).unsqueeze(1)
        for message in self.messages:
            sent = F.relu(message(torch.cat([x[source], x[target]], dim=1)))
            x = x + torch.zeros_like(x).index_add(0, target, sent) / degree
        out: Tensor = self.head(x)
        return out


def labelled_nodes(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy of the few nodes with a label."""
    nodes, edges, labelled, labels = batch
    return F.cross_entropy(model(nodes, edges)[labelled], labels)


@seeded
def graph_network() -> Setup:
    """A graph network of which one node in eight is labelled: most nodes get little gradient, some none."""
    batches = [
        (torch.randn(64, 8), torch.randint(64, (2, 256)), torch.arange(0, 64, 8), torch.randint(4, (8,)))
        for _ in range(2)
    ]
    model = GraphNet()
    return Setup(model, labelled_nodes, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


class Perturbed(nn.Module):
    """A classifier, and one picture that is added to all others."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = mlp(2, nn.ReLU).requires_grad_(False)
        self.added = nn.Parameter(0.01 * torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        out: Tensor = self.classifier(x + self.added)
        return out


def fooled(model: nn.Module, batch: Any) -> Tensor:
    """The classifier's error, to be raised."""
    pixels, labels = batch
    return -F.cross_entropy(model(pixels), labels)


@seeded
def universal_perturbation() -> Setup:
    """An error that is raised on purpose: what is added to the pictures is to fool a frozen classifier."""
    model = Perturbed()
    return Setup(model, fooled, digit_batches(), torch.optim.Adam([model.added], lr=1e-3))


CASES = (
    healthy("physics_informed", physics_informed, "Raissi et al. 2019"),
    healthy("signed_distance", signed_distance, "Gropp et al. 2020"),
    healthy("cosine_logits", cosine_logits, "Wang et al. 2018"),
    healthy("distilled", distilled, "Hinton et al. 2015"),
    healthy("variational_autoencoder", variational_autoencoder, "Kingma and Welling 2014"),
    healthy("contrastive_views", contrastive_views, "Radford et al. 2021; van den Oord et al. 2018"),
    healthy("truncated_time", truncated_time, "Williams and Peng 1990"),
    healthy("fourier_operator", fourier_operator, "Li et al. 2021"),
    healthy("graph_network", graph_network, "Kipf and Welling 2017"),
    healthy("universal_perturbation", universal_perturbation, "Moosavi-Dezfooli et al. 2017"),
)
