"""Bad submissions: each is refused in one line that says why, and not a byte of the store changes."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Bomb:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch PWNED",)


def changed(row: int, column: int, value: str) -> Callable[..., Any]:
    """A CSV with one field changed (row 0 is the header)."""

    def make(desk):
        rows = desk.rows()
        rows[row][column] = value
        return desk.write_csv(rows)

    return make


def scored(change: Callable[[np.ndarray], np.ndarray], **card: Any) -> Callable[..., Any]:
    """A safetensors file whose scores went through `change`, with changes of the card."""
    return lambda desk: (desk.write_safetensors(np.ascontiguousarray(change(desk.scores))), desk.write_card(**card))


def carded(**card: Any) -> Callable[..., Any]:
    return lambda desk: (desk.write_csv(), desk.write_card(**card))


def text_card(text: str) -> Callable[..., Any]:
    """A card with `text` before its good lines."""
    return lambda desk: (desk.write_csv(), desk.write_card(text + desk.write_card().read_text()))


def raw(name: str, data: bytes) -> Callable[..., Any]:
    def make(desk):
        path = desk.folder / name
        path.write_bytes(data)
        return path

    return make


def recoded(change: Callable[[bytes], bytes], form: str = "csv") -> Callable[..., Any]:
    """A good file whose bytes went through `change`."""

    def make(desk):
        path = getattr(desk, f"write_{form}")()
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def header(table: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + data


def nested(levels: int) -> bytes:
    """The header of a safetensors file that holds lists in lists."""
    text = b"[" * levels + b"]" * levels
    text = b'{"scores": {"dtype": ' + text + b"}}"
    return len(text).to_bytes(8, "little") + text


def one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(scores: np.ndarray) -> np.ndarray:
        scores = scores.copy()
        scores[5, 1] = value
        return scores

    return change


def squash(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


def constant_class(scores: np.ndarray) -> np.ndarray:
    scores = scores.copy()
    scores[:, 2] = 0.25
    return scores


def zip_bomb() -> bytes:
    """An .npz of 64 MiB of zeros in 64 KiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.npy", bytes(64 * 2**20))
    return buffer.getvalue()


def large(desk):
    """A file of 5 GB that takes no room on the disk."""
    path = desk.folder / "predictions.csv"
    with open(path, "wb") as file:
        file.truncate(5_000_000_000)
    return path


def linked(desk):
    path = desk.write_csv().rename(desk.folder / "elsewhere.csv")
    (desk.folder / "predictions.csv").symlink_to(path)
    return desk.folder / "predictions.csv"


def folder(desk):
    (desk.folder / "predictions.csv").mkdir()
    return desk.folder / "predictions.csv"


def pipe(desk):
    os.mkfifo(desk.folder / "predictions.csv")
    return desk.folder / "predictions.csv"


def linked_card(desk):
    path = desk.write_card().rename(desk.folder / "real.toml")
    (desk.folder / "card.toml").symlink_to(path)
    return desk.write_csv(), desk.folder / "card.toml"


def repeated_row(desk):
    rows = desk.rows()
    return desk.write_csv([*rows[:-1], rows[1]])


def extra_row(desk):
    return desk.write_csv([*desk.rows(), ["new.png", "1", "2", "3"]])


def swapped_classes(desk):
    return desk.write_csv([[row[0], row[2], row[1], row[3]] for row in desk.rows()])


def without_class(desk):
    return desk.write_csv([row[:3] for row in desk.rows()])


def parquet_of_texts(desk):
    return desk.write_parquet(red=[str(number) for number in range(len(desk.ids))])


def parquet_with_nulls(desk):
    return desk.write_parquet(red=[None, *map(float, desk.scores[1:, 0])])


