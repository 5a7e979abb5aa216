"""The demo's generator: the same bytes every time, restartable, and families that do what they are for."""

import json
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORLD = ROOT / "scripts" / "demo_world"
sys.path.insert(0, str(WORLD))

import crowd  # noqa: E402
from caption import caption  # noqa: E402
from scene import random_family  # noqa: E402


def generate(folder: Path, jobs: int = 2) -> dict[str, bytes]:
    small = ["--train", "6", "--val", "3", "--test", "3", "--hard", "3", "--jobs", str(jobs)]
    subprocess.run([sys.executable, WORLD / "generate.py", "--out", folder, *small], check=True, stderr=subprocess.DEVNULL)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Generator(unittest.TestCase):
    def test_the_same_bytes_with_any_number_of_processes_and_after_an_interruption(self) -> None:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            first = generate(Path(one), jobs=1)
            self.assertEqual(first, generate(Path(two), jobs=3))
            (Path(two) / "manifest.jsonl").unlink()
            for path in sorted((Path(two) / "audio").iterdir())[::2]:
                path.unlink()
            self.assertEqual(first, generate(Path(two)))

    def test_the_manifest_names_what_is_there(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            files = generate(Path(folder))
            lines = [json.loads(line) for line in files["manifest.jsonl"].decode().splitlines()]
            self.assertEqual([line["split"] for line in lines], ["train"] * 6 + ["val"] * 3 + ["test"] * 3 + ["hard"] * 3)
            named = {line["image"] for line in lines} | {caption["audio"] for line in lines for caption in line["captions"]}
            made = {name for name in files if name.startswith(("images/", "audio/"))}
            self.assertEqual(named, made)
            families = {line["family"]: line["split"] for line in lines}
            self.assertEqual(len(families), 5)


class Families(unittest.TestCase):
    def test_the_scenes_of_a_family_differ_and_captions_say_how(self) -> None:
        rng, taken = random.Random(3), set()
        for _ in range(200):
            scenes, details = random_family(rng, taken)
            self.assertEqual(len({scene.key for scene in scenes}), 3)
            for scene in scenes:
                said = caption(rng, scene, details).split()
                for which in ("first", "second"):
                    thing = getattr(scene, which)
                    self.assertIn(thing.noun, said)
                    if f"colour {which}" in details:
                        self.assertIn(thing.colour, said)
        self.assertEqual(len(taken), 600)

    def test_of_a_crowd_two_or_three_things_are_said_those_that_tell_the_family_apart_among_them(self) -> None:
        rng, taken = random.Random(4), set()
        for _ in range(200):
            scenes, details = crowd.random_family(rng, taken)
            for scene in scenes:
                said = crowd.caption(rng, scene, details).split()
                nouns = [thing.noun for thing in scene.things]
                self.assertIn(len(nouns), (3, 4, 5))
                self.assertIn(len(set(nouns) & set(said)), (2, 3))
                for detail in details - {"background"}:
                    self.assertIn(nouns[int(detail.split()[1])], said)
        self.assertEqual(len(taken), 600)


if __name__ == "__main__":
    unittest.main()
