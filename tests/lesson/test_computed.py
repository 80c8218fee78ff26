"""The page computes in JavaScript what `theory/backprop.py` computes in NumPy and gradtrace measures in PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradtrace.lesson.facts import NAMES
from gradtrace.lesson.generator import gaussians, uniforms
from gradtrace.lesson.presets import NETWORKS, RECURRENT, TRAINING
from gradtrace.lesson.setting import INPUT_SIZE
from gradtrace.lesson.training import examples, learner, loss_of
from gradtrace.theory import backprop
from gradtrace.theory.activations import max_slope, moments
from gradtrace.theory.mean_field import trajectory
from gradtrace.theory.nonlinearities import nonlinearity

EXACT = 1e-9
CHAOTIC = {"tanh_large": 1e-5, "sigmoid_large": 1e-5, "exploding_tanh": 1e-5}


@pytest.fixture(scope="module")
def page(browser, file):
    """One page for all: nothing here moves a control."""
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    yield page
    page.close()


def test_the_random_numbers_are_the_same(page):
    assert page.evaluate("[...gt.uniforms(7, 3, 1000)]") == uniforms(7, 3, 1000).tolist()
    drawn = page.evaluate("[...gt.gaussians(12345, 102, 1001)]")
    assert drawn == pytest.approx(gaussians(12345, 102, 1001).tolist(), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_the_activations_are_the_same(page, name):
    z = np.concatenate([np.linspace(-30, 30, 601), [1e-9, -1e-9, 700.0, -700.0]])
    a, slope = (
        page.evaluate(f"([name, zs]) => zs.map(gt.functions[name].{which})", [name, z.tolist()])
        for which in ("a", "slope")
    )
    function = nonlinearity(name)
    np.testing.assert_allclose(a, function.a(z), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(slope, function.a_prime(z), rtol=1e-12, atol=1e-14)
    assert page.evaluate("name => gt.mostSlope(name)", name) == pytest.approx(max_slope(function)[0], rel=1e-5)


RUN = """({ layers, x, target, labels, classes }) => {
  const made = layers.map((l) => ({ ...l, W: Float64Array.from(l.W.flat()) }));
  const forward = gt.forward(made, Float64Array.from(x.flat())), y = forward.ys[made.length];
  const { loss, gradient } = labels ? gt.crossEntropy(y, labels, classes) : gt.meanSquare(y, target.flat());
  const steps = gt.backward(made, forward, gradient, true);
  return { loss, y: [...y], steps: steps.map((s) => ({ ...s, dW: [...s.dW] })) };
}"""


@pytest.mark.parametrize("seed", range(6))
def test_the_recursion_is_the_oracle_on_weights_of_any_kind(page, seed):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 9, 7).tolist()
    names = rng.choice(list(backprop.ACTIVATIONS), 6).tolist()
    layers = [
        backprop.Layer(rng.normal(0, 1.5 / i**0.5, (o, i)), np.zeros(o), name)
        for i, o, name in zip(widths[:-1], widths[1:], names, strict=True)
    ]
    x, target = rng.normal(size=(5, widths[0])), rng.normal(size=(5, widths[-1]))
    labels = rng.integers(0, widths[-1], 5)
    oracle = (
        backprop.backward(layers, x, labels, backprop.cross_entropy)
        if seed % 2
        else backprop.backward(layers, x, target)
    )
    exported = [
        {"W": layer.W.tolist(), "inputs": layer.W.shape[1], "outputs": layer.W.shape[0], "activation": layer.activation,
         "alpha": 0} for layer in layers
    ]  # fmt: skip
    told = page.evaluate(RUN, {"layers": exported, "x": x.tolist(), "target": target.tolist(), "classes": widths[-1],
                               "labels": labels.tolist() if seed % 2 else None})  # fmt: skip
    assert told["loss"] == pytest.approx(oracle.loss, rel=EXACT)
    np.testing.assert_allclose(told["y"], oracle.output.ravel(), rtol=EXACT, atol=1e-14)
    for computed, step in zip(told["steps"], oracle.layers, strict=True):
        assert computed["norm"] == pytest.approx(step.norm, rel=EXACT)
        assert computed["after"] == pytest.approx(np.linalg.norm(step.after_activation), rel=EXACT)
        assert computed["passed"] == pytest.approx(np.linalg.norm(step.passed), rel=EXACT)
        np.testing.assert_allclose(computed["dW"], step.dW.ravel(), rtol=EXACT, atol=1e-14)


def test_every_measured_network_is_computed_alike(page, lesson):
    for name, setting in NETWORKS.items():
        told = page.evaluate("setting => gt.run(setting).steps.map((step) => step.norm)", setting.as_dict())
        exact = CHAOTIC.get(name, EXACT)
        assert told == pytest.approx(lesson.networks[name].norms, rel=exact), name


IN_TIME = """([setting, size]) => {
  const { norms, singular } = gt.runInTime(setting, size);
  return [norms, singular];
}"""


def test_every_measured_recurrence_is_computed_alike(page, lesson):
    for name, setting in RECURRENT.items():
        norms, singular = page.evaluate(IN_TIME, [setting.as_dict(), INPUT_SIZE])
        assert norms == pytest.approx(lesson.recurrent[name].norms, rel=1e-7), name
        assert singular == pytest.approx(lesson.recurrent[name].singular_value, rel=1e-3)


@pytest.mark.parametrize("name", TRAINING)
def test_the_page_trains_as_pytorch_does(page, lesson, name):
    setting, measured = TRAINING[name], lesson.training[name]
    told = page.evaluate("setting => gt.train(setting, gt.data.losses)", setting.as_dict())
    assert told["losses"] == pytest.approx(measured.losses, rel=1e-6)  # training makes more of a rounding error
    assert told["ratios"] == pytest.approx(measured.update_ratios, rel=1e-6)


def test_adam_is_that_of_torch(page):
    setting = replace(TRAINING["relu"], optimizer="Adam", learning_rate=0.003, num_steps=20, depth=3)
    model, (pixels, labels) = learner(setting), map(torch.from_numpy, examples())
    optimizer, losses, ratios = torch.optim.Adam(model.parameters(), lr=0.003), [], []
    for _ in range(20):
        loss = loss_of(model, (pixels, labels))
        before = [W.detach().clone() for W in model.parameters()]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        ratios.append(
            [float((W.detach() - b).norm() / b.norm()) for W, b in zip(model.parameters(), before, strict=True)]
        )
    told = page.evaluate("setting => gt.train(setting, gt.data.losses)", setting.as_dict())
    assert told["losses"] == pytest.approx(losses, rel=1e-7)
    assert told["ratios"] == pytest.approx(ratios[0], rel=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_theory_in_the_page_is_the_theory(page, name):
    function = nonlinearity(name)
    for q in (0.01, 1.0, 60.0):
        told, exact = page.evaluate("([name, q]) => gt.moments(name, q)", [name, q]), moments(function, q)
        assert told["second"] == pytest.approx(exact.second, rel=1e-3)
        assert told["slopes"] == pytest.approx(exact.slope_second, rel=1e-3)
    setting = {"activation": name, "depth": 12, "sigma_w": 1.2, "alpha": 0}
    told = [layer["chi"] for layer in page.evaluate("setting => gt.growth(setting)", setting)]
    assert told == pytest.approx([chi for _, _, chi in trajectory(function, 1.44, 0.0, 12, 1.44)], rel=1e-3)


def test_theory_predicts_what_wide_networks_do(page):
    apart = "setting => { const { whole, expected } = gt.product(setting); return whole[0] - expected[0]; }"
    for alpha in (0.0, 0.3):
        setting = {"activation": "relu", "depth": 10, "sigma_w": 1.414, "width": 64, "alpha": alpha}
        decades = [page.evaluate(apart, setting | {"seed": seed}) for seed in range(1, 9)]
        assert abs(np.mean(decades)) < 0.15
