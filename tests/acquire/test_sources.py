"""The table of sources: every official data set has an entry that can be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlbench.acquire.archives import is_archive
from mlbench.acquire.overview import list_sources, presence
from mlbench.acquire.sources import find_source, load_sources, missing_by_hand, tell_by_hand
from mlbench.errors import UsageError

NAMES = ("voc2007", "voc2012", "coco2014", "coco2017", "cub", "wider", "openimages-v3", "nuswide-official")
NAMES += ("nuswide-random150k", "nuswide-srn", "nuswide-tagged", "nuswide-spml")


def test_every_official_data_set_has_a_source() -> None:
    assert set(NAMES) == set(load_sources())
    assert find_source("voc2012-partial") == find_source("voc2012")
    assert find_source("coco2014-all-partial") == find_source("coco2014")
    assert find_source("scenes") is None


@pytest.mark.parametrize("name", NAMES)
def test_what_is_fetched_is_told_in_full(name: str) -> None:
    source = load_sources()[name]
    assert source.title
    assert source.licence
    assert source.page.startswith("http")
    assert source.files or source.by_hand
    files = [*source.files, *(item.file for item in source.by_hand)]
    for file in files:
        assert file.holds
        assert file.url is None or is_archive(file.name)
        lengths = {"md5": 32, "sha256": 64}
        assert all(re.fullmatch(r"[0-9a-f]+", v) and len(v) == lengths[k] for k, v in file.checksums.items())
        assert bool(file.checksums) == bool(file.checksum_from), "a checksum says where it was read"
    assert len({file.name for file in files}) == len(files)


def test_a_mirror_replaces_the_folder_and_not_the_file_name() -> None:
    file = load_sources()["voc2012"].files[0]
    assert file.address(None) == file.url
    assert file.address("http://here/voc/") == "http://here/voc/VOCtrainval_11-May-2012.tar"
    by_hand = load_sources()["wider"].by_hand[0].file
    with pytest.raises(UsageError, match="no public address"):
        by_hand.address(None)


def test_what_a_person_must_fetch_is_told_until_it_is_there(tmp_path: Path) -> None:
    source = load_sources()["wider"]
    missing = missing_by_hand(source, tmp_path, pictures=True)
    message = str(tell_by_hand(source, missing, tmp_path))
    for text in ("WIDER", "Google Drive", "wider_attribute_image.tgz", str(tmp_path / "downloads"), source.page):
        assert text in message
    assert missing_by_hand(source, tmp_path, pictures=False) == []
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "wider_attribute_image.tgz").write_bytes(b"")
    assert missing_by_hand(source, tmp_path, pictures=True) == []


def test_the_list_says_what_is_there(tmp_path: Path) -> None:
    source = load_sources()["openimages-v3"]
    assert presence(source, tmp_path) == "no"
    (tmp_path / "train").mkdir()
    assert presence(source, tmp_path) == "no"
    (tmp_path / "train" / "0001.jpg").write_bytes(b"")
    (tmp_path / "classes-trainable.txt").write_text("")
    assert presence(source, tmp_path).startswith("in part, without annotations_human")
    for name in ("annotations-human.csv", "images.csv"):
        (tmp_path / "train" / name).write_text("")
    assert presence(source, tmp_path) == "yes"
    text = list_sources(tmp_path)
    assert all(name in text for name in NAMES)
    assert "20.4 GB" in text
