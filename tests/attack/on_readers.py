"""Label files and descriptions, spoilt or forged: a data set of the pictures there, or a line that says why not."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
from hostile import TEXTS, spoilt, told
from PIL import Image

from mlbench.datasets import load_dataset

_NAMES = ("a.png", "b.png", "c.png", "d.png")
_LABELS = (("cat", "dog"), ("cat",), ("dog",), ("dog", "cat"))
_PARTS = ("train", "train", "test", "test")


def _files() -> dict[str, str]:
    rows = list(zip(_NAMES, _PARTS, _LABELS, strict=True))
    coco = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(_NAMES)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 9 * n + k, "image_id": n, "category_id": 1 + (label == "dog"), "bbox": [1, 1, 5, 5]}
            for n, labels in enumerate(_LABELS)
            for k, label in enumerate(labels)
        ],
    }
    return {
        "csv.toml": 'id = "csv"\nlabels = "l.csv"\nimages = "photos"\ncolumns = { split = "split" }\nseparator = "|"\n'
        'boxes = { file = "boxes.csv" }\n',
        "lines.toml": 'id = "lines"\nlabels = "l.jsonl"\nimages = "photos"\ncolumns = { split = "split" }\n',
        "columns.toml": 'id = "columns"\nlabels = "c.csv"\nimages = "photos"\ncolumns = { split = "split" }\n'
        'label_style = "columns"\n',
        "l.csv": "file,split,labels\n" + "".join(f"{f},{s},{'|'.join(names)}\n" for f, s, names in rows),
        "l.jsonl": "".join(json.dumps({"file": f, "split": s, "labels": names}) + "\n" for f, s, names in rows),
        "c.csv": "file,split,cat,dog\n" + "".join(f"{f},{s},{+('cat' in n)},{+('dog' in n)}\n" for f, s, n in rows),
        "boxes.csv": "file,label,x1,y1,x2,y2\na.png,cat,1,1,5,5\n",
        "coco.json": json.dumps(coco),
    }


def readers(draw: random.Random, folder: Path) -> str:
    files, kind = _files(), draw.choice(["csv.toml", "lines.toml", "columns.toml", "adopt", "folders"])
    (home := folder / "home").mkdir()
    (home / "photos").mkdir()
    Image.new("RGB", (20, 10), "red").save(folder / "secret.png")
    for name, colour in zip(_NAMES, ("black", "white", "blue", "green"), strict=True):
        Image.new("RGB", (20, 10), colour).save(home / "photos" / name)
    used = {"csv.toml": ["l.csv", "boxes.csv"], "lines.toml": ["l.jsonl"], "columns.toml": ["c.csv"]}
    chosen = draw.choice(
        [*used.get(kind, ["l.csv", "c.csv", "coco.json", "l.jsonl"]), *([kind] if kind in used else [])]
    )
    text = files[chosen]
    evil = draw.choice(
        [*TEXTS, str(folder / "secret.png"), "../secret.png", "../../secret.png", "photos/../../secret.png"]
    )
    if draw.random() < 0.5:
        old = draw.choice(["a.png", "cat", "train", "split", "labels", "photos", "l.csv", "1", "dog", "file"])
        text = text.replace(old, evil if draw.random() < 0.5 else json.dumps(evil)[1:-1], draw.choice([1, 99]))
        content = text.encode("utf-8", "surrogatepass")
    else:
        content = spoilt(draw, text.encode())
    for name, good in files.items():
        (home / name).write_bytes(content if name == chosen else good.encode())
    if kind == "folders":
        return _folders(draw, home, evil)
    if kind == "adopt":
        return told("data", "adopt", home / chosen, "--images", home / "photos", "--dry-run")
    return _load(home / kind, folder)


def _folders(draw: random.Random, home: Path, name: str) -> str:
    """A class folder with a hostile name, or one that is a link to itself, to what lies above, or a pipe."""
    root = home / "classes"
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            Image.new("RGB", (4, 4), (len(part), len(label), ord(label[0]))).save(
                root / part / label / f"{part}{label}.png"
            )
    how = draw.randrange(4)
    try:
        if how == 0:
            (root / "train" / name.replace("/", "_")).mkdir(exist_ok=True)
        elif how == 1:
            (root / "train" / "loop").symlink_to(
                draw.choice([root, root / "train", root / "train" / "loop", Path("..")])
            )
        elif how == 2:
            os.mkfifo(root / "train" / "cat" / "x.png")
        else:
            (root / "train" / "cat" / "x.png").write_bytes(draw.choice([b"", b"GIF89a", draw.randbytes(99), b"<svg/>"]))
    except (OSError, ValueError):  # a name that no file can have
        return "refused"
    return told("data", "adopt", root, "--dry-run")


def _load(path: Path, folder: Path) -> str:
    outcome = told("data", "describe", path)
    if outcome == "taken":
        secret = np.asarray(Image.open(folder / "secret.png").convert("RGB"))
        data = load_dataset(str(path))
        for split in data.splits.values():
            assert np.asarray(split.labels).shape == (len(split), len(data.classes))
            for row in range(len(split)):
                assert not np.array_equal(split.images.load(row), secret), "read a picture from outside the folder"
    return outcome
