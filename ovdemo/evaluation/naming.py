"""How well the frozen CLIP names true regions: the out-of-vocabulary classifier with perfect masks.

FC-CLIP (Yu et al., NeurIPS 2023) asks the same in its Table 9: ground-truth masks are pooled on the frozen features
exactly as proposals are, and the nearest class embedding is the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ovdemo.fusion import class_logits
from ovdemo.systems.base import Features, Geometry, System
from ovdemo.vocabulary import TextEmbeddings

_MASK_STRIDE = 4  # of a system's own mask logits over its padded input


@dataclass(frozen=True)
class NamingResult:
    """Accuracy of naming regions.

    Attributes:
        top1: percent of the regions whose best class is the true one; ``None`` without regions.
        regions, pictures: what it rests on.
        too_small: further regions that reach no cell of the features, so that nothing can be pooled.
    """

    top1: float | None
    regions: int
    too_small: int
    pictures: int


class NamingAccuracy:
    """Counts regions named right."""

    def __init__(self) -> None:
        self._right = self._regions = self._too_small = self._pictures = 0

    def update(self, truth: np.ndarray, named: np.ndarray) -> None:
        """Add a picture's regions: (R,) true class indices, and (R,) given ones, -1 for a region too small to pool."""
        pooled = named >= 0
        self._right += int((named == truth)[pooled].sum())
        self._regions += int(pooled.sum())
        self._too_small += int((~pooled).sum())
        self._pictures += 1

    def result(self) -> NamingResult:
        """The accuracy so far."""
        top1 = 100 * self._right / self._regions if self._regions else None
        return NamingResult(top1, self._regions, self._too_small, self._pictures)


@torch.inference_mode()
def name_regions(system: System, features: Features, masks: Iterable[np.ndarray], text: TextEmbeddings) -> np.ndarray:
    """The best class of each region by the frozen CLIP alone.

    Args:
        system: whose frozen CLIP pools the masks.
        features: of the picture.
        masks: R true masks, (H, W) bool at the picture's size.
        text: the classes.

    Returns:
        (R,) class indices, -1 where a mask reaches no cell of the features. "No object" is never the answer.
    """
    logits = torch.cat([mask_logits(mask, features.geometry) for mask in masks]).to(system.device)
    embeddings, reached = system.embed_masks(features, logits)
    best = class_logits(embeddings, text, system.classifiers.void, 1.0)[:, :-1].argmax(-1)
    return torch.where(reached, best, -1).cpu().numpy()


def mask_logits(mask: np.ndarray, geometry: Geometry) -> Tensor:
    """A true mask as a proposal would give it: (1, H / 4, W / 4) over the padded input, from -1 outside to 1 inside."""
    signs = torch.from_numpy(mask).float()[None, None] * 2 - 1
    resized = functional.interpolate(signs, size=geometry.resized, mode="area")
    bottom, right = (whole - part for whole, part in zip(geometry.padded, geometry.resized, strict=True))
    padded = functional.pad(resized, (0, right, 0, bottom), value=-1.0)
    return functional.avg_pool2d(padded, _MASK_STRIDE)[0]
