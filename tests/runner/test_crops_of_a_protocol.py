"""Ten crops: which pixels they are, how their scores are averaged, and who may be shown them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import UsageError
from mlbench.inputs.pixels import load_pixels
from mlbench.methods import Method, Phase, Prediction
from mlbench.protocol import load_protocol
from mlbench.runner.crops import crops_of, mean_prediction
from mlbench.runner.feed import Feed
from mlbench.runner.plan import resolve


@pytest.fixture
def ten_crops(tmp_path: Path) -> str:
    """The path of a protocol that is `single_positive`, evaluated on crops of 64 of 80 pixels."""
    text = 'extends = "single_positive"\nname = "crops"\ninference = { crops = 10, share = 0.8 }\n'
    (tmp_path / "crops.toml").write_text(text)
    return str(tmp_path / "crops.toml")


class Decides(Method):
    """Decides on scores alone."""

    name = "decides"
    decision_rule = "above a half"

    @classmethod
    def decide(cls, scores: Tensor, hyper: Any) -> Tensor:
        return scores > 0.5


def test_crops_are_corners_and_centre_and_their_mirror_images() -> None:
    images = torch.arange(25.0).view(1, 1, 5, 5)
    crops = list(crops_of(images, 2))
    first = [[0, 1, 5, 6], [3, 4, 8, 9], [15, 16, 20, 21], [18, 19, 23, 24], [6, 7, 11, 12]]
    assert [crop.flatten().tolist() for crop in crops[:5]] == first
    assert [crop.flatten().tolist() for crop in crops[5:]] == [[b, a, d, c] for a, b, c, d in first]
    assert len(list(crops_of(images, 2, mirrored=False))) == 5
    assert all(torch.equal(crop, images) for crop in list(crops_of(images, 5))[:5])


def test_scores_are_averaged_and_decided_on_afterwards() -> None:
    answers = [Prediction(torch.tensor([[0.9, 0.2]]), torch.ones(1, 2)), Prediction(torch.tensor([[0.3, 0.4]]))]
    found = mean_prediction(answers, Decides, {})
    torch.testing.assert_close(found.scores, torch.tensor([[0.6, 0.3]]))
    assert found.decisions.tolist() == [[True, False]]
    assert mean_prediction(answers[1:], Decides, {}) is answers[1]
    assert mean_prediction([Prediction(each.scores) for each in answers], Decides, {}).decisions is None


def test_test_images_are_shown_as_crops_and_training_images_whole(ten_crops: str, tiny_request: Any) -> None:
    run = resolve(tiny_request("an", protocol=load_protocol(ten_crops)))
    feed, index = Feed(run, torch.device("cpu")), np.array([1, 4])
    shown = [batch.inputs for batch in feed.shown("test", index, None, False, "images")]
    assert len(shown) == 10
    picture = Image.fromarray(run.dataset.splits["test"].images.load(4)).size
    assert picture == (64, 64)
    large = torch.from_numpy(np.array(load_pixels(run.dataset.splits["test"], 80)[4]))
    wanted = (large.permute(2, 0, 1)[:, 16:, :64] / 255 - 0.5) / 0.25  # lower left
    torch.testing.assert_close(shown[2][1], wanted)
    torch.testing.assert_close(shown[7][1], wanted.flip(-1))
    assert len(list(feed.shown("train", index, None, False, "images"))) == 1
    still = replace(tiny_dataset(), flippable=False)
    run = resolve(tiny_request("an", protocol=load_protocol(ten_crops), dataset=still))
    assert len(list(Feed(run, torch.device("cpu")).shown("val", index, None, False, "images"))) == 5


def test_a_run_on_crops_has_the_mean_of_their_scores_and_an_identity_of_its_own(
    ten_crops: str, train: Any, tiny_request: Any
) -> None:
    record = train("rmam", protocol=load_protocol(ten_crops), changes={"train.epochs": 1})
    assert record["results"]["test"]["mAP"] is not None
    whole = tiny_request("an")
    assert resolve(whole).key != resolve(replace(whole, protocol=load_protocol(ten_crops))).key


def test_who_cannot_be_shown_crops_is_refused(ten_crops: str, tiny_request: Any, tmp_path: Path) -> None:
    protocol = load_protocol(ten_crops)
    for method, track, message in [
        ("an", "head", "use --track full"),
        ("wsddn", "full", "takes proposals, which lie in whole images"),
        ("lsep", "full", "decides by more than scores"),
    ]:
        with pytest.raises(UsageError, match=message):
            resolve(tiny_request(method, track=track, protocol=protocol))
    resolve(tiny_request(Decides, protocol=protocol))
    (tmp_path / "wrong.toml").write_text(Path(ten_crops).read_text().replace("10, share = 0.8", "5"))
    with pytest.raises(UsageError, match="crops = 5: expected one of 1, 10"):
        load_protocol(str(tmp_path / "wrong.toml"))


class Pooled(Method):
    """Ends on pooled features."""

    name = "pooled"

    def phases(self) -> list[Phase]:
        return [Phase("first"), Phase("second", source="pooled")]


def test_a_last_phase_on_pooled_features_is_refused_before_training(ten_crops: str, train: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the last phase of method 'pooled', 'second', has pooled features"):
        train(Pooled, protocol=load_protocol(ten_crops))
    assert not list((tmp_path / "runs").glob("*/epochs"))


def test_images_are_shown_whole_where_a_protocol_says_nothing() -> None:
    assert load_protocol("single_positive").inference.crops == 1
    assert load_protocol("coco_kdwsd").inference.crops == 1
