"""Multi-scale deformable attention (Zhu et al. 2021, equation 3) in plain PyTorch.

Each output is a weighted sum of ``levels * points`` bilinear samples, that is, of four times as many rows of the
value table. PyTorch's ``embedding_bag`` computes exactly that - a weighted sum of indexed rows - in one fused,
differentiable kernel, without materialising the samples; on a CPU it is several times faster than ``grid_sample``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import csc_array
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        sampled = sum_rows(
            linear(self.value_proj, tokens).reshape(batch * count * self.heads, width // self.heads),
            rows.view(batch * count * self.heads, -1),
            row_weights.view(batch * count * self.heads, -1),
        )
        return linear(self.output_proj, sampled.view(batch, count, width))


def sum_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: table (N, C), rows (M, K) int32, weights (M, K) -> (M, C)."""
    if table.device.type == "cpu" and torch.is_grad_enabled():
        out: Tensor = _SumRows.apply(table, rows, weights)
        return out
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)


class _SumRows(torch.autograd.Function):
    """``embedding_bag`` with a gradient for the table that does not sort.

    PyTorch's own sorts all M * K row numbers first, which takes twenty times as long on a CPU as adding up. The
    gradient is one sparse product: the rows of an (M, N) matrix, read as columns, are its transpose.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, weights)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        table, rows, weights = ctx.saved_tensors
        starts = torch.arange(len(rows) + 1, dtype=torch.int32) * rows.shape[1]
        transposed = csc_array(
            (weights.detach().numpy().ravel(), rows.numpy().ravel(), starts.numpy()), shape=(len(table), len(rows))
        )
        to_table = torch.from_numpy(transposed @ gradient.numpy())
        owner = torch.arange(len(rows), dtype=torch.int32).repeat_interleave(rows.shape[1])
        to_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            gradient.contiguous(), table, rows.flatten(), starts[:-1], owner, 0
        )
        return to_table, None, to_weights.view_as(weights)


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
    cells, fractions = (x[:, None] for x in reference_places(shapes, device))  # (T, 1, levels, 1, xy)
    heights, widths = torch.tensor(shapes, device=device, dtype=torch.int32)[..., None].unbind(1)  # (levels, 1)
    start = torch.tensor([0, *(h * w for h, w in shapes[:-1])], device=device).cumsum(0).to(torch.int32)
    columns, column_shares = _neighbours(offsets[..., 0], cells[..., 0], fractions[..., 0], widths)
    lines, line_shares = _neighbours(offsets[..., 1], cells[..., 1], fractions[..., 1], heights)
    # The table interleaves heads, and stacks the pictures of the batch.
    first = torch.arange(batch, device=device, dtype=torch.int32)[:, None, None, None, None] * count
    head = torch.arange(heads, device=device, dtype=torch.int32)[:, None, None]
    columns = [column * heads for column in columns]
    lines = [(line * widths + (start[:, None] + first)) * heads + head for line in lines]
    line_shares = [share * weights for share in line_shares]
    # Four planes side by side rather than a last axis of two by two: every operation above runs over long rows.
    rows = torch.cat([(line + column).flatten(3) for line in lines for column in columns], -1)
    row_weights = torch.cat([(line * column).flatten(3) for line in line_shares for column in column_shares], -1)
    return rows, row_weights


def _neighbours(offset: Tensor, cell: Tensor, fraction: Tensor, length: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The two cells along one axis that a sample lies between, clamped into the map, and the share of each.

    A cell outside the map has the share zero. Gradients reach the offset through the shares alone.
    """
    shift = offset + fraction
    corner = shift.detach().floor()
    fraction = shift - corner
    low = corner.to(torch.int32) + cell
    indices, shares = [], []
    for index, share in ((low, 1 - fraction), (low + 1, fraction)):
        clamped = index.clamp(min=torch.zeros_like(length), max=length - 1)
        indices.append(clamped)
        shares.append(share * (clamped == index))
    return indices, shares
