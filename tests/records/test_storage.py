from __future__ import annotations

import contextlib
import gzip
import json
import math
from dataclasses import is_dataclass, replace
from types import NoneType
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradtrace.errors import TraceFileError
from gradtrace.records.codec import decode, encode, hints_of
from gradtrace.records.finding import Diagnosis, Evidence, Finding, Remedy
from gradtrace.records.storage import load, save, to_json
from gradtrace.records.trace import Op, ParameterStats, Site, TensorStats, Trace
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom


def small_trace(num_ops: int = 3) -> Trace:
    ops = tuple(
        Op(
            index=i,
            name="AddmmBackward0",
            factor=Factor.WEIGHT,
            site=Site(f"layers.{i}", "Linear", source="net.py:3"),
            received=TensorStats((4, 8), "float32", "cpu", 0.5**i, 0.1, 0.0, log2_counts=((-3, 12), (-2, 20))),
            passed=(TensorStats((4, 8), "float32", "cpu", 0.5 ** (i + 1), math.inf, 0.0), None),
            targets=((i + 1, 0) if i + 1 < num_ops else None, None),
            shares=(1.0, None),
            weights=(f"layers.{i}.weight",),
        )
        for i in range(num_ops)
    )
    return Trace(ops, (ParameterStats("w", (4,), "float32", "cpu", 1.0, None),), loss=math.inf, batch_size=4)


def written(tmp_path, document: Any):
    path = tmp_path / "written.json.gz"
    path.write_bytes(gzip.compress(document if isinstance(document, bytes) else json.dumps(document).encode()))
    return path


def document_of(tmp_path) -> dict[str, Any]:
    save(small_trace(), tmp_path / "good.json.gz")
    return json.loads(gzip.decompress((tmp_path / "good.json.gz").read_bytes()))


# ------------------------------------------------------------------------------------------------------- round trip

LEAVES = {
    float: st.floats(allow_nan=False),  # NaN differs from itself: see the test of its own
    int: st.integers(-(2**63), 2**63),
    str: st.text(max_size=5),
    bool: st.booleans(),
}


def any_of(hint: Any):
    """Any value of a type hint, small."""
    arguments = get_args(hint)
    if get_origin(hint) is tuple and arguments[-1] is Ellipsis:
        return st.lists(any_of(arguments[0]), max_size=2).map(tuple)
    if get_origin(hint) is tuple:
        return st.tuples(*map(any_of, arguments))
    if arguments:
        return st.one_of(st.none(), *(any_of(argument) for argument in arguments if argument is not NoneType))
    if is_dataclass(hint):
        build: Any = hint
        return st.builds(build, **{name: any_of(inner) for name, inner in hints_of(build).items()})
    return LEAVES[hint] if hint in LEAVES else st.sampled_from(list(hint))


@given(record=any_of(Trace))
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_any_trace_comes_back_equal(record):
    """By the codec alone: what is drawn at random does not hold together, and `load` refuses it."""
    assert decode(Trace, json.loads(json.dumps(encode(record), allow_nan=False))) == record


@given(
    record=st.builds(
        Diagnosis, findings=st.lists(any_of(Finding), max_size=3).map(tuple), traces=st.just((small_trace(),) * 2)
    )
)
@settings(max_examples=30)
def test_a_diagnosis_comes_back_equal(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("storage") / "diagnosis.json.gz"
    save(record, path)
    assert load(path) == record


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 1e308, 5e-324, 0.1])
def test_every_float_survives(tmp_path, value):
    save(Trace((), (), loss=value), tmp_path / "trace.json.gz")
    found = load(tmp_path / "trace.json.gz")
    assert isinstance(found, Trace)
    assert repr(found.loss) == repr(value)


def test_a_site_met_twice_is_stored_once(tmp_path):
    trace = small_trace()
    again = tuple(replace(op, index=op.index + 3, targets=(None, None)) for op in trace.ops)
    twice = Trace(trace.ops + again, trace.parameters, trace.loss)
    save(twice, tmp_path / "trace.json.gz")
    tables = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["tables"]
    assert tables["Site"]["call"] == [0, 0, 0]
    assert load(tmp_path / "trace.json.gz") == twice


def test_saving_is_atomic_and_deterministic(tmp_path):
    for _ in range(2):
        small_trace().save(tmp_path / "a.json.gz")
    small_trace().save(tmp_path / "b.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json.gz", "b.json.gz"]


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TraceFileError, match=r"cannot write .*there is no such folder"):
        small_trace().save(tmp_path / "nowhere" / "a.json.gz")
    with pytest.raises(TraceFileError, match="cannot write"):
        small_trace().save(tmp_path)
    with pytest.raises(TypeError, match="only a Trace or Diagnosis or Prediction or ThroughTime"):
        save("text", tmp_path / "a.json.gz")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------- bad files


def test_corruption_at_every_byte_is_a_clear_error_or_harmless(tmp_path):
    good = tmp_path / "good.json.gz"
    save(small_trace(1), good)
    packed, expected, bad = good.read_bytes(), load(good), tmp_path / "bad.json.gz"
    for offset in range(len(packed)):
        for change in (0x01, 0xFF):
            bad.write_bytes(packed[:offset] + bytes([packed[offset] ^ change]) + packed[offset + 1 :])
            with contextlib.suppress(TraceFileError):
                assert load(bad) == expected  # a byte of gzip's header that means nothing


def test_a_file_cut_off_anywhere_is_a_clear_error(tmp_path):
    good, bad = tmp_path / "good.json.gz", tmp_path / "bad.json.gz"
    save(small_trace(1), good)
    packed = good.read_bytes()
    for length in range(len(packed)):
        bad.write_bytes(packed[:length])
        with pytest.raises(TraceFileError, match=r"cut off|empty|damaged|not a gradtrace file"):
            load(bad)


