"""CLIP's ViT (Radford et al., 2021), and the names of its tensors in Hugging Face's and OpenAI's files, which open_clip shares.

Upstream: transformers/models/clip/modeling_clip.py; clip/model.py of openai/CLIP; open_clip/pretrained.py for what is published.
B batch, S size, P patch, N patches, D width, E shared width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn

from . import vision
from .checkpoint import Checkpoint
from .errors import ExportError
from .pictures import OPENAI_MEAN, OPENAI_STD, Given, Pictures, from_preprocessor, listing, options, scaled
from .settings import Settings
from .weights import Table

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


MODEL_TYPES = ("clip", "clip_vision_model")
# What transformers' CLIPVisionConfig takes for what config.json leaves out.
DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}
# Heads of the widths whose heads are not of 64: ViT-H, ViT-g, ViT-bigG.
HEADS = {1280: 16, 1408: 16, 1664: 16}
OPENAI_PICTURES = f"OpenAI's are --mean {listing(OPENAI_MEAN)} --std {listing(OPENAI_STD)}"
_SMALL = "OpenAI and MetaCLIP have quick_gelu, LAION-2B and DataComp gelu, all OpenAI's mean and std"
# Width, patch and size of published models: their name, and what they have.
PUBLISHED = {
    (768, 32, 224): ("ViT-B/32", _SMALL),
    (768, 16, 224): ("ViT-B/16", _SMALL),
    (1024, 14, 224): (
        "ViT-L/14", "OpenAI and MetaCLIP have quick_gelu, OpenAI's mean and std; LAION-2B gelu, mean = std = 0.5,0.5,0.5; "
        "DataComp gelu, OpenAI's mean and std",
    ),
    (1024, 14, 336): ("ViT-L/14 at 336", "OpenAI has quick_gelu, OpenAI's mean and std"),
    (1280, 14, 224): ("ViT-H/14", "LAION-2B has gelu, MetaCLIP quick_gelu, both OpenAI's mean and std"),
}
UNKNOWN = ("no model that is known here", f"{_SMALL} but LAION-2B's ViT-L/14")


@dataclass(frozen=True)
class ClipConfig(vision.Sizes):
    shared: int
    activation: str = "quick_gelu"
    eps: float = 1e-5
    pictures: Pictures = Pictures()


NAMED = {
    "large": ClipConfig(224, 14, 1024, 24, 16, 4096, 768),
    "base": ClipConfig(224, 16, 768, 12, 12, 3072, 512),
    "tiny": ClipConfig(56, 14, 64, 3, 4, 128, 32),
}
TITLES = {"large": "ViT-L/14", "base": "ViT-B/16", "tiny": "a tiny ViT"}


def from_huggingface(checkpoint: Checkpoint, given: Given) -> ClipConfig:
    """From `config.json` (CLIPModel's or CLIPVisionModelWithProjection's) and `preprocessor_config.json`."""
    where = str(checkpoint.path / "config.json")
    values = checkpoint.config
    if Settings(where, values, {}).one_of("model_type", *MODEL_TYPES) == "clip":
        values = {**tower(where, values, "vision_config", DEFAULTS), "projection_dim": values.get("projection_dim")}
    settings = Settings(where, values, {**DEFAULTS, "projection_dim": 512})
    settings.one_of("num_channels", 3)
    published = f"{OPENAI_PICTURES}, LAION-2B's ViT-L/14 has 0.5,0.5,0.5 for both"
    config = ClipConfig(
        **vision.sizes(settings),
        shared=settings.whole("projection_dim"),
        activation=given.settle("activation", settings.one_of("hidden_act", "quick_gelu", "gelu"), where),
        eps=settings.real("layer_norm_eps"),
        pictures=from_preprocessor(checkpoint, settings.whole("image_size"), True, given, published),
    )
    return vision.checked(config, where, "CLIP")


def tower(where: str, values: dict[str, Any], key: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """`vision_config` or `text_config`, and that with `_dict` behind its name, which older files keep beside it."""
    whole, older = (values.get(name) or {} for name in (key, f"{key}_dict"))
    if not isinstance(whole, dict) or not isinstance(older, dict):
        raise ExportError(f"{where}: {key} is no object; download it again")
    for name in defaults:
        if name in whole and name in older and whole[name] != older[name]:
            raise ExportError(
                f"{where}: {name} is {whole[name]!r} in {key} and {older[name]!r} in {key}_dict; "
                "remove the one that is not of these weights"
            )
    return {**older, **whole}


def from_state_dict(checkpoint: Checkpoint, given: Given) -> ClipConfig:
    """Sizes from the shapes; the rest from an archive's code, and from the command line."""
    config = _from_shapes(checkpoint)
    archive, openai = checkpoint.form == "openai", checkpoint.activation == "quick_gelu"
    where = f"{checkpoint.path}, an archive of OpenAI's" if openai else f"the code of {checkpoint.path}"
    activation = given.settle("activation", checkpoint.activation, where)
    mean = given.settle("mean", OPENAI_MEAN if openai else None, where)
    std = given.settle("std", OPENAI_STD if openai else None, where)
    missing = [name for name, value in (("activation", activation), ("mean", mean), ("std", std)) if value is None]
    if missing:
        name, published = PUBLISHED.get((config.width, config.patch, config.size), UNKNOWN)
        kind = "an archive" if archive else "a bare state dict"
        raise ExportError(
            f"{checkpoint.path}: {kind} that does not say its {', '.join(missing)}; give {options(missing)}; "
            f"its sizes ({config.sizes}, projected to {config.shared}) are those of {name}: {published}; {OPENAI_PICTURES}"
        )
    return replace(config, activation=activation, pictures=Pictures(mean, std))


