"""Draw docs/images/viewer.png: the page that `ddfm demo` writes, in Chromium (driven by Playwright).

python scripts/viewer_picture.py docs/images/viewer.png
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from ddfm_monai.cli.demo import run_demo

# Root may not sandbox; and WebGL is drawn by the processor, whatever the machine has.
ARGUMENTS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WIDTH, HEIGHT = 1000, 700
COLOURS = 128


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        draw(browser, run_demo(Path(folder))["page"], target)
        browser.close()


def draw(browser: Browser, page: Path, target: Path) -> None:
    """The page as it is at first, as a PNG file of few colours."""
    tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready]")
    seen = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    tab.close()
    seen.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
