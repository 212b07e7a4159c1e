"""Downloads from servers that cut, corrupt, redirect, lie and fail: a file has its final name only if it is right."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Site, corrupt, cut, endless, redirect, shifted, silent, stale, status, tag, weak, whole

from mlbench.acquire.download import Patience, download, megabytes
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.progress import Reporter

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
MD5 = {"md5": hashlib.md5(CONTENT).hexdigest()}
BRISK = Patience(timeout=5, attempts=3, pause=0.001)


@pytest.fixture
def target(tmp_path: Path, site: Site) -> Path:
    site.files["/file.zip"] = CONTENT
    return tmp_path / "downloads" / "file.zip"


def fetch(site: Site, target: Path, path: str = "/file.zip", **given: Any) -> None:
    download(site.url + path, target, **{"patience": BRISK, "checksums": MD5, **given})


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def ranges(site: Site) -> list[str | None]:
    return [headers.get("Range") for _, headers in site.requests]


def test_a_file_is_fetched_once_and_nothing_else_is_left(site: Site, target: Path) -> None:
    told: list[tuple[int, int]] = []
    fetch(site, target, size=len(CONTENT), advance=lambda done, total: told.append((done, total)))
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["file.zip"]
    assert len(site.requests) == 1
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_cut_connections_go_on_where_they_were_cut(site: Site, target: Path) -> None:
    site.plan = [cut(100_000), cut(50_000), cut(0), cut(1)]
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=150001-"]
    assert left(target) == ["file.zip"]


def test_what_a_given_up_download_fetched_is_used_the_next_time(site: Site, target: Path) -> None:
    site.plan = [cut(120_000), *[status(503)] * 3]
    with pytest.raises(MlbenchError, match=r"503 .*gave up after 3 attempts\. What was fetched is kept"):
        fetch(site, target)
    assert left(target) == ["file.zip.part", "file.zip.part.json"]
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert site.requests[-1][1]["Range"] == "bytes=120000-"
    assert site.requests[-1][1]["If-Range"] == tag(CONTENT)


def test_a_file_that_changed_between_the_halves_is_fetched_anew(site: Site, target: Path) -> None:
    site.files["/file.zip"] = OTHER

    def change(handler: Any, content: bytes) -> None:
        cut(100_000)(handler, content)
        site.files["/file.zip"] = CONTENT

    site.plan = [change]
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=100000-"]


def test_halves_of_two_files_are_noticed_and_fetched_anew(site: Site, target: Path) -> None:
    site.plan = [cut(100_000), stale(OTHER)]
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=100000-", None]


@pytest.mark.parametrize("answer", [whole, shifted])
def test_a_server_that_ignores_ranges_is_survived(site: Site, target: Path, answer: Any) -> None:
    site.plan = [cut(100_000), answer]
    fetch(site, target)
    assert target.read_bytes() == CONTENT


def test_a_version_without_a_strong_name_is_not_continued(site: Site, target: Path) -> None:
    site.plan = [weak]
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert ranges(site) == [None, None]


def test_a_part_of_another_address_is_not_continued(site: Site, target: Path) -> None:
    site.files["/other.zip"] = OTHER
    site.plan = [cut(100_000), *[status(500)] * 3]
    with pytest.raises(MlbenchError):
        fetch(site, target, "/other.zip")
    fetch(site, target)
    assert target.read_bytes() == CONTENT
    assert ranges(site)[-1] is None


def test_a_part_longer_than_the_file_is_thrown_away(site: Site, target: Path) -> None:
    site.plan = [cut(200_000), *[status(500)] * 3]
    with pytest.raises(MlbenchError):
        fetch(site, target)
    site.plan = [status(416)]
    fetch(site, target)
    assert target.read_bytes() == CONTENT


def test_a_corrupt_file_is_refused_and_not_kept(site: Site, target: Path) -> None:
    site.plan = [corrupt]
    with pytest.raises(DataError, match=f"what was fetched has md5 .*, expected {MD5['md5']}"):
        fetch(site, target)
    assert left(target) == []


def test_a_wrong_file_already_there_is_refused_and_left_alone(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(OTHER)
    with pytest.raises(DataError, match=r"file\.zip has md5"):
        fetch(site, target)
    assert target.read_bytes() == OTHER
    assert site.requests == []


def test_what_is_not_there_is_told_at_once(site: Site, target: Path) -> None:
    with pytest.raises(DataError, match="/nowhere: 404 Not Found"):
        fetch(site, target, "/nowhere")
    assert len(site.requests) == 1
    assert left(target) == []


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_server_that_recovers_is_waited_for(site: Site, target: Path, code: int) -> None:
    site.plan = [status(code), status(code)]
    fetch(site, target)
    assert target.read_bytes() == CONTENT


def test_redirects_are_followed_but_not_endlessly_and_not_anywhere(site: Site, target: Path) -> None:
    with pytest.raises(DataError, match=r"302 .*redirect"):
        fetch(site, target, "/loop/0")
    assert len(site.requests) <= 7
    site.plan = [redirect("/file.zip?again")] * 9
    with pytest.raises(DataError, match=r"302 .*redirect"):
        fetch(site, target)
    site.plan = [redirect("file:///etc/hostname")]
    with pytest.raises(DataError):
        fetch(site, target)
    site.plan = [redirect("ftp://127.0.0.1/file.zip")]
    with pytest.raises(DataError, match="no web address"):
        fetch(site, target)
    site.plan = [redirect("/file.zip")]
    fetch(site, target, "/elsewhere")
    assert target.read_bytes() == CONTENT


def test_progress_is_told_in_megabytes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    advance = megabytes(lambda done, total: told.append((done, total)))
    for done in (400_000, 999_999, 1_000_000, 1_500_000, 2_100_000, 2_500_000):
        advance(done, 2_500_000)
    assert told == [(1, 2), (2, 2)]
    reporter = Reporter()
    monkeypatch.setattr(reporter, "_spoken", -100.0)
    reporter.counter("fetching x", unit="MB")(1, 5)
    assert "fetching x: 1/5" in (said := capsys.readouterr().err)
    assert "MB/s" in said


def test_an_address_of_another_kind_is_refused(target: Path) -> None:
    with pytest.raises(UsageError, match="begins with http"):
        download("file:///etc/hostname", target)


def test_a_wrong_size_is_noticed_before_anything_is_fetched(site: Site, target: Path) -> None:
    with pytest.raises(DataError, match="the server's file has 300000 bytes, expected 12"):
        fetch(site, target, size=12)
    assert left(target) == []


def test_a_stream_that_does_not_end_is_stopped(site: Site, target: Path) -> None:
    site.plan = [endless]
    with pytest.raises(DataError, match="sends more than 300000 bytes"):
        fetch(site, target, size=len(CONTENT))
    assert left(target) == []


def test_a_silent_server_is_given_up(site: Site, target: Path) -> None:
    site.plan = [silent] * 2
    with pytest.raises(MlbenchError, match="gave up after 2 attempts"):
        fetch(site, target, patience=Patience(timeout=0.2, attempts=2, pause=0.001))


def test_a_server_that_is_not_there_is_told(target: Path) -> None:
    with pytest.raises(MlbenchError, match="refused"):
        download("http://127.0.0.1:9/x.zip", target, patience=BRISK)


def test_a_full_disk_is_noticed_before_anything_is_written(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(MlbenchError, match="300000 bytes to fetch, but only 1000 free"):
        fetch(site, target)
    assert not target.exists()


def test_a_folder_that_cannot_be_written_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MlbenchError, match="cannot be written"):
        fetch(site, tmp_path / "file" / "x.zip")
