from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save, save_file

from mlbench.errors import DataError, MlbenchError
from mlbench.evaluation import predictions as module
from mlbench.evaluation.predictions import Predictions, read_predictions, write_predictions

META = {"key": "ab" * 32, "dataset": "scenes", "split": "test", "epoch": "7"}


def make(n: int = 5, c: int = 3, **changes: object) -> Predictions:
    values: dict[str, object] = {
        "scores": np.random.default_rng(0).normal(size=(n, c)).astype(np.float32),
        "kind": "logit",
        "ids": tuple(f"image{i}" for i in range(n)),
        "groups": tuple(f"photo{i // 2}" for i in range(n)),
        "classes": tuple(f"class {i}" for i in range(c)),
        "meta": META,
    }
    return Predictions(**(values | changes))  # type: ignore[arg-type]


def raw_metadata(**changes: str | None) -> dict[str, str]:
    base = {"format": "1", "kind": "logit", "ids": '["a","b"]', "groups": '["a","b"]', "classes": '["x"]', **META}
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def same(a: Predictions, b: Predictions) -> bool:
    names = ("kind", "ids", "groups", "classes", "decision_rule", "meta")
    arrays = a.scores.tobytes() == b.scores.tobytes() and (a.decisions is None) == (b.decisions is None)
    if a.decisions is not None and b.decisions is not None:
        arrays = arrays and np.array_equal(a.decisions, b.decisions)
    return arrays and all(getattr(a, name) == getattr(b, name) for name in names)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    given = make(decisions=np.eye(5, 3, dtype=bool), decision_rule="score above the learned threshold")
    digest = write_predictions(tmp_path / "new" / "test.safetensors", given)
    assert same(read_predictions(tmp_path / "new" / "test.safetensors", digest), given)
    assert digest == hashlib.sha256((tmp_path / "new" / "test.safetensors").read_bytes()).hexdigest()
    assert os.listdir(tmp_path / "new") == ["test.safetensors"]


def test_the_file_is_plain_safetensors_for_any_reader(tmp_path: Path) -> None:
    given = make(decisions=np.eye(5, 3, dtype=bool), decision_rule="top 1")
    write_predictions(tmp_path / "p.safetensors", given)
    with safe_open(str(tmp_path / "p.safetensors"), "np") as file:
        metadata = file.metadata()
        assert np.array_equal(file.get_tensor("scores"), given.scores)
        assert file.get_tensor("decisions").dtype == np.uint8
    assert json.loads(metadata["ids"]) == list(given.ids)
    assert json.loads(metadata["classes"]) == list(given.classes)
    assert metadata["kind"] == "logit"
    assert metadata["split"] == "test"
    assert metadata["decision_rule"] == "top 1"


@pytest.mark.parametrize("kind", ["logit", "probability", "rank"])
def test_every_kind_survives(tmp_path: Path, kind: str) -> None:
    given = make(scores=np.full((5, 3), 0.25, np.float32), kind=kind)
    write_predictions(tmp_path / "p", given)
    assert read_predictions(tmp_path / "p").kind == kind


def test_the_same_content_gives_the_same_bytes_in_any_process_and_order_of_meta(tmp_path: Path) -> None:
    given = make(meta={**META, **{f"extra{i}": str(i) for i in range(9)}})
    turned = replace(given, meta=dict(reversed(given.meta.items())), scores=np.asfortranarray(given.scores))
    digests = {write_predictions(tmp_path / str(i), turned if i % 2 else given) for i in range(20)}
    script = (
        "import numpy as np, sys; from mlbench.evaluation.predictions import *\n"
        "m = dict(key='ab'*32, dataset='d', split='test', epoch='1', a='1', b='2', c='3')\n"
        "p = Predictions(np.ones((1, 1), np.float32), 'logit', ('i',), (), ('c',), meta=m)\n"
        "print(write_predictions(sys.argv[1], p))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "other")],
            env={**os.environ, "PYTHONHASHSEED": str(i)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for i in range(3)
    }
    assert len(digests) == 1
    assert len(outputs) == 1


@given(ids=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=8, unique=True))
@settings(max_examples=60, deadline=None)
def test_ids_of_any_unicode_survive(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    path = tmp_path_factory.mktemp("ids") / "p"
    write_predictions(path, make(len(ids), ids=ids, groups=(), classes=("é", "\U0001f600", 'a"\\\n')))
    back = read_predictions(path)
    assert back.ids == tuple(ids)
    assert back.groups == tuple(ids)
    assert back.classes == ("é", "\U0001f600", 'a"\\\n')


def test_ids_from_undecodable_file_names_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"photo\xff.jpg")
    write_predictions(tmp_path / "p", make(2, ids=(name, "b"), groups=()))
    assert read_predictions(tmp_path / "p").ids == (name, "b")
    with pytest.raises(DataError, match="surrogate pair"):
        make(2, ids=("\ud83d\ude00", "b"), groups=())


