"""Do the example scripts run under watch as they do alone, and is the right thing said of them?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradtrace.runs.reader import read_run

EXAMPLES = Path(__file__).parents[2] / "examples"

ARGUMENTS = {
    "digits_mlp.py": ["--epochs", "1"],
    "small_transformer.py": ["--steps", "60"],
    "cnn.py": ["--epochs", "1"],
    "gan.py": ["--steps", "100"],
}


def process(*arguments, cwd):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def test_examples_know_nothing_of_gradtrace():
    assert set(ARGUMENTS) <= {path.name for path in EXAMPLES.glob("*.py")}
    for path in EXAMPLES.glob("*.py"):
        assert "import gradtrace" not in path.read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_trains_the_same_under_watch(name, tmp_path):
    arguments = [str(EXAMPLES / name), *ARGUMENTS[name]]
    alone = process(*arguments, cwd=tmp_path)
    watched = process("-m", "gradtrace", "run", "--path", "run.db", *arguments, cwd=tmp_path)
    assert alone.returncode == watched.returncode == 0, watched.stderr
    assert watched.stdout == alone.stdout
    run = read_run(tmp_path / "run.db")
    assert run.finished
    assert run.samples


@pytest.mark.long
def test_the_network_of_sigmoids_is_ill_and_its_twin_is_not(tmp_path):
    for activation, ill in (("sigmoid", True), ("relu", False)):
        path = tmp_path / f"{activation}.db"
        script = [str(EXAMPLES / "digits_mlp.py"), "--epochs", "1", "--activation", activation]
        told = process("-m", "gradtrace", "run", "--path", str(path), *script, cwd=tmp_path)
        causes = {finding.cause.value for finding in read_run(path).findings if finding.severity.value != "info"}
        assert ("activation_derivative" in causes) == ill, told.stderr


@pytest.mark.long
def test_both_models_of_the_gan_are_watched(tmp_path):
    script = [str(EXAMPLES / "gan.py"), "--steps", "20"]
    process("-m", "gradtrace", "run", "--path", "run.db", *script, cwd=tmp_path)
    header = read_run(tmp_path / "run.db").header
    assert {one.name.split(".")[0] for one in header.parameters} == {"generator", "discriminator"}
    assert len(header.optimizers) == 2
