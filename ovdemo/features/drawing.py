"""Panels as pictures, grids of panels as PNG, and features as files."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Literal

import cv2
import matplotlib
import numpy as np

from ovdemo.features.clusters import ClusterMap
from ovdemo.features.maps import FeatureMap, Size, resize_cells
from ovdemo.images import Picture, resize
from ovdemo.rendering import PALETTE

Upsampling = Literal["nearest", "bilinear"]

_HEAT = "cividis"  # even in lightness, and the same for those who do not see red or green
_PANEL_INCHES = 2.4
_DOTS_PER_INCH = 160
_LONGEST_LABEL = 60  # characters


def display_size(picture: Size, longest: int = 640) -> Size:
    """The (height, width) of a panel: the picture's shape, its longer side ``longest`` pixels."""
    scale = longest / max(picture)
    return max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale))


def draw_clusters(panel: ClusterMap, size: Size, upsampling: Upsampling = "nearest") -> np.ndarray:
    """Clusters in the colours of :data:`ovdemo.rendering.PALETTE`, (H, W, 3) uint8.

    Bilinear upsampling gives each pixel the cluster of largest interpolated share: outlines are smooth and no colour
    appears that is not a cluster's.
    """
    labels = resize_cells(panel.labels, size) if upsampling == "nearest" else _smooth_labels(panel, size)
    return np.asarray(np.asarray(PALETTE, np.uint8)[labels])


def draw_colours(colours: np.ndarray, size: Size, upsampling: Upsampling = "nearest") -> np.ndarray:
    """Principal components (h, w, 3) in 0..1 as (H, W, 3) uint8."""
    return np.asarray((255 * _upsample(colours, size, upsampling) + 0.5).astype(np.uint8))


def draw_heat(
    values: np.ndarray, limits: tuple[float, float], size: Size, upsampling: Upsampling = "nearest"
) -> np.ndarray:
    """Similarities (h, w) as a heat map (H, W, 3) uint8: ``limits`` are the darkest and the brightest value."""
    low, high = limits
    shares = (_upsample(values, size, upsampling) - low) / (high - low if high > low else 1)
    return np.asarray(matplotlib.colormaps[_HEAT](np.clip(shares, 0, 1), bytes=True)[..., :3])


def lay_over(drawn: np.ndarray, picture: Picture, opacity: float) -> np.ndarray:
    """A panel (H, W, 3) over the picture, which is resized to it: 0 shows the picture alone, 1 the panel alone."""
    below = resize(picture.pixels, (drawn.shape[0], drawn.shape[1]))
    return np.asarray(cv2.addWeighted(drawn, opacity, below, 1 - opacity, 0))


def grid_png(
    panels: Sequence[Sequence[np.ndarray | None]], rows: Sequence[str], columns: Sequence[str], title: str = ""
) -> bytes:
    """A labelled grid of panels as a PNG.

    Args:
        panels: by row and column, each (H, W, 3) uint8; None leaves a place empty.
        rows, columns: a label each, shortened to 60 characters.
        title: above the grid.
    """
    first = next((panel for row in panels for panel in row if panel is not None), np.zeros((1, 1, 3), np.uint8))
    width, height = _PANEL_INCHES, _PANEL_INCHES * first.shape[0] / first.shape[1]
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that a page need not wait for when it starts

    figure = Figure(figsize=(width * len(columns) + 0.5, height * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, label in enumerate(rows):
        axes[row, 0].set_ylabel(_label(label), parse_math=False)
    for column, label in enumerate(columns):
        axes[0, column].set_title(_label(label), parse_math=False)
    for axis, panel in zip(axes.flat, (panel for row in panels for panel in row), strict=True):
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
        if panel is not None:
            axis.imshow(panel)
    if title:
        figure.suptitle(_label(title), parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()


def features_npz(maps: Sequence[FeatureMap]) -> bytes:
    """Features as a NumPy archive, which loads without pickle.

    It holds ``map_0``, ``map_1``, ..., each (h, w, C) float32, and ``about``: as JSON, a list with each map's source,
    layer, stride, input size, picture size (height, width), and whether it lies in the space of words.
    """
    about = [
        {
            "source": panel.source,
            "layer": panel.layer.name,
            "stride": panel.layer.stride,
            "size": panel.size,
            "picture": panel.picture,
            "projected": panel.layer.projected,
        }
        for panel in maps
    ]
    arrays = {f"map_{index}": panel.values for index, panel in enumerate(maps)}
    arrays["about"] = np.array(json.dumps(about))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _upsample(cells: np.ndarray, size: Size, upsampling: Upsampling) -> np.ndarray:
    if upsampling == "nearest":
        return resize_cells(cells, size)
    return np.asarray(cv2.resize(cells.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR))


def _smooth_labels(panel: ClusterMap, size: Size) -> np.ndarray:
    """(H, W) labels: where two clusters have equal shares, the one of the lower number."""
    best = np.zeros(size, np.float32)
    labels = np.zeros(size, np.uint8)
    for number in np.unique(panel.labels):
        share = _upsample(panel.labels == number, size, "bilinear")
        labels[share > best] = number
        best = np.maximum(best, share)
    return labels


def _label(text: str) -> str:
    """One line that the font can show: what it lacks becomes a box."""
    from matplotlib.font_manager import findfont, get_font  # noqa: PLC0415 - as above

    font = get_font(findfont("DejaVu Sans"))
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST_LABEL else line[: _LONGEST_LABEL - 1] + "…"
    return "".join(char if font.get_char_index(ord(char)) else "□" for char in line)