def test_scores_can_no_longer_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        make().scores[0, 0] = 1


NAN, INF = np.full((5, 3), np.nan, np.float32), np.full((5, 3), -np.inf, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": NAN}, "'image0', class 'class 0' is nan: expected a finite number .15 such"),
        ({"scores": INF}, "is -inf: expected a finite number"),
        ({"scores": np.zeros((5, 3))}, "expected a float32 array, found float64"),
        ({"scores": np.zeros((5, 3), ">f4")}, "expected a float32 array, found >f4"),
        ({"scores": [[0.0]]}, "expected a float32 array, found list"),
        ({"scores": np.zeros((3, 5), np.float32)}, r"shape \[3, 5\], expected \[5, 3\]"),
        ({"scores": np.zeros(15, np.float32)}, r"shape \[15\], expected \[5, 3\]"),
        ({"scores": np.full((5, 3), 1.5, np.float32), "kind": "probability"}, "is 1.5: expected a probability"),
        ({"scores": np.full((5, 3), -0.1, np.float32), "kind": "probability"}, "expected a probability from 0 to 1"),
        ({"kind": "logits"}, "kind 'logits': expected one of .* Did you mean 'logit'"),
        ({"ids": ("a", "b", "c", "a", "e")}, "id 'a' stands twice .again at 3"),
        ({"ids": ("a", "b", "c", "", "e")}, r"ids\[3\] = ''"),
        ({"ids": (1, 2, 3, 4, 5)}, r"ids\[0\] = 1"),
        ({"ids": "abcde"}, "ids: expected a list"),
        ({"groups": ("a", "b")}, "2 groups for 5 ids"),
        ({"classes": ("x", "y", "x")}, "class 'x' stands twice"),
        ({"classes": ()}, "5 ids and 0 classes: expected at least one"),
        ({"decisions": np.zeros((5, 3), bool)}, "belong together"),
        ({"decision_rule": "top 3"}, "belong together"),
        ({"decisions": np.zeros((5, 3)), "decision_rule": "r"}, "decisions: expected a bool array"),
        ({"decisions": np.zeros((5, 2), bool), "decision_rule": "r"}, "decisions: shape"),
        ({"decisions": np.zeros((5, 3), bool), "decision_rule": "\udc80"}, "decision_rule = .*not valid Unicode"),
        ({"meta": {**META, "kind": "rank"}}, "meta 'kind': this name is set by mlbench"),
        ({"meta": {**META, "epoch": 7}}, "meta 'epoch' = 7: expected a text"),
        ({"meta": {**META, "note": "\udc80"}}, "meta 'note' = .*not valid Unicode"),
    ],
)
def test_wrong_predictions_are_refused_with_the_reason(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(META))
def test_a_file_needs_to_say_where_it_comes_from(tmp_path: Path, name: str) -> None:
    lacking = {key: value for key, value in META.items() if key != name}
    with pytest.raises(DataError, match=f"'{name}' is missing"):
        write_predictions(tmp_path / "p", make(meta=lacking))
    assert not (tmp_path / "p").exists()
    save_file({"scores": np.zeros((2, 1), np.float32)}, tmp_path / "p", raw_metadata(**{name: None}))
    with pytest.raises(DataError, match=f"p: .*'{name}' is missing"):
        read_predictions(tmp_path / "p")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"scores": np.zeros((2, 1), np.float32)}, None, "metadata 'format' is missing"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"kind": None}, "metadata 'kind' is missing"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"ids": None, "idz": "[]"}, "'ids' is missing. Did you mean 'idz'"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"format": "2"}, "format '2', expected '1'"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"kind": "odds"}, "kind 'odds'"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"ids": '["a","a"]'}, "id 'a' stands twice"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"ids": '["a"'}, "metadata 'ids' is not JSON"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"ids": '{"a": 1}'}, "expected a JSON list, found a dict"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"ids": '["a", NaN]'}, r"ids\[1\] = nan"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"ids": '["a", 1]'}, r"ids\[1\] = 1"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"groups": "[]"}, "'groups' is empty"),
        ({"scores": np.zeros((3, 1), np.float32)}, {}, r"shape \[3, 1\], expected \[2, 1\]"),
        ({"scores": np.full((2, 1), np.nan, np.float32)}, {}, "'a', class 'x' is nan"),
        ({"scores": np.zeros((2, 1), np.float16)}, {}, "expected a float32 array, found float16"),
        ({"logits": np.zeros((2, 1), np.float32)}, {}, "tensors found: logits; expected 'scores'"),
        ({"scores": np.zeros((2, 1), np.float32), "x": np.zeros(1)}, {}, "tensors found: scores, x"),
        ({"scores": np.zeros((2, 1), np.float32)}, {"decision_rule": "r"}, "belong together"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_reason(
    tmp_path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str | None] | None, message: str
) -> None:
    path = tmp_path / "p.safetensors"
    save_file(tensors, path, None if metadata is None else raw_metadata(**metadata))
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("decisions", [np.full((2, 1), 2, np.uint8), np.zeros((2, 1), np.int64)])
def test_decisions_in_a_file_are_zeros_and_ones(tmp_path: Path, decisions: np.ndarray) -> None:
    tensors = {"scores": np.zeros((2, 1), np.float32), "decisions": decisions}
    save_file(tensors, tmp_path / "p", raw_metadata(decision_rule="r"))
    with pytest.raises(DataError, match="expected uint8 zeros and ones"):
        read_predictions(tmp_path / "p")