def test_corrupt_text_at_every_byte_is_a_clear_error_or_a_trace(tmp_path):
    save(small_trace(1), tmp_path / "good.json.gz")
    text = gzip.decompress((tmp_path / "good.json.gz").read_bytes())
    for offset in range(len(text)):
        for byte in b'9"]':
            with contextlib.suppress(TraceFileError):
                load(written(tmp_path, text[:offset] + bytes([byte]) + text[offset + 1 :]))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"\xff\xfe", "does not hold a record"),
        (b"[" * 100_000, "does not hold a record"),
        (b'{"format": NaN}', "does not hold a record"),
        (b'{"format": "gradtrace", "version": NaN}', "does not hold JSON"),
        (b'{"format": "gradtrace", "tables": ' + b"[" * 100_000, "does not hold JSON"),
        ([1, 2], "does not hold a record"),
        ({"format": "other"}, "does not hold a record"),
        ({"format": "gradtrace"}, "no version"),
        ({"format": "gradtrace", "version": True}, "no version"),
        ({"format": "gradtrace", "version": 2, "kind": "trace"}, "newer gradtrace .*upgrade"),
        ({"format": "gradtrace", "version": 1, "kind": "weights"}, "'weights', where 'trace' or 'diagnosis' or"),
        ({"format": "gradtrace", "version": 1, "kind": ["trace"]}, "where 'trace' or 'diagnosis' or"),
        ({"format": "gradtrace", "version": 1, "kind": "trace"}, "tables are missing"),
        ({"format": "gradtrace", "version": 1, "kind": "trace", "tables": {}}, "0 records of Trace"),
        ({"format": "gradtrace", "version": 1, "kind": "trace", "tables": {"Trace": 1}}, "is no table"),
        (
            {"format": "gradtrace", "version": 1, "kind": "trace", "tables": {"Trace": {"loss": [1]}}},
            "'Trace.ops' is m",
        ),
    ],
)
def test_what_is_not_ours_is_one_clear_sentence(tmp_path, document, message):
    with pytest.raises(TraceFileError, match=message):
        load(written(tmp_path, document))


@pytest.mark.parametrize(
    ("table", "field", "column", "message"),
    [
        ("Op", "index", ["0", 1, 2], "holds str where int"),
        ("Op", "site", [0, 1, 99], "outside its table"),
        ("Op", "site", [0, 1, -1], "outside its table"),
        ("Op", "name", ["a"], "differ in length"),
        ("Op", "name", "abc", "is no list"),
        ("Op", "factor", ["weight", "weight", "magic"], "not what was expected"),
        ("Op", "weights", [[1, 1, 10**9], ["a", "b", "c"]], "do not add up"),
        ("Op", "weights", [[1, 3, -1], ["a", "b", "c"]], "do not add up"),
        ("Op", "weights", [[1]], "no lengths"),
        ("Op", "received", [[True], [0, 1]], "has 2 values where 1 are given"),
        ("Op", "received", [0, 1, 2], "does not say what is given"),
        ("TensorStats", "norm", ["tiny"] * 6, "not what was expected"),
        ("Trace", "environment", [[0], [[], [], []]], "3 parts instead of 2"),
    ],
)
def test_a_wrong_column_is_named(tmp_path, table, field, column, message):
    document = document_of(tmp_path)
    document["tables"][table][field] = column
    with pytest.raises(TraceFileError, match=message):
        load(written(tmp_path, document))


def test_a_field_with_a_default_may_be_missing_and_an_unknown_one_is_ignored(tmp_path):
    document = document_of(tmp_path)
    del document["tables"]["Op"]["opaque"], document["tables"]["Trace"]["coverage"], document["tables"]["Coverage"]
    document["tables"]["Op"]["invented"] = [1]
    assert load(written(tmp_path, document)) == small_trace()


def test_not_gzipped_missing_and_folder(tmp_path):
    (tmp_path / "plain.json").write_text("{}")
    for path, message in (
        (tmp_path / "plain.json", "not gzipped"),
        (tmp_path / "no", "there is no such file"),
        (tmp_path, "it is a folder"),
    ):
        with pytest.raises(TraceFileError, match=message):
            load(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    start = b'{"format":"gradtrace","version":1,"kind":"trace","tables":'
    with pytest.raises(TraceFileError, match="does not hold a record"):
        load(written(tmp_path, b" " * (1 << 27)))
    with pytest.raises(TraceFileError, match="unpacks to more than 16 MiB"):
        load(written(tmp_path, start + b" " * (1 << 25)))


# ---------------------------------------------------------------------------------------------------------- verdict


def test_the_verdict_is_strict_json():
    finding = Finding(
        Symptom.VANISHING,
        Cause.ACTIVATION_DERIVATIVE,
        ("layers.0",),
        Severity.CRITICAL,
        "lost",
        (Evidence("gain", -math.inf, "decades"),),
        (Remedy("Use ReLU.", "nn.ReLU()"),),
    )
    diagnosis = Diagnosis((finding,), (small_trace(),), losses=(2.0, math.nan), refusals=("not seen",))
    verdict = json.loads(to_json(diagnosis), parse_constant=pytest.fail)
    assert not verdict["healthy"]
    assert verdict["findings"][0]["cause"] == "activation_derivative"
    assert verdict["findings"][0]["evidence"] == [{"name": "gain", "value": "-inf", "unit": "decades"}]
    assert verdict["losses"] == [2.0, "nan"]
    assert verdict["traces"][0]["num_ops"] == 3
    assert "ops" not in verdict["traces"][0]
