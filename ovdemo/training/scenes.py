"""What the trainers learn from: a square picture with masks and the concepts that they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovdemo.systems.fcclip import PIXEL_MEAN, PIXEL_STD


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


def tower_input(pictures: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Pictures (S, S, 3) uint8 of one size as a batch for the image tower: (B, 3, S, S) float32, normalised."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2) - mean) / std
