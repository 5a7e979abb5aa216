"""Makes the demo's data set: a folder with manifest.jsonl, images/ and audio/.

    python3 scripts/demo_world/generate.py --out data/demo

The same arguments make the same bytes. An interrupted run goes on where it stopped; a finished one is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import crowd
from caption import caption
from scene import SPRITES, Scene, draw, random_family
from voice import RATE, TRAINING_VOICES, UNSEEN_VOICES, Synthesizer

# Split -> images, captions of each. Families of three never cross splits.
# `hard` holds crowded scenes (crowd.py), which nothing is trained on.
SPLITS = {"test": (300, 5), "val": (150, 5), "train": (2400, 4), "hard": (1002, 2)}
FAMILY = 3
# Seconds between two lines of progress where the output is not a terminal.
LINE_EVERY = 10.0


@dataclass(frozen=True)
class Kind:
    """How the scenes of a split are made up, spoken of and drawn."""

    family: Callable
    say: Callable
    draw: Callable


TWO_THINGS = Kind(random_family, caption, draw)
CROWDS = Kind(crowd.random_family, crowd.caption, crowd.draw)


def kind(split: str) -> Kind:
    return CROWDS if split == "hard" else TWO_THINGS


@dataclass(frozen=True)
class Picture:
    """One image to make. `details` are those that tell its family apart."""

    split: str
    family: str
    name: str
    scene: Scene | crowd.Crowd
    details: frozenset


def plan(seed: int) -> list[Picture]:
    """All pictures of the whole set. Smaller sets are prefixes of its splits, so that no size shares a scene with the encoders'
    pre-training set."""
    taken: set = set()
    pictures = []
    for split, (images, _) in SPLITS.items():
        rng = random.Random(f"{seed} {split}")
        for number in range(images // FAMILY):
            scenes, details = kind(split).family(rng, taken)
            family = f"{split}-{number:04d}"
            pictures += [
                Picture(split, family, f"{family}-{member}", scene, frozenset(details)) for member, scene in zip("abc", scenes)
            ]
    return pictures


def captions(picture: Picture, seed: int) -> list[tuple[str, str]]:
    """Text and speaker of each caption. Unseen voices speak the last caption of each test image, and nothing else."""
    rng = random.Random(f"{seed} {picture.name} captions")
    said: list[tuple[str, str]] = []
    while len(said) < SPLITS[picture.split][1]:
        text = kind(picture.split).say(rng, picture.scene, set(picture.details))
        unseen = picture.split == "test" and len(said) == SPLITS["test"][1] - 1
        speaker = rng.choice(sorted(UNSEEN_VOICES if unseen else TRAINING_VOICES))
        if text not in (other for other, _ in said):
            said.append((text, speaker))
    return said


def write_whole(path: Path, write) -> None:
    """A file appears whole or not at all: `write(path)` beside it, then renamed."""
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    os.replace(beside, path)


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Mono, 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.clip(np.round(samples * 32767), -32768, 32767).astype("<i2").tobytes())


_synthesizer: Synthesizer | None = None


def make(job: tuple[Picture, int, Path]) -> dict:
    """Makes the files of a picture that are not there yet; gives its line of the manifest."""
    global _synthesizer
    _synthesizer = _synthesizer or Synthesizer()
    picture, seed, out = job
    image = f"images/{picture.name}.png"
    line = {"image": image, "split": picture.split, "family": picture.family, "captions": []}
    if not (out / image).exists():
        rng = random.Random(f"{seed} {picture.name} drawing")
        drawn, _ = kind(picture.split).draw(picture.scene, rng)
        write_whole(out / image, lambda path: drawn.save(path, "PNG"))
    for index, (text, speaker) in enumerate(captions(picture, seed)):
        audio = f"audio/{picture.name}_{index}.wav"
        if not (out / audio).exists():
            samples = _synthesizer.say(text, speaker).samples
            write_whole(out / audio, lambda path: write_wav(path, samples))
        line["captions"].append({"audio": audio, "text": text, "speaker": speaker})
    return line


def fingerprint(arguments: dict) -> str:
    """Of all that the bytes of the set come from: these programs, the sprites, the arguments."""
    here = Path(__file__).resolve().parent
    sources = [here / name for name in ("caption.py", "crowd.py", "generate.py", "requirements.txt", "scene.py", "voice.py", "world.py")]
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    for path in sources + sorted(SPRITES.glob("*.png")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Progress:
    """How far, how fast, how long still: one moving line on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.start = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def step(self) -> None:
        self.done += 1
        now = time.monotonic()
        if self.done < self.total and now - self.shown < (0.1 if self.terminal else LINE_EVERY):
            return
        self.shown = now
        rate = self.done / max(now - self.start, 1e-9)
        text = f"{self.done}/{self.total} images, {rate:.1f} a second, {(self.total - self.done) / rate:.0f} s left"
        if self.terminal:
            filled = 30 * self.done // self.total
            end = "\n" if self.done == self.total else ""
            print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {text} ", end=end, file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def prepare(out: Path, mark: str) -> None:
    """The folder for the set `mark`: what an interrupted run of the same set left there stays, another set goes."""
    marked = out / ".making"
    manifest, finished = out / "manifest.jsonl", out / ".fingerprint"
    ours = marked.exists() or finished.exists()
    if out.exists() and any(out.iterdir()) and not ours:
        sys.exit(f"error: {out} holds something else; name a new or empty folder with --out")
    manifest.unlink(missing_ok=True)
    if marked.exists() and marked.read_text() == mark:
        return
    for folder in ("images", "audio"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    finished.unlink(missing_ok=True)
    write_whole(marked, lambda path: path.write_text(mark))


def count(most: int):
    def parse(text: str) -> int:
        value = int(text)
        if not 0 <= value <= most or value % FAMILY:
            raise argparse.ArgumentTypeError(f"{value} is not a multiple of {FAMILY} from 0 to {most}")
        return value

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--seed", type=int, default=0, help="the encoders have seen no scene of seed 0, the default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    for split in ("train", "val", "test", "hard"):
        most = SPLITS[split][0]
        parser.add_argument(f"--{split}", type=count(most), default=most, help=f"images of the split ({most})")
    args = parser.parse_args()

    counts = {split: getattr(args, split) for split in SPLITS}
    mark = fingerprint({"seed": args.seed, **counts})
    finished = args.out / ".fingerprint"
    if finished.exists() and finished.read_text() == mark and (args.out / "manifest.jsonl").exists():
        print(f"{args.out} is there and up to date", file=sys.stderr)
        return
    prepare(args.out, mark)

    pictures = plan(args.seed)
    jobs = []
    for split in ("train", "val", "test", "hard"):
        of_split = [picture for picture in pictures if picture.split == split]
        jobs += [(picture, args.seed, args.out) for picture in of_split[: counts[split]]]
    progress = Progress(len(jobs))
    lines = []
    # Ctrl-C reaches every process of the terminal; the parent alone answers it.
    with multiprocessing.Pool(max(1, args.jobs), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        for line in pool.imap(make, jobs, chunksize=4):
            lines.append(json.dumps(line) + "\n")
            progress.step()
    write_whole(args.out / "manifest.jsonl", lambda path: path.write_text("".join(lines)))
    write_whole(finished, lambda path: path.write_text(mark))
    (args.out / ".making").unlink()
    seconds = time.monotonic() - progress.start
    print(f"{args.out}: {len(lines)} images in {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
