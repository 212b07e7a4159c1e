"""`mlbench data miniature`: write a miniature, whole or not at all, with the marker that tells it from the data set."""

from __future__ import annotations

import json
import pkgutil
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.datasets.miniature import MARKER, read_marker
from mlbench.errors import MlbenchError, UsageError, unknown
from mlbench.files import reason
from mlbench.miniature.pictures import Studio

#: Pictures of a miniature, all parts together, where none are asked for; and the fewest.
IMAGES = 400
FEWEST = 60

#: Rises where the same call gives other files.
FORMAT = 1

#: What files hold: by name of a data set and part, bool [N, C], the positives as the adapter has to give them.
Truth = Mapping[str, Mapping[str, np.ndarray]]

_HERE = "mlbench.miniature"
_NUSWIDE = f"{_HERE}.nuswide:write_official"
#: What writes the files of each data set, "module:function": called with its name, the folder, a studio and the number
#: of pictures.
_WRITERS = {
    "coco2014": f"{_HERE}.coco:write",
    "coco2014-all": f"{_HERE}.coco:write",
    "coco2017": f"{_HERE}.coco:write",
    "cub": f"{_HERE}.cub:write",
    "nuswide-asl": f"{_HERE}.nuswide_lists:write_asl",
    "nuswide-official": _NUSWIDE,
    "nuswide-random150k": _NUSWIDE,
    "nuswide-splc": f"{_HERE}.nuswide_lists:write_splc",
    "nuswide-spml": f"{_HERE}.nuswide_lists:write_spml",
    "nuswide-srn": _NUSWIDE,
    "nuswide-tagged": _NUSWIDE,
    "openimages-v3": f"{_HERE}.openimages:write",
    "openimages-v4": f"{_HERE}.openimages:write",
    "vg-200": f"{_HERE}.visual_genome:write",
    "voc2007": f"{_HERE}.voc:write",
    "voc2012": f"{_HERE}.voc:write",
    "wider": f"{_HERE}.wider:write",
}


def list_miniatures() -> tuple[str, ...]:
    """Names of the data sets that a miniature can be made of."""
    return tuple(_WRITERS)


def make(name: str, folder: Path, *, images: int | None = None, photographs: Path | None = None, seed: int = 0) -> Path:
    """Write a miniature of data set `name`: its official files and folders, made up and small.

    Parameters
    ----------
    name : one of `list_miniatures`.
    folder : where to; made, or empty. One that holds this very miniature already is left as it is.
    images : pictures, all parts together; None: `IMAGES`. They are divided as the official parts are, but for none
        having less than a fifth.
    photographs : folder of pictures that backgrounds are cut from; None: the two that scikit-learn ships.
    seed : of all that is drawn. The same arguments give the same files, byte for byte (with the same Pillow).

    Returns
    -------
    `folder`, which ``--data-root`` takes: the data set's adapter reads it under its own name, and says in version,
    source and notes that it is a miniature. Class names are the official ones but for Open Images, Visual Genome and
    the birds of CUB. Frequencies have a long tail (``classes.toml`` says whose). In the box of each object, whose class
    decides its colours and stripes, there is something to learn.

    Raises
    ------
    UsageError for an unknown name, too few images, a folder with other things in it, and photographs that are none.
    """
    if name not in _WRITERS:
        raise unknown("miniature", name, _WRITERS)
    number = IMAGES if images is None else images
    if number < FEWEST:
        raise UsageError(f"--images {number}: expected {FEWEST} or more, for every part to have some")
    if seed < 0:
        raise UsageError(f"--seed {seed}: expected a whole number from 0")
    studio = Studio(seed, photographs)
    about = {
        "what": "a miniature, made by mlbench: a made-up copy of a data set's layout, not the data set",
        "name": name,
        "images": number,
        "seed": seed,
        "photographs": studio.described,
        "format": FORMAT,
    }
    if _is_there(folder, about):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
            half = Path(place) / "whole"
            half.mkdir()
            truth: Truth = pkgutil.resolve_name(_WRITERS[name])(name, half, studio, number)
            text = json.dumps(about | {"datasets": _counts(truth)}, sort_keys=True, indent=1)
            (half / MARKER).write_text(text + "\n", encoding="utf-8")
            if folder.is_dir():
                folder.rmdir()
            shutil.move(half, folder)
    except OSError as error:
        raise MlbenchError(f"{folder}: cannot be written: {reason(error)}") from None
    return folder


def _is_there(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether `folder` holds this miniature; UsageError if it holds anything else."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder}: no folder, so no miniature can be made there")
    if (folder / MARKER).is_file():
        there = read_marker(folder / MARKER)
        same = {"name"} if about["name"] in there["datasets"] else set()
        other = [key for key in about if key not in same and there.get(key) != about[key]]
        if not other:
            return True
        told = ", ".join(f"{key} {there.get(key)}" for key in other)
        raise UsageError(f"{folder}: holds another miniature ({told}); give another folder, or delete it")
    if any(folder.iterdir()):
        raise UsageError(f"{folder}: not empty; a miniature needs a folder of its own")
    return False


def _counts(truth: Truth) -> dict[str, Any]:
    return {
        name: {
            part: {"samples": len(present), "positives": np.count_nonzero(present, axis=0).tolist()}
            for part, present in parts.items()
        }
        for name, parts in truth.items()
    }
