"""Nothing is overwritten that is not ours, and nobody waits for what cannot be written."""

from __future__ import annotations

import gzip
import zipfile

import pytest
import torch
from tests.commands.calling import run

NET = """
import torch
from torch import nn


def build():
    open("began", "w").close()
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    return model, lambda model, x: model(x).square().mean(), [torch.randn(16, 4)]
"""

RECORD, PAGE = "kept.json.gz", "page.html"
WRITES = [
    *[(command, "--save", RECORD) for command in ("check", "predict", "through-time", "fix")],
    ("check", "--save-trace", RECORD),
    ("check", "--report", PAGE),
    ("fix", "--output", PAGE),
    ("init", "--save", "weights.pt"),
]
PRECIOUS = {
    "text": b"precious\n",
    "gzip": gzip.compress(b"precious", mtime=0),  # as `gzip -n` writes it, with the header of our own
    "page": b"<!doctype html><title>My thesis</title>",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.mark.parametrize("what", PRECIOUS)
@pytest.mark.parametrize(("command", "option", "name"), WRITES)
def test_what_is_not_ours_is_kept_and_told_before_the_work(folder, command, option, name, what):
    (folder / name).write_bytes(PRECIOUS[what])
    result = run(command, "net.py:build", option, name)
    assert result.exit_code == 2
    assert f"{name} is there already, and is none of gradtrace's" in result.stderr
    assert (folder / name).read_bytes() == PRECIOUS[what]
    assert not (folder / "began").exists()


@pytest.mark.parametrize(("command", "option", "name"), WRITES)
def test_a_folder_that_is_not_there_is_told_before_the_work(folder, command, option, name):
    result = run(command, "net.py:build", option, f"nowhere/{name}")
    assert result.exit_code == 2
    assert f"cannot write nowhere/{name}: there is no such folder" in result.stderr
    assert not (folder / "began").exists()


def test_a_baseline_takes_the_place_of_a_baseline_alone(folder):
    baseline = folder / "known.json"
    asked = "check", "net.py:build", "--baseline", "known.json", "--write-baseline"
    baseline.write_text('{"mine": 1}')
    result = run(*asked)
    assert (result.exit_code, baseline.read_text()) == (2, '{"mine": 1}')
    baseline.unlink()
    assert [run(*asked).exit_code, run(*asked).exit_code] == [0, 0]


def test_weights_take_the_place_of_ours_alone_and_load(folder):
    weights, asked = folder / "w.pt", ("init", "net.py:build", "--save", "w.pt")
    torch.save({"my": torch.ones(2)}, weights)
    assert run(*asked).exit_code == 2
    assert torch.load(weights)["my"].sum() == 2.0
    weights.unlink()
    assert [run(*asked).exit_code, run(*asked, "--seed", "1").exit_code] == [0, 0]
    assert set(torch.load(weights, weights_only=True, mmap=True)) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert zipfile.is_zipfile(weights)


def test_what_is_ours_is_written_anew(folder):
    for _ in range(2):
        result = run("check", "net.py:build", "--save", RECORD, "--report", PAGE)
        assert result.exit_code == 0, result.stderr
    assert "Healthy" in run("show", RECORD).stdout


def test_a_training_is_not_begun_for_a_report_that_cannot_be_written(folder):
    (folder / "train.py").write_text("open('began', 'w').close()")
    (folder / PAGE).write_bytes(PRECIOUS["page"])
    result = run("run", "--report", PAGE, "train.py")
    assert result.exit_code == 2
    assert not (folder / "began").exists()
