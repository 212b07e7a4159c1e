"""A server that cuts, lies, encodes, redirects and garbles, and what is fetched from it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import re
import tarfile
import threading
import zipfile
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hostile import TEXTS, attempt

from mlbench.acquire.download import Patience, download

_BRISK = Patience(timeout=2, attempts=2, pause=0.001)
_LOCATIONS = [
    *("/file", "http://[::1", "http://127.0.0.1:x/", "file:///etc/passwd", "ftp://h/x", "//", "http://..x/", "data:,x"),
    *("http://127.0.0.1:1/\x1b[2J", "http://\xff/", "https:", "?" * 300),
]


class _Handler(BaseHTTPRequestHandler):
    """Answers with what `plan` says next, and honestly when it is empty."""

    content = b""
    plan: list[dict[str, Any]] = []

    def do_GET(self) -> None:
        how = self.plan.pop(0) if self.plan else {}
        content = how.get("content", self.content)
        etag = how.get("etag", f'"{hashlib.sha1(content).hexdigest()}"')
        asked, start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")), 0
        if asked and not how.get("ignore") and self.headers.get("If-Range") == etag:
            start = int(asked[1])
        if "raw" in how:
            self.wfile.write(how["raw"])
            return
        status = how.get("status", 206 if start else 200)
        self.send_response(status, how.get("reason"))
        if start or "range" in how:
            self.send_header("Content-Range", how.get("range", f"bytes {start}-{len(content) - 1}/{len(content)}"))
        headers = {"ETag": etag, "Content-Length": str(len(content) - start), **how.get("headers", {})}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        with contextlib.suppress(OSError, UnicodeError):
            self.end_headers()
            self.wfile.write(content[start:][: how.get("cut")])

    def log_message(self, *_: object) -> None:
        pass


@cache
def _server() -> str:
    os.environ["no_proxy"] = "127.0.0.1"
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def servers(draw: random.Random, folder: Path) -> str:
    name = draw.choice(["x.zip", "x.tar", "x.tar.gz", "x.json"])
    good, other = _file(name, draw.randbytes(3000)), _file(name, draw.randbytes(3000))
    _Handler.content = good
    _Handler.plan = [_lie(draw, good, other) for _ in range(draw.randint(1, 4))]
    known = draw.choice(["nothing", "size", "checksum"])
    size = len(good) if known != "nothing" else None
    checksums = {"sha256": hashlib.sha256(good).hexdigest()} if known == "checksum" else {}
    for part in () if draw.random() < 0.8 else ("x.part", "x.part.json"):
        (folder / part.replace("x", name, 1)).write_bytes(draw.choice([b"", b"{}", good[:100], draw.randbytes(50)]))
    outcome = attempt(lambda: download(f"{_server()}/file", folder / name, size, checksums, patience=_BRISK))
    assert {path.name for path in folder.iterdir()} <= {name, f"{name}.part", f"{name}.part.json"}
    assert (folder / name).exists() == (outcome == "taken")
    if outcome == "taken":
        found = (folder / name).read_bytes()
        # Without a checksum, another file that is whole cannot be told from the right one.
        allowed = [good] if known == "checksum" else [good, other]
        assert found.rstrip(b"\0") in [content.rstrip(b"\0") for content in allowed], "took what is not the file"
    return outcome


def _file(name: str, noise: bytes) -> bytes:
    made = io.BytesIO()
    if name == "x.json":
        return b'{"noise": "' + noise.hex().encode() + b'"}'
    if name == "x.zip":
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("a", noise)
        return made.getvalue()
    with tarfile.open(fileobj=made, mode="w") as packed:
        entry = tarfile.TarInfo("a")
        entry.size = len(noise)
        packed.addfile(entry, io.BytesIO(noise))
    return made.getvalue() if name == "x.tar" else gzip.compress(made.getvalue(), mtime=0)


def _lie(draw: random.Random, good: bytes, other: bytes) -> dict[str, Any]:
    place = draw.randrange(len(good))
    silent = {"Content-Length": None}
    return draw.choice(
        [
            {"cut": place},
            {"cut": place, "headers": silent},
            {"headers": {"Content-Length": str(place)}},
            {"headers": {"Content-Length": draw.choice(["-1", "x", "9" * 5000, "1e3", "", "0"])}},
            {"content": b"", "headers": draw.choice([silent, {}])},
            {"content": other},
            {"content": other, "ignore": True, "cut": place},
            {"ignore": True},
            {"content": gzip.compress(good), "headers": {"Content-Encoding": draw.choice(["gzip", "x-gzip"])}},
            {"headers": {"Content-Encoding": draw.choice(["br", "deflate", "identity", "\x1b"])}},
            {"headers": {"Transfer-Encoding": "chunked", "Content-Length": draw.choice([None, "7"])}},
            {"status": 206, "range": f"bytes {place}-{len(good) - 1}/{len(good)}"},
            {"status": 206, "range": f"bytes 0-{len(good) - 1}/{len(good)}", "content": other},
            {"status": 206, "range": draw.choice([*TEXTS[:10], "bytes 0-0/" + "9" * 5000])},
            {
                "status": draw.choice([202, 204, 304, 400, 404, 416, 418, 429, 500, 503]),
                "reason": "\x1b[2J" + "a" * 900,
            },
            {"status": 302, "headers": {"Location": draw.choice(_LOCATIONS)}},
            {"etag": draw.choice(['"a\tb"', "W/x", '"' + "e" * 3000 + '"', ""]), "cut": place},
            {"content": b"<!DOCTYPE html>sign in"},
            {
                "raw": draw.choice(
                    [b"", b"\xff\xfe\n\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, draw.randbytes(99)]
                )
            },
        ]
    )
