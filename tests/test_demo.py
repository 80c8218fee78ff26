"""What the demo says is so: measured, not judged."""

from __future__ import annotations


def test_the_twin_learns_and_the_sigmoids_do_not():
    from gradtrace.demo import networks, train

    sigmoid, relu = (train(target) for target in networks())
    assert sigmoid.first_layer_change < 1e-6 < 0.01 < relu.first_layer_change
    assert sigmoid.accuracy_frac < 0.2
    assert relu.accuracy_frac > 0.8
