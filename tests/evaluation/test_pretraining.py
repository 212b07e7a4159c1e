"""Pretraining: derived for records that do not say it, and never ranked across."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from mlbench.evaluation.pretraining import implied, most, names_vision_language, pretraining_of
from mlbench.significance.comparability import column_of, ranked_with
from mlbench.store import run_key


def identity(weights: str = "a" * 64, name: str = "resnet50", supervision: Any = ("observed",), **more: Any) -> Any:
    return {"backbone": {"name": name, "weights": weights}, "method": {"supervision": list(supervision)}, **more}


@pytest.mark.parametrize(
    ("given", "level"),
    [
        (identity("none"), "random"),
        (identity(), "imagenet"),
        (identity(name="timm:vit_base_patch16_clip_224"), "vision_language"),
        (identity("none", "timm:vit_base_patch16_clip_224"), "random"),
        (identity("none", supervision=("observed", "vl_scores")), "vision_language"),
        (identity(supervision=("vl_scores",)), "vision_language"),
    ],
)
def test_what_is_not_said_is_implied(given: Any, level: str) -> None:
    assert implied(given) == level == pretraining_of({"identity": given})


def test_published_records_have_the_level_of_their_weights_and_the_key_of_their_identity() -> None:
    found = set()
    for path in (files("mlbench.results") / "runs").iterdir():
        if path.name.endswith(".json") and "__corel5k-199__" not in path.name:
            record = json.loads(path.read_text(encoding="utf-8"))
            assert "pretraining" not in record["identity"]
            assert run_key(record["identity"]) == record["key"]
            found.add((record["identity"]["backbone"]["name"], pretraining_of(record)))
    embedded = {("scenes", "random"), ("scenes-2", "random")}
    assert found == embedded | {("resnet50-keras", "imagenet"), ("mobilenet_v2", "imagenet")}


def test_rows_of_one_column_are_ranked_apart_by_it() -> None:
    whole = {"repetition": 0, "mask_seed": 0, "protocol": "x"}
    less = {"key": "a", "identity": {**identity(), **whole}, "definitions": {}}
    less["identity"]["method"]["name"] = "an"
    more = {**less, "identity": {**less["identity"], "pretraining": "vision_language"}}
    assert column_of(less) == column_of(more)
    assert ranked_with(less) != ranked_with(more)


def test_what_is_said_wins() -> None:
    assert pretraining_of({"identity": identity(pretraining="vision_language")}) == "vision_language"
    assert pretraining_of({"identity": identity(pretraining="random")}) == "random"
    assert (most([]), most(["imagenet", "random"])) == ("random", "imagenet")


@pytest.mark.parametrize(
    "name", ["open_clip_model.safetensors", "ViT-B-16-SigLIP", "resnet50_clip.openai", "x-laion2b"]
)
def test_names_that_tell(name: str) -> None:
    assert names_vision_language(name)


@pytest.mark.parametrize(
    "name", ["resnet50_keras_v1_fp16.pth", "mobilenet_v2_features.pth", "scenes", "vit_tiny_patch16_224", "alignment"]
)
def test_names_that_do_not(name: str) -> None:
    assert not names_vision_language(name)