def test_one_changed_byte_of_a_score_is_found_by_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "p"
    digest = write_predictions(path, make())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{path}: its SHA-256 is .* expected {digest}"):
        read_predictions(path, digest)


def test_a_file_cut_anywhere_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "p"
    write_predictions(path, make())
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(DataError):
            read_predictions(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(DataError):
        read_predictions(path)


def test_damaged_bytes_never_raise_anything_but_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "p"
    write_predictions(path, make(decisions=np.eye(5, 3, dtype=bool), decision_rule="r"))
    data, draw = path.read_bytes(), random.Random(0)
    for _ in range(800):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 2))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_predictions(path)
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 8) + b"{}      ",
        save({"scores": np.zeros((2, 1), np.float32)})[:-1],
        struct.pack("<Q", 72)
        + b'{"scores":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}}'.ljust(72)
        + b"\0\0\0\0",
    ],
)
def test_other_files_are_not_predictions(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(DataError, match="p: "):
        read_predictions(tmp_path / "p")


def test_a_missing_file_and_a_folder_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: cannot read predictions: No such file"):
        read_predictions(tmp_path / "gone")
    with pytest.raises(DataError, match="cannot read predictions: Is a directory"):
        read_predictions(tmp_path)


def test_scores_are_read_where_they_lie_and_need_no_memory_of_their_own(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(4000, 1000)).astype(np.float32)
    given = make(4000, 1000, scores=scores, groups=(), decisions=scores > 0, decision_rule="above 0")
    tracemalloc.start()
    digest = write_predictions(tmp_path / "p", given)
    back = read_predictions(tmp_path / "p", digest)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same(back, given)
    assert taken < scores.nbytes / 4
    assert not back.scores.flags.writeable
    (tmp_path / "p").unlink()  # what was read stays, as after any rewriting of the file
    assert same(back, given)


def test_arrays_at_odd_places_of_a_file_are_read(tmp_path: Path) -> None:
    given = make()
    header, *arrays = module._encode(given, "p")
    text = header[8:].rstrip()
    text += b" " * ((2 - len(text)) % 4)
    odd = len(text).to_bytes(8, "little") + text + b"".join(each.tobytes() for each in arrays)
    (tmp_path / "p").write_bytes(odd)
    back = read_predictions(tmp_path / "p")
    assert same(back, given)
    assert back.scores.flags.aligned


def test_ids_too_long_for_the_format_are_refused_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_HEADER", 300)
    with pytest.raises(DataError, match="the file format has room for 300"):
        write_predictions(tmp_path / "p", make())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p"
    digest = write_predictions(path, make())

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MlbenchError, match=f"{tmp_path}: cannot write p: No space left on device"):
        write_predictions(path, make(scores=np.zeros((5, 3), np.float32)))
    assert os.listdir(tmp_path) == ["p"]
    read_predictions(path, digest)
