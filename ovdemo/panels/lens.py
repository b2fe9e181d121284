"""What a lens shows of features that were read: clusters, principal components, or how close they are to something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ovdemo.errors import UserError
from ovdemo.features import (
    ClusterMap,
    Contrast,
    Upsampling,
    boundary_agreement,
    click_map,
    draw_clusters,
    draw_colours,
    draw_heat,
    match_colours,
    principal_colours,
    roughness,
    shared_range,
    word_map,
)
from ovdemo.features.maps import Size, resize_cells
from ovdemo.panels.desk import FeatureDesk, Reading
from ovdemo.vocabulary import Vocabulary, parse_classes

LensKind = Literal["k-means", "PCA", "word", "click"]


@dataclass(frozen=True)
class Lens:
    """How features are looked at.

    Attributes:
        kind: which of the lenses; each of the others belongs to one of them.
        k: k-means: number of clusters.
        median: k-means: whether label maps are filtered.
        joint: k-means: whether all maps of one layer share their clusters.
        foreground: PCA: whether the background is left out.
        words: word: the class to look for, then those that it is contrasted with, by commas.
        contrast: word: see :func:`~ovdemo.features.word_map`.
        point: click: (x, y) in pixels of the picture; None is its middle.
    """

    kind: LensKind = "k-means"
    k: int = 8
    median: bool = False
    joint: bool = False
    foreground: bool = False
    words: str = ""
    contrast: Contrast = "none"
    point: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Heat:
    """Similarities (h, w), and the values that are shown darkest and brightest."""

    values: np.ndarray
    limits: tuple[float, float]


@dataclass(frozen=True, eq=False)
class View:
    """One panel.

    Attributes:
        reading: what is looked at.
        content: clusters, principal components (h, w, 3) in 0..1, or similarities.
        roughness: of clusters: share of the pairs of 4-neighbours that differ.
        agreement: of clusters: F1 of their boundaries with a segmentation's, where one was given.
    """

    reading: Reading
    content: ClusterMap | Heat | np.ndarray
    roughness: float | None = None
    agreement: float | None = None

    def draw(self, size: Size, upsampling: Upsampling) -> np.ndarray:
        """The panel as (H, W, 3) uint8."""
        if isinstance(self.content, ClusterMap):
            return draw_clusters(self.content, size, upsampling)
        if isinstance(self.content, Heat):
            return draw_heat(self.content.values, self.content.limits, size, upsampling)
        return draw_colours(self.content, size, upsampling)

    @property
    def cells(self) -> np.ndarray:
        """Labels (h, w) uint8, components (h, w, 3) or similarities (h, w) float32."""
        if isinstance(self.content, ClusterMap):
            return self.content.labels
        return self.content.values if isinstance(self.content, Heat) else self.content


def look(
    desk: FeatureDesk, readings: Sequence[Reading], lens: Lens, id_map: np.ndarray | None = None
) -> tuple[View | str, ...]:
    """Look at readings of one picture through a lens; no network but a text tower is asked.

    Colours mean the same in all panels: clusters are matched, components are fitted on all maps of a layer together,
    similarities share their scale.

    Args:
        desk: remembers clusters and words.
        readings: in the order in which colours are handed on.
        lens: how.
        id_map: (H, W) of a segmentation, to compare boundaries of clusters with.

    Returns:
        For each reading a view, or the sentence that says why there is none.

    Raises:
        UserError: the lens lacks a word.
    """
    return _LENSES[lens.kind](desk, readings, lens, id_map)


def bounded(cells: np.ndarray, side: int) -> np.ndarray:
    """Cells (h, w, ...) with at most ``side`` a direction; of more, those at even distances."""
    height, width = (min(side, length) for length in cells.shape[:2])
    return resize_cells(cells, (height, width))


_Found = tuple[View | str, ...]


def _clusters(desk: FeatureDesk, readings: Sequence[Reading], lens: Lens, id_map: np.ndarray | None) -> _Found:
    groups = _by_layer(readings) if lens.joint else [[index] for index in range(len(readings))]
    maps: dict[int, ClusterMap] = {}
    sentences: dict[int, str] = {}
    for group in groups:
        try:
            made = desk.clusters([readings[index] for index in group], lens.k, median=lens.median)
            maps |= dict(zip(group, made, strict=True))
        except UserError as error:
            sentences |= dict.fromkeys(group, str(error))
    order = sorted(maps)
    matched = dict(zip(order, match_colours([maps[index] for index in order]), strict=True))
    return tuple(
        sentences[index] if index in sentences else _cluster_view(reading, matched[index], id_map)
        for index, reading in enumerate(readings)
    )


def _cluster_view(reading: Reading, panel: ClusterMap, id_map: np.ndarray | None) -> View:
    agreement = None if id_map is None else boundary_agreement(panel.labels, id_map).f1
    return View(reading, panel, roughness(panel.labels), agreement)


def _components(desk: FeatureDesk, readings: Sequence[Reading], lens: Lens, id_map: np.ndarray | None) -> _Found:
    colours: dict[int, np.ndarray] = {}
    for group in _by_layer(readings):
        maps = [readings[index].features for index in group]
        colours |= dict(zip(group, principal_colours(maps, foreground=lens.foreground), strict=True))
    return tuple(View(reading, colours[index]) for index, reading in enumerate(readings))


def _word(desk: FeatureDesk, readings: Sequence[Reading], lens: Lens, id_map: np.ndarray | None) -> _Found:
    classes = parse_classes(lens.words).classes
    vocabulary = Vocabulary(classes[:1] if lens.contrast == "none" else classes)  # the rest would be encoded in vain

    def similarity(reading: Reading) -> np.ndarray:
        features = reading.features
        if not features.layer.projected:
            raise UserError("This layer does not lie among the words: choose the row “final map” of a CLIP.")
        return word_map(features, desk.embed(features.source, vocabulary), 0, lens.contrast)

    return _heat(readings, similarity)


def _click(desk: FeatureDesk, readings: Sequence[Reading], lens: Lens, id_map: np.ndarray | None) -> _Found:
    def similarity(reading: Reading) -> np.ndarray:
        height, width = reading.features.picture
        return click_map(reading.features, *(lens.point or (width / 2, height / 2)))

    return _heat(readings, similarity)


def _heat(readings: Sequence[Reading], similarity: Callable[[Reading], np.ndarray]) -> _Found:
    found: list[np.ndarray | str] = []
    for reading in readings:
        try:
            found.append(similarity(reading))
        except UserError as error:
            found.append(str(error))
    maps = [cells for cells in found if not isinstance(cells, str)]
    limits = shared_range(maps) if maps else (0.0, 1.0)
    return tuple(
        cells if isinstance(cells, str) else View(reading, Heat(cells, limits))
        for reading, cells in zip(readings, found, strict=True)
    )


def _by_layer(readings: Sequence[Reading]) -> list[list[int]]:
    """Indices of the readings of each layer."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, reading in enumerate(readings):
        groups.setdefault(reading.features.space, []).append(index)
    return list(groups.values())


_LENSES: Mapping[LensKind, Callable[[FeatureDesk, Sequence[Reading], Lens, np.ndarray | None], _Found]] = {
    "k-means": _clusters,
    "PCA": _components,
    "word": _word,
    "click": _click,
}
LENSES: tuple[LensKind, ...] = tuple(_LENSES)

CAPTIONS: Mapping[LensKind, str] = {
    "k-means": (
        "Cells of one colour have like features. Look whether a cluster keeps to one object and ends where the object "
        "ends (edges), and from left to right whether it turns finer or only noisier (rough)."
    ),
    "PCA": (
        "The three directions in which a layer's features differ most, as red, green and blue. Look for parts that "
        "share a colour wherever they are, and for colours that change where nothing in the picture does."
    ),
    "word": (
        "The brighter a cell, the closer its feature is to the word. Look whether the brightest cells lie on what the "
        "word names, and what else lights up; a contrast with other words takes away what they all share."
    ),
    "click": (
        "The brighter a cell, the more it is like the one under the ring; click another one. Look whether the rest of "
        "that object lights up with it, and how much of what is around it does."
    ),
}
"""What to look for through each lens."""
