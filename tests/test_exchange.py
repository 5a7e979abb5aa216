"""Exported rankings against independent judges: ir_measures on the files of TREC, NumPy on the vectors; MTEB's and the hub's own classes."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import ir_measures
import numpy as np
from huggingface_hub import ModelCard
from ir_measures import AP, P, R, RR, Success, nDCG
from mteb.results import TaskResult

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from killing.world import make_world  # noqa: E402

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


def cmd(*arguments: object, folder: Path = ROOT) -> str:
    command = [ROOT / "target/release/cmd", "--quiet", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


class Exchange(unittest.TestCase):
    def check(self, images: int, seed: int, ties: bool) -> None:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            scores, owners = write(folder / "system", images, seed, ties)
            exports = ("--export", f"trec={folder / 'trec'}", "--export", f"mteb={folder / 'mteb'}")
            result = json.loads(cmd("eval", "--embeddings", folder / "system", "--score", "dot", *exports, "--json"))["results"][0]
            right = owners[:, None] == np.arange(images)
            for direction, found in zip(DIRECTIONS, (ranks(scores, right), ranks(scores.T, right.T))):
                ours = result[direction]
                for k in (1, 5, 10):
                    self.assertAlmostEqual(ours[f"r{k}"], 100 * (found <= k).mean(), places=9)
                self.assertAlmostEqual(ours["mrr"], (1 / found).mean(), places=9)
                metrics = {"ndcg": nDCG, "map": AP, "recall": R, "precision": P, "mrr": RR, "hit_rate": Success}
                judged = ir_measures.calc_aggregate(
                    [RR, *(metric @ k for metric in metrics.values() for k in (1, 3, 5, 10, 20, 100))],
                    ir_measures.read_trec_qrels(str(folder / "trec" / f"{direction}.qrels")),
                    ir_measures.read_trec_run(str(folder / "trec" / f"{direction}.run")),
                )
                name = "systemA2IRetrieval" if direction == "speech_to_image" else "systemI2ARetrieval"
                task = TaskResult.from_disk(folder / "mteb" / f"{name}.json")
                scores = task.scores["test"][0]
                self.assertEqual((task.task_name, task.dataset_revision), (name, "no_revision_available"))
                self.assertEqual(scores["main_score"], scores["ndcg_at_10"])
                for key, metric in metrics.items():
                    for k in (1, 3, 5, 10, 20, 100):
                        self.assertAlmostEqual(scores[f"{key}_at_{k}"], judged[metric @ k], places=6, msg=f"{key} {k}")
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

    def test_the_karpathy_test_split_is_mtebs_task(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            system = Path(place) / "spokencoco"
            system.mkdir()
            rng = np.random.default_rng(0)
            pictures = rng.normal(size=(5000, 16)).astype(np.float32)
            owners = np.concatenate([np.arange(25000) % 5000, np.arange(31)])
            np.save(system / "images.npy", pictures)
            np.save(system / "owners.npy", owners)
            np.save(system / "speech.npy", pictures[owners] + rng.normal(size=(25031, 16)).astype(np.float32))
            out = Path(place) / "out"
            cmd("eval", "--embeddings", system, "--score", "cosine", "--export", f"mteb={out}")
            for name, category in (("SpokenCOCOA2IRetrieval", "a2i"), ("SpokenCOCOI2ARetrieval", "i2a")):
                result = TaskResult.from_disk(out / f"{name}.json")
                metadata = result.task.metadata
                self.assertEqual((metadata.category, result.dataset_revision), (category, metadata.dataset["revision"]))
                self.assertEqual((list(result.scores), metadata.main_score), (metadata.eval_splits, "ndcg_at_10"))
                self.assertEqual(result.get_score(), result.scores["test"][0]["ndcg_at_10"])

    def test_a_hub_reads_the_card_of_a_run(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make_world(folder)
            cmd("train", "--config", "tiny.toml", "--name", "a", "--set", "train.steps=6", folder=folder)
            results = cmd("eval", "--json", folder=folder)
            (folder / "test.json").write_text(results)
            cmd("card", "latest", "--results", "test.json", "--out", "card", folder=folder)
            card = ModelCard.load(folder / "card" / "README.md")
            figures = {(result.metric_name, round(result.metric_value, 2)) for result in card.data.eval_results}
            recalls = json.loads(results)["results"][0]["speech_to_image"]
            self.assertIn(("speech -> image R@1", round(recalls["r1"], 2)), figures)
            self.assertEqual((len(figures), card.data.tags[0], card.data.model_name), (9, "speech-image-retrieval", "a"))
            config = json.loads((folder / "card" / "config.json").read_text())
            self.assertEqual((config["model_type"], config["step"], len(config["speech_encoder"]["fingerprint"])), ("cmd", 6, 64))
            weights = (folder / "card" / "model.safetensors").read_bytes()
            self.assertEqual(weights, (folder / "runs/a/best/model.safetensors").read_bytes())
            self.assertNotIn(str(folder), card.content)
            cmd("eval", "--checkpoint", "card/model.safetensors", "--data", "tiny.toml", folder=folder)


if __name__ == "__main__":
    unittest.main()
