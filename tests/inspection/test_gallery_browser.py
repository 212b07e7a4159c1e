"""The gallery in a real browser: filtered, ordered, walked through with the keyboard, with heat maps over pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.inspection.gallery import write_gallery
from mlbench.inspection.look import look

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its chromedriver here")


@pytest.fixture(scope="module")
def page(two_runs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("gallery")
    seen = look(two_runs["keys"], store=two_runs["store"], dataset=two_runs["dataset"], device="cpu")
    path = write_gallery(seen, folder / "page.html").path
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    # Without network: a page that asked another host for anything would log an error.
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "proxy-server=127.0.0.1:9", "disable-gpu"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.get(Path(path).as_uri())
    yield driver
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    driver.quit()


@pytest.fixture(autouse=True)
def fresh(page: Any) -> None:
    page.refresh()


def shown(page: Any) -> list[Any]:
    return [card for card in page.find_elements("class name", "card") if card.is_displayed()]


def choose(page: Any, name: str, value: str) -> None:
    (option,) = [each for each in options(page, name) if each.get_attribute("value") == value]
    option.click()


def options(page: Any, name: str) -> list[Any]:
    return page.find_elements("css selector", f"select[name={name}] option")


def test_filters_leave_what_has_the_mark_and_the_class(page: Any) -> None:
    every = shown(page)
    assert page.find_element("tag name", "output").text == f"{len(every)} of {len(every)} images"
    marks = [option.get_attribute("value") for option in options(page, "mark")]
    assert "top_loss" in marks
    choose(page, "mark", "top_loss")
    marked = shown(page)
    assert all("top_loss" in card.get_attribute("data-marks").split() for card in marked)
    choose(page, "class", "red")
    assert 0 < len(shown(page)) <= len(marked)
    for card in shown(page):
        (row,) = card.find_elements("css selector", "tr[data-class=red]")
        assert "top_loss" in row.get_attribute("data-marks").split()


def test_the_order_is_that_of_the_numbers(page: Any) -> None:
    choose(page, "order", "ap")
    values = [float(card.get_attribute("data-ap")) for card in shown(page) if card.get_attribute("data-ap")]
    assert values == sorted(values)
    choose(page, "order", "-loss")
    losses = [float(card.get_attribute("data-loss")) for card in shown(page)]
    assert losses == sorted(losses, reverse=True)


def test_heat_maps_go_on_and_off_by_choice_class_and_key(page: Any) -> None:
    assert not page.find_elements("tag name", "canvas")
    choose(page, "map", "an")
    assert len(page.find_elements("tag name", "canvas")) == len(shown(page))
    first = shown(page)[0]
    pressed = [button.get_attribute("aria-pressed") for button in first.find_elements("tag name", "button")]
    assert pressed[0] == "true"
    assert pressed.count("true") == 1
    first.find_element("tag name", "button").click()
    assert not page.find_elements("tag name", "canvas")
    page.execute_script("arguments[0].focus()", first)
    page.switch_to.active_element.send_keys("h")
    assert len(page.find_elements("tag name", "canvas")) == len(shown(page))


def test_arrows_walk_through_the_images_shown(page: Any) -> None:
    cards = shown(page)
    page.execute_script("arguments[0].focus()", cards[0])
    page.switch_to.active_element.send_keys(webdriver.Keys.ARROW_RIGHT)
    assert page.switch_to.active_element == cards[1]
    page.switch_to.active_element.send_keys(webdriver.Keys.ARROW_LEFT)
    assert page.switch_to.active_element == cards[0]


def test_it_fits_a_phone(page: Any) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
