"""Files fetched over HTTP(S): resumed, checked, and under their final name only when whole and right.

urllib, because what else fetches files here comes only with FiftyOne, which may be missing; and because it hands on
the bytes of the file where other clients undo a server's ``Content-Encoding: gzip`` on a ``.tar.gz``: many servers call
the file's own compression so. An answer that is encoded though identity was asked for is refused otherwise.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlbench import __version__
from mlbench.acquire.content import check_content
from mlbench.errors import DataError, MlbenchError, UsageError, visible
from mlbench.inputs.cache import Advance

_CHUNK = 1 << 20
_AGAIN = {202, 408, 425, 429, 500, 502, 503, 504}
#: Compressed files that servers call encoded.
_OWN_GZIP = (".gz", ".tgz")
#: What may be sent back to a server: a strong ETag, or a date.
_VALIDATOR = re.compile(r'"[\x21\x23-\x7e]{0,200}"|[A-Za-z0-9:, +-]{1,40}')


class _Retry(Exception):
    """The attempt failed in a way that another may mend."""


@dataclass(frozen=True)
class Patience:
    """How long to try: seconds without an answer, attempts without progress, first pause in seconds (it doubles)."""

    timeout: float = 30.0
    attempts: int = 6
    pause: float = 1.0


def download(
    url: str,
    target: Path,
    size: int | None = None,
    checksums: Mapping[str, str] | None = None,
    advance: Advance | None = None,
    patience: Patience | None = None,
    most: int | None = None,
) -> str:
    """Fetch `url` into the file `target`, which appears only when it is whole and its checksum right.

    Without a checksum it is opened as what its name says (`check_content`), and is not kept if it is none.

    What was fetched before a break is kept as ``target.part`` and continued by a range request, if the server
    confirms (by ETag or date) that its file is still the same; otherwise the file is fetched anew.

    Parameters
    ----------
    url : http or https; a redirect from https to http, and to anything else, is refused.
    size : expected bytes, None if unknown: then what the server announces.
    checksums : ``md5``, ``sha256`` to the expected hex digits. A `target` already there is only checked.
    advance : told (bytes done, bytes in all), where the server says how many.
    most : bytes that are taken of a file of unknown size; None for as many as there is room for.

    Returns
    -------
    What vouches for the file, for people.

    Raises
    ------
    DataError for an address that is not there or leads nowhere, for an encoded answer, and for a wrong size, checksum
    or content (the wrong file is not kept, but one that was already there under its final name is). MlbenchError where
    the server or the disk fails for good.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme not in ("http", "https"):
        raise UsageError(f"{url}: expected an address that begins with http:// or https://")
    checksums, patience = checksums or {}, patience or Patience()
    if target.exists():
        return check_file(target, size, checksums)
    part = _Part(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for again in (True, False):
            _fetch_all(url, part, size, advance, patience, most)
            try:
                vouched = check_file(part.path, size, checksums, url, target.name)
                break
            except DataError:
                part.remove()
                if not (again and part.doubtful):  # one piece of the announced length is the server's file
                    raise
        os.replace(part.path, target)
        part.remove()
        return vouched
    except OSError as error:
        raise MlbenchError(f"{target}: cannot be written ({error.strerror or error})") from None


def check_file(path: Path, size: int | None, checksums: Mapping[str, str], url: str = "", name: str = "") -> str:
    """DataError unless the file has this size and these checksums, and without any, opens as what its name says.

    Returns what vouches for it, for people. `url` is where it was fetched, `name` what it will be called.
    """
    where = f"{url}: what was fetched" if url else str(path)
    found = path.stat().st_size
    if size is not None and found != size:
        raise DataError(f"{where} has {found} bytes, expected {size}")
    for kind, expected in checksums.items():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, kind).hexdigest()
        if digest != expected.lower():
            raise DataError(f"{where} has {kind} {digest}, expected {expected}")
    if checksums:
        return " and ".join(checksums)
    known = "no published checksum" if size is None else "of the published size, no published checksum"
    opened = check_content(path, name or path.name, where)
    return f"{known}: could not be verified" + (f"; it opens as {opened}" if opened else "")


