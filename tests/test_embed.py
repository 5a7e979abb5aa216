"""cmd embed, search and explain against PyTorch, NumPy and usearch: the lines of the docs as they stand, frames and attention by torch.nn."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from killing.world import make_world  # noqa: E402
from open_in_pytorch import SpeechHead, read_wav  # noqa: E402
from program import CMD, cmd  # noqa: E402

# Of a picture, as the fixture of an image encoder takes it.
SIDE = 32


class Embed(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        make_world(cls.folder)
        cls.cmd("train", "--config", "tiny.toml", "--name", "a", "--set", "train.steps=12")

    @classmethod
    def cmd(cls, *arguments: str) -> str:
        return cmd(cls.folder, *arguments)

    def test_the_documented_lines_give_the_same_vector(self) -> None:
        lines = re.search(r"```python\n(.*?)```", (ROOT / "docs/embeddings.md").read_text(), re.DOTALL)[1]
        wav = self.folder / "data/test 1 0.wav"
        places = {
            '"scripts"': repr(str(ROOT / "scripts")),
            '"runs/latest': f'"{self.folder}/runs/latest',
            '"assets/demo/speech_encoder.pt"': repr(str(ROOT / "tests/fixtures/speech.pt")),
            '"question.wav"': repr(str(wav)),
        }
        for name, place in places.items():
            self.assertIn(name, lines)
            lines = lines.replace(name, place)
        found: dict = {}
        exec(lines, found)
        ours = json.loads(self.cmd("embed", str(wav), "--out", "-"))["embedding"]
        self.assertLess(np.abs(found["vector"].numpy() - ours).max(), 1e-5)

    def test_frames_are_those_of_torch(self) -> None:
        wavs = sorted(self.folder.glob("data/test *.wav"))
        self.cmd("embed", *map(str, wavs), "--frames", "--out", "frames.safetensors")
        ours = load_file(self.folder / "frames.safetensors")
        with safe_open(self.folder / "frames.safetensors", "pt") as file:
            self.assertEqual(json.loads(file.metadata()["speech"]), [str(wav) for wav in wavs])
        head = SpeechHead(str(self.folder / "runs/a/best/model.safetensors")).eval()
        encoder = torch.jit.load(str(ROOT / "tests/fixtures/speech.pt"))
        offsets = ours["offsets"].tolist()
        for row, wav in enumerate(wavs):
            wave = read_wav(wav)
            with torch.no_grad():
                hidden, _ = encoder(wave[None], torch.tensor([len(wave)]))
                states = F.layer_norm(hidden, hidden.shape[-1:]) if head.normalize else hidden
                x = (head.layer_weights.softmax(0)[:, None, None, None] * states).sum(0)
                x = head.norm(head.transformer(torch.cat([head.cls.expand(1, 1, -1), x], 1)))
                theirs = F.normalize(head.proj(x), dim=-1)[0]
            self.assertLess((theirs[0] - ours["speech"][row]).abs().max(), 1e-5)
            self.assertLess((theirs[1:] - ours["frames"][offsets[row] : offsets[row + 1]]).abs().max(), 1e-5)
        self.assertEqual((offsets[0], offsets[-1]), (0, len(ours["frames"])))

    def test_numpy_reads_what_is_written(self) -> None:
        self.cmd("embed", "data", "--out", "all.jsonl")
        lines = [json.loads(line) for line in (self.folder / "all.jsonl").read_text().splitlines()]
        pictures = [line for line in lines if line["medium"] == "image"]
        self.cmd("embed", *(line["file"] for line in pictures), "--out", "pictures.npy")
        rows = np.load(self.folder / "pictures.npy")
        self.assertEqual((self.folder / "pictures.files.txt").read_text().splitlines(), [line["file"] for line in pictures])
        self.assertLess(np.abs(rows - [line["embedding"] for line in pictures]).max(), 1e-5)
        self.assertEqual([line["file"] for line in lines], sorted(line["file"] for line in lines))

    def test_numpy_searches_an_index_as_the_program_does(self) -> None:
        query = str(self.folder / "data/test 2 0.wav")
        vector = np.array(json.loads(self.cmd("embed", query, "--out", "-"))["embedding"])
        for rows, error in (("f32", 1e-5), ("f16", 1e-3), ("i8", 1e-2)):
            self.cmd("search", "index", "data", "--out", rows, "--rows", rows)
            (stored,) = [np.load(path, mmap_mode="r") for path in (self.folder / rows).glob("vectors-*.npy")]
            (files,) = (self.folder / rows).glob("files-*.jsonl")
            files = [json.loads(line) for line in files.read_text().splitlines()]
            if rows == "i8":
                stored = stored["values"] * stored["scale"][:, None]
            scores = stored.astype(np.float32) @ vector
            order = [row for row in np.argsort(-scores) if files[row]["medium"] == "image"][:5]
            found = json.loads(self.cmd("search", rows, "--speech", query, "-k", "5", "--json"))["queries"][0]["found"]
            self.assertLess(np.abs(scores[order] - [hit["score"] for hit in found]).max(), error)
            self.assertEqual(found[0]["file"], files[order[0]]["file"])

    def test_usearch_opens_a_graph_by_the_documented_lines(self) -> None:
        query = str(self.folder / "data/test 2 0.wav")
        self.cmd("search", "index", "data", "--out", "graphed", "--graph-above", "10")
        found = json.loads(self.cmd("search", "graphed", "--speech", query, "-k", "5", "--json"))["queries"][0]["found"]
        lines = re.search(r"```python\n(.*?)```", (ROOT / "docs/search.md").read_text(), re.DOTALL)[1]
        lines = lines.replace('Path("photos.idx")', f"Path({str(self.folder / 'graphed')!r})")
        vector = np.array(json.loads(self.cmd("embed", query, "--out", "-"))["embedding"], np.float32)
        known: dict = {"vector": vector}
        exec(lines, known)
        self.assertEqual({file for file, _ in known["found"][:3]}, {hit["file"] for hit in found[:3]})
        self.assertLess(np.abs(np.array([score for _, score in known["found"][:5]]) - [hit["score"] for hit in found]).max(), 0.02)

    def test_attention_is_that_of_torch(self) -> None:
        wav = self.folder / "data/test 3 1.wav"
        picture = self.folder / "square.png"
        Image.open(self.folder / "data/test 3.png").convert("RGB").resize((SIDE, SIDE)).save(picture)
        self.cmd("explain", "--speech", str(wav), "--image", str(picture), "--parts", "3", "--out", "explained")
        told = json.loads((self.folder / "explained/explained.json").read_text())
        look = told["utterances"][0]["seen"][0]["look"]
        weights = load_file(self.folder / "runs/a/best/model.safetensors")
        np.testing.assert_allclose(told["models"][0]["layer_weights"], weights["speech.layer_weights"].double().softmax(0), atol=1e-6)
        self.cmd("embed", str(wav), "--frames", "--out", "one.safetensors")
        frames = load_file(self.folder / "one.safetensors")
        queries = torch.cat([frames["speech"], frames["frames"]])
        pixels = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None]
        with torch.no_grad():
            _, patches = torch.jit.load(str(ROOT / "tests/fixtures/image.pt"))(pixels)
        width = patches.shape[-1]
        norm = weights["fusion.query_norm.weight"], weights["fusion.query_norm.bias"]
        query, keys = (F.layer_norm(x, (width,), *norm) for x in (queries, patches[0].float()))
        attention = (query @ keys.T / width**0.5).softmax(-1).numpy()
        np.testing.assert_allclose(look["whole"]["weights"], attention[0], atol=1e-5)
        count = len(attention) - 1
        for number, part in enumerate(look["parts"]):
            first, end = (n * count // 3 for n in (number, number + 1))
            np.testing.assert_allclose(part["attention"]["weights"], attention[1 + first : 1 + end].mean(0), atol=1e-5)

    def test_a_killed_one_goes_on(self) -> None:
        many = self.folder / "many"
        many.mkdir()
        source = (self.folder / "data/test 0 0.wav").read_bytes()
        for number in range(600):
            (many / f"{number:03}.wav").write_bytes(source)
        part = self.folder / "many.npy.part/files.jsonl"
        going = subprocess.Popen([CMD, "--quiet", "embed", "many", "--out", "many.npy"], cwd=self.folder)
        while not (part.exists() and part.stat().st_size):
            self.assertIsNone(going.poll(), "it ended too early")
            time.sleep(0.002)
        going.send_signal(signal.SIGKILL)
        going.wait()
        done = len(part.read_text().splitlines())
        self.assertTrue(0 < done < 600, done)
        said = subprocess.run([CMD, "embed", "many", "--out", "many.npy"], cwd=self.folder, check=True, stderr=subprocess.PIPE, text=True)
        self.assertIn("of 600 files are embedded already", said.stderr)
        rows = np.load(self.folder / "many.npy")
        self.assertEqual(rows.shape[0], 600)
        self.assertLess(np.abs(rows - rows[0]).max(), 1e-5)
        self.assertFalse(part.parent.exists())


if __name__ == "__main__":
    unittest.main()
