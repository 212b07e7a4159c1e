"""The page that shows several methods' attention on one image."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mlbench.annotation import State
from mlbench.conformance.testing import tiny_dataset
from mlbench.errors import DataError
from mlbench.report.at_hand import AtHand
from mlbench.report.site import side_by_side, write_site


@pytest.fixture
def store(train, tmp_path, monkeypatch):
    for method in ("an", "ls", "full"):
        train(method)
    data = tiny_dataset()
    monkeypatch.setattr("mlbench.report.at_hand.list_datasets", lambda: [data.id])
    monkeypatch.setattr("mlbench.report.at_hand.load_dataset", lambda *given: data)
    monkeypatch.setattr("mlbench.runner.trained.dataset_of", lambda *given: data)
    return tmp_path / "runs"


def test_methods_of_a_board_stand_side_by_side_and_the_page_goes_with_its_pictures(store, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "COLUMNS", 2)
    output = tmp_path / "site"
    written = write_site(output, store, pictures=True)
    page = (output / "attention.html").read_text()
    assert page.count("<img ") == 2  # three methods, two columns a picture
    assert all(f">{method}</a>" in page for method in ("an", "ls", "full"))
    assert 'href="runs/' in page
    assert 'href="attention.html"' in (output / "index.html").read_text()
    assert written.pages == len(list(output.rglob("*.html")))

    without = write_site(output, store)
    assert without.pages == written.pages - 1
    assert not (output / "attention.html").exists()
    assert "attention.html" not in (output / "index.html").read_text()


def test_a_data_set_without_a_label_to_show_does_not_stop_the_site(store, tmp_path, monkeypatch):
    def nothing(record, here):
        raise DataError("no test image has a label")

    monkeypatch.setattr(side_by_side, "subject_of", nothing)
    write_site(tmp_path / "site", store, pictures=True)
    assert (tmp_path / "site" / "index.html").exists()
    assert not (tmp_path / "site" / "attention.html").exists()


def test_an_image_to_show_needs_a_label(tmp_path, monkeypatch):
    data = tiny_dataset()
    empty = dataclasses.replace(data.splits["test"], labels=np.full_like(data.splits["test"].labels, State.NEGATIVE))
    data = dataclasses.replace(data, splits={**data.splits, "test": empty})
    monkeypatch.setattr(AtHand, "dataset", lambda self, record: data)
    with pytest.raises(DataError, match="no test image has a label"):
        side_by_side.subject_of({"key": "0" * 64, "identity": {"protocol": "full"}}, AtHand(tmp_path))


def test_networks_that_cannot_be_asked_have_no_column(store, tmp_path, monkeypatch):
    monkeypatch.setattr("mlbench.explain.attention._refusal", lambda record: "track 'head' is fed cached features")
    write_site(tmp_path / "site", store, pictures=True)
    assert not (tmp_path / "site" / "attention.html").exists()
