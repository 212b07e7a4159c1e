"""The first table and picture of README.md are what the published records give (`make readme` writes them)."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    spec = spec_from_file_location("benchmark_readme", ROOT / "benchmarks" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(readme: ModuleType) -> pd.DataFrame:
    return readme.cells()


def test_the_table_is_what_the_records_give(readme: ModuleType, found: pd.DataFrame) -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.replaced(text, readme.markdown(found)) == text, "call `make readme`"


def test_the_picture_is_what_the_records_give(readme: ModuleType, found: pd.DataFrame) -> None:
    assert readme.PICTURE.read_text(encoding="utf-8") == readme.picture(found), "call `make readme`"


def test_the_picture_shows_every_cell_of_the_table(readme: ModuleType, found: pd.DataFrame) -> None:
    tree = ElementTree.fromstring(readme.picture(found))
    circles = tree.findall("{http://www.w3.org/2000/svg}circle")
    texts = [text.text or "" for text in tree.findall("{http://www.w3.org/2000/svg}text")]
    assert len(circles) + sum(text.startswith("◂") for text in texts) == len(found)
    assert sum(circle.get("fill") != "white" for circle in circles) == int(found["best"].sum())
    assert set(readme.METHODS) <= set(texts)


def test_the_first_screen_has_picture_commands_table_and_where_to_go(readme: ModuleType) -> None:
    text = readme.README.read_text(encoding="utf-8")
    places = [text.index(part) for part in ("docs/board.svg", "make demo", readme.BEGIN, "docs/start.md")]
    assert places == sorted(places)
    assert len(text.splitlines()) < 120
    assert not re.findall(r"!\[[^]]*\]\((?!docs/board\.svg)", text)
