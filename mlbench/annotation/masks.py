"""A mask: what an annotation process left visible, how it is described, stored and read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlbench.annotation.states import State, check_labels, hash_ids
from mlbench.errors import DataError
from mlbench.files import atomic_write


@dataclass(frozen=True, eq=False)
class Mask:
    """What an annotation process left visible.

    Parameters
    ----------
    process, params, seed : the process of `PROCESSES` that was drawn, all its parameters, and its seed.
    observed : int8 [N, C] `State` values, UNKNOWN where the label is hidden; read-only. An entry that the source
        left UNSPECIFIED stays UNSPECIFIED under every process.
    ids_sha256 : `hash_ids` of the samples, in row order.
    """

    process: str
    params: Mapping[str, float | int | str]
    seed: int
    observed: np.ndarray
    ids_sha256: str

    def __post_init__(self) -> None:
        observed = np.ascontiguousarray(self.observed, dtype=np.int8).copy()
        observed.flags.writeable = False
        object.__setattr__(self, "observed", observed)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over process, parameters, seed, shape and the bytes of `observed`."""
        return self.hash_of(self.observed.shape, [self.observed.data])

    def hash_of(self, shape: tuple[int, ...], pieces: Iterable[Any]) -> str:
        """`sha256` where the bytes of `observed`, of `shape`, come in `pieces`."""
        head = [self.process, dict(sorted(self.params.items())), self.seed, list(shape)]
        digest = hashlib.sha256(json.dumps(head).encode() + b"\0")
        for piece in pieces:
            digest.update(piece)
        return digest.hexdigest()

    def tensors(self) -> dict[str, np.ndarray]:
        """What a mask file holds of `observed`."""
        return {"observed": self.observed}

    @property
    def without_positive(self) -> int:
        """Samples of which no positive is shown."""
        return int((~(self.observed == State.POSITIVE).any(axis=1)).sum())

    @property
    def counts(self) -> dict[str, int]:
        """Observed entries by state: ``positives``, ``negatives``, ``unknown``, ``unspecified``."""
        return {
            "positives": int((self.observed == State.POSITIVE).sum()),
            "negatives": int((self.observed == State.NEGATIVE).sum()),
            "unknown": int((self.observed == State.UNKNOWN).sum()),
            "unspecified": int((self.observed == State.UNSPECIFIED).sum()),
        }


def save_mask(mask: Mask, path: str | Path) -> None:
    """Write `mask` as safetensors with its description in clear; a reader never sees half a file."""
    from safetensors.numpy import save

    metadata = {
        "kind": "mlbench.mask",
        "process": mask.process,
        "params": json.dumps(dict(sorted(mask.params.items()))),
        "seed": str(mask.seed),
        "ids_sha256": mask.ids_sha256,
        "sha256": mask.sha256,
    }
    atomic_write(path, save(mask.tensors(), metadata))


def load_mask(path: str | Path, ids: Sequence[str] | None = None) -> Mask:
    """Read a mask that `save_mask` wrote.

    DataError names the file if it is missing or broken, if the content does not match the hash stored in it, or,
    where `ids` are given, if it was drawn for other samples or another order of them.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != "mlbench.mask":
                raise DataError(f"{path}: not a mask of mlbench")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        about = {name: metadata[name] for name in ("process", "ids_sha256")}
        mask = _mask(tensors, about | {"params": json.loads(metadata["params"]), "seed": int(metadata["seed"])})
    except FileNotFoundError:
        raise DataError(f"{path}: no such mask") from None
    except (SafetensorError, KeyError, ValueError, RecursionError, OSError) as error:
        table = Path(path).suffix.lower() in (".csv", ".jsonl", ".ndjson")
        hint = "; a table is read by `mlbench data mask import`" if table else ""
        raise DataError(f"{path}: broken mask file ({error}){hint}") from None
    if mask.sha256 != metadata.get("sha256"):
        raise DataError(f"{path}: content hash {mask.sha256} differs from the one stored, {metadata.get('sha256')}")
    if ids is not None and hash_ids(ids) != mask.ids_sha256:
        raise DataError(f"{path}: drawn for other samples, or the same in another order")
    return mask


def _mask(tensors: dict[str, np.ndarray], about: dict[str, Any]) -> Mask:
    if "observed" in tensors:
        return Mask(observed=check_labels(tensors["observed"]), **about)
    from mlbench.annotation.sparse_masks import SparseMask  # it is a mask itself

    return SparseMask.from_tensors(tensors, **about)
