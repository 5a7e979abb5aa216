"""SigLIP's ViT (Zhai et al., 2023), SigLIP 2's at a fixed resolution, and the names of its tensors in Hugging Face's files.

Upstream: transformers/models/siglip/modeling_siglip.py. B batch, S size, P patch, N patches, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import vision
from .checkpoint import Checkpoint
from .errors import ExportError
from .pictures import HALVES, SQUASH, Given, Pictures, from_preprocessor, scaled
from .settings import Settings
from .transformer import activate
from .weights import Table

# Without the `vision_model.` that SiglipModel puts before them.
HUGGINGFACE: Table = {
    "position": ("embeddings.position_embedding.weight",),
    "patch": ("embeddings.patch_embedding.{leaf}",),
    "norm": ("post_layernorm.{leaf}",),
    "blocks.{i}.norm1": ("encoder.layers.{i}.layer_norm1.{leaf}",),
    "blocks.{i}.qkv": tuple(f"encoder.layers.{{i}}.self_attn.{part}_proj.{{leaf}}" for part in "qkv"),
    "blocks.{i}.out": ("encoder.layers.{i}.self_attn.out_proj.{leaf}",),
    "blocks.{i}.norm2": ("encoder.layers.{i}.layer_norm2.{leaf}",),
    "blocks.{i}.up": ("encoder.layers.{i}.mlp.fc1.{leaf}",),
    "blocks.{i}.down": ("encoder.layers.{i}.mlp.fc2.{leaf}",),
    "pool.probe": ("head.probe",),
    "pool.qkv": ("head.attention.in_proj_{leaf}",),
    "pool.out": ("head.attention.out_proj.{leaf}",),
    "pool.norm": ("head.layernorm.{leaf}",),
    "pool.up": ("head.mlp.fc1.{leaf}",),
    "pool.down": ("head.mlp.fc2.{leaf}",),
}
# The text tower, temperature and bias, and the numbers 0, 1, 2, ... that older files keep.
HUGGINGFACE_IGNORED = ("text_model.", "logit_scale", "logit_bias", "embeddings.position_ids")
MODEL_TYPES = ("siglip", "siglip_vision_model")
NAFLEX_TYPES = ("siglip2", "siglip2_vision_model")


@dataclass(frozen=True)
class SiglipConfig(vision.Sizes):
    activation: str = "gelu_pytorch_tanh"
    eps: float = 1e-6
    pictures: Pictures = Pictures(HALVES, HALVES, SQUASH)


NAMED = {
    "siglip-so400m": SiglipConfig(384, 14, 1152, 27, 16, 4304),
    "siglip-base": SiglipConfig(224, 16, 768, 12, 12, 3072),
    "siglip-tiny": SiglipConfig(58, 14, 64, 3, 4, 128),
}
TITLES = {
    "siglip-so400m": "SigLIP's SoViT-400m/14 at 384", "siglip-base": "SigLIP's ViT-B/16", "siglip-tiny": "a tiny SigLIP",
}


def from_huggingface(checkpoint: Checkpoint, given: Given) -> SiglipConfig:
    """From `config.json` (SiglipModel's or SiglipVisionModel's) and `preprocessor_config.json`, with the defaults of transformers'
    SiglipVisionConfig."""
    where = str(checkpoint.path / "config.json")
    values = checkpoint.config
    model_type = Settings(where, values, {}).one_of("model_type", *MODEL_TYPES, *NAFLEX_TYPES)
    if model_type in NAFLEX_TYPES:
        raise ExportError(
            f"{where}: model_type is {model_type!r}, a SigLIP 2 for pictures of any shape (NaFlex), which has no square input; "
            "use one of a fixed resolution, like siglip2-so400m-patch14-384"
        )
    if model_type == "siglip":
        values = values.get("vision_config") or {}
        if not isinstance(values, dict):
            raise ExportError(f"{where}: vision_config is no object; download it again")
    settings = Settings(where, values, {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3,
        "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": True,
    })
    settings.one_of("num_channels", 3)
    settings.one_of("vision_use_head", True)
    config = SiglipConfig(
        **vision.sizes(settings),
        activation=given.settle("activation", settings.one_of("hidden_act", "gelu_pytorch_tanh", "gelu"), where),
        eps=settings.real("layer_norm_eps"),
        pictures=from_preprocessor(
            checkpoint, settings.whole("image_size"), False, given, "SigLIP's are --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"
        ),
    )
    return vision.checked(config, where, "SigLIP")


class AttentionPool(nn.Module):
    """[B, N, D] -> [B, D]: one learnt query over all patches, and a feed-forward network."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.activation = config.activation
        self.probe = nn.Parameter(torch.zeros(1, 1, config.width))
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.up = nn.Linear(config.width, config.inner)
        self.down = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q = F.linear(self.probe, self.qkv.weight[:width], self.qkv.bias[:width])
        q = q.view(1, 1, self.heads, width // self.heads).expand(batch, -1, -1, -1).transpose(1, 2)
        kv = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        k, v = kv.view(batch, count, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = self.out(mixed.transpose(1, 2).reshape(batch, width))
        return x + self.down(activate(self.up(self.norm(x)), self.activation))


class Siglip(nn.Module):
    """Bytes [B, 3, S, S] -> the pooled vector [B, D] and patches [B, N, D] (row-major) after the last LayerNorm."""

    def __init__(self, config: SiglipConfig, name: str, source: str) -> None:
        super().__init__()
        self.mean: List[float] = list(config.pictures.mean)
        self.std: List[float] = list(config.pictures.std)
        self.patch = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.position = nn.Parameter(torch.zeros(config.grid**2, config.width))
        self.blocks = vision.blocks(config)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.pool = AttentionPool(config)
        self._spec: str = vision.spec(config, name, source, config.width)

    @torch.jit.export
    def spec(self) -> str:
        return self._spec

    def forward(self, pixels: Tensor) -> Tuple[Tensor, Tensor]:
        x = scaled(pixels, self.mean, self.std).to(self.position.dtype)
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.pool(x), x
