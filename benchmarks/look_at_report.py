"""Open reports of `salient validate` in a real browser, and say what is wrong with how they look.

    python benchmarks/look_at_report.py out/report.html [more.html ...] [--shots FOLDER]

Each page is opened in headless Chromium at the width of a desktop (1280) and of a phone (390),
light and dark. Exit code 1 if any of these is found:

    an error or warning in the console      a request for anything but the file itself
    a page wider than its window            a plot with nothing to see, unsaid
    text smaller than 11 pixels             text of too little contrast (WCAG AA, 4.5 to 1)

Needs Chromium with its driver (Debian: `apt install chromium chromium-driver`) and the package
`selenium`; nothing else of Salient imports either.
"""

import argparse
import base64
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTHS = {"desktop": 1280, "phone": 390}
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
# What the page tells of itself: [kind, words] of each fault.
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
  const said = plot.querySelector(':scope > .missing');
  if (!said && !marks.some(shown))
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
const seen = new Set();
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || folded(e) || !shown(e) || e.closest('.unseen, .skip, title, desc')) continue;
  const style = getComputedStyle(e);
  const drawn = e instanceof SVGElement;
  const [a, b] = [light(numbers(drawn ? style.fill : style.color)), light(behind(e))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const what = `${e.tagName} .${e.getAttribute('class') || ''}`;
  const words = e.textContent.trim().slice(0, 40);
  if (contrast < 4.5 && !seen.has(what))
    faults.push(['contrast', `${contrast.toFixed(2)} of ${what}: ${words}`]);
  if (parseFloat(style.fontSize) < 11 && !seen.has(what))
    faults.push(['small text', `${style.fontSize} of ${what}: ${words}`]);
  seen.add(what);
}
return faults;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    asked = parser.parse_args()
    count = 0
    for page in asked.pages:
        for words in look(page.resolve(), asked.shots):
            count += 1
            print(f"{page}: {words}")
    print(f"{len(asked.pages)} pages, {count} faults")
    sys.exit(count > 0)


def look(page: Path, shots: Path | None) -> Iterator[str]:
    """The faults of `page` at each width and theme, in words."""
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile)
        try:
            browser.get("about:blank")
            for device, width in WIDTHS.items():
                for theme in THEMES:
                    name = f"{device}, {theme}"
                    _prepare(browser, width, theme)
                    for log in ("browser", "performance"):
                        browser.get_log(log)  # what its own first page did is no fault of ours
                    browser.get(page.as_uri())
                    yield from (f"{name}: {fault}" for fault in _faults(browser, page.as_uri()))
                    if shots:
                        shots.mkdir(parents=True, exist_ok=True)
                        target = shots / f"{page.parent.name}-{page.stem}-{device}-{theme}.png"
                        target.write_bytes(_shot(browser, width))
        finally:
            browser.quit()


def open_browser(profile: str) -> webdriver.Chrome:
    """Headless Chromium that notes its console and its requests."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, Service("/usr/bin/chromedriver"))


def _prepare(browser: webdriver.Chrome, width: int, theme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def _faults(browser: webdriver.Chrome, address: str) -> Iterator[str]:
    for entry in browser.get_log("browser"):
        yield f"console: {entry['message'][:300]}"
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            wanted = event["params"]["request"]["url"]
            if wanted != address:
                yield f"request: {wanted[:200]}"
    yield from (f"{kind}: {words}" for kind, words in browser.execute_script(FAULTS))


def _shot(browser: webdriver.Chrome, width: int) -> bytes:
    height = browser.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST), "scale": 1}
    settings = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", settings)
    return base64.b64decode(shot["data"])


if __name__ == "__main__":
    main()
