"""Pre-trains the demo's image encoder: CLIP's loss against a small text transformer, and labels: of every patch (which thing, colour,
size, side of the other thing, background), without which the patches would carry nothing for CMD, and of the whole scene.

    python scripts/demo_world/pretrain_image.py --out assets/demo/image_encoder.pt
    python scripts/demo_world/pretrain_image.py --out assets/demo/image_encoder_unlabelled_cls.pt --no-scene-labels --f32

The second line makes an encoder whose CLS token saw captions alone, as CLIP's did (docs/cmd_study.md). Needs torch. The scenes are none of the demo's data set.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from caption import caption
from encoders import GRID, IMAGE_SIZE, WIDTH, ImageEncoder, export
from generate import plan
from scene import Scene, Thing, draw, random_family
from world import BACKGROUNDS, COLOUR_NAMES, NOUN_NAMES, RELATIONS, SIZE_NAMES

FAMILIES = 4667  # 14,001 scenes
HELD_OUT = 450  # scenes
CAPTIONS = 4
PATCH = IMAGE_SIZE // GRID
# A patch shows a thing that covers this part of it.
COVER = 0.12
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
# Kinds of label of a place (0: nothing there, or the colour of its sprite): noun, colour, size.
KINDS = (1 + len(NOUN_NAMES), 1 + len(COLOUR_NAMES), 1 + len(SIZE_NAMES))
PATCH_LABELS = (*KINDS, 1 + len(RELATIONS), len(BACKGROUNDS))
SCENE_LABELS = KINDS * len(RELATIONS) + (len(BACKGROUNDS),)


def thing_labels(thing: Thing) -> tuple[int, int, int]:
    colour = 1 + COLOUR_NAMES.index(thing.colour) if thing.colour else 0
    return 1 + NOUN_NAMES.index(thing.noun), colour, 1 + SIZE_NAMES.index(thing.size)


def sides(scene: Scene) -> dict[Thing, str]:
    """On which side of the other each thing is."""
    return {scene.first: scene.relation, scene.second: OPPOSITE[scene.relation]}


def scene_labels(scene: Scene) -> list[int]:
    """What is on the left, right, top and bottom, and the background."""
    labels = [(0, 0, 0)] * len(RELATIONS)
    for thing, side in sides(scene).items():
        labels[RELATIONS.index(side)] = thing_labels(thing)
    return [label for place in labels for label in place] + [BACKGROUNDS.index(scene.background)]


def patch_labels(scene: Scene, drawn: list[tuple[Thing, Image.Image, tuple[int, int, int]]]) -> np.ndarray:
    """[N, 5]: noun, colour, size and side of the thing that covers most of each patch, and the background."""
    labels = np.zeros((GRID, GRID, len(PATCH_LABELS)), np.int64)
    labels[..., -1] = BACKGROUNDS.index(scene.background)
    most = np.full((GRID, GRID), COVER)
    for thing, alpha, (left, top, side) in drawn:
        canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
        canvas[top : top + side, left : left + side] = np.asarray(alpha) / 255
        cover = canvas.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
        here = cover > most
        most = np.maximum(most, cover)
        labels[here, :-1] = (*thing_labels(thing), 1 + RELATIONS.index(sides(scene)[thing]))
    return labels.reshape(GRID * GRID, -1)


class TextEncoder(nn.Module):
    """Words i64 [B, W], 0 where padded -> [B, E]."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1 + words, WIDTH, padding_idx=0)
        self.position = nn.Parameter(0.02 * torch.randn(32, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, words: Tensor) -> Tensor:
        padding = words == 0
        x = self.layers(self.embedding(words) + self.position[: words.size(1)], src_key_padding_mask=padding)
        x = self.norm(x).masked_fill(padding[:, :, None], 0.0).sum(1) / (~padding).sum(1, keepdim=True)
        return self.projection(x)


def label_loss(heads: nn.ModuleList, x: Tensor, labels: Tensor) -> Tensor:
    """x [..., E], labels [..., kinds] -> the mean cross-entropy over the kinds."""
    losses = [F.cross_entropy(head(x).flatten(0, -2), labels[..., kind].flatten()) for kind, head in enumerate(heads)]
    return torch.stack(losses).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1700)
    parser.add_argument("--batch", type=int, default=42, help="families of three scenes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-scene-labels", action="store_true", help="labels teach the patches, the captions alone the CLS token")
    parser.add_argument("--f32", action="store_true", help="in place of bfloat16, which few processors are fast at")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    scene_weight = 0 if args.no_scene_labels else 3

    rng = random.Random(f"image {args.seed}")
    taken = {picture.scene.key for picture in plan(seed=0)}
    vocabulary: dict[str, int] = {}
    pictures, of_patches, of_scenes, texts = [], [], [], []
    for _ in range(FAMILIES):
        scenes, details = random_family(rng, taken)
        for scene in scenes:
            image, drawn = draw(scene, rng)
            pictures.append(np.asarray(image).transpose(2, 0, 1))
            of_patches.append(patch_labels(scene, drawn))
            of_scenes.append(scene_labels(scene))
            for _ in range(CAPTIONS):
                said = caption(rng, scene, details).split()
                texts.append(torch.tensor([vocabulary.setdefault(word, 1 + len(vocabulary)) for word in said]))
    pixels = torch.from_numpy(np.stack(pictures))
    patch_targets, scene_targets = torch.from_numpy(np.stack(of_patches)), torch.tensor(of_scenes)
    words = pad_sequence(texts, batch_first=True).view(len(pixels), CAPTIONS, -1)
    print(f"{len(pixels)} scenes, {len(vocabulary)} words", flush=True)

    image_encoder, text_encoder = ImageEncoder(), TextEncoder(len(vocabulary))
    patch_heads = nn.ModuleList(nn.Linear(WIDTH, count) for count in PATCH_LABELS)
    scene_heads = nn.ModuleList(nn.Linear(WIDTH, count) for count in SCENE_LABELS)
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    learned = nn.ModuleList([image_encoder, text_encoder, patch_heads, scene_heads])
    parameters = [log_scale, *learned.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, args.steps, pct_start=0.1)

    begun = time.monotonic()
    for step in range(1, args.steps + 1):
        families = HELD_OUT // 3 + torch.randperm(FAMILIES - HELD_OUT // 3)[: args.batch]
        rows = (3 * families[:, None] + torch.arange(3)).flatten()
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.f32):
            cls, patches = (x.float() for x in image_encoder(pixels[rows]))
            said = text_encoder(words[rows, torch.randint(CAPTIONS, (len(rows),))]).float()
        logits = log_scale.exp().clamp(max=100) * F.normalize(cls, dim=-1) @ F.normalize(said, dim=-1).T
        target = torch.arange(len(rows))
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        of_patch = label_loss(patch_heads, patches, patch_targets[rows])
        of_scene = label_loss(scene_heads, cls, scene_targets[rows])
        optimizer.zero_grad()
        (contrast + 3 * of_patch + scene_weight * of_scene).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            losses = f"contrast {contrast.item():.3f}, patches {of_patch.item():.3f}, scene {of_scene.item():.3f}"
            print(f"step {step}/{args.steps}, {losses}, {time.monotonic() - begun:.0f} s", flush=True)
        if step % 250 == 0 or step == args.steps:
            with torch.no_grad():
                cls, patches = image_encoder(pixels[:HELD_OUT])
                scores = F.normalize(text_encoder(words[:HELD_OUT, 0]), dim=-1) @ F.normalize(cls, dim=-1).T
                labels, scene = patch_targets[:HELD_OUT], scene_targets[:HELD_OUT]
                shown = labels[..., 0] > 0
                right = [
                    100 * (head(patches).argmax(-1) == labels[..., kind])[shown].float().mean().item()
                    for kind, head in enumerate(patch_heads)
                ]
                whole = torch.stack([head(cls).argmax(-1) == scene[:, kind] for kind, head in enumerate(scene_heads)])
            target = torch.arange(HELD_OUT)
            recall = [100 * (matrix.argmax(1) == target).float().mean().item() for matrix in (scores, scores.T)]
            names = ", ".join(f"{name} {value:.1f}" for name, value in zip(("noun", "colour", "size", "side", "background"), right))
            print(
                f"held out, %: text to image R@1 {recall[0]:.1f}, image to text {recall[1]:.1f} of {HELD_OUT}; "
                f"patches with a thing: {names}; scenes with all labels right: {100 * whole.all(0).float().mean().item():.1f}",
                flush=True,
            )
            export(image_encoder, args.out)


if __name__ == "__main__":
    main()
