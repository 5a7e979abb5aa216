"""The page of cmd report in Chromium: on a desktop and a phone, light and dark, on paper, by keyboard, by a screen reader, without a network."""

import base64
import json
import sys
import tempfile
import unittest
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from browser import DESKTOP, PHONE, Browser, browser, needs_chromium  # noqa: E402
from killing.world import make_world  # noqa: E402
from program import cmd  # noqa: E402

TEXTS = "main p, main td, main th, main li, main a, main h2, main h4, main label, main code, main caption, nav a, footer"


@needs_chromium
class Report(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        folder = Path(cls.folder)
        make_world(folder)
        for name, alpha in (("with", 0.5), ("without", 0)):
            options = ("--set", "train.steps=30", "--set", f"cmd.alpha={alpha}")
            cmd(folder, "train", "--config", "tiny.toml", "--name", name, *options)
        cls.page = (folder / cmd(folder, "report", "runs/with", "runs/without").strip()).as_uri()
        ranks = cmd(folder, "eval", "--checkpoint", "runs/with", "--export", "ranks=ranks", "--json")
        cls.results = json.loads(ranks)["results"][0]
        cls.ranks = [json.loads(line) for line in (folder / "ranks/ranks.jsonl").read_text().splitlines()]
        cls.driver: Browser = cls.enterClassContext(browser())
        network = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        cls.driver.execute_cdp_cmd("Network.enable", {})
        cls.driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)

    def setUp(self) -> None:
        self.driver.look(DESKTOP)
        self.driver.get(self.page)

    def shown(self) -> int:
        return sum(query.is_displayed() for query in self.driver.find_elements(By.CSS_SELECTOR, ".query"))

    def told(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "output").text

    def test_it_fits_and_is_read_at_both_widths_light_and_dark(self) -> None:
        paper = {}
        for dark in (False, True):
            for width in (DESKTOP, PHONE):
                with self.subTest(dark=dark, width=width):
                    self.driver.look(width, dark)
                    self.driver.get(self.page)
                    self.driver.keep(f"report-{'dark' if dark else 'light'}-{width}")
                    self.assertLessEqual(self.driver.overflow(), 0)
                    self.assertGreaterEqual(min(self.driver.contrasts(TEXTS)), 4.5)
                    self.assertEqual((self.driver.said(), self.driver.requests()), ([], []))
                    script = "return getComputedStyle(document.body).backgroundColor"
                    paper[dark] = self.driver.execute_script(script)
        self.assertNotEqual(paper[False], paper[True])

    def test_pictures_overlays_and_curves_are_drawn(self) -> None:
        first = self.driver.find_element(By.CSS_SELECTOR, ".query")
        own, light = (first.find_element(By.CSS_SELECTOR, f"figure{kind} svg") for kind in ("", ".look"))
        pixels = [np.asarray(Image.open(BytesIO(svg.screenshot_as_png)).convert("RGB"), float) for svg in (own, light)]
        for picture in pixels:
            self.assertGreater(picture.std(), 5)
        self.assertLess(pixels[1].mean(), pixels[0].mean())
        width = '''return document.querySelector('.chart polyline[stroke-width="2"]').getBoundingClientRect().width'''
        self.assertGreater(self.driver.execute_script(width), 100)
        charts = self.driver.find_elements(By.CSS_SELECTOR, ".chart [role=img]")
        self.assertIn("with: ", charts[0].get_attribute("aria-label"))

    def test_the_table_holds_the_figures_of_eval(self) -> None:
        row = self.driver.find_element(By.XPATH, "//table[caption[starts-with(., 'Table 2')]]//tr[th[normalize-space()='with']]")
        cells = [cell.text.split("\n")[0] for cell in row.find_elements(By.TAG_NAME, "td")]
        sides = (self.results[side] for side in ("speech_to_image", "image_to_speech", "mean"))
        self.assertEqual(cells, [f"{side[key]:.1f}" for side in sides for key in ("r1", "r5", "r10")])

    def test_queries_are_filtered_by_mouse(self) -> None:
        count = len(self.ranks)
        self.assertEqual((self.shown(), self.told()), (count, f"{count} of {count}"))
        self.driver.find_element(By.CSS_SELECTOR, "input[value=far]").click()
        self.assertEqual(self.told(), f"{self.shown()} of {count}")
        self.assertLess(self.shown(), count)
        self.driver.find_element(By.CSS_SELECTOR, "input[value=all]").click()
        Select(self.driver.find_element(By.NAME, "direction")).select_by_value("image")
        self.assertEqual(self.shown(), sum(line["direction"] == "image_to_speech" for line in self.ranks))
        Select(self.driver.find_element(By.NAME, "direction")).select_by_value("speech")
        self.driver.find_element(By.NAME, "said").send_keys("TEST 3 caption 1")
        self.assertEqual((self.shown(), self.told()), (1, f"1 of {count}"))

    def test_the_ranks_are_those_of_eval(self) -> None:
        expected = sorted(line["rank"] for line in self.ranks)
        queries = self.driver.find_elements(By.CSS_SELECTOR, ".query")
        self.assertEqual(sorted(int(query.get_attribute("data-ranks").split()[0]) for query in queries), expected)

    def test_everything_is_reached_by_keyboard(self) -> None:
        press = lambda *keys: self.driver.switch_to.active_element.send_keys(*keys)  # noqa: E731
        self.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        skip = self.driver.switch_to.active_element
        self.assertEqual((skip.text, skip.is_displayed()), ("Skip to the content", True))
        self.assertGreaterEqual(skip.location["x"], 0)
        press(Keys.ENTER)
        self.assertEqual(self.driver.switch_to.active_element.get_attribute("id"), "main")
        reached = set()
        for _ in range(40):
            press(Keys.TAB)
            element = self.driver.switch_to.active_element
            reached.add(element.get_attribute("name") or element.get_attribute("aria-label") or element.tag_name)
            if element.get_attribute("type") == "radio":
                break
        self.assertIn("Table 2: recalls in percent", reached)
        press(Keys.ARROW_RIGHT)
        self.assertEqual(self.driver.switch_to.active_element.get_attribute("value"), "hit")
        self.assertEqual(self.told().split()[0], str(self.shown()))
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        self.assertNotEqual(self.driver.execute_script(outline), "none")
        press(Keys.TAB)
        press("s")
        self.assertEqual(self.driver.switch_to.active_element.get_attribute("value"), "speech")

    def test_a_screen_reader_finds_names_and_headings(self) -> None:
        self.assertEqual(self.driver.nameless(), [])
        levels = [int(heading.tag_name[1]) for heading in self.driver.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4")]
        self.assertEqual((levels[0], levels.count(1)), (1, 1))
        self.assertTrue(all(after - before <= 1 for before, after in zip(levels, levels[1:])), levels)
        ids = [element.get_attribute("id") for element in self.driver.find_elements(By.CSS_SELECTOR, "[id]")]
        self.assertEqual(len(ids), len(set(ids)))
        for table in self.driver.find_elements(By.CSS_SELECTOR, "main .wide table"):
            self.assertTrue(table.find_elements(By.TAG_NAME, "caption"))

    def test_it_prints_without_controls(self) -> None:
        self.driver.look(DESKTOP, dark=True, media="print")
        for selector in ("nav", ".filters"):
            self.assertFalse(self.driver.find_element(By.CSS_SELECTOR, selector).is_displayed())
        script = "return getComputedStyle(document.body).backgroundColor"
        self.assertEqual(self.driver.execute_script(script), "rgb(255, 255, 255)")
        pdf = base64.b64decode(self.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
        self.assertTrue(pdf.startswith(b"%PDF") and len(pdf) > 20_000)

    def test_without_its_script_everything_is_there(self) -> None:
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            self.driver.get(self.page)
            queries = self.driver.find_elements(By.CSS_SELECTOR, ".query")
            self.assertEqual(len(queries), len(self.ranks))
            self.assertTrue(queries[-1].is_displayed())
            self.assertFalse(self.driver.find_element(By.CSS_SELECTOR, ".filters").is_displayed())
        finally:
            self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


if __name__ == "__main__":
    unittest.main()
