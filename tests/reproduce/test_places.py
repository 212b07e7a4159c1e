"""What a person names with --data, --weights and --side."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlbench.errors import UsageError
from mlbench.reproduce.places import Place, missing_weights, parse_data, parse_sides, parse_weights

ASKED = ["coco2014", "coco2014-all", "nuswide-spml", "nuswide-splc", "wider"]


def test_a_name_in_print_stands_for_all_its_data_sets() -> None:
    found = parse_data(["coco2014=/c", "nuswide=/n", "wider_attribute=/w"], ASKED)
    assert found == {
        "coco2014": Place("coco2014", Path("/c")),
        "coco2014-all": Place("coco2014-all", Path("/c")),
        "nuswide-spml": Place("nuswide-spml", Path("/n")),
        "nuswide-splc": Place("nuswide-splc", Path("/n")),
        "wider": Place("wider", Path("/w")),
    }


def test_a_data_set_by_its_own_name_wins_whatever_the_order() -> None:
    for texts in (["nuswide=/n", "nuswide-splc=/own"], ["nuswide-splc=/own", "nuswide=/n"]):
        found = parse_data(texts, ASKED)
        assert found["nuswide-splc"].root == Path("/own")
        assert found["nuswide-spml"].root == Path("/n")
    found = parse_data(["coco2014-all=/own", "coco2014=/c"], ASKED)
    assert (found["coco2014-all"].root, found["coco2014"].root) == (Path("/own"), Path("/c"))


def test_another_data_set_in_its_place() -> None:
    found = parse_data(["coco2014=corel5k-199:/k", "wider=/data:here"], ASKED)
    assert found["coco2014"] == Place("corel5k-199", Path("/k"))
    assert found["coco2014"].stands_in("coco2014")
    assert found["coco2014-all"] == Place("corel5k-199", Path("/k"))
    assert found["wider"] == Place("wider", Path("/data:here"))
    assert not found["wider"].stands_in("wider")
    assert parse_data(["wider=scenes:"], ASKED)["wider"] == Place("scenes", None)
    part = parse_data(["wider=wider-partial:/w"], ASKED)["wider"]
    assert part == Place("wider-partial", Path("/w"))
    assert part.stands_in("wider")


def test_places_of_other_tables_are_left_aside() -> None:
    assert parse_data(["voc2012=/v", "wider=/w"], ASKED, ["voc2012"]) == {"wider": Place("wider", Path("/w"))}
    with pytest.raises(UsageError, match="Did you mean 'wider'"):
        parse_data(["wder=/w"], ASKED, ["voc2012"])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["coco2014"], "expected NAME=DIR"),
        (["coco2014="], "expected NAME=DIR"),
        (["coc2014=/c"], "Did you mean 'coco2014'"),
        (["wider=/a", "wider=/b"], "--data wider: given twice"),
        (["nuswide=/a", "nuswide=/b"], "--data nuswide: given twice"),
    ],
)
def test_what_is_no_place(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError, match="--data") as error:
        parse_data(texts, ASKED)
    assert said in str(error.value)


def test_weights_go_to_the_backbone_that_their_name_begins_with(tmp_path: Path) -> None:
    names = ["resnet50-0676ba61.pth", "resnet50_keras_v1_fp16.pth", "resnet101.safetensors", "notes.txt", "other.pth"]
    for name in names:
        (tmp_path / name).touch()
    found = parse_weights([tmp_path])
    assert {name: path.name for name, path in found.items()} == {
        "resnet50": "resnet50-0676ba61.pth",
        "resnet50-keras": "resnet50_keras_v1_fp16.pth",
        "resnet101": "resnet101.safetensors",
    }
    assert parse_weights([f"vgg16={tmp_path / 'other.pth'}"])["vgg16"].name == "other.pth"
    assert parse_weights([tmp_path, tmp_path / names[0]]) == found
    assert missing_weights("resnet50", found, "full") == ""
    assert missing_weights("scenes", {}, "full") == ""
    assert "track 'head' needs" in missing_weights("scenes", {}, "head")


def test_weights_that_cannot_be_told_apart(tmp_path: Path) -> None:
    for name in ("vgg16-397923af.pth", "vgg16_caffe.pth", "other.pth"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="both for 'vgg16': name one"):
        parse_weights([tmp_path])
    with pytest.raises(UsageError, match="begins with no backbone's"):
        parse_weights([tmp_path / "other.pth"])
    with pytest.raises(UsageError, match="no such file or folder"):
        parse_weights([tmp_path / "nothing"])


def test_side_inputs_of_one_data_set_or_of_all() -> None:
    found = parse_sides(["vl_scores=/a", "coco2014:vl_scores=/b"])
    assert found == {("", "vl_scores"): Path("/a"), ("coco2014", "vl_scores"): Path("/b")}
    with pytest.raises(UsageError, match="expected KIND=FILE"):
        parse_sides(["vl_scores"])
    with pytest.raises(UsageError, match="given twice"):
        parse_sides(["vl_scores=/a", "vl_scores=/b"])
