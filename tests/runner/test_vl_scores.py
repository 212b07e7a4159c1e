"""Scores of a vision-language model from a file: what is refused, what a run writes down, and who may read them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mlbench.conformance.testing import tiny_dataset, tiny_vl_scores
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.evaluation.consistency import contradictions
from mlbench.methods import Method
from mlbench.runner.feed import Feed
from mlbench.runner.plan import resolve
from mlbench.runner.trained import reload_run
from mlbench.runner.vl_scores import kept_vl_scores, read_vl_scores, write_vl_scores

DATA = tiny_dataset()
IDS = [sample for split in DATA.splits.values() for sample in split.ids]
ABOUT = {"model": "none: noise", "prompt": "none", "crop": "whole", "values": "cosine"}
SCORES = np.random.default_rng(0).uniform(-1, 1, (len(IDS), len(DATA.classes))).astype(np.float32)


def write(path: Any, scores: np.ndarray = SCORES, ids: Any = IDS, classes: Any = DATA.classes, **about: Any) -> Any:
    """A safetensors file; an entry of `about` that is None is left out."""
    said = {name: value for name, value in {**ABOUT, **about}.items() if value is not None}
    save_file({"scores": scores}, path, {**said, "ids": json.dumps(list(ids)), "classes": json.dumps(list(classes))})
    return path


def test_rows_and_columns_come_in_the_order_of_the_data_set_whatever_the_file_s(tmp_path: Any) -> None:
    rows, columns = np.random.default_rng(1).permutation(len(IDS)), [2, 0, 3, 1]
    mixed = write(
        tmp_path / "mixed.safetensors",
        np.ascontiguousarray(SCORES[rows][:, columns]),
        [IDS[row] for row in rows],
        [DATA.classes[c] for c in columns],
    )
    found, plain = read_vl_scores(mixed, DATA), read_vl_scores(write(tmp_path / "plain.safetensors"), DATA)
    start = 0
    for name, split in DATA.splits.items():
        np.testing.assert_array_equal(found.of(name), SCORES[start : start + len(split)])
        start += len(split)
    assert found.identity == plain.identity  # what they say is one thing; the files are two
    assert found.file_sha256 != plain.file_sha256


def test_csv_with_its_description_beside_it_says_the_same(tmp_path: Any) -> None:
    lines = [",".join(["id", *DATA.classes])]
    lines += [",".join([sample, *(repr(float(v)) for v in row)]) for sample, row in zip(IDS, SCORES, strict=True)]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"scores.csv: needs scores.toml beside it"):
        read_vl_scores(path, DATA)
    beside = path.with_suffix(".toml")
    beside.write_text("".join(f'{name} = "{value}"\n' for name, value in ABOUT.items()))
    plain = read_vl_scores(write(tmp_path / "plain.safetensors"), DATA)
    assert read_vl_scores(path, DATA).identity == plain.identity
    beside.write_text(beside.read_text().replace("prompt", "promt"))
    with pytest.raises(DataError, match=r"scores.toml: unknown key 'promt'. Did you mean 'prompt'"):
        read_vl_scores(path, DATA)


def changed(row: int, column: int, value: float) -> np.ndarray:
    scores = SCORES.copy()
    scores[row, column] = value
    return scores


BAD = {
    "no model": ({"model": None}, r"metadata: 'model' is missing.*Needed: model, prompt, crop, values"),
    "empty prompt": ({"prompt": "  "}, r"metadata: prompt = '  ': expected a line of text"),
    "two lines": ({"crop": "a\nb"}, r"metadata: crop = 'a\\nb': expected a line of text"),
    "other numbers": ({"values": "cosines"}, r"values = 'cosines': expected one of .* Did you mean 'cosine'"),
    "not a number": ({"scores": changed(3, 1, np.nan)}, r"score of id 'train/003', class 'class 1' is nan"),
    "infinite": ({"scores": changed(3, 1, np.inf)}, r"is inf: expected a cosine from -1 to 1 \(1 such scores\)"),
    "out of range": ({"scores": changed(0, 0, 31.4)}, r"is 31\.\d+: expected a cosine from -1 to 1"),
    "not shares": ({"values": "softmax"}, r"expected a softmax from 0 to 1"),
    "no softmax": (
        {"values": "softmax", "scores": np.abs(SCORES)},
        r"add up to [23].*: a softmax over the classes adds up to 1 at most. Say values = 'probability'",
    ),
    "other class": ({"classes": ("class 0", "class 1", "class 2", "clas 3")}, r"'clas 3' is not of this data set. Did"),
    "class twice": ({"classes": ("class 0", "class 1", "class 2", "class 2")}, r"class 'class 2' stands twice"),
    "class missing": ({"classes": DATA.classes[:3], "scores": SCORES[:, :3]}, r"1 of 4 classes are missing.*'class 3'"),
    "other id": ({"ids": [*IDS[:-1], "test/08"]}, r"1 of 9 test images have no scores, the first is 'test/008'"),
    "strange id": (
        {"ids": [*IDS, "tests/000"], "scores": SCORES[[*range(len(IDS)), 0]]},
        r"'tests/000' is not of .*Did",
    ),
    "id twice": ({"ids": [*IDS[:-1], IDS[0]]}, r"id 'train/000' stands twice"),
    "no image": ({"ids": ["a", "b"], "scores": SCORES[:2]}, r"id 'a' is not of this data set"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name_and_place(tmp_path: Any, case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(DataError, match=rf"bad.safetensors: .*{message}"):
        read_vl_scores(write(tmp_path / "bad.safetensors", **change), DATA)


def test_other_files_are_refused(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"scores end in .safetensors, .csv, not '.npy'"):
        read_vl_scores(tmp_path / "scores.npy", DATA)
    (tmp_path / "scores.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="a pickle, which is never loaded"):
        read_vl_scores(tmp_path / "scores.safetensors", DATA)
    with pytest.raises(UsageError, match="'crop' is missing"):
        write_vl_scores(tmp_path / "x.safetensors", SCORES, IDS, DATA.classes, {"model": "m", "prompt": "p"})


def test_rounding_of_half_precision_is_no_fault(tmp_path: Any) -> None:
    scores = SCORES.copy()
    scores[0, 0] = 1.0009765625  # the number after 1 in float16
    assert read_vl_scores(write(tmp_path / "half.safetensors", scores), DATA).of("train")[0, 0] > 1


def test_a_file_of_the_training_part_alone_serves_what_reads_no_other(tmp_path: Any) -> None:
    train = DATA.splits["train"]
    given = read_vl_scores(write(tmp_path / "train.safetensors", SCORES[: len(train)], train.ids), DATA)
    assert list(given.values) == ["train"]
    with pytest.raises(DataError, match="has scores of train images, and not of the test images"):
        given.of("test")


class Reads(Method):
    """Reads the scores."""

    name = "reads"
    tracks = ("full",)
    inputs = ("vl_scores",)
    supervision = ("observed", "vl_scores")


class Builds(Method):
    """Takes no scores, and builds on a method that does."""

    name = "builds"

    @classmethod
    def uses_for(cls, hyper: Any) -> Any:
        from mlbench.methods import Uses

        return {"teacher": Uses("vlpl")}


def test_the_option_belongs_to_methods_that_take_it(tiny_request: Any, tmp_path: Any) -> None:
    path = write(tmp_path / "scores.safetensors")
    with pytest.raises(UsageError, match="--side vl_scores: method 'an' takes no vl_scores"):
        resolve(tiny_request("an", side={"vl_scores": path}))
    with pytest.raises(UsageError, match=r"--side: unknown side input 'vl_score'. Did you mean 'vl_scores'"):
        resolve(tiny_request(Reads, side={"vl_score": path}))
    with pytest.raises(UsageError, match=r"--side: unknown side input 'boxes'"):
        resolve(tiny_request(Reads, side={"boxes": path}))
    with pytest.raises(
        UsageError, match="'reads' takes vl_scores, which come in a file: give it with --side vl_scores=FILE"
    ):
        resolve(tiny_request(Reads, side={}))


def test_scores_are_not_read_without_being_declared(tiny_request: Any) -> None:
    hidden = type("Hidden", (Reads,), {"__doc__": "x", "supervision": ("observed",)})
    with pytest.raises(MlbenchError, match="takes vl_scores, which tell what a model learnt from other data, without"):
        Feed(resolve(tiny_request(hidden)), torch.device("cpu"))


def test_batches_carry_the_scores_of_their_images_and_mirroring_does_not_change_them(tiny_request: Any) -> None:
    run = resolve(tiny_request(Reads, changes={"train.augment": ["flip"]}))
    feed, index = Feed(run, torch.device("cpu")), np.array([5, 0, 17])
    expected = run.given["vl_scores"].of("train")[run.parts["train"].rows[index]]
    for epoch in (None, 1, 2):
        np.testing.assert_array_equal(feed.batch("train", index, epoch).side["vl_scores"].numpy(), expected)
    assert feed.side_sha256() == {"train@vl_scores": run.given["vl_scores"].file_sha256}


def test_identity_has_the_scores_and_what_made_them_and_keys_differ_with_both(tiny_request: Any, tmp_path: Any) -> None:
    def key(**change: Any) -> str:
        path = write(tmp_path / "scores.safetensors", **change)
        return resolve(tiny_request(Reads, side={"vl_scores": path})).key

    keys = [key(), key(model="another"), key(scores=changed(0, 0, 0.5))]
    assert len(set(keys)) == 3
    assert key() == keys[0]
    found = resolve(tiny_request(Reads)).identity["inputs"]["vl_scores"]
    assert found.keys() == {"model", "prompt", "crop", "values", "sha256"}


def test_pretraining_stands_in_an_identity_only_where_it_is_not_implied(tiny_request: Any, tmp_path: Any) -> None:
    plain, scored, built = (resolve(tiny_request(m)) for m in ("an", Reads, Builds))
    assert [run.pretraining for run in (plain, scored, built)] == ["random", "vision_language", "vision_language"]
    assert ["pretraining" in run.identity for run in (plain, scored, built)] == [False, False, True]
    head = tiny_request("an", track="head")
    assert (resolve(head).pretraining, "pretraining" in resolve(head).identity) == ("imagenet", False)
    for declared in ("vision_language", "random"):
        run = resolve(dataclasses.replace(head, pretraining=declared))
        assert run.identity["pretraining"] == run.pretraining == declared
    assert resolve(dataclasses.replace(head, pretraining="imagenet")).key == resolve(head).key
    named = tmp_path / "open_clip_scenes.safetensors"
    named.write_bytes(head.weights.read_bytes())
    assert resolve(dataclasses.replace(head, weights=named)).identity["pretraining"] == "vision_language"
    with pytest.raises(UsageError, match=r"unknown pretraining 'imagnet'. Did you mean 'imagenet'"):
        resolve(dataclasses.replace(head, pretraining="imagnet"))
    with pytest.raises(UsageError, match="--pretraining random: says what the weights of --weights"):
        resolve(tiny_request("an", pretraining="random"))


def test_what_is_built_on_is_given_the_file(tiny_request: Any) -> None:
    from mlbench.runner.plan import used_requests

    request = tiny_request(Builds)
    run = resolve(request)
    assert "inputs" not in run.identity
    assert used_requests(run)["teacher"].side == request.side


def test_a_run_records_its_scores_and_is_found_again_by_them(train: Any, tiny_request: Any, tmp_path: Any) -> None:
    record = train("vl_zero_shot")
    assert record["supervision"] == {
        "observed_labels": 0,
        "selection_labels": 32,
        "extra": ["vl_scores"],
        "pretraining": "vision_language",
    }
    tiny_vl_scores(tmp_path / "again.safetensors")
    given = read_vl_scores(tmp_path / "again.safetensors", DATA)
    assert record["identity"]["inputs"]["vl_scores"] == given.identity
    used = hashlib.sha256(tiny_request("vl_zero_shot").side["vl_scores"].read_bytes()).hexdigest()
    assert record["provenance"]["side_sha256"] == {"test@vl_scores": used, "val@vl_scores": used}
    request = tiny_request("vl_zero_shot", side={"vl_scores": kept_vl_scores(given.identity["sha256"])})
    assert resolve(request).key == record["key"]
    false = {**record, "supervision": {**record["supervision"], "pretraining": "imagenet"}}
    assert contradictions(record) == []
    assert contradictions(false) == ["supervision.pretraining is imagenet; its identity makes it vision_language"]
    assert kept_vl_scores("0" * 64) is None


def test_a_run_whose_scores_are_gone_says_so(train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    record = train("vl_zero_shot")
    monkeypatch.setenv("MLBENCH_CACHE", str(tmp_path / "empty"))
    with pytest.raises(
        DataError, match=r"its vl_scores \([0-9a-f]{16}, of none: labels and noise\) are not in the cache"
    ):
        reload_run(record, None, dataset="scenes")
