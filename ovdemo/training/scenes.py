"""What the trainers learn from: a square picture with masks and the concepts that they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Scene:
    """One training picture.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        masks: (R, S, S) bool; none is empty. They may overlap (a dress on a person).
        concepts: (R,) int64 index into the concepts, or -1 for a region without a name.
        is_thing: (R,) bool; of a nameless region: true.
        labelled: (S, S) bool, where the masks say everything there is; elsewhere something unmarked may lie.
        complete: concepts of which every instance is a mask, so that nothing unmarked is one of them.
    """

    pixels: np.ndarray
    masks: np.ndarray
    concepts: np.ndarray
    is_thing: np.ndarray
    labelled: np.ndarray
    complete: frozenset[int] = frozenset()
