"""The page in a real browser, from disk: no console error, no request, and every control does what it says."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE

from seqdpo.report.page import page

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'seqdpo[test]'")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium with chromedriver; on Debian: apt-get install chromium-driver"
)


class Reader:
    """Someone at the page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, state: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(path.as_uri() + state)
        self.wait(lambda: self.script("return document.body.dataset.drawn") == "true")

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def wait(self, is_done: Callable[[], Any], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not is_done():
            assert time.monotonic() < end, "the page did not get there"
            time.sleep(0.05)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def click(self, element: Any) -> None:
        self.script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", element)

    @property
    def count(self) -> str:
        return self.one("#count").text

    def column(self, field: str) -> list[str]:
        cells = f"document.querySelectorAll('.tabulator-row [tabulator-field={field}]')"
        return self.script(f"return [...{cells}].map((cell) => cell.innerText.trim())")  # at once: rows may be redrawn

    def problems(self) -> list[str]:
        """Errors and warnings of the console, requests other than the page itself, and hacks."""
        found = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:", "about:")):
                    found.append(url)
        return found + (["hacked"] if self.script("return window.hacked") else [])


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield made
    made.quit()


@pytest.fixture
def reader(driver) -> Reader:
    return Reader(driver)


@pytest.fixture
def report(make_run, tmp_path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page(make_run()), encoding="utf-8")
    return path


def test_opens_without_an_error_or_a_request_and_draws_every_chart(reader, report):
    reader.open(report)
    assert reader.problems() == []
    drawn = [figure.get_attribute("data-chart") for figure in reader.all("figure")]
    assert drawn[:3] == ["trajectories-margin", "trajectories-accuracy", "score-matrix"]
    assert {"margins", "flips", "quartiles", "displacement", "slices"} <= set(drawn)
    assert "path-helpful-harmless-seed0" in drawn
    for figure in reader.all("figure"):
        size = figure.find_element(By.CSS_SELECTOR, "svg, canvas").size
        assert size["width"] > 200 and size["height"] > 60, figure.get_attribute("data-chart")


def test_worst_pairs_come_first_and_columns_sort(reader, report):
    """Pair 0 lost 6, every third pair 4 (`planted_margins`)."""
    reader.open(report)
    assert reader.column("change")[:2] == ["-6.00", "-4.00"]
    assert reader.column("id")[0] == "helpful-0"
    reader.click(reader.one(".tabulator-col[tabulator-field=after] .tabulator-col-content"))
    after = [float(text) for text in reader.column("after")]
    assert after == sorted(after)


def test_filters_by_flip_quartile_slice_and_text(reader, report, make_run):
    reader.open(report)
    flips = make_run().findings.cells[0].change.flips
    assert f"lost {flips.lost}" in reader.count
    for box in reader.all("input[name=flip]"):
        if box.get_attribute("value") != "lost":
            reader.click(box)
    assert reader.count.startswith(f"{flips.lost} of 30 pairs")
    assert set(reader.column("flip")) == {"lost"}
    reader.script("document.getElementById('quartile').value = 'Q4'")
    reader.script("document.getElementById('filters').dispatchEvent(new Event('input', {bubbles: true}))")
    assert set(reader.column("quartile")) <= {"Q4"}
    for box in reader.all("input[name=flip]"):
        if not box.is_selected():
            reader.click(box)
    reader.script("document.getElementById('quartile').value = ''")
    search = reader.one("#search")
    search.send_keys("number 17")
    reader.wait(lambda: reader.count.startswith("1 of 30"))
    assert reader.column("id") == ["helpful-17"]
    search.clear()
    search.send_keys("no such words")
    reader.wait(lambda: reader.count.startswith("0 of 30"))


def test_brush_filters_the_table(reader, report):
    reader.open(report)
    canvas = reader.one("figure[data-chart=margins] canvas")
    reader.script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    width, height = canvas.size["width"], canvas.size["height"]
    actions = ActionChains(reader.driver)
    actions.move_to_element_with_offset(canvas, -width // 4, -height // 4).click_and_hold()
    actions.move_by_offset(width // 2, height // 5).release().perform()
    reader.wait(lambda: not reader.count.startswith("30 of 30"))
    area = reader.script("return report.brush")
    inside = reader.script("return report.shown.map((row) => [row.before, row.after])")
    assert all(
        area["before"][0] <= b <= area["before"][1] and area["after"][0] <= a <= area["after"][1] for b, a in inside
    )
    reader.click(reader.one("#clear-brush"))
    assert reader.count.startswith("30 of 30")


def test_card_shows_the_pair_and_keys_walk(reader, report):
    reader.open(report)
    reader.click(reader.all(".tabulator-row")[0])
    card = reader.one("#card")
    assert "-6.00" in card.text and "helpful-0" in card.text
    assert "null" not in card.text, "nothing was generated, so no answers stand there"
    marks = [mark.text for mark in reader.all("#card mark")]
    reader.click(reader.one("#show-text")) if not reader.one("#show-text").is_selected() else None
    assert [reader.script("return arguments[0].textContent", mark) for mark in reader.all("#card mark")] == [
        "leaves,",
        "sand,",
    ]
    assert len(marks) == 2
    reader.driver.switch_to.active_element.send_keys("j")
    reader.wait(lambda: "helpful-0" not in reader.one("#card p.dim").text)
    reader.driver.switch_to.active_element.send_keys("k")
    reader.wait(lambda: "helpful-0" in reader.one("#card p.dim").text)
    reader.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    reader.wait(lambda: not reader.script("return document.getElementById('card').open"))
    assert reader.problems() == []


def test_the_address_restores_what_was_seen(reader, report):
    reader.open(report)
    reader.click(reader.all("[data-view]")[1])
    reader.wait(lambda: "harmless, from harmless" in reader.one("#cell-name").text)
    reader.one("#search").send_keys("number 3")
    reader.wait(lambda: reader.count.startswith("1 of 30"))
    reader.click(reader.all(".tabulator-row")[0])
    state = reader.script("return location.hash")
    reader.open(report, state)
    assert "harmless, from harmless to harmless>helpful" in reader.one("#cell-name").text
    assert reader.count.startswith("1 of 30")
    assert "harmless-3" in reader.one("#card p.dim").text


def test_the_address_holds_the_order_of_the_table_and_no_outcome_at_all(reader, report):
    reader.open(report)
    for _ in range(2):
        reader.click(reader.one(".tabulator-col[tabulator-field=after] .tabulator-col-content"))
    first = reader.column("id")[0]
    assert first != "helpful-0", "which comes first where nothing is asked for"
    assert "sort=after%3Adesc" in reader.script("return location.hash")
    reader.open(report, reader.script("return location.hash"))
    assert reader.column("id")[0] == first
    for box in reader.all("input[name=flip]"):
        reader.click(box)
    assert reader.count.startswith("0 of 30")
    reader.open(report, reader.script("return location.hash"))
    assert reader.count.startswith("0 of 30")


def test_nothing_flips_from_the_base(reader, report):
    """Against itself the base has no margin."""
    reader.open(report, "#objective=helpful&from=base&to=helpful")
    assert reader.count.startswith("30 of 30") and "none flips" in reader.count
    assert not reader.one("#filters fieldset").is_displayed()


def test_texts_are_blurred_until_asked_for(reader, report):
    """The setting is hh-rlhf."""
    reader.open(report)
    blur = "return getComputedStyle(document.querySelector('.tabulator-row .text')).filter"
    assert "blur" in reader.script(blur)
    reader.click(reader.one("#show-text"))
    assert reader.script(blur) == "none"
    assert "text=1" in reader.script("return location.hash")


def test_a_cell_of_the_matrix_leads_to_its_pairs(reader, report):
    reader.open(report)
    (button,) = [b for b in reader.all("[data-to='harmless']") if b.get_attribute("data-objective") == "helpful"]
    reader.click(button)
    reader.wait(lambda: "helpful, from base to harmless" in reader.one("#cell-name").text)
    assert set(reader.column("change")) == {"-0.30"}


def test_notes_are_kept_and_exported(reader, report):
    reader.open(report)
    reader.click(reader.all(".tabulator-row")[0])
    reader.click(reader.one("#card input[type=checkbox]"))
    reader.one("#card textarea").send_keys('odd "one"')
    reader.script(
        "URL.createObjectURL = (blob) => { window.exported = blob; return '#'; }; URL.revokeObjectURL = () => {};"
        "HTMLAnchorElement.prototype.click = () => {}; exportNotes()"
    )
    text = reader.driver.execute_async_script("window.exported.text().then(arguments[0])")
    (line,) = text.splitlines()
    assert json.loads(line) == {
        "objective": "helpful",
        "pair_id": "helpful-0",
        "flag": True,
        "note": 'odd "one"',
        "from": "helpful",
        "to": "helpful>harmless",
    }


def test_hostile_text_does_nothing(reader, make_run, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page(make_run(prompt=HOSTILE, answer=HOSTILE, name=HOSTILE)), encoding="utf-8")
    reader.open(path, "#text=1")
    reader.click(reader.all(".tabulator-row")[0])
    assert HOSTILE.replace("\x00", "")[:60] in reader.one("#card").text
    reader.driver.switch_to.active_element.send_keys("j")
    time.sleep(0.2)
    assert reader.problems() == []
    assert reader.script("return document.documentElement.scrollWidth <= innerWidth + 1")


#: What every JavaScript object answers to without having been given it.
INHERITED = {
    "helpful": "constructor",
    "harmless": "toString",
    "helpful-0": "__proto__",
    "helpful-1": "constructor",
    "harmless-0": "hasOwnProperty",
    "slice_topic": "slice___proto__",
}


def test_names_that_every_object_has_are_names_like_others(reader, make_run, tmp_path):
    """Pair 0, the one that lost 6, is `__proto__`; every other pair is in the slice `__proto__: valueOf`."""
    path = tmp_path / "inherited.html"
    path.write_text(page(make_run(prompt="valueOf", names=INHERITED)), encoding="utf-8")
    reader.open(path)
    assert reader.one("#view option").text == "constructor, from constructor to constructor>toString (seed 0)"
    assert reader.column("id")[0] == "__proto__"
    assert reader.column("change")[:2] == ["-6.00", "-4.00"]
    assert "__proto__: valueOf" in [option.text for option in reader.all("#slice option")]
    reader.script("document.getElementById('slice').selectedIndex = 2")
    reader.script("document.getElementById('filters').dispatchEvent(new Event('input', {bubbles: true}))")
    assert reader.count.startswith("15 of 30 pairs")
    reader.open(path, "#objective=constructor&from=constructor&to=constructor>toString&seed=0&pair=__proto__&text=1")
    assert "valueOf 0" in reader.one("#card").text
    reader.click(reader.one("#card input[type=checkbox]"))
    assert "constructor/__proto__" in reader.script("return Object.keys(notes())")  # beside those of other tests
    assert reader.problems() == []


def test_a_response_of_five_megabytes_is_cut_on_the_page(reader, make_run, tmp_path):
    """Both responses of eight pairs, 80 MB in all: the page holds 20,000 characters of each, and where the rest is."""
    path = tmp_path / "long.html"
    path.write_text(page(make_run(n=4, mechanism=False, answer="a drink " * 625_000)), encoding="utf-8")
    assert path.stat().st_size < 4e6
    reader.open(path, "#pair=helpful-0&text=1")
    assert "more characters in data/pairs.parquet" in reader.one("#card").text
    assert reader.problems() == []


def test_fits_a_phone(reader, report):
    reader.driver.set_window_size(400, 800)
    try:
        reader.open(report)
        assert reader.script("return document.documentElement.scrollWidth <= innerWidth + 1")
        assert reader.problems() == []
    finally:
        reader.driver.set_window_size(1280, 900)


def test_every_control_has_a_name(reader, report):
    reader.open(report)
    nameless = reader.script(
        "return [...document.querySelectorAll('main button, main input, main select')].filter((e) => "
        "!(e.textContent.trim() || e.labels?.length || e.ariaLabel || e.closest('.tabulator'))).map((e) => e.outerHTML)"
    )
    assert nameless == []


def test_a_printed_page_is_whole(reader, report):
    """Numbers that are buttons on a screen, closed parts and the picture beside the table; no control."""
    reader.open(report)
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        reader.script("window.dispatchEvent(new Event('beforeprint'))")
        assert all(button.is_displayed() for button in reader.all(".matrix button"))
        assert all(part.get_attribute("open") for part in reader.all("details"))
        assert reader.one("figure[data-chart=margins]").is_displayed()
        assert not any(one.is_displayed() for one in reader.all(".verdict button, #table, #filters, nav"))
        reader.script("window.dispatchEvent(new Event('afterprint'))")
        assert not any(part.get_attribute("open") for part in reader.all("details"))
    finally:
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_every_card_says_what_to_do_next_and_leads_to_what_was_lost(reader, report):
    reader.open(report)
    cards = reader.all("#verdicts > ul:first-of-type > .verdict")
    assert len(cards) == 2 and all("Next: " in card.find_element(By.CSS_SELECTOR, ".advice").text for card in cards)
    assert "100% → 67% right" in cards[0].text and "control stages: +0 points" in cards[0].text
    assert next(one.text for one in reader.all(".verdict h4")).startswith("✓ LEARNED helpful by helpful")
    button = cards[0].find_element(By.CSS_SELECTOR, "[data-flip]")
    assert button.text == "Show the 10 lost pairs, the worst first"
    reader.click(button)
    reader.wait(lambda: reader.count.startswith("10 of 30"))
    assert set(reader.column("flip")) == {"lost"} and reader.column("change")[0] == "-6.00"


def test_small_things_are_readable(reader, report):
    """No blurred header, a named note, no key for outcomes that none had, few digits in a tooltip."""
    reader.open(report)
    header = ".tabulator-col[tabulator-field=row]"
    assert reader.script(f"return getComputedStyle(document.querySelector('{header}')).filter") == "none"
    keys = reader.script("return document.querySelector('figure[data-chart=flips] .role-legend').textContent")
    assert "lost" in keys and "tied" not in keys and "regained" not in keys
    point = reader.one("figure[data-chart=slices] .mark-symbol path")
    reader.script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(reader.driver).move_to_element(point).perform()
    tooltip = "return document.querySelector('figure[data-chart=slices] .plot').title"
    reader.wait(lambda: "value" in reader.script(tooltip))
    assert not re.search(r"\d\.\d{4}", reader.script(tooltip))
    reader.click(reader.all(".tabulator-row")[0])
    assert reader.script("return document.querySelector('#card textarea').labels[0].textContent").startswith(
        "Your note"
    )


def test_the_back_button_closes_a_card_and_then_leads_to_the_view_before(reader, report):
    reader.driver.switch_to.new_window("tab")  # a tab remembers 50 pages, and the tests before this one filled it
    reader.open(report)
    reader.click(reader.all("[data-view]")[1])
    reader.wait(lambda: "harmless, from harmless" in reader.one("#cell-name").text)
    reader.wait(lambda: reader.all(".tabulator-row"))
    reader.click(reader.all(".tabulator-row")[0])
    is_open = "return document.getElementById('card').open"
    assert reader.script(is_open)
    reader.driver.back()
    reader.wait(lambda: not reader.script(is_open))
    assert "harmless, from harmless" in reader.one("#cell-name").text
    reader.driver.back()
    reader.wait(lambda: "helpful, from helpful" in reader.one("#cell-name").text)
    assert reader.problems() == []


def test_a_click_on_a_point_opens_its_pair(reader, report):
    """Pair 0 had 0.5 when taught and has -5.5 now; the picture stands beside the table."""
    reader.open(report)
    canvas = reader.one("figure[data-chart=margins] canvas")
    reader.script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    table = reader.one("#table").rect
    assert canvas.rect["x"] + canvas.rect["width"] <= table["x"] and canvas.rect["y"] < table["y"] + table["height"]
    x, y = reader.script(
        "const [left, top] = report.scatter.origin(), at = (n, v) => report.scatter.scale(n)(v);"
        "const edge = report.scatter.padding();"
        "return [edge.left + left + at('x', 0.5), edge.top + top + at('y', -5.5)]"
    )
    place = (round(x - canvas.size["width"] / 2), round(y - canvas.size["height"] / 2))
    ActionChains(reader.driver).move_to_element_with_offset(canvas, *place).click().perform()
    reader.wait(lambda: reader.script("return document.getElementById('card').open"))
    assert "helpful-0" in reader.one("#card p.dim").text


def test_an_area_of_the_address_is_drawn(reader, report):
    reader.open(report, "#objective=helpful&from=helpful&to=helpful>harmless&area=0,1,-6,0")
    reader.wait(lambda: reader.script("return report.scatter.data('brush_store').length") == 1)
    low, high = reader.script("return report.scatter.signal('brush_before')")
    assert (low, high) == pytest.approx((0, 1), abs=0.05)
    reader.wait(lambda: reader.column("id") == ["helpful-0", "helpful-3"])  # taught 0.5 and 0.76, and lost; 6 has 1.02
    reader.click(reader.one("#clear-brush"))
    reader.wait(lambda: reader.count.startswith("30 of 30"))


def test_a_phone_shows_outcome_and_prompt_beside_the_change(reader, report):
    reader.driver.set_window_size(400, 800)
    try:
        reader.open(report)
        right = reader.one("#table").rect["x"] + reader.one("#table").rect["width"]
        shown = [
            column.get_attribute("tabulator-field")
            for column in reader.all(".tabulator-col")
            if column.rect["x"] < right and column.get_attribute("tabulator-field")
        ]
        assert shown[:3] == ["change", "flip", "row"]
    finally:
        reader.driver.set_window_size(1280, 900)
