"""Submissions and their cards, spoilt and forged: refused with the store as it was, or scored as they stand."""

from __future__ import annotations

import atexit
import io
import json
import math
import random
import shutil
import struct
import tempfile
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hostile import TEXTS, attempt, spoilt, state, told
from PIL import Image

from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset
from mlbench.evaluation.predictions import read_predictions
from mlbench.store import find_records, run_dir
from mlbench.submit.card import LONGEST_TEXT, read_card

N, CLASSES = 24, ("red", "green", "blue")
_FORMS = ("csv", "csv", "csv", "safetensors", "safetensors", "safetensors", "parquet")


@cache
def data_set() -> tuple[Path, Dataset]:
    """The description of 26 tiny pictures, 24 of them test images, with three classes."""
    folder, draw = Path(tempfile.mkdtemp(prefix="attack-")), random.Random(0)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "pictures").mkdir()
    lines = ["file,split,labels"]
    for number in range(N + 2):
        names = [name for c, name in enumerate(CLASSES) if draw.random() < 0.5 or number % 3 == c]
        lines.append(f"{number:02d}.png,{'test' if number < N else 'train'},{'|'.join(names)}")
        Image.new("RGB", (2, 2), (number, 0, 0)).save(folder / "pictures" / f"{number:02d}.png")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (path := folder / "mine.toml").write_text(
        'id = "mine"\nlabels = "labels.csv"\nimages = "pictures"\ncolumns = { split = "split" }\nseparator = "|"\n'
    )
    return path, load_dataset(str(path))


def good_card() -> str:
    _, data = data_set()
    return (
        'name = "theirs"\nversion = 1\ntitle = "A method of theirs"\nauthors = ["Zo\u00eb", "N. N."]\nkind = "logit"\n'
        'supervision = ["observed"]\nbackbone = "ResNet-50"\nsource = "https://example.org/p?id=7"\n[dataset]\n'
        f'id = "{data.id}"\nversion = "{data.version}"\nfingerprint = "{data.fingerprint}"\n'
    )


def write(folder: Path, form: str = "csv", card: str | None = None, seed: int = 0) -> tuple[Path, Path]:
    """A good submission: its predictions and its card."""
    _, data = data_set()
    path, ids = folder / f"predictions.{form}", list(data.splits["test"].ids)
    scores = np.random.default_rng(seed).normal(size=(N, len(CLASSES))).astype(np.float32)
    if form == "csv":
        rows = [
            ["id", *data.classes],
            *([name, *map(repr, map(float, row))] for name, row in zip(ids, scores, strict=True)),
        ]
        path.write_text("".join(",".join(row) + "\n" for row in rows))
    elif form == "safetensors":
        from safetensors.numpy import save

        path.write_bytes(save({"scores": scores}, {"ids": json.dumps(ids), "classes": json.dumps(data.classes)}))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        made = io.BytesIO()
        pq.write_table(pa.table({"id": ids, **{name: scores[:, c] for c, name in enumerate(data.classes)}}), made)
        path.write_bytes(made.getvalue())
    (folder / "card.toml").write_text(good_card() if card is None else card, encoding="utf-8", errors="surrogatepass")
    return path, folder / "card.toml"


def submit(predictions: Path, card: Path, store: Path) -> str:
    described, _ = data_set()
    given = ("--protocol", "single_positive", "--dataset", described, "--card", card, "--store", store)
    return told("submit", predictions, *given)


