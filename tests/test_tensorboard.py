"""tensorboard/ of a run, as TensorBoard's own reader sees it: the figures of metrics.jsonl, also after kills and resumes."""

import json
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from tensorboard.backend.event_processing import plugin_event_accumulator as event_accumulator
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.util.tensor_util import make_ndarray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from killing.world import STEPS, make_world  # noqa: E402

EVERYTHING = {event_accumulator.TENSORS: 0}


@contextmanager
def world() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder))
        yield Path(folder)


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [ROOT / "target/release/cmd", "--quiet", "train", *arguments, "--set", "data.workers=1"]
    return subprocess.Popen(command, cwd=folder)


def lines(run: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def read(run: Path) -> event_accumulator.EventAccumulator:
    events = event_accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance=EVERYTHING)
    events.Reload()
    return events


def scalars(events: event_accumulator.EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]


class TensorBoard(unittest.TestCase):
    def compare(self, run: Path) -> event_accumulator.EventAccumulator:
        """Tags and steps of all figures are those of metrics.jsonl."""
        events, said = read(run), lines(run)
        training = [line for line in said if line["kind"] == "train"]
        for key in ("loss", "loss_sic", "loss_cmd", "lr", "temperature", "grad_norm", "attention_entropy", "data_wait"):
            expected = [(line["step"], line[key]) for line in training]
            found = scalars(events, f"train/{key}")
            self.assertEqual([step for step, _ in found], [step for step, _ in expected], key)
            for (_, ours), (_, theirs) in zip(found, expected):
                self.assertAlmostEqual(ours, theirs, delta=1e-6 * abs(theirs))
        evaluations = [(line["step"], line["mean"]["r1"]) for line in said if line["kind"] == "eval"]
        found = scalars(events, "eval val/mean/r1")
        self.assertEqual([step for step, _ in found], [step for step, _ in evaluations])
        self.assertEqual([round(value, 3) for _, value in found], [round(value, 3) for _, value in evaluations])
        return events

    def test_figures_pictures_texts_and_hyper_parameters_are_read(self) -> None:
        with world() as folder:
            self.assertEqual(start(folder, "--config", "tiny.toml", "--name", "a", "--set", "train.steps=12").wait(), 0)
            events = self.compare(folder / "runs/a")
            pictures = events.Tensors("retrieval/speech to image")
            self.assertEqual([event.step for event in pictures], [6, 12])
            width, height, png = make_ndarray(pictures[-1].tensor_proto)[:3]
            self.assertTrue(png.startswith(b"\x89PNG") and int(width) > 500 and int(height) > 500)
            from PIL import Image

            self.assertEqual(Image.open(BytesIO(png)).size, (int(width), int(height)))
            heard = make_ndarray(events.Tensors("retrieval/image to speech")[0].tensor_proto)[0].decode()
            self.assertTrue(heard.startswith("| image | found"), heard)
            content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
            settings = hparams.parse_session_start_info_plugin_data(content).hparams
            self.assertEqual(settings["train/batch_size"].number_value, 6)
            self.assertEqual(settings["cmd/pairing"].string_value, "paired")
            self.assertTrue(settings["speech/normalize_layers"].bool_value)

    def test_a_run_that_was_killed_three_times_has_every_step_once(self) -> None:
        with world() as folder:
            run = folder / "runs/a"
            for count in (20, 60, 110):
                going = start(folder, "--config", "tiny.toml", "--name", "a", "--resume-or-start")
                while len(lines(run)) < count:
                    self.assertIsNone(going.poll(), "it ended too early")
                    time.sleep(0.005)
                going.kill()
                going.wait()
            self.assertEqual(start(folder, "--resume", "runs/a").wait(), 0)
            events = self.compare(run)
            self.assertEqual(len(list((run / "tensorboard").iterdir())), 4)
            self.assertEqual([step for step, _ in scalars(events, "train/loss")], list(range(1, STEPS + 1)))

    def test_it_can_be_left_out(self) -> None:
        with world() as folder:
            options = ("--set", "train.steps=3", "--set", "log.tensorboard=false")
            self.assertEqual(start(folder, "--config", "tiny.toml", "--name", "a", *options).wait(), 0)
            self.assertFalse((folder / "runs/a/tensorboard").exists())


if __name__ == "__main__":
    unittest.main()
