"""Random changes of images in training: keyed by sample and epoch, never by company; each is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from mlbench.conformance.testing import ArrayImages
from mlbench.inputs.augment import Augmentation, crop_box, cut_out
from mlbench.inputs.pixels import squash
from mlbench.inputs.views import View
from mlbench.runner.data import ImageInputs
from mlbench.seeds import derive, id_hashes, keyed_bits
from mlbench.settings import Recipe

IDS = [f"image {i}" for i in range(12)]
HASHES = id_hashes(IDS)
STRONG = Augmentation(cutout=0.5, randaugment=2, magnitude=9, jitter=(0.4, 0.4, 0.4, 0.1))
CPU = torch.device("cpu")


def pictures(side: int = 16, count: int = 12) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (count, side, side, 3)).astype(np.uint8)


def inputs(changes: Augmentation | None = None, augment: tuple[str, ...] = (), side: int = 16) -> ImageInputs:
    held = pictures(side)
    return ImageInputs(
        {side: held}, np.arange(12), IDS, (0.0,) * 3, (1 / 255,) * 3, augment, ("d", 0), changes, ArrayImages(held)
    )


@pytest.mark.parametrize("changes", [STRONG, Augmentation(crop=(0.2, 1.0)), Augmentation(randaugment=3, magnitude=5)])
def test_changes_are_keyed_by_sample_and_epoch_and_by_nothing_else(changes: Augmentation) -> None:
    source = inputs(changes)
    whole = source.load(np.arange(12), 16, CPU, 1)
    torch.manual_seed(3)  # whatever has been drawn elsewhere
    state = torch.get_rng_state()
    some = source.load(np.array([7, 2]), 16, CPU, 1)
    assert torch.equal(some, whole[[7, 2]])
    assert torch.equal(torch.get_rng_state(), state)  # and nobody else's draws move
    assert not torch.equal(source.load(np.arange(12), 16, CPU, 2), whole)
    plain = source.load(np.arange(12), 16, CPU, None)
    assert torch.equal(plain, torch.from_numpy(pictures()).permute(0, 3, 1, 2).float())


def test_no_change_asked_for_is_none() -> None:
    assert Augmentation.of(Recipe()) == Augmentation()
    assert torch.equal(inputs().load(np.arange(3), 16, CPU, 1), inputs().load(np.arange(3), 16, CPU, None))


def test_randaugment_and_jitter_are_torchvisions_under_a_seed_of_the_sample() -> None:
    found = Augmentation(randaugment=3, magnitude=5, jitter=(0.4, 0.4, 0.4, 0.1)).change(pictures(), HASHES, seed=7)
    for row in range(12):
        key = int(keyed_bits(HASHES[row : row + 1], 7)[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("transforms", key))
            image = torch.from_numpy(pictures()[row]).permute(2, 0, 1)
            image = v2.RandAugment(num_ops=3, magnitude=5)(image)
            image = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)(image)
        assert np.array_equal(found[row], image.permute(1, 2, 0).numpy())


def test_cutout_paints_a_square_of_one_colour_around_a_place_in_the_image() -> None:
    covered = np.zeros((20, 20))
    image = np.zeros((20, 20, 3), np.uint8)
    for seed in range(2000):
        found = cut_out(image + 7, 0.5, np.random.default_rng(seed))
        painted = (found != 7).any(axis=2)
        rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
        if not len(rows):  # the colour drawn was that of the image
            continue
        box = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
        assert (box == box[0]).all()
        assert painted.sum() == len(box) <= 100
        assert min(len(rows), len(columns)) >= 5  # half a square at least lies inside
        covered += painted
    assert (image == 0).all()
    assert covered[10, 10] / 2000 == pytest.approx(0.25, abs=0.04)  # a centre within 5 of it, in both axes
    assert covered[0, 0] / 2000 == pytest.approx(1 / 16, abs=0.03)


@pytest.mark.parametrize(("height", "width"), [(100, 100), (50, 200), (200, 50), (1, 1)])
def test_crops_lie_inside_and_have_the_area_and_ratio_asked_for(height: int, width: int) -> None:
    for seed in range(300):
        top, left, tall, wide = crop_box(height, width, (0.1, 0.6), np.random.default_rng(seed))
        assert 0 <= top <= top + tall <= height
        assert 0 <= left <= left + wide <= width
        assert min(tall, wide) >= 1
        if (height, width) == (100, 100):
            assert 0.09 <= tall * wide / 1e4 <= 0.61
            assert 0.72 <= wide / tall <= 1.39


def test_crops_are_cut_from_the_decoded_image_and_resized() -> None:
    large = pictures(40)
    source = ImageInputs(
        {16: pictures(16)}, np.arange(12), IDS, (0.0,) * 3, (1 / 255,) * 3, (), ("d", 0), Augmentation(crop=(1.0, 1.0)),
        ArrayImages(large),
    )  # fmt: skip
    found = source.load(np.arange(12), 16, CPU, 1)
    assert not torch.equal(found, source.load(np.arange(12), 16, CPU, None))
    exact = 0
    for row, image in enumerate(found):  # the whole where the ratio drawn fits a square, else the middle: all is seen
        exact += np.array_equal(image.permute(1, 2, 0).numpy(), squash(large[row], 16))
    assert exact == 12


def test_a_view_with_changes_of_its_own_has_its_own_draws_and_not_the_runs() -> None:
    source, plain = inputs(Augmentation(cutout=0.9), augment=("flip",)), inputs(augment=("flip",))
    everything, view = np.arange(12), View("strong", augment=Augmentation(randaugment=2))
    strong = source.load(everything, 16, CPU, 1, view)
    assert torch.equal(strong, plain.load(everything, 16, CPU, 1, view))  # the run's Cutout is not in it
    other = source.load(everything, 16, CPU, 1, View("another", augment=Augmentation(randaugment=2)))
    assert not torch.equal(strong, other)
    mirrored, own = source.mirrored(everything, 1), source.mirrored(everything, 1, view)
    assert not torch.equal(mirrored, own)
    assert torch.equal(source.load(everything, 16, CPU, 1, View("plain")), source.load(everything, 16, CPU, 1))


def test_only_crops_and_randaugment_move_what_is_seen() -> None:
    assert [a.moves for a in (Augmentation(), Augmentation(cutout=0.5, jitter=(0.4, 0, 0, 0)))] == [False, False]
    assert Augmentation(crop=(0.5, 1.0)).moves
    assert Augmentation(randaugment=1).moves
