"""Intersection over union of semantic maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ovdemo.evaluation.truth import UNLABELLED


@dataclass(frozen=True)
class ClassIoU:
    """One class present in the ground truth: IoU in percent, and its labelled pixels."""

    class_index: int
    iou: float
    pixels: int


@dataclass(frozen=True)
class SemanticResult:
    """Mean IoU in percent over the classes present in the ground truth; ``None`` when nothing was labelled."""

    miou: float | None
    per_class: tuple[ClassIoU, ...]
    pictures: int


class SemanticIoU:
    """Counts pixels of all pictures together, as is the custom (Everingham et al., IJCV 2015, section 4.2)."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._confusion = np.zeros((classes, classes + 1), np.int64)  # last column: no class predicted
        self._pictures = 0

    def update(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Add a picture's two (H, W) maps of class indices; pixels of unlabelled truth do not count at all."""
        known = truth != UNLABELLED
        columns = self._classes + 1
        given = predicted[known].astype(np.int64) % columns  # UNLABELLED, -1, is the last column
        pairs = truth[known].astype(np.int64) * columns + given
        self._confusion += np.bincount(pairs, minlength=self._confusion.size).reshape(self._confusion.shape)
        self._pictures += 1

    def result(self) -> SemanticResult:
        """The IoUs so far."""
        both = np.diagonal(self._confusion)
        labelled = self._confusion.sum(1)
        union = labelled + self._confusion[:, :-1].sum(0) - both
        rows = tuple(
            ClassIoU(index, float(100 * both[index] / union[index]), int(labelled[index]))
            for index in np.flatnonzero(labelled).tolist()
        )
        return SemanticResult(float(np.mean([row.iou for row in rows])) if rows else None, rows, self._pictures)


class AreaIoU:
    """The IoU of single classes over every pixel, where all that is none of them is known to be something else.

    A class's IoU is ``|predicted and true| / |predicted or true|`` with the pixels of all pictures counted together.
    """

    def __init__(self, classes: int) -> None:
        self._other = classes
        self._counts = SemanticIoU(classes + 1)

    def update(self, areas: np.ndarray, predicted: np.ndarray) -> None:
        """Add a picture's two (H, W) maps of class indices, :data:`UNLABELLED` where there is another or no class."""
        self._counts.update(np.where(areas == UNLABELLED, self._other, areas), predicted)

    def result(self) -> SemanticResult:
        """The classes that were somewhere, and the mean of their IoUs."""
        found = self._counts.result()
        rows = tuple(row for row in found.per_class if row.class_index != self._other)
        return SemanticResult(float(np.mean([row.iou for row in rows])) if rows else None, rows, found.pictures)
