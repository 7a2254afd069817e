"""Take an image of the page of -m serve, for README.

Asks the first example of a page that is running, one that serves `shapes`.
"""

import argparse
import io
import shutil
import sys

import numpy as np
from PIL import Image

from util.core.cli import OneLineParser, exit_code
from util.core.errors import UserError
from util.inference import visualize

EXAMPLES = """examples:
  python tests/screenshot.py http://127.0.0.1:7860 --output .github/page.png
"""
SIZE = {"width": 1080, "height": 860}  # pixels, of the window
ALL_SHOWN = (
    "() => { const images = [...document.querySelectorAll('#mask img, #levels img')];"
    " return images.length == 4 && images.every(image => image.complete); }"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def take(url: str) -> np.ndarray:
    """Return an image of the page with an answer, uint8 [H, W, 3].

    Raises:
      UserError: Playwright or a browser is not installed, or there is no page.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright import sync_api
    except ImportError as error:
        raise UserError("needs Playwright: pip install playwright") from error
    if browser is None:
        raise UserError("needs a browser: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        window = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox"]
        )
        try:
            page = window.new_page(viewport=SIZE)
            page.goto(url)
            page.click("table tr.tr-body")
            page.wait_for_selector("#image img")
            page.click("#find")
            page.wait_for_selector("#mask img")
            page.wait_for_function(ALL_SHOWN)
            page.evaluate("scrollTo(0, 0)")
            shot = page.screenshot()
        except sync_api.Error as error:
            line = str(error).splitlines()[0]
            raise UserError(f"no page of shapes at {url}: {line}") from error
    return np.array(Image.open(io.BytesIO(shot)).convert("RGB"))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python tests/screenshot.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="of the page")
    parser.add_argument("--output", required=True, metavar="FILE", help="the image")
    return parser


def make(args: argparse.Namespace) -> int:
    """Write the image that the command line asks for."""
    visualize.save_png(args.output, take(args.url))
    print(f"image: {args.output}")
    return 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    return exit_code(lambda: make(args))


if __name__ == "__main__":
    sys.exit(main())
