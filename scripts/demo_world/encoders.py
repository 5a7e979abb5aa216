"""The demo's three small encoders, in the layout of the real ones: HuBERT (layer-norm family), CLIP's ViT and CLIP's text transformer.

B batch, n samples or tokens, T frames, N patches, K keywords, D = E = W = 128 width, L = 5 hidden states, H heads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 128
HEADS = 4
BLOCKS = 4
TEXT_BLOCKS = 3
# CLIP's longest row of tokens, its number of token ids, and two of them.
CONTEXT, VOCABULARY, START, END = 77, 49408, 49406, 49407
SAMPLE_RATE = 16_000
IMAGE_SIZE = 112
GRID = IMAGE_SIZE // 16
# Channels, kernel and stride of the speech encoder's convolutions.
SPEECH_CONVOLUTIONS = ((WIDTH, 160, 40), (WIDTH, 4, 4), (WIDTH, 4, 4))
HOP, MIN_SAMPLES = 1, 1
for _, kernel, stride in SPEECH_CONVOLUTIONS:
    MIN_SAMPLES += (kernel - 1) * HOP
    HOP *= stride
# Channels, kernel, stride and padding of the image encoder's.
IMAGE_CONVOLUTIONS = ((32, 4, 4, 0), (64, 3, 2, 1), (WIDTH, 3, 2, 1))


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, valid: Optional[Tensor] = None) -> Tensor:
        """x [B, T, D]; valid [B, 1, 1, T], false where x is padding, or [T, T], false where a row may not look."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=valid)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class SpeechConvolution(nn.Module):
    """Convolution without padding over [B, T, C], LayerNorm over the channels, GELU. As windows times a matrix: on a CPU that
    is three times as fast as Conv1d."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.weights = nn.Linear(inputs * kernel, outputs)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.weights(x.unfold(1, self.kernel, self.stride).flatten(2))))


class SpeechEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inputs, layers = 1, []
        for channels, kernel, stride in SPEECH_CONVOLUTIONS:
            layers.append(SpeechConvolution(inputs, channels, kernel, stride))
            inputs = channels
        self.convolutions = nn.ModuleList(layers)
        self.position = nn.Conv1d(WIDTH, WIDTH, 15, padding=7, groups=16)
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.hop: int = HOP
        self.min_samples: int = MIN_SAMPLES
        self._spec: str = json.dumps({
            "format": 1, "modality": "speech", "name": "demo-speech", "source": "scripts/demo_world/pretrain_speech.py",
            "layers": BLOCKS + 1, "width": WIDTH, "sample_rate": SAMPLE_RATE, "min_samples": MIN_SAMPLES, "hop": HOP,
        })

    @torch.jit.export
    def spec(self) -> str:
        return self._spec

    @torch.jit.export
    def convolve(self, waveform: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Samples [B, n] -> convolved [B, T, D] and frames [B]; each utterance to zero mean and unit variance first, in f32."""
        inside = torch.arange(waveform.size(1), device=waveform.device)[None, :] < lengths[:, None]
        samples = waveform.float().masked_fill(~inside, 0.0)
        count = lengths[:, None].clamp(min=1)
        centred = (samples - samples.sum(1, keepdim=True) / count).masked_fill(~inside, 0.0)
        variance = centred.square().sum(1, keepdim=True) / count
        x = (centred / (variance + 1e-7).sqrt()).to(self.norm.weight.dtype)[:, :, None]
        for layer in self.convolutions:
            x = layer(x)
        frames = (torch.div(lengths - self.min_samples, self.hop, rounding_mode="floor") + 1).clamp(min=1)
        return x, frames

    @torch.jit.export
    def transform(self, x: Tensor, frames: Tensor) -> Tensor:
        """Convolved [B, T, D] -> hidden states [L, B, T, D]: the input of each block, and the normalised output of the last."""
        inside = torch.arange(x.size(1), device=x.device)[None, :] < frames[:, None]
        x = x.masked_fill(~inside[:, :, None], 0.0)
        x = x + F.gelu(self.position(x.transpose(1, 2))).transpose(1, 2)
        hidden: List[Tensor] = []
        for block in self.blocks:
            hidden.append(x)
            x = block(x, inside[:, None, None, :])
        hidden.append(self.norm(x))
        return torch.stack(hidden)

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Samples [B, n], zero-padded, lengths i64 [B] -> hidden states [L, B, T, D], frames i64 [B]."""
        x, frames = self.convolve(waveform, lengths)
        return self.transform(x, frames), frames


class ImageEncoder(nn.Module):
    """A ViT whose patches come from a stack of convolutions (Xiao et al., 2021), which learns sooner than one large one."""

    def __init__(self) -> None:
        super().__init__()
        inputs, layers = 3, []
        for channels, kernel, stride, padding in IMAGE_CONVOLUTIONS:
            layers += [nn.Conv2d(inputs, channels, kernel, stride, padding), nn.GroupNorm(1, channels), nn.GELU()]
            inputs = channels
        self.stem = nn.Sequential(*layers)
        self.cls = nn.Parameter(0.02 * torch.randn(WIDTH))
        self.position = nn.Parameter(0.02 * torch.randn(1 + GRID * GRID, WIDTH))
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self._spec: str = json.dumps({
            "format": 1, "modality": "image", "name": "demo-image", "source": "scripts/demo_world/pretrain_image.py",
            "size": IMAGE_SIZE, "grid": [GRID, GRID], "width": WIDTH,
        })

    @torch.jit.export
    def spec(self) -> str:
        return self._spec

    def forward(self, pixels: Tensor) -> Tuple[Tensor, Tensor]:
        """Bytes [B, 3, S, S] -> CLS [B, E] and patches [B, N, E], both through the last LayerNorm and projection."""
        x = (pixels.float() / 127.5 - 1.0).to(self.cls.dtype)
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.size(0), 1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.projection(self.norm(x))
        return x[:, 0], x[:, 1:]


class TextEncoder(nn.Module):
    """CLIP's text transformer over CLIP's token ids, of which it knows few: those of `known`, start and end. The others are one unknown."""

    def __init__(self, known: List[int]) -> None:
        super().__init__()
        rows = torch.zeros(VOCABULARY, dtype=torch.int16)
        rows[torch.tensor([START, END, *known])] = torch.arange(1, 3 + len(known), dtype=torch.int16)
        self.register_buffer("rows", rows)
        self.register_buffer("known", torch.tensor(known))
        # Unknown, start, end, known.
        self.embedding = nn.Embedding(3 + len(known), WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.position = nn.Parameter(0.01 * torch.randn(CONTEXT, WIDTH))
        self.blocks = nn.ModuleList([Block() for _ in range(TEXT_BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.end: int = END
        self._spec: str = json.dumps({
            "format": 1, "modality": "text", "name": "demo-text", "source": "scripts/demo_world/pretrain_text.py",
            "context": CONTEXT, "width": WIDTH, "token_width": WIDTH, "vocabulary": VOCABULARY, "start": START, "end": END,
        })

    @torch.jit.export
    def spec(self) -> str:
        return self._spec

    @torch.jit.export
    def vocabulary(self) -> Tuple[Tensor, Tensor]:
        """Ids i64 [V] of the known tokens but start and end, and their embeddings [V, W]."""
        return self.known, self.embedding.weight[3:]

    @torch.jit.export
    def transform(self, x: Tensor, end: Tensor) -> Tensor:
        """Token embeddings [B, n, W] and the place of each end, i64 [B] -> embeddings [B, E]."""
        x = x + self.position[: x.size(1)]
        causal = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x = block(x, causal)
        return self.projection(self.norm(x[torch.arange(x.size(0), device=x.device), end]))

    @torch.jit.export
    def keywords(self, vectors: Tensor) -> Tensor:
        """Vectors [B, K, W] in the place of the token embeddings between start and end -> embeddings [B, E]."""
        batch, count = vectors.size(0), vectors.size(1)
        vectors = vectors.to(self.embedding.weight.dtype)
        start, end = self.embedding.weight[1].expand(batch, 1, -1), self.embedding.weight[2].expand(batch, 1, -1)
        return self.transform(torch.cat([start, vectors, end], 1), torch.full([batch], count + 1, device=vectors.device))

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids i64 [B, n] of start, tokens, end, zeros -> embeddings [B, E] at the first end."""
        end = (tokens == self.end).int().argmax(1)
        return self.transform(self.embedding(self.rows[tokens].long()), end)


def export(encoder: nn.Module, path: Path) -> None:
    """Writes the frozen encoder as TorchScript."""
    was_training = encoder.training
    required = [parameter.requires_grad for parameter in encoder.parameters()]
    encoder.eval().requires_grad_(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    torch.jit.script(encoder).save(str(beside))
    beside.replace(path)
    encoder.train(was_training)
    for parameter, require in zip(encoder.parameters(), required):
        parameter.requires_grad_(require)
