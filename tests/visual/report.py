"""Open reports of `salient validate` in headless Chromium and list their visual faults.

    python tests/visual/report.py out/report.html [more.html ...] [--shots FOLDER]

Each page is opened at the width of a desktop (1280) and of a phone (390), light and dark. Exit
code 1 for any of these faults:

    an error or warning in the console      a request for anything but the file itself
    a page wider than its window            a plot with nothing to see and no note
    text smaller than 11 pixels             text of too little contrast (WCAG AA, 4.5 to 1)
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from browser import THEMES, emulate, full_page, open_browser, page_faults

WIDTHS = {"desktop": 1280, "phone": 390}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    options = parser.parse_args()
    count = 0
    for page in options.pages:
        for fault in check_page(page.resolve(), options.shots):
            count += 1
            print(f"{page}: {fault}")
    print(f"{len(options.pages)} pages, {count} faults")
    sys.exit(count > 0)


def check_page(page: Path, shots: Path | None) -> Iterator[str]:
    """The faults of `page` at each width and theme, as text."""
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile)
        try:
            for device, width in WIDTHS.items():
                for theme in THEMES:
                    emulate(browser, width, theme)
                    browser.get(page.as_uri())
                    faults = page_faults(browser, lambda address: address == page.as_uri())
                    yield from (f"{device}, {theme}: {fault}" for fault in faults)
                    if shots:
                        shots.mkdir(parents=True, exist_ok=True)
                        target = shots / f"{page.parent.name}-{page.stem}-{device}-{theme}.png"
                        target.write_bytes(full_page(browser, width))
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
