"""Exported rankings against independent judges: ir_measures on the files of TREC, NumPy on the vectors."""

import json
import subprocess
import tempfile
import unittest
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import RR, Success, nDCG

ROOT = Path(__file__).resolve().parents[1]
DIRECTIONS = ("speech_to_image", "image_to_speech")


def write(folder: Path, images: int, seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Utterances near their images, some images without any; with `ties`, many rows are equal. Returns scores and owners."""
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, images, 3 * images)
    pictures = rng.normal(size=(images, 24))
    sounds = pictures[owners] + 1.2 * rng.normal(size=(3 * images, 24))
    if ties:
        pictures, sounds = np.round(pictures), np.round(sounds)
        pictures[images // 2 :] = pictures[: images - images // 2]
    pictures, sounds = pictures.astype(np.float32), sounds.astype(np.float32)
    folder.mkdir()
    np.save(folder / "speech.npy", sounds)
    np.save(folder / "images.npy", pictures)
    np.save(folder / "owners.npy", owners)
    return (sounds.astype(np.float64) @ pictures.astype(np.float64).T).astype(np.float32), owners


def ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """1 plus the wrong items that score at least as high as the best right one, of queries that have a right one."""
    best = np.where(right, scores, -np.inf).max(1)
    found = 1 + ((scores >= best[:, None]) & ~right).sum(1)
    return found[right.any(1)]


class Exchange(unittest.TestCase):
    def check(self, images: int, seed: int, ties: bool) -> None:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            scores, owners = write(folder / "system", images, seed, ties)
            command = [ROOT / "target/release/cmd", "--quiet", "eval", "--embeddings", folder / "system", "--score", "dot"]
            command += ["--export", f"trec={folder / 'trec'}", "--json"]
            result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["results"][0]
            right = owners[:, None] == np.arange(images)
            for direction, found in zip(DIRECTIONS, (ranks(scores, right), ranks(scores.T, right.T))):
                ours = result[direction]
                for k in (1, 5, 10):
                    self.assertAlmostEqual(ours[f"r{k}"], 100 * (found <= k).mean(), places=9)
                self.assertAlmostEqual(ours["mrr"], (1 / found).mean(), places=9)
                judged = ir_measures.calc_aggregate(
                    [Success @ 1, Success @ 5, Success @ 10, RR, nDCG @ 10],
                    ir_measures.read_trec_qrels(str(folder / "trec" / f"{direction}.qrels")),
                    ir_measures.read_trec_run(str(folder / "trec" / f"{direction}.run")),
                )
                for k in (1, 5, 10):
                    self.assertAlmostEqual(100 * judged[Success @ k], ours[f"r{k}"], places=6)
                self.assertAlmostEqual(judged[RR], ours["mrr"], places=6)
                if direction == "speech_to_image":
                    gain = np.where(found <= 10, 1 / np.log2(1 + found), 0)
                    self.assertAlmostEqual(judged[nDCG @ 10], gain.mean(), places=6)

    def test_trec_files_are_judged_as_the_program_judges(self) -> None:
        for seed in range(3):
            self.check(200, seed, ties=False)

    def test_level_scores_count_against_the_query_in_both(self) -> None:
        for seed in range(3):
            self.check(60, seed, ties=True)


if __name__ == "__main__":
    unittest.main()
