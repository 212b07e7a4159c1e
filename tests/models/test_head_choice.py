"""Heads by name: what is resolved, what is refused, and what a run's identity says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import MlbenchError, UsageError
from mlbench.models.head_choice import HEADS, HeadChoice, check_head, choose_head
from mlbench.models.heads import GIVES, ClassificationHead, HeadSpec
from mlbench.registry import load_method
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request, resolve, used_requests
from mlbench.runner.trained import request_of
from mlbench.store import RECORD_FILE, read_record, run_dir

SMALL = {
    "linear": {},
    "csra": {"blocks": 2},
    "ml_decoder": {"width": 16, "heads": 2, "feedforward": 16},
    "q2l": {"width": 16, "heads": 2, "feedforward": 16},
}


def ask(method: Any = "an", **given: Any) -> Request:
    given = {"dataset": tiny_dataset(), "track": "full", **given}
    changes = {"train.epochs": 1, "train.batch_size": 16, "train.image_size": 64, **given.pop("changes", {})}
    return Request("single_positive", method, changes=changes, **given)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_what_it_says(name: str) -> None:
    head = choose_head(name, SMALL[name]).build(HeadSpec(), 8, 5).eval()
    features = torch.randn(3, 8, 2, 3)
    assert isinstance(head, ClassificationHead)
    assert set(head.gives) <= set(GIVES)
    logits = head(features)
    assert logits.shape == (3, 5)
    assert logits.dtype == torch.float32
    if "maps" in head.gives:
        assert head.maps(features).shape == head.heat_maps(features).shape == (3, 5, 2, 3)
    if "embeddings" in head.gives:
        embedded = head.embed(features)
        assert embedded.shape[:2] == (3, 5)
        torch.testing.assert_close(head.classify(embedded), logits)
    for other in {"maps", "embeddings"} - set(head.gives):
        assert not hasattr(head, {"maps": "maps", "embeddings": "embed"}[other])


@pytest.mark.parametrize("name", HEADS)
def test_logits_are_full_float32_under_autocast(name: str) -> None:
    head = choose_head(name, SMALL[name]).build(HeadSpec(), 8, 5).eval()
    features = torch.randn(3, 8, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), head(features.float()))
        assert head(features).dtype == torch.float32
    assert head(features.half()).dtype == torch.float32


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shape", [(3, 8, 2), (3, 7, 2, 2), (3, 8, 0, 2)])
def test_features_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    head = choose_head(name, SMALL[name]).build(HeadSpec(), 8, 5)
    with pytest.raises(UsageError, match=r"expects features \[images, 8, height, width\]"):
        head(torch.zeros(shape))


def test_the_identity_names_every_head_but_the_linear_one() -> None:
    plain, named = resolve(ask()), resolve(ask(head="linear"))
    assert plain.key == named.key
    assert "head" not in plain.identity
    other = resolve(ask(head="csra", changes={"head.residual": 1, "head.alpha": 2}))
    assert other.identity["head"] == {"name": "csra", "version": 1, "hyperparameters": {"residual": 1.0, "blocks": 1}}
    assert other.identity["method"]["hyperparameters"] == {"head.alpha_train": 2.0, "head.alpha_infer": 2.0}
    changed = resolve(ask(head="csra", changes={"head.residual": 0.2}))
    assert len({plain.key, other.key, changed.key}) == 3


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("an", {"head": "crsa"}, r"unknown head 'crsa'.*'csra'"),
        ("an", {"head": "csra", "changes": {"head.block": 2}}, r"no hyperparameter 'head\.block'.*'head\.blocks'"),
        ("an", {"changes": {"head.blocks": 2}}, r"head 'linear' has no hyperparameter 'head\.blocks'"),
        ("an", {"head": "csra", "changes": {"head.blocks": 3}}, r"head\.blocks = 3: expected one of 1, 2, 4"),
        ("an_boostlu", {"head": "q2l"}, r"BoostLU .* head 'q2l' does not have.*--head csra or linear"),
        ("vac_f", {"head": "ml_decoder"}, r"'vac_f' needs class activation maps.*--head csra or linear"),
        ("srn", {"head": "csra"}, r"'srn' needs the one linear layer.*use --head linear"),
        ("cnn_rnn", {"head": "csra"}, r"'cnn_rnn' has a network of its own: --head csra has no place in it"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_in_a_line(method: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve(ask(method, **given))
    assert "\n" not in str(caught.value)


def test_methods_that_need_embeddings_are_told_which_heads_have_them() -> None:
    with pytest.raises(UsageError, match=r"an embedding for each class.*--head ml_decoder or q2l"):
        check_head("mine", "embeddings", "linear", HeadSpec())
    check_head("mine", "embeddings", "q2l", HeadSpec())


class Contrasts(load_method("an")):  # type: ignore[misc]
    """A method that brings a head of its own, whose settings it keeps."""

    name = "contrasts"
    needs_head = "embeddings"
    default_head = "q2l"

    @classmethod
    def settings_for(cls, dataset: str, track: str) -> dict[str, Any]:
        return {"head.width": 32, "train.lr": 0.5}


def test_a_method_may_bring_a_head_of_its_own_and_is_refused_others() -> None:
    made = resolve(ask(Contrasts, changes={"head.encoders": 0}))
    assert (made.head.name, made.head.hyper["width"], made.head.hyper["encoders"]) == ("q2l", 32, 0)
    assert made.identity["method"]["head"] == "q2l"
    assert made.train.lr == 0.5
    chosen = resolve(ask(Contrasts, head="ml_decoder"))  # what is kept for one head is not for another
    assert chosen.head.hyper["width"] == 768
    assert chosen.identity["head"]["name"] == "ml_decoder"
    with pytest.raises(UsageError, match=r"an embedding for each class.*--head ml_decoder or q2l"):
        resolve(ask(Contrasts, head="linear"))


class Alone(load_method("an")):  # type: ignore[misc]
    """A method whose network takes no notice of the head, and does not say so."""

    name = "alone"

    def network(self, phase: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4))


def test_a_network_that_takes_no_notice_of_the_head_is_told(tmp_path: Path) -> None:
    with pytest.raises(MlbenchError, match=r"--head csra has no effect: declare needs_head = \"none\""):
        run(ask(Alone, head="csra"), Options(store=tmp_path, device="cpu", quiet=True))


def test_a_run_that_is_built_on_has_the_same_head_where_it_can() -> None:
    asked = ask("an_boostlu_inference", head="csra", changes={"head.residual": 0.3})
    used = used_requests(resolve(asked, uses={"trained": "0" * 64}))["trained"]
    assert (used.method, used.head) == ("an", "csra")
    assert resolve(used).head == HeadChoice("csra", {"residual": 0.3, "blocks": 1})


@pytest.mark.parametrize("name", [name for name in HEADS if name != "linear"])
def test_a_run_with_another_head_is_recorded_and_found_again(name: str, tmp_path: Path) -> None:
    asked = ask(head=name, changes={f"head.{key}": value for key, value in SMALL[name].items()})
    record = run(asked, Options(store=tmp_path, device="cpu", quiet=True))
    assert record == read_record(run_dir(tmp_path, record["key"]) / RECORD_FILE)
    assert record["identity"]["head"]["version"] == HEADS[name].version
    again = dataclasses.replace(request_of(record, None, dataset="x.toml"), dataset=tiny_dataset())
    assert resolve(again).key == record["key"]
