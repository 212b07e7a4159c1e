"""MATLAB files of boxes, read in a process of their own: spoilt bytes can crash SciPy, and whoever called it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from mlbench.errors import DataError

#: The child's exit status where it says on stdout what is wrong; any other but 0 is a crash.
_REFUSED = 65


def read_cells(path: Path, images: str, boxes: str, scores: str) -> tuple[list[str], list[np.ndarray]]:
    """Names of images and their boxes with scores, float64 [m, 5], of two or three cells of a MATLAB file (not v7.3).

    Without a cell `scores`, boxes count as better the earlier they stand: scores fall from 1 towards 0.

    Raises
    ------
    DataError : no such file, no MATLAB file, no such variables, or cells of different lengths.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    command = [sys.executable, "-m", "mlbench.foreign.matlab", str(path), images, boxes, scores]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == _REFUSED:
        raise DataError(f"{path}: {done.stdout.decode()}")
    if done.returncode:
        raise DataError(f"{path}: no MATLAB file that SciPy reads (it broke the reader)")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        names: list[str] = json.loads(arrays["names"].tobytes())
        return names, np.split(arrays["boxes"], arrays["ends"][:-1]) if names else []


def _read(path: Path, images: str, boxes: str, scores: str) -> tuple[list[str], list[np.ndarray]]:
    from scipy.io import loadmat

    try:
        table = loadmat(path, variable_names=[images, boxes, scores])
    except Exception as error:  # bytes that are no such file make SciPy raise nearly anything
        raise DataError(f"no MATLAB file that SciPy reads ({error})") from None
    if missing := [name for name in (images, boxes) if name not in table]:
        raise DataError(f"no variable '{missing[0]}'; expected cells '{images}' and '{boxes}'")
    named = [np.ravel(cell) for cell in table[images].ravel()]
    if empty := [row for row, cell in enumerate(named, start=1) if not len(cell)]:
        raise DataError(f"cell {empty[0]} of '{images}' is empty; expected the name of an image")
    names = [str(cell[0]) for cell in named]
    cells = [np.atleast_2d(cell) for cell in table[boxes].ravel()]
    marks = [np.ravel(cell) for cell in table[scores].ravel()] if scores in table else None
    if len(names) != len(cells) or (marks is not None and len(marks) != len(cells)):
        raise DataError(f"{len(names)} images, {len(cells)} cells of boxes; expected as many")
    found = []
    for at, (name, cell) in enumerate(zip(names, cells, strict=True)):
        mark = 1 - np.arange(len(cell)) / len(cell) if marks is None else marks[at]
        if cell.shape[1:] != (4,) or len(mark) != len(cell):
            raise DataError(f"boxes of '{name}' have shape {list(cell.shape)}; expected [m, 4], a score each")
        if cell.dtype.kind not in "biuf" or mark.dtype.kind not in "biuf":
            raise DataError(f"boxes of '{name}' are no numbers ({cell.dtype}, {mark.dtype}); expected real ones")
        found.append(np.column_stack([cell, mark]).astype(np.float64))
    return names, found


def _main() -> None:
    path, images, boxes, scores = sys.argv[1:]
    try:
        names, found = _read(Path(path), images, boxes, scores)
    except DataError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "backslashreplace"))
        sys.exit(_REFUSED)
    np.savez(
        sys.stdout.buffer,
        names=np.frombuffer(json.dumps(names).encode(), dtype=np.uint8),
        boxes=np.concatenate([np.empty((0, 5)), *found]),
        ends=np.cumsum([len(boxes) for boxes in found], dtype=np.int64),
    )


if __name__ == "__main__":
    _main()
