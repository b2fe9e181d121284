"""The value that every lens looks through: one layer of a frozen network on one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ovdemo.errors import UserError

Size = tuple[int, int]

SIZES = (64, 1120)  # pixels; below, maps have a handful of cells; above, no figure of the papers goes


@dataclass(frozen=True)
class Layer:
    """One place in a network where features can be read.

    Attributes:
        name: what :meth:`FeatureSource.features` takes.
        title: for people.
        stride: input pixels a cell, in both directions.
        channels: C, the length of a feature.
        projected: whether features lie in the joint space of pictures and words.
    """

    name: str
    title: str
    stride: int
    channels: int
    projected: bool = False


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features of one picture. The map covers the whole picture, without padding.

    Attributes:
        values: (h, w, C) float32, not normalised.
        source: name of the feature source.
        layer: where in the source they were read.
        size: of the input as asked for, see :func:`input_size`.
        picture: (height, width) of the picture itself, in pixels.
    """

    values: np.ndarray
    source: str
    layer: Layer
    size: int
    picture: Size

    @property
    def grid(self) -> Size:
        """(h, w), the number of cells."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def space(self) -> tuple[str, str]:
        """Maps that share it have comparable features: the source's and the layer's name."""
        return self.source, self.layer.name

    @cached_property
    def unit(self) -> np.ndarray:
        """(h * w, C) float32: every cell's feature at length one, row by row; a zero feature stays zero."""
        rows = self.values.reshape(-1, self.values.shape[2])
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def input_size(picture: Size, size: int, divisor: int) -> Size:
    """The (height, width) at which a network sees a picture: about as many pixels as a square of side ``size``.

    The papers feed squares; keeping their area rather than a side makes the number of cells, and with it time and
    memory, independent of a picture's shape. Each side is rounded to a multiple of ``divisor``, at least one.

    Raises:
        UserError: the size is out of range.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise UserError(f"The input size must lie between {SIZES[0]} and {SIZES[1]} pixels; {size} does not.")
    scale = size / math.sqrt(picture[0] * picture[1])
    height, width = (max(1, round(side * scale / divisor)) * divisor for side in picture)
    return height, width


def joint_rows(maps: Sequence[FeatureMap]) -> np.ndarray:
    """Unit features (n, C) of all cells of several maps.

    Raises:
        ValueError: no map, or maps whose features cannot be compared.
    """
    if len({panel.space for panel in maps}) != 1:
        raise ValueError("only maps of one layer of one source can be looked at together")
    return np.concatenate([panel.unit for panel in maps])


def sample_rows(rows: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """At most ``limit`` of the rows, drawn without replacement."""
    if len(rows) <= limit:
        return rows
    return np.asarray(rows[np.random.default_rng(seed).choice(len(rows), limit, replace=False)])


def resize_cells(cells: np.ndarray, size: Size) -> np.ndarray:
    """A map (h, w, ...) at another size: each new cell takes what is under its centre."""
    rows, columns = (
        (2 * np.arange(target) + 1) * source // (2 * target)
        for source, target in zip(cells.shape[:2], size, strict=True)
    )
    return np.asarray(cells[np.ix_(rows, columns)])
