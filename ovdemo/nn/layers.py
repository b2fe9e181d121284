"""Small layers under the names that Mask2Former-style checkpoints give them."""

from __future__ import annotations

import itertools
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["none", "relu", "gelu"]


def linear(layer: nn.Linear, x: Tensor, activation: Activation = "none") -> Tensor:
    """A linear layer and the activation after it (GELU is the exact one): (..., in) -> (..., out).

    Inference on a CPU in float32 is most of the program's time there, and PyTorch's plain path writes the bias, the
    product and the activation one after the other. oneDNN does all three in one pass through the kernel that
    ``torch.compile`` uses, a quarter faster and equal within rounding. Everything else takes the plain path.
    """
    if _ONE_PASS and x.device.type == "cpu" and x.dtype == torch.float32 and not _is_recorded_or_cast():
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, activation, [], "none")
        return fused
    out: Tensor = layer(x)
    if activation == "none":
        return out
    return F.relu(out) if activation == "relu" else F.gelu(out)


_ONE_PASS = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_recorded_or_cast() -> bool:
    """The one-pass kernel has no gradient and does not follow autocast."""
    return torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")


class GeluMLP(nn.Module):
    """timm's two-layer network with an exact GELU between, under the same names (``fc1``, ``fc2``)."""

    def __init__(self, fc1: nn.Linear, fc2: nn.Linear) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return linear(self.fc2, linear(self.fc1, x, "gelu"))


class MLP(nn.Module):
    """Linear layers with ReLU between them, under ``layers``: (..., widths[0]) -> (..., widths[-1])."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU after every layer but the last."""
        for number, layer in enumerate(self.layers, start=1):
            x = linear(cast(nn.Linear, layer), x, "relu" if number < len(self.layers) else "none")
        return x


class ConvNorm(nn.Conv2d):
    """A convolution without bias whose GroupNorm lies under ``norm``: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 32) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, then normalise; no activation."""
        out: Tensor = self.norm(super().forward(x))
        return out


class Attention(nn.Module):
    """Multi-head attention with torch's packed parameter names (``in_proj_weight``, ``out_proj``).

    Unlike ``nn.MultiheadAttention`` one mask serves all heads, so a (Q, K) mask is never repeated.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend (B, Q, C) queries to (B, K, C) keys; ``allowed`` (B, Q, K) is true where a query may look."""
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip(
                (query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True
            )
        )
        mask = None if allowed is None else allowed.unsqueeze(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        result: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return result
