"""The top of a page as a small PNG, as README shows it: python -m tests.reports.screenshot PAGE OUT.png HEIGHT [SECTION ...]

Sections that are named (scores, spread, ...) are left out, so that what is below them is seen.
"""

import io
import sys
from pathlib import Path

from PIL import Image

from tests.reports.conftest import started

WIDTH, SCALE, COLOURS = 1180, 0.75, 112


def main(page: str, out: str, height: str, *left_out: str) -> None:
    """Opens the page in the tests' browser."""
    with started() as browser:
        if browser is None:
            raise SystemExit("needs a browser: apt-get install chromium chromium-driver")
        browser.open(Path(page).absolute(), width=WIDTH)
        for name in left_out:
            browser.js(f"document.getElementById('{name}').remove()")
        taken = Image.open(io.BytesIO(browser.picture(int(height), SCALE)))
    taken.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
