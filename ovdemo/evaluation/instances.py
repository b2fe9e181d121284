"""Average precision of instance masks, by COCO's own evaluation code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovdemo.evaluation.truth import SegmentMap
from ovdemo.segmentation import Segmentation
from ovdemo.vocabulary import Kind

_INSTANCES = 100  # a picture, the best-scoring ones: COCO's rule

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ScoredMask:
    """A predicted instance: class, confidence and (H, W) bool mask. Masks of one picture may overlap."""

    class_index: int
    score: float
    mask: np.ndarray


@dataclass(frozen=True)
class ClassPrecision:
    """Average precision of one class with true instances, in percent."""

    class_index: int
    ap: float


@dataclass(frozen=True)
class InstanceResult:
    """Means over the classes with true instances, in percent; ``None`` when there are no true instances.

    ``ap`` averages over IoU thresholds 0.5, 0.55 .. 0.95; ``ap50`` and ``ap75`` are at one threshold.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    per_class: tuple[ClassPrecision, ...]
    instances: int
    pictures: int


class InstancePrecision:
    """Keeps run lengths only, and hands them to pycocotools at the end (Lin et al., ECCV 2014)."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        """Take the kind of every class: things only are instances."""
        self._things = frozenset(index for index, kind in enumerate(kinds) if kind == "thing")
        self._truth: list[Json] = []
        self._found: list[Json] = []
        self._images: list[Json] = []

    def update(self, truth: SegmentMap, predicted: Iterable[ScoredMask]) -> None:
        """Add a picture. What matches a crowd of its class counts neither for nor against."""
        height, width = truth.ids.shape
        self._images.append({"id": len(self._images) + 1, "height": height, "width": width})
        for segment in truth.segments:
            if segment.class_index in self._things:
                annotation = self._annotation(segment.class_index, truth.ids == segment.id, len(self._truth))
                self._truth.append(annotation | {"iscrowd": int(segment.crowd)})
        for instance in predicted:
            annotation = self._annotation(instance.class_index, instance.mask, len(self._found))
            self._found.append(annotation | {"iscrowd": 0, "score": float(instance.score)})

    def result(self) -> InstanceResult:
        """The precisions so far."""
        instances = sum(not annotation["iscrowd"] for annotation in self._truth)
        if not instances:
            return InstanceResult(None, None, None, (), 0, len(self._images))
        precision = self._precision()  # (thresholds, recalls, classes)
        with_truth = [k for k in range(len(self._things)) if (precision[..., k] > -1).all()]
        known = precision[..., with_truth]
        per_class = tuple(
            ClassPrecision(class_index, float(100 * precision[..., place].mean()))
            for place, class_index in enumerate(sorted(self._things))
            if place in with_truth
        )
        ap, ap50, ap75 = (float(100 * part.mean()) for part in (known, known[0], known[5]))
        return InstanceResult(ap, ap50, ap75, per_class, instances, len(self._images))

    def _annotation(self, class_index: int, mask: np.ndarray, place: int) -> Json:
        lengths = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        area = int(coco_mask.area(lengths))
        # Ids start at 1: the evaluation takes 0 for "no match".
        return {
            "id": place + 1,
            "image_id": self._images[-1]["id"],
            "category_id": class_index,
            "segmentation": lengths,
            "area": area,
        }

    def _precision(self) -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
            evaluation = COCOeval(self._coco(self._truth), self._coco(self._found), "segm")
            evaluation.params.maxDets = [_INSTANCES]
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"])[..., 0, 0]

    def _coco(self, annotations: list[Json]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": self._images,
            "categories": [{"id": index} for index in sorted(self._things)],
            # pycocotools writes into what it is given.
            "annotations": [dict(annotation) for annotation in annotations],
        }
        coco.createIndex()
        return coco


def scored_masks(segmentation: Segmentation) -> Iterator[ScoredMask]:
    """The instances of an answer in instance mode."""
    masks = () if segmentation.masks is None else segmentation.masks
    for segment, mask in zip(segmentation.segments, masks, strict=True):
        yield ScoredMask(segment.class_index, segment.score, mask)
