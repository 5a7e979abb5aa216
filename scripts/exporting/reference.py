"""The source's own classes, from transformers, to compare with. Optional: without the package there is no such comparison."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import clip, clip_text, hubert, siglip
from .checkpoint import first_line
from .errors import ExportError
from .pictures import Pictures
from .weights import source_state


def transformers() -> Any | None:
    """The package, quiet and offline, or None where it is not installed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        import transformers as package
        from transformers import (  # noqa: F401
            CLIPTextModelWithProjection, CLIPVisionModelWithProjection, HubertModel, SiglipVisionModel,
        )
    except Exception as error:
        if not isinstance(error, ModuleNotFoundError):
            print(f"  transformers cannot be imported: {first_line(error)}", flush=True)
        return None
    package.utils.logging.disable_progress_bar()
    return package


def _ready(model: nn.Module) -> nn.Module:
    return model.float().eval().requires_grad_(False)


def _load(kind: Any, folder: Path, **settings: Any) -> nn.Module:
    try:
        return _ready(kind.from_pretrained(str(folder), local_files_only=True, attn_implementation="eager", **settings))
    except Exception as error:
        why = f"transformers' {kind.__name__} cannot load it ({first_line(error)})"
        raise ExportError(f"{folder}: {why}; download it again") from error


def _loaded(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    model.load_state_dict(state, strict=True, assign=True)
    return _ready(model)


@dataclass
class HubertReference:
    """transformers' HubertModel."""

    model: nn.Module
    config: hubert.HubertConfig

    @classmethod
    def from_folder(cls, package: Any, folder: Path, config: hubert.HubertConfig) -> HubertReference:
        return cls(_load(package.HubertModel, folder), config)

    @classmethod
    def of(cls, package: Any, model: hubert.Hubert, config: hubert.HubertConfig) -> HubertReference:
        """With the weights of `model`."""
        reference = package.HubertModel(package.HubertConfig(
            hidden_size=config.width, num_hidden_layers=config.blocks, num_attention_heads=config.heads,
            intermediate_size=config.inner, conv_dim=config.channels, conv_kernel=config.kernels, conv_stride=config.strides,
            conv_bias=config.conv_bias, num_conv_pos_embeddings=config.position_kernel,
            num_conv_pos_embedding_groups=config.position_groups, do_stable_layer_norm=config.pre_norm,
            feat_extract_norm="group" if config.group_norm else "layer", feat_proj_layer_norm=config.projection_norm,
            layer_norm_eps=config.eps, mask_time_prob=0.0, attn_implementation="eager",
        ))
        state = source_state(model, hubert.HUGGINGFACE)
        stem = "encoder.pos_conv_embed.conv"
        weight = state.pop(f"{stem}.weight")
        old = f"{stem}.weight_g" in reference.state_dict()
        for name, tensor in zip(
            ("weight_g", "weight_v") if old else ("parametrizations.weight.original0", "parametrizations.weight.original1"),
            (weight.norm(dim=(0, 1), keepdim=True), weight),
        ):
            state[f"{stem}.{name}"] = tensor
        return cls(_loaded(reference, state), config)

    def hidden(self, wave: Tensor) -> Tensor:
        """Samples [n] -> hidden states [L, T, D]. The last state is `last_hidden_state`, after the final LayerNorm: transformers 4
        puts that in `hidden_states` too, transformers 5 what goes into the norm."""
        if self.config.normalize:
            exact = wave.double()
            wave = ((exact - exact.mean()) / (exact.var(unbiased=False) + self.config.wave_eps).sqrt()).float()
        output = self.model(wave[None], output_hidden_states=True)
        return torch.cat([*output.hidden_states[:-1], output.last_hidden_state])


def _values(image: Tensor, pictures: Pictures) -> Tensor:
    """Bytes [3, S, S] -> what the source's own preprocessing makes of them."""
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (pictures.mean, pictures.std))
    return ((image.double() / 255 - mean) / std).float()


