"""Use the explorer in headless Chromium, as a person would, and list its faults.

    python tests/visual/explorer.py http://127.0.0.1:8000 [--chat] [--shots FOLDER] [--docs X]

The server runs already (`salient serve CHECKPOINT`; with `--reference MODEL` for --chat). The page
is opened in headless Chromium, as wide as a desktop (1400) and as a phone (390), light and dark.
Exit code 1 for any of these:

    an error or warning in the console      a request to anything but the server
    a page wider than its window            a chart with nothing in it and no note
    text smaller than 11 pixels             text of too little contrast (WCAG AA, 4.5 to 1)
    a control without a name                a control that the Tab key does not reach
    content that moved while it loaded      a slider that takes more than 200 ms to redraw

With --chat both models answer, and every token must be coloured and show both models'
probabilities. --docs writes the pictures of the documentation.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from browser import THEMES, emulate, full_page, open_browser, page_faults, screenshot
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

WIDTHS = {"desktop": 1400, "phone": 390}
SLOWEST = 200  # milliseconds from a slider's step to what it shows
MOST_MOVED = 0.1  # cumulative layout shift; what web.dev calls good
MOST_TABS = 120
SECONDS = 120
# Device and theme -> first and last panel of each picture.
PICTURES = {
    ("desktop", "light"): [("blocks", "blocks"), ("chat", "chat")],
    ("desktop", "dark"): [("group", "group")],
    ("phone", "light"): [("salience", "curve")],
}
QUESTION = "Why is the sky blue? Answer in two sentences."
SHIFTS = """
window.shifts = [];
new PerformanceObserver(list => {
  const named = s => s.node && (s.node.id || s.node.nodeName);
  for (const e of list.getEntries())
    if (!e.hadRecentInput) window.shifts.push([e.value, e.sources.map(named).join()]);
}).observe({type: 'layout-shift', buffered: true});
"""
READY = """
const done = /^(Measured on|Nothing could)/.test(document.getElementById('progress').textContent);
return done && document.querySelector('#group-chart svg circle') !== null;
"""
CHARTS = """
return [...document.querySelectorAll('.chart')].filter(host => {
  if (host.closest('.absent')) return false;
  return !host.querySelector('circle, path, rect');
}).map(host => host.id);
"""
NAMELESS = """
const controls = 'input, select, textarea, button, [role=button]';
return [...document.querySelectorAll(controls)].filter(e => {
  if (!e.getClientRects().length) return false;
  const label = e.labels && e.labels.length && e.labels[0].textContent.trim();
  return !(label || e.getAttribute('aria-label') || e.textContent.trim());
}).map(e => e.id || e.outerHTML.slice(0, 60));
"""
REACHABLE = """
return [...document.querySelectorAll('input, select, textarea, button, summary')].filter(e =>
  e.getClientRects().length && !e.disabled && e.tabIndex >= 0 && !e.closest('dialog')
  && !(e.closest('details:not([open])') && e.tagName !== 'SUMMARY')
).map((e, i) => { e.dataset.tab = i; return e.id || e.textContent.slice(0, 40); });
"""
AT_REST = """
document.querySelector('.chooser').style.position = 'static';
document.getElementById('bits').value = 4;
document.getElementById('as-chosen').click();
"""
BOX = """
const [a, b] = [...arguments].map(id => document.getElementById(id).getBoundingClientRect());
return {x: a.left - 12 + scrollX, y: a.top + 24 + scrollY, width: a.width + 24,
        height: b.bottom - a.top - 12};
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    parser.add_argument("--docs", type=Path, help="a folder for pictures of single panels")
    parser.add_argument("--chat", action="store_true", help="chat with both models, too")
    options = parser.parse_args()
    count = 0
    for fault in check_explorer(
        options.url.rstrip("/"), options.shots, options.docs, chat=options.chat
    ):
        count += 1
        print(fault)
    print(f"{count} faults")
    sys.exit(count > 0)


def check_explorer(url: str, shots: Path | None, docs: Path | None, *, chat: bool) -> Iterator[str]:
    """The faults of the page at each width and theme, as text."""
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile)
        try:
            for device, width in WIDTHS.items():
                for theme in THEMES:
                    name = f"{device}, {theme}"
                    faults = _use(browser, url, width, theme, chat=chat)
                    yield from (f"{name}: {fault}" for fault in faults)
                    if shots:
                        shots.mkdir(parents=True, exist_ok=True)
                        target = shots / f"explorer-{device}-{theme}.png"
                        target.write_bytes(full_page(browser, width))
                    if docs:
                        _pictures(browser, PICTURES.get((device, theme), []), docs)
        finally:
            browser.quit()


def _use(
    browser: webdriver.Chrome, url: str, width: int, theme: str, *, chat: bool
) -> Iterator[str]:
    emulate(browser, width, theme)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SHIFTS})
    browser.get(url)
    _wait(browser, READY)
    time.sleep(1)
    yield from _layout_shift(browser)
    yield from (f"empty chart: {name}" for name in browser.execute_script(CHARTS))
    yield from (f"no name: {name}" for name in browser.execute_script(NAMELESS))
    yield from _tab_order(browser)
    yield from _blocks_by_keys(browser)
    yield from _sliders(browser)
    if chat:
        yield from _chat(browser)
    allowed = (url + "/", "about:", "data:")
    yield from page_faults(browser, lambda address: address.startswith(allowed))


