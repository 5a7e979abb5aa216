"""Debian's Chromium, driven by its own driver: pages as people see them. Without it tests that need it are skipped, and say so."""

import base64
import os
import shutil
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESKTOP, PHONE = 1280, 375
# Where pictures of what was seen are kept, to be looked at.
PICTURES = os.environ.get("CMD_TEST_PICTURES")

needs_chromium = unittest.skipUnless(
    CHROMIUM and DRIVER, "no Chromium: apt-get install chromium chromium-driver, as scripts/test does where it may"
)


class Browser(webdriver.Chrome):
    def look(self, width: int, dark: bool = False, media: str = "") -> None:
        """The width of the window in pixels, light or dark, on a screen or on paper."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})

    def said(self) -> list[str]:
        """What the console was told: errors, and what the policy of the page refused."""
        return [entry["message"] for entry in self.get_log("browser")]

    def requests(self) -> list[str]:
        """What was loaded beside the page itself, over whatever way."""
        script = "return performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))"
        return self.execute_script(script)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def contrasts(self, selector: str) -> list[float]:
        """Contrast of the texts of elements that are seen with what lies behind them, by WCAG."""
        return self.execute_script(CONTRAST, selector)

    def nameless(self) -> list[str]:
        """Pictures, buttons, links and fields that a screen reader could not name."""
        nodes = self.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {"image", "img", "button", "link", "radio", "combobox", "searchbox", "textbox", "region", "form"}
        asked = (node for node in nodes if not node.get("ignored") and node.get("role", {}).get("value") in roles)
        return [node["role"]["value"] for node in asked if not node.get("name", {}).get("value")]

    def keep(self, name: str, height: int = 3000) -> None:
        """Keeps a picture of the page if CMD_TEST_PICTURES names a folder."""
        if PICTURES:
            width, whole = self.execute_script("return [innerWidth, document.documentElement.scrollHeight]")
            clip = {"x": 0, "y": 0, "width": width, "height": min(height, whole), "scale": 1}
            shot = self.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
            Path(PICTURES, f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


CONTRAST = """
const parse = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length && (colour.length < 4 || colour[3] > 0)) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll(arguments[0])].filter((e) => e.offsetParent && e.textContent.trim()).map((e) => {
  const [one, other] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
  return (one + 0.05) / (other + 0.05);
});
"""


@contextmanager
def browser(*arguments: str) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # Its sandbox wants a user other than root.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Browser(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
