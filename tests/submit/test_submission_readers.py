"""Whatever bytes are handed in, a reader gives scores or an error meant for people."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from mlbench.errors import DataError, MlbenchError
from mlbench.foreign.readers import largest_file, read_submission
from mlbench.submit.card import read_card


@pytest.mark.parametrize("form", ["csv", "safetensors"])
def test_damaged_files_raise_nothing_else(form: str, desk) -> None:
    path = getattr(desk, f"write_{form}")()
    good, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        # Most of the interesting bytes of a safetensors file stand at its beginning.
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(draw.choice((12, 200, len(data))))] = draw.randrange(256)
        path.write_bytes(bytes(data[: draw.choice((len(data), len(data), draw.randrange(len(data))))]))
        try:
            read_submission(path, desk.ids, desk.classes)
        except MlbenchError:
            refused += 1
    assert refused > 100


def test_damaged_cards_raise_nothing_else(desk) -> None:
    path = desk.write_card()
    good, draw = path.read_bytes(), random.Random(1)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(bytes(data))
        with suppress(MlbenchError):
            read_card(path)


@pytest.mark.parametrize("form", ["csv", "safetensors", "parquet"])
def test_an_honest_file_fits_in_the_limit_by_far(form: str, desk) -> None:
    size = getattr(desk, f"write_{form}")().stat().st_size
    assert size < largest_file(desk.ids, desk.classes) / 2


def test_a_parquet_page_that_unfolds_without_bound_ends_its_reader_only(desk) -> None:
    """One text of 30 MB, named 40,000 times: a few KiB on disk, a footer that looks right, 1.2 TB in memory."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow, an extra, is not installed")
    import pyarrow.parquet as pq

    from mlbench.foreign.parquet import decode

    rows, path = 40_000, desk.folder / "bomb.parquet"
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 30_000_000])
    table = pa.table({"id": ids, "red": [float(number) for number in range(rows)]})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 500_000
    with pytest.raises(DataError, match=r"not a whole Parquet file|more memory|its ids take"):
        decode(path.read_bytes(), rows, 1)


def test_flipped_bits_of_a_parquet_file_with_checksums_are_found(desk) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow, an extra, is not installed")
    import pyarrow.parquet as pq

    path = desk.folder / "checked.parquet"
    table = pa.table({"id": desk.ids, **{name: desk.scores[:, c] for c, name in enumerate(desk.classes)}})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    good = path.read_bytes()
    read_submission(path, desk.ids, desk.classes)
    place = good.index(desk.scores[:, 1].tobytes())
    for offset in (0, 101, desk.scores[:, 1].nbytes - 1):
        data = bytearray(good)
        data[place + offset] ^= 4
        path.write_bytes(bytes(data))
        with pytest.raises(DataError, match="not a whole Parquet file"):
            read_submission(path, desk.ids, desk.classes)


def test_a_card_of_a_key_without_end_takes_no_memory(desk) -> None:
    import tracemalloc

    path = desk.write_card("a" + ".a" * 31_000 + " = 1\n")
    tracemalloc.start()
    with pytest.raises(DataError, match="not TOML"):
        read_card(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
