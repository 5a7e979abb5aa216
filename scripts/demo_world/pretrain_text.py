"""Trains the demo's text encoder: CLIP's loss against the image encoder, which stays as it is.

    pip install --no-deps openai-clip==1.0.1 ftfy regex wcwidth
    python scripts/demo_world/pretrain_text.py --out assets/demo/text_encoder.pt

Needs torch, and OpenAI's tokenizer for the ids of the world's words. The scenes are those of pretrain_image.py, none of the demo's
data set; the captions are new in every step.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from importlib import util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import crowd
from caption import BACKGROUND_WORDS, RELATION_WORDS, SIZE_WORDS, TEMPLATES, caption
from encoders import CONTEXT, END, START, TextEncoder, export
from generate import plan
from pretrain_image import CAPTIONS, FAMILIES, HELD_OUT
from scene import draw, random_family
from world import COLOUR_NAMES, NOUN_NAMES

# Words without content: what is left of a caption without them is a list of keywords.
EMPTY = frozenset("a an the there is this picture shows i can see in on at by to of".split())
# Chances that a caption loses all its empty words, or each of them by the toss of a coin.
ALL_LEFT_OUT, SOME_LEFT_OUT = 0.25, 0.25
# Chance that a word is replaced by one that the encoder does not know.
UNKNOWN = 0.02


def world_words() -> list[str]:
    """All words that captions of both kinds are made of."""
    said = [*TEMPLATES, *crowd.TEMPLATES, "a an", *NOUN_NAMES, *COLOUR_NAMES]
    said += [way for ways in (SIZE_WORDS, RELATION_WORDS, BACKGROUND_WORDS) for of_one in ways.values() for way in of_one]
    return sorted({word for text in said for word in text.split() if not word.startswith("{")})


def load_tokenizer():
    """OpenAI's, without the rest of its package, which wants torchvision."""
    package = util.find_spec("clip")
    if package is None:
        raise SystemExit("error: pip install --no-deps openai-clip==1.0.1 ftfy regex wcwidth")
    spec = util.spec_from_file_location("simple_tokenizer", Path(package.submodule_search_locations[0]) / "simple_tokenizer.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


class Words:
    """Texts of the world's words -> rows of CLIP's token ids."""

    def __init__(self) -> None:
        tokenizer = load_tokenizer()
        self.ids = {word: tokenizer.encode(word) for word in world_words()}
        self.known = sorted({token for ids in self.ids.values() for token in ids})
        # An id of no word of the world.
        self.unknown = next(token for token in range(START) if token not in self.known)

    def rows(self, texts: list[list[str | None]]) -> Tensor:
        """Words, `None` where unknown -> ids [B, n]."""
        rows = []
        for words in texts:
            ids = [token for word in words for token in (self.ids[word] if word else [self.unknown])]
            rows.append(torch.tensor([START, *ids, END]))
        padded = pad_sequence(rows, batch_first=True)
        assert padded.size(1) <= CONTEXT
        return padded


def without_empty(words: list[str]) -> list[str]:
    return [word for word in words if word not in EMPTY]


def vary(rng: random.Random, text: str) -> list[str | None]:
    """A caption's words as they are, or as keywords, or between."""
    words, chance = text.split(), rng.random()
    if chance < ALL_LEFT_OUT:
        words = without_empty(words)
    elif chance < ALL_LEFT_OUT + SOME_LEFT_OUT:
        words = [word for word in words if word not in EMPTY or rng.random() < 0.5]
    return [None if rng.random() < UNKNOWN else word for word in words]


def recall(texts: Tensor, images: Tensor) -> str:
    """Row i of both belongs together."""
    scores, target = F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T, torch.arange(len(texts))
    ours, theirs = (100 * (matrix.argmax(1) == target).float().mean().item() for matrix in (scores, scores.T))
    return f"text to image R@1 {ours:.1f}, image to text {theirs:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--image", type=Path, default=Path("assets/demo/image_encoder.pt"), help="the image encoder to learn from")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=42, help="families of three scenes")
    parser.add_argument("--seed", type=int, default=1, help="that of the image encoder, so that the held-out scenes are new to both")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    words = Words()
    image_encoder = torch.jit.load(str(args.image)).eval()
    begun = time.monotonic()
    rng = random.Random(f"image {args.seed}")
    taken = {picture.scene.key for picture in plan(seed=0)}
    families, pictures, said = [], [], []
    for _ in range(FAMILIES):
        scenes, details = random_family(rng, taken)
        families.append((scenes, details))
        for scene in scenes:
            image, _ = draw(scene, rng)
            pictures.append(np.asarray(image).transpose(2, 0, 1))
            # As pretrain_image.py does, which tests by the first.
            said.append([caption(rng, scene, details) for _ in range(CAPTIONS)][0].split())
    with torch.no_grad():
        cls = torch.cat([image_encoder(torch.from_numpy(np.stack(pictures[at : at + 256])))[0] for at in range(0, len(pictures), 256)])
    print(f"{len(cls)} scenes, {len(words.known)} tokens, {time.monotonic() - begun:.0f} s", flush=True)
    held_out = {"captions": words.rows(said[:HELD_OUT]), "keywords": words.rows([without_empty(text) for text in said[:HELD_OUT]])}

    encoder = TextEncoder(words.known)
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    parameters = [log_scale, *encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, args.steps, pct_start=0.1)

    rng = random.Random(f"text {args.seed}")
    begun = time.monotonic()
    for step in range(1, args.steps + 1):
        batch = rng.sample(range(HELD_OUT // 3, FAMILIES), args.batch)
        rows = (3 * torch.tensor(batch)[:, None] + torch.arange(3)).flatten()
        texts = [vary(rng, caption(rng, scene, families[family][1])) for family in batch for scene in families[family][0]]
        embedded = encoder(words.rows(texts))
        logits = log_scale.exp().clamp(max=100) * F.normalize(cls[rows], dim=-1) @ F.normalize(embedded, dim=-1).T
        target = torch.arange(len(rows))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step}/{args.steps}, loss {loss.item():.3f}, {time.monotonic() - begun:.0f} s", flush=True)
        if step % 250 == 0 or step == args.steps:
            with torch.no_grad():
                measured = "; ".join(f"{kind}: {recall(encoder(texts), cls[:HELD_OUT])}" for kind, texts in held_out.items())
            print(f"held out, % of {HELD_OUT}: {measured}", flush=True)
            export(encoder, args.out)


if __name__ == "__main__":
    main()
