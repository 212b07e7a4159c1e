"""A fetched file opened as what it should be: all that can be said of it where no checksum is published."""

from __future__ import annotations

import warnings
from pathlib import Path

from mlbench.acquire.archives import is_archive, read_whole
from mlbench.datasets.reading import read_json
from mlbench.errors import DataError

_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_PAGES = (b"<!doctype html", b"<html")


def check_content(path: Path, name: str, where: str) -> str:
    """What the file at `path`, to be called `name`, opens as; empty where nothing can be said of such a name.

    An archive is read to its end, a picture decoded, JSON parsed.

    Raises
    ------
    DataError, which begins with `where`, for a file that is none of these though its name says so, for an empty one,
    and for a web page under another name, as servers send for what is not there or asks to sign in.
    """
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not path.stat().st_size:
        raise DataError(f"{where} is empty")
    ending = Path(name).suffix.lower()
    if start.startswith(_PAGES) and ending not in (".htm", ".html", ".xhtml"):
        raise DataError(f"{where} is a web page, not '{name}'")
    try:
        if is_archive(name):
            count = read_whole(path, name=name)
            return f"a whole archive of {count:,} file{'s' * (count != 1)}"
        if ending == ".json":
            read_json(path, keep=())
            return "JSON"
    except DataError as error:
        raise DataError(f"{where} is no whole {ending} ({str(error).removeprefix(f'{path}: ')})") from None
    if ending in _PICTURES:
        return _picture(path, where)
    return ""


def _picture(path: Path, where: str) -> str:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                picture.load()
                return f"a picture of {picture.width} x {picture.height}"
    except Exception as error:
        raise DataError(f"{where} is no whole picture ({error or type(error).__name__})") from None
