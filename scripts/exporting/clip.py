"""CLIP's ViT (Radford et al., 2021), and the names of its tensors in Hugging Face's and OpenAI's files.

Upstream: transformers/models/clip/modeling_clip.py; clip/model.py of openai/CLIP.
B batch, S size, P patch, N patches, D width, E shared width.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import List, Tuple

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint
from .errors import ExportError
from .settings import Settings
from .transformer import Block
from .weights import Table

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

HUGGINGFACE: Table = {
    "cls": ("vision_model.embeddings.class_embedding",),
    "position": ("vision_model.embeddings.position_embedding.weight",),
    "patch": ("vision_model.embeddings.patch_embedding.{leaf}",),
    "norm_before": ("vision_model.pre_layrnorm.{leaf}",),
    "norm": ("vision_model.post_layernorm.{leaf}",),
    "projection": ("visual_projection.{leaf}",),
    "blocks.{i}.norm1": ("vision_model.encoder.layers.{i}.layer_norm1.{leaf}",),
    "blocks.{i}.qkv": tuple(f"vision_model.encoder.layers.{{i}}.self_attn.{part}_proj.{{leaf}}" for part in "qkv"),
    "blocks.{i}.out": ("vision_model.encoder.layers.{i}.self_attn.out_proj.{leaf}",),
    "blocks.{i}.norm2": ("vision_model.encoder.layers.{i}.layer_norm2.{leaf}",),
    "blocks.{i}.up": ("vision_model.encoder.layers.{i}.mlp.fc1.{leaf}",),
    "blocks.{i}.down": ("vision_model.encoder.layers.{i}.mlp.fc2.{leaf}",),
}
# The text tower, the temperature, and the numbers 0, 1, 2, ... that older files keep.
HUGGINGFACE_IGNORED = ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids")
OPENAI: Table = {
    "cls": ("visual.class_embedding",),
    "position": ("visual.positional_embedding",),
    "patch": ("visual.conv1.{leaf}",),
    "norm_before": ("visual.ln_pre.{leaf}",),
    "norm": ("visual.ln_post.{leaf}",),
    "projection.weight": ("visual.proj",),
    "blocks.{i}.norm1": ("visual.transformer.resblocks.{i}.ln_1.{leaf}",),
    "blocks.{i}.qkv": ("visual.transformer.resblocks.{i}.attn.in_proj_{leaf}",),
    "blocks.{i}.out": ("visual.transformer.resblocks.{i}.attn.out_proj.{leaf}",),
    "blocks.{i}.norm2": ("visual.transformer.resblocks.{i}.ln_2.{leaf}",),
    "blocks.{i}.up": ("visual.transformer.resblocks.{i}.mlp.c_fc.{leaf}",),
    "blocks.{i}.down": ("visual.transformer.resblocks.{i}.mlp.c_proj.{leaf}",),
}
OPENAI_TRANSPOSED = ("visual.proj",)
# The text tower, the temperature, and three sizes.
OPENAI_IGNORED = (
    "transformer.", "token_embedding.weight", "positional_embedding", "ln_final.", "text_projection", "logit_scale", "attn_mask",
    "input_resolution", "context_length", "vocab_size",
)


@dataclass(frozen=True)
class ClipConfig:
    size: int
    patch: int
    width: int
    blocks: int
    heads: int
    inner: int
    shared: int
    quick_gelu: bool = True
    eps: float = 1e-5
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def grid(self) -> int:
        return self.size // self.patch

    def check(self, where: str) -> ClipConfig:
        """Itself, if its numbers fit together."""
        if self.width % self.heads:
            raise ExportError(f"{where}: {self.heads} heads do not divide the width {self.width}; is it CLIP's?")
        if self.size < self.patch:
            raise ExportError(f"{where}: images of {self.size} hold no patch of {self.patch}; is it CLIP's?")
        return self


NAMED = {
    "large": ClipConfig(224, 14, 1024, 24, 16, 4096, 768),
    "base": ClipConfig(224, 16, 768, 12, 12, 3072, 512),
    "tiny": ClipConfig(56, 14, 64, 3, 4, 128, 32),
}
TITLES = {"large": "ViT-L/14", "base": "ViT-B/16", "tiny": "a tiny ViT"}


def from_huggingface(checkpoint: Checkpoint) -> ClipConfig:
    """From `config.json` (CLIPModel's or CLIPVisionModelWithProjection's) and `preprocessor_config.json`, with the defaults of
    transformers' CLIPVisionConfig."""
    where = str(checkpoint.path / "config.json")
    values = checkpoint.config
    model_type = Settings(where, values, {}).one_of("model_type", "clip", "clip_vision_model")
    if model_type == "clip":
        projection = values.get("projection_dim", 512)
        values = values.get("vision_config") or {}
        if not isinstance(values, dict):
            raise ExportError(f"{where}: vision_config is no object; download it again")
        values = {**values, "projection_dim": projection}
    settings = Settings(where, values, {
        "hidden_size": 768, "intermediate_size": 3072, "projection_dim": 512, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    })
    settings.one_of("num_channels", 3)
    preprocessor = Settings(
        str(checkpoint.path / "preprocessor_config.json"), checkpoint.preprocessor, {"image_mean": MEAN, "image_std": STD},
    )
    return ClipConfig(
        size=settings.whole("image_size"),
        patch=settings.whole("patch_size"),
        width=settings.whole("hidden_size"),
        blocks=settings.whole("num_hidden_layers"),
        heads=settings.whole("num_attention_heads"),
        inner=settings.whole("intermediate_size"),
        shared=settings.whole("projection_dim"),
        quick_gelu=settings.one_of("hidden_act", "quick_gelu", "gelu") == "quick_gelu",
        eps=settings.real("layer_norm_eps"),
        mean=preprocessor.reals("image_mean", 3),
        std=preprocessor.reals("image_std", 3),
    ).check(where)


