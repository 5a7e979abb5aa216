"""The training as one would write it in plain PyTorch: DataLoader with workers, frozen TorchScript encoders under no_grad,
torch.nn, torch.optim. Prints one line of JSON: seconds of each step but the first two, share of padding, peak memory, loss.

    .venv-export/bin/python bench/pytorch_loop.py --settings FILE --manifest FILE --steps 10 --threads 2
"""

import argparse
import json
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from model import Model, adam, draw_noise, update
from reading import Batch, Samples, collate
from samples import Sample, Split, padding
from torch import Tensor
from torch.utils.data import DataLoader

WARM_UP = 2
# Rows of a forward that fills the memory before anything is timed.
FILL = 32


class Features:
    """Frozen features of a batch: from the encoders, or from memory."""

    def __init__(self, settings: dict) -> None:
        self.speech = torch.jit.load(settings["encoders.speech.path"])
        self.image = torch.jit.load(settings["encoders.image.path"])
        self.speech_spec, self.image_spec = json.loads(self.speech.spec()), json.loads(self.image.spec())
        self.kept_images: tuple[Tensor, Tensor] | None = None
        # Of each utterance, [L, t, D].
        self.kept_speech: list[Tensor] | None = None

    @torch.no_grad()
    def keep_images(self, split: Split, settings: dict, workers: int) -> None:
        """Encodes all images once."""
        first = {utterance.image: number for number, utterance in reversed(list(enumerate(split.utterances)))}
        samples = [Sample(first[image], 0, 0) for image in sorted(first)]
        reader = Samples(split, settings, self.image_spec["size"], audio=False)
        batches = [samples[start : start + FILL] for start in range(0, len(samples), FILL)]
        kept: tuple[Tensor, Tensor] | None = None
        for batch in DataLoader(reader, batch_sampler=batches, num_workers=workers, collate_fn=collate):
            found = self.image(batch.pixels)
            if kept is None:
                kept = tuple(part.new_zeros(len(split.images), *part.shape[1:]) for part in found)
            for whole, part in zip(kept, found):
                whole[batch.images] = part
        self.kept_images = kept

    @torch.no_grad()
    def keep_speech(self, split: Split, settings: dict, workers: int) -> None:
        """Encodes all utterances once, those of like size together."""
        order = sorted(range(len(split.utterances)), key=lambda number: split.utterances[number].audio.stat().st_size)
        reader = Samples(split, settings, 0, pictures=False)
        batches = [[Sample(number, 0, 0) for number in order[start : start + FILL]] for start in range(0, len(order), FILL)]
        kept: list[Tensor] = [torch.empty(0)] * len(order)
        for batch in DataLoader(reader, batch_sampler=batches, num_workers=workers, collate_fn=collate):
            hidden, frames = self.speech(batch.waveforms, batch.lengths)
            for row, number in enumerate(batch.utterances):
                kept[number] = hidden[:, row, : frames[row]].clone()
        self.kept_speech = kept

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Hidden states and frames; CLS and patches."""
        if self.kept_speech is None:
            speech = self.speech(batch.waveforms, batch.lengths)
        else:
            speech = pad_states([self.kept_speech[number] for number in batch.utterances])
        if self.kept_images is None:
            return speech, self.image(batch.pixels)
        return speech, tuple(part[batch.images] for part in self.kept_images)


def pad_states(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Hidden states [L, B, T, D] and frames [B] of single utterances [L, t, D]. (pad_sequence would leave them in another order in
    memory, which costs the head more than this.)"""
    frames = [row.shape[1] for row in rows]
    hidden = rows[0].new_zeros(rows[0].shape[0], len(rows), max(frames), rows[0].shape[2])
    for number, row in enumerate(rows):
        hidden[:, number, : frames[number]] = row
    return hidden, torch.tensor(frames)


def read_batches(features: Features, split: Split, settings: dict, workers: int) -> Iterable[Batch]:
    """Batches without end."""
    order = split.batches(settings["train.batch_size"], settings["train.seed"])
    hears, sees = features.kept_speech is None, features.kept_images is None
    samples = Samples(split, settings, features.image_spec["size"], audio=hears, pictures=sees)
    if not hears and not sees:
        # Nothing to read: workers would only pass numbers on.
        return (collate([samples[sample] for sample in batch]) for batch in order)
    return DataLoader(samples, batch_sampler=order, num_workers=workers, collate_fn=collate)


def train(features: Features, batches: Iterator[Batch], steps: int, settings: dict) -> dict:
    """Trains for `steps` steps after the first two."""
    speech, image = features.speech_spec, features.image_spec
    model = Model(speech["layers"], speech["width"], image["width"], settings)
    optimizer = adam(model, settings)
    ends, waits, padded, total, loss = [], [], 0, 0, torch.empty(0)
    for step in range(WARM_UP + steps):
        begun = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - begun)
        (hidden, frames), (cls, patches) = features(batch)
        source = draw_noise(batch.images, patches.shape[1], settings["noise.ratio"])
        loss, _, _ = model((hidden, frames), (cls, patches), batch.images, source)
        update(model, optimizer, loss, step, settings)
        ends.append(time.perf_counter())
        if step >= WARM_UP:
            lengths = (frames if batch.lengths is None else batch.lengths).tolist()
            found = padding(lengths, [list(range(len(lengths)))])
            padded, total = padded + found[0], total + found[1]
    seconds = [end - begin for begin, end in zip(ends[WARM_UP - 1 :], ends[WARM_UP:])]
    return {
        "step_seconds": seconds,
        "samples_per_second": settings["train.batch_size"] * steps / sum(seconds),
        "data_wait": sum(waits[WARM_UP:]) / sum(seconds),
        "padding": padded / total,
        "loss": loss.item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, required=True, help="JSON: the program's effective configuration, by section.key")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True, help="steps that are timed, after two that are not")
    parser.add_argument("--threads", type=int, required=True, help="threads of PyTorch, and workers of the DataLoader")
    for name in ("image", "all"):
        what = "their features" if name == "image" else "those and the hidden states of speech"
        parser.add_argument(f"--{name}-features", choices=("encoder", "memory"), default="encoder", help=f"where {what} come from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    settings = json.loads(arguments.settings.read_text())
    split, features = Split.read(arguments.manifest), Features(settings)
    if "memory" in (arguments.image_features, arguments.all_features):
        features.keep_images(split, settings, arguments.threads)
    if arguments.all_features == "memory":
        features.keep_speech(split, settings, arguments.threads)
    batches = iter(read_batches(features, split, settings, arguments.threads))
    result = train(features, batches, arguments.steps, settings)
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
