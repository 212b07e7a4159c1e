"""A web server on this machine that can be told to misbehave."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Behaviour = Callable[[BaseHTTPRequestHandler, bytes], None]


@dataclass
class Site:
    """Files by path; `plan` holds what to do at the next requests (then it is honest); `requests` what was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    plan: list[Behaviour] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def tag(content: bytes) -> str:
    return f'"{hashlib.sha1(content).hexdigest()}"'


def honest(handler: BaseHTTPRequestHandler, content: bytes, send: int | None = None, weak: bool = False) -> None:
    """Serve the file, or the rest asked for if the client knows this version of it; `send` cuts what goes out."""
    etag = ("W/" if weak else "") + tag(content)
    start = 0
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if asked and handler.headers.get("If-Range") == etag:
        start = int(asked[1])
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("ETag", etag)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    handler.wfile.write(content[start:] if send is None else content[start : start + send])


def cut(after: int) -> Behaviour:
    return lambda handler, content: honest(handler, content, send=after)


def weak(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    honest(handler, content, send=10, weak=True)


def corrupt(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    honest(handler, content[:50] + bytes([content[50] ^ 255]) + content[51:])


def whole(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """Ignore that only the rest was asked for."""
    del handler.headers["Range"]
    honest(handler, content)


def stale(old: bytes) -> Behaviour:
    """Go on with another file than the one begun, against the client's condition."""

    def behave(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        del handler.headers["If-Range"]
        handler.headers["If-Range"] = tag(old)
        honest(handler, old)

    return behave


def shifted(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """Answer with another range than asked for."""
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.end_headers()


def status(code: int) -> Behaviour:
    return lambda handler, content: handler.send_error(code)


def redirect(to: str) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return behave


def endless(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """Stream without saying how much, and do not stop."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(1000):
            handler.wfile.write(bytes(100_000))
    except OSError:
        pass


def silent(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    time.sleep(0.6)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A `Site` that is up, on 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append((self.path, dict(self.headers.items())))
            content = site.files.get(self.path)
            if site.plan:
                site.plan.pop(0)(self, content or b"")
            elif self.path.startswith("/loop/"):
                redirect(f"/loop/{int(self.path.removeprefix('/loop/')) + 1}")(self, b"")
            elif content is None:
                self.send_error(404)
            else:
                honest(self, content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()
    thread.join()
