"""A browser, where Debian's chromium and its driver are installed."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Browser:
    """Headless chromium that keeps what a page asked the network for and wrote to its console."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Any, *, dark: bool = False, width: int = 1280) -> None:
        """Opens a file and forgets what was before."""
        self.driver.set_window_size(width, 1000)
        media = {"media": "", "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for kind in ("performance", "browser"):
            self.driver.get_log(kind)
        self.driver.get(f"file://{path}")

    def requests(self) -> list[str]:
        """URLs asked for since `open`, the page itself and data: left out."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "file:"))]

    def complaints(self) -> list[str]:
        """What stands in the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def picture(self, height: int, scale: float = 1.0) -> bytes:
        """The top of the page as PNG."""
        clip = {"x": 0, "y": 0, "width": self.js("document.documentElement.clientWidth"), "height": height, "scale": scale}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        return base64.b64decode(taken["data"])

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.driver.execute_script(f"return {expression}")


@contextmanager
def started() -> Iterator[Browser | None]:
    """A browser for the body; None where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        yield None
        return
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driven = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(driven)
    finally:
        driven.quit()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with started() as found:
        if found is None:
            pytest.skip("needs a browser: apt-get install chromium chromium-driver")
        yield found
