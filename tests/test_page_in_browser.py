"""The pages of --html in headless Chromium: pictures are shown, tables sort, phones do not scroll sideways.

Needs selenium, and Chromium with its driver (Debian: ``apt-get install chromium chromium-driver``).
``RELKERNELS_PAGES`` lists further pages, separated like ``PATH``: those of real runs, in CI.
"""

import os
import shutil
from pathlib import Path

import pytest
from recorded import pages
from relkernels.cli import page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="Chromium and its driver are not installed (apt-get install chromium chromium-driver)",
)
REAL = [path for path in os.environ.get("RELKERNELS_PAGES", "").split(os.pathsep) if path]
NAMES = ["bench", "demo", "reproduce", *REAL]
PHONE, DESKTOP = (360, 740), (1280, 900)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # CI runs as root, in containers with a small /dev/shm.
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of all pages by name."""
    directory = tmp_path_factory.mktemp("pages")
    found = {path: Path(path).resolve() for path in REAL}
    for name, content in pages().items():
        found[name] = directory / f"{name}.html"
        page.write(content, str(found[name]))
    return found


@pytest.fixture
def show(browser, files):
    def show(name, size, scheme="light"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get_log("browser")  # discard earlier entries
        browser.get(files[name].as_uri())
        return browser

    return show


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_shown_and_nothing_fails(show, name, scheme):
    browser = show(name, DESKTOP, scheme)
    images = browser.execute_script(
        "return [...document.images].map(i => "
        "[i.naturalWidth, i.getBoundingClientRect().width, i.currentSrc === i.src])"
    )
    if not images:  # `bench --quick` has no times to draw
        assert "No times were measured" in browser.execute_script("return document.body.textContent")
    for natural, shown, is_light in images:
        assert natural > 0
        assert shown > 100
        assert is_light == (scheme == "light")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_scrolls_no_page_sideways(show, name):
    browser = show(name, PHONE)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    page_width, window = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert page_width <= window == PHONE[0]
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".map(b => [b.scrollWidth, b.clientWidth, b.tabIndex])"
    )
    assert boxes
    assert all(index == 0 for *_, index in boxes)  # the keyboard can scroll them
    if name == "bench":
        assert any(inside > box for inside, box, _ in boxes)  # wide tables scroll in their box
        box = browser.find_element(By.CSS_SELECTOR, "#section-2 ~ .scroll")
        browser.execute_script("arguments[0].scrollLeft = 200", box)
        first = box.find_element(By.CSS_SELECTOR, "tbody th")
        assert first.rect["x"] - box.rect["x"] < 5  # and the first column stays


def column(table, i):
    """Return the keys of a column from top to bottom, None for cells without one."""
    cells = table.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({i + 1})")
    return [cell.get_attribute("data-key") for cell in cells]


def test_a_click_sorts_and_another_turns_it(show):
    browser = show("bench", DESKTOP)
    table = browser.find_element(By.CSS_SELECTOR, "#section-2 ~ .scroll table")
    heads = table.find_elements(By.CSS_SELECTOR, "thead th")
    times, memory = 2, 9
    before = [float(key) for key in column(table, times)]
    heads[times].find_element(By.TAG_NAME, "button").click()
    assert [float(key) for key in column(table, times)] == sorted(before)
    assert heads[times].get_attribute("aria-sort") == "ascending"
    heads[times].find_element(By.TAG_NAME, "button").click()
    assert [float(key) for key in column(table, times)] == sorted(before, reverse=True)
    assert heads[times].get_attribute("aria-sort") == "descending"
    # By keyboard; cells without a value come last in both directions; the mark moves to this column.
    button = heads[memory].find_element(By.TAG_NAME, "button")
    for key in (Keys.ENTER, Keys.SPACE):
        button.send_keys(key)
        keys = column(table, memory)
        assert None in keys
        assert None not in keys[: keys.index(None)]
        assert set(keys[keys.index(None) :]) == {None}
    assert [head.get_attribute("aria-sort") for head in heads].count(None) == len(heads) - 1


def test_text_and_infinity_sort(show):
    browser = show("reproduce", DESKTOP)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    table = browser.find_element(By.CSS_SELECTOR, "details table")
    names = [head.text.strip("↕↑↓ ") for head in table.find_elements(By.CSS_SELECTOR, "thead th")]
    i = names.index("bound")
    table.find_elements(By.CSS_SELECTOR, "thead th")[i].find_element(By.TAG_NAME, "button").click()
    keys = [float(key) for key in column(table, i)]
    assert keys == sorted(keys)
    assert keys[-1] == float("inf")
    demo = show("demo", DESKTOP)
    table = demo.find_element(By.TAG_NAME, "table")
    table.find_element(By.CSS_SELECTOR, "thead th button").click()
    keys = column(table, 0)
    assert keys == sorted(keys, key=str.lower)
    assert len(keys) == 4
