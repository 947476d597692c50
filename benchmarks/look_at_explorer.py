"""Use the explorer's page in a real browser, as a person would, and say what is wrong with it.

    python benchmarks/look_at_explorer.py http://127.0.0.1:8000 [--chat] [--shots FOLDER] [--docs X]

The server runs already (`salient serve CHECKPOINT`; with `--reference MODEL` for --chat). The page
is opened in headless Chromium, as wide as a desktop (1400) and as a phone (390), light and dark.
Exit code 1 if any of these is found:

    an error or warning in the console      a request to anything but the server
    a page wider than its window            a chart with nothing in it, unsaid
    text smaller than 11 pixels             text of too little contrast (WCAG AA, 4.5 to 1)
    a control without a name                a control that the Tab key does not reach
    content that moved while it loaded      a slider that takes more than 200 ms to be drawn anew

With --chat both models answer, and every token must be coloured and tell both opinions. --docs
makes the pictures of the documentation anew.

Needs Chromium with its driver (Debian: `apt install chromium chromium-driver`) and the package
`selenium`; nothing else of Salient imports either.
"""

import argparse
import base64
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from look_at_report import FAULTS, TALLEST, THEMES, open_browser

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
window.moved = [];
new PerformanceObserver(list => {
  const named = s => s.node && (s.node.id || s.node.nodeName);
  for (const e of list.getEntries())
    if (!e.hadRecentInput) window.moved.push([e.value, e.sources.map(named).join()]);
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
        height: b.bottom - a.top - 12, scale: 1};
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    parser.add_argument("--docs", type=Path, help="a folder for pictures of single panels")
    parser.add_argument("--chat", action="store_true", help="talk to both models, too")
    asked = parser.parse_args()
    count = 0
    for words in look(asked.url.rstrip("/"), asked.shots, asked.docs, chat=asked.chat):
        count += 1
        print(words)
    print(f"{count} faults")
    sys.exit(count > 0)


def look(url: str, shots: Path | None, docs: Path | None, *, chat: bool) -> Iterator[str]:
    """The faults of the page at each width and theme, in words."""
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
                        target.write_bytes(_shot(browser, width))
                    if docs:
                        _pictures(browser, PICTURES.get((device, theme), []), docs)
        finally:
            browser.quit()


def _use(
    browser: webdriver.Chrome, url: str, width: int, theme: str, *, chat: bool
) -> Iterator[str]:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SHIFTS})
    browser.get(url)
    _wait(browser, READY)
    time.sleep(1)
    yield from _moved(browser)
    yield from (f"empty chart: {name}" for name in browser.execute_script(CHARTS))
    yield from (f"no name: {name}" for name in browser.execute_script(NAMELESS))
    yield from _tabbed(browser)
    yield from _blocks_by_keys(browser)
    yield from _sliders(browser)
    if chat:
        yield from _chat(browser)
    yield from _faults(browser, url)


def _wait(browser: webdriver.Chrome, script: str) -> Any:
    return WebDriverWait(browser, SECONDS, 0.1).until(lambda b: b.execute_script(script))


def _moved(browser: webdriver.Chrome) -> Iterator[str]:
    moved = browser.execute_script("return window.moved")
    total = sum(value for value, _ in moved)
    print(f"  layout shift while loading: {total:.3f}", file=sys.stderr)
    if total > MOST_MOVED:
        yield f"moved by {total:.3f}: {[m for m in moved if m[0] > 0.01]}"


def _tabbed(browser: webdriver.Chrome) -> Iterator[str]:
    """Every control is reached by the Tab key, and shows that it is."""
    names = browser.execute_script(REACHABLE)
    browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen: set[int] = set()
    for _ in range(MOST_TABS):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        at, outlined = browser.execute_script(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.dataset.tab, s.outlineStyle !== 'none' || e.matches('.column-mark')]"
        )
        if at is not None:
            seen.add(int(at))
            if not outlined:
                yield f"focus does not show: {names[int(at)]}"
        if len(seen) == len(names):
            return
    yield from (f"no way by Tab: {name}" for i, name in enumerate(names) if i not in seen)


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
    """Each slider, moved by keys, draws anew in time."""
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
    """Ask; both answer, and every token is coloured and tells both opinions."""
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
            yield "a token does not tell five likeliest tokens"
    speeds = browser.execute_script(
        "return [...document.querySelectorAll('.answer > small')].map(e => e.textContent)"
    )
    print(f"  chat: {speeds}", file=sys.stderr)


def _faults(browser: webdriver.Chrome, url: str) -> Iterator[str]:
    for entry in browser.get_log("browser"):
        yield f"console: {entry['message'][:300]}"
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            wanted = event["params"]["request"]["url"]
            if not wanted.startswith((url + "/", "about:", "data:")):
                yield f"request: {wanted[:200]}"
    yield from (f"{kind}: {words}" for kind, words in browser.execute_script(FAULTS))


def _shot(browser: webdriver.Chrome, width: int) -> bytes:
    browser.execute_script("window.scrollTo(0, 0)")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST), "scale": 1}
    settings = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", settings)
    return base64.b64decode(shot["data"])


def _pictures(browser: webdriver.Chrome, wanted: list[tuple[str, str]], folder: Path) -> None:
    """From the first of two panels to the end of the last, without what sticks to the window."""
    folder.mkdir(parents=True, exist_ok=True)
    browser.execute_script(AT_REST)
    time.sleep(1)
    for panels in wanted:
        box = browser.execute_script(BOX, *panels)
        settings = {"format": "png", "captureBeyondViewport": True, "clip": box}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", settings)
        (folder / f"explorer-{panels[0]}.png").write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
