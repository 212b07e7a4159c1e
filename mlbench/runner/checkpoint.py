"""Checkpoints and kept files: everything a killed run needs to go on to the same bits.

Each is written whole or not at all, and what is read is what was written: a checkpoint begins with the hash of its
content, and holds the hashes of the other files that the run will read again (`Kept`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from mlbench.errors import DataError
from mlbench.evaluation.predictions import Predictions, write_predictions
from mlbench.files import atomic_write, file_blocks, reason
from mlbench.methods import Phase

CHECKPOINT_FILE = "checkpoint.pt"
_MAGIC = b"mlbench checkpoint 2\n"
_ANEW = "delete it to start again"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and plain values, after a line with their SHA-256."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    # The archive that torch writes has checksums, which torch does not look at when it reads.
    atomic_write(path, [_MAGIC, hashlib.sha256(content).hexdigest().encode() + b"\n", content])


def load_checkpoint(path: Path, key: str | None) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None where there is none; DataError if it is broken or another run's.

    `key` of None takes that of any run.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"checkpoint {path}: {reason(error)}") from None
    start = len(_MAGIC) + 65
    if not content.startswith(_MAGIC):
        raise DataError(f"checkpoint {path} is damaged or no checkpoint of this version of mlbench: {_ANEW}")
    archive, said = memoryview(content)[start:], content[len(_MAGIC) : start - 1]
    if hashlib.sha256(archive).hexdigest().encode() != said:
        raise DataError(f"checkpoint {path} is damaged (its SHA-256 is not the one it was written with): {_ANEW}")
    try:
        state = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # what was not written by `save_checkpoint` makes torch raise nearly anything
        raise DataError(f"checkpoint {path} is damaged or no checkpoint: {_ANEW}") from error
    if not isinstance(state, dict) or key not in (None, state.get("key")):
        raise DataError(f"checkpoint {path} belongs to another run: {_ANEW}")
    return state


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Named tensors as the bytes of a safetensors file (nothing is ever unpickled from a store)."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One metadata entry: safetensors writes several in no fixed order, and the file's hash would vary with it.
    return save(plain, {"mlbench": json.dumps(metadata, sort_keys=True)})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors as safetensors."""
    atomic_write(path, encode_tensors(tensors, metadata))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors; DataError if the file is missing or broken."""
    try:
        return load_file(path)
    except Exception as error:
        raise DataError(f"cannot read {path}: {error}") from None


def phase_file(phase: Phase) -> str:
    """Name in the run's folder of what `phase` hands over."""
    return f"phase-{phase.name}.safetensors"


class Kept:
    """The files that an unfinished run reads again: weights of the best epoch, predictions, what phases hand over.

    The hash of each is taken when it is written, goes into the checkpoint, and is held against the bytes that are read:
    a file that was damaged or exchanged in between is an error and not another number. A file that the present
    checkpoint names is not deleted before there is a later one that does not.

    Parameters
    ----------
    folder : the run's folder. hashes : SHA-256 by name in it, from the checkpoint that the run goes on from.
    """

    #: What a run keeps, and may delete: whatever else lies there is somebody's.
    PATTERNS = ("best-*.safetensors", "phase-*.safetensors", "epochs/[!.]*.safetensors")

    def __init__(self, folder: Path, hashes: Mapping[str, str] | None = None) -> None:
        self.folder, self.hashes = folder, dict(hashes or {})
        self._in_checkpoint = set(self.hashes)

    def save(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write named tensors as file `name`."""
        content = encode_tensors(tensors, metadata)
        atomic_write(self.folder / name, content)
        self.hashes[name] = hashlib.sha256(content).hexdigest()

    def save_predictions(self, name: str, predictions: Predictions) -> None:
        """Write predictions as file `name`."""
        self.hashes[name] = write_predictions(self.folder / name, predictions)

    def load(self, name: str) -> dict[str, Tensor]:
        """The tensors of file `name`; DataError unless it is as it was written."""
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise self._changed(name, reason(error)) from None
        if hashlib.sha256(content).hexdigest() != self.hashes.get(name):
            raise self._changed(name, "it is not as it was written")
        return load(content)

    def copy(self, name: str, target: Path) -> str:
        """Copy file `name` to `target`; returns its SHA-256. DataError unless it is as it was written."""
        digest = hashlib.sha256()

        def blocks() -> Any:
            for block in file_blocks(self.folder / name):
                digest.update(block)
                yield block
            if digest.hexdigest() != self.hashes.get(name):
                raise self._changed(name, "it is not as it was written")

        if not (self.folder / name).is_file():
            raise self._changed(name, "it is not there")
        atomic_write(target, blocks())
        return digest.hexdigest()

    def forget(self, name: str) -> None:
        """File `name` is not needed any more, if there is one."""
        if self.hashes.pop(name, None) is not None and name not in self._in_checkpoint:
            (self.folder / name).unlink(missing_ok=True)

    def checkpointed(self) -> None:
        """A checkpoint was written that names the present files: delete all others."""
        self._in_checkpoint = set(self.hashes)
        for pattern in self.PATTERNS:
            for path in self.folder.glob(pattern):
                if path.relative_to(self.folder).as_posix() not in self.hashes:
                    path.unlink(missing_ok=True)

    def _changed(self, name: str, why: str) -> DataError:
        return DataError(
            f"{self.folder / name}: this file of an unfinished run cannot be used: {why}. Delete "
            f"{self.folder / CHECKPOINT_FILE} to start the run again"
        )