def shape(checkpoint: Checkpoint, name: str, dimensions: int, whose: str) -> list[int]:
    """Of the tensor `name`, which must be there in a checkpoint that is `whose`."""
    tensor = checkpoint.tensors.get(name)
    if tensor is None:
        raise ExportError(f"{checkpoint.path}: lacks {name}; --source must name {whose}")
    if tensor.dim() != dimensions or 0 in tensor.shape:
        raise ExportError(f"{checkpoint.path}: {name} has shape {list(tensor.shape)} where {dimensions} dimensions are needed")
    return list(tensor.shape)


def _from_shapes(checkpoint: Checkpoint) -> ClipConfig:
    where, whose = str(checkpoint.path), "an OpenAI CLIP with a ViT, not a ResNet, for images"
    width, _, _, patch = shape(checkpoint, "visual.conv1.weight", 4, whose)
    grid = math.isqrt(shape(checkpoint, "visual.positional_embedding", 2, whose)[0] - 1)
    layers = {name.split(".")[3] for name in checkpoint.tensors if name.startswith("visual.transformer.resblocks.")}
    if width % 64:
        raise ExportError(f"{where}: visual.conv1.weight has {width} outputs where a multiple of 64 is needed; is it OpenAI's?")
    config = ClipConfig(
        size=max(grid, 1) * patch,
        patch=patch,
        width=width,
        blocks=len(layers),
        heads=HEADS.get(width, width // 64),
        inner=shape(checkpoint, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2, whose)[0],
        shared=shape(checkpoint, "visual.proj", 2, whose)[1],
    )
    return vision.checked(config, where, "CLIP")


class Clip(nn.Module):
    """Bytes [B, 3, S, S] -> CLS [B, E] and patches [B, N, E] (row-major), all through the last LayerNorm and the projection."""

    def __init__(self, config: ClipConfig, name: str, source: str) -> None:
        super().__init__()
        self.mean: List[float] = list(config.pictures.mean)
        self.std: List[float] = list(config.pictures.std)
        self.patch = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.cls = nn.Parameter(torch.zeros(config.width))
        self.position = nn.Parameter(torch.zeros(1 + config.grid**2, config.width))
        self.norm_before = nn.LayerNorm(config.width, config.eps)
        self.blocks = vision.blocks(config)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.projection = nn.Linear(config.width, config.shared, bias=False)
        self._spec: str = vision.spec(config, name, source, config.shared)

    @torch.jit.export
    def spec(self) -> str:
        return self._spec

    def forward(self, pixels: Tensor) -> Tuple[Tensor, Tensor]:
        x = scaled(pixels, self.mean, self.std).to(self.cls.dtype)
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.size(0), 1, -1), x], 1) + self.position
        x = self.norm_before(x)
        for block in self.blocks:
            x = block(x)
        x = self.projection(self.norm(x))
        return x[:, 0], x[:, 1:]
