"""The trained model in the classes of torch.nn, and its loss; parameters are called as in the program's checkpoints."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# This implementation knows one value of these.
KNOWN = {
    "fusion.query_norm": "layer_norm",
    "noise.donor_position": "random",
    "loss.same_image": "positives",
    "cmd.pairing": "paired",
}
MAX_LOG_INV_TAU = math.log(100)


class SpeechHead(nn.Module):
    """Weighted layer sum, CLS token, one transformer layer, projection."""

    def __init__(self, layers: int, width: int, shared: int, settings: dict) -> None:
        super().__init__()
        heads, dropout = settings["speech.heads"], settings["speech.dropout"]
        self.normalize = settings["speech.normalize_layers"]
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.cls = nn.Parameter(torch.randn(width))
        self.transformer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True)
        self.norm, self.proj = nn.LayerNorm(width), nn.Linear(width, shared)

    def forward(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """S_cls [B, E] of hidden states [L, B, T, D]."""
        hidden = hidden.float()
        states = F.layer_norm(hidden, hidden.shape[-1:]) if self.normalize else hidden
        x = torch.tensordot(self.layer_weights.softmax(0), states, 1)
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1)
        padding = torch.arange(x.shape[1]) > frames[:, None]
        x = self.norm(self.transformer(x, src_key_padding_mask=padding))
        return F.normalize(self.proj(x[:, 0]), dim=-1)


class FusionEncoder(nn.Module):
    """Attentive pooling of noisy patches by the speech embedding (Eq. 1-2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm, self.fc, self.norm = nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, speech: Tensor, patches: Tensor) -> Tensor:
        """F^I' [B, E] of S_cls [B, E] and patches [B, N, E]."""
        query, patches = self.query_norm(speech)[:, None], self.query_norm(patches)
        attention = (query @ patches.mT / math.sqrt(patches.shape[-1])).softmax(-1)
        attended = (attention @ patches)[:, 0]
        return F.normalize(self.norm(self.fc(attended) + attended), dim=-1)


class Model(nn.Module):
    """Speech head, fusion encoder and temperature."""

    def __init__(self, layers: int, width: int, shared: int, settings: dict) -> None:
        super().__init__()
        for key, value in KNOWN.items():
            if settings[key] != value:
                raise ValueError(f"{key} = {settings[key]!r}: only {value!r} is compared")
        self.alpha = settings["cmd.alpha"]
        self.speech, self.fusion = SpeechHead(layers, width, shared, settings), FusionEncoder(shared)
        self.log_inv_tau = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, speech: tuple[Tensor, Tensor], image: tuple[Tensor, Tensor], ids: Tensor, source: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """L, L_sic and L_cmd. `speech`: hidden states [L, B, T, D] and frames [B]; `image`: CLS [B, E] and patches [B, N, E]; `ids`
        [B]; `source` [B · N]: which patch stands at each place of the noisy features."""
        speech_cls = self.speech(*speech)
        cls, patches = (features.float() for features in image)
        inverse_tau = self.log_inv_tau.clamp(max=MAX_LOG_INV_TAU).exp()
        same = (ids[:, None] == ids).float()
        targets = same / same.sum(1, keepdim=True)

        def contrast(images: Tensor) -> Tensor:
            logits = speech_cls @ images.T * inverse_tau
            return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

        sic = contrast(F.normalize(cls, dim=-1))
        cmd = contrast(self.fusion(speech_cls, patches.flatten(0, 1)[source].view_as(patches)))
        return sic + self.alpha * cmd, sic, cmd


def draw_noise(ids: Tensor, patches: int, ratio: float) -> Tensor:
    """[B · N]: a part of each image's patches is replaced by patches of other images of the batch."""
    rows, noisy = len(ids), round(ratio * patches)
    places = torch.rand(rows, patches).topk(noisy, dim=1).indices
    donors = torch.multinomial((ids[:, None] != ids).float(), noisy, replacement=True)
    source = torch.arange(rows * patches).view(rows, patches)
    return source.scatter(1, places, donors * patches + torch.randint(patches, (rows, noisy))).flatten()


def adam(model: Model, settings: dict) -> torch.optim.Adam:
    """Its optimizer; the learning rate is set at each step."""
    chosen = {name: settings[f"optim.{name}"] for name in ("lr", "eps", "weight_decay")}
    return torch.optim.Adam(model.parameters(), betas=tuple(settings["optim.betas"]), fused=True, **chosen)


def learning_rate(step: int, settings: dict) -> float:
    """Linear warm-up, then linear to the last value; `step` counts from 0."""
    peak, last, warm = (settings[f"optim.{name}"] for name in ("lr", "final_lr", "warmup_steps"))
    if step < warm:
        return peak * (step + 1) / warm
    way = (step + 1 - warm) / max(settings["train.steps"] - warm, 1)
    return peak + (last - peak) * min(way, 1)


def update(model: Model, optimizer: torch.optim.Adam, loss: Tensor, step: int, settings: dict) -> float:
    """One update; returns the norm of the gradient before it was clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), settings["train.grad_clip"])
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, settings)
    optimizer.step()
    with torch.no_grad():
        model.log_inv_tau.clamp_(max=MAX_LOG_INV_TAU)
    return norm.item()
