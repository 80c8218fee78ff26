"""What a project says of itself: found, refused in one sentence, and overruled by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.commands.calling import run

from gradtrace.diagnosis.moved import weighed
from gradtrace.errors import InputError
from gradtrace.project import Settings, find_settings
from gradtrace.records.finding import Diagnosis, Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

WARNING = Diagnosis((Finding(Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("a",), Severity.WARNING, "It is small."),))


@pytest.fixture
def project(net):
    def write(text, file="pyproject.toml"):
        (net.parent / file).write_text(text)

    return write


def test_nothing_said_is_nothing_set(tmp_path):
    assert find_settings(tmp_path) == Settings()


def test_the_nearest_file_counts_and_one_of_our_own_before_the_projects(tmp_path):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.gradtrace]\nseed = 1\n")
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\nseed = 2\n")
    assert find_settings(below).seed == 1
    (tmp_path / "gradtrace.toml").write_text("seed = 3\n")
    assert find_settings(below).seed == 3


def test_paths_are_relative_to_the_file_that_names_them(project, verdict, net, monkeypatch):
    (net.parent / "below").mkdir()
    project('targets = ["net.py:build"]\nbaseline = "b.json"\n', "gradtrace.toml")
    monkeypatch.chdir(net.parent / "below")
    assert find_settings().baseline == net.parent / "b.json"
    verdict["diagnosis"] = WARNING
    assert "gradtrace fix ../net.py:build" in run("check", "--write-baseline").stdout


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('target = "net.py:build"', "there is no setting 'target'; there are targets, fail-on"),
        ('targets = "net.py:build"', "targets cannot be 'net.py:build'; it is a list of targets"),
        ("targets = [1]", "it is a list of targets"),
        ('fail-on = "error"', "it is one of info, warning, critical"),
        ("steps = -1", "it is a number of optimizer steps"),
        ("steps = true", "it is a number of optimizer steps"),
        ("baseline = 3", "it is a file's path"),
        ("seed = ", "cannot read"),
        ("thresholds = 3", "it is a table, as vanishing-decades = {value = 3.5"),
        ("thresholds.dead-fraction = 0.9", "threshold dead-fraction cannot be 0.9; it is a table of a value"),
        ("thresholds.dead-fraction = {value = 0.9}", "dead-fraction is moved without a reason"),
        ("thresholds.dead-fraction = {value = 0.9, why = 'x'}", "it is a table"),
        ("thresholds.dead-fraction = {value = '0.9', reason = 'x'}", "it is a table"),
        ("thresholds.deadness = {value = 0.9, reason = 'x'}", "there is no threshold 'deadness' that may be moved"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_the_file(project, verdict, line, sentence):
    project(f"[tool.gradtrace]\n{line}\n")
    with pytest.raises(InputError, match=r"pyproject\.toml"):
        find_settings()
    result = run("check", "net.py:build")
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_tables_that_are_none_are_no_fault_of_ours(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool]\ngradtrace = 3\n")
    with pytest.raises(InputError, match=r"gradtrace cannot be 3; it is a table, as \[tool\.gradtrace\]"):
        find_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_text("tool = 3\n")
    assert find_settings(tmp_path) == Settings()


def test_check_without_a_target_checks_those_of_the_project(project, verdict):
    project('[tool.gradtrace]\ntargets = ["net.py:again", "net.py:with_optimizer"]\nsteps = 3\nfail-on = "critical"\n')
    verdict["diagnosis"] = WARNING
    result = run("check")
    assert result.exit_code == 0, result.output
    assert [options["steps"] for *_, options in verdict["calls"]] == [3, 3]
    assert [line for line in result.stdout.splitlines() if line.startswith("Prove it")] == [
        "Prove it: gradtrace fix net.py:again", "Prove it: gradtrace fix net.py:with_optimizer"
    ]  # fmt: skip
    assert run("check", "--fail-on", "warning", "--steps", "0").exit_code == 1
    assert verdict["calls"][-1][-1]["steps"] == 0
    assert len(verdict["calls"]) == 4


def test_a_threshold_that_the_project_moved_counts_and_is_told(project, verdict):
    dead = Evidence("dead units", 0.8, "fraction")
    found = Finding(
        Symptom.DEAD_UNITS, Cause.SATURATED_PREACTIVATION, ("a",), Severity.WARNING, "Dead.", (dead,)
    )  # fmt: skip
    project("[tool.gradtrace.thresholds]\ndead-fraction = { value = 0.9, reason = 'a wide first layer' }\n")
    verdict["diagnosis"] = WARNING
    run("check", "net.py:build")
    moved = verdict["calls"][-1][-1]["thresholds"]
    verdict["diagnosis"] = weighed(Diagnosis((found,)), moved)
    result = run("check", "net.py:build")
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    assert "Thresholds moved dead-fraction is 0.9 of the units here, and 0.75 elsewhere: a wide first layer" in told
    (told,) = json.loads(run("check", "net.py:build", "--format", "sarif").stdout)["runs"][0]["results"]
    assert told["level"] == "note"


def test_a_module_is_found_from_the_projects_folder(project, net, verdict, monkeypatch):
    project('[tool.gradtrace]\ntargets = ["net:build"]\n')
    (net.parent / "below").mkdir()
    monkeypatch.chdir(net.parent / "below")
    assert run("check").exit_code == 0


def test_a_target_on_the_command_line_is_the_only_one(project, verdict):
    project('[tool.gradtrace]\ntargets = ["net.py:with_optimizer"]\n')
    run("check", "net.py:build")
    assert [options["optimizer"] for *_, options in verdict["calls"]] == [None]


def test_the_projects_baseline_is_written_and_read(project, net, verdict):
    project('[tool.gradtrace]\ntargets = ["net.py:build"]\nbaseline = "base.json"\n')
    verdict["diagnosis"] = WARNING
    assert run("check").exit_code == 2
    assert run("check", "--write-baseline").exit_code == 0
    result = run("check")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "New: 0 findings; 1 more listed in base.json.")
    assert json.loads((net.parent / "base.json").read_text())["findings"][0]["target"] == "net.py:build"


def test_without_any_target_it_is_wrong_usage(net, verdict):
    result = run("check")
    assert result.exit_code == 2
    assert "Missing argument 'TARGET'" in result.stderr
    assert "[tool.gradtrace]" in result.stderr


@pytest.mark.parametrize("option", ["--save", "--save-trace", "--report"])
def test_one_file_holds_one_target(project, verdict, option):
    result = run("check", "net.py:build", "net.py:with_optimizer", option, "file")
    assert (result.exit_code, f"{option} takes one target, and there are 2" in result.stderr) == (2, True)


def test_every_format_takes_several_targets(net, verdict):
    verdict["diagnosis"] = WARNING
    targets = "net.py:build", "net.py:with_optimizer"

    def told(form):
        result = run("check", *targets, "--format", form)
        assert result.exit_code == 1
        return result.stdout

    assert [one["title"] for one in json.loads(told("json"))] == list(targets)
    assert len(told("github").splitlines()) == 2
    (ran,) = json.loads(told("sarif"))["runs"]
    assert [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in ran["results"]] == [
        "net.py"
    ] * 2
    assert len(ElementTree.fromstring(told("junit").encode()).findall("testsuite")) == 2


def test_the_repository_is_where_version_control_begins(net, verdict, monkeypatch):
    (net.parent / ".git").mkdir()
    (net.parent / "below").mkdir()
    monkeypatch.chdir(net.parent / "below")
    verdict["diagnosis"] = WARNING
    (ran,) = json.loads(run("check", "../net.py:build", "--format", "sarif").stdout)["runs"]
    assert ran["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "net.py"
    assert Path.cwd().name == "below"