class _Part:
    """The unfinished file and, beside it, what the server called the version it is part of.

    `doubtful`: it may be of two versions, or cut where the server had not said how long it is.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.about = target.with_name(f"{target.name}.part.json")
        self.doubtful = False

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self, url: str) -> str | None:
        """Strong ETag or date of the version at `url` that the part belongs to; None if it cannot be continued."""
        try:
            about = json.loads(self.about.read_text())
        except (OSError, ValueError):
            return None
        known = about.get("validator") if isinstance(about, dict) and about.get("url") == url else None
        return known if isinstance(known, str) and _VALIDATOR.fullmatch(known) else None

    def begin(self, url: str, headers: Any, doubtful: bool) -> None:
        etag, date = headers.get("ETag", ""), headers.get("Last-Modified")
        validator = etag if etag and not etag.startswith("W/") else date
        self.doubtful = doubtful
        self.path.write_bytes(b"")
        self.about.write_text(json.dumps({"url": url, "validator": validator}))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)


def _fetch_all(
    url: str, part: _Part, size: int | None, advance: Advance | None, patience: Patience, most: int | None
) -> None:
    """Try until the part is whole; attempts are counted while none gets further than those before."""
    failed, furthest = 0, part.bytes
    while True:
        try:
            _fetch(url, part, size, advance, patience, most)
            return
        except _Retry as reason:
            failed = 0 if part.bytes > furthest else failed + 1
            furthest = max(furthest, part.bytes)
            if failed >= patience.attempts:
                raise MlbenchError(
                    f"{url}: {reason}; gave up after {failed} attempts. What was fetched is kept: run it again to go on"
                ) from None
            time.sleep(min(patience.pause * 2 ** max(failed - 1, 0), 60))


def _fetch(
    url: str, part: _Part, size: int | None, advance: Advance | None, patience: Patience, most: int | None
) -> None:
    """One request; appends to the part, or begins it anew where the server gives the whole file."""
    headers = {"User-Agent": f"mlbench/{__version__}", "Accept-Encoding": "identity"}
    start, validator = part.bytes, part.validator(url)
    asked = bool(start and validator)
    total: int | None
    if asked:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(validator)}
    opener = urllib.request.build_opener(_Redirects)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=patience.timeout) as answer:
            if answer.status not in (200, 206):
                raise _Retry(f"{answer.status} {_told(answer.reason)}, without the file")
            _refuse_encoded(answer, url, part)
            if answer.status == 206:
                total = _continued(answer.headers, start, part, validator if asked else None)
            else:
                start, total = 0, _length(answer)
                part.begin(url, answer.headers, doubtful=total is None and not answer.chunked)
            if size is not None and total is not None and total != size:
                part.remove()
                raise DataError(f"{url}: the server's file has {total} bytes, expected {size}")
            if most is not None and total is not None and total > most:
                part.remove()
                raise DataError(f"{url}: {total:,} bytes, expected at most {most:,}")
            _receive(answer, part, start, size if total is None else total, url, advance, most)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is not a beginning of the server's file
            part.remove()
            raise _Retry("the server has no such range") from None
        if error.code in _AGAIN:
            raise _Retry(f"{error.code} {_told(error.reason)}") from None
        raise DataError(f"{url}: {error.code} {_told(error.reason)}") from None
    except (ValueError, http.client.InvalidURL) as error:
        raise DataError(f"{url}: leads to no web address ({_told(error)})") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DataError(f"{url}: {reason.verify_message or reason}") from None
        raise _Retry(_told(reason) or type(error).__name__) from None


def _told(reason: object) -> str:
    """A server's words in one line, which steers no terminal and has an end."""
    text = visible(" ".join(str(reason).split()))
    return text if len(text) <= 200 else f"{text[:200]}..."


def _refuse_encoded(answer: http.client.HTTPResponse, url: str, part: _Part) -> None:
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    own = encoding in ("gzip", "x-gzip") and part.path.name.removesuffix(".part").endswith(_OWN_GZIP)
    if encoding not in ("", "identity") and not own:
        part.remove()
        raise DataError(f"{url}: the server sends the file encoded ({_told(encoding)}), though asked not to")


def _length(answer: http.client.HTTPResponse) -> int | None:
    """Bytes of the body, as far as the server says; what is sent in chunks ends with them."""
    announced = answer.headers.get("Content-Length", "").strip()
    return int(announced) if re.fullmatch(r"[0-9]{1,18}", announced) and not answer.chunked else None


def _continued(headers: Any, start: int, part: _Part, validator: str | None) -> int:
    """Size of the whole file by a 206 answer, which must go on where the part ends, and with the same file.

    `validator` is the version that was asked for, None if no range was asked for at all.
    """
    content_range = headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", content_range)
    if not found or int(found[1]) != start or validator is None:
        part.remove()
        raise _Retry(f"the server answered with another range than asked for ('{_told(content_range)}')")
    if headers.get("ETag" if validator.startswith('"') else "Last-Modified", validator) != validator:
        part.remove()
        raise _Retry("the server went on with another version of the file")
    part.doubtful = True
    return int(found[2])


def _receive(
    answer: http.client.HTTPResponse,
    part: _Part,
    start: int,
    total: int | None,
    url: str,
    advance: Advance | None,
    most: int | None,
) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if total is not None and total - start > free:
        raise MlbenchError(f"{part.path.parent}: {total - start} bytes to fetch, but only {free} free")
    done = start
    # Bytes that arrived before a break are on disk when it is noticed, so that the next attempt goes on behind them.
    with part.path.open("ab") as file:
        while chunk := answer.read1(_CHUNK):
            if total is not None and done + len(chunk) > total:
                part.remove()
                raise DataError(f"{url}: the server sends more than {total} bytes")
            if most is not None and done + len(chunk) > most:
                part.remove()
                raise DataError(f"{url}: the server sends more than {most:,} bytes")
            if done + len(chunk) - start > free:
                part.remove()
                raise MlbenchError(f"{url}: the server sends more than the {free} bytes that are free")
            file.write(chunk)
            done += len(chunk)
            if advance is not None and total is not None:
                advance(done, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise _Retry(f"the connection ended after {done} of {total} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects, never from https to http."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise DataError(f"{req.full_url}: redirected to {_told(newurl)}, which is not encrypted")
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise DataError(f"{req.full_url}: redirected to {_told(newurl)}, which is no web address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def megabytes(tell: Callable[[int, int], None]) -> Advance:
    """Count bytes in steps of 10**6 for a progress bar that shows MB."""
    shown = -1

    def advance(done: int, total: int) -> None:
        nonlocal shown
        now = done // 10**6
        if now != shown and now > 0:
            shown = now
            tell(now, max(total // 10**6, 1))

    return advance
