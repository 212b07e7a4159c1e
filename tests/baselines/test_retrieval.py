"""`tag_neighbors` and `kcca`: similarities by sets, correlations by hand and by scikit-learn, votes by counting."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.cross_decomposition import CCA

from mlbench.baselines import retrieval
from mlbench.baselines.retrieval import LatentHead, NeighbourHead, canonical_directions, nearest_by_tags, vote
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.evaluation.predictions import read_predictions
from mlbench.methods import Method
from mlbench.registry import load_method
from mlbench.runner.feed import Feed
from mlbench.runner.plan import resolve
from mlbench.store import run_dir


def by_sets(words: np.ndarray, others: np.ndarray, count: int, own: np.ndarray | None) -> list[list[tuple[int, float]]]:
    sets = [set(np.flatnonzero(row)) for row in others]
    nearest = []
    for image, row in enumerate(words):
        mine = set(np.flatnonzero(row))
        found = [
            (len(mine & theirs) / len(mine | theirs), -number)
            for number, theirs in enumerate(sets)
            if mine & theirs and (own is None or own[image] != number)
        ]
        nearest.append([(-number, similarity) for similarity, number in sorted(found, reverse=True)[:count]])
    return nearest


def test_similarity_by_hand() -> None:
    words = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    others = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    rows, similarities = nearest_by_tags(words, csr_matrix(others, dtype=float), 4)
    assert rows.tolist() == [[2, 1, 0, -1], [-1] * 4]
    np.testing.assert_allclose(similarities, [[1, 2 / 3, 1 / 2, 0], [0] * 4])


@pytest.mark.parametrize("count", [1, 3, 50])
@pytest.mark.parametrize("share", [0.0, 0.15, 0.5, 1.0])
def test_neighbours_are_those_of_sets(count: int, share: float) -> None:
    draw = np.random.default_rng(count)
    others = draw.random((40, 9)) < share
    own = np.arange(5, 17)
    for words, excluded in ((others[own], own), (draw.random((6, 9)) < share, None)):
        rows, similarities = nearest_by_tags(words, csr_matrix(others, dtype=float), count, excluded)
        for image, wanted in enumerate(by_sets(words, others, count, excluded)):
            assert rows[image, : len(wanted)].tolist() == [row for row, _ in wanted]
            np.testing.assert_allclose(similarities[image, : len(wanted)], [value for _, value in wanted])
            assert (rows[image, len(wanted) :] == -1).all()
        if excluded is not None:
            assert not (rows == excluded[:, None]).any()


@pytest.mark.parametrize("pairs", [1, 90, 10**6])
def test_pieces_of_rows_have_the_neighbours_of_all_rows(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(4).random((40, 7)) < 0.3
    wanted = nearest_by_tags(words, csr_matrix(words, dtype=float), 5, np.arange(40))
    monkeypatch.setattr(retrieval, "_PAIRS", pairs)
    for found, known in zip(
        nearest_by_tags(words, csr_matrix(words, dtype=float), 5, np.arange(40)), wanted, strict=True
    ):
        assert np.array_equal(found, known)


def test_the_memory_of_the_search_is_that_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.ones((1200, 2), dtype=bool)  # all share all: 1.44 million pairs, which take 17 MB at once
    others = csr_matrix(words, dtype=float)
    monkeypatch.setattr(retrieval, "_PAIRS", 2**14)
    tracemalloc.start()
    rows, _ = nearest_by_tags(words, others, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.tolist() == [[0, 1]] * 1200
    assert peak < 2e6


def test_tags_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[2, 3\] and \[4, 5\] tags"):
        nearest_by_tags(np.zeros((2, 3), bool), csr_matrix((4, 5)), 1)


def test_the_correlations_of_data_made_to_have_them_are_found() -> None:
    """Three pairs of columns with correlations 0.9, 0.5 and 0, mixed on both sides."""
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(np.column_stack([np.ones(60), draw.normal(size=(60, 6))]))[0][:, 1:] * np.sqrt(60)
    known = np.array([0.9, 0.5, 0.0])
    x, y = basis[:, :3], known * basis[:, :3] + np.sqrt(1 - known**2) * basis[:, 3:]
    mixed_x, mixed_y = x @ draw.normal(size=(3, 3)) + 5, y @ draw.normal(size=(3, 3)) - 7
    directions, correlations = canonical_directions(mixed_x, mixed_y, 3)
    np.testing.assert_allclose(correlations, known, atol=1e-10)
    variates = (mixed_x - mixed_x.mean(axis=0)) @ directions
    np.testing.assert_allclose(variates.T @ variates / 60, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(np.abs(variates[:, :2].T @ x[:, :2] / 60), np.eye(2), atol=1e-8)


def test_directions_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    shared = draw.normal(size=(200, 2))
    x = shared @ draw.normal(size=(2, 5)) + draw.normal(size=(200, 5))
    y = shared @ draw.normal(size=(2, 4)) + draw.normal(size=(200, 4))
    directions, correlations = canonical_directions(x, y, 2)
    of_x, of_y = CCA(n_components=2, scale=False, max_iter=5000, tol=1e-12).fit_transform(x, y)
    variates = (x - x.mean(axis=0)) @ directions
    for number in range(2):
        assert abs(np.corrcoef(variates[:, number], of_x[:, number])[0, 1]) == pytest.approx(1, abs=1e-6)
        assert correlations[number] == pytest.approx(np.corrcoef(of_x[:, number], of_y[:, number])[0, 1], abs=1e-6)


def test_columns_that_do_not_vary_or_repeat_others_are_no_direction_of_their_own() -> None:
    draw = np.random.default_rng(2)
    x = draw.normal(size=(50, 2))
    doubled = np.column_stack([x, x[:, 0], np.ones(50)])
    labels = (x + draw.normal(size=(50, 2)) > 0).astype(float)
    directions, correlations = canonical_directions(doubled, labels, 9)
    assert directions.shape == (4, 2)
    np.testing.assert_allclose(correlations, canonical_directions(x, labels, 2)[1], atol=1e-9)
    assert canonical_directions(x, np.zeros((50, 3)), 2)[0].shape == (2, 0)
    assert (canonical_directions(x, labels, 2, ridge=1.0)[1] < correlations).all()
    with pytest.raises(UsageError, match="ridge -1"):
        canonical_directions(x, labels, 2, ridge=-1)


def test_votes_by_hand() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1]], dtype=torch.uint8)
    similarities = torch.tensor([[0.6, 0.3, 0.1], [-0.5, 0.2, 0.2], [-1.0, -1.0, -1.0]])
    wanted = torch.tensor([[0.6 / 0.9, 0.0, 1.0], [0.5, 0.5, 1.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(vote(similarities, labels, 2), wanted)
    torch.testing.assert_close(vote(similarities, labels, 10)[0], torch.tensor([0.7, 0.1, 1.0]))


def test_votes_are_probabilities_whatever_the_rounding() -> None:
    similarities = torch.rand(500, 80, generator=torch.Generator().manual_seed(7))
    found = vote(similarities, torch.ones(80, 3, dtype=torch.uint8), 50)
    assert (found <= 1).all()
    torch.testing.assert_close(found, torch.ones(500, 3))


def test_a_hidden_layer_takes_the_strongest_neighbour_that_there_is() -> None:
    torch.manual_seed(0)
    head = NeighbourHead(3, 2, hidden=4, dropout=0.0)
    features, near = torch.randn(2, 3), torch.randn(2, 3, 3)
    shown = torch.tensor([[True, False, True], [False, False, False]])
    best = torch.maximum(head.near(near[0, 0]), head.near(near[0, 2])).clamp(min=0)
    around = torch.stack([best, torch.zeros(4)])
    wanted = head.classes(torch.cat([head.own(features).relu(), around], dim=1))
    torch.testing.assert_close(head(features, near, shown), wanted)


def test_the_head_projects_kernel_values_of_unit_vectors() -> None:
    draw = torch.Generator().manual_seed(3)
    landmarks = torch.nn.functional.normalize(torch.randn(5, 4, generator=draw))
    projection, features = torch.randn(5, 2, generator=draw), torch.randn(7, 4, generator=draw)
    head = LatentHead(landmarks, 0.7, projection, torch.ones(2), features, torch.ones(7, 3, dtype=torch.uint8), 3)
    for image, place in zip(features, head.project(features), strict=True):
        unit = image / image.norm()
        kernel = torch.stack([torch.exp(-0.7 * (unit - landmark).square().sum()) for landmark in landmarks])
        wanted = kernel @ projection - 1
        torch.testing.assert_close(place, wanted / wanted.norm())
    torch.testing.assert_close(head(features), torch.ones(7, 3))


def test_latent_votes_find_labels_that_a_kernel_can_tell() -> None:
    """A label for every other of eight sectors of a circle, which no line can part."""
    method = object.__new__(load_method("kcca"))
    method.hyper = {"landmarks": 100, "width": 0.2, "components": 5, "ridge": 0.01, "neighbours": 10}
    method.task = type("Task", (), {"generator": staticmethod(lambda name: torch.Generator().manual_seed(1))})
    angles = torch.rand(400, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    features = torch.stack([angles.cos(), angles.sin()], dim=1) * (1 + angles[:, None])
    present = (torch.sin(4 * angles) > 0).numpy()[:, None]
    head = method.fitted(features[:300], present[:300])
    assert ((head(features[300:]) > 0.5).numpy() == present[300:]).mean() > 0.95


def fitted(features: torch.Tensor, present: np.ndarray, ridge: float) -> LatentHead:
    method = object.__new__(load_method("kcca"))
    method.hyper = {"landmarks": 200, "width": 100.0, "components": 32, "ridge": ridge, "neighbours": 20}
    method.task = type("Task", (), {"generator": staticmethod(lambda name: torch.Generator().manual_seed(1))})
    return method.fitted(features, present)


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_a_kernel_of_low_rank_gives_no_noise_in_float32(ridge: float) -> None:
    """200 landmarks in two dimensions, under a wide kernel: most directions of the kernel are nothing but rounding."""
    assert load_method("kcca").declared()["ridge"].low == 1e-3
    draw = torch.Generator().manual_seed(0)
    features = (torch.randn(400, 2, generator=draw) @ torch.randn(2, 64, generator=draw)).abs()
    told = (features - features.mean(dim=0)) @ torch.randn(64, 6, generator=draw)
    head = fitted(features[:300], (told[:300] > 0).numpy(), ridge)
    places = head.project(features[300:])
    assert places.dtype == head.latent.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        exact = fitted(features[:300].double(), (told[:300] > 0).numpy(), ridge)
        torch.testing.assert_close(places.double(), exact.project(features[300:].double()), rtol=0, atol=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)
    rounded = features[300:] * (1 + 6e-8 * torch.randn(100, 64, generator=draw))
    assert (head.project(rounded) - places).norm(dim=1).max() < 1e-4


def test_an_image_of_the_training_part_has_itself_neither_as_neighbour_nor_as_vote() -> None:
    words = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0]], dtype=bool)
    method: Any = object.__new__(load_method("tag_neighbors"))
    method.hyper = {"nearest": 2, "samples": 1, "top_k": 1}
    method._others = csr_matrix(words, dtype=float)
    method.logits = lambda network, batch, near, draw: near.double()
    rows = torch.tensor([3, 0])
    for part, wanted in (("train", [[0, 1], [3, 1]]), ("test", [[0, 3], [0, 3]])):
        batch = SimpleNamespace(part=part, index=rows, side={"tags": torch.from_numpy(words[rows.numpy()])})
        assert method.predict(None, batch).scores.tolist() == wanted
    draw = torch.Generator().manual_seed(5)
    landmarks, projection = torch.randn(5, 4, generator=draw), torch.randn(5, 2, generator=draw)
    features, labels = torch.randn(9, 4, generator=draw), torch.eye(9, dtype=torch.uint8)
    head = LatentHead(landmarks, 0.7, projection, torch.zeros(2), features, labels, 8)
    network = SimpleNamespace(features=lambda inputs: inputs, head=head)
    kcca: Any = object.__new__(load_method("kcca"))
    found = kcca.predict(network, SimpleNamespace(part="train", index=rows, inputs=features[rows]))
    for image, row in enumerate(rows):
        others = torch.arange(9) != row
        alone = LatentHead(landmarks, 0.7, projection, torch.zeros(2), features[others], labels[others], 8)
        torch.testing.assert_close(found[image], alone(features[row, None])[0])
    assert kcca.predict(network, SimpleNamespace(part="test", index=rows, inputs=features[rows]))[0, 3] > 0


def test_decisions_are_the_three_highest_and_the_record_says_whose_tags(train: Any, tmp_path: Any) -> None:
    record = train("tag_neighbors", track="head", changes={"train.epochs": 1})
    stored = run_dir(tmp_path / "runs", record["key"]) / record["predictions"]["test"]["file"]
    assert (read_predictions(stored).decisions.sum(axis=1) == 3).all()
    assert record["identity"]["inputs"]["tags"]["origin"] == "words drawn at random"
    with pytest.raises(UsageError, match="drawn = 7: expected at most nearest, which is 6"):
        train("tag_neighbors", track="head", changes={"drawn": 7})


def test_other_tags_are_another_run_of_methods_that_take_them_only(tiny_request: Any) -> None:
    dataset = tiny_dataset()
    train = dataset.splits["train"]
    tags = replace(train.tags, read=lambda: ~train.tags.load())
    other = replace(dataset, splits={**dataset.splits, "train": replace(train, tags=tags)})
    for method, track, same in (("an", "full", True), ("tag_neighbors", "head", False)):
        keys = {resolve(tiny_request(method, track=track, dataset=each)).key for each in (dataset, other)}
        assert (len(keys) == 1) is same


def test_tags_that_are_not_there_or_not_declared_are_an_error(tiny_request: Any) -> None:
    dataset = tiny_dataset()
    bare = {name: replace(split, tags=None) for name, split in dataset.splits.items()}
    with pytest.raises(DataError, match="data set 'tiny' has no tags in its test part"):
        resolve(tiny_request("tag_neighbors", track="head", dataset=replace(dataset, splits=bare)))
    quiet = type("Quiet", (Method,), {"__doc__": "x", "name": "quiet", "inputs": ("tags",)})
    with pytest.raises(MlbenchError, match="takes tags, which tell more than the image"):
        Feed(resolve(tiny_request(quiet)), torch.device("cpu"))


def test_tags_follow_their_rows(tiny_request: Any) -> None:
    run = resolve(tiny_request("tag_neighbors", track="head", changes={"train.batch_size": 4}))
    feed = Feed(run, torch.device("cpu"))
    for name in ("train", "val", "test"):
        part, index = run.parts[name], np.array([5, 2])
        wanted = run.dataset.splits[part.source].tags.load()[part.rows[index]]
        assert np.array_equal(feed._side_loader("tags", name)(index).numpy(), wanted)
        assert feed.batch(name, index, None, source="pooled").part == name


def test_kcca_takes_the_backbone_that_bce_trained(train: Any, tmp_path: Any) -> None:
    record = train("kcca", changes={"encoder": "bce", "train.epochs": 1})
    assert record["results"]["test"]["mAP"] is not None
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 2
    with pytest.raises(UsageError, match="has no effect on track 'head'"):
        train("kcca", track="head", changes={"encoder": "bce"})
