"""Headless Chromium for the visual checks: emulation, faults, screenshots.

Needs Chromium with its driver (Debian: `apt install chromium chromium-driver`) and the package
`selenium`; nothing else of Salient imports either.
"""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

THEMES = ("light", "dark")
TALLEST = 16_000  # pixels of a screenshot; Chromium draws no taller one
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
# Faults that a page shows about itself: [kind, text] of each.
FAULTS = """
const faults = [];
const root = document.documentElement;
if (root.scrollWidth > root.clientWidth)
  faults.push(['overflow', `${root.scrollWidth} pixels wide in a window of ${root.clientWidth}`]);

const shown = e => {
  const box = e.getBoundingClientRect();
  return box.width > 0 && box.height > 0;
};
const folded = e => e.closest('details:not([open])') && !e.closest('summary');
for (const plot of document.querySelectorAll('figure.chart')) {
  const marks = [...plot.querySelectorAll('.mark')];
  const note = plot.querySelector(':scope > .missing');
  if (!note && !marks.some(shown))
    faults.push(['empty plot', plot.querySelector('h3').textContent]);
}

const numbers = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b]
  .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = e => {
  for (; e; e = e.parentElement) {
    const colour = numbers(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const checked = new Set();
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || folded(e) || !shown(e) || e.closest('.hidden, .unseen, .skip, title, desc')) continue;
  const style = getComputedStyle(e);
  const drawn = e instanceof SVGElement;
  const [a, b] = [light(numbers(drawn ? style.fill : style.color)), light(behind(e))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const what = `${e.tagName} .${e.getAttribute('class') || ''}`;
  const text = e.textContent.trim().slice(0, 40);
  if (contrast < 4.5 && !checked.has(what))
    faults.push(['contrast', `${contrast.toFixed(2)} of ${what}: ${text}`]);
  if (parseFloat(style.fontSize) < 11 && !checked.has(what))
    faults.push(['small text', `${style.fontSize} of ${what}: ${text}`]);
  checked.add(what);
}
return faults;
"""


def open_browser(profile: str) -> webdriver.Chrome:
    """Headless Chromium that records its console and its requests."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, Service("/usr/bin/chromedriver"))


def emulate(browser: webdriver.Chrome, width: int, theme: str) -> None:
    """Set the window's width and the colour scheme; forget what the logs hold so far."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)


def page_faults(browser: webdriver.Chrome, allowed: Callable[[str], bool]) -> Iterator[str]:
    """Console messages, requests to addresses that are not `allowed`, and FAULTS."""
    for entry in browser.get_log("browser"):
        yield f"console: {entry['message'][:300]}"
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            address = event["params"]["request"]["url"]
            if not allowed(address):
                yield f"request: {address[:200]}"
    yield from (f"{kind}: {text}" for kind, text in browser.execute_script(FAULTS))


def full_page(browser: webdriver.Chrome, width: int) -> bytes:
    """A PNG of the whole page."""
    browser.execute_script("window.scrollTo(0, 0)")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    return screenshot(browser, {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST)})


def screenshot(browser: webdriver.Chrome, box: dict[str, Any]) -> bytes:
    """A PNG of a part of the page, in pixels: x, y, width, height."""
    settings = {"format": "png", "captureBeyondViewport": True, "clip": {**box, "scale": 1}}
    return base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", settings)["data"])
