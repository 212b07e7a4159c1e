"""What is read of methods is what importing them says, and lists and cards need no torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, PathDistribution
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlbench import catalogue, registry
from mlbench.catalogue.source import Unread, value_at
from mlbench.registry import METHODS, load_method

#: Where settings are kept for some method, and one where none are.
PLACES = ("corel5k-199", "scenes", "coco2014", "voc2012", "wider", "nowhere")


@pytest.mark.parametrize("name", list(METHODS))
def test_what_is_read_of_a_method_is_what_importing_it_says(name: str) -> None:
    read, imported = catalogue._found(name), load_method(name)
    assert read is not None, "can only be imported"
    assert read is not imported
    for attribute in (*catalogue._ASKED, "name", "__module__"):
        assert getattr(read, attribute) == getattr(imported, attribute), attribute
    assert (read.__doc__ or "").split() == (imported.__doc__ or "").split()
    assert read.kept_settings() == imported.kept_settings()
    resolved = catalogue.resolving(name)
    assert resolved is read, "resolves by code of its own"
    assert resolved.declared() == imported.declared()
    for dataset in PLACES:
        for track in ("head", "full"):
            settings = imported.settings_for(dataset, track)
            assert resolved.settings_for(dataset, track) == settings
            hyper = {key: value for key, value in settings.items() if not key.startswith("train.")}
            assert resolved.resolve(hyper) == imported.resolve(hyper)


COMMANDS = (
    *(["--help"], ["list", "methods"], ["list", "protocols"], ["list", "datasets"]),
    *(["show", "llr"], ["show", "kd_wsd_code"], ["show", "single_positive"]),
)
#: What none of `COMMANDS` may import, and what no list of methods and no card may.
HEAVY = {"torch", "torchvision", "timm", "accelerate", "pandas", "scipy", "sklearn", "matplotlib", "PIL", "safetensors"}
HEAVIER_THAN_A_CARD = {"numpy", "mlbench.store", "mlbench.runner", "mlbench.methods", "mlbench.annotation"}


def test_lists_and_cards_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mlbench.cli.main import cli\n"
        f"for words in {COMMANDS!r}:\n"
        "    try:\n        cli.main(words, standalone_mode=False)\n    except SystemExit:\n        pass\n"
        f"    heavy = {HEAVY!r} & {{*sys.modules}}\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "LL-R: the unknown labels with the largest loss are left out" in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["list", "methods"]])
def test_a_list_of_methods_imports_little(words: list[str], tmp_path: Path) -> None:
    code = (
        "import gc, sys\nfrom mlbench.cli.main import cli\n"
        f"try:\n    cli.main({words!r}, standalone_mode=False)\nexcept SystemExit:\n    pass\n"
        f"heavy = {HEAVY | HEAVIER_THAN_A_CARD!r} & {{*sys.modules}}\n"
        "assert not heavy, heavy\nassert gc.isenabled()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_metadata_of_a_package_are_parsed_once_for_all_that_it_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    told = PathDistribution.metadata.fget
    monkeypatch.setattr(PathDistribution, "metadata", property(lambda self: read.append(self) or told(self)))
    registry.forget()
    assert {METHODS.owner(name).package for name in METHODS} == {registry.OWN_PACKAGE}
    assert len(read) <= 2  # its name, and its version


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that registers a class of this source, in a package that cannot be imported."""

    def install(source: str, name: str = "theirs") -> None:
        package = tmp_path / "their_package"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("raise RuntimeError('not to be imported')\n")
        (package / "methods.py").write_text(source)
        (package / "methods.toml").write_text('[theirs.voc2012]\ngamma = 2.0\nsource = "their paper"\n')
        monkeypatch.syspath_prepend(str(tmp_path))
        point = EntryPoint(name, "their_package.methods:Theirs", "mlbench.methods")
        vars(point).update(dist=SimpleNamespace(name="their-package", version="1"))
        monkeypatch.setattr(registry, "entry_points", lambda group: [point])
        registry.forget()

    yield install
    registry.forget()
    for cached in (catalogue._read, catalogue.source._module):
        cached.cache_clear()


def test_a_method_of_another_package_is_read_without_its_being_imported(plugin) -> None:
    plugin(
        "import torch_that_is_not_there\nfrom mlbench.methods import Hyper, Method\n"
        "GAMMA = {'gamma': Hyper(1.0, 'power')}\n"
        "class Theirs(Method):\n    '''Theirs: focal.\n\n    Source: theirs.\n    '''\n"
        "    tracks = ('full',)\n    hyperparameters = {**GAMMA}\n"
        "    def loss(self, logits, labels, step):\n        return 0\n"
    )
    found = catalogue.declared("theirs")
    assert catalogue.title("theirs") == "Theirs: focal."
    assert (found.tracks, found.supervision) == (("full",), ("observed",))
    assert catalogue.resolving("theirs").settings_for("voc2012", "full") == {"gamma": 2.0}
    assert catalogue.resolving("theirs").resolve({})["gamma"] == 1.0