def parquet_bomb(desk):
    """A column of 50 million zeros in a few KiB."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow, an extra, is not installed")
    import pyarrow.parquet as pq

    path = desk.folder / "predictions.parquet"
    zeros = pa.array(np.zeros(5_000_000, dtype=np.float32))
    ids = pa.DictionaryArray.from_arrays(np.zeros(5_000_000, dtype=np.int32), ["a"]).cast(pa.string())
    pq.write_table(pa.table({"id": ids, **dict.fromkeys(desk.classes, zeros)}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    return path


def parquet_long_ids(desk):
    """As many rows as there should be, each id a text of 1 MB: 120 MB in a file of a few KiB."""
    return desk.write_parquet(id=["x" * 1_000_000] * len(desk.ids))


def parquet_nested(levels: int) -> Callable[..., Any]:
    """A class whose scores are structures in structures."""

    def make(desk):
        pa = pytest.importorskip("pyarrow", reason="pyarrow, an extra, is not installed")
        kind, value = pa.float32(), 1.0
        for _ in range(levels):
            kind, value = pa.struct([("a", kind)]), {"a": value}
        return desk.write_parquet(red=pa.array([value] * len(desk.ids), kind))

    return make


def parquet_schema(levels: int) -> Callable[..., Any]:
    """A footer in Thrift's compact form whose schema is as deep as no writer makes it."""

    def make(desk):
        count, size = levels + 1, b""
        while count > 127:
            size, count = size + bytes([count & 127 | 128]), count >> 7
        group, leaf = b"\x35\x02\x18\x01a\x15\x02\x00", b"\x15\x08\x25\x02\x18\x01b\x00"
        footer = b"\x15\x02\x19\xfc" + size + bytes([count]) + group * levels + leaf + b"\x16\x00\x19\x0c\x00"
        path = desk.folder / "predictions.parquet"
        path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        return path

    return make


PICKLE = pickle.dumps(Bomb(), protocol=4)
BOM = b"\xef\xbb\xbf"
TENSOR = {"dtype": "F32", "shape": [120, 3], "data_offsets": [0, 1440]}

