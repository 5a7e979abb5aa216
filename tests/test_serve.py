"""The page of cmd serve in Chromium: one speaks and sees, shows and hears, by mouse and by keyboard, on a desktop and a phone."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from browser import DESKTOP, PHONE, Browser, browser, needs_chromium  # noqa: E402
from killing.world import make_world  # noqa: E402
from program import CMD, cmd  # noqa: E402

TEXTS = "h1, h2, header p, main p, main button, main label, main li, dialog p, dialog span, dialog label, dialog button, footer, a"
# Of the canvas with the picture: how bright it is, 0 to 255.
BRIGHT = """
const canvas = document.getElementById("large");
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return data.reduce((sum, value, place) => sum + (place % 4 === 3 ? 0 : value), 0) / (data.length * 0.75);
"""


def serve(folder: Path, index: str = "idx") -> subprocess.Popen[str]:
    command = [CMD, "--quiet", "serve", index, "--port", "0"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)


def stop(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        status = server.wait(30)
    finally:
        server.kill()
        server.stdout.close()
    assert status == 0, f"the server ended with {status}"


@needs_chromium
class Serve(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        make_world(folder)
        cmd(folder, "train", "--config", "tiny.toml", "--name", "a", "--set", "train.steps=30")
        cmd(folder, "search", "index", "--split", "test", "--out", "idx")
        server = serve(folder)
        cls.addClassCleanup(stop, server)
        cls.page = server.stdout.readline().strip()
        # A microphone that hears a sound of the world again and again, and is allowed without asking.
        spoken = folder / "data/test 3 1.wav"
        fake = "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={spoken}"
        cls.driver: Browser = cls.enterClassContext(browser("--use-fake-ui-for-media-stream", *fake))

    def setUp(self) -> None:
        self.open()

    def open(self, width: int = DESKTOP, dark: bool = False, page: str = "") -> None:
        self.driver.look(width, dark)
        # What an earlier page was told is of no concern here.
        self.driver.said()
        self.driver.get(page or self.page)
        self.until(lambda: self.the("#try").is_displayed())

    def the(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, holds: Callable[[], object]) -> None:
        WebDriverWait(self.driver, 30, 0.05).until(lambda _: holds())

    def press(self, *keys: str) -> None:
        # Keys sent to a field for files would be taken for paths.
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector: str) -> None:
        """Presses Tab until the focus is on such an element."""
        for _ in range(60):
            self.press(Keys.TAB)
            if self.driver.execute_script("return document.activeElement.matches(arguments[0])", selector):
                return
        self.fail(f"{selector} is not reached by Tab")

    def speak(self) -> None:
        """Records for a second."""
        self.the("#record").click()
        self.until(lambda: self.the("#status").text.startswith("Listening 0:01"))
        self.the("#record").click()
        self.found("picture")

    def found(self, what: str) -> list[WebElement]:
        """The cards that are found; the page has told how many."""
        self.until(lambda: self.the("#told").text)
        cards = self.all("#found li")
        self.assertGreater(len(cards), 1)
        self.assertRegex(self.the("#told").text, f"^{len(cards)} {what}s found in [0-9]+ ms$")
        self.assertEqual(self.the("#results").get_attribute("aria-busy"), "false")
        self.assertEqual(self.the("#alert").text, "")
        self.assertEqual([card.find_element(By.CSS_SELECTOR, ".rank").text for card in cards], [str(n + 1) for n in range(len(cards))])
        scores = [float(card.find_element(By.CSS_SELECTOR, ".score").text) for card in cards]
        self.assertEqual(scores, sorted(scores, reverse=True))
        return cards

    def seen(self, images: list[WebElement]) -> None:
        """The pictures have arrived and are pictures."""
        for image in images:
            self.driver.execute_script("arguments[0].scrollIntoView()", image)
            self.until(lambda: int(image.get_property("naturalWidth")) > 0)

    def heard(self, button: WebElement) -> None:
        """The button plays a sound to its end, and says so."""
        name = button.get_attribute("aria-label")
        self.assertRegex(name, "^Play: .")
        self.driver.execute_script("""
            window.heard = 0;
            const player = document.getElementById("player");
            player.addEventListener("ended", () => { window.heard = player.duration; }, { once: true });
        """)
        button.click()
        self.assertIn(button.get_attribute("aria-label"), (name, name.replace("Play", "Stop")))
        self.until(lambda: self.driver.execute_script("return window.heard") > 0)
        self.until(lambda: button.get_attribute("aria-label") == name)

    def whole(self) -> None:
        """Nothing sticks out, all can be read and named, nothing was refused and nothing came from elsewhere."""
        self.assertLessEqual(self.driver.overflow(), 0)
        self.assertGreaterEqual(min(self.driver.contrasts(TEXTS)), 4.5)
        self.assertEqual((self.driver.said(), self.driver.nameless()), ([], []))
        elsewhere = [name for name in self.driver.requests() if not name.startswith((self.page, f"blob:{self.page}"))]
        self.assertEqual(elsewhere, [])

    def test_it_fits_and_is_read_at_both_widths_light_and_dark(self) -> None:
        paper = {}
        for dark in (False, True):
            for width in (DESKTOP, PHONE):
                with self.subTest(dark=dark, width=width):
                    name = f"{'dark' if dark else 'light'}-{width}"
                    self.open(width, dark)
                    self.driver.keep(f"serve-{name}")
                    self.whole()
                    self.the("#examples button").click()
                    self.seen([card.find_element(By.TAG_NAME, "img") for card in self.found("picture")])
                    self.driver.keep(f"serve-pictures-{name}")
                    self.whole()
                    self.the("#found button").click()
                    self.until(lambda: self.all("#parts li"))
                    self.driver.keep(f"serve-look-{name}")
                    self.whole()
                    self.the("#close").click()
                    self.the("#pictures button").click()
                    self.found("spoken caption")
                    self.driver.keep(f"serve-captions-{name}")
                    self.whole()
                    paper[dark] = self.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        self.assertNotEqual(paper[False], paper[True])

    def test_one_speaks_and_sees(self) -> None:
        self.assertEqual(self.the("#record").accessible_name, "Record")
        self.the("#record").click()
        self.until(lambda: self.the("#status").text.startswith("Listening 0:01 of "))
        self.assertEqual(self.the("#record").accessible_name, "Stop and search")
        loud = "return Number(document.getElementById('record').style.getPropertyValue('--level'))"
        self.until(lambda: self.driver.execute_script(loud) > 0.1)
        self.the("#record").click()
        cards = self.found("picture")
        self.assertEqual(self.the("#status").text, "Press and speak")
        self.seen([card.find_element(By.TAG_NAME, "img") for card in cards])
        said = re.fullmatch(r"What you said ([0-9.]+) s", self.the("#asked-text").text)
        self.assertGreaterEqual(float(said[1]), 1.0)
        self.heard(self.the("#replay"))
        self.driver.keep("serve-spoken")
        self.whole()

    def test_one_speaks_by_keyboard_and_takes_it_back(self) -> None:
        self.the("body").send_keys("r")
        self.until(lambda: self.the("#status").text.startswith("Listening"))
        self.press(Keys.ESCAPE)
        self.assertEqual(self.the("#status").text, "Press and speak")
        self.assertFalse(self.the("#results").is_displayed())
        self.press("r")
        self.until(lambda: self.the("#status").text.startswith("Listening 0:01"))
        self.press(Keys.SPACE)
        self.found("picture")

    def test_where_it_looks_for_what_one_said(self) -> None:
        self.speak()
        self.the("#found button").click()
        self.until(lambda: len(self.all("#parts button")) > 1)
        shaded = self.driver.execute_script(BRIGHT)
        self.the("#overlay").click()
        self.assertGreater(self.driver.execute_script(BRIGHT), shaded)
        self.the("#overlay").click()
        self.heard(self.the("#look-play"))
        self.assertEqual(self.the("#part-text").text, "Whole utterance")
        self.assertRegex(self.the("#entropy").text, r"^Entropy [01]\.\d\d: ")
        last = self.all("#parts button")[-1]
        last.click()
        self.assertEqual((last.get_attribute("aria-pressed"), self.the("#part-text").text), ("true", last.get_attribute("aria-label")))

    def test_a_sound_of_a_file_finds_pictures(self) -> None:
        self.the("#sound").send_keys(str(self.folder / "data/test 5 2.wav"))
        self.seen([card.find_element(By.TAG_NAME, "img") for card in self.found("picture")])
        self.assertRegex(self.the("#asked-text").text, r"^test 5 2\.wav 0\.\d s$")
        self.heard(self.the("#replay"))

    def test_a_picture_finds_what_is_said_of_it(self) -> None:
        self.the("#picture").send_keys(str(self.folder / "data/test 1.png"))
        card = self.found("spoken caption")[0]
        self.seen([self.the("#asked-picture")])
        self.assertRegex(card.find_element(By.TAG_NAME, "p").text, "^“.+”$")
        self.heard(card.find_element(By.CSS_SELECTOR, ".play"))
        self.assertFalse(self.the("#replay").is_displayed())

    def test_words_find_pictures(self) -> None:
        field = self.the("#text")
        self.assertEqual(field.accessible_name, "What you look for, in words")
        field.send_keys("caption 1 of test 3", Keys.ENTER)
        self.seen([card.find_element(By.TAG_NAME, "img") for card in self.found("picture")])
        self.assertEqual(self.the("#asked-text").text, "“caption 1 of test 3”")
        # Words have no sound and look nowhere.
        self.assertEqual([self.the(shown).is_displayed() for shown in ("#replay", "#asked-wave", "#asked-picture")], [False] * 3)
        self.assertEqual(self.all("#found button"), [])
        self.driver.keep("serve-words")
        self.whole()
        # Letters go into the field and start no recording.
        field.send_keys("r")
        self.assertEqual(self.the("#status").text, "Press and speak")

    def test_words_that_are_too_many_are_told_so(self) -> None:
        self.the("#text").send_keys("dog " * 100, Keys.ENTER)
        self.found("picture")
        self.assertTrue(self.the("#asked-text").text.endswith("too long: only its beginning was read"))

    def test_keywords_are_seen_and_ask(self) -> None:
        """Of a cascaded head without CMD, which cannot be asked where it looks."""
        head = "--set", "speech.head=cascaded", "--set", "speech.keywords=5", "--set", "cmd.alpha=0"
        cmd(self.folder, "train", "--config", "tiny.toml", "--name", "c", "--set", "train.steps=6", *head)
        cmd(self.folder, "search", "index", "--checkpoint", "runs/c", "--split", "test", "--out", "heard")
        server = serve(self.folder, "heard")
        self.addCleanup(stop, server)
        page = server.stdout.readline().strip()
        for width in (DESKTOP, PHONE):
            self.open(width, page=page)
            self.the("#examples button").click()
            self.found("picture")
            self.until(lambda: len(self.all("#keywords button")) == 5)
            self.assertEqual(self.the("#keywords").accessible_name, "Heard")
            self.assertRegex(self.the("#keywords button").get_attribute("title"), r"^\d\.\d\d s to \d\.\d\d s$")
            self.assertEqual(self.all("#found button"), [])
            self.driver.keep(f"serve-heard-{width}")
            self.driver.execute_script("window.scrollTo(0, 0)")
            self.assertLessEqual(self.driver.overflow(), 0)
        word = self.the("#keywords button").text
        self.the("#keywords button").click()
        self.found("picture")
        self.assertEqual((self.the("#asked-text").text, self.the("#heard").is_displayed()), (f"“{word}”", False))
        # What one says is heard too.
        self.speak()
        self.until(lambda: len(self.all("#keywords button")) == 5)
        # A picture says nothing.
        self.the("#pictures button").click()
        self.found("spoken caption")
        self.assertFalse(self.the("#heard").is_displayed())

    def test_examples_ask(self) -> None:
        example = self.the("#examples button")
        said = example.text
        example.click()
        self.found("picture")
        self.assertTrue(self.the("#asked-text").text.startswith(said))
        self.heard(self.the("#replay"))
        self.the("#pictures button").click()
        self.until(lambda: self.all("#found.speech li"))
        self.found("spoken caption")

    def test_the_head_counts_what_is_in_the_index(self) -> None:
        about = json.load(urlopen(f"{self.page}api/about"))
        counts = f"{about['images']:,} pictures and {about['speech']:,} utterances to find"
        self.assertEqual(self.the("#counts").text, counts)
        self.assertIn(about["version"], self.the("footer").text)
        self.assertEqual(self.the("footer a").get_attribute("href"), f"{self.page}openapi.json")

    def test_where_it_looks_by_keyboard_only(self) -> None:
        self.the("body").send_keys(Keys.TAB)
        skip = self.driver.switch_to.active_element
        self.assertEqual((skip.text, skip.is_displayed()), ("Skip to the content", True))
        self.press(Keys.ENTER)
        self.assertEqual(self.driver.switch_to.active_element.get_attribute("id"), "main")
        self.tab_to("#examples button")
        self.assertNotEqual(self.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle"), "none")
        self.press(Keys.ENTER)
        self.found("picture")
        self.tab_to("#found button")
        self.press(Keys.ENTER)
        self.until(lambda: len(self.all("#parts button")) > 1)
        self.assertEqual(self.driver.switch_to.active_element.get_attribute("id"), "part")
        self.assertEqual(self.the("#part-text").text, "Whole utterance")
        self.press(Keys.ARROW_RIGHT)
        self.assertRegex(self.the("#part-text").text, r"^Part 1, 0\.00 s to [0-9.]+ s$")
        self.assertEqual(self.the("#part").get_attribute("aria-valuetext"), self.the("#part-text").text)
        self.press(Keys.ARROW_LEFT)
        self.assertEqual(self.the("#part-text").text, "Whole utterance")
        shaded = self.driver.execute_script(BRIGHT)
        self.tab_to("#overlay")
        self.press(Keys.SPACE)
        self.assertGreater(self.driver.execute_script(BRIGHT), shaded)
        self.press(Keys.ESCAPE)
        self.assertFalse(self.the("#look").is_displayed())
        self.assertTrue(self.driver.execute_script("return document.activeElement.matches('#found button')"))

    def test_what_cannot_be_read_is_said_as_the_server_says_it(self) -> None:
        for name, field, kind in (("broken.wav", "#sound", "audio/wav"), ("broken.png", "#picture", "image/png")):
            with self.subTest(name=name):
                broken = self.folder / name
                broken.write_bytes(b"neither a sound nor a picture")
                request = Request(f"{self.page}api/search?k=12", broken.read_bytes(), {"Content-Type": kind})
                with self.assertRaises(HTTPError) as refused:
                    urlopen(request)
                self.the(field).send_keys(str(broken))
                self.until(lambda: self.the("#alert").text)
                self.assertEqual(self.the("#alert").text, json.load(refused.exception)["error"])
                self.assertEqual(self.the("#alert").get_attribute("role"), "alert")
                self.assertEqual(self.all("#found li"), [])
                self.the("#examples button").click()
                self.found("picture")

    def test_a_server_that_is_gone_is_said_so(self) -> None:
        server = serve(self.folder)
        try:
            self.open(page=server.stdout.readline().strip())
        finally:
            stop(server)
        self.the("#examples button").click()
        self.until(lambda: self.the("#alert").text)
        self.assertEqual(self.the("#alert").text, "The server does not answer. Is it still running?")
        self.assertEqual(self.the("#results").get_attribute("aria-busy"), "false")


if __name__ == "__main__":
    unittest.main()
