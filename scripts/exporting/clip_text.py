"""CLIP's text transformer (Radford et al., 2021), and the names of its tensors in Hugging Face's and OpenAI's files.

Upstream: transformers/models/clip/modeling_clip.py; clip/model.py of openai/CLIP. B batch, n tokens of a row, K keywords,
V tokens that keywords may be, W width of a token, E shared width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Tuple

import torch
from torch import Tensor, nn

from . import clip, vision
from .checkpoint import Checkpoint
from .errors import ExportError
from .pictures import Given
from .settings import Settings
from .weights import Table

VOCABULARY, START, END = 49408, 49406, 49407


def _blocks(images: Table, theirs: str, ours: str) -> Table:
    """The names of the layers, which are those of the image tower below another stem."""
    return {
        name: tuple(part.replace(theirs, ours, 1) for part in parts)
        for name, parts in images.items() if name.startswith("blocks.")
    }


HUGGINGFACE: Table = {
    "token": ("text_model.embeddings.token_embedding.{leaf}",),
    "position": ("text_model.embeddings.position_embedding.weight",),
    "norm": ("text_model.final_layer_norm.{leaf}",),
    "projection": ("text_projection.{leaf}",),
    **_blocks(clip.HUGGINGFACE, "vision_model.", "text_model."),
}
# The image tower, the temperature, and the numbers 0, 1, 2, ... that older files keep.
HUGGINGFACE_IGNORED = ("vision_model.", "visual_projection.", "logit_scale", "text_model.embeddings.position_ids")
OPENAI: Table = {
    "token": ("token_embedding.{leaf}",),
    "position": ("positional_embedding",),
    "norm": ("ln_final.{leaf}",),
    "projection.weight": ("text_projection",),
    **_blocks(clip.OPENAI, "visual.transformer.", "transformer."),
}
OPENAI_TRANSPOSED = ("text_projection",)
# The image tower, the temperature, the causal mask, and three sizes.
OPENAI_IGNORED = ("visual.", "logit_scale", "attn_mask", "input_resolution", "context_length", "vocab_size")

MODEL_TYPES = ("clip", "clip_text_model")
# What transformers' CLIPTextConfig takes for what config.json leaves out.
DEFAULTS = {
    "vocab_size": VOCABULARY, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": END,
}
# Older configurations' `eos_token_id`: transformers then looks for the largest id, which is END.
OLD_END = 2
ANOTHER_TOKENIZER = "SigLIP's text tower needs another tokenizer than CLIP's, which the program does not have; use a CLIP"


@dataclass(frozen=True)
class ClipTextConfig:
    context: int
    width: int
    blocks: int
    heads: int
    inner: int
    shared: int
    activation: str = "quick_gelu"
    eps: float = 1e-5

    @property
    def sizes(self) -> str:
        layers = f"{self.blocks} layers of {self.width} with {self.heads} heads"
        return f"{layers}, rows of {self.context} tokens, projected to {self.shared}"


NAMED = {
    "large": ClipTextConfig(77, 768, 12, 12, 3072, 768),
    "base": ClipTextConfig(77, 512, 12, 8, 2048, 512),
    "tiny": ClipTextConfig(77, 24, 2, 3, 48, 32),
}
TITLES = {"large": "ViT-L/14's text tower", "base": "ViT-B/16's text tower", "tiny": "a tiny text tower"}


def from_huggingface(checkpoint: Checkpoint, given: Given) -> ClipTextConfig:
    """From `config.json`, CLIPModel's or CLIPTextModelWithProjection's."""
    where = str(checkpoint.path / "config.json")
    values = checkpoint.config
    if str(values.get("model_type")).startswith("siglip"):
        raise ExportError(f"{where}: model_type is {values['model_type']!r}: {ANOTHER_TOKENIZER}")
    if Settings(where, values, {}).one_of("model_type", *MODEL_TYPES) == "clip":
        values = {**clip.tower(where, values, "text_config", DEFAULTS), "projection_dim": values.get("projection_dim")}
    settings = Settings(where, values, {**DEFAULTS, "projection_dim": 512})
    settings.one_of("vocab_size", VOCABULARY)
    settings.one_of("eos_token_id", END, OLD_END)
    return _checked(where, ClipTextConfig(
        context=settings.whole("max_position_embeddings"),
        width=settings.whole("hidden_size"),
        blocks=settings.whole("num_hidden_layers"),
        heads=settings.whole("num_attention_heads"),
        inner=settings.whole("intermediate_size"),
        shared=settings.whole("projection_dim"),
        activation=given.settle("activation", settings.one_of("hidden_act", "quick_gelu", "gelu"), where),
        eps=settings.real("layer_norm_eps"),
    ))


def from_state_dict(checkpoint: Checkpoint, given: Given) -> ClipTextConfig:
    """Sizes from the shapes; the activation from an archive's code, or from the command line."""
    config = _from_shapes(checkpoint)
    activation = given.settle("activation", checkpoint.text_activation, f"the code of {checkpoint.path}")
    if activation is None:
        kind = "an archive" if checkpoint.form == "openai" else "a bare state dict"
        raise ExportError(
            f"{checkpoint.path}: {kind} that does not say the activation of its text tower; give --activation; "
            f"its sizes are {config.sizes}: OpenAI and MetaCLIP have quick_gelu, LAION-2B and DataComp gelu"
        )
    return replace(config, activation=activation)