#: What is handed in (a function of the desk), and what the refusal says.
BAD: dict[str, tuple[Callable[..., Any], str]] = {
    # the file
    "empty file": (raw("p.csv", b""), "is empty"),
    "no such file": (lambda desk: desk.folder / "none.csv", "No such file"),
    "wrong ending": (raw("p.xlsx", b"x"), r"predictions end in .safetensors, .csv, .parquet, not '.xlsx'"),
    "npz": (raw("p.npz", zip_bomb()), r"predictions end in .*, not '.npz'"),
    "pickle": (raw("p.pkl", PICKLE), r"predictions end in .*, not '.pkl'"),
    "symbolic link": (linked, "is a symbolic link"),
    "folder": (folder, "no plain file|Is a directory"),
    "pipe": (pipe, "is no plain file"),
    "5 GB file": (large, "5,000,000,000 bytes; a .csv file has at most"),
    "zip bomb as safetensors": (raw("p.safetensors", zip_bomb()), "is a zip archive"),
    "zip bomb as parquet": (raw("p.parquet", zip_bomb()), "is a zip archive"),
    "gzip as csv": (raw("p.csv", gzip.compress(b"id,red\n" * 9)), "is a gzip file"),
    "pickle as npz as safetensors": (raw("p.safetensors", PICKLE), "is a pickle, which is never loaded"),
    "pickle without a header as safetensors": (raw("p.safetensors", pickle.dumps(Bomb(), 0)), "cut short or no safet"),
    # safetensors
    "truncated safetensors": (recoded(lambda data: data[:-7], "safetensors"), "not a whole safetensors file"),
    "truncated to 5 bytes": (recoded(lambda data: data[:5], "safetensors"), "cut short"),
    "5 GB header": (raw("p.safetensors", (5 * 10**9).to_bytes(8, "little") + b"{}"), "a header of 5,000,000,000 bytes"),
    "header of 2^64-1": (raw("p.safetensors", b"\xff" * 8 + b"{}"), "a header of 18,446,744,073,709,551,615 bytes"),
    "nested header": (raw("p.safetensors", (10**5).to_bytes(8, "little") + b"[" * 10**5), "the header is not JSON"),
    "tensor named as a path": (
        raw("p.safetensors", header({"../../x": TENSOR}, bytes(1440))),
        "expected one, 'scores'",
    ),
    "tensor larger than the file": (
        raw("p.safetensors", header({"scores": {**TENSOR, "data_offsets": [0, 2**40]}})),
        "not a whole safetensors file",
    ),
    "no ids": (lambda desk: desk.write_safetensors(ids=None), "metadata 'ids' is missing"),
    "ids no list": (lambda desk: desk.write_safetensors(ids='{"a": 1}'), "'ids' is no JSON list of texts"),
    "fewer ids than rows": (lambda desk: desk.write_safetensors(ids='["a"]'), r"scores have shape '?\[120, 3\]"),
    "float16": (scored(lambda s: s.astype(np.float16)), "scores are 'F16': expected F32 or F64"),
    "integers": (scored(lambda s: s.astype(np.int64)), "scores are 'I64'"),
    "metadata of another split": (lambda desk: desk.write_safetensors(split="val"), "split = 'val'; expected 'test'"),
    "metadata of another data set": (lambda desk: desk.write_safetensors(dataset="voc"), "dataset = 'voc'"),
    "metadata of another kind": (lambda desk: desk.write_safetensors(kind="rank"), "kind = 'rank'; expected 'logit'"),
    # the scores
    "NaN": (scored(one(np.nan)), r"score of id '005.png', class '\w+' is nan"),
    "infinity": (scored(one(np.inf)), "is inf: expected a finite number"),
    "too large for 32 bits": (scored(lambda s: one(1e300)(s.astype(np.float64))), "is inf: expected a finite"),
    "negative probability": (scored(lambda s: one(-0.01)(squash(s)), kind="probability"), "expected a probability"),
    "probability above 1": (scored(lambda s: one(1.01)(squash(s)), kind="probability"), "expected a probability"),
    "logits called probabilities": (scored(lambda s: s, kind="probability"), "expected a probability from 0 to 1"),
    "constant": (scored(lambda s: s * 0), "3 classes have one score for all samples"),
    "one constant class": (scored(constant_class), "1 classes have one score for all samples"),
    "float16 in 32 bits": (
        scored(lambda s: (squash(s) + 8).astype(np.float16).astype(np.float32)),
        "all are 16-bit numbers",
    ),
    "rounded to 2 digits": (scored(lambda s: np.round(squash(s), 2), kind="probability"), "rounded or quantised"),
    "decisions for scores": (scored(lambda s: (s > 0).astype(np.float32)), r"360 scores \(100 %\).*all are 16-bit"),
    # ids and classes
    "wrong id": (changed(3, 0, "../../etc/passwd"), "1 ids are not of the test part: '../../etc/passwd'; 1 of 120"),
    "id of the training part": (changed(3, 0, "125.png"), "1 ids are not of the test part: '125.png'"),
    "missing id": (lambda desk: desk.write_csv(desk.rows()[:-1]), "1 of 120 ids are missing: '119.png'"),
    "extra id": (extra_row, "line 122: more rows than the 120 test samples"),
    "id twice": (repeated_row, "1 id names stand more than once: '000.png'"),
    "wrong class order": (swapped_classes, "classes are in another order: class 1 is"),
    "missing class": (without_class, "1 of 3 classes are missing"),
    "unknown class": (changed(0, 1, "purple"), "class 'purple' is not of this data set"),
    "class twice": (changed(0, 1, "green"), "1 class names stand more than once: 'green'"),
    # CSV
    "cut short in a row": (recoded(lambda data: data[: data.rindex(b",")]), "line 121: 3 fields, the header has 4"),
    "text in scores": (changed(7, 2, "=cmd|' /C calc'!A0"), "line 8, class .* is no finite number"),
    "nan in text": (changed(7, 2, "nan"), "line 8, class 'green': 'nan' is no finite number"),
    "infinity in text": (changed(7, 2, "-Infinity"), "is no finite number"),
    "empty field": (changed(7, 2, ""), "line 8, class 'green': '' is no finite number"),
    "huge integer": (changed(7, 2, "9" * 5000), "longer than|no finite number"),
    "huge exponent": (changed(7, 2, "1e999"), "is inf: expected a finite number"),
    "digits of another script": (changed(7, 2, "٣"), "is no finite number"),
    "underscores": (changed(7, 2, "1_0"), "is no finite number"),
    "byte order mark": (recoded(lambda data: BOM + data), "begins with a byte order mark"),
    "UTF-16": (recoded(lambda data: data.decode().encode("utf-16")), "begins with a byte order mark"),
    "not UTF-8": (recoded(lambda data: data.replace(b"003.png", b"\xff03.png")), "line 5: not UTF-8"),
    "no header": (lambda desk: desk.write_csv(desk.rows()[1:]), "line 1: the first column is '000.png': expected 'id'"),
    "header alone": (lambda desk: desk.write_csv(desk.rows()[:1]), "120 of 120 ids are missing"),
    "line without end": (recoded(lambda data: data + b"1" * 10_000), "line 122: longer than"),
    "open quote": (changed(2, 0, '"001.png'), "not CSV|fields, the header has"),
    "empty line": (recoded(lambda data: data.replace(b"\n", b"\n\n", 1)), "line 2: is empty"),
    "NUL": (recoded(lambda data: data.replace(b"003.png", b"003\0png")), "are not of the test part"),
    "an HTML page": (raw("p.csv", b"<!doctype html><p>Sign in"), "line 1: the first column is '<!doctype html>"),
    # Parquet
    "truncated parquet": (recoded(lambda data: data[:-20], "parquet"), "not a whole Parquet file"),
    "broken parquet": (recoded(lambda data: data[:200] + b"\xff" * 99 + data[299:], "parquet"), "Parquet|memory|rows"),
    "texts in parquet": (parquet_of_texts, "column 'red' is 'string': expected float or double"),
    "nulls in parquet": (parquet_with_nulls, "1 empty fields"),
    "parquet bomb in rows": (parquet_bomb, "5,000,000 rows; the test part has 120"),
    "parquet bomb in texts": (parquet_long_ids, "its ids take 120,[0-9,]+ bytes"),
    "nested parquet": (parquet_nested(90), "columns|column 'red'|Parquet"),
    "a schema 20,000 levels deep": (parquet_schema(20_000), "broke the reader|Parquet|rows"),
    # the card
    "no card": (lambda desk: (desk.write_csv(), desk.folder / "none.toml"), "No such file"),
    "card no TOML": (text_card("<html>\n"), "not TOML"),
    "card as JSON": (lambda desk: (desk.write_csv(), raw("card.json", b"{}")(desk)), "a card is a .toml file"),
    "card not UTF-8": (lambda desk: (desk.write_csv(), raw("card.toml", b'name = "\xff"')(desk)), "not UTF-8"),
    "card of 1 MB": (text_card("#" * 2**20 + "\n"), "a card file has at most 65,536"),
    "nested card": (text_card("x = " + "[" * 30_000 + "\n"), "not TOML"),
    "linked card": (linked_card, "is a symbolic link"),
    "key missing": (carded(kind=None), "key 'kind' is missing"),
    "key unknown": (carded(titel="x"), "unknown key 'titel'. Did you mean 'title'"),
    "key twice": (text_card('name = "x"\n'), "not TOML"),
    "data set key missing": (carded(dataset_fingerprint=None), "key 'dataset.fingerprint' is missing"),
    "path in the name": (carded(name="../../results/runs/llr"), "name = '../../results/runs/llr': expected"),
    "name of ours": (carded(name="submitted/x"), "name = 'submitted/x': expected"),
    "name that ends a line": (carded(name="x\n"), r"name = 'x\\n': expected"),
    "version no number": (carded(version="1"), "version = '1': expected a whole number"),
    "version true": (carded(version=True), "version = True: expected a whole number"),
    "unknown kind": (carded(kind="odds"), "kind = 'odds': expected one of"),
    "unknown supervision": (carded(supervision=["everything"]), "supervision: 'everything'"),
    "HTML in the title": (carded(title="<script>alert(1)</script>"), r"the character '<' \(U\+003C\) is not allowed"),
    "HTML in an author": (carded(authors=['A" onload="x']), r"the character '\"' \(U\+0022\)"),
    "entity in the title": (carded(title="A &lt;b&gt;"), "the character '&'"),
    "LaTeX in the title": (carded(title=r"\input{/etc/passwd}"), r"the character '\\\\' \(U\+005C\)"),
    "LaTeX in the backbone": (carded(backbone="x $\\write18{rm}$"), "is not allowed"),
    "Markdown in the title": (carded(title="[click](x)"), "the character '\\['"),
    "formula in the title": (carded(title="=1+1"), "expected a letter or digit first"),
    "direction override": (carded(title="abc\u202edef"), r"U\+202E"),
    "terminal escape": (carded(title="abc\u001b]0;x"), r"not TOML|U\+001B"),
    "script in the source": (carded(source="javascript:alert(1)"), "expected the http or https address"),
    "markup in the source": (carded(source='https://x.org/"><b>'), "expected the http or https address"),
    "long title": (carded(title="a" * 201), "expected a text of 1 to 200"),
    "other data set": (carded(dataset_id="scenes"), "dataset.id = 'scenes'; the data set here has 'mine'"),
    "other version": (carded(dataset_version="0"), "dataset.version = '0'; the data set here has"),
    "other fingerprint": (carded(dataset_fingerprint="0" * 64), "dataset.fingerprint = '0+'; the data set here has"),
    "dotted keys": (text_card("a" + ".a" * 31_000 + " = 1\n"), "not TOML: .*line 1: 31,000 dots, expected at most"),
    "dotted quoted keys": (text_card("x = 1\n" + "[''" + ".''" * 15_000 + "]\n"), "line 2: 15,000 dots"),
    "many dotted keys": (text_card("".join(f"k{n}{'.a' * 500} = 1\n" for n in range(60))), "nested deeper than 16"),
    "nested lists": (text_card("title = " + "[" * 30_000 + "\n"), "nested deeper than 16 levels"),
    "nested tables": (text_card("x = " + "{a = " * 10_000 + "\n"), "nested deeper than 16 levels"),
    "nested and closed": (text_card("x = " + "[" * 200 + "]" * 200 + "\n"), "nested deeper than 16 levels"),
    "nested JSON": (raw("predictions.safetensors", nested(100_000)), "the header is not JSON: .*nested deeper"),
    "nested JSON that can be read": (raw("predictions.safetensors", nested(800)), "nested deeper than 16 levels"),
    "nested JSON in the metadata": (
        raw(
            "predictions.safetensors",
            header(
                {
                    "__metadata__": {"ids": "[" * 90_000, "classes": "[]"},
                    "scores": {"dtype": "F32", "shape": [0, 0], "data_offsets": [0, 0]},
                }
            ),
        ),
        "metadata 'ids' is not JSON: .*nested deeper",
    ),
    "digits without end in JSON": (
        raw("predictions.safetensors", (5000).to_bytes(8, "little") + b"9" * 5000),
        "the header is not JSON",
    ),
    "terminal escapes in the file's name": (
        lambda desk: desk.write_csv().rename(desk.folder / "p\x1b[2J\u202e.txt"),
        r"/p\\x1b\[2J\\u202e\.txt: predictions end in",
    ),
    "reported above 100": (text_card("reported = {mAP = 101}\n"), "reported.mAP = 101: expected a number"),
    "reported huge": (text_card(f"reported = {{mAP = 1{'0' * 400}}}\n"), "reported.mAP = 10*.*: expected a number"),
    "reported markup": (text_card('reported = {"<b>" = 1}\n'), "reported: '<b>'"),
}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_with_its_reason_and_the_store_stays(name: str, desk, store: Path, send, monkeypatch) -> None:
    monkeypatch.chdir(desk.folder)
    make, reason = BAD[name]
    made = make(desk)
    predictions, card = made if isinstance(made, tuple) else (made, None)
    before = snapshot(store)
    code, out, err = send(predictions, card)
    assert code in (1, 2)
    assert out == ""
    assert re.fullmatch(r"error: [^\n]*\n", err), err
    assert re.search(reason, err), err
    assert len(err) < 700
    assert snapshot(store) == before
    assert not (desk.folder / "PWNED").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"protocol": "single_postive"}, "unknown protocol 'single_postive'.*Did you mean 'single_positive'"),
        ({"protocol": "../x.toml"}, "x.toml"),
        ({"dataset": "senes"}, "unknown data set 'senes'"),
        ({"seed": -1}, "expected whole numbers from 0"),
    ],
)
def test_wrong_use_is_refused_too(options: dict[str, Any], reason: str, desk, store: Path, send) -> None:
    before = snapshot(store)
    code, _, err = send(desk.write_csv(), **options)
    assert code == 2
    assert re.search(reason, err), err
    assert snapshot(store) == before


def test_a_refused_submission_does_not_even_make_a_store(desk, send) -> None:
    assert send(desk.write_csv(desk.rows()[:-1]))[0] == 1
    assert not desk.store.exists()
