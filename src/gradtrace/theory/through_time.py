"""What does a recurrence make of the gradients that arrive at its outputs? Their covariance, between all time steps.

    dh(t) = given(t) + W_hh^T dz(t + 1),     ds(t) = phi(t + 1) ds(t + 1) + a(t) dh(t),     dz(t) = gamma(t) ds(t)

with h the output, s the state that is carried unit by unit (c of an LSTM, h of a GRU) and z the gates' pre-activations.
One set of weights serves all steps: gradients of two steps t < s meet the same W, so that

    E[dh(t) dh(s)] = given + Var(w_hh) H E[dz(t + 1) dz(s + 1)]

and a state that is carried makes dz(t), dz(s) alike. Untied theory (Chen et al. 2018) keeps t = s alone: exact for a
plain recurrence, where nothing is carried, but short by half per step for an LSTM's memory, (f I + W)^t against
(f^2 + Var(w) H)^(t / 2), and by more where a mean over time hands the same gradient to all steps.

Source: Chen, Pennington & Schoenholz (2018), section 3.3, for t = s; the rest follows as W and f I commute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradtrace.theory.gaussian import Array
from gradtrace.theory.recurrence import CLASSES, Cell, Flow

MOST_LAGS = 256
"""Time steps farther apart count as uncorrelated."""
MOST_WORK = 1 << 21
"""Of steps x lags x classes; beyond, fewer classes of units stand for all."""


@dataclass(frozen=True, slots=True, eq=False)
class Returned:
    """What went into a recurrence gets this gradient."""

    inputs: Array
    """Covariance band [T, lags]: E[dx(t) dx(t + lag)]."""
    output: float
    """E[g^2] of the first step's h."""
    state: float
    """Of an LSTM's first c."""


def band(num_steps: int, correlation: float = 0.0) -> Array:
    """Unit energy at every step, this correlation between any two [num_steps, lags]."""
    lags = min(num_steps, MOST_LAGS)
    found = np.full((num_steps, lags), correlation)
    found[:, 0] = 1.0
    found[np.arange(num_steps)[:, None] + np.arange(lags) >= num_steps] = 0.0
    return found


def last_only(num_steps: int) -> Array:
    """Unit energy at the last step alone."""
    found = np.zeros((num_steps, min(num_steps, MOST_LAGS)))
    found[-1, 0] = 1.0
    return found


def reverse(covariance: Array) -> Array:
    """The same with time running backwards.

    >>> reverse(np.array([[1.0, 2.0], [3.0, 0.0]]))
    array([[3., 2.],
           [1., 0.]])
    """
    num_steps, lags = covariance.shape
    start = num_steps - 1 - np.arange(num_steps)[:, None] - np.arange(lags)
    return np.where(start >= 0, covariance[np.maximum(start, 0), np.arange(lags)], 0.0)


def back_through_time(cell: Cell, flows: list[Flow], given: Array, final_state: float = 0.0) -> Returned:
    """What arrives at inputs and first state, for gradients of covariance `given` [T, lags] at the outputs.

    `final_state` is E[g^2] at the last c of an LSTM.

    >>> from gradtrace.theory.recurrence import Inputs, Units, through_time
    >>> plain = Cell("relu", *np.array([[1.0], [2.0], [1.0], [2.0]]), np.zeros((1, CLASSES)))
    >>> flows = [flow for _, flow in through_time(plain, Inputs(1.0), 5, Units.of())]
    >>> back_through_time(plain, flows, last_only(5)).inputs[:, 0].round(6)  # chi = 2 / 2
    array([0.5, 0.5, 0.5, 0.5, 0.5])
    """
    return _Wave(cell, flows, given, final_state).run()


