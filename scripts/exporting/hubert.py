"""HuBERT (Hsu et al., 2021): both families, and the names of their tensors in Hugging Face's and fairseq's files.

Upstream: transformers/models/hubert/modeling_hubert.py; fairseq/models/hubert/hubert.py and wav2vec/wav2vec2.py.
B batch, n samples, T frames, C channels, D width, L hidden states.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import Checkpoint
from .errors import ExportError
from .settings import Settings
from .transformer import Block
from .weights import Table

SAMPLE_RATE = 16_000
KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
# Added to the variance of a waveform: by transformers' feature extractor; by torch's layer_norm, with which fairseq normalises.
HUGGINGFACE_WAVE_EPS = 1e-7
FAIRSEQ_WAVE_EPS = 1e-5

HUGGINGFACE: Table = {
    "convolutions.{i}.conv": ("feature_extractor.conv_layers.{i}.conv.{leaf}",),
    "convolutions.{i}.norm": ("feature_extractor.conv_layers.{i}.layer_norm.{leaf}",),
    "projection_norm": ("feature_projection.layer_norm.{leaf}",),
    "projection": ("feature_projection.projection.{leaf}",),
    "position": ("encoder.pos_conv_embed.conv.{leaf}",),
    "norm": ("encoder.layer_norm.{leaf}",),
    "blocks.{i}.norm1": ("encoder.layers.{i}.layer_norm.{leaf}",),
    "blocks.{i}.qkv": tuple(f"encoder.layers.{{i}}.attention.{part}_proj.{{leaf}}" for part in "qkv"),
    "blocks.{i}.out": ("encoder.layers.{i}.attention.out_proj.{leaf}",),
    "blocks.{i}.norm2": ("encoder.layers.{i}.final_layer_norm.{leaf}",),
    "blocks.{i}.up": ("encoder.layers.{i}.feed_forward.intermediate_dense.{leaf}",),
    "blocks.{i}.down": ("encoder.layers.{i}.feed_forward.output_dense.{leaf}",),
}
# Of training with masks, and of the heads of HubertForCTC and HubertForSequenceClassification.
HUGGINGFACE_IGNORED = (
    "masked_spec_embed", "lm_head.", "projector.", "classifier.", "layer_weights",
)
FAIRSEQ: Table = {
    "convolutions.{i}.conv": ("feature_extractor.conv_layers.{i}.0.{leaf}",),
    "projection_norm": ("layer_norm.{leaf}",),
    "projection": ("post_extract_proj.{leaf}",),
    "position": ("encoder.pos_conv.0.{leaf}",),
    "norm": ("encoder.layer_norm.{leaf}",),
    "blocks.{i}.norm1": ("encoder.layers.{i}.self_attn_layer_norm.{leaf}",),
    "blocks.{i}.qkv": tuple(f"encoder.layers.{{i}}.self_attn.{part}_proj.{{leaf}}" for part in "qkv"),
    "blocks.{i}.out": ("encoder.layers.{i}.self_attn.out_proj.{leaf}",),
    "blocks.{i}.norm2": ("encoder.layers.{i}.final_layer_norm.{leaf}",),
    "blocks.{i}.up": ("encoder.layers.{i}.fc1.{leaf}",),
    "blocks.{i}.down": ("encoder.layers.{i}.fc2.{leaf}",),
}
FAIRSEQ_GROUP_NORM: Table = {**FAIRSEQ, "convolutions.{i}.norm": ("feature_extractor.conv_layers.{i}.2.{leaf}",)}
FAIRSEQ_LAYER_NORM: Table = {**FAIRSEQ, "convolutions.{i}.norm": ("feature_extractor.conv_layers.{i}.2.1.{leaf}",)}
# Of the masked prediction that HuBERT was trained with.
FAIRSEQ_IGNORED = ("mask_emb", "label_embs_concat", "final_proj.weight", "final_proj.bias")


@dataclass(frozen=True)
class HubertConfig:
    width: int
    blocks: int
    heads: int
    inner: int
    channels: tuple[int, ...]
    kernels: tuple[int, ...] = KERNELS
    strides: tuple[int, ...] = STRIDES
    conv_bias: bool = False
    group_norm: bool = False
    """One norm, over the time of each channel of the first convolution (Base); otherwise one over the channels in each (Large)."""
    pre_norm: bool = True
    """Transformer layers normalise what they read (Large); otherwise their sums (Base)."""
    projection_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    eps: float = 1e-5
    normalize: bool = True
    """Waveforms are taken to zero mean and unit variance."""
    wave_eps: float = HUGGINGFACE_WAVE_EPS
    """Added to that variance."""

    @property
    def hop(self) -> int:
        hop = 1
        for stride in self.strides:
            hop *= stride
        return hop

    @property
    def min_samples(self) -> int:
        samples = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides)):
            samples = (samples - 1) * stride + kernel
        return samples

    def check(self, where: str) -> HubertConfig:
        """Itself, if its numbers fit together."""
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise ExportError(f"{where}: the convolutions' channels, kernels and strides differ in number; is it HuBERT's?")
        if self.width % self.heads:
            raise ExportError(f"{where}: {self.heads} heads do not divide the width {self.width}; is it HuBERT's?")
        if self.width % self.position_groups:
            raise ExportError(f"{where}: {self.position_groups} groups do not divide the width {self.width}; is it HuBERT's?")
        return self


NAMED = {
    "large": HubertConfig(1024, 24, 16, 4096, (512,) * 7),
    "base": HubertConfig(768, 12, 12, 3072, (512,) * 7, group_norm=True, pre_norm=False),
    "tiny": HubertConfig(48, 3, 4, 64, (16,) * 7, position_kernel=16, position_groups=4),
}


def from_huggingface(checkpoint: Checkpoint) -> HubertConfig:
    """From `config.json` and `preprocessor_config.json`, with the defaults of transformers' HubertConfig. Where no file says
    whether waveforms are normalised, the family does, as in fairseq: Large's are, Base's are not."""
    where = str(checkpoint.path / "config.json")
    settings = Settings(where, checkpoint.config, {
        "model_type": "hubert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "feat_extract_activation": "gelu", "feat_extract_norm": "group", "feat_proj_layer_norm": True,
        "layer_norm_eps": 1e-5, "conv_dim": [512] * 7, "conv_kernel": list(KERNELS), "conv_stride": list(STRIDES),
        "conv_bias": False, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16, "conv_pos_batch_norm": False,
        "do_stable_layer_norm": False, "adapter_attn_dim": "none",
    })
    settings.one_of("model_type", "hubert")
    settings.one_of("hidden_act", "gelu")
    settings.one_of("feat_extract_activation", "gelu")
    settings.one_of("conv_pos_batch_norm", False)
    settings.one_of("adapter_attn_dim", "none")
    group_norm = settings.one_of("feat_extract_norm", "group", "layer") == "group"
    preprocessor = Settings(
        str(checkpoint.path / checkpoint.preprocessor_file), checkpoint.preprocessor,
        {"do_normalize": not group_norm, "sampling_rate": SAMPLE_RATE},
    )
    preprocessor.one_of("sampling_rate", SAMPLE_RATE)
    return HubertConfig(
        width=settings.whole("hidden_size"),
        blocks=settings.whole("num_hidden_layers"),
        heads=settings.whole("num_attention_heads"),
        inner=settings.whole("intermediate_size"),
        channels=settings.wholes("conv_dim"),
        kernels=settings.wholes("conv_kernel"),
        strides=settings.wholes("conv_stride"),
        conv_bias=settings.flag("conv_bias"),
        group_norm=group_norm,
        pre_norm=settings.flag("do_stable_layer_norm"),
        projection_norm=settings.flag("feat_proj_layer_norm"),
        position_kernel=settings.whole("num_conv_pos_embeddings"),
        position_groups=settings.whole("num_conv_pos_embedding_groups"),
        eps=settings.real("layer_norm_eps"),
        normalize=preprocessor.flag("do_normalize"),
    ).check(where)


def from_fairseq(checkpoint: Checkpoint) -> HubertConfig:
    """From `cfg.model` and `cfg.task`, with the defaults of fairseq's HubertConfig."""
    model, task = checkpoint.config.get("model"), checkpoint.config.get("task")
    if not isinstance(model, dict) or not isinstance(task, dict):
        raise ExportError(f"{checkpoint.path}: its cfg has no model and task; is this a pre-trained HuBERT of fairseq's?")
    where = f"{checkpoint.path}: cfg.model"
    settings = Settings(where, model, {
        "encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072, "encoder_attention_heads": 12,
        "activation_fn": "gelu", "layer_type": "transformer", "extractor_mode": "default", "layer_norm_first": False,
        "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", "conv_bias": False, "conv_pos": 128,
        "conv_pos_groups": 16,
    })
    settings.one_of("activation_fn", "gelu")
    settings.one_of("layer_type", "transformer")
    convolutions = _fairseq_convolutions(where, settings.values["conv_feature_layers"])
    tasks = Settings(f"{checkpoint.path}: cfg.task", task, {"normalize": False, "sample_rate": SAMPLE_RATE})
    tasks.one_of("sample_rate", SAMPLE_RATE)
    return HubertConfig(
        width=settings.whole("encoder_embed_dim"),
        blocks=settings.whole("encoder_layers"),
        heads=settings.whole("encoder_attention_heads"),
        inner=settings.whole("encoder_ffn_embed_dim"),
        channels=tuple(layer[0] for layer in convolutions),
        kernels=tuple(layer[1] for layer in convolutions),
        strides=tuple(layer[2] for layer in convolutions),
        conv_bias=settings.flag("conv_bias"),
        group_norm=settings.one_of("extractor_mode", "default", "layer_norm") == "default",
        pre_norm=settings.flag("layer_norm_first"),
        position_kernel=settings.whole("conv_pos"),
        position_groups=settings.whole("conv_pos_groups"),
        normalize=tasks.flag("normalize"),
        wave_eps=FAIRSEQ_WAVE_EPS,
    ).check(where)


