"""Protocol files: what is written is what runs; a slip is an error that names file, key and the nearest right name."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.protocol import TRACKS, Protocol, list_protocols, load_protocol, protocol_of

BASE = """
name = "mine"
title = "Mine"
source = "here"
selection = "last"

[annotation]
process = "partial"
keep = 0.5

[split]
validation = "none"

[train]
epochs = 3
batch_size = 4
lr = 0.1
image_size = 32

[train.head]
lr = 0.5

[datasets.scenes]
expect = { classes = 10 }

[datasets.scenes.train]
epochs = 7

[datasets.scenes.train.head]
epochs = 9
"""


@pytest.fixture
def write(tmp_path: Path):
    """Return a function that writes a protocol file and returns its path as text."""

    def write(text: str, name: str = "mine.toml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


# --- the shipped ones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(list_protocols()))
def test_every_shipped_protocol_loads_under_its_own_name(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name
    assert protocol.title
    assert protocol.source
    assert len(protocol.sha256) == 64
    for dataset in ("any", *protocol.datasets):
        for track in TRACKS:
            assert protocol.train_settings(dataset, track, {}).epochs >= 1
        assert protocol.annotation_for(dataset).process
        assert protocol.unspecified_for(dataset).train


def test_shipped_protocols_are_listed_with_their_titles() -> None:
    listed = list_protocols()
    assert {"full", "single_positive", "single_positive_spml", "partial", "partial_exact"} <= listed.keys()
    assert all(listed.values())
    assert list(listed) == sorted(listed)


def test_shipped_protocols_have_one_hash_just_where_they_hide_split_and_select_alike() -> None:
    loaded = [load_protocol(name) for name in list_protocols()]
    parts = {(p.sha256, str((p.annotation, p.split, p.unspecified.train, p.selection))) for p in loaded}
    assert len(parts) == len({digest for digest, _ in parts}) == len({meaning for _, meaning in parts})


# --- layers of settings -----------------------------------------------------------------------------------------------


def test_settings_are_layered_general_track_data_set_and_asked_for(write) -> None:
    protocol = load_protocol(write(BASE))
    found = {
        (dataset, track): protocol.train_settings(dataset, track, {})
        for dataset in ("other", "scenes")
        for track in TRACKS
    }
    assert {key: (value.epochs, value.lr) for key, value in found.items()} == {
        ("other", "full"): (3, 0.1),
        ("other", "head"): (3, 0.5),
        ("scenes", "full"): (7, 0.1),
        ("scenes", "head"): (9, 0.5),
    }
    assert protocol.train_settings("scenes", "head", {"epochs": 1}).epochs == 1


def test_an_extending_protocol_changes_only_the_keys_it_gives(write) -> None:
    write(BASE, "base.toml")
    protocol = load_protocol(
        write('extends = "base.toml"\nname = "child"\n[annotation]\nkeep = 0.25\n[train]\nlr = 1\n')
    )
    assert (protocol.name, protocol.title, protocol.annotation.process) == ("child", "Mine", "partial")
    assert protocol.annotation.params == {"keep": 0.25}
    assert protocol.train_settings("other", "full", {}).lr == 1.0
    assert protocol.train_settings("other", "head", {}).lr == 0.5
    assert protocol.train_settings("scenes", "head", {}).epochs == 9


def test_an_extending_protocol_may_stand_on_a_shipped_one(write) -> None:
    protocol = load_protocol(write('extends = "full"\nname = "child"\n'))
    assert protocol.train == load_protocol("full").train
    assert protocol.annotation.process == "full"


def test_a_data_set_may_have_its_own_rules(write) -> None:
    rules = 'unspecified = { ap = "negative" }\nannotation = { process = "partial_exact", keep = 0.1 }\n'
    protocol = load_protocol(write(f"{BASE}\n[datasets.other]\n{rules}"))
    assert protocol.unspecified_for("scenes").ap == "ignore"
    assert protocol.unspecified_for("other").ap == "negative"
    assert protocol.unspecified_for("other").train == "ignore"
    assert protocol.annotation_for("other").process == "partial_exact"
    assert protocol.annotation_for("scenes").params == {"keep": 0.5}


def test_the_hash_covers_what_is_hidden_split_and_selected_and_no_prose_metric_or_setting(write) -> None:
    same = [
        BASE,
        BASE.replace('title = "Mine"', 'title = "Other"'),
        BASE.replace('source = "here"', 'source = "there"\ndescription = "x"\nunverified = ["y"]'),
        BASE + '\n[metrics]\nap = "envelope"\nempty_class = "zero"\n',
        "# a remark\n" + BASE,
        # A run's identity has its own training settings, resolved; another data set's must not rename it.
        BASE.replace("lr = 0.1", "lr = 0.2"),
        BASE + "\n[datasets.elsewhere.train]\nepochs = 3\n",
    ]
    assert len({load_protocol(write(text)).sha256 for text in same}) == 1
    changed = [
        BASE.replace("keep = 0.5", "keep = 0.6"),
        BASE.replace('selection = "last"', 'selection = "clean_val"'),
        BASE.replace('validation = "none"', 'validation = "holdout"'),
        BASE + '\n[unspecified]\ntrain = "negative"\n',
    ]
    assert len({load_protocol(write(text)).sha256 for text in [BASE, *changed]}) == 5


def test_the_hash_is_that_of_the_whole_chain(write) -> None:
    write(BASE, "base.toml")
    child = write('extends = "base.toml"\nname = "child"\n', "child.toml")
    assert load_protocol(child).sha256 == load_protocol(write(BASE)).sha256


def test_counts_are_compared_with_what_the_protocol_was_defined_on(write) -> None:
    protocol = load_protocol(write(BASE))
    protocol.check_counts("scenes", {"classes": 10, "train": 5})
    protocol.check_counts("other", {"classes": 3})
    with pytest.raises(DataError, match=r"'scenes' is not what protocol 'mine' was defined on \(classes: expected 10"):
        protocol.check_counts("scenes", {"classes": 9})


# --- slips ------------------------------------------------------------------------------------------------------------

SLIPS = {
    "key": (BASE.replace("selection", "selecton"), ["unknown key 'selecton'", "Did you mean 'selection'?"]),
    "annotation key": (BASE.replace("keep", "kepe"), ["[annotation]", "unknown key 'kepe'", "Did you mean 'keep'?"]),
    "process": (BASE.replace('"partial"', '"partiel"'), ["[annotation]", "'partiel'", "Did you mean 'partial'?"]),
    "keep too large": (BASE.replace("keep = 0.5", "keep = 50"), ["[annotation] keep = 50", "at most 1"]),
    "keep zero": (BASE.replace("keep = 0.5", "keep = 0"), ["[annotation] keep = 0"]),
    "keep text": (BASE.replace("keep = 0.5", 'keep = "half"'), ["[annotation] keep = 'half'", "expected a number"]),
    "keep for a process without": (BASE.replace('"partial"', '"full"'), ["[annotation]", "'keep'", "'full'"]),
    "keep missing": (BASE.replace("keep = 0.5", ""), ["[annotation]", "'keep' is missing"]),
    "split value": (BASE.replace('"none"', '"non"'), ["[split] validation = 'non'", "Did you mean 'none'?"]),
    "split key": (BASE.replace("validation", "validaton"), ["[split]", "Did you mean 'validation'?"]),
    "split share": (BASE.replace('"none"', '"holdout"\nfraction = 1.5'), ["[split]", "fraction = 1.5"]),
    "selection": (BASE.replace('"last"', '"clean-val"'), ["selection = 'clean-val'", "Did you mean 'clean_val'?"]),
    "train key": (BASE.replace("batch_size", "batchsize"), ["[train]", "'batchsize'", "Did you mean 'batch_size'?"]),
    "train value": (BASE.replace("epochs = 3", "epochs = 0"), ["[train]", "epochs = 0", "at least 1"]),
    "train type": (BASE.replace("epochs = 3", "epochs = 2.5"), ["[train] epochs = 2.5", "expected a whole number"]),
    "train text": (BASE.replace("lr = 0.1", 'lr = "0.1"'), ["[train] lr = '0.1'", "expected a number"]),
    "train truth": (BASE.replace("lr = 0.1", "lr = true"), ["[train] lr = True", "expected a number"]),
    "track key": (BASE.replace("[train.head]", "[train.haed]"), ["[train]", "'haed'", "Did you mean 'head'?"]),
    "track no table": (BASE.replace("[train.head]\nlr", "head"), ["[train] head = 0.5", "expected a table"]),
    "optimizer": (
        BASE.replace("lr = 0.1", 'lr = 0.1\noptimizer = "adan"'),
        ["[train] optimizer = 'adan'", "Did you mean 'adam'?"],
    ),
    "augment": (BASE.replace("lr = 0.1", 'lr = 0.1\naugment = ["flap"]'), ["augment[0] = 'flap'", "mean 'flip'?"]),
    "augment no list": (
        BASE.replace("lr = 0.1", 'lr = 0.1\naugment = "flip"'),
        ["augment = 'flip'", "expected a list"],
    ),
    "multipliers": (
        BASE.replace("lr = 0.1", 'lr = 0.1\nlr_multipliers = { head = "ten" }'),
        ["lr_multipliers.head = 'ten'", "expected a number"],
    ),
    "data set key": (BASE.replace("expect", "expected"), ["[datasets.scenes]", "Did you mean 'expect'?"]),
    "data set count": (
        BASE.replace("classes = 10", "clases = 10"),
        ["[datasets.scenes.expect]", "Did you mean 'classes'?"],
    ),
    "data set train": (
        BASE.replace("epochs = 7", "epoch = 7"),
        ["[datasets.scenes.train]", "'epoch'", "Did you mean 'epochs'?"],
    ),
    "data set no table": (BASE + "\n[datasets]\nvoc = 3\n", None),
    "section no table": ("annotation = 3\n" + BASE.split("[annotation]")[0], ["'annotation' must be a table"]),
    "train no table": (
        BASE.split("[train]")[0].replace("title", "train = 3\ntitle"),
        ["train = 3", "expected a table"],
    ),
    "metrics": (BASE + '\n[metrics]\nap = "steps"\n', ["[metrics] ap = 'steps'", "Did you mean 'step'?"]),
    "metrics top": (BASE + "\n[metrics]\ntop_k = 0\n", ["[metrics]", "top_k = 0"]),
    "metrics decision": (BASE + "\n[metrics]\ndecision = 50\n", ["[metrics]", "decision = 50"]),
    "unspecified": (BASE + '\n[unspecified]\nap = "unknown"\n', ["[unspecified] ap = 'unknown'", "expected one of"]),
    "unspecified of a data set": (
        BASE.replace("expect = { classes = 10 }", 'unspecified = { f1 = "negativ" }'),
        ["[datasets.scenes.unspecified] f1", "Did you mean 'negative'?"],
    ),
    "process of a data set": (
        BASE.replace("expect = { classes = 10 }", 'annotation = { process = "ful" }'),
        ["'ful'", "Did you mean 'full'?"],
    ),
    "missing": (BASE.replace('source = "here"', ""), ["missing key 'source'"]),
    "missing epochs": (BASE.replace("epochs = 3", ""), ["[train]", "missing key 'epochs'"]),
    "set by mlbench": ('sha256 = "x"\n' + BASE, ["key 'sha256' is set by mlbench"]),
    "not TOML": (BASE + "\n[open\n", ["not valid TOML"]),
    "unverified": (BASE.replace("[annotation]", 'unverified = "all"\n[annotation]', 1), ["expected a list"]),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_one_line_with_file_and_key_and_the_nearest_right_name(write, slip: str) -> None:
    text, parts = SLIPS[slip]
    path = write(text)
    with pytest.raises(UsageError) as caught:
        load_protocol(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(path)
    for part in parts or []:
        assert part in message, message


def test_an_unknown_protocol_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"unknown protocol 'single-positive'. Did you mean 'single_positive'\?"):
        load_protocol("single-positive")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no protocol file '.*nothing.toml'"):
        load_protocol(str(tmp_path / "nothing.toml"))


def test_a_file_that_extends_an_unknown_protocol_is_named(write) -> None:
    path = write('extends = "ful"\n')
    with pytest.raises(UsageError) as caught:
        load_protocol(path)
    assert str(caught.value).startswith(f"{path}: extends")
    assert "Did you mean 'full'?" in str(caught.value)


@pytest.mark.parametrize("value", ["3", '["full"]', "{ a = 1 }"])
def test_extends_takes_a_name(write, value: str) -> None:
    with pytest.raises(UsageError, match=r"extends = .*: expected text"):
        load_protocol(write(f"extends = {value}\n"))


def test_a_protocol_that_extends_itself_is_refused(write) -> None:
    path = write('extends = "mine.toml"\n')
    with pytest.raises(UsageError, match="extends itself"):
        load_protocol(path)
    write('extends = "a.toml"\n', "b.toml")
    with pytest.raises(UsageError, match=r"extends itself .*a\.toml -> .*b\.toml -> .*a\.toml"):
        load_protocol(write('extends = "b.toml"\n', "a.toml"))


def test_extends_looks_beside_the_file_and_not_where_one_stands(write, tmp_path: Path, monkeypatch) -> None:
    write(BASE, "base.toml")
    path = write('extends = "base.toml"\nname = "child"\n')
    monkeypatch.chdir(tmp_path.parent)
    assert load_protocol(path).name == "child"


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_protocol(str(tmp_path / "p.toml"))


def test_a_protocol_is_frozen() -> None:
    protocol = load_protocol("full")
    assert isinstance(protocol, Protocol)
    with pytest.raises(AttributeError):
        protocol.selection = "last"  # type: ignore[misc]


# --- one hash for one meaning, one name for one protocol --------------------------------------------------------------

MINIMAL = """
name = "mine"
title = "Mine"
source = "here"
selection = "clean_val"
[annotation]
process = "single_positive_frequency"
bias = 1.0
[train]
epochs = 1
batch_size = 8
lr = 1e-3
image_size = 64
"""


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL + '[split]\nvalidation = "official_else_holdout"\nfraction = 0.2\nseed = 1200\n',
        MINIMAL + "[split]\nseed = 1200.0\n",
        MINIMAL + "[inference]\ncrops = 1\n",
        MINIMAL + "[inference]\ncrops = 1.0\nshare = 0.875\n",
        MINIMAL + '[unspecified]\ntrain = "ignore"\n',
        MINIMAL + '[unspecified]\nap = "negative"\n',  # stands in the identity for itself
        MINIMAL.replace("bias = 1.0", "bias = 1"),
        MINIMAL.replace(
            'process = "single_positive_frequency"\nbias = 1.0', 'bias = 1\nprocess = "single_positive_frequency"'
        ),
    ],
)
def test_what_says_the_same_has_the_same_hash(write, text: str) -> None:
    assert load_protocol(write(text)).sha256 == load_protocol(write(MINIMAL)).sha256


def test_a_default_of_the_process_written_out_is_no_change(write) -> None:
    short = MINIMAL.replace('"single_positive_frequency"\nbias = 1.0', '"single_positive_spml"')
    long = short.replace('"single_positive_spml"', '"single_positive_spml"\nnum_pos = 1.0\nnum_neg = 0')
    other = short.replace('"single_positive_spml"', '"single_positive_spml"\nnum_pos = 2')
    first, second, third = (load_protocol(write(text)).sha256 for text in (short, long, other))
    assert first == second != third


def test_a_replaced_part_is_hashed_as_it_is_now() -> None:
    protocol = load_protocol("full")
    assert replace(protocol, selection="last").sha256 != protocol.sha256
    assert replace(protocol, title="x").sha256 == protocol.sha256


@pytest.mark.parametrize("name", ["", 'name = "mine"\n'])
def test_a_protocol_that_extends_another_needs_a_name_of_its_own(write, name: str) -> None:
    write(MINIMAL, "base.toml")
    with pytest.raises(UsageError, match=r"child\.toml: extends = 'base\.toml': .* needs a name of its own"):
        load_protocol(write(f'extends = "base.toml"\n{name}[metrics]\ntop_k = 1\n', "child.toml"))


def test_the_name_of_a_shipped_protocol_cannot_be_taken_for_other_content(write) -> None:
    text = MINIMAL.replace('name = "mine"', 'name = "single_positive"')
    with pytest.raises(UsageError, match=r"name = 'single_positive' is that of a registered protocol, .*annotation"):
        load_protocol(write(text))


def test_a_copy_of_a_shipped_protocol_may_keep_its_name(write) -> None:
    from importlib.resources import files

    text = (files("mlbench.protocols") / "full.toml").read_text()
    assert load_protocol(write("# mine\n" + text)).sha256 == load_protocol("full").sha256


@pytest.mark.parametrize("name", sorted(list_protocols()))
def test_a_record_gives_back_the_protocol_it_was_made_under(name: str) -> None:
    protocol = load_protocol(name)
    for dataset in ("elsewhere", *protocol.datasets):
        record = {"key": "0" * 64, "protocol": json.loads(json.dumps(protocol.plain(dataset)))}
        back = protocol_of(record)
        assert (back.sha256, back.counted, back.name) == (protocol.sha256, protocol.counted, name)
        assert back.definitions(dataset) == protocol.definitions(dataset)
        assert back.annotation_for(dataset) == protocol.annotation_for(dataset)
        for track in TRACKS:
            assert back.train_settings(dataset, track, {}) == protocol.train_settings(dataset, track, {})


def test_an_older_record_of_a_protocol_that_is_not_shipped_asks_for_its_file() -> None:
    with pytest.raises(UsageError, match=r"'mine' is not registered, .*--protocol FILE\.toml"):
        protocol_of({"key": "0" * 64, "identity": {"protocol": "mine"}})


@pytest.fixture
def shipped_elsewhere(plug_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that registers the protocols of a package of somebody's: text by file, then entry points."""

    def ship(files: dict[str, str], **points: str) -> None:
        (tmp_path / "mlbench_some_protocols").mkdir()
        for name, text in files.items():
            (tmp_path / "mlbench_some_protocols" / name).write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "mlbench_some_protocols", raising=False)
        for name, value in points.items():
            plug_in("protocols", name, value)

    return ship