@pytest.mark.parametrize(
    "body",
    [
        "tracks = tuple(open('tracks.txt'))",
        "tracks = ('full',)\n    tracks = ('head',)",
        "for tracks in [('full',)]:\n        pass",
        "supervision = ('magic',)",
        "hyperparameters = {name: Hyper(1.0, 'a') for name in 'ab'}",
    ],
)
def test_what_only_running_tells_or_is_wrong_is_left_to_importing(plugin, monkeypatch, body: str) -> None:
    plugin(f"from mlbench.methods import Hyper, Method\nclass Theirs(Method):\n    'Theirs.'\n    {body}\n")
    monkeypatch.setattr(catalogue, "load_method", lambda name: ("imported", name))
    assert catalogue.declared("theirs") == ("imported", "theirs")
    assert catalogue.title("theirs") == ""


def test_settings_that_a_method_resolves_by_code_are_left_to_importing(plugin, monkeypatch) -> None:
    plugin(
        "from mlbench.methods import Method\nclass Theirs(Method):\n    'Theirs.'\n"
        "    @classmethod\n    def settings_for(cls, dataset, track):\n        return {}\n"
    )
    monkeypatch.setattr(catalogue, "load_method", lambda name: ("imported", name))
    assert catalogue.declared("theirs").version == 1
    assert catalogue.resolving("theirs") == ("imported", "theirs")


MODULE = """
from __future__ import annotations
from typing import TYPE_CHECKING
import os.path as places
from .beside import SHARED, doubled
if TYPE_CHECKING:
    from nowhere import Nothing
WORD: str = "a"
TABLE = {"x": 1, **SHARED, "y": (-2, 1.5e-3, [True, None])}
SUM = TABLE["x"] + 2 * 3 - 4 / 2
TEXT = f"{WORD}-{TABLE['x']:03d}" "!"
TITLE = (None or " The title.\\nMore").strip().partition("\\n")[0].rstrip(".")
CHOSEN = "yes" if not TABLE["x"] > 5 else "no"
TWICE = doubled(3, plus=1)
NAMES = (*SHARED, len(WORD), max(1, 2))
class Base:
    '''Base.'''
    size = 1
    both = {"size": size}
class Left(Base):
    '''Left.'''
    size = 2
class Right(Base):
    size = 3
    own = Base.size
class Both(Left, Right):
    pass
def made(base):
    '''A subclass.'''
    about = base.__doc__ + " Made."
    return type(base.__name__ + "Made", (base,), {"__doc__": about, "__module__": base.__module__})
Made = made(Left)
CHANGED = {"a": 1}
CHANGED["b"] = 2
GROWN = [1]
GROWN.append(2)
AGAIN = 1
AGAIN += 1
try:
    import cv2
except ImportError:
    cv2 = None
FOUND = cv2
@staticmethod
def decorated():
    return 1
CALLED = decorated()
LOOP = LOOPED
LOOPED = LOOP
OPENED = open("secret")
def longer(n):
    while n < 3:
        n += 1
    return n
LONG = longer(1)
EMPTIED = {"x": 1}
POPPED = EMPTIED.pop("x")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "read_only"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError\n")
    (package / "beside.py").write_text(
        "SHARED = {'s': 'shared'}\ndef doubled(n, *, plus=0):\n    two = 2\n    return two * n + plus\n"
    )
    (package / "main.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "read_only.main"
    catalogue.source._module.cache_clear()


def test_values_are_those_that_running_the_module_gives(module: str) -> None:
    known = {
        "TABLE": {"x": 1, "s": "shared", "y": (-2, 1.5e-3, [True, None])},
        **{"SUM": 5.0, "TEXT": "a-001!", "TITLE": "The title", "TWICE": 7, "NAMES": ("s", 1, 2)},
        **{"Both.size": 2, "Right.own": 1, "Both.own": 1, "Base.both": {"size": 1}},
        **{"Made.size": 2, "Made.__name__": "LeftMade", "Made.__module__": "read_only.main"},
        "Made.__doc__": "Left. Made.",
    }
    assert {name: value_at(module, name) for name in known} == known


@pytest.mark.parametrize(
    "name",
    [
        *("CHANGED", "GROWN", "AGAIN", "FOUND", "CALLED", "LOOP", "OPENED", "LONG", "POPPED", "EMPTIED", "CHOSEN"),
        *("Nothing", "nowhere", "Base.nothing", "places"),
    ],
)
def test_what_cannot_be_known_for_sure_is_not_guessed(module: str, name: str) -> None:
    with pytest.raises(Unread):
        value_at(module, name)
