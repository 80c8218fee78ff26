"""Linear maps and convolutions: Var(w) fan_out, and the share of the taps that meets data rather than the border."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gradtrace.audit.rules.effect import Effect, mean_square
from gradtrace.audit.signals import Signal

if TYPE_CHECKING:
    from gradtrace.audit.rules.effect import Scene
    from gradtrace.theory.gaussian import Array


def _mixed(scene: Scene, factor: float, weight: Tensor, bias: Any, fan: tuple[int, int]) -> Signal:
    """The signal after random weights: Gaussian with mean zero, `factor` = Var(w) fan_in, `fan` = (inputs, units)."""
    before = scene.signals[0]
    shift, bias_second = _shift(weight, bias, 1 / (3 * fan[0]))
    moved = 2 * shift * before.mean + shift**2  # of E[x^2] and E[x x'], for x + shift
    second = max(factor * (before.second + moved) + bias_second, 0.0)
    from_weights = factor * (before.second + moved) / second if second > 0 else 0.0
    share = min(max(-shift / before.mean, 0.0), 1.0) if before.mean and before.centred else 0.0
    network, sample = (
        (1 - share) * whole + share * own
        for whole, own in zip((before.log_variance, before.sample_variance), before.centred or (0.0, 0.0), strict=True)
    )
    spread = 2 / fan[1] * _common(before.correlation, scene.outputs[0].numel / fan[1]) if before.second > 0 else 0.0
    return Signal(
        second=second,
        overlap=factor * (before.overlap + moved) + bias_second,
        features=fan[1],
        log_variance=from_weights**2 * network + spread,
        sample_variance=from_weights**2 * (sample + 2 / fan[1]),
    )


def _common(c: float, num_samples: float) -> float:
    """Relative variance of the mean of z^2, over that of one z^2: the mean of c^2 over all pairs of samples."""
    return c * c + (1 - c * c) / max(num_samples, 1.0)


def _shift(weight: Tensor, bias: Any, default: float) -> tuple[float, float]:
    """The bias as W (shift 1) + the rest: (shift, mean square of the rest).

    Of fresh weights the shift is next to nothing; of a bias that takes the input's mean out it is minus that mean.
    """
    if not isinstance(bias, Tensor):
        return 0.0, 0.0
    if bias.is_meta or weight.is_meta or weight.shape[0] != bias.numel():
        return 0.0, mean_square(bias, default)
    b, sums = bias.detach().double(), weight.detach().double().flatten(1).sum(1)
    energy = float(sums.square().mean())
    shift = float((b * sums).mean()) / energy if energy > 0 else 0.0
    return shift, float((b - shift * sums).square().mean())


def linear(scene: Scene) -> Effect | None:
    """F.linear(x, W, b)."""
    weight, bias = scene.step.argument(1, "weight"), scene.step.argument(2, "bias")
    if scene.slot_of(weight) is not None or not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    return _linear(scene, weight, bias)


def _linear(scene: Scene, weight: Tensor, bias: Any) -> Effect:
    fan_out, fan_in = weight.shape
    variance = mean_square(weight, 1 / (3 * fan_in))
    growth = variance * fan_out
    positions = scene.outputs[0].numel / (scene.batch_size * fan_out)
    signal = _mixed(scene, variance * fan_in, weight, bias, (fan_in, fan_out))
    sigma_b2 = mean_square(bias, 1 / (3 * fan_in) if bias is not None else 0.0)
    return Effect(
        [signal],
        [{"weights": growth}],
        sigma_b2=sigma_b2,
        fan=(fan_in, fan_out),
        gain=math.sqrt(growth),
        positions=positions,
    )


def matmul(scene: Scene) -> Effect | None:
    """A value times a matrix made of parameters: a linear layer without a bias; of two values it has no rule."""
    weight = scene.step.argument(1, "other")
    if (
        len(scene.inputs) != 1
        or scene.slot_of(weight) is not None
        or not isinstance(weight, Tensor)
        or weight.dim() != 2
    ):
        return None
    return _linear(scene, weight.t(), None)


def _per_axis(value: Any, num_axes: int) -> tuple[int, ...]:
    return (
        (int(value),) * num_axes
        if isinstance(value, int)
        else tuple(int(v) for v in value) * (num_axes if len(value) == 1 and num_axes > 1 else 1)
    )


def axis_taps(size: int, num_out: int, kernel: int, stride: int, padding: int, dilation: int, swap: bool) -> Array:
    """Which tap joins which positions along one axis [taps, inputs, outputs]; the others fall on the border.

    >>> axis_taps(8, 8, 3, 1, 1, 1, False).sum(axis=(1, 2))
    array([7., 8., 7.])
    """
    if swap:  # a transposed convolution is a convolution with input and output exchanged
        swapped: Array = axis_taps(num_out, size, kernel, stride, padding, dilation, False).transpose(0, 2, 1)
        return swapped
    places = np.arange(num_out) * stride - padding + np.arange(kernel)[:, None] * dilation
    joined = places[:, None, :] == np.arange(size)[:, None]
    return np.asarray(joined, dtype=np.float64)


def _energy(weight: Tensor, kernel: tuple[int, ...]) -> Array:
    """Mean square per tap, with mean 1 (delta-orthogonal kernels have it all in the middle)."""
    if weight.is_meta:
        return np.ones(kernel)
    taps = weight.detach().double().square().mean(dim=(0, 1)).cpu().numpy()
    return np.asarray(taps / taps.mean()) if taps.mean() > 0 else np.ones(kernel)


def convolution(scene: Scene) -> Effect | None:
    """F.conv1d to conv3d and conv_transpose1d to 3d."""
    step, transposed = scene.step, "transpose" in scene.step.function
    weight, bias = step.argument(1, "weight"), step.argument(2, "bias")
    if scene.slot_of(weight) is not None or not isinstance(weight, Tensor):
        return None
    kernel = tuple(weight.shape[2:])
    axes = len(kernel)
    groups = step.argument(6, "groups", 1)
    stride = _per_axis(step.argument(3, "stride", 1), axes)
    dilation = _per_axis(step.argument(7 if transposed else 5, "dilation", 1), axes)
    if not transposed and len(step.args) <= 6:
        groups = step.kwargs.get("groups", 1)
    padding = step.argument(4, "padding", 0)
    if isinstance(padding, str):
        same = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        padding = same if padding == "same" else (0,) * axes
    padding = _per_axis(padding, axes)
    sizes_in, sizes_out = scene.inputs[0].shape[-axes:], scene.outputs[0].shape[-axes:]
    hits, joined, energy = np.ones(()), [], _energy(weight, kernel)
    for axis in range(axes):
        geometry = (kernel[axis], stride[axis], padding[axis], dilation[axis], transposed)
        taps = axis_taps(sizes_in[axis], sizes_out[axis], *geometry)
        hits = np.multiply.outer(hits, taps.sum(axis=(1, 2)))
        along = energy.sum(axis=tuple(other for other in range(axes) if other != axis))
        joined.append(np.einsum("kio,k->io", taps, along / along.mean()))
    pairs = float((hits * energy).sum())
    effect = _convolved(scene, weight, bias, groups, pairs, joined, transposed)
    (signal,) = effect.signals
    assert signal is not None
    return replace(effect, axes=tuple(joined), signals=[replace(signal, places=_spread(scene, joined)[1])])


def _spread(scene: Scene, joined: list[Array]) -> tuple[float, tuple[Array, ...]]:
    """How much more of the signal is met than of an even one, and where it lies then, along each axis."""
    before = scene.signals[0].places
    if [len(at) for at in before] != [T.shape[0] for T in joined]:
        before = tuple(np.ones(T.shape[0]) for T in joined)
    after = [at @ T for at, T in zip(before, joined, strict=True)]
    more = math.prod(float(at.sum() / T.sum()) for at, T in zip(after, joined, strict=True))
    return more, tuple(at / at.mean() if at.mean() > 0 else np.ones_like(at) for at in after)


def _convolved(
    scene: Scene,
    weight: Tensor,
    bias: Any,
    groups: int,
    pairs: float,
    joined: list[Array],
    transposed: bool,
) -> Effect:
    num_in, num_out = (math.prod(T.shape[side] for T in joined) for side in (0, 1))
    a, b = weight.shape[:2]
    channels_in, channels_out = (a // groups, b) if transposed else (b, a // groups)
    taps = math.prod(weight.shape[2:])
    fan = (channels_in * taps, channels_out * taps)
    variance = mean_square(weight, 1 / (3 * b * taps))
    parts = {"weights": variance * fan[1], "stride": pairs / num_in / taps}
    met = variance * channels_in * pairs / num_out * _spread(scene, joined)[0]
    signal = _mixed(scene, met, weight, bias, (fan[0], channels_out * groups))
    return Effect(
        [replace(signal, features=channels_out * groups)],
        [parts],
        fan=fan,
        gain=math.sqrt(variance * fan[1]),
        sigma_b2=mean_square(bias, 1 / (3 * fan[0]) if bias is not None else 0.0),
        positions=num_out,
    )


def embedding(scene: Scene) -> Effect | None:
    """F.embedding: where the gradient ends."""
    weight = scene.step.argument(1, "weight")
    if scene.step.function == "embedding_bag":  # how many are added up is in the data
        return Effect([None], [{} for _ in scene.inputs])
    second = mean_square(weight, 1.0)
    return Effect([Signal(second=second, overlap=0.0, features=int(weight.shape[-1]))], [{} for _ in scene.inputs])
