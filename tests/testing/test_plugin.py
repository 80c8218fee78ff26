"""The plugin as pytest loads it: its fixture, its pages, other processes, and what it costs who does not use it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SOURCE = """
import pytest
import torch
from torch import nn

def network(depth, activation):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*layers, nn.Linear(16, 1))

def loss_fn(model, batch):
    return model(batch).square().mean()

BATCHES = [torch.randn(32, 16)]

def test_good(gradtrace):
    gradtrace.assert_gradients_flow(network(2, nn.Tanh), loss_fn, BATCHES)

@pytest.mark.parametrize("sign", ["/", ":"])
def test_bad(gradtrace, sign):
    gradtrace.assert_gradients_flow(network(12, nn.Sigmoid), loss_fn, BATCHES)

def test_other():
    assert 1 == 2
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """In a process of its own, with this plugin and no other but those that are named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(importlib.util.find_spec("gradtrace").origin).parents[1]))
    pytester.makepyfile(SOURCE)
    return lambda *arguments: pytester.runpytest_subprocess("-p", "pytest_gradtrace", *arguments)


def test_the_fixture_has_the_assertions_and_their_picture(run, pytester):
    result = run()
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["E*the gradient vanishes:*allowed are 3 (batch 1)", "E*━━━*"])
    assert "testing.py:" not in result.stdout.str()  # the traceback ends in the user's line
    assert list(pytester.path.glob("*.html")) == []


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["here", "xdist"])
def test_a_page_is_kept_per_test_that_fails(run, pytester, workers):
    if workers:
        pytest.importorskip("xdist", reason="NO XDIST: the plugin was not tried with it")
    result = run("--gradtrace-report", "kept/pages", *workers)
    result.assert_outcomes(passed=1, failed=3)
    pages = sorted((pytester.path / "kept" / "pages").iterdir())
    assert len(pages) == 2  # two parameters that differ in a sign alone; none of what fails by something else
    assert all("test_bad" in page.name for page in pages)
    assert all("<title>The gradient vanishes: " in page.read_text(encoding="utf-8") for page in pages)
    result.stdout.fnmatch_lines([f"report: {pages[0]}"])


def test_a_page_that_cannot_be_kept_is_a_sentence(run, pytester):
    (pytester.path / "taken").write_text("")
    result = run("--gradtrace-report", "taken", "-k", "bad")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["the report could not be kept (FileExistsError: *"])


def test_who_does_not_use_it_pays_nothing():
    code = "import sys, pytest_gradtrace; print('torch' in sys.modules, 'gradtrace' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["False", "False"]
