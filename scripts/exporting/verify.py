"""Comparisons before a file is written. Each prints a line; the first above its tolerance stops the export."""

from __future__ import annotations

from typing import Callable, Sequence

import torch
from torch import Tensor, nn

from .checkpoint import first_line
from .clip_text import END, START
from .errors import ExportFailed

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Allowed difference of a vector (a frame of a state, a patch), relative to its norm, between two computations in one precision."""
ROUNDING = {torch.bfloat16: 2e-1, torch.float16: 5e-2}
"""The same between a precision and f32; random weights of the true sizes stay below 5e-2 and 6e-3."""


def compare(what: str, pairs: Sequence[tuple[Tensor, Tensor]], tolerance: float) -> None:
    """Ours and the other's, pair by pair, vectors along the last axis."""
    largest, worst, values = 0.0, 0.0, 0.0
    for ours, other in pairs:
        if ours.shape != other.shape:
            raise ExportFailed(f"{what}: shapes {list(ours.shape)} and {list(other.shape)} differ; nothing was written")
        ours, other = ours.float(), other.float()
        if not (ours.isfinite().all() and other.isfinite().all()):
            raise ExportFailed(f"{what}: NaN or infinite values; nothing was written")
        norms = other.norm(dim=-1)
        norms = torch.maximum(norms, 1e-3 * norms.mean(-1, keepdim=True)).clamp(min=1e-12)
        largest = max(largest, float((ours - other).abs().max()))
        worst = max(worst, float(((ours - other).norm(dim=-1) / norms).max()))
        values = max(values, float(other.abs().max()))
    relative = f"of a vector {worst:.1e} of its norm (allowed {tolerance:.0e})"
    line = f"{what}: max difference {largest:.1e} (values to {values:.3g}), {relative}"
    print(f"  {line}", flush=True)
    if worst > tolerance:
        raise ExportFailed(f"{line}; nothing was written: is the configuration that of these weights? if it is, please report this")


def equal(what: str, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """As [`compare`], to the bit."""
    if not all(ours.dtype == other.dtype and torch.equal(ours, other) for ours, other in pairs):
        compare(what, pairs, 0.0)
        raise ExportFailed(f"{what}: kinds differ; nothing was written")
    print(f"  {what}: equal", flush=True)


def speech_waves(min_samples: int, hop: int) -> list[Tensor]:
    """Utterances of several lengths, the shortest of one frame, with an offset and a rising loudness."""
    generator = torch.Generator().manual_seed(7)
    lengths = [min_samples, min_samples + hop - 1, min_samples + hop, 5_013, 16_000, 33_333]
    lengths = sorted(max(length, min_samples) for length in lengths)
    return [
        0.02 + torch.linspace(0.02, 0.3, length) * torch.randn(length, generator=generator).clamp(-3, 3) for length in lengths
    ]


def speech_alone(model: nn.Module, waves: list[Tensor]) -> list[Tensor]:
    """Hidden states [L, T, D] of each utterance in a batch of its own."""
    states = []
    for wave in waves:
        hidden, frames = model(wave[None], torch.tensor([len(wave)]))
        if frames.tolist() != [hidden.size(2)]:
            counts = f"{frames.tolist()} frames are counted and {hidden.size(2)} made"
            raise ExportFailed(f"{len(wave)} samples: {counts}; nothing was written: please report this")
        states.append(hidden[:, 0])
    return states


def speech_padded(model: nn.Module, waves: list[Tensor]) -> list[Tensor]:
    """The same from one batch; the padding holds what must not be read."""
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = torch.full([len(waves), int(lengths.max()) + 777], 0.5)
    for row, wave in zip(batch, waves):
        row[:len(wave)] = wave
    hidden, frames = model(batch, lengths)
    return [hidden[:, row, :count] for row, count in enumerate(frames.tolist())]


def images(size: int) -> Tensor:
    """Bytes [4, 3, S, S]: noise, a ramp, black, white."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.randint(0, 256, [3, size, size], generator=generator)
    ramp = torch.linspace(0, 255, size).expand(3, size, size)
    return torch.stack([noise, ramp, torch.zeros_like(noise), torch.full_like(noise, 255)]).to(torch.uint8)


def image_features(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """CLS [1, E] and patches [N, E] of each image, from one batch."""
    cls, patches = model(pixels)
    return [feature for row in range(len(pixels)) for feature in (cls[row][None], patches[row])]


def texts(context: int) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of token ids of several lengths, start and end included, up to as many as fit: all, and those of words between start and
    end only. One has no word, one ids behind its end."""
    generator = torch.Generator().manual_seed(7)
    words = [torch.randint(0, START, [min(count, context - 2)], generator=generator) for count in (1, 2, 7, 18, 39, context - 2)]
    words[-1][0] = 0
    start, end = torch.tensor([START]), torch.tensor([END])
    worded = [torch.cat([start, ids, end]) for ids in words]
    return [*worded, torch.cat([start, end]), torch.cat([start, end, words[0]]), worded[0][[0, 2, 2]]], worded


def text_padded(rows: list[Tensor]) -> Tensor:
    """The rows [B, n], zeros behind."""
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def text_features(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """The embedding [1, E] of each row, from one batch."""
    return list(model(tokens)[:, None])


def text_alone(model: nn.Module, rows: list[Tensor]) -> list[Tensor]:
    """The same of each row in a batch of its own."""
    return [model(row[None]) for row in rows]


def text_keywords(model: nn.Module, rows: list[Tensor]) -> list[Tensor]:
    """The same of each row from the vectors of the tokens between start and end."""
    ids, vectors = model.vocabulary()
    if not torch.equal(ids, torch.arange(START)):
        raise ExportFailed("the vocabulary is not that of all tokens but start and end; nothing was written: please report this")
    return [model.keywords(vectors[row[1:-1]][None]) for row in rows]


def text_gradients(model: nn.Module, rows: list[Tensor]) -> list[Tensor]:
    """By the vectors [K, W] of each row's keywords, of a sum over its embedding; finite and not zero."""
    _, vectors = model.vocabulary()
    gradients = []
    for row in rows:
        with torch.enable_grad():
            given = vectors[row[1:-1]].float().requires_grad_()
            embedding = model.keywords(given[None])[0].float()
            gradients += torch.autograd.grad(embedding @ torch.linspace(-1, 1, len(embedding)), given)
        if not ((norms := gradients[-1].norm(dim=-1)) > 0).all() or not norms.isfinite().all():
            raise ExportFailed("the gradient of keywords is zero, NaN or infinite; nothing was written: please report this")
    return gradients


def cast(model: nn.Module, dtype: torch.dtype, run: Callable[[nn.Module], list[Tensor]]) -> list[Tensor] | None:
    """The model's output in `dtype`; None where this machine has no such kernels."""
    try:
        return run(model.to(dtype))
    except RuntimeError as error:
        if "not implemented for" not in str(error):
            raise
        print(f"  {name_of(dtype)}: left out, libtorch has no such kernel for this CPU ({first_line(error)})", flush=True)
        return None


def name_of(dtype: torch.dtype) -> str:
    return {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