def _fairseq_convolutions(where: str, text: object) -> list[tuple[int, int, int]]:
    """`[(512,10,5)] + [(512,3,2)] * 4`, which fairseq evaluates as Python, without evaluating it."""
    layers: list[tuple[int, int, int]] = []
    for term in str(text).replace(" ", "").split("+"):
        match = re.fullmatch(r"\[((?:\(\d{1,5},\d{1,5},\d{1,5}\),?)+)\](?:\*(\d{1,2}))?", term)
        if match is None:
            form = "[(channels, kernel, stride)] * n + ..."
            raise ExportError(f"{where}: conv_feature_layers is {str(text)[:100]!r} where {form} is needed")
        group = [tuple(int(n) for n in layer.split(",")) for layer in re.findall(r"\(([\d,]+)\)", match.group(1))]
        layers += group * int(match.group(2) or 1)
    if not layers or min(min(layer) for layer in layers) < 1:
        raise ExportError(f"{where}: conv_feature_layers {text!r} names a size of 0; is it HuBERT's?")
    return layers


class NoNorm(nn.Module):
    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        return x


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T]."""

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        x = F.layer_norm(x.transpose(1, 2), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.transpose(1, 2)


class TimeNorm(nn.Module):
    """GroupNorm with a group for each channel, its statistics in f32 and over the valid frames only, so that padding changes
    nothing: an utterance in a batch gets what it gets alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """x [B, C, T], frames i64 [B] -> [B, C, T]."""
        padding = (torch.arange(x.size(2), device=x.device)[None, :] >= frames[:, None])[:, None, :]
        count = frames[:, None, None]
        values = x.float()
        centred = values - values.masked_fill(padding, 0.0).sum(2, keepdim=True) / count
        variance = centred.masked_fill(padding, 0.0).square().sum(2, keepdim=True) / count
        scale = (variance + 1e-5).rsqrt() * self.weight.float()[:, None]
        return (centred * scale + self.bias.float()[:, None]).to(x.dtype)


