"""Only what is new fails: the baseline written, read, kept up to date, and refused."""

from __future__ import annotations

import json
import os

import pytest
from tests.commands.calling import run

from gradtrace.commands.baseline import Baseline
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def finding(where=("a",), severity=Severity.WARNING, cause=Cause.SMALL_WEIGHTS, message="It is small."):
    return Finding(Symptom.VANISHING, cause, where, severity, message)


@pytest.fixture
def listed(net, verdict):
    verdict["diagnosis"] = Diagnosis((finding(("a", "b")),))
    result = run("check", "net.py:build", "--baseline", "base.json", "--write-baseline")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, "Listed in base.json: 1 finding")
    return verdict


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (finding(("a", "b")), 0),
        (finding(("b", "c"), message="It is smaller."), 0),
        (finding(severity=Severity.INFO), 0),
        (finding(severity=Severity.CRITICAL), 1),
        (finding(("c",)), 1),
        (finding(()), 1),
        (finding(cause=Cause.POST_NORM), 1),
    ],
)
def test_what_is_listed_does_not_count_and_what_is_new_or_worse_does(listed, now, code):
    listed["diagnosis"] = Diagnosis((now,))
    assert run("check", "net.py:build", "--baseline", "base.json").exit_code == code


def test_it_is_another_targets_matter(listed):
    assert run("check", "net.py:with_optimizer", "--baseline", "base.json").exit_code == 1


def test_the_last_line_says_how_much_is_new_and_what_is_gone(listed):
    listed["diagnosis"] = Diagnosis((finding(("a",)), finding(("c",))))
    told = run("check", "net.py:build", "--baseline", "base.json").stdout
    assert told.splitlines()[-1] == "New: 1 finding; 1 more listed in base.json."
    listed["diagnosis"] = Diagnosis(())
    told = run("check", "net.py:build", "--baseline", "base.json").stdout
    assert told.splitlines()[-1].endswith("Gone: 1 finding that it lists (--write-baseline takes them out).")
    told = run("check", "net.py:with_optimizer", "--baseline", "base.json").stdout
    assert "Gone" not in told


def test_it_holds_wherever_it_is_asked_from(listed, net, monkeypatch):
    (net.parent / "below").mkdir()
    monkeypatch.chdir(net.parent / "below")
    assert run("check", "../net.py:build", "--baseline", "../base.json").exit_code == 0


def test_without_findings_it_is_empty_and_in_order(net, verdict):
    verdict["diagnosis"] = Diagnosis(())
    run("check", "net.py:build", "--baseline", "base.json", "--write-baseline")
    assert json.loads((net.parent / "base.json").read_text()) == {"gradtrace_baseline": 1, "findings": []}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no baseline"),
        ("", "is no baseline of gradtrace's"),
        ("[]", "is no baseline of gradtrace's"),
        ('{"gradtrace_baseline": 2, "findings": []}', "has format 2"),
        ('{"gradtrace_baseline": 1, "findings": [{"target": "a"}]}', "is no baseline of gradtrace's"),
        ('{"gradtrace_baseline": 1, "findings": [{"target": "a", "code": "b", "severity": "bad", "where": []}]}',
         "is no baseline of gradtrace's"),
    ],
)  # fmt: skip
def test_what_is_no_baseline_is_said_with_the_command_that_writes_one(net, verdict, content, sentence):
    if content is not None:
        (net.parent / "base.json").write_text(content)
    result = run("check", "net.py:build", "--baseline", "base.json")
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "gradtrace check --baseline base.json --write-baseline" in result.stderr


def test_writing_needs_to_know_where(net, verdict):
    result = run("check", "net.py:build", "--write-baseline")
    assert (result.exit_code, "--baseline FILE" in result.stderr) == (2, True)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_sentence(net, verdict):
    net.parent.chmod(0o500)
    result = run("check", "net.py:build", "--baseline", "base.json", "--write-baseline")
    assert (result.exit_code, "cannot write the baseline" in result.stderr) == (2, True)


def test_a_finding_of_the_whole_model_is_known_by_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "base.json"
    entry = {"target": "n.py:f", "code": "GT103", "severity": "warning", "where": []}
    path.write_text(json.dumps({"gradtrace_baseline": 1, "findings": [entry]}))
    whole, part = finding(()), finding(("a",))
    assert Baseline(path).known("n.py:f", Diagnosis((whole, part))) == (whole,)
