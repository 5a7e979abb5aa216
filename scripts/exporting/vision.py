"""What CLIP's and SigLIP's vision transformers have in common; CLIP's text transformer has the same layers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from .errors import ExportError
from .settings import Settings
from .transformer import Block


@dataclass(frozen=True)
class Sizes:
    size: int
    patch: int
    width: int
    blocks: int
    heads: int
    inner: int

    @property
    def grid(self) -> int:
        """Of whole patches: 384 has 27 of 14, the last 6 pixels are not read."""
        return self.size // self.patch

    @property
    def sizes(self) -> str:
        return f"{self.blocks} layers of {self.width} with {self.heads} heads, patches of {self.patch}, images of {self.size}"


Config = TypeVar("Config", bound=Sizes)


def checked(config: Config, where: str, whose: str) -> Config:
    """`config`, if its numbers fit together."""
    if config.width % config.heads:
        raise ExportError(f"{where}: {config.heads} heads do not divide the width {config.width}; is it {whose}'s?")
    if config.size < config.patch:
        raise ExportError(f"{where}: images of {config.size} hold no patch of {config.patch}; is it {whose}'s?")
    return config


def sizes(settings: Settings) -> dict[str, int]:
    """What Hugging Face's `config.json` calls the same for both."""
    return {
        "size": settings.whole("image_size"),
        "patch": settings.whole("patch_size"),
        "width": settings.whole("hidden_size"),
        "blocks": settings.whole("num_hidden_layers"),
        "heads": settings.whole("num_attention_heads"),
        "inner": settings.whole("intermediate_size"),
    }


def blocks(config: Any) -> nn.ModuleList:
    """The transformer's layers."""
    return nn.ModuleList([
        Block(config.width, config.heads, config.inner, config.eps, pre_norm=True, activation=config.activation)
        for _ in range(config.blocks)
    ])


def spec(config: Any, name: str, source: str, width: int) -> str:
    """What the encoder file says of itself: its features are of `width`."""
    return json.dumps({
        "format": 1, "modality": "image", "name": name, "source": source, "size": config.size,
        "grid": [config.grid, config.grid], "width": width, "resize": config.pictures.resize,
    })
