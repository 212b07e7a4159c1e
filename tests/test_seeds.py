"""Named streams: pinned numbers, independence of order and company."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbench.seeds import derive, id_hashes, keyed_bits

NAMES = st.lists(st.one_of(st.text(max_size=6), st.integers(-5, 5)), max_size=4).map(tuple)


def test_a_seed_is_the_head_of_the_hash_of_its_names() -> None:
    digest = hashlib.sha256(b"str:order\0str:scenes\0int:0\0int:1").digest()
    assert derive("order", "scenes", 0, 1) == int.from_bytes(digest[:8], "big") // 2


@given(NAMES, NAMES)
def test_other_names_give_another_seed(a: tuple, b: tuple) -> None:
    assert (derive(*a) == derive(*b)) == (a == b)
    assert 0 <= derive(*a) < 2**63


def test_a_number_is_another_name_than_its_digits() -> None:
    assert len({derive(1), derive("1"), derive("1", ""), derive("", "1"), derive(1, 1), derive(11)}) == 6


def splitmix64(value: int) -> int:
    """The finaliser of splitmix64 in whole numbers (Steele, Lea & Flood, OOPSLA 2014)."""
    mask = 2**64 - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 2**63 - 1))
def test_keyed_bits_are_splitmix64_of_id_and_seed(hashes: list[int], seed: int) -> None:
    expected = [splitmix64((h + seed * 0x9E3779B97F4A7C15) % 2**64) for h in hashes]
    assert keyed_bits(np.array(hashes, dtype=np.uint64), seed).tolist() == expected


def test_bits_belong_to_the_sample_and_not_to_its_place() -> None:
    ids = tuple(f"image {i}" for i in range(30))
    bits = dict(zip(ids, keyed_bits(id_hashes(ids), 7).tolist(), strict=True))
    assert len(set(bits.values())) == 30
    some = ids[20:3:-2]
    assert keyed_bits(id_hashes(some), 7).tolist() == [bits[name] for name in some]


@pytest.mark.parametrize("bit", [0, 1, 63])
def test_each_bit_is_a_fair_coin(bit: int) -> None:
    draws = keyed_bits(id_hashes(tuple(map(str, range(4000)))), derive("flip", "x", 0, 1)) >> np.uint64(bit)
    heads = int((draws & np.uint64(1)).sum())
    assert abs(heads - 2000) < 5 * 32  # five standard deviations


def test_coins_of_two_epochs_are_independent() -> None:
    hashes = id_hashes(tuple(map(str, range(4000))))
    coins = [keyed_bits(hashes, derive("flip", "x", 0, epoch)) & np.uint64(1) for epoch in (1, 2)]
    assert abs(int((coins[0] == coins[1]).sum()) - 2000) < 5 * 32


def test_ids_of_any_script_are_hashed_alike_everywhere() -> None:
    assert id_hashes(("a", "Zürich/œ.jpg")).tolist() == [
        int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")
        for text in ("a", "Zürich/œ.jpg")
    ]
    assert id_hashes(()).shape == (0,)
