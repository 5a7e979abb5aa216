"""From files to tensors, for PyTorch's DataLoader."""

import sys
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from samples import Sample, Split
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

try:
    from PIL import Image
except ImportError:
    # scripts/setup installs Pillow for the demo's generator, beside another PyTorch; so it comes last.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.path.append(str(Path(__file__).resolve().parents[1] / ".venv/lib" / version / "site-packages"))
    from PIL import Image


class Batch(NamedTuple):
    utterances: list[int]
    images: torch.Tensor  # [B]: indices into the split's images
    waveforms: torch.Tensor | None  # [B, n], zero-padded
    lengths: torch.Tensor | None  # [B]
    pixels: torch.Tensor | None  # bytes [B, 3, S, S]


def read_window(path: Path, longest: int, place: float) -> torch.Tensor:
    """At most `longest` samples of a WAV file of 16 bits, one channel and 16 kHz."""
    with wave.open(str(path)) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, 16000):
            raise ValueError(f"{path}: not 16 bits, one channel, 16 kHz")
        whole = file.getnframes()
        if whole > longest:
            file.setpos(int(place * (whole - longest + 1)))
        samples = np.frombuffer(file.readframes(min(whole, longest)), "<i2")
    return torch.from_numpy(samples.astype(np.float32) / 32768)


def read_picture(path: Path, size: int) -> torch.Tensor:
    """CLIP's form: shortest side to `size`, bicubic, the centre cropped; bytes [3, size, size]."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    short = min(width, height)
    if short != size:
        picture = picture.resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    if picture.size != (size, size):
        picture = picture.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class Samples(Dataset):
    """Reads what is not in memory of a sample: waveform, pixels, both or neither."""

    def __init__(self, split: Split, settings: dict, size: int, audio: bool = True, pictures: bool = True) -> None:
        self.split, self.size, self.audio, self.pictures = split, size, audio, pictures
        self.longest, self.seed = round(settings["audio.max_seconds"] * 16000), settings["train.seed"]

    def __len__(self) -> int:
        return len(self.split.utterances)

    def __getitem__(self, sample: Sample) -> tuple[int, int, torch.Tensor | None, torch.Tensor | None]:
        utterance = self.split.utterances[sample.utterance]
        audio = read_window(utterance.audio, self.longest, sample.place(self.seed)) if self.audio else None
        pixels = read_picture(self.split.images[utterance.image], self.size) if self.pictures else None
        return sample.utterance, utterance.image, audio, pixels


def collate(rows: list[tuple[int, int, torch.Tensor | None, torch.Tensor | None]]) -> Batch:
    """Pads and stacks."""
    utterances, images, audio, pixels = zip(*rows)
    heard, seen = audio[0] is not None, pixels[0] is not None
    return Batch(
        list(utterances),
        torch.tensor(images),
        pad_sequence(audio, batch_first=True) if heard else None,
        torch.tensor([len(one) for one in audio]) if heard else None,
        torch.stack(pixels) if seen else None,
    )