def submissions(draw: random.Random, folder: Path) -> str:
    form = draw.choice(_FORMS)
    path, card = write(folder, form, seed=draw.randrange(5))
    good = path.read_bytes()
    content = _forged(draw, good) if form == "safetensors" and draw.random() < 0.5 else spoilt(draw, good)
    if form == "csv" and draw.random() < 0.4:
        rows = [line.split(",") for line in good.decode().splitlines()]
        rows[draw.randrange(len(rows))][draw.randrange(len(rows[0]))] = draw.choice(TEXTS)
        content = "".join(",".join(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    path.write_bytes(content)
    before = state(folder)
    outcome = submit(path, card, folder / "store")
    if outcome == "refused":
        assert state(folder) == before, "a refused submission left something"
        return outcome
    (record,), problems = find_records(folder / "store")
    assert problems == []
    values = [value for value in record["results"]["test"].values() if value is not None]
    assert values, "a record without numbers"
    assert all(math.isfinite(value) for value in values), "a record with numbers that are none"
    stored = record["predictions"]["test"]
    kept = read_predictions(run_dir(folder / "store", record["key"]) / stored["file"], stored["sha256"])
    _, data = data_set()
    assert kept.ids == tuple(data.splits["test"].ids)
    assert kept.classes == tuple(data.classes)
    if form == "csv":  # read once more as any other reader would
        found = {row.split(",")[0].strip('"'): row.split(",")[1:] for row in content.decode().split("\n")[1:] if row}
        again = np.array([[float(v.strip('\r"')) for v in found[name]] for name in kept.ids], dtype=np.float64)
        np.testing.assert_array_equal(kept.scores, again.astype(np.float32))
    return outcome


def _forged(draw: random.Random, good: bytes) -> bytes:
    """A safetensors file whose header says something else than is true."""
    size = int.from_bytes(good[:8], "little")
    header: dict[str, Any] = json.loads(good[8 : 8 + size])
    tensor, said = header["scores"], header["__metadata__"]
    how = draw.randrange(7)
    if how == 0:
        tensor["shape"] = draw.choice([[3, N], [N * 3], [2**62, 2**62], [-1, 3], [N, 3, 1], [], [0, 0], "x", [1e300]])
    elif how == 1:
        tensor["data_offsets"] = draw.choice([[0, 2**63], [2**40, 2**41], [4, 0], [-4, 0], [0], None, "x"])
    elif how == 2:
        tensor["dtype"] = draw.choice(["F16", "BF16", "I64", "BOOL", "F32 ", "", 4, None, "F64"])
    elif how == 3:
        said[draw.choice(["ids", "classes", "kind", "split", "dataset"])] = draw.choice(
            [*TEXTS, "[" * 50_000, "[1]", "{}", '["a"]', json.dumps([draw.choice(TEXTS)] * N), 7, None]
        )
    elif how == 4:
        header[draw.choice(TEXTS) or "x"] = tensor
    elif how == 5:
        header["__metadata__"] = draw.choice([None, [], "x", {"ids": ["a"]}, {}])
    text = json.dumps(header).encode()
    if how == 6:
        text = b"[" * draw.choice([100, 100_000]) + text
    length = len(text) if draw.random() < 0.9 else draw.choice([0, 2**63, 2**64 - 1, len(text) + 99])
    return struct.pack("<Q", length) + text + good[8 + size :]


def cards(draw: random.Random, folder: Path) -> str:
    """The card alone: what is taken of it is plain text."""
    text = good_card()
    if draw.random() < 0.6:
        lines = text.splitlines()
        at = draw.randrange(len(lines))
        key = lines[at].partition(" = ")[0]
        value = json.dumps(draw.choice(TEXTS))
        lines[at] = draw.choice(
            [
                *(
                    f"{key} = {value}",
                    f"{key} = [{value}]",
                    f"{value} = 1",
                    f"{key}.{value} = 1",
                    f"{key} = {{a = {value}}}",
                ),
                *(
                    f"{key} = " + "[" * 5000,
                    f"{key} = " + "{a = " * 2000,
                    "a" + ".a" * draw.choice([400, 5000]) + " = 1",
                ),
                *(
                    f"{key} = {draw.choice(['1e999', 'nan', 'true', '1979-05-27', '9' * 5000, '0x7f'])}",
                    f"[{key}]",
                    "[[a]]",
                ),
            ]
        )
        raw = "\n".join(lines).encode("utf-8", "surrogatepass")
    else:
        raw = spoilt(draw, text.encode())
    (folder / "card.toml").write_bytes(raw)
    outcome = attempt(lambda: read_card(folder / "card.toml"))
    if outcome == "taken":
        card = read_card(folder / "card.toml")
        for said in (card.name, card.title, *card.authors, card.backbone, card.source, card.license):
            assert len(said) <= LONGEST_TEXT
            assert not set(said) & set('<>\\{}$#^`"|*[]'), f"markup in {said!a}"
            assert not [c for c in said if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]
    return outcome