def _wait(browser: webdriver.Chrome, script: str) -> Any:
    return WebDriverWait(browser, SECONDS, 0.1).until(lambda b: b.execute_script(script))


def _layout_shift(browser: webdriver.Chrome) -> Iterator[str]:
    shifts = browser.execute_script("return window.shifts")
    total = sum(value for value, _ in shifts)
    print(f"  layout shift while loading: {total:.3f}", file=sys.stderr)
    if total > MOST_MOVED:
        yield f"layout shifts by {total:.3f}: {[shift for shift in shifts if shift[0] > 0.01]}"


def _tab_order(browser: webdriver.Chrome) -> Iterator[str]:
    """The Tab key reaches every control, and focus shows."""
    names = browser.execute_script(REACHABLE)
    browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached: set[int] = set()
    for _ in range(MOST_TABS):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        at, outlined = browser.execute_script(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.dataset.tab, s.outlineStyle !== 'none' || e.matches('.column-mark')]"
        )
        if at is not None:
            reached.add(int(at))
            if not outlined:
                yield f"focus does not show: {names[int(at)]}"
        if len(reached) == len(names):
            return
    yield from (f"not reached by Tab: {name}" for i, name in enumerate(names) if i not in reached)


def _blocks_by_keys(browser: webdriver.Chrome) -> Iterator[str]:
    """Arrow keys in the first chart choose another block."""
    marks = browser.find_elements(By.CSS_SELECTOR, "#blocks-chart [tabindex='0']")
    if not marks:
        return
    before = browser.execute_script("return document.getElementById('block').value")
    browser.execute_script("arguments[0].focus()", marks[0])
    key = Keys.ARROW_LEFT if int(before) else Keys.ARROW_RIGHT
    webdriver.ActionChains(browser).send_keys(key).perform()
    time.sleep(1)
    after = browser.execute_script("return document.getElementById('block').value")
    if after == before:
        yield "arrow keys do not move from block to block"


def _sliders(browser: webdriver.Chrome) -> Iterator[str]:
    """Each slider, moved by keys, redraws in time."""
    for name in ("bits", "size", "clip", "a", "b", "row", "at"):
        element = browser.find_element(By.ID, name)
        if not element.is_enabled():
            continue
        low, high, now = (float(element.get_attribute(k) or 0) for k in ("min", "max", "value"))
        key, back = (Keys.ARROW_LEFT, Keys.ARROW_RIGHT) if now > low else (Keys.ARROW_RIGHT, "")
        taken = []
        for pressed in (key, back or Keys.ARROW_LEFT, key) if high > low else ():
            browser.execute_script("document.getElementById('group-time').textContent = ''")
            element.send_keys(pressed)
            _wait(browser, "return document.getElementById('group-time').textContent")
            taken.append(
                browser.execute_script("return +document.getElementById('group-time').dataset.ms")
            )
        if taken:
            print(
                f"  slider {name}: {statistics.median(taken):.0f} ms, worst {max(taken):.0f}",
                file=sys.stderr,
            )
        if taken and max(taken) > SLOWEST:
            yield f"slider {name} takes {max(taken):.0f} ms"


def _chat(browser: webdriver.Chrome) -> Iterator[str]:
    """Both models answer; every token is coloured and shows both models' probabilities."""
    most = browser.find_element(By.ID, "most")
    browser.execute_script("arguments[0].value = 48", most)
    browser.find_element(By.ID, "message").send_keys(QUESTION, Keys.ENTER)
    _wait(browser, "return document.querySelectorAll('.answer .text')[1]?.textContent.length > 20")
    partly = browser.execute_script("return document.getElementById('send').disabled")
    if not partly:
        yield "the answer did not stream"
    _wait(browser, "return document.querySelectorAll('.token[aria-label]').length > 5")
    first = browser.find_element(By.CSS_SELECTOR, ".tokens .token")
    browser.execute_script("arguments[0].focus()", first)
    before = browser.execute_script("return document.querySelector('.detail').textContent")
    webdriver.ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    after = browser.execute_script("return document.querySelector('.detail').textContent")
    if before == after:
        yield "arrow keys do not move from token to token"
    for side in browser.find_elements(By.CSS_SELECTOR, ".detail .sides ol"):
        if len(side.find_elements(By.TAG_NAME, "li")) != 5:
            yield "a token does not show the five most likely tokens"
    speeds = browser.execute_script(
        "return [...document.querySelectorAll('.answer > small')].map(e => e.textContent)"
    )
    print(f"  chat: {speeds}", file=sys.stderr)


def _pictures(browser: webdriver.Chrome, panels: list[tuple[str, str]], folder: Path) -> None:
    """From the first of two panels to the end of the last, without what sticks to the window."""
    folder.mkdir(parents=True, exist_ok=True)
    browser.execute_script(AT_REST)
    time.sleep(1)
    for first, last in panels:
        box = browser.execute_script(BOX, first, last)
        (folder / f"explorer-{first}.png").write_bytes(screenshot(browser, box))


if __name__ == "__main__":
    main()
