"""Pre-trains the demo's speech encoder on what HuBERT-Large knows of speech: the phoneme at each frame, from a middle layer with some
frames masked, and the words around it, from the last.

    python scripts/demo_world/pretrain_speech.py --out assets/demo/speech_encoder.pt

Needs torch. The sentences speak of scenes that the demo's data set does not hold, in its training voices.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from caption import caption
from encoders import HOP, MIN_SAMPLES, WIDTH, SpeechEncoder, export
from generate import plan
from scene import random_family
from voice import TRAINING_VOICES, Synthesizer, Utterance

UTTERANCES = 6000
HELD_OUT = 240
PHONEME_LAYER = 2
# Frames of 40 ms.
OFFSETS = (-16, -8, -4, 0, 4, 8, 16)
MASKED, SPAN = 0.14, 3
IGNORED = -100


def utterances(rng: random.Random) -> list[Utterance]:
    taken = {picture.scene.key for picture in plan(seed=0)}
    synthesizer = Synthesizer()
    said: list[Utterance] = []
    while len(said) < UTTERANCES:
        scenes, details = random_family(rng, taken)
        said += [synthesizer.say(caption(rng, scene, details), rng.choice(sorted(TRAINING_VOICES))) for scene in scenes]
    return said


def frame_labels(events: list[tuple[int, str]], frames: int, names: dict[str, int]) -> Tensor:
    """[T]: the number of what is heard in the middle of each frame; 0 before the first."""
    labels = torch.zeros(frames, dtype=torch.long)
    for start, name in events:
        first = max(0, -((MIN_SAMPLES // 2 - start) // HOP))
        labels[first:] = names.setdefault(name, len(names) + 1)
    return labels


def shifted(labels: Tensor, offset: int) -> Tensor:
    """[B, T] -> the labels `offset` frames later, IGNORED outside."""
    return F.pad(labels, (max(0, -offset), max(0, offset)), value=IGNORED)[:, max(0, offset) :][:, : labels.size(1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    phoneme_names: dict[str, int] = {}
    word_names: dict[str, int] = {}
    waves, phonemes, words = [], [], []
    for utterance in utterances(random.Random(f"speech {args.seed}")):
        frames = (len(utterance.samples) - MIN_SAMPLES) // HOP + 1
        waves.append(torch.from_numpy(utterance.samples))
        phonemes.append(frame_labels(utterance.phonemes, frames, phoneme_names))
        words.append(frame_labels(utterance.words, frames, word_names))
    print(f"{len(waves)} utterances, {len(phoneme_names)} phonemes, {len(word_names)} words", flush=True)

    encoder = SpeechEncoder()
    mask = nn.Parameter(torch.zeros(WIDTH))
    phoneme_head = nn.Linear(WIDTH, len(phoneme_names) + 1)
    word_heads = nn.ModuleList(nn.Linear(WIDTH, len(word_names) + 1) for _ in OFFSETS)
    parameters = [mask, *encoder.parameters(), *phoneme_head.parameters(), *word_heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, args.steps, pct_start=0.1)

    def measure(rows: list[int], masked: float) -> tuple[Tensor, list[float]]:
        """Loss, and the percentage right of phonemes and of words at each offset."""
        lengths = torch.tensor([len(waves[row]) for row in rows])
        x, frames = encoder.convolve(pad_sequence([waves[row] for row in rows], batch_first=True), lengths)
        starts = (torch.rand(x.shape[:2]) < masked / SPAN).float()
        hidden = F.max_pool1d(starts[:, None], SPAN, 1, SPAN // 2)[:, 0] > 0
        with torch.autocast("cpu", torch.bfloat16):
            states = encoder.transform(torch.where(hidden[:, :, None], mask, x), frames).float()
        heard = pad_sequence([phonemes[row] for row in rows], batch_first=True, padding_value=IGNORED)
        spoken = pad_sequence([words[row] for row in rows], batch_first=True, padding_value=IGNORED)
        tasks = [(phoneme_head(states[PHONEME_LAYER]), heard, 1.0)]
        tasks += [(head(states[-1]), shifted(spoken, offset), 2 / len(OFFSETS)) for head, offset in zip(word_heads, OFFSETS)]
        loss, right = torch.zeros(()), []
        for guess, target, weight in tasks:
            loss = loss + weight * F.cross_entropy(guess.flatten(0, 1), target.flatten(), ignore_index=IGNORED)
            asked = target != IGNORED
            right.append(100 * (guess.argmax(-1) == target)[asked].float().mean().item())
        return loss, right

    begun = time.monotonic()
    for step in range(1, args.steps + 1):
        loss, _ = measure(torch.randint(HELD_OUT, len(waves), (args.batch,)).tolist(), MASKED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{args.steps}, loss {loss.item():.3f}, {time.monotonic() - begun:.0f} s", flush=True)
        if step % 250 == 0 or step == args.steps:
            with torch.no_grad():
                _, right = measure(list(range(HELD_OUT)), 0.0)
            around = ", ".join(f"{offset:+d}: {value:.1f}" for offset, value in zip(OFFSETS, right[1:]))
            print(f"held out, % of frames right: phoneme {right[0]:.1f}; word at an offset of {around}", flush=True)
            export(encoder, args.out)


if __name__ == "__main__":
    main()