class _Wave:
    """All pairs (t, t + lag) with the same 2 t + lag at once: they need only those with a larger one.

    Index 0 of time is the state before the first step, where nothing is given.
    """

    def __init__(self, cell: Cell, flows: list[Flow], given: Array, final_state: float) -> None:
        T, lags = given.shape
        every = max(1, math.ceil(T * lags * CLASSES / MOST_WORK))
        self._T, self._lags, self._cell = T, lags, cell
        carries_output = 0.0 if cell.kind == "lstm" else 1.0

        def over_time(name: str, before: float) -> Array:
            steps = np.stack([getattr(flow, name)[..., ::every] for flow in flows])
            return np.concatenate((np.full_like(steps[:1], before), steps))

        self._a = over_time("output_to_state", carries_output)
        self._phi = np.concatenate(
            (over_time("state_to_state", 0.0), np.zeros_like(flows[0].state_to_state[None, :, ::every]))
        )
        self._gamma, self._omega = over_time("state_to_gates", 0.0), over_time("output_to_gates", 0.0)
        self._given = np.concatenate((np.zeros((1, lags)), given))
        classes = self._a.shape[-1]
        self._states = np.zeros((T + 2, lags + 1, classes))  # E[ds(t) ds(t + lag)]
        self._cross = np.zeros((T + 2, lags + 1, classes))  # E[dh(t) ds(t + lag)]
        self._states[T + 1, 0] = final_state
        self._phi[T + 1] = 1.0
        self._outputs = np.zeros((T + 2, lags))  # E[dh(t) dh(t + lag)]
        self._gates = np.zeros((T + 2, lags, cell.bias.shape[0]))  # E[dz(t) dz(t + lag)]

    def run(self) -> Returned:
        for sum_of_times in range(2 * self._T, -1, -1):
            first = max(sum_of_times - self._T, math.ceil((sum_of_times - self._lags + 1) / 2), 0)
            t = np.arange(first, sum_of_times // 2 + 1)
            if t.size:
                self._pairs(t, sum_of_times - t)
        inputs = self._gates[1:-1] @ self._cell.gradient_in
        state = float(self._states[0, 0].mean())
        output = self._outputs[0, 0] / self._cell.projection[1] if self._cell.projection[1] else 0.0
        return Returned(inputs, state if self._cell.kind == "gru" else float(output), state)

    def _pairs(self, t: Array, s: Array) -> None:
        """Fill in E[. (t) . (s)] for t <= s."""
        lag = s - t
        a, phi, gamma, omega = self._a, self._phi, self._gamma, self._omega
        arriving = self._given[t, lag] + self._gates[t + 1, lag] @ self._cell.gradient_back
        outputs = self._cell.projection[1] * arriving
        cross = phi[s + 1, 0] * self._cross[t, lag + 1] + a[s, 0] * outputs[:, None]
        states = phi[t + 1, 0] * self._states[t + 1, np.maximum(lag - 1, 0)] + a[t, 0] * cross
        gates = np.einsum("mgk,mgk,mk->mg", gamma[t, 0], gamma[s, 0], states)
        gates += np.einsum("mgk,mgk,m->mg", omega[t, 0], omega[s, 0], outputs)
        if lag[-1] == 0:  # one step with itself: second moments
            i = t[-1]
            states[-1] = phi[i + 1, 1] * self._states[i + 1, 0] + a[i, 1] * outputs[-1]
            states[-1] += 2 * phi[i + 1, 0] * a[i, 0] * self._cross[i, 1]
            gates[-1] = gamma[i, 1] @ states[-1] + omega[i, 1].sum(axis=1) * outputs[-1]
        self._outputs[t, lag], self._cross[t, lag], self._states[t, lag] = outputs, cross, states
        self._gates[t, lag] = gates / states.shape[-1]


def growth_per_step(cell: Cell, flows: list[Flow]) -> float:
    """Growth of E[g^2] per step back in time, from the last output: geometric mean over the farther half of the way.

    >>> from gradtrace.theory.recurrence import Inputs, Units, through_time
    >>> plain = Cell("tanh", *np.array([[1.0], [0.5], [1.0], [0.5]]), np.zeros((1, CLASSES)))
    >>> round(growth_per_step(plain, [flow for _, flow in through_time(plain, Inputs(0.0), 9, Units.of())]), 6)
    0.5
    """
    if len(flows) < 2:
        return math.nan
    inputs = back_through_time(cell, flows, last_only(len(flows))).inputs[:, 0]
    middle = len(flows) // 2
    return float((inputs[0] / inputs[middle]) ** (1 / middle)) if inputs[0] > 0 and inputs[middle] > 0 else 0.0