def from_openai(checkpoint: Checkpoint, quick_gelu: bool) -> ClipConfig:
    """From the shapes, as OpenAI's own loader does: heads of 64."""
    tensors, where = checkpoint.tensors, str(checkpoint.path)

    def shape(name: str, dimensions: int) -> list[int]:
        if name not in tensors:
            raise ExportError(f"{where}: lacks {name}; --source must name an OpenAI CLIP with a ViT, not a ResNet, for images")
        if tensors[name].dim() != dimensions or 0 in tensors[name].shape:
            raise ExportError(f"{where}: {name} has shape {list(tensors[name].shape)} where {dimensions} dimensions are needed")
        return list(tensors[name].shape)

    width, _, _, patch = shape("visual.conv1.weight", 4)
    grid = math.isqrt(shape("visual.positional_embedding", 2)[0] - 1)
    layers = {name.split(".")[3] for name in tensors if name.startswith("visual.transformer.resblocks.")}
    if width % 64:
        raise ExportError(f"{where}: visual.conv1.weight has {width} outputs where a multiple of 64 is needed; is it OpenAI's?")
    return ClipConfig(
        size=max(grid, 1) * patch,
        patch=patch,
        width=width,
        blocks=len(layers),
        heads=width // 64,
        inner=shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        shared=shape("visual.proj", 2)[1],
        quick_gelu=quick_gelu,
    ).check(where)


class Clip(nn.Module):
    """Bytes [B, 3, S, S] -> CLS [B, E] and patches [B, N, E] (row-major), all through the last LayerNorm and the projection."""

    def __init__(self, config: ClipConfig, name: str, source: str) -> None:
        super().__init__()
        self.mean: List[float] = list(config.mean)
        self.std: List[float] = list(config.std)
        self.patch = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.cls = nn.Parameter(torch.zeros(config.width))
        self.position = nn.Parameter(torch.zeros(1 + config.grid**2, config.width))
        self.norm_before = nn.LayerNorm(config.width, config.eps)
        self.blocks = nn.ModuleList([
            Block(config.width, config.heads, config.inner, config.eps, pre_norm=True, quick_gelu=config.quick_gelu)
            for _ in range(config.blocks)
        ])
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.projection = nn.Linear(config.width, config.shared, bias=False)
        self._spec: str = json.dumps({
            "format": 1, "modality": "image", "name": name, "source": source, "size": config.size,
            "grid": [config.grid, config.grid], "width": config.shared,
        })

    @torch.jit.export
    def spec(self) -> str:
        return self._spec

    def forward(self, pixels: Tensor) -> Tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, dtype=torch.float32, device=pixels.device)[:, None, None]
        std = torch.tensor(self.std, dtype=torch.float32, device=pixels.device)[:, None, None]
        x = ((pixels.float() / 255.0 - mean) / std).to(self.cls.dtype)
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.size(0), 1, -1), x], 1) + self.position
        x = self.norm_before(x)
        for block in self.blocks:
            x = block(x)
        x = self.projection(self.norm(x))
        return x[:, 0], x[:, 1:]
