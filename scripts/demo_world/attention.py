"""What the fusion encoder looks at: where the attention of an utterance over the patches of its own image lies, by what each patch shows.

    .venv-export/bin/python scripts/demo_world/attention.py --data data/demo --split hard runs/sweep-demo_steps/*

Runs that differ by their seed alone are one row. A run without CMD has no fusion encoder: its S_cls asks as Eq. 1 says, after a LayerNorm
that has learned nothing. Needs what scripts/setup --exporters leaves behind.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
# scripts/setup installs the demo's packages beside another PyTorch; so they come last.
sys.path.append(str(ROOT / f".venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"))
sys.path.append(str(ROOT / "scripts"))

from encoders import GRID  # noqa: E402
from generate import kind, plan  # noqa: E402
from open_in_pytorch import SpeechHead, read_wav  # noqa: E402
from PIL import Image  # noqa: E402
from pretrain_image import COVER, PATCH  # noqa: E402
from world import CANVAS  # noqa: E402

BACKGROUND, UNSAID, SAID = range(3)
# Part of the patches that are foreign, as in training.
NOISE = 0.3


def covered(drawn: list) -> np.ndarray:
    """[N]: which of the things covers most of each patch; -1 where none does."""
    found = np.full((GRID, GRID), -1)
    most = np.full((GRID, GRID), COVER)
    for number, (_, alpha, (left, top, side)) in enumerate(drawn):
        canvas = np.zeros((CANVAS, CANVAS))
        canvas[top : top + side, left : left + side] = np.asarray(alpha) / 255
        cover = canvas.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
        found[cover > most] = number
        most = np.maximum(most, cover)
    return found.flatten()


class Split:
    """Frozen features of a split, and what each patch shows."""

    def __init__(self, data: Path, name: str) -> None:
        speech = torch.jit.load(str(ROOT / "assets/demo/speech_encoder.pt"))
        image = torch.jit.load(str(ROOT / "assets/demo/image_encoder.pt"))
        lines = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
        scenes = {picture.name: picture for picture in plan(seed=0)}
        self.patches, self.spoken = [], []
        for number, line in enumerate(line for line in lines if line["split"] == name):
            pixels = torch.from_numpy(np.array(Image.open(data / line["image"]).convert("RGB"))).permute(2, 0, 1)
            self.patches.append(image(pixels[None])[1][0].float())
            picture = scenes[Path(line["image"]).stem]
            _, drawn = kind(name).draw(picture.scene, random.Random(f"0 {picture.name} drawing"))
            things = covered(drawn)
            for caption in line["captions"]:
                words = set(caption["text"].split())
                shows = [BACKGROUND if one < 0 else SAID if drawn[one][0].noun in words else UNSAID for one in things]
                wave = read_wav(data / caption["audio"])
                hidden, frames = speech(wave[None], torch.tensor([len(wave)]))
                self.spoken.append((number, torch.tensor(shows), hidden, frames))


def attention(query: Tensor, patches: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Eq. 1: query [E], patches [N, E] -> [N]."""
    norm = [weights.get(f"fusion.query_norm.{name}") for name in ("weight", "bias")]
    query, patches = (F.layer_norm(x, x.shape[-1:], *norm) for x in (query, patches))
    return (patches @ query / math.sqrt(len(query))).softmax(0)


def look(run: Path, split: Split) -> list[float]:
    """In percent: attention on things that are said, on others, on the background, on foreign patches; entropy relative to log N."""
    file = str(run / "best" / "model.safetensors")
    head, weights = SpeechHead(file).eval(), load_file(file)
    rng = random.Random(0)
    totals = torch.zeros(5, dtype=torch.float64)
    for number, shows, hidden, frames in split.spoken:
        query = head(hidden, frames)[0]
        patches = split.patches[number]
        seen = attention(query, patches, weights)
        noisy, foreign = patches.clone(), rng.sample(range(len(patches)), round(NOISE * len(patches)))
        for place in foreign:
            donor = rng.choice([other for other in range(len(split.patches)) if other != number])
            noisy[place] = split.patches[donor][rng.randrange(len(patches))]
        on_noise = attention(query, noisy, weights)[foreign].sum()
        entropy = -(seen * seen.clamp_min(1e-30).log()).sum() / math.log(len(seen))
        totals += torch.stack([*(seen[shows == kind].sum() for kind in (SAID, UNSAID, BACKGROUND)), on_noise, entropy])
    return (100 * totals / len(split.spoken)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    args = parser.parse_args()
    torch.set_grad_enabled(False)

    split = Split(args.data, args.split)
    areas = torch.stack([torch.bincount(shows, minlength=3) / len(shows) for _, shows, _, _ in split.spoken]).mean(0)
    area = {shown: 100 * areas[shown].item() for shown in (SAID, UNSAID, BACKGROUND)}
    print("| run | on things said | other things | background | foreign patches | entropy / log N |\n| --- | --- | --- | --- | --- | --- |")
    uniform = [area[SAID], area[UNSAID], area[BACKGROUND], 100 * NOISE, 100]
    print("| (all patches alike) | " + " | ".join(f"{value:.1f}" for value in uniform) + " |")
    found = defaultdict(list)
    for run in args.runs:
        if (run / "best" / "model.safetensors").exists() and not run.is_symlink():
            found[re.sub(r"-seed\d+-[0-9a-f]+$", "", run.name)].append(look(run, split))
    for name, each in found.items():
        columns = [(statistics.mean(column), statistics.stdev(column) if len(column) > 1 else 0) for column in zip(*each)]
        print(f"| {name} ({len(each)}) | " + " | ".join(f"{mean:.1f} ± {spread:.1f}" for mean, spread in columns) + " |")


if __name__ == "__main__":
    main()
