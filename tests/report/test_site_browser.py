"""The site in a real browser: sorted, filtered, used by keyboard, copied from, without console errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_site import BOARD, published_record, put, variant

from mlbench.report.site import write_site

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium with its chromedriver here", allow_module_level=True)
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

DESKTOP, PHONE = (1200, 900), (390, 844)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of three methods on one board, three runs each, of one that is given all labels, and published rows."""
    folder, output = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("site")
    base = published_record("llr_boostlu__scenes")
    base["identity"]["dataset"]["id"] = "voc2012"
    for draw in range(3):
        for method, value in (("an", 60.0), ("llr", 70.0), ("wan", 65.0)):
            put(folder, variant(base, method, draw, value + draw / 10))
    above = variant(base, "full", 0, 80.0)
    above["identity"]["method"]["supervision"] = ["full"]
    put(folder, above)
    write_site(output, folder)
    return output


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    # Without network: a page that asked another host for anything would log an error.
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "proxy-server=127.0.0.1:9", "disable-gpu"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser: Any, site: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page by name; afterwards the console must be empty and only files asked for."""
    for log in ("browser", "performance"):
        browser.get_log(log)

    def show(name: str = BOARD, size: tuple[int, int] = DESKTOP, **features: str) -> Any:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        browser.get((site / name).as_uri())
        return browser

    yield show
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    asked = [e["message"] for e in browser.get_log("performance") if "Network.requestWillBeSent" in e["message"]]
    assert asked
    assert not [message for message in asked if '"url":"http' in message]


def methods(page: Any) -> list[str]:
    """Row headers of the first board that can be seen, those of published rows left out."""
    rows = page.find_elements(By.CSS_SELECTOR, "#table-1 tbody:first-of-type tr:not(.set)")
    return [row.find_element(By.TAG_NAME, "th").text for row in rows if row.is_displayed()]


def head(page: Any, title: str) -> Any:
    return page.find_element(By.XPATH, f"//table[@id='table-1']//thead//th[button[text()='{title}']]")


def focused(page: Any) -> Any:
    return page.switch_to.active_element


def press(page: Any, *keys: str) -> None:
    webdriver.ActionChains(page).send_keys(*keys).perform()


def test_a_click_on_a_head_sorts_and_tells_the_direction(open_page) -> None:
    page = open_page()
    assert methods(page) == ["llr", "wan", "an"]
    button = head(page, "mAP").find_element(By.TAG_NAME, "button")
    button.click()
    assert methods(page) == ["an", "wan", "llr"]
    assert head(page, "mAP").get_attribute("aria-sort") == "ascending"
    head(page, "Method").find_element(By.TAG_NAME, "button").click()
    assert methods(page) == ["an", "llr", "wan"]
    assert head(page, "mAP").get_attribute("aria-sort") == "none"
    assert "Sorted by Method, ascending" in page.find_element(By.ID, "status").text


def test_published_rows_have_a_table_of_their_own_that_is_sorted_too(open_page) -> None:
    page = open_page()
    assert page.find_elements(By.CSS_SELECTOR, "#table-1 .published") == []
    first = page.find_element(By.CSS_SELECTOR, "#table-printed tbody th").text
    page.find_element(By.CSS_SELECTOR, "#table-printed th[aria-sort=descending] button").click()
    assert page.find_element(By.CSS_SELECTOR, "#table-printed tbody tr:last-child th").text == first


def test_filters_hide_rows_and_say_how_many_are_left(open_page) -> None:
    page = open_page()
    search = page.find_element(By.CSS_SELECTOR, "[data-table=table-1] input")
    search.send_keys("wan")
    assert methods(page) == ["wan"]
    assert page.find_element(By.CSS_SELECTOR, "[data-table=table-1] output").text.startswith("1 of ")
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.DELETE)
    assert len(methods(page)) == 3
    assert methods(page) == ["llr", "wan", "an"]
    page.find_element(By.XPATH, "//*[@data-table='table-1']//select[@name='supervision']/option[.='full']").click()
    assert methods(page) == []
    assert page.find_element(By.CSS_SELECTOR, "#table-1 tbody:last-of-type tr:last-child th").text == "full"
    assert page.find_element(By.CSS_SELECTOR, "[data-table=table-1] output").text == "1 of 4 rows"


def test_links_lead_to_the_method_its_runs_and_back(open_page) -> None:
    page = open_page()
    page.find_element(By.LINK_TEXT, "llr").click()
    assert page.find_element(By.TAG_NAME, "h1").text == "llr"
    page.find_element(By.XPATH, "//summary[.='Runs: 3']").click()
    page.find_element(By.CSS_SELECTOR, "a[href^='../runs/'][href$='.html']").click()
    assert page.find_element(By.TAG_NAME, "h1").text.startswith("Run ")
    assert "the predictions are not at hand" in page.find_element(By.TAG_NAME, "main").text
    page.find_element(By.LINK_TEXT, "Paper tables").click()
    assert page.find_element(By.TAG_NAME, "h1").text == "The papers' tables"
    page.find_element(By.LINK_TEXT, "Leaderboards").click()
    page.find_element(By.LINK_TEXT, "single_positive on voc2012").click()
    assert len(methods(page)) == 3
    page.find_element(By.LINK_TEXT, "mlbench").click()
    assert page.find_element(By.TAG_NAME, "h1").text == "Which method should I use?"


def test_the_keyboard_skips_to_the_content_sorts_and_shows_where_it_is(open_page) -> None:
    page = open_page()
    press(page, Keys.TAB)
    assert focused(page).text == "To the content"
    assert focused(page).rect["x"] >= 0
    press(page, Keys.ENTER)
    assert page.current_url.endswith("#main")
    for _ in range(40):
        press(page, Keys.TAB)
        if focused(page).tag_name == "button":
            break
    assert focused(page).text == "Method"
    assert focused(page).value_of_css_property("outline-style") == "solid"
    press(page, Keys.ENTER)
    assert methods(page) == ["an", "llr", "wan"]
    press(page, Keys.SPACE)
    assert methods(page) == ["wan", "llr", "an"]


def test_the_copy_button_puts_the_table_on_the_clipboard(open_page, site) -> None:
    page = open_page()
    page.find_element(By.CSS_SELECTOR, "button[data-copy=latex-1]").click()
    page.execute_async_script("const done = arguments[0]; setTimeout(done, 300)")
    assert page.find_element(By.ID, "status").text in ("LaTeX copied.", "Copied")
    search = page.find_element(By.CSS_SELECTOR, "[data-table=table-1] input")
    search.send_keys(Keys.CONTROL, "v")
    pasted = search.get_attribute("value")
    assert r"\begin{tabular}" in pasted
    assert "llr" in pasted


@pytest.mark.parametrize("name", ["index.html", "boards.html", BOARD, "papers.html", "methods/llr.html", "run"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_pages_without_scrolling_them_sideways_in_both_schemes(open_page, site, name, scheme) -> None:
    name = name if name != "run" else next((site / "runs").glob("*.html")).relative_to(site).as_posix()
    page = open_page(name, PHONE, prefers_color_scheme=scheme)
    width = page.execute_script("return document.documentElement.scrollWidth")
    assert width <= PHONE[0]
    colours = page.execute_script(
        "const s = getComputedStyle(document.body);"
        "return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3))"
    )
    text, ground = (sum(map(int, colour)) for colour in colours)
    assert text < ground if scheme == "light" else text > ground


def cut_tables(page: Any) -> list[str]:
    """Names of the tables that are wider than their place."""
    wide = "[...document.querySelectorAll('.scroll')].filter(place => place.scrollWidth > place.clientWidth)"
    return page.execute_script(f"return {wide}.map(place => place.getAttribute('aria-label'))")


@pytest.mark.parametrize("name", ["index.html", "boards.html", "methods.html", BOARD, "methods/llr.html", "run"])
def test_no_table_is_cut_at_the_right_edge_of_a_desktop(open_page, site, name) -> None:
    name = name if name != "run" else next((site / "runs").glob("*.html")).relative_to(site).as_posix()
    assert cut_tables(open_page(name, (1400, 1000))) == []


def test_a_phone_shows_what_ranks_a_board_and_all_its_columns_where_asked(open_page) -> None:
    page = open_page(BOARD, (420, 900))
    place = head(page, "Mean rank").rect
    assert place["x"] + place["width"] <= 420
    shown = [th.text for th in page.find_elements(By.CSS_SELECTOR, "#table-1 thead th") if th.is_displayed()]
    assert shown[:6] == ["Method", "Tie group", "mAP", "95 % interval", "Chance of best", "Mean rank"]
    page.find_element(By.CSS_SELECTOR, "[data-table=table-1] [type=checkbox]").click()
    assert head(page, "Settings").is_displayed()
    assert head(page, "Seconds a run").is_displayed()


def test_a_screen_reader_finds_names_of_all_controls_and_tables(open_page) -> None:
    page = open_page()
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = {"button", "link", "textbox", "searchbox", "combobox", "table", "img", "image", "region"}
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored") and node["role"]["value"] in named and not node.get("name", {}).get("value")
    ]
    assert nameless == []
    assert {"main", "navigation", "banner"} <= {node["role"]["value"] for node in tree if not node.get("ignored")}


def heights(page: Any, table: str) -> set[float]:
    """Heights of the rows of a table that can be seen, titles of its parts left out."""
    rows = page.find_elements(By.CSS_SELECTOR, f"#{table} tbody tr:not(.set)")
    return {round(row.rect["height"]) for row in rows if row.is_displayed()}


@pytest.mark.parametrize("name", [BOARD, "boards.html"])
def test_rows_are_of_one_height_whatever_stands_in_columns_that_are_not_shown(open_page, name) -> None:
    found = heights(open_page(name, (1400, 1000)), "table-1")
    assert max(found) - min(found) <= 1


def test_a_title_of_a_part_stays_above_its_rows_and_goes_with_them(open_page) -> None:
    page = open_page()
    head(page, "Method").find_element(By.TAG_NAME, "button").click()
    titles = [
        body.find_elements(By.TAG_NAME, "tr")[0] for body in page.find_elements(By.CSS_SELECTOR, "#table-1 tbody")
    ]
    assert [title.text for title in titles] == ["Given the observed labels", "Given all labels"]
    page.find_element(By.CSS_SELECTOR, "[data-table=table-1] input").send_keys("wan")
    assert [title.is_displayed() for title in titles] == [True, False]


def test_each_board_is_chosen_by_what_its_runs_share(open_page) -> None:
    page = open_page("boards.html")
    chosen = [select.get_attribute("name") for select in page.find_elements(By.TAG_NAME, "select")]
    assert chosen == [
        *("protocol", "data-set", "share-of-labels", "track", "backbone", "head", "supervision", "pretraining"),
    ]
    assert page.find_element(By.CSS_SELECTOR, "tbody tr").get_attribute("data-data-set") == "voc2012"
    page.find_element(By.XPATH, "//select[@name='track']/option[2]").click()
    assert page.find_element(By.CSS_SELECTOR, ".tools output").text == "2 of 2 rows"
    page.find_element(By.XPATH, "//select[@name='supervision']/option[.='full']").click()
    assert page.find_element(By.CSS_SELECTOR, ".tools output").text == "1 of 2 rows"


def test_the_search_box_finds_pages_from_disk(open_page) -> None:
    page = open_page()
    box = page.find_element(By.CSS_SELECTOR, ".find")
    box.send_keys("largest loss", Keys.ENTER)
    assert page.current_url.endswith("search.html#largest%20loss")
    found = [item.text for item in page.find_elements(By.CSS_SELECTOR, "#entries li") if item.is_displayed()]
    assert [line.split()[:2] for line in found] == [["method", "llr"]]
    words = page.find_element(By.ID, "words")
    words.clear()
    words.send_keys("run wan")
    found = [item for item in page.find_elements(By.CSS_SELECTOR, "#entries li") if item.is_displayed()]
    assert len(found) == 3
    found[0].find_element(By.TAG_NAME, "a").click()
    assert page.find_element(By.TAG_NAME, "h1").text.startswith("Run ")


def test_what_changed_since_a_date(open_page) -> None:
    page = open_page("changes.html")
    day = page.find_element(By.CSS_SELECTOR, ".day")
    assert "New: llr (3), wan (3), an (3)." in " ".join(day.text.split())
    page.execute_script(
        "const box = document.getElementById('since-date'); box.value = '2999-01-01';"
        "box.dispatchEvent(new Event('input'))"
    )
    assert not day.is_displayed()
