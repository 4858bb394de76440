"""Makes `docs/report.png`: the top of a report page as a browser shows it. See the Makefile."""

import io
import os
import pathlib
import shutil
import sys

from PIL import Image
from playwright.sync_api import sync_playwright

from imagecensus.jobs.report import write_report

WIDTH, HEIGHT = 1200, 1500
SHOWN_WIDTH = 900
COLORS = 192


def main(output: str, image: str) -> None:
    image = pathlib.Path(image).resolve()
    # From within its folder, so that the page does not show where this checkout lies.
    os.chdir(pathlib.Path(output).parent)
    page_file = pathlib.Path(write_report(os.path.basename(output))).resolve()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_file.as_uri())
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
    small = shot.resize((SHOWN_WIDTH, HEIGHT * SHOWN_WIDTH // WIDTH), Image.Resampling.LANCZOS)
    small.quantize(COLORS).save(image, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
