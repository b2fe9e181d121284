"""Mask logits at picture size, tile by tile.

A proposal's logits go from stride 4 to the padded input, lose the padding, and go on to the picture's size: two
bilinear resizes, each linear and separable. Both and the crop are therefore one small matrix an axis, and any tile of
the result is ``rows @ logits @ columns`` over the few cells under it. Bilinear weights are convex, so the least and
the greatest of those cells bound every pixel of the tile: what cannot matter in a tile is known before it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.systems.base import Geometry, Proposals, Size

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


def tiles(proposals: Proposals, side: int | None = None) -> Iterator[Tile]:
    """The tiles of a picture, covering every pixel once; ``side`` in pixels, by default what suits many proposals."""
    logits, geometry = proposals.mask_logits, proposals.geometry
    side = side or _TILE.get(logits.device.type, _TILE["cpu"])
    by_row = _bands(_axis_matrix(logits.shape[1], geometry, 0), side)
    by_column = _bands(_axis_matrix(logits.shape[2], geometry, 1), side)
    for rows, row_cells, row_weights in by_row:
        strip = logits[:, row_cells].permute(1, 2, 0).contiguous()
        for columns, column_cells, column_weights in by_column:
            cells = strip[:, column_cells]
            low, high = torch.aminmax(cells.flatten(0, 1), dim=0)
            yield Tile(rows, columns, cells, low, high, row_weights.to(logits.device), column_weights.to(logits.device))


def logits_at(proposals: Proposals, x: int, y: int) -> Tensor:
    """Logits of every proposal at one pixel of the picture, column ``x`` and row ``y``: (N,)."""
    logits, geometry = proposals.mask_logits, proposals.geometry
    ((_, rows, row_weights),) = _bands(_axis_matrix(logits.shape[1], geometry, 0)[y : y + 1], 1)
    ((_, columns, column_weights),) = _bands(_axis_matrix(logits.shape[2], geometry, 1)[x : x + 1], 1)
    across = logits[:, rows, columns] @ column_weights[0].to(logits.device)
    return across @ row_weights[0].to(logits.device)


def cells_to_picture(cells: Tensor, geometry: Geometry) -> Tensor:
    """What mask logits go through, for any maps on their grid: (K, h, w) -> (K, H, W), less the padding."""
    rows, columns = (_axis_matrix(cells.shape[1 + axis], geometry, axis).to(cells) for axis in (0, 1))
    return rows @ cells @ columns.T


def picture_to_cells(pixels: Tensor, grid: Size, geometry: Geometry) -> Tensor:
    """Share out the values of pixels to the cells that each is interpolated from: (H, W) -> ``grid`` (h, w).

    The adjoint of :func:`cells_to_picture`: every pixel's value is split by its bilinear weights, so that sums stay.
    Of ones, it is how many pixels each cell stands for, 0 in the padding.
    """
    rows, columns = (_axis_matrix(grid[axis], geometry, axis).to(pixels) for axis in (0, 1))
    return rows.T @ pixels @ columns


@lru_cache(maxsize=8)  # both axes of a few pictures, 1 MB each at 640 x 853; every new word asks for them again
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
