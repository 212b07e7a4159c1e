"""What all attacks share: hostile texts, spoilt bytes, the command line as it answers, and what counts as held."""

from __future__ import annotations

import contextlib
import io
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from mlbench.errors import MlbenchError, visible

#: One try: draws what it does, in an empty folder of its own; "refused" or "taken", or an AssertionError, or whatever
#: else got through.
Attack = Callable[[random.Random, Path], str]

TEXTS = [
    *('"><script>alert(1)</script>', "' onload='alert(1)", "javascript:alert(1)", "</script>", "{{7*7}}", "{% raw %}"),
    *(
        "\\input{/etc/passwd}",
        "$\\write18{touch PWNED}$",
        "[a](javascript:alert(1))",
        "|x|",
        "=1+1",
        "@SUM(1)",
        "+1",
        "-1",
    ),
    *("\x1b]0;x\x07", "\x1b[2J\x9b31m", "a\rb", "a\nb", "\u202eltr\u2066", "\u200f\u061c", "\u2028", "\x00", "\ufffe"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "..",
        ".",
        "",
        " ",
        "a" * 300,
        "caf\u00e9",
        "cafe\u0301",
        "1e5",
        "nan",
    ),
    *("%s%n", "${HOME}", "$(touch PWNED)", "`touch PWNED`", "; rm x", "'", '"', "--help", "-x", "\U0001f600", "\ud800"),
]
_FRAGMENTS = [
    *(b'"', b"'", b"\n", b"\r", b",", b"[", b"]", b"{", b"}", b"=", b"|", b"\\", b"\x00", b"\xff", b"\x1b[2J"),
    *(b"../../", b"9" * 5000, b"1e999", b"nan", b"null", b"true", b"-0", b"[" * 3000, b'{"a":' * 3000, b"\\ud800"),
    *(b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\x80\x04\x95", b"PK\x03\x04", b"<!doctype html>", b"a.b." * 200),
]


def spoilt(draw: random.Random, content: bytes) -> bytes:
    """`content` with some places flipped, replaced, cut out or doubled; now and then cut short, or any bytes at all."""
    if draw.random() < 0.05:
        return draw.randbytes(draw.randrange(300))
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        start = draw.randint(0, len(changed))
        stop = min(len(changed), start + draw.randrange(1, 12))
        how = draw.randrange(5)
        if how == 0 and start < len(changed):
            changed[start] ^= 1 << draw.randrange(8)
        elif how == 1:
            changed[start:stop] = draw.choice(_FRAGMENTS)
        elif how == 2:
            changed[start:stop] = draw.randbytes(draw.randrange(8))
        elif how == 3:
            changed[start:start] = changed[start : start + draw.choice([1, 8, 64, 512])]
        elif draw.random() < 0.2:
            del changed[start:]
    return bytes(changed)


def attempt(call: Callable[[], object]) -> str:
    """ "taken", or "refused" where `call` ends in an error for people; all else goes through."""
    try:
        call()
    except MlbenchError as error:
        text = " ".join(str(error).split())
        assert text, "an error that says nothing"
        assert len(text) < 3000, f"an error of {len(text)} characters"
        return "refused"
    return "taken"


def command(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``mlbench WORDS`` in this process; what is no error for people goes through."""
    from mlbench.cli.main import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    given = mock.patch.object(sys, "argv", ["mlbench", *map(str, words)])
    with given, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    for text in (out.getvalue(), err.getvalue()):
        assert visible(text) == text, f"steers the terminal: {text!a}"
    return code, out.getvalue(), err.getvalue()


def told(*words: object) -> str:
    """As `attempt`, for a command: one line of error and exit status 1 or 2, or success."""
    code, out, err = command(*words)
    if code == 0:
        return "taken"
    assert code in (1, 2), f"exit status {code}"
    last = err.strip().splitlines()[-1] if err.strip() else ""
    assert re.match(r"(error|Error): .", last), f"no error for people: {err[-500:]!r}"
    assert "Traceback" not in out + err
    return "refused"


def state(folder: Path) -> dict[str, bytes | str]:
    """All that lies in `folder`, with its content."""
    return {
        str(path.relative_to(folder)): "link"
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }
