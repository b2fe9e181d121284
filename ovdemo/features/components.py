"""Principal components of features as colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovdemo.features.maps import FeatureMap, joint_rows, sample_rows

_FITTED = 4096  # cells at most
_PERCENTILES = (1, 99)
_CHANNELS = 3
_FLAT = 1e-5  # features have length one; a spread below is rounding


def principal_colours(maps: Sequence[FeatureMap], *, foreground: bool = False) -> tuple[np.ndarray, ...]:
    """The first three principal components of features at length one, as red, green and blue.

    Components are fitted on the cells of all maps together, or 4096 of them drawn at random. Each one's sign is
    scikit-learn's, which makes the loading of largest magnitude positive. Its 1st percentile over the cells becomes 0,
    its 99th 1; what lies beyond is clipped, and a component without spread is 0.5 everywhere.

    With ``foreground``, as DINOv2 shows them (Oquab et al., 2023), cells are first split where the first component is
    zero. The side that holds fewer cells of the maps' borders is the foreground; components and percentiles are made
    anew from it alone, and the background is black. Where one side is empty, all is foreground.

    Returns:
        One (h, w, 3) float32 in 0..1 a map.

    Raises:
        ValueError: maps of several sources or layers, or none.
    """
    rows = joint_rows(maps)
    inside = _foreground(rows, maps) if foreground else np.ones(len(rows), bool)
    scores = _scores(rows[inside])
    low, high = np.percentile(scores, _PERCENTILES, axis=0)
    spread = high - low
    colours = np.zeros((len(rows), _CHANNELS), np.float32)
    scaled = np.clip((scores - low) / np.maximum(spread, _FLAT), 0, 1)
    colours[inside] = np.where(spread > _FLAT, scaled, 0.5)
    ends = np.cumsum([len(panel.unit) for panel in maps])[:-1]
    parts = np.split(colours, ends)
    return tuple(part.reshape(*panel.grid, _CHANNELS) for part, panel in zip(parts, maps, strict=True))


def _scores(rows: np.ndarray) -> np.ndarray:
    """(n, 3) principal components of (n, C), zero where n or C give fewer and where all rows are the same."""
    sample = sample_rows(rows, _FITTED)
    if np.ptp(sample, axis=0).max() < _FLAT:
        return np.zeros((len(rows), _CHANNELS), np.float32)
    from sklearn.decomposition import PCA  # noqa: PLC0415 - a second that a page need not wait for when it starts

    model = PCA(min(_CHANNELS, *sample.shape), random_state=0).fit(sample)
    scores = model.transform(rows)
    return np.pad(scores, ((0, 0), (0, _CHANNELS - scores.shape[1])))


def _foreground(rows: np.ndarray, maps: Sequence[FeatureMap]) -> np.ndarray:
    """(n,) bool, see :func:`principal_colours`."""
    positive = _scores(rows)[:, 0] > 0
    border = np.concatenate([_border(panel.grid) for panel in maps])
    inside = positive if 2 * positive[border].sum() <= border.sum() else ~positive
    return inside if inside.any() else ~inside


def _border(grid: tuple[int, int]) -> np.ndarray:
    cells = np.ones(grid, bool)
    cells[1:-1, 1:-1] = False
    return cells.ravel()
