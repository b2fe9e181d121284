"""Panoptic quality.

Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4: a predicted and a true segment of one class match when
their IoU exceeds one half; then PQ = sum of IoU / (TP + FP / 2 + FN / 2) = SQ x RQ, class by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovdemo.evaluation.truth import SegmentMap, relabel
from ovdemo.vocabulary import Kind


@dataclass(frozen=True)
class PanopticScore:
    """Means over ``classes`` classes, those with a true or a false segment, in percent."""

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True)
class ClassPanoptic:
    """One class: qualities in percent and the counts that they rest on."""

    class_index: int
    pq: float
    sq: float
    rq: float
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True)
class PanopticResult:
    """Panoptic quality of all, thing and stuff classes (``None``: there are none) and of each class that occurred."""

    all: PanopticScore | None
    things: PanopticScore | None
    stuff: PanopticScore | None
    per_class: tuple[ClassPanoptic, ...]
    pictures: int


class PanopticQuality:
    """Counts matches picture by picture."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        """Take the kind of every class; segments hold indices into them."""
        self._kinds = tuple(kinds)
        self._iou = np.zeros(len(kinds))
        self._matches, self._false_positives, self._false_negatives = np.zeros((3, len(kinds)), np.int64)
        self._pictures = 0

    def update(self, truth: SegmentMap, predicted: SegmentMap) -> None:
        """Add a picture. The maps have one size; a pixel of no true segment is void.

        Void leaves the unions. A prediction that lies mostly (by more than half) on void or on crowds of its own class
        is no false positive; crowds are neither found nor missed (section 4.1, "void labels" and "group labels").
        Listed segments without pixels are passed over.
        """
        table = _overlaps(truth, predicted)
        overlap, void = table[1:, 1:], table[0, 1:]
        true_area, predicted_area = table[1:].sum(1), table[:, 1:].sum(0)
        union = true_area[:, None] + (predicted_area - void) - overlap
        true_class = np.array([segment.class_index for segment in truth.segments], np.int64)
        predicted_class = np.array([segment.class_index for segment in predicted.segments], np.int64)
        crowd = np.array([segment.crowd for segment in truth.segments], bool)
        same_class = true_class[:, None] == predicted_class
        # IoU > 1/2 in whole numbers; it makes the match unique.
        match = same_class & ~crowd[:, None] & (2 * overlap > union)
        excused = void + (overlap * (same_class & crowd[:, None])).sum(0)
        missed = ~match.any(1) & ~crowd & (true_area > 0)
        wrong = ~match.any(0) & (2 * excused <= predicted_area) & (predicted_area > 0)
        rows, columns = np.nonzero(match)
        np.add.at(self._iou, true_class[rows], overlap[rows, columns] / union[rows, columns])
        np.add.at(self._matches, true_class[rows], 1)
        np.add.at(self._false_negatives, true_class[missed], 1)
        np.add.at(self._false_positives, predicted_class[wrong], 1)
        self._pictures += 1

    def result(self) -> PanopticResult:
        """The qualities so far."""
        occurred = np.flatnonzero(self._matches + self._false_positives + self._false_negatives).tolist()
        rows = tuple(self._one(index) for index in occurred)
        return PanopticResult(
            all=_mean(rows),
            things=_mean([row for row in rows if self._kinds[row.class_index] == "thing"]),
            stuff=_mean([row for row in rows if self._kinds[row.class_index] == "stuff"]),
            per_class=rows,
            pictures=self._pictures,
        )

    def _one(self, index: int) -> ClassPanoptic:
        iou = float(self._iou[index])
        counts = self._matches, self._false_positives, self._false_negatives
        matches, extra, missed = (int(count[index]) for count in counts)
        whole = matches + extra / 2 + missed / 2
        sq = iou / matches if matches else 0.0
        return ClassPanoptic(index, 100 * iou / whole, 100 * sq, 100 * matches / whole, matches, extra, missed)


def _overlaps(truth: SegmentMap, predicted: SegmentMap) -> np.ndarray:
    """(T + 1, P + 1) pixels shared by each pair of segments; row and column 0 are for pixels of none."""
    rows, columns = (
        relabel(segments.ids, {s.id: place for place, s in enumerate(segments.segments, start=1)}, 0)
        for segments in (truth, predicted)
    )
    shape = len(truth.segments) + 1, len(predicted.segments) + 1
    pairs = rows.astype(np.int64).ravel() * shape[1] + columns.ravel()
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def _mean(rows: Sequence[ClassPanoptic]) -> PanopticScore | None:
    if not rows:
        return None
    pq, sq, rq = np.mean([(row.pq, row.sq, row.rq) for row in rows], axis=0).tolist()
    return PanopticScore(pq, sq, rq, len(rows))
