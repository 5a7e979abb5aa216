"""The transformer layer of all encoders. B batch, T tokens, D width, H heads."""

from __future__ import annotations

from typing import Optional

from torch import Tensor, nn
from torch.nn import functional as F


def activate(x: Tensor, activation: str) -> Tensor:
    """quick_gelu, gelu or gelu_pytorch_tanh, as transformers names them."""
    if activation == "quick_gelu":
        return x * (1.702 * x).sigmoid()
    return F.gelu(x, approximate="tanh" if activation == "gelu_pytorch_tanh" else "none")


class Block(nn.Module):
    """Self-attention and a feed-forward network, normalised before each of them or after each sum."""

    def __init__(self, width: int, heads: int, inner: int, eps: float, pre_norm: bool, activation: str) -> None:
        super().__init__()
        self.heads = heads
        self.pre_norm = pre_norm
        self.activation = activation
        self.norm1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def attend(self, x: Tensor, valid: Optional[Tensor]) -> Tensor:
        """x [B, T, D] -> [B, T, D]; valid bool [B, 1, 1, T], false where x is padding, or [T, T], true what a place sees."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=valid)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

    def feed(self, x: Tensor) -> Tensor:
        return self.down(activate(self.up(x), self.activation))

    def forward(self, x: Tensor, valid: Optional[Tensor] = None) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        if self.pre_norm:
            x = x + self.attend(self.norm1(x), valid)
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attend(x, valid))
        return self.norm2(x + self.feed(x))