def _from_shapes(checkpoint: Checkpoint) -> ClipTextConfig:
    where = str(checkpoint.path)
    whose = "a CLIP under OpenAI's names, its text tower included"
    vocabulary, width = clip.shape(checkpoint, "token_embedding.weight", 2, whose)
    if vocabulary != VOCABULARY:
        raise ExportError(f"{where}: token_embedding.weight has {vocabulary} rows where {VOCABULARY}, CLIP's tokens, are needed")
    if width % 64:
        raise ExportError(f"{where}: token_embedding.weight is {width} wide where a multiple of 64 is needed; is it OpenAI's?")
    return _checked(where, ClipTextConfig(
        context=clip.shape(checkpoint, "positional_embedding", 2, whose)[0],
        width=width,
        blocks=len({name.split(".")[2] for name in checkpoint.tensors if name.startswith("transformer.resblocks.")}),
        heads=width // 64,
        inner=clip.shape(checkpoint, "transformer.resblocks.0.mlp.c_fc.weight", 2, whose)[0],
        shared=clip.shape(checkpoint, "text_projection", 2, whose)[1],
    ))


def _checked(where: str, config: ClipTextConfig) -> ClipTextConfig:
    """`config`, if its numbers fit together."""
    if config.width % config.heads:
        raise ExportError(f"{where}: {config.heads} heads do not divide the width {config.width}; is it CLIP's?")
    if config.context < 3:
        raise ExportError(f"{where}: rows of {config.context} tokens hold no word between start and end; is it CLIP's?")
    return config


class ClipText(nn.Module):
    """Token ids [B, n] -> embeddings [B, E] at the first end of each row, through the last LayerNorm and the projection."""

    def __init__(self, config: ClipTextConfig, name: str, source: str) -> None:
        super().__init__()
        self.start: int = START
        self.end: int = END
        self.token = nn.Embedding(VOCABULARY, config.width)
        self.position = nn.Parameter(torch.zeros(config.context, config.width))
        self.blocks = vision.blocks(config)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.projection = nn.Linear(config.width, config.shared, bias=False)
        self._spec: str = json.dumps({
            "format": 1, "modality": "text", "name": name, "source": source, "context": config.context, "width": config.shared,
            "token_width": config.width, "vocabulary": VOCABULARY, "start": START, "end": END,
        })

    @torch.jit.export
    def spec(self) -> str:
        return self._spec

    @torch.jit.export
    def vocabulary(self) -> Tuple[Tensor, Tensor]:
        """Ids [V] of all tokens but start and end, which come last, and their embeddings [V, W], a view of the weights."""
        return torch.arange(self.start, device=self.token.weight.device), self.token.weight[:self.start]

    @torch.jit.export
    def keywords(self, vectors: Tensor) -> Tensor:
        """Vectors [B, K, W] in the place of the embeddings of the tokens between start and end -> [B, E]."""
        start, end = self.token.weight[self.start], self.token.weight[self.end]
        batch, width = vectors.size(0), vectors.size(2)
        x = torch.cat([start.expand(batch, 1, width), vectors.to(start.dtype), end.expand(batch, 1, width)], 1)
        return self.pool(self.encode(x)[:, -1])

    def encode(self, x: Tensor) -> Tensor:
        """x [B, n, W] -> [B, n, W]; each place sees those before it and itself."""
        length, most = x.size(1), self.position.size(0)
        if length > most:
            raise ValueError("a row of " + str(length) + " tokens, start and end included, where at most " + str(most) + " fit")
        seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        x = x + self.position[:length]
        for block in self.blocks:
            x = block(x, seen)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """The outputs [B, W] at the ends -> [B, E]."""
        return self.projection(self.norm(x))

    def forward(self, tokens: Tensor) -> Tensor:
        ends = tokens == self.end
        if not bool(ends.any(1).all()):
            raise ValueError("a row of tokens without " + str(self.end) + ", its end")
        x = self.encode(self.token(tokens))
        return self.pool(x[torch.arange(x.size(0), device=x.device), ends.to(torch.int32).argmax(1)])
