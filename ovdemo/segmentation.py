"""The answer: which pixels belong together, and what each segment is called.

These are values only. :mod:`ovdemo.merging` makes them; rendering, export and evaluation read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ovdemo.vocabulary import Kind

Mode = Literal["panoptic", "semantic", "instance"]
Outcome = Literal["segment", "void", "below threshold", "overlapped", "outshone", "outranked", "stuff"]


@dataclass(frozen=True)
class ClassProbability:
    """One bar of a segment's top-five list: a class of the vocabulary and its probability in 0..1."""

    class_index: int
    label: str
    probability: float


@dataclass(frozen=True)
class Evidence:
    """What each classifier said of a segment: its five best classes, best first.

    Probabilities of one classifier sum to one over the classes of the vocabulary; fused probabilities sum to
    ``1 - void``.
    """

    in_vocabulary: tuple[ClassProbability, ...]
    out_of_vocabulary: tuple[ClassProbability, ...]
    fused: tuple[ClassProbability, ...]
    void: float


@dataclass(frozen=True)
class Segment:
    """One labelled segment of a picture.

    Attributes:
        id: value of its pixels in :attr:`Segmentation.id_map`, from 1.
        class_index: index into the vocabulary's classes.
        label: first name of that class.
        kind: ``thing`` or ``stuff``.
        score: confidence in 0..1; the mode's rule is in :mod:`ovdemo.merging`.
        area: number of pixels of its mask.
        box: ``(x, y, width, height)`` of its mask in pixels, COCO's convention.
        seen: whether the class shares a name with the training vocabulary of the weights.
        evidence: the two classifiers' and the fused top five.
        queries: the proposals it was made from, strongest first.
    """

    id: int
    class_index: int
    label: str
    kind: Kind
    score: float
    area: int
    box: tuple[int, int, int, int]
    seen: bool
    evidence: Evidence
    queries: tuple[int, ...]


@dataclass(frozen=True)
class Fate:
    """What the merge did with one proposal.

    Outcomes of panoptic inference, each tried in this order: ``void``, "no object" beat its best class;
    ``below threshold``, its score was not above the object threshold; ``outshone``, it won no pixel of its own mask;
    ``overlapped``, it won too small a share of that mask; ``segment``.

    Outcomes of instance inference, which asks proposals for pairs with a class: ``outranked``, no pair of its was among
    the best; ``stuff``, those that were are of stuff; ``below threshold``, as above, for the score of an instance;
    ``segment``.

    Attributes:
        class_index: its best class.
        label: first name of that class.
        score: fused probability of that class, in 0..1.
        void: its probability of "no object", in 0..1, after the rescue.
        outcome: see above.
        segment: id of the segment that it is, or is part of: the best-scoring one where it is several instances.
        share: pixels that it won over pixels of its own mask, the measure of the overlap threshold; it may exceed 1.
            Panoptic only, and None where it won no pixel of its own mask or never came so far.
    """

    class_index: int
    label: str
    score: float
    void: float
    outcome: Outcome
    segment: int | None = None
    share: float | None = None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented picture.

    Attributes:
        mode: which inference made it.
        id_map: (H, W) int32 at the picture's own size, 0 where nothing is assigned. In instance mode, where masks
            may overlap, it holds the best-scoring instance of each pixel.
        segments: panoptic: in order of id; semantic: one a class present, in class order, ``id = class_index + 1``;
            instance: by falling score.
        labels: label of every class of the vocabulary, in its order.
        kinds: kind of every class of the vocabulary.
        masks: instance mode only: (len(segments), H, W) bool, one whole mask a segment.
        fates: one a proposal, in their order. Empty in semantic mode, which drops none: all add to every pixel.
    """

    mode: Mode
    id_map: np.ndarray
    segments: tuple[Segment, ...]
    labels: tuple[str, ...]
    kinds: tuple[Kind, ...]
    masks: np.ndarray | None = None
    fates: tuple[Fate, ...] = ()

    @property
    def height(self) -> int:
        """Rows of the picture, in pixels."""
        return int(self.id_map.shape[0])

    @property
    def width(self) -> int:
        """Columns of the picture, in pixels."""
        return int(self.id_map.shape[1])

    def mask(self, segment: Segment) -> np.ndarray:
        """The segment's (H, W) bool mask."""
        if self.masks is not None:
            return np.asarray(self.masks[self.segments.index(segment)])
        return np.asarray(self.id_map == segment.id)
