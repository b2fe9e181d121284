"""Mask logits at picture size, tile by tile.

A proposal's logits go from stride 4 to the padded input, lose the padding, and go on to the picture's size: two
bilinear resizes, each linear and separable. Both and the crop are therefore one small matrix an axis, and any tile of
the result is ``rows @ logits @ columns`` over the few cells under it. Bilinear weights are convex, so the least and
the greatest of those cells bound every pixel of the tile: what cannot matter in a tile is known before it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.systems.base import Geometry, Proposals

_TILE = {"cpu": 48, "cuda": 512}  # pixels a side: fits a CPU's cache and prunes well; few launches on a GPU


@dataclass(frozen=True, eq=False)
class Tile:
    """A rectangle of the picture and the cells of the mask logits under it.

    Attributes:
        rows, columns: the pixels.
        cells: (h, w, N) logits of every proposal; proposals last, so that what is done to each pixel is contiguous.
        low, high: (N,) bounds of every proposal's logits within the tile.
        row_weights, column_weights: (pixels, cells) interpolation matrices.
    """

    rows: slice
    columns: slice
    cells: Tensor
    low: Tensor
    high: Tensor
    row_weights: Tensor
    column_weights: Tensor

    def logits(self, queries: Tensor) -> Tensor:
        """Logits at picture size of the chosen proposals: (rows, columns, len(queries))."""
        across = self.column_weights @ self.cells.index_select(-1, queries)
        return (self.row_weights @ across.flatten(1)).view(len(self.row_weights), *across.shape[1:])


def tiles(proposals: Proposals) -> Iterator[Tile]:
    """The tiles of a picture, covering every pixel once."""
    logits, geometry = proposals.mask_logits, proposals.geometry
    side = _TILE.get(logits.device.type, _TILE["cpu"])
    by_row = _bands(_axis_matrix(logits.shape[1], geometry, 0), side)
    by_column = _bands(_axis_matrix(logits.shape[2], geometry, 1), side)
    for rows, row_cells, row_weights in by_row:
        strip = logits[:, row_cells].permute(1, 2, 0).contiguous()
        for columns, column_cells, column_weights in by_column:
            cells = strip[:, column_cells]
            low, high = torch.aminmax(cells.flatten(0, 1), dim=0)
            yield Tile(rows, columns, cells, low, high, row_weights.to(logits.device), column_weights.to(logits.device))


def _axis_matrix(cells: int, geometry: Geometry, axis: int) -> Tensor:
    """(picture pixels, cells) float64: resize to the padded size, crop to the resized size, resize to the picture."""
    to_padded = _resize_matrix(cells, geometry.padded[axis])
    cropped = to_padded[: geometry.resized[axis]]
    return _resize_matrix(geometry.resized[axis], geometry.picture[axis]) @ cropped


def _resize_matrix(source: int, target: int) -> Tensor:
    """(target, source) float64: what PyTorch's own bilinear resize does to each unit vector."""
    if source == target:
        return torch.eye(source, dtype=torch.float64)
    unit = torch.eye(source, dtype=torch.float64)[None]
    return F.interpolate(unit, size=target, mode="linear", align_corners=False)[0].T


def _bands(matrix: Tensor, side: int) -> list[tuple[slice, slice, Tensor]]:
    """Cut an axis into bands: the pixels, the cells that reach them, and the weights between the two."""
    bands = []
    for start in range(0, len(matrix), side):
        pixels = slice(start, min(start + side, len(matrix)))
        used = matrix[pixels].any(0).nonzero().flatten()
        cells = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((pixels, cells, matrix[pixels, cells].float()))
    return bands
