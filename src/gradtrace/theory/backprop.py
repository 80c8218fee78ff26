"""What does backpropagation compute? Its equations written out in NumPy, float64: the oracle for every measured trace.

A layer is y(l) = a(l)(f(l)(y(l-1), W(l))) with the linear f(y, W) = y W^T + b. In descending order of layers,

    L'(l-1) = L'(l) a'(l) f'(l),    dL/dW(l) = (L'(l) a'(l))^T y(l-1),    dL/db(l) = sum over the batch of L'(l) a'(l)

where L'(l) = dL/dy(l) [batch, units], a'(l) is elementwise and f'(l) = W(l). A recurrent network is the same recursion
in time with one W for all steps, whose gradient is the sum over the steps. Nothing here is quick or clever.

Source: Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, Nature 323 (1986); for time
Werbos, Backpropagation through time, Proc. IEEE 78 (1990).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), accurate in both tails.

    >>> sigmoid(np.array([-50.0, 0.0, 2.0]))
    array([1.92874985e-22, 5.00000000e-01, 8.80797078e-01])
    """
    return np.asarray(np.exp(-np.logaddexp(0.0, -z)))


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array], float]] = {
    # name: a(z), a'(z), max a'
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z), 0.25),
    "tanh": (np.tanh, lambda z: np.cosh(z) ** -2.0, 1.0),
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: (z > 0.0).astype(np.float64), 1.0),
    "identity": (lambda z: z, np.ones_like, 1.0),
}


def mse(y: Array, target: NDArray[Any]) -> tuple[float, Array]:
    """L = mean (y - t)^2 over all elements, and L' = dL/dy = 2 (y - t) / numel.

    >>> mse(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    (2.0, array([[0., 2.]]))
    """
    return float(np.mean((y - target) ** 2)), 2.0 * (y - target) / y.size


def cross_entropy(y: Array, target: NDArray[Any]) -> tuple[float, Array]:
    """L = mean of -log softmax(y)[t] over the batch, and L' = (softmax(y) - onehot(t)) / batch, for class indices t.

    >>> cross_entropy(np.zeros((1, 4)), np.array([2]))
    (1.3862943611198906, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    log_p = y - np.logaddexp.reduce(y, axis=1, keepdims=True)
    one_hot = np.eye(y.shape[1])[target]
    return float(-np.sum(one_hot * log_p) / len(y)), (np.exp(log_p) - one_hot) / len(y)


Loss = Callable[[Array, NDArray[Any]], tuple[float, Array]]


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights `W` [units, inputs] and bias `b` [units] as in `torch.nn.Linear`, and the name of its activation."""

    W: Array
    b: Array
    activation: str = "identity"

    def f(self, y: Array) -> Array:
        """The linear layer function y W^T + b."""
        z: Array = y @ self.W.T + self.b
        return z

    def a(self, z: Array) -> Array:
        """The activation."""
        return ACTIVATIONS[self.activation][0](z)

    def a_prime(self, z: Array) -> Array:
        """Its derivative a'(z), elementwise."""
        return ACTIVATIONS[self.activation][1](z)


def _ratio(passed: Array, received: Array) -> float:
    norm = float(np.linalg.norm(received))
    return float(np.linalg.norm(passed)) / norm if norm else math.nan


@dataclass(frozen=True, slots=True)
class LayerGradient:
    """One step of the recursion: L'(l) arrives, L'(l-1) leaves."""

    gradient: Array
    """L'(l) = dL/dy(l) [batch, units]."""
    after_activation: Array
    """L'(l) a'(l) [batch, units]."""
    passed: Array
    """L'(l-1) = L'(l) a'(l) f'(l) [batch, inputs]."""
    dW: Array  # noqa: N815 - the equation's name
    """dL/dW(l) [units, inputs]; of a recurrent network the share of this one time step."""
    db: Array
    """dL/db(l) [units]."""
    derivative_max: float
    """max a', which bounds the activation gain."""

    @property
    def norm(self) -> float:
        """|L'(l)|, Frobenius."""
        return float(np.linalg.norm(self.gradient))

    @property
    def activation_gain(self) -> float:
        """|L'(l) a'(l)| / |L'(l)|, at most `derivative_max`; NaN where no gradient arrives."""
        return _ratio(self.after_activation, self.gradient)

    @property
    def weight_gain(self) -> float:
        """|L'(l) a'(l) f'(l)| / |L'(l) a'(l)|, at most the largest singular value of W(l)."""
        return _ratio(self.passed, self.after_activation)


