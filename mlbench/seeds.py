"""Named random streams: every seed is the SHA-256 of the names it belongs to.

Split, mask, order, augmentation and shared initialisation are named by (data set, repetition) and never by the
method, so that methods are compared on the same draws; a method's private streams add its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derive(*names: str | int) -> int:
    """A 63-bit seed for the stream called `names`; adding a stream moves no other."""
    text = "\0".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def id_hashes(ids: Sequence[str]) -> np.ndarray:
    """One uint64 a sample id, the same on every machine: the sample's part of a keyed draw."""
    digests = (hashlib.blake2b(sample.encode(), digest_size=8).digest() for sample in ids)
    return np.frombuffer(b"".join(digests), dtype="<u8").copy()


def keyed_bits(hashes: np.ndarray, seed: int) -> np.ndarray:
    """64 random bits for each id hash under `seed` (splitmix64's finaliser), independent of order and company."""
    with np.errstate(over="ignore"):
        z = hashes.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
