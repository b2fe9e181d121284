"""k-means of features, and cluster colours that stay the same from panel to panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ovdemo.errors import UserError
from ovdemo.features.maps import FeatureMap, joint_rows, resize_cells, sample_rows

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

CLUSTERS = (2, 20)

_STARTS = 3  # k-means runs from different centroids; the tightest clusters win
# Cells at most that centroids are fitted on; every cell is then assigned. All 19,600 of a stride of 8 at 1120 px would
# lie 1 % nearer to their centroids, and ten panels would take more than twice as long.
_FITTED = 2048
_ROUNDS = 50  # at most, a start
_MEDIAN = 5  # cells a side


@dataclass(frozen=True, eq=False)
class ClusterMap:
    """A map cut into clusters.

    Attributes:
        labels: (h, w) uint8 below k.
        centroids: (k, C) float32; row i is cluster i's.
        space: of the map, see :attr:`FeatureMap.space`; within one, centroids can be compared.
    """

    labels: np.ndarray
    centroids: np.ndarray
    space: tuple[str, str]


def cluster(maps: Sequence[FeatureMap], k: int, *, seed: int = 0, median: bool = False) -> tuple[ClusterMap, ...]:
    """k-means of features at length one: of one map, or jointly of one layer's maps at several sizes.

    Replays FC-CLIP's Figure 1 and EOV-Seg's Figures 3 and 9, whose papers state neither k nor any filter. The best of
    three seeded starts is kept; above 2048 cells, centroids are fitted on that many of them, drawn at random.

    Args:
        maps: of one source and layer.
        k: number of clusters, 2 to 20.
        seed: of the starts and the draw; equal seeds give equal clusters.
        median: filter each label map with a 5 x 5 median. Labels have no order, so where three clusters meet the
            filter may put the one whose number lies between the others'.

    Returns:
        One cluster map a map, all with the same centroids.

    Raises:
        UserError: k is out of range, or there are fewer cells than clusters.
        ValueError: maps of several sources or layers, or none.
    """
    if not CLUSTERS[0] <= k <= CLUSTERS[1]:
        raise UserError(f"The number of clusters must lie between {CLUSTERS[0]} and {CLUSTERS[1]}; {k} does not.")
    rows = sample_rows(joint_rows(maps), _FITTED, seed)
    if len(rows) < k:
        raise UserError(
            f"{k} clusters cannot be made of {len(rows)} cells: choose fewer clusters, a larger input size or a finer "
            "layer."
        )
    from sklearn.cluster import KMeans  # noqa: PLC0415 - a second that a page need not wait for when it starts

    model = KMeans(k, n_init=_STARTS, max_iter=_ROUNDS, random_state=seed).fit(rows)
    return tuple(_assign(model, panel, median) for panel in maps)


def match_colours(panels: Sequence[ClusterMap]) -> tuple[ClusterMap, ...]:
    """Renumber the clusters of each panel after those of an earlier one, so that one cluster keeps its colour.

    A panel follows the first one of its own space, by the Hungarian assignment of least total distance between
    centroids; the first of a space follows the very first panel, by the assignment of largest overlap of the two
    label maps on the finer of their grids. No panel depends on a later one.

    Raises:
        ValueError: panels of different k.
    """
    if len({len(panel.centroids) for panel in panels}) > 1:
        raise ValueError("only panels of the same number of clusters can be matched")
    matched: list[ClusterMap] = []
    for panel in panels:
        relative = next((earlier for earlier in matched if earlier.space == panel.space), None)
        if relative is not None:
            matched.append(_renumber(panel, cdist(relative.centroids, panel.centroids)))
        elif matched:
            matched.append(_renumber(panel, -_overlap(matched[0], panel)))
        else:
            matched.append(panel)
    return tuple(matched)


def _assign(model: KMeans, panel: FeatureMap, median: bool) -> ClusterMap:
    labels = model.predict(panel.unit).astype(np.uint8).reshape(panel.grid)
    return ClusterMap(
        cv2.medianBlur(labels, _MEDIAN) if median else labels,
        np.asarray(model.cluster_centers_, np.float32),
        panel.space,
    )


def _renumber(panel: ClusterMap, cost: np.ndarray) -> ClusterMap:
    """Give the cluster in column j of a (k, k) cost the number of the row that it is assigned to."""
    _, order = linear_sum_assignment(cost)
    return ClusterMap(np.argsort(order).astype(np.uint8)[panel.labels], panel.centroids[order], panel.space)


def _overlap(reference: ClusterMap, panel: ClusterMap) -> np.ndarray:
    """(k, k) number of cells on a common grid that are in each pair of clusters."""
    size = (
        max(reference.labels.shape[0], panel.labels.shape[0]),
        max(reference.labels.shape[1], panel.labels.shape[1]),
    )
    k = len(reference.centroids)
    rows, columns = (resize_cells(labels, size).astype(np.int64) for labels in (reference.labels, panel.labels))
    return np.bincount((rows * k + columns).ravel(), minlength=k * k).reshape(k, k)
