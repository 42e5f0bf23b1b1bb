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
from playwright.sync_api import sync_playwright

from ddfm_monai.cli.demo import run_demo

# Root may not sandbox; and WebGL is drawn by the processor, whatever the machine has.
ARGUMENTS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WIDTH, HEIGHT = 1000, 700
COLOURS = 128


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = screenshot(run_demo(Path(folder))["page"])
    seen.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def screenshot(page: Path) -> Image.Image:
    """The page as it is at first."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=ARGUMENTS
        )
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]")
        taken = tab.screenshot()
        browser.close()
    return Image.open(io.BytesIO(taken)).convert("RGB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
