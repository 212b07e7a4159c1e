"""A data set of 120 test images and a good submission on it, in every format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset

N = 120


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description of 126 tiny pictures, 120 of them test images, with three classes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("described")
    (folder / "pictures").mkdir()
    draw = np.random.default_rng(3)
    lines = ["file,split,labels"]
    for number in range(N + 6):
        names = [name for name in ("red", "green", "blue") if draw.random() < 0.5] or ["red"]
        lines.append(f"{number:03d}.png,{'test' if number < N else 'train'},{'|'.join(names)}")
        Image.new("RGB", (2, 2), (number, 0, 0)).save(folder / "pictures" / f"{number:03d}.png")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    path = folder / "mine.toml"
    path.write_text(
        'id = "mine"\nlabels = "labels.csv"\nimages = "pictures"\ncolumns = { split = "split" }\nseparator = "|"\n'
    )
    return path


@pytest.fixture(scope="session")
def dataset(described: Path) -> Dataset:
    return load_dataset(str(described))


@dataclass
class Desk:
    """Where a submission is put together: its folder, and what a good one consists of."""

    folder: Path
    described: Path
    ids: list[str]
    classes: list[str]
    scores: np.ndarray
    card: dict[str, Any]

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def write_card(self, text: str | None = None, **changes: Any) -> Path:
        """``card.toml`` with `changes` (None leaves a key out; dataset_id etc. change its table), or `text`."""
        table = {key: value for key, value in {**self.card, **changes}.items() if value is not None}
        data = {key.removeprefix("dataset_"): table.pop(key) for key in list(table) if key.startswith("dataset_")}
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        lines += ["[dataset]", *(f"{key} = {json.dumps(value)}" for key, value in data.items())]
        path = self.folder / "card.toml"
        path.write_text("\n".join(lines) + "\n" if text is None else text, encoding="utf-8")
        return path

    def rows(self) -> list[list[str]]:
        return [["id", *self.classes]] + [
            [name, *(repr(float(value)) for value in row)] for name, row in zip(self.ids, self.scores, strict=True)
        ]

    def write_csv(self, rows: list[list[str]] | None = None, end: str = "\n") -> Path:
        path = self.folder / "predictions.csv"
        text = "".join(",".join(row) + end for row in rows or self.rows())
        path.write_bytes(text.encode("utf-8"))
        return path

    def write_safetensors(self, scores: np.ndarray | None = None, **meta: Any) -> Path:
        """``predictions.safetensors``; `meta` changes its metadata (None leaves a name out)."""
        from safetensors.numpy import save

        said = {"ids": json.dumps(self.ids), "classes": json.dumps(self.classes), **meta}
        path = self.folder / "predictions.safetensors"
        given = self.scores if scores is None else scores
        path.write_bytes(save({"scores": given}, {k: v for k, v in said.items() if v is not None}))
        return path

    def write_parquet(self, **columns: Any) -> Path:
        """``predictions.parquet``; `columns` are added or take the place of others."""
        pa = pytest.importorskip("pyarrow", reason="pyarrow, an extra, is not installed")
        import pyarrow.parquet as pq

        path = self.folder / "predictions.parquet"
        scores = {name: self.scores[:, c] for c, name in enumerate(self.classes)}
        pq.write_table(pa.table({"id": self.ids, **scores, **columns}), path)
        return path


@pytest.fixture
def desk(tmp_path: Path, described: Path, dataset: Dataset) -> Desk:
    """A good submission, not yet written to files, beside a store that holds one already."""
    draw = np.random.default_rng(1)
    card = {
        "name": "their_method",
        "version": 1,
        "title": "A method of theirs",
        "authors": ["Zoë Müller", "N. N."],
        "kind": "logit",
        "supervision": ["observed"],
        "backbone": "ResNet-50, ImageNet-1k",
        "source": "https://example.org/paper?id=7",
        "dataset_id": dataset.id,
        "dataset_version": dataset.version,
        "dataset_fingerprint": dataset.fingerprint,
    }
    ids = list(dataset.splits["test"].ids)
    scores = draw.normal(size=(N, 3)).astype(np.float32)
    return Desk(tmp_path, described, ids, list(dataset.classes), scores, card)


@pytest.fixture(scope="session")
def filled_store(tmp_path_factory: pytest.TempPathFactory, described: Path, dataset: Dataset) -> Path:
    """A store with one submission in it."""
    from mlbench.submit.submit import submit

    folder = tmp_path_factory.mktemp("filled")
    draw = np.random.default_rng(2)
    card = {
        **{"name": "first", "version": 1, "title": "First", "authors": ["A"], "kind": "logit"},
        **{"supervision": ["observed"], "backbone": "none", "source": "https://example.org"},
        **{"dataset_id": dataset.id, "dataset_version": dataset.version, "dataset_fingerprint": dataset.fingerprint},
    }
    desk = Desk(
        folder,
        described,
        list(dataset.splits["test"].ids),
        list(dataset.classes),
        draw.normal(size=(N, 3)).astype(np.float32),
        card,
    )
    submit(
        desk.write_csv(), protocol="single_positive", dataset=str(described), card=desk.write_card(), store=desk.store
    )
    return desk.store


@pytest.fixture
def store(desk: Desk, filled_store: Path) -> Path:
    """A copy of `filled_store` of this test's own."""
    shutil.copytree(filled_store, desk.store)
    return desk.store


Send = Callable[..., tuple[int, str, str]]


@pytest.fixture
def send(desk: Desk, mlbench: Callable[..., Any]) -> Send:
    """Return a function that calls ``mlbench submit`` as a person does: (exit code, stdout, stderr)."""

    def send(predictions: Path, card: Path | None = None, *more: object, **options: object) -> tuple[int, str, str]:
        given = {"protocol": "single_positive", "dataset": desk.described, "store": desk.store, **options}
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        return mlbench("submit", predictions, "--card", card or desk.write_card(), *words, *more)

    return send
