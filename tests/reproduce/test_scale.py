"""What a run takes on paper, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlbench.errors import UsageError
from mlbench.protocol import load_protocol
from mlbench.reproduce.scale import (
    A100,
    Counts,
    Network,
    counts_of,
    factor_of,
    gigabytes,
    hours,
    needs_of,
    network_of,
)
from mlbench.settings import TrainSettings

COCO = Counts(classes=80, train=65665, val=16416, test=40137)


def settings(epochs: int = 10, size: int = 448, optimizer: str = "adam") -> TrainSettings:
    return TrainSettings(epochs=epochs, batch_size=16, lr=1e-5, image_size=size, optimizer=optimizer)  # type: ignore[arg-type]


def test_published_sizes_of_the_networks() -> None:
    assert network_of("resnet50") == Network("resnet50", 4.089, 25_557_032, 2048, 32)
    vgg = network_of("vgg16")
    assert vgg is not None
    assert (vgg.parameters, vgg.channels) == (138_357_544, 512)
    assert vgg.gmacs == pytest.approx(15.5, abs=0.1)
    assert network_of("scenes") is None
    assert network_of("resnet50-keras") is None


def test_counts_are_those_of_the_protocol_or_of_the_source() -> None:
    assert counts_of(load_protocol("single_positive"), "coco2014") == COCO
    assert counts_of(load_protocol("wider_attribute"), "wider") == Counts(14, 28345, 0, 29179)
    assert counts_of(load_protocol("openimages_groups"), "openimages-v3") == Counts(5000, 9_011_219, 41_620, 125_436)
    assert counts_of(load_protocol("single_positive"), "corel5k-199") is None


def test_bytes_by_hand() -> None:
    """COCO 2014 at 448 px: 122,218 images of 448 x 448 x 3 bytes are 73.6 GB, 49.4 of them to train and validate on."""
    resnet = network_of("resnet50")
    assert resnet is not None
    needs = needs_of(COCO, resnet, settings())
    assert needs.images == 122_218
    assert needs.decoded == 122_218 * 602_112 == 73_588_924_416
    assert pytest.approx(49.4, abs=0.05) == (65665 + 16416) * 602_112 / 1e9
    assert needs.pooled == 122_218 * 2048 * 4
    assert needs.maps == 122_218 * 2048 * 14 * 14 * 2
    assert needs.predictions == (16416 + 40137) * 80 * 4
    assert needs.weights == 25_557_032 * 4
    assert needs.checkpoint == 3 * needs.weights
    assert needs_of(COCO, resnet, settings(optimizer="sgd")).checkpoint == 2 * needs.weights


def test_hours_by_hand() -> None:
    """938 images a second at 224 px, four times the pixels; predicting an image is a third of a step."""
    resnet = network_of("resnet50")
    assert resnet is not None
    epoch = 65665 + (16416 + 40137) / 3
    seconds = 10 * epoch * 4 / 938
    needs = needs_of(COCO, resnet, settings())
    assert needs.seconds == pytest.approx(seconds)
    assert seconds / 3600 == pytest.approx(1.0, abs=0.01)
    assert needs.eight == pytest.approx(seconds * 938 / 7248)
    assert needs_of(COCO, resnet, settings(), precision="bf16").seconds == pytest.approx(seconds * 938 / 2470)
    twice = needs_of(COCO, resnet, settings(), factor=2.0).seconds
    assert twice == pytest.approx(10 * (2 * 65665 + (16416 + 40137) / 3) * 4 / 938)
    head = needs_of(COCO, resnet, settings(), track="head").seconds
    assert head == pytest.approx(122_218 / 3 * 4 / 938)
    deeper = network_of("resnet101")
    assert deeper is not None
    assert needs_of(COCO, deeper, settings()).seconds == pytest.approx(seconds * deeper.gmacs / resnet.gmacs)


def test_what_is_not_known_is_refused() -> None:
    resnet = network_of("resnet50")
    assert resnet is not None
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        needs_of(COCO, resnet, settings(), precision="fp8")
    with pytest.raises(UsageError, match="expected full or head"):
        needs_of(COCO, resnet, settings(), track="both")


def test_factors_are_the_measured_steps_of_the_longest_phase() -> None:
    path = Path(__file__).parents[2] / "results" / "benchmarks" / "step.json"
    beside = json.loads(path.read_text())["figures"]["methods"]["scenes"]["to_an"]
    assert factor_of("vac_fs") == beside["vac_fs"]["median"]
    phases = [value["median"] for name, value in beside.items() if name.startswith("srn: ")]
    assert len(phases) > 1
    assert factor_of("srn") == max(phases)
    assert factor_of("an") == factor_of("iu") == 1.0  # none is told to be cheaper than a plain step
    assert factor_of("prior") is None


def test_the_published_speeds() -> None:
    assert (A100["fp32"].one, A100["fp32"].eight) == (938, 7248)
    assert (A100["bf16"].one, A100["bf16"].eight) == (2470, 16621)


def test_sizes_and_times_in_words() -> None:
    assert [gigabytes(size) for size in (5e6, 73.6e9, 1.4e12)] == ["5 MB", "73.6 GB", "1.4 TB"]
    assert [hours(seconds) for seconds in (294, 3600, 48 * 3600)] == ["5 min", "1.0 h", "2.0 days"]


def test_the_page_has_the_table_as_it_is_computed() -> None:
    """docs/at-scale.md is what `mlbench reproduce all --dry-run` ends with."""
    from mlbench.reproduce.listing import scale_text
    from mlbench.reproduce.plans import load_plans
    from mlbench.reproduce.runs import Asked, entries_of

    page = (Path(__file__).parents[2] / "docs" / "at-scale.md").read_text(encoding="utf-8")
    assert scale_text(entries_of(Asked(load_plans("all")))) in page
