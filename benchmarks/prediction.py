"""How far is `gradtrace.predict` from what random cotangents measure, and how often inside the stated 95 % interval?

    python -m benchmarks.prediction [seeds [first seed]] [-v]

A grid of fresh networks: activations x gains x depths x widths; convolutions, residual sums, norms and recurrences.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections import defaultdict

import torch
from torch import nn

import gradtrace


def mlp(activation: type[nn.Module], gain: float, depth: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
        if gain:
            nn.init.normal_(layers[-2].weight, 0, gain / width**0.5)
            nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(32, width)


class Residual(nn.Module):
    def __init__(self, depth: int, width: int, norm: str, scale: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(depth))
        self.norm, self.scale = norm, scale
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            if self.norm == "post":
                x = norm(x + self.scale * layer(torch.relu(x)))
            else:
                x = x + self.scale * layer(torch.relu(norm(x)))
        return x


def convnet(depth: int, channels: int, norm: str) -> tuple[nn.Module, torch.Tensor]:
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for index in range(depth):
        if norm:
            groups = channels if norm == "instance" else 4
            layers.append(nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(groups, channels))
        layers += [nn.ReLU(), nn.Conv2d(channels, channels, 3, stride=1 + (index % 4 == 3), padding=1)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers, *head), torch.randn(16, 3, 16, 16)


class Reader(nn.Module):
    def __init__(self, recurrent, only_last: bool) -> None:
        super().__init__()
        self.recurrent, self.head, self.only_last = recurrent, nn.Linear(recurrent.hidden_size, 10), only_last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.recurrent(x)[0]
        return self.head(outputs[:, -1] if self.only_last else outputs)


def initialised(activation: type[nn.Module], depth: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    model, x = mlp(activation, 0, depth, width)
    gradtrace.init_critical_(model, x)
    return model, x


def cases():
    activations = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU)
    for activation, gain, depth, width in itertools.product(activations, (0, 1.0, 1.5), (5, 20), (64, 256)):
        name = "mlp default" if not gain else f"mlp gain {gain}"
        yield name, f"{activation.__name__} {depth}x{width}", lambda a=(activation, gain, depth, width): mlp(*a)
    for depth, width, norm, scale in itertools.product((4, 16), (64, 256), ("", "pre", "post"), (1.0, 0.25)):
        yield f"residual {norm}".strip(), f"{depth}x{width} scale {scale}", lambda a=(depth, width, norm, scale): (
            Residual(*a), torch.randn(32, a[1]))  # fmt: skip
    for activation, depth, width in itertools.product(activations, (10, 20), (64, 256)):
        yield "mlp critical", f"{activation.__name__} {depth}x{width}", lambda a=(activation, depth, width): (
            initialised(*a))  # fmt: skip
    for kind, width, layers, last in itertools.product(("RNN", "LSTM", "GRU"), (64, 128), (1, 2), (False, True)):
        yield f"recurrent {kind}", f"{layers}x{width}", lambda a=(kind, width, layers, last): (
            Reader(getattr(nn, a[0])(16, a[1], a[2], batch_first=True), a[3]), torch.randn(16, 25, 16))  # fmt: skip
    for depth, channels, norm in itertools.product((4, 10), (16, 48), ("", "batch", "group", "instance")):
        yield f"conv {norm}".strip(), f"{depth}x{channels}", lambda a=(depth, channels, norm): convnet(*a)


def run(seeds: int = 1, verbose: bool = False, first_seed: int = 0) -> dict[str, list[tuple[float, float]]]:
    """Group -> (error in decades, half width in decades) of each network."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, ((group, name, make), seed) in enumerate(itertools.product(cases(), range(seeds))):
        torch.manual_seed(1000 * first_seed + number)  # every network has weights of its own
        audit = gradtrace.predict(*make())
        error, half = audit.measured_decades - audit.decades, (audit.high - audit.low) / 2
        found[group].append((error, half))
        if verbose and (abs(error) > half or audit.disagreements):
            blame = audit.disagreements[0].message if audit.disagreements else ""
            print(f"  {group:16} {name:24} seed {seed}: {error:+.3f} (interval {half:.3f}) {blame}")
    return found


def seconds_of_predict(depth: int = 100) -> float:
    """`predict` on a 100-layer GELU network, after import."""
    torch.manual_seed(0)
    model, x = mlp(nn.GELU, 1.5, depth, 256)
    start = time.perf_counter()
    gradtrace.predict(model, x)
    return time.perf_counter() - start


def table(seeds: int = 1, verbose: bool = False, first_seed: int = 0) -> str:
    """One line per group of networks."""
    found = run(seeds, verbose, first_seed)
    found["all"] = [pair for pairs in found.values() for pair in pairs]
    heads = f"{'group':16} {'networks':>8} {'median |error|':>15} {'worst':>8} {'half width':>12} {'inside 95 %':>12}"
    lines = ["Prediction against random cotangents, in decades of the RMS gradient", heads]
    for group, pairs in found.items():
        errors = [abs(error) for error, _ in pairs]
        inside = sum(abs(error) <= half for error, half in pairs) / len(pairs)
        half = statistics.median(half for _, half in pairs)
        numbers = f"{statistics.median(errors):15.3f} {max(errors):8.3f} {half:12.3f} {inside:12.1%}"
        lines.append(f"{group:16} {len(pairs):8} {numbers}")
    return "\n".join([*lines, f"predict on 100 layers of width 256: {seconds_of_predict():.2f} s (aim: 3 s)"])


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:] if argument != "-v"]
    print(table(given[0] if given else 1, "-v" in sys.argv, given[1] if len(given) > 1 else 0))