@dataclass(frozen=True, slots=True)
class Backward:
    """A backward pass: `layers[0]` is the first layer (time step), the recursion ran from the last."""

    loss: float
    output: Array
    layers: tuple[LayerGradient, ...]
    readout: LayerGradient | None = None
    """The linear map from the last state to the output, in a recurrent network."""

    @property
    def input_gradient(self) -> Array:
        """L'(0): with respect to the input (the initial state, in a recurrent network)."""
        return self.layers[0].passed


def forward(layers: Sequence[Layer], x: Array) -> tuple[list[Array], list[Array]]:
    """All pre-activations z(1..L) and outputs y(0..L), y(0) = x [batch, inputs].

    >>> forward([Layer(np.array([[2.0]]), np.array([1.0]), "relu")], np.array([[3.0]]))
    ([array([[7.]])], [array([[3.]]), array([[7.]])])
    """
    zs, ys = [], [x]
    for layer in layers:
        zs.append(layer.f(ys[-1]))
        ys.append(layer.a(zs[-1]))
    return zs, ys


def step(layer: Layer, gradient: Array, z: Array, y: Array) -> LayerGradient:
    """One step of the recursion, from L'(l) to L'(l-1), at the layer's pre-activation `z` and input `y`."""
    after_activation = gradient * layer.a_prime(z)
    return LayerGradient(
        gradient=gradient,
        after_activation=after_activation,
        passed=after_activation @ layer.W,
        dW=after_activation.T @ y,
        db=after_activation.sum(axis=0),
        derivative_max=ACTIVATIONS[layer.activation][2],
    )


def backward(layers: Sequence[Layer], x: Array, target: NDArray[Any], loss: Loss = mse) -> Backward:
    """The loss gradient at every layer, in descending order of layers.

    Two sigmoid layers of one unit at zero pre-activation: a' is 0.25 in each, and so the gradient falls to 0.25^2.

    >>> layer = Layer(np.array([[1.0]]), np.array([-0.5]), "sigmoid")
    >>> result = backward([layer, layer], np.array([[0.5]]), np.array([[0.0]]))
    >>> result.layers[1].norm, result.layers[0].norm, float(np.linalg.norm(result.input_gradient))
    (1.0, 0.25, 0.0625)
    """
    zs, ys = forward(layers, x)
    value, gradient = loss(ys[-1], target)
    steps: list[LayerGradient] = []
    for l in reversed(range(len(layers))):
        steps.append(step(layers[l], gradient, zs[l], ys[l]))
        gradient = steps[-1].passed
    return Backward(value, ys[-1], tuple(reversed(steps)))


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A vanilla recurrent cell h(t) = a(x(t) W_x^T + h(t-1) W_h^T + b), as `torch.nn.RNN` with both biases added up."""

    W_x: Array
    W_h: Array
    b: Array
    activation: str = "tanh"

    def at(self, x: Array) -> Layer:
        """The cell at one time step with input `x` [batch, features]: a layer from h(t-1) to h(t) with weights W_h."""
        return Layer(self.W_h, x @ self.W_x.T + self.b, self.activation)


def backward_through_time(
    cell: Recurrence, readout: Layer, x: Array, target: NDArray[Any], loss: Loss = mse, h: Array | None = None
) -> Backward:
    """The loss gradient at every state h(t) of the cell unrolled over `x` [batch, time, features].

    The loss is taken of the readout of the last state. `layers[t].dW` is the share of step t in dL/dW_h: their sum is
    the gradient, and the early shares are what vanishes.

    >>> cell = Recurrence(np.zeros((1, 1)), np.array([[0.5]]), np.zeros(1), "identity")
    >>> result = backward_through_time(cell, Layer(np.eye(1), np.zeros(1)), np.zeros((1, 3, 1)), np.ones((1, 1)))
    >>> [step.norm for step in result.layers]
    [0.5, 1.0, 2.0]
    """
    batch, time, _ = x.shape
    unrolled = [cell.at(x[:, t]) for t in range(time)] + [readout]
    whole = backward(unrolled, np.zeros((batch, len(cell.W_h))) if h is None else h, target, loss)
    return Backward(whole.loss, whole.output, whole.layers[:-1], whole.layers[-1])


def input_weight_gradient(result: Backward, x: Array) -> Array:
    """dL/dW_x = sum over t of (L'(t) a'(t))^T x(t), after `backward_through_time` over `x` [batch, time, features]."""
    return np.asarray(sum(step.after_activation.T @ x[:, t] for t, step in enumerate(result.layers)))