class Convolution(nn.Module):
    """Convolution without padding, norm, GELU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, bias: bool, norm: nn.Module) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, bias=bias)
        self.norm = norm

    def reach(self, frames: Tensor) -> Tensor:
        """Valid frames [B] before -> after."""
        return torch.div(frames - self.kernel, self.stride, rounding_mode="floor") + 1

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """x [B, C, T], frames valid after the convolution [B]."""
        return F.gelu(self.norm(self.conv(x), frames))


class Hubert(nn.Module):
    """Samples [B, n], zero-padded, and lengths i64 [B] -> hidden states [L, B, T, D] and frames i64 [B].

    State 0 is the input of the first transformer layer, then the residual stream after each layer; the last is after the final
    LayerNorm. Frames at and after an utterance's own count are meaningless, and nothing before them depends on padding.
    """

    def __init__(self, config: HubertConfig, name: str, source: str) -> None:
        super().__init__()
        inputs, layers = 1, []
        for index, (channels, kernel, stride) in enumerate(zip(config.channels, config.kernels, config.strides)):
            if config.group_norm:
                norm: nn.Module = NoNorm() if index else TimeNorm(channels)
            else:
                norm = ChannelNorm(channels)
            layers.append(Convolution(inputs, channels, kernel, stride, config.conv_bias, norm))
            inputs = channels
        self.convolutions = nn.ModuleList(layers)
        self.projection_norm = nn.LayerNorm(inputs, config.eps) if config.projection_norm else nn.Identity()
        self.projection = nn.Linear(inputs, config.width)
        self.position = nn.Conv1d(
            config.width, config.width, config.position_kernel, padding=config.position_kernel // 2, groups=config.position_groups,
        )
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.blocks = nn.ModuleList([
            Block(config.width, config.heads, config.inner, config.eps, config.pre_norm, activation="gelu")
            for _ in range(config.blocks)
        ])
        self.normalize = config.normalize
        self.wave_eps = config.wave_eps
        self.pre_norm = config.pre_norm
        self.states = config.blocks + 1
        self.min_samples = config.min_samples
        self._spec: str = json.dumps({
            "format": 1, "modality": "speech", "name": name, "source": source, "layers": config.blocks + 1, "width": config.width,
            "sample_rate": SAMPLE_RATE, "min_samples": config.min_samples, "hop": config.hop, "normalize": config.normalize,
            "eps": config.wave_eps if config.normalize else None,
        })

    @torch.jit.export
    def spec(self) -> str:
        return self._spec

    def samples(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """[B, n] -> f32 [B, n]: zero mean and unit variance over the valid samples (biased variance, eps added) where the model
        wants that, zero beyond them."""
        padding = torch.arange(waveform.size(1), device=waveform.device)[None, :] >= lengths[:, None]
        x = waveform.float().masked_fill(padding, 0.0)
        if self.normalize:
            count = lengths[:, None].clamp(min=1)
            x = (x - x.sum(1, keepdim=True) / count).masked_fill(padding, 0.0)
            x = x / (x.square().sum(1, keepdim=True) / count + self.wave_eps).sqrt()
        return x

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        x = self.samples(waveform, lengths).to(self.norm.weight.dtype)
        x = F.pad(x, [0, max(0, self.min_samples - x.size(1))])[:, None, :]
        frames = lengths.clamp(min=self.min_samples)
        for layer in self.convolutions:
            frames = layer.reach(frames)
            x = layer(x, frames)

        valid = torch.arange(x.size(2), device=x.device)[None, :] < frames[:, None]
        x = self.projection(self.projection_norm(x.transpose(1, 2)))
        x = x.masked_fill(~valid[:, :, None], 0.0)
        position = self.position(x.transpose(1, 2))[:, :, :x.size(1)]
        x = x + F.gelu(position).transpose(1, 2)
        if not self.pre_norm:
            x = self.norm(x)

        attended = valid[:, None, None, :]
        hidden = x.new_empty([self.states, x.size(0), x.size(1), x.size(2)])
        hidden[0] = x
        for index, block in enumerate(self.blocks):
            x = block(x, attended)
            hidden[index + 1] = x
        if self.pre_norm:
            hidden[self.states - 1] = self.norm(x)
        return hidden, frames
