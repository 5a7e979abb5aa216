"""The training split and its batches: the samples that `cmd train` takes at each step, and how much of them is padding."""

import itertools
import json
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from draws import CROP, ORDER, Draw


@dataclass(frozen=True)
class Utterance:
    audio: Path
    image: int  # index into the split's images


@dataclass(frozen=True)
class Sample:
    """An utterance at its place in the endless sequence of epochs."""

    utterance: int
    epoch: int
    index: int

    def place(self, seed: int) -> float:
        """Where in a long utterance the window starts, of 0 to 1."""
        return Draw(seed, CROP, self.epoch, self.index).unit()


@dataclass(frozen=True)
class Split:
    images: list[Path]
    utterances: list[Utterance]

    @classmethod
    def read(cls, manifest: Path, name: str = "train") -> "Split":
        """A split of a manifest that `cmd data manifest` wrote."""
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        lines = [line for line in lines if line["split"] == name]
        utterances = [
            Utterance(manifest.parent / caption["audio"], image)
            for image, line in enumerate(lines)
            for caption in line["captions"]
        ]
        return cls([manifest.parent / line["image"] for line in lines], utterances)

    def batches(self, size: int, seed: int) -> Iterator[list[Sample]]:
        """The batches of a run, without end; they run across the ends of epochs."""
        samples = (
            Sample(utterance, epoch, index)
            for epoch in itertools.count()
            for index, utterance in enumerate(Draw(seed, ORDER, epoch).permutation(len(self.utterances)))
        )
        while True:
            yield list(itertools.islice(samples, size))


def chunks(lengths: list[int], size: int, spread: float) -> list[list[int]]:
    """The rows of each forward of the program's speech encoder: the longest first, `size` at most, none shorter than the first by more
    than `spread` of it (src/encoders/pair.rs)."""
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if not found or len(found[-1]) == size or lengths[row] < (1 - spread) * lengths[found[-1][0]]:
            found.append([])
        found[-1].append(row)
    return found


def padding(lengths: list[int], groups: list[list[int]]) -> tuple[int, int]:
    """Samples that are padding and samples in all, where each of the `groups` is padded to its longest row."""
    whole = sum(len(group) * max(lengths[row] for row in group) for group in groups)
    return whole - sum(lengths), whole


def padding_of_program(split: Split, batches: list[list[Sample]], settings: dict, processes: int) -> float:
    """Share of padding in what the program's speech encoder is given, or, with hidden states in memory, its speech head."""
    longest, size = round(settings["audio.max_seconds"] * 16000), settings["encoders.speech.batch_size"]
    # Known hidden states are taken `size` at a time (src/data/batch.rs).
    spread = 1.0 if settings["encoders.speech.cache"] == "memory" else settings["encoders.speech.spread"]
    padded = total = 0
    for batch in batches:
        share = len(batch) // processes
        for rank in range(processes):
            lengths = []
            for sample in batch[rank * share : (rank + 1) * share]:
                with wave.open(str(split.utterances[sample.utterance].audio)) as file:
                    lengths.append(min(file.getnframes(), longest))
            found = padding(lengths, chunks(lengths, size, spread))
            padded, total = padded + found[0], total + found[1]
    return padded / total
