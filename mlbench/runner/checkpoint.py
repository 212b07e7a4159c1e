"""Checkpoints: everything a killed run needs to go on to the same bits; written whole or not at all."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from mlbench.errors import DataError
from mlbench.store import atomic_write


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write(path, buffer.getvalue())


def load_checkpoint(path: Path, key: str) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None where there is none; DataError if it is broken or another run's."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch raise nearly anything, and advise what is not safe
        raise DataError(f"checkpoint {path} is damaged or no checkpoint: delete it to start again") from error
    if not isinstance(state, dict) or state.get("key") != key:
        raise DataError(f"checkpoint {path} belongs to another run: delete it to start again")
    return state


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write named tensors as safetensors (nothing is ever unpickled from a store)."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One metadata entry: safetensors writes several in no fixed order, and the file's hash would vary with it.
    atomic_write(path, save(plain, {"mlbench": json.dumps(metadata, sort_keys=True)}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors; DataError if the file is missing or broken."""
    try:
        return load_file(path)
    except Exception as error:
        raise DataError(f"cannot read {path}: {error}") from None
