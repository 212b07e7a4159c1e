"""Keys, the schema, and records written, found, read and published."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from made_records import HEX, as_schema_1, make_record, put, with_files

from mlbench import store
from mlbench.canonical import canonical_json
from mlbench.errors import DataError, UsageError
from mlbench.store import find_records, publish_record, read_record, run_dir, run_key, verify_run, write_record

# canonical JSON and keys


def test_canonical_json_is_the_text_worked_by_hand() -> None:
    obj = {"b": [1, 1.0, 0.1, 1e-5, True, None], "a": {"é": "\u2028", "B": ()}}
    assert canonical_json(obj) == b'{"a":{"B":[],"\\u00e9":"\\u2028"},"b":[1,1.0,0.1,1e-05,true,null]}'


def test_a_key_never_changes_over_the_years() -> None:
    text = b'{"method":{"delta":0.5,"name":"llr"},"repetition":0}'
    identity = {"repetition": 0, "method": {"name": "llr", "delta": 0.5}}
    assert run_key(identity) == hashlib.sha256(text).hexdigest()
    assert run_key(identity) == "5d7ba3639838dd3673c92658c5708a5eef264d50ffb6a0e786c8ca4aed623fb6"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_canonical_json_keeps_every_plain_value_and_is_its_own_canon(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(table: dict[str, int]) -> None:
    assert run_key(table) == run_key(dict(reversed(table.items())))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1.0, float("nan")]}, "a.1: nan is not a finite number"),
        ({"a": {"b": float("-inf")}}, "a.b: -inf is not a finite number"),
        ({"a": {1: 2}}, "a: key 1 is not text"),
        ({"a": np.float32(1)}, "a: a numpy.float32 is not a JSON value"),
        ({"a": np.bool_(True)}, "a: a numpy.bool is not a JSON value"),
        ({"a": Path("x")}, r"a: a pathlib\.\S*PosixPath is not a JSON value"),
        ({1, 2}, "the whole: a builtins.set is not a JSON value"),
    ],
)
def test_what_json_cannot_hold_exactly_has_no_canonical_text(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        canonical_json(value)


@pytest.mark.parametrize("key", ["", "abc", HEX[:-1], HEX.upper(), HEX + "\n", "../" + HEX])
def test_a_run_folder_is_named_by_a_whole_key_only(tmp_path: Path, key: str) -> None:
    assert run_dir(tmp_path, HEX) == tmp_path / HEX[:16]
    with pytest.raises(UsageError, match="expected 64 hexadecimal digits"):
        run_dir(tmp_path, key)


# the schema


def test_the_schema_is_valid_and_refuses_unknown_keys_in_every_closed_part() -> None:
    path = Path(store.__file__).parents[1] / "schema" / "record.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(make_record())
    assert schema["additionalProperties"] is False
    of_schema_2, optional = {"protocol", "content_sha256"}, {"replications", "measures"}
    assert {*schema["required"], *of_schema_2} == set(schema["properties"]) - optional == set(make_record())


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("schema", 3, "record schema 3, expected 1 or 2: it was written by a newer mlbench"),
        ("schema", 0, "record schema 0, expected 1 or 2$"),
        ("schema", "1", "record schema '1', expected 1 or 2$"),
        ("schema", True, "record schema True, expected 1 or 2$"),
        ("resluts", {}, "the whole: unknown key 'resluts'. Did you mean 'results'"),
        ("key", "abc", "key: 'abc' does not match"),
        ("results", {"val": {}}, "results: key 'test' is missing"),
        ("results.test.mAP", "63", "results.test.mAP: '63' is not of type 'number', 'null'"),
        ("results.test.mAP", True, "results.test.mAP: True is not of type"),
        ("results.test.mAP", 100.1, "results.test.mAP: 100.1 is greater than the maximum"),
        ("results.test.mAP", -0.5, "results.test.mAP: -0.5 is less than the minimum"),
        ("results.test.mAP", float("nan"), "results.test.mAP: nan is not a finite number"),
        ("provenance.seconds", float("inf"), "provenance.seconds: inf is not a finite number"),
        ("results.test.mAP", np.float32(1), "results.test.mAP: a numpy.float32 is not a JSON value"),
        ("epochs.0.epoch", 0, "epochs.0.epoch: 0 is less than the minimum of 1"),
        ("epochs.0.los", 1.0, "epochs.0: unknown key 'los'. Did you mean 'loss'"),
        ("definitions.empty_class", "drop", "definitions.empty_class: 'drop' is not one of"),
        ("identity.dataset.fingerprint", "ab", "identity.dataset.fingerprint: 'ab' does not match"),
        ("identity.method.versoin", 1, "identity.method: unknown key 'versoin'. Did you mean 'version'"),
        ("identity.method.supervision", [], "identity.method.supervision: "),
        ("identity.backbone.weights", "imagenet", "identity.backbone.weights: 'imagenet' does not match"),
        ("identity.teacher", "/data/ann/t.pt", "identity.teacher: the absolute path '/data/ann/t.pt' does not belong"),
        ("identity.train.file", r"C:\x", r"identity.train.file: the absolute path"),
        ("provenance.cache", "/home/ann", "provenance.cache: the absolute path"),
        ("predictions", {"test": {"file": "../x", "sha256": HEX, "kind": "logit"}}, "predictions.test.file: '../x'"),
        ("predictions", {"test": {"file": "x", "sha256": HEX, "kind": "odds"}}, "predictions.test.kind: 'odds'"),
        ("provenance.started", "yesterday", "provenance.started: 'yesterday' does not match"),
        ("notes", "x" * 1000, r"notes: 'x+ \.\.\. x+' is not of type 'array'"),
    ],
)
def test_a_wrong_record_is_refused_on_writing_and_on_reading(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    record = put(make_record(), place, value)
    with pytest.raises(DataError, match=f"^record [0-9a-f]+: {message}") as caught:
        write_record(tmp_path, record)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    if isinstance(value, np.generic):
        return  # no file can hold it
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=f"^{path}: ") as caught:
        read_record(path)
    assert "\n" not in str(caught.value)


def test_a_misspelt_schema_key_names_the_right_one(tmp_path: Path) -> None:
    record = make_record()
    record["shema"] = record.pop("schema")
    with pytest.raises(DataError, match=r"unknown key 'shema'. Did you mean 'schema'"):
        write_record(tmp_path, record)
    del record["shema"]
    with pytest.raises(DataError, match="key 'schema' is missing"):
        write_record(tmp_path, record)


def test_identities_are_open_to_further_settings_and_other_runs(tmp_path: Path) -> None:
    record = make_record(uses={"trained": HEX}, resize="squash_bilinear", proposals={"count": 2000})
    assert read_record(write_record(tmp_path, record)) == record


# one record


def test_a_record_is_read_back_as_written(tmp_path: Path) -> None:
    record = with_files(tmp_path)
    path = write_record(tmp_path, record)
    assert path == tmp_path / record["key"][:16] / "record.json"
    assert read_record(path) == record
    assert list(read_record(path)) == list(record)  # people read it from the top
    assert verify_run(tmp_path, record["key"]) == record
    assert sorted(os.listdir(path.parent)) == [
        "record.json",
        "test.safetensors",
        "val.safetensors",
        "weights.safetensors",
    ]


def test_tuples_come_back_as_lists_under_the_same_key(tmp_path: Path) -> None:
    record = make_record(augment=("flip",))
    assert read_record(write_record(tmp_path, record))["identity"]["augment"] == ["flip"]
    write_record(tmp_path, record)


def test_the_same_record_twice_is_one_and_another_needs_replace(tmp_path: Path) -> None:
    record = make_record()
    path = write_record(tmp_path, record)
    first = path.read_bytes()
    write_record(tmp_path, dict(reversed(record.items())))
    assert path.read_bytes() == first
    other = put(put(record, "results.test.mAP", 1.5), "provenance.seconds", 9.0)
    with pytest.raises(DataError, match=r"record.json: another record .* \(differs in: provenance, results\)"):
        write_record(tmp_path, other)
    assert path.read_bytes() == first
    write_record(tmp_path, other, replace=True)
    assert read_record(path) == other
    assert os.listdir(path.parent) == ["record.json"]


def test_a_broken_record_is_not_overwritten_unasked(tmp_path: Path) -> None:
    record = make_record()
    path = write_record(tmp_path, record)
    path.write_text("{")
    with pytest.raises(DataError, match="broken record"):
        write_record(tmp_path, record)
    assert path.read_text() == "{"
    write_record(tmp_path, record, replace=True)
    assert read_record(path) == record


def test_a_run_is_complete_only_with_all_its_files(tmp_path: Path) -> None:
    record = with_files(tmp_path)
    folder = run_dir(tmp_path, record["key"])
    (folder / "val.safetensors").unlink()
    (folder / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(DataError, match=r"val.safetensors: No such file.*; weights.safetensors: its SHA-256 is"):
        write_record(tmp_path, record)
    assert find_records(tmp_path) == ([], [])


# tampering


def test_a_changed_identity_no_longer_fits_its_key(tmp_path: Path) -> None:
    path = write_record(tmp_path, make_record())
    path.write_text(path.read_text().replace('"delta": 0.5', '"delta": 0.6'))
    with pytest.raises(DataError, match=f"{path}: key [0-9a-f]+ is not that of the identity"):
        read_record(path)


def test_a_changed_score_byte_is_found(tmp_path: Path) -> None:
    record = with_files(tmp_path)
    folder = write_record(tmp_path, record).parent
    data = bytearray((folder / "test.safetensors").read_bytes())
    data[-3] ^= 0x10
    (folder / "test.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=r"test.safetensors: its SHA-256 is [0-9a-f]+, the record says"):
        verify_run(tmp_path, record["key"])


def test_a_record_moved_to_another_folder_is_found(tmp_path: Path) -> None:
    record, other = make_record(), make_record(repetition=1)
    folder = write_record(tmp_path, record).parent
    folder.rename(run_dir(tmp_path, other["key"]))
    with pytest.raises(DataError, match=f"is the record of run {record['key']}, expected {other['key']}"):
        verify_run(tmp_path, other["key"])
    records, problems = find_records(tmp_path)
    assert records == []
    assert "belongs under the name" in problems[0]


def test_a_record_cut_anywhere_is_a_data_error(tmp_path: Path) -> None:
    path = write_record(tmp_path, make_record())
    data = path.read_bytes()
    for size in [*range(0, len(data) - 1, 37), len(data) - 2]:
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match="broken record"):
            read_record(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "broken record: 'utf-8' codec"),
        (b"[]", "expected a record .a JSON object., found a list"),
        (b'{"schema": NaN}', "broken record: NaN is not a number"),
        (b'{"schema": 1e999}', "broken record: schema: inf is not a finite number"),
        (b'{"schema": 1, "key": "a", "key": "b"}', "broken record: key 'key' stands twice"),
        (b"[" * 100_000, "broken record: "),
        (b'{"schema": ' + b"9" * 5000 + b"}", "broken record: "),
        (b'{"schema": 3}', "record schema 3, expected 1 or 2: it was written by a newer mlbench"),
    ],
)
def test_files_that_are_no_records_say_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DataError, match=f"^{tmp_path}/record.json: {message}") as caught:
        read_record(tmp_path / "record.json")
    assert "\n" not in str(caught.value)


# many records


@pytest.mark.parametrize("levels", [70, 400, 100_000])
def test_a_record_nested_without_bound_is_one_line(tmp_path: Path, levels: int) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"results": ' + b"[" * levels + b"]" * levels + b"}")
    with pytest.raises(DataError, match=r"x\.json: broken record: .*(nested deeper than 64 levels|recursion)") as found:
        read_record(path)
    assert len(str(found.value)) < 300


def test_a_file_larger_than_any_record_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with open(path, "wb") as file:
        file.truncate(5_000_000_000)
    with pytest.raises(DataError, match=r"x\.json: 5,000,000,000 bytes; a record has at most"):
        read_record(path)


def test_records_are_found_by_what_decided_them(tmp_path: Path) -> None:
    method = make_record()["identity"]["method"]
    for name in ("an", "llr"):
        for repetition in (0, 1):
            write_record(tmp_path, make_record(method={**method, "name": name}, repetition=repetition))

    def found(**filters: object) -> list[tuple[str, int]]:
        records, problems = find_records(tmp_path, **filters)
        assert problems == []
        return sorted((r["identity"]["method"]["name"], r["identity"]["repetition"]) for r in records)

    assert len(found()) == 4
    assert found(method="an") == [("an", 0), ("an", 1)]
    assert found(method=["an", "llr"], repetition=1) == [("an", 1), ("llr", 1)]
    assert found(method="an", repetition="1") == [("an", 1)]
    assert found(method="an", dataset="scenes", protocol="single_positive", track="full", backbone="scenes")
    assert found(dataset="corel5k") == []
    assert found(method=None, repetition=0) == [("an", 0), ("llr", 0)]
    key = make_record(method={**method, "name": "an"}, repetition=1)["key"]
    assert found(key=key[:12]) == found(key=key) == [("an", 1)]
    with pytest.raises(UsageError, match=r"unknown filter 'metod'. Did you mean 'method'"):
        find_records(tmp_path, metod="an")


def test_foreign_and_broken_entries_do_not_hide_the_rest(tmp_path: Path) -> None:
    good = make_record()
    write_record(tmp_path, good)
    broken = write_record(tmp_path, make_record(repetition=1))
    broken.write_text(broken.read_text()[:500])
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / "0123456789abcdef").mkdir()  # a run that is not done
    (tmp_path / "0123456789abcdef" / "test.safetensors").write_bytes(b"")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "record.json").symlink_to(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "record.json").mkdir()
    (tmp_path / "other.json").write_text("[1]")
    records, problems = find_records(tmp_path)
    assert records == [good]
    assert len(problems) == 4
    for name in (broken.parent.name, "link", "folder", "other.json"):
        assert sum(line.startswith(f"{tmp_path / name}") for line in problems) == 1
    assert not any("\n" in line for line in problems)


def test_an_unreadable_record_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, make_record())

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    records, problems = find_records(tmp_path)
    assert records == []
    assert problems[0].endswith("record.json: cannot read the record: Permission denied")


def test_a_store_that_is_not_there_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    assert find_records(tmp_path) == ([], [])
    with pytest.raises(DataError, match="gone: cannot list runs: No such file"):
        find_records(tmp_path / "gone")


# publishing


def test_a_published_record_is_a_small_copy_under_a_telling_name(tmp_path: Path) -> None:
    record = with_files(tmp_path / "runs")
    write_record(tmp_path / "runs", record)
    path = publish_record(tmp_path / "runs", record["key"], tmp_path / "results")
    name = f"llr__scenes__single_positive__{record['key'][:12]}.json"
    assert path == tmp_path / "results" / "runs" / name
    assert read_record(path) == record
    assert path.read_bytes() == (run_dir(tmp_path / "runs", record["key"]) / "record.json").read_bytes()
    assert os.listdir(path.parent) == [name]
    assert find_records(path.parent, method="llr") == ([record], [])
    publish_record(tmp_path / "runs", record["key"], tmp_path / "results")
    path.rename(path.with_name(name.replace("llr", "an")))
    assert f"belongs under the name '{name}'" in find_records(path.parent)[1][0]


def test_only_a_run_that_verifies_is_published_and_nothing_is_lost(tmp_path: Path) -> None:
    record = with_files(tmp_path)
    with pytest.raises(DataError, match="cannot read the record"):
        publish_record(tmp_path, record["key"], tmp_path / "results")
    folder = write_record(tmp_path, record).parent
    path = publish_record(tmp_path, record["key"], tmp_path / "results")
    other = put(record, "results.test.mAP", 2.0)
    write_record(tmp_path, other, replace=True)
    with pytest.raises(DataError, match=r"another record of this run is already there .differs in: results"):
        publish_record(tmp_path, record["key"], tmp_path / "results")
    publish_record(tmp_path, record["key"], tmp_path / "results", replace=True)
    assert read_record(path) == other
    (folder / "test.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"test.safetensors: its SHA-256"):
        publish_record(tmp_path, record["key"], tmp_path / "results2")
    assert not (tmp_path / "results2").exists()


def test_names_of_plugins_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    record = make_record(protocol="../../my protocol")
    write_record(tmp_path, record)
    path = publish_record(tmp_path, record["key"], tmp_path / "results")
    assert path.parent == tmp_path / "results" / "runs"
    assert path.name.startswith("llr__scenes__..-..-my-protocol__")


def test_the_store_needs_neither_torch_nor_a_schema_to_be_imported() -> None:
    heavy = "{'torch', 'jsonschema', 'safetensors'}"
    code = f"import sys, mlbench.store, mlbench.evaluation.predictions; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# the hash of a record's content, and records of schema 1


@pytest.mark.parametrize(
    ("old", "new"),
    [('"mAP": 63.91', '"mAP": 93.91'), ("one photograph", "no photograph"), ('"epoch": 7', '"epoch": 8')],
)
def test_a_digit_or_a_word_changed_in_a_finished_record_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = write_record(tmp_path, make_record())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=r"record\.json: changed after it was written: the SHA-256 of its content"):
        read_record(path)
    records, problems = find_records(tmp_path)
    assert not records
    assert "changed after it was written" in problems[0]


def test_the_hash_of_the_content_is_worked_by_hand() -> None:
    record = make_record()
    said = record.pop("content_sha256")
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode("ascii")).hexdigest() == said


def test_a_record_of_schema_1_is_read_still(tmp_path: Path) -> None:
    record = as_schema_1(make_record())
    path = write_record(tmp_path, record)
    assert read_record(path) == record


@pytest.mark.parametrize("missing", ["protocol", "content_sha256"])
def test_a_record_of_schema_2_holds_its_protocol_and_its_hash(missing: str, tmp_path: Path) -> None:
    record = make_record()
    del record[missing]
    with pytest.raises(DataError, match=f"key '{missing}' is missing"):
        write_record(tmp_path, record)