@dataclass
class ClipReference:
    """transformers' CLIPVisionModelWithProjection."""

    name = "CLIPVisionModelWithProjection"
    model: nn.Module
    config: clip.ClipConfig

    @classmethod
    def from_folder(cls, package: Any, folder: Path, config: clip.ClipConfig) -> ClipReference:
        """The projection's width is that of the whole model, which the class does not read in a folder of CLIPModel's."""
        return cls(_load(package.CLIPVisionModelWithProjection, folder, projection_dim=config.shared), config)

    @classmethod
    def of(cls, package: Any, model: clip.Clip, config: clip.ClipConfig) -> ClipReference:
        """With the weights of `model`."""
        reference = package.CLIPVisionModelWithProjection(package.CLIPVisionConfig(
            hidden_size=config.width, intermediate_size=config.inner, projection_dim=config.shared, num_hidden_layers=config.blocks,
            num_attention_heads=config.heads, image_size=config.size, patch_size=config.patch,
            hidden_act=config.activation, layer_norm_eps=config.eps, attn_implementation="eager",
        ))
        return cls(_loaded(reference, source_state(model, clip.HUGGINGFACE)), config)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Bytes [B, 3, S, S] -> CLS [1, E] and patches [N, E] of each image, each image alone."""
        features = []
        for image in pixels:
            output = self.model(_values(image, self.config.pictures)[None])
            patches = self.model.vision_model.post_layernorm(output.last_hidden_state[0, 1:])
            features += [output.image_embeds, self.model.visual_projection(patches)]
        return features


@dataclass
class ClipTextReference:
    """transformers' CLIPTextModelWithProjection."""

    name = "CLIPTextModelWithProjection"
    model: nn.Module

    @classmethod
    def from_folder(cls, package: Any, folder: Path, config: clip_text.ClipTextConfig) -> ClipTextReference:
        """As ClipReference's."""
        return cls(_load(package.CLIPTextModelWithProjection, folder, projection_dim=config.shared))

    @classmethod
    def of(cls, package: Any, model: clip_text.ClipText, config: clip_text.ClipTextConfig) -> ClipTextReference:
        """With the weights of `model`."""
        reference = package.CLIPTextModelWithProjection(package.CLIPTextConfig(
            vocab_size=clip_text.VOCABULARY, hidden_size=config.width, intermediate_size=config.inner, projection_dim=config.shared,
            num_hidden_layers=config.blocks, num_attention_heads=config.heads, max_position_embeddings=config.context,
            hidden_act=config.activation, layer_norm_eps=config.eps, bos_token_id=clip_text.START, eos_token_id=clip_text.END,
            attn_implementation="eager",
        ))
        return cls(_loaded(reference, source_state(model, clip_text.HUGGINGFACE)))

    def features(self, tokens: Tensor) -> list[Tensor]:
        """Token ids [B, n] -> the embedding [1, E] of each row."""
        return list(self.model(tokens).text_embeds[:, None])


@dataclass
class SiglipReference:
    """transformers' SiglipVisionModel."""

    name = "SiglipVisionModel"
    model: nn.Module
    config: siglip.SiglipConfig

    @classmethod
    def from_folder(cls, package: Any, folder: Path, config: siglip.SiglipConfig) -> SiglipReference:
        return cls(_load(package.SiglipVisionModel, folder), config)

    @classmethod
    def of(cls, package: Any, model: siglip.Siglip, config: siglip.SiglipConfig) -> SiglipReference:
        """With the weights of `model`."""
        reference = package.SiglipVisionModel(package.SiglipVisionConfig(
            hidden_size=config.width, intermediate_size=config.inner, num_hidden_layers=config.blocks,
            num_attention_heads=config.heads, image_size=config.size, patch_size=config.patch, hidden_act=config.activation,
            layer_norm_eps=config.eps, attn_implementation="eager",
        ))
        stem = "vision_model." if "vision_model.head.probe" in reference.state_dict() else ""
        state = {stem + name: tensor for name, tensor in source_state(model, siglip.HUGGINGFACE).items()}
        return cls(_loaded(reference, state), config)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Bytes [B, 3, S, S] -> the pooled vector [1, D] and patches [N, D] of each image, each image alone."""
        features = []
        for image in pixels:
            output = self.model(_values(image, self.config.pictures)[None])
            features += [output.pooler_output, output.last_hidden_state[0]]
        return features