def test_a_protocol_that_another_package_ships_is_taken_by_name(shipped_elsewhere, mlbench) -> None:
    other = 'name = "other"\nextends = "mine"\ntitle = "another"\n[metrics]\ntop_k = 2\n'
    shipped_elsewhere(
        {"mine.toml": MINIMAL, "second.toml": other},
        mine="mlbench_some_protocols",
        other="mlbench_some_protocols:second.toml",
    )
    mine, child = load_protocol("mine"), load_protocol("other")
    assert (mine.where, child.where) == ("theirs: mine.toml", "theirs: second.toml")
    assert (child.metrics.top_k, child.train) == (2, mine.train)
    assert list_protocols()["other"] == "another"
    assert load_protocol("theirs:mine") == mine
    code, out, _ = mlbench("show", "other")
    assert code == 0
    assert "other: another" in out


def test_a_packages_protocols_that_cannot_be_read_are_named_and_block_no_list(shipped_elsewhere) -> None:
    shipped_elsewhere(
        {
            "mine.toml": MINIMAL.replace('"mine"', '"yours"'),
            "broken.toml": "[",
            "beside.toml": 'name = "beside"\nextends = "mine.toml"',
        },
        mine="mlbench_some_protocols",
        broken="mlbench_some_protocols",
        beside="mlbench_some_protocols",
        gone="mlbench_some_protocols",
        nowhere="mlbench_no_such_package",
    )
    for name, message in {
        "mine": "theirs: mine.toml: name = 'yours': it is registered as 'mine'",
        "broken": "theirs: broken.toml: not valid TOML: ",
        "beside": "theirs: beside.toml: extends = 'mine.toml': a registered protocol extends a registered one, by name",
        "gone": "protocol 'gone' (mlbench_some_protocols) does not load: package mlbench_some_protocols has no file "
        "gone.toml",
        "nowhere": "protocol 'nowhere' (mlbench_no_such_package) does not load: No module named",
    }.items():
        with pytest.raises(MlbenchError, match=re.escape(message)):
            load_protocol(name)
        assert message in list_protocols()[name]
    assert list_protocols()["full"] == load_protocol("full").title


def test_what_a_protocol_extends_may_be_unknown(write) -> None:
    with pytest.raises(UsageError, match=r"mine.toml: extends: unknown protocol 'ful'. Did you mean 'full'"):
        load_protocol(write('name = "mine"\nextends = "ful"\n'))
