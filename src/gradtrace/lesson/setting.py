"""Which network? What the controls of a chapter say, and the weights that belong to it.

    y(l) = a(W(l) y(l-1)),    or with a skip connection    y(l) = y(l-1) + alpha W(l) a(y(l-1)),        l = 1 ... L

(the second as in K. He et al., Identity mappings in deep residual networks, 2016: nothing but a sum on the way through)
with W(l) ~ N(0, sigma_w^2 / width), no biases and BATCH inputs y(0) ~ N(0, 1). The loss is the mean of t y(L) with
random t: whatever the network does, the same gradient starts its way back. `static/network.js` draws the same numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gradtrace.lesson.generator import gaussians
from gradtrace.theory.gaussian import Array

BATCH = 16
INPUTS, STARTS, WEIGHTS = 0, 1, 2
"""Streams of the generator; the weights of layer l are stream WEIGHTS + l."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One network of L = `depth` layers; names and values are those of the page's controls."""

    activation: str = "sigmoid"
    depth: int = 20
    sigma_w: float = 1.0
    width: int = 32
    alpha: float = 0.0
    """Of the branch beside a skip connection; 0: there is no skip connection."""
    seed: int = 1

    def weights(self) -> tuple[Array, ...]:
        """W(1) ... W(L), each [width, width].

        >>> [W.shape for W in Setting(depth=2, width=3).weights()]
        [(3, 3), (3, 3)]
        """
        scale = self.sigma_w / self.width**0.5
        shape = self.width, self.width
        return tuple(scale * gaussians(self.seed, WEIGHTS + l, *shape) for l in range(1, self.depth + 1))

    def batch(self) -> tuple[Array, Array]:
        """Inputs y(0) and the loss's t, each [BATCH, width]."""
        inputs, starts = (gaussians(self.seed, stream, BATCH, self.width) for stream in (INPUTS, STARTS))
        return inputs, starts

    def as_dict(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RecurrentSetting:
    """h(t) = tanh(W h(t-1) + x(t)) over `num_steps` steps, one W ~ N(0, sigma_w^2 / width) for all of them.

    The loss is the mean of t h(num_steps) with random t; x(t) ~ N(0, INPUT_SIZE^2).
    """

    num_steps: int = 50
    sigma_w: float = 1.0
    width: int = 32
    seed: int = 1

    def weights(self) -> Array:
        """W [width, width]."""
        scale: float = self.sigma_w / self.width**0.5
        return scale * gaussians(self.seed, WEIGHTS, self.width, self.width)

    def batch(self) -> tuple[Array, Array]:
        """Inputs [BATCH, num_steps, width] and the loss's t [BATCH, width]."""
        x = gaussians(self.seed, INPUTS, self.num_steps, BATCH, self.width).transpose(1, 0, 2)
        return INPUT_SIZE * x, gaussians(self.seed, STARTS, BATCH, self.width)

    def as_dict(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


INPUT_SIZE = 0.3
"""Small inputs, so that the state lives mostly of itself."""


@dataclass(frozen=True, slots=True)
class TrainingSetting:
    """A training on NUM_DIGITS handwritten digits, all at every step: `depth` hidden layers, a readout, no biases.

    W(1) ~ N(0, sigma_w^2 / 64), the other hidden ones N(0, sigma_w^2 / width), the readout N(0, 1 / width).
    """

    activation: str = "sigmoid"
    depth: int = 10
    sigma_w: float = 1.0
    optimizer: str = "SGD"
    learning_rate: float = 0.05
    width: int = 24
    seed: int = 1
    num_steps: int = 200

    def weights(self) -> tuple[Array, ...]:
        """W(1) ... W(depth + 1), each [outputs, inputs]."""
        sizes = [NUM_PIXELS, *[self.width] * self.depth, NUM_CLASSES]
        scales = [self.sigma_w] * self.depth + [1.0]
        shapes = zip(sizes[1:], sizes[:-1], scales, strict=True)
        return tuple(
            scale / fan_in**0.5 * gaussians(self.seed, WEIGHTS + l, fan_out, fan_in)
            for l, (fan_out, fan_in, scale) in enumerate(shapes, 1)
        )

    def as_dict(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


NUM_DIGITS = 200
RATIO_EVERY = 20
"""Steps between two measurements of how far a step moves each layer."""
NUM_PIXELS, NUM_CLASSES = 64, 10
PROOF_BATCH, PROOF_STEPS = 50, 60
"""Digits at a step, and steps, of each training by which a cause is proven."""

CHAIN_INPUT, CHAIN_TARGET = 1.0, 0.0
CHAIN_WEIGHTS = (1.5, 2.0, 1.2, 1.8)
"""W(1) ... W(4) of the layers of one unit: all positive, so that norms are the values themselves."""
