""" "Noisier" as a number: how often neighbours differ, and whether clusters end where segments do."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ovdemo.features.maps import resize_cells


@dataclass(frozen=True)
class BoundaryAgreement:
    """How well two sets of boundary cells agree, within a tolerance.

    Attributes:
        precision: share of the clusters' boundary cells that lie near one of the segmentation's.
        recall: share of the segmentation's boundary cells that lie near one of the clusters'.
    """

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


def roughness(labels: np.ndarray) -> float:
    """Share of the pairs of 4-neighbours of a label map (h, w) that have different labels, 0..1; 0 for one cell."""
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    pairs = across.size + down.size
    return float((across.sum() + down.sum()) / pairs) if pairs else 0.0


def boundary_agreement(labels: np.ndarray, id_map: np.ndarray, *, tolerance: int = 1) -> BoundaryAgreement:
    """Compare the boundaries of clusters with those of a segmentation of the same picture.

    The segmentation is brought to the clusters' grid by what is under each cell's centre. A boundary cell has a
    4-neighbour of another label; it lies near another where neither row nor column differ by more than ``tolerance``.
    A share of no cells at all is 1.

    Args:
        labels: (h, w) of the clusters.
        id_map: (H, W) segment ids; 0, where nothing is assigned, is a label like any other.
        tolerance: cells.
    """
    ours, theirs = _boundary(labels), _boundary(resize_cells(id_map, (labels.shape[0], labels.shape[1])))
    return BoundaryAgreement(_share_near(ours, theirs, tolerance), _share_near(theirs, ours, tolerance))


def _boundary(labels: np.ndarray) -> np.ndarray:
    """(h, w) bool."""
    cells = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    cells[:, 1:] |= across
    cells[:, :-1] |= across
    cells[1:] |= down
    cells[:-1] |= down
    return cells


def _share_near(cells: np.ndarray, others: np.ndarray, tolerance: int) -> float:
    side = 2 * tolerance + 1
    near = cv2.dilate(others.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)
    return float(near[cells].mean()) if cells.any() else 1.0
