"""What a labelled picture says: segments, classes of pixels, unnamed regions and named ones, whichever it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from ovdemo.images import Picture
from ovdemo.segmentation import Segmentation
from ovdemo.vocabulary import Vocabulary

UNLABELLED = -1  # in a map of class indices


@dataclass(frozen=True)
class LabelledSegment:
    """One segment of a map: the value of its pixels (from 1), its class, and whether it is a crowd of its class."""

    id: int
    class_index: int
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class SegmentMap:
    """Disjoint segments: an (H, W) integer map of ids and what they are. Ids that are not listed count as nothing."""

    ids: np.ndarray
    segments: tuple[LabelledSegment, ...]

    @classmethod
    def of(cls, segmentation: Segmentation) -> SegmentMap:
        """The segments of a panoptic answer."""
        return cls(segmentation.id_map, tuple(LabelledSegment(s.id, s.class_index) for s in segmentation.segments))

    def classes(self) -> np.ndarray:
        """(H, W) class index of each pixel, crowds included; :data:`UNLABELLED` where there is no segment."""
        return relabel(self.ids, {segment.id: segment.class_index for segment in self.segments}, UNLABELLED)

    def regions(self) -> np.ndarray:
        """(H, W) ids without the crowds, 0 where there is no segment."""
        return relabel(self.ids, {segment.id: segment.id for segment in self.segments if not segment.crowd}, 0)


@dataclass(frozen=True, eq=False)
class NamedRegion:
    """A region whose class is known.

    Attributes:
        source: what kind of label it comes from: accuracies are counted apart for each.
        class_index: its class.
        mask: makes its (H, W) bool mask; many regions of a large picture must not lie in memory at once.
    """

    source: str
    class_index: int
    mask: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The labels of one picture. What is absent is not measured; what is not labelled is never background.

    Attributes:
        segments: every segment with its class, for panoptic quality and instance AP.
        classes: (H, W) class indices, :data:`UNLABELLED` where unknown, for mIoU.
        areas: (H, W) class indices for the IoU of single classes, :data:`UNLABELLED` where something else is.
        regions: maps of region ids (0: none) under the name of their kind, for the recall of proposals.
        named: for the accuracy of naming.
    """

    segments: SegmentMap | None = None
    classes: np.ndarray | None = None
    areas: np.ndarray | None = None
    regions: Mapping[str, np.ndarray] = field(default_factory=dict)
    named: tuple[NamedRegion, ...] = ()


class LabelledPictures(Protocol):
    """A data set: its name, the words to ask for (maybe none), and pictures that are read one at a time."""

    @property
    def name(self) -> str:
        """How reports call it."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Its classes; class indices of the ground truth point into them."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[Picture, GroundTruth]:
        """Read one picture and its labels.

        Raises:
            UserError: either cannot be read.
        """


def relabel(ids: np.ndarray, values: Mapping[int, int], default: int) -> np.ndarray:
    """(H, W) int32: each id replaced by its value, or by the default where it has none."""
    present, place = np.unique(ids, return_inverse=True)
    table = np.array([values.get(identity, default) for identity in present.tolist()], np.int32)
    return table[place].reshape(ids.shape)


def truth_of_segments(segments: SegmentMap) -> GroundTruth:
    """All that fully named segments can tell."""
    return GroundTruth(
        segments,
        segments.classes(),
        regions={"segments": segments.regions()},
        named=named_segments(segments),
    )


def named_segments(segments: SegmentMap) -> tuple[NamedRegion, ...]:
    """One named region a segment that is no crowd."""
    return tuple(
        NamedRegion("segments", segment.class_index, partial(np.equal, segments.ids, segment.id))
        for segment in segments.segments
        if not segment.crowd
    )


def named_classes(classes: np.ndarray) -> tuple[NamedRegion, ...]:
    """One named region a class present in an (H, W) map of class indices: all of its pixels."""
    present = [index for index in np.unique(classes).tolist() if index != UNLABELLED]
    return tuple(NamedRegion("class areas", index, partial(np.equal, classes, index)) for index in present)


def named_box(class_index: int, size: tuple[int, int], box: Sequence[float]) -> NamedRegion:
    """The pixels of an (H, W) picture that a box ``(x, y, width, height)`` touches, as one named region."""
    x, y, width, height = box
    rows = slice(max(math.floor(y), 0), max(math.ceil(y + height), 0))
    columns = slice(max(math.floor(x), 0), max(math.ceil(x + width), 0))
    return NamedRegion("boxes", class_index, partial(_rectangle, size, rows, columns))


def _rectangle(size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask
