"""What a perfect speech head could reach with the demo's image encoder: its captions' words in place of their sound. A text transformer learns
the training captions against the frozen I_cls by the loss of the speech head, and ranks the other splits by their captions' words.

    .venv-export/bin/python scripts/demo_world/ceiling.py --data data/demo [--encoder assets/demo/image_encoder.pt] [--seeds 3]

Needs what scripts/setup --exporters leaves behind. A few minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

ROOT = Path(__file__).resolve().parents[2]
# scripts/setup installs Pillow for the demo's generator, beside another PyTorch; so it comes last.
sys.path.append(str(ROOT / f".venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"))

from PIL import Image  # noqa: E402
from pretrain_image import TextEncoder  # noqa: E402

SCORED = ("test", "hard")
CHUNK = 50


def image_embeddings(encoder: torch.jit.ScriptModule, paths: list[Path]) -> Tensor:
    """I_cls [I, E], L2-normalised."""
    parts = []
    for start in range(0, len(paths), CHUNK):
        pixels = [np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths[start : start + CHUNK]]
        parts.append(F.normalize(encoder(torch.from_numpy(np.stack(pixels)))[0].float(), dim=-1))
    return torch.cat(parts)


def train(words: Tensor, owners: Tensor, images: Tensor, vocabulary: int, args: argparse.Namespace, seed: int) -> TextEncoder:
    """words [S, W], owners [S] rows of images [I, E] -> the text encoder."""
    torch.manual_seed(seed)
    text, log_scale = TextEncoder(vocabulary), nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    parameters = [log_scale, *text.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, args.steps, pct_start=0.1)
    for _ in range(args.steps):
        rows = torch.randint(len(words), (args.batch,))
        said, seen = F.normalize(text(words[rows]), dim=-1), images[owners[rows]]
        logits = log_scale.exp().clamp(max=100) * said @ seen.T
        same = (owners[rows][:, None] == owners[rows]).float()
        target = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 4.0)
        optimizer.step()
        schedule.step()
    return text.eval()


def recalls(said: Tensor, owners: Tensor, images: Tensor) -> tuple[float, float]:
    """R@1 in both directions, in percent."""
    scores = said @ images.T
    to_image = (scores.argmax(1) == owners).float().mean().item()
    to_text = (owners[scores.argmax(0)] == torch.arange(len(images))).float().mean().item()
    return 100 * to_image, 100 * to_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, default=ROOT / "assets/demo/image_encoder.pt")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    lines = [json.loads(line) for line in (args.data / "manifest.jsonl").read_text().splitlines()]
    vocabulary: dict[str, int] = {}
    splits = {}
    with torch.no_grad():
        encoder = torch.jit.load(str(args.encoder))
        for split in ("train", *SCORED):
            of_split = [line for line in lines if line["split"] == split]
            texts = [(place, caption["text"]) for place, line in enumerate(of_split) for caption in line["captions"]]
            words = [torch.tensor([vocabulary.setdefault(word, 1 + len(vocabulary)) for word in text.split()]) for _, text in texts]
            images = image_embeddings(encoder, [args.data / line["image"] for line in of_split])
            splits[split] = pad_sequence(words, batch_first=True), torch.tensor([place for place, _ in texts]), images

    found: dict[str, list[tuple[float, float]]] = {split: [] for split in SCORED}
    for seed in range(args.seeds):
        text = train(*splits["train"], len(vocabulary), args, seed)
        for split in SCORED:
            words, owners, images = splits[split]
            with torch.no_grad():
                found[split].append(recalls(F.normalize(text(words), dim=-1), owners, images))
    print("| split | text -> image R@1 | image -> text R@1 | mean R@1 |\n| --- | --- | --- | --- |")
    for split, each in found.items():
        columns = [*zip(*each), [sum(pair) / 2 for pair in each]]
        cells = [f"{statistics.mean(column):.1f} ± {statistics.stdev(column) if len(column) > 1 else 0:.1f}" for column in columns]
        print(f"| {split} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
