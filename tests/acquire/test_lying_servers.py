"""Servers that lie where neither size nor checksum is known: what was fetched is opened, or not begun at all."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Behaviour, Site, cut, honest, redirect, status, tag
from PIL import Image

from mlbench.acquire.content import check_content
from mlbench.acquire.download import Patience, download
from mlbench.errors import DataError, MlbenchError, UsageError

BRISK = Patience(timeout=5, attempts=3, pause=0.001)
NOISE = np.random.default_rng(0).bytes(60_000)


def a_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.bin", NOISE)
    return packed.getvalue()


def a_tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("a.bin")
        entry.size = len(NOISE)
        archive.addfile(entry, io.BytesIO(NOISE))
    return packed.getvalue()


def a_png() -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.frombuffer(NOISE[:30_000], np.uint8).reshape(100, 100, 3)).save(made, "PNG")
    return made.getvalue()


FILES = {
    "file.zip": a_zip(),
    "file.tar": a_tar(),
    "file.tar.gz": gzip.compress(a_tar()),
    "file.tgz": gzip.compress(a_tar()),
    "file.png": a_png(),
    "file.json": b'{"images": [' + b", ".join(b'"%d"' % n for n in range(5000)) + b"]}",
}
ARCHIVES = [name for name in FILES if "tar" in name or "zip" in name or "tgz" in name]


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest, site: Site) -> str:
    site.files.update({f"/{name}": content for name, content in FILES.items()})
    return str(request.param)


def fetch(site: Site, folder: Path, name: str, **given: Any) -> str:
    return download(f"{site.url}/{name}", folder / name, **{"patience": BRISK, **given})


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def send(content: bytes, *, code: int = 200, **headers: str) -> Behaviour:
    """An answer with these headers and this body, whatever they promise; the connection ends with it."""

    def behave(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(code)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return behave


def test_a_connection_cut_where_no_length_was_told_is_noticed_and_fetched_again(
    name: str, site: Site, tmp_path: Path
) -> None:
    site.plan = [send(FILES[name][: len(FILES[name]) * 2 // 3])]
    told = fetch(site, tmp_path, name)
    assert (tmp_path / name).read_bytes() == FILES[name]
    assert told.startswith("no published checksum: could not be verified; it opens as ")
    assert [headers["Accept-Encoding"] for _, headers in site.requests] == ["identity"] * 2
    site.plan = [send(FILES[name].rstrip(b"\0")[:-30])] * 2  # a tar may lack zeros behind its end
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match="what was fetched is no whole"):
        fetch(site, tmp_path, name)
    assert left(tmp_path) == []


def test_a_length_that_is_too_small_is_noticed(name: str, site: Site, tmp_path: Path) -> None:
    site.plan = [send(FILES[name], Content_Length=str(len(FILES[name]) // 2))]
    with pytest.raises(DataError, match="what was fetched is no whole"):
        fetch(site, tmp_path, name)
    assert left(tmp_path) == []


def test_an_empty_answer_is_no_file(name: str, site: Site, tmp_path: Path) -> None:
    for answer in (send(b"", Content_Length="0"), send(b""), send(b"", code=204), send(b"soon", code=202)):
        site.plan = [answer] * 3
        with pytest.raises(MlbenchError, match=r"is empty|without the file"):
            fetch(site, tmp_path, name)
        assert not (tmp_path / name).exists()
    site.files["/x.dat"] = b""
    with pytest.raises(DataError, match="is empty"):
        fetch(site, tmp_path, "x.dat")


def test_a_page_in_place_of_the_file_is_named_as_one(name: str, site: Site, tmp_path: Path) -> None:
    site.plan = [send(b"\xef\xbb\xbf\r\n<!DOCTYPE HTML><title>Sign in</title>")] * 2
    with pytest.raises(DataError, match=f"what was fetched is a web page, not '{re.escape(name)}'"):
        fetch(site, tmp_path, name)
    assert left(tmp_path) == []


def test_an_encoded_answer_is_refused_and_a_files_own_compression_is_not(name: str, site: Site, tmp_path: Path) -> None:
    own = name.endswith("gz")
    site.plan = [send(FILES[name] if own else gzip.compress(FILES[name]), Content_Encoding="gzip")]
    if own:
        fetch(site, tmp_path, name)
        assert (tmp_path / name).read_bytes() == FILES[name]
        (tmp_path / name).unlink()
        site.plan = [send(gzip.compress(FILES[name]), Content_Encoding="gzip")] * 2
        with pytest.raises(DataError, match="no whole"):
            fetch(site, tmp_path, name)
    else:
        with pytest.raises(DataError, match=r"sends the file encoded \(gzip\), though asked not to"):
            fetch(site, tmp_path, name)
    site.plan = [send(FILES[name], Content_Encoding="br")]
    with pytest.raises(DataError, match=r"encoded \(br\)"):
        fetch(site, tmp_path, name)
    assert left(tmp_path) == []


def chunked(content: bytes, end: bytes) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(content), content) + end)

    return behave


def test_an_answer_in_chunks_is_whole_only_with_its_last(name: str, site: Site, tmp_path: Path) -> None:
    for end in (b"", b"zz\r\n", b"ffff\r\n"):
        site.plan = [chunked(FILES[name][:1000], end)]
        fetch(site, tmp_path, name)
        assert (tmp_path / name).read_bytes() == FILES[name]
        (tmp_path / name).unlink()
    site.plan = [chunked(FILES[name], b"0\r\n\r\n")]
    fetch(site, tmp_path, name)
    assert (tmp_path / name).read_bytes() == FILES[name]


def continued(content_range: str, body: bytes, **headers: str) -> Behaviour:
    return send(body, code=206, Content_Range=content_range, **headers)


@pytest.mark.parametrize(
    "content_range",
    [
        *("bytes 0-9/{n}", "bytes 20001-{m}/{n}", "bytes 19999-{m}/{n}", "bytes */{n}", "bytes 20000-{m}/*", "", "x"),
        *("bytes -20000-{m}/{n}", "bytes 20000-{m}/" + "9" * 5000, "items 20000-{m}/{n}", "\u00b2"),
    ],
)
def test_nothing_is_appended_that_does_not_begin_where_it_was_asked(
    content_range: str, site: Site, tmp_path: Path
) -> None:
    content = site.files["/file.zip"] = FILES["file.zip"]
    place = content_range.format(n=len(content), m=len(content) - 1)
    site.plan = [cut(20_000), continued(place, b"x" * (len(content) - 20_000), ETag=tag(content))]
    fetch(site, tmp_path, "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == content
    assert [headers.get("Range") for _, headers in site.requests] == [None, "bytes=20000-", None]


def test_a_rest_of_another_version_or_that_was_not_asked_for_is_not_appended(site: Site, tmp_path: Path) -> None:
    content = site.files["/file.zip"] = FILES["file.zip"]
    whole, rest = f"bytes 0-{len(content) - 1}/{len(content)}", f"bytes 20000-{len(content) - 1}/{len(content)}"
    site.plan = [cut(20_000), continued(rest, b"x" * (len(content) - 20_000), ETag='"other"')]
    fetch(site, tmp_path, "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == content
    (tmp_path / "file.zip").unlink()
    site.plan = [continued(whole, b"x" * len(content)), continued(rest, b"x" * (len(content) - 20_000))]
    fetch(site, tmp_path, "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == content
    # A part whose version is not known is begun anew, whatever the server goes on with.
    (tmp_path / "file.zip").unlink()
    (tmp_path / "file.zip.part").write_bytes(b"y" * 20_000)
    for about in ("", "[]", "{}", f'{{"url": "{site.url}/file.zip", "validator": ["x"]}}'):
        (tmp_path / "file.zip.part.json").write_text(about)
        (tmp_path / "file.zip.part").write_bytes(b"y" * 20_000)
        site.plan = [continued(rest, b"x" * (len(content) - 20_000))]
        fetch(site, tmp_path, "file.zip")
        assert (tmp_path / "file.zip").read_bytes() == content
        (tmp_path / "file.zip").unlink()


def test_a_whole_file_after_a_request_for_the_rest_is_not_appended(name: str, site: Site, tmp_path: Path) -> None:
    def whole(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        del handler.headers["Range"]
        honest(handler, content)

    site.plan = [cut(1000), whole]
    fetch(site, tmp_path, name)
    assert (tmp_path / name).read_bytes() == FILES[name]


@pytest.mark.parametrize(
    "location",
    [
        *("http://[::1", "http://127.0.0.1:99999999/x", "http://127.0.0.1:port/", "http://" + "a" * 70 + ".x/"),
        *("http://..x/", "http://", "//", "http:///x", "file:///etc/passwd", "data:,x", "gopher://x", "javascript:1"),
        *(
            "http://127.0.0.1:1/\x1b[2J",
            "http://127.0.0.1:1/a b",
            "http://\u00ff.\u00e9/",
            "http://127.0.0.1:1/" + "%" * 99,
        ),
        *("ftp://127.0.0.1/x", "http://user@:0/", "http://\x7f/", "HTTP://[fe80::1%25eth0]:x/"),
    ],
)
def test_a_redirect_to_nowhere_is_one_line(location: str, site: Site, tmp_path: Path) -> None:
    site.plan = [redirect(location)] * 3
    with pytest.raises(MlbenchError) as error:
        fetch(site, tmp_path, "file.zip")
    assert re.fullmatch(r"[^\n\x00-\x1f\x7f]{1,600}", str(error.value))
    assert left(tmp_path) == []


@pytest.mark.parametrize("address", ["http://[::1/x.zip", "http://h:port/x.zip", "http://\x00/x.zip", "http:///x.zip"])
def test_a_malformed_mirror_is_one_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(MlbenchError, match=r"web address|expected an address|no host given|invalid"):
        download(address, tmp_path / "x.zip", patience=BRISK)


@pytest.mark.parametrize("code", [404, 503, 200])
def test_a_servers_words_steer_nothing(code: int, site: Site, tmp_path: Path) -> None:
    def behave(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        reason = "\x1b]0;title\x07\x1b[2J\x9b31m" + "a" * 2000
        handler.wfile.write(f"HTTP/1.0 {code} {reason}\r\nX: y\r\n\r\n".encode("latin-1"))

    site.plan = [behave] * 3
    with pytest.raises(MlbenchError) as error:
        fetch(site, tmp_path, "file.zip")
    assert re.fullmatch(r"[^\n\x00-\x1f\x7f-\x9f]{1,600}", str(error.value))


@pytest.mark.parametrize(
    "answer",
    [
        send(b"x", Content_Length="9" * 5000),
        send(b"x", Content_Length="-5"),
        send(b"x", Content_Length="\u00b2"),
        send(b"x", ETag='"' + "e" * 5000 + '"'),
        send(b"x", ETag='"a\tb"'),
        lambda handler, _: handler.wfile.write(b"\xff\x00garbage\r\n\r\n"),
        lambda handler, _: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
        lambda handler, _: handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
        lambda handler, _: handler.wfile.write(b"HTTP/1.1 99999 OK\r\n\r\n"),
        lambda handler, _: None,
        status(418),
    ],
)
def test_headers_that_make_no_sense_are_one_line(answer: Behaviour, site: Site, tmp_path: Path) -> None:
    site.plan = [answer] * 3
    with pytest.raises(MlbenchError) as error:
        fetch(site, tmp_path, "file.zip")
    assert re.fullmatch(r"[^\n]{1,600}", str(error.value))
    assert not (tmp_path / "file.zip").exists()


def test_a_file_that_is_there_is_opened_too(tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(FILES["file.zip"][:-30])
    with pytest.raises(DataError, match=r"file\.zip is no whole \.zip"):
        download("http://127.0.0.1:9/file.zip", tmp_path / "file.zip")
    assert (tmp_path / "file.zip").exists(), "it may be the person's own"
    (tmp_path / "file.zip").write_bytes(FILES["file.zip"])
    size = len(FILES["file.zip"])
    told = download("http://127.0.0.1:9/file.zip", tmp_path / "file.zip", size)
    assert (
        told
        == "of the published size, no published checksum: could not be verified; it opens as a whole archive of 1 file"
    )


def test_of_a_name_without_a_known_kind_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a,b\n")
    assert check_content(tmp_path / "x", "labels.csv", "x") == ""
    (tmp_path / "x").write_bytes(b"<html>")
    assert check_content(tmp_path / "x", "x.html", "x") == ""
    with pytest.raises(DataError, match=r"x is a web page, not 'labels\.csv'"):
        check_content(tmp_path / "x", "labels.csv", "x")


def test_a_file_address_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="begins with http"):
        download("FILE:///etc/hostname", tmp_path / "x")
