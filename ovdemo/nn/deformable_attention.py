"""Multi-scale deformable attention (Zhu et al. 2021, equation 3) in plain PyTorch.

Each output is a weighted sum of ``levels * points`` bilinear samples, that is, of four times as many rows of the
value table. PyTorch's ``embedding_bag`` computes exactly that - a weighted sum of indexed rows - in one fused,
differentiable kernel, without materialising the samples; on a CPU it is several times faster than ``grid_sample``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdemo.nn.layers import linear

Shapes = tuple[tuple[int, int], ...]


class DeformableAttention(nn.Module):
    """Deformable self-attention of flattened multi-scale tokens, ``width`` channels, ``heads`` heads."""

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._init_parameters()

    def _init_parameters(self) -> None:
        """Start each head looking along its own direction, one cell further per point (Zhu et al., appendix A.2)."""
        angle = torch.arange(self.heads) * (2 * torch.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        bias = direction[:, None, None] * steps[:, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)

    def forward(self, query: Tensor, tokens: Tensor, shapes: Shapes) -> Tensor:
        """Attend every token to a few sampled places of all levels.

        Args:
            query: (B, T, C) tokens plus their positions; they say where to look.
            tokens: (B, T, C) the sampled values, levels of ``shapes`` one after the other, row-major.
            shapes: (height, width) of each level; T is the sum of their areas.

        Returns:
            (B, T, C).
        """
        batch, count, width = tokens.shape
        layout = (batch, count, self.heads, self.levels, self.points)
        offsets = linear(self.sampling_offsets, query).view(*layout, 2)
        weights = linear(self.attention_weights, query).view(batch, count, self.heads, -1).softmax(-1).view(layout)
        rows, row_weights = bilinear_rows(offsets, weights, shapes)
        sampled = F.embedding_bag(
            rows.view(batch * count * self.heads, -1),
            linear(self.value_proj, tokens).reshape(batch * count * self.heads, width // self.heads),
            mode="sum",
            per_sample_weights=row_weights.view(batch * count * self.heads, -1),
        )
        return linear(self.output_proj, sampled.view(batch, count, width))


@lru_cache(maxsize=32)
def reference_places(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each token's cell centre lies in every level, as a whole cell and a fraction of one.

    In double precision and in two parts: a coordinate of some hundred cells kept in one float32 would lose the digits
    that tell two neighbouring features apart.

    Returns:
        Cells (int32) and fractions in 0..1 (float32), both (T, levels, 1, 2) with (x, y) last, in cells of the level.
    """
    centres = torch.cat([_cell_centres(height, width) for height, width in shapes])
    sizes = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float64)
    place = centres[:, None] * sizes - 0.5
    cell = place.floor()
    return cell[:, :, None].to(device, torch.int32), (place - cell)[:, :, None].to(device, torch.float32)


def _cell_centres(height: int, width: int) -> Tensor:
    """(height * width, 2) float64 as (x, y) in 0..1, row-major."""
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1).flatten(0, 1)


def bilinear_rows(offsets: Tensor, weights: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
    """Which rows of the value table each sample mixes, and with which weights.

    A sample lies at the token's centre plus its offset in cells of the sampled level; bilinear interpolation with
    half-pixel centres, zero outside the map.

    Args:
        offsets: (B, T, heads, levels, points, 2) in cells.
        weights: (B, T, heads, levels, points) attention weights.
        shapes: (height, width) of each level.

    Returns:
        Row indices (int32) into a (B * T * heads)-row table, and weights, both (B, T, heads, levels * points * 4).
    """
    batch, count, heads = offsets.shape[:3]
    device = offsets.device
    cell, fraction = (x[:, None] for x in reference_places(shapes, device))  # (T, 1, levels, 1, xy)
    size = torch.tensor([(w, h) for h, w in shapes], device=device, dtype=torch.int32)[:, None]  # (levels, 1, xy)
    start = torch.tensor([0, *(h * w for h, w in shapes[:-1])], device=device).cumsum(0).to(torch.int32)
    shift = offsets + fraction
    corner = shift.floor()
    fraction = shift - corner
    corner = corner.to(torch.int32) + cell
    # Both neighbours along each axis: index, clamped into the map, and weight, zero where it lay outside.
    near = torch.stack((corner, corner + 1), -1)  # (..., xy, 2)
    inside = near.clamp(min=torch.zeros_like(size)[..., None], max=(size - 1)[..., None])
    share = torch.stack((1 - fraction, fraction), -1).mul_(inside == near)
    column, line = inside.unbind(-2)
    column_share, line_share = share.unbind(-2)
    line = line * size[..., :1] + start[:, None, None]
    rows = line.unsqueeze(-1) + column.unsqueeze(-2)
    row_weights = (line_share * weights.unsqueeze(-1)).unsqueeze(-1) * column_share.unsqueeze(-2)
    # The table interleaves heads, and stacks the pictures of the batch.
    first = torch.arange(batch, device=device, dtype=torch.int32)[:, None, None, None] * count
    head = torch.arange(heads, device=device, dtype=torch.int32)[:, None]
    rows = (rows.flatten(3) + first).mul_(heads).add_(head)
    return rows, row_weights.flatten(3)
