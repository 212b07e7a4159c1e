"""What is drawn and hashed today stays so: masks and protocols are named in records by their SHA-256."""

from __future__ import annotations

import numpy as np
import pytest

from mlbench.annotation import draw_mask
from mlbench.protocol import load_protocol

MASKS = [
    ("full", {}, None, "e4bfa73197b02a67e57ebbeed0448c8f3a8b35478709c9bae2bb65e75dbca7d2"),
    ("full", {}, 7, "166d9f755928231b4ca09613e2c5b69497766fb07a04cc8a57304ab3d22eeff8"),
    ("partial", {"keep": 0.3}, None, "092c4ce7510b8b5ec0dd5deb34f0657921f5985e0f10b1772c6ac878123146ae"),
    ("partial", {"keep": 0.3}, 7, "2e3f0d0d2dce8a6d11ea67300a9e1521dbc5c17ff9c614949f6ee47a7ef5e70c"),
    ("partial_exact", {"keep": 0.3}, None, "f2d654c555bd53f32aec848440c69b1310f27307b96163d8b697efb51c9f326f"),
    ("partial_exact", {"keep": 0.3}, 7, "f1b9242ac8befa90b135b53cf0bc51bf642e375fb6353f3afd3576411eee65c4"),
    ("single_positive", {}, None, "8411a4f4a6ba57445c33caeb48f07ba32be3b0e0f2a67fe8906f3d5f88d361c1"),
    ("single_positive", {}, 7, "658f5c376f3132b4cbd84a1f85601e1521fb0df5c02aaeb90446b8896e53f060"),
    ("single_positive_spml", {}, None, "e2ce1103a59d2ed11e41dd16a80c86ae3409e6065571c0051b0a50d685c3c6de"),
    ("single_positive_spml", {}, 7, "0e5e8a32c0e935c37ccf874a8b64d4e500280aca504ef644aee5462f3714d95b"),
    (
        "single_positive_spml",
        {"num_pos": 2, "num_neg": 1},
        None,
        "315f3e12ee331ef0e68430eded835d2923444f7b67d451b9ed8b6e3204010d19",
    ),
    (
        "single_positive_spml",
        {"num_pos": 2, "num_neg": 1},
        7,
        "d1f6513a6319b18472601761050f95534f48c276d04500d98082a08e9fb8a160",
    ),
]

PROTOCOLS = {
    "full": "6edd0b83433db5b3f30bc6078ed8a91c9c593f693cd086f073a973b5cec5d54a",
    "partial": "17f1c7afd1f6fe949d98f572bd7fae459351add2094adbb176907270955aec77",
    "partial_exact": "0559a17a1beb1bb6a597cf795f50e2c8125bf21b337068cbd1a5872ebb3e8710",
    "single_positive": "2c7ceab9d75ef2077e4f96ce8310082dcfadfdf0405a73846e5891b4c9681f92",
    "single_positive_spml": "ff2f4ab81b85352091e71fbbf7bdc107d2494fee5be019927c2946c6e3f960ce",
}


def labels() -> np.ndarray:
    """40 x 7 labels made by arithmetic; row 11 all negative, row 12 all positive, one UNSPECIFIED, one UNKNOWN."""
    k = np.arange(40 * 7).reshape(40, 7)
    states = np.where((k * k + 3 * k) % 5 < 2, 1, -1).astype(np.int8)
    states[11], states[12], states[13, 2], states[14, 3] = -1, 1, 2, 0
    return states


@pytest.mark.parametrize(("process", "params", "seed", "sha256"), MASKS)
def test_a_mask_stays_what_it_was(process: str, params: dict, seed: int | None, sha256: str) -> None:
    assert draw_mask(labels(), process, params, seed, ids=[f"image{i}.jpg" for i in range(40)]).sha256 == sha256


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_stays_what_it_was(name: str) -> None:
    assert load_protocol(name).sha256 == PROTOCOLS[name]
