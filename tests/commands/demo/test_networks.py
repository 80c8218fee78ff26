"""What the demo says is so: measured, not judged."""

from __future__ import annotations

import pytest


def test_the_twin_learns_and_the_sigmoids_do_not():
    from gradtrace.commands.demo.lecture import networks, train

    sigmoid, relu = (train(target) for target in networks())
    assert sigmoid.first_layer_change < 1e-6 < 0.01 < relu.first_layer_change
    assert sigmoid.accuracy_frac < 0.2
    assert relu.accuracy_frac > 0.8


@pytest.mark.long
def test_the_same_rnn_over_longer_sequences_and_what_remembers():
    import gradtrace
    from gradtrace.commands.demo.in_time import LENGTHS, fadings, verdicts

    def check(target):
        return gradtrace.check(target.model, target.loss_fn, target.batches)

    told = list(verdicts(check))
    rnn = told[: len(LENGTHS)]
    assert [one.told for one in rnn] == ["healthy", "vanishing", "vanishing", "vanishing"]
    assert all(0.5 < 10 ** (one.decades / one.num_steps) < 0.65 for one in rnn)
    assert told[-1].told == "healthy"  # the chrono LSTM, at the longest
    left = {fading.name: fading.curve[-1] for fading in fadings()}
    assert left["RNN"] < -50
    assert left["LSTM"] < -50
    assert left["LSTM, chrono"] > -3
    assert left["attention"] > -3
