"""How many true regions a system proposes at all, whatever it calls them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ovdemo.systems.base import Proposals
from ovdemo.upsampling import tiles

_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class RecallResult:
    """Share of true regions, in percent, that some proposal covers with an IoU of at least a threshold.

    Attributes:
        at_50: at IoU 0.5.
        mean: mean over IoU 0.5, 0.55 .. 0.95, called average recall on COCO.
        regions, pictures: what both rest on; without regions both are ``None``.
    """

    at_50: float | None
    mean: float | None
    regions: int
    pictures: int


class MaskRecall:
    """Counts true regions by the best overlap that any proposal reaches."""

    def __init__(self) -> None:
        self._reached = np.zeros(len(_THRESHOLDS), np.int64)
        self._regions = 0
        self._pictures = 0

    def update(self, best: np.ndarray) -> None:
        """Add a picture: (R,) best IoU of each true region, see :func:`best_overlaps`."""
        self._reached += (best[:, None] >= _THRESHOLDS).sum(0)
        self._regions += len(best)
        self._pictures += 1

    def result(self) -> RecallResult:
        """The recalls so far."""
        if not self._regions:
            return RecallResult(None, None, 0, self._pictures)
        share = 100 * self._reached / self._regions
        return RecallResult(float(share[0]), float(share.mean()), self._regions, self._pictures)


@torch.inference_mode()
def best_overlaps(proposals: Proposals, ids: np.ndarray) -> np.ndarray:
    """The greatest IoU of each true region with any raw proposal (logit > 0 at the picture's size).

    Pixels outside of every region stay in the unions: whatever they are, they are known not to be of this region, and
    without them one proposal of the whole picture would find every lone object.

    Args:
        proposals: N masks of the picture.
        ids: (H, W) region ids at the picture's size, 0 where there is none.

    Returns:
        (R,) float64, in the order of the ids present.
    """
    present, place = np.unique(ids, return_inverse=True)
    device = proposals.mask_logits.device
    regions = torch.from_numpy(place.reshape(ids.shape)).to(device)
    shared = torch.zeros(len(proposals), len(present), dtype=torch.int64, device=device)
    for tile in tiles(proposals):
        active = (tile.high > -1e-3).nonzero().flatten()  # the slack covers rounding of the bound
        inside = (tile.logits(active) > 0).flatten(0, 1)
        # A tile holds far fewer pixels than float32 counts exactly.
        member = torch.nn.functional.one_hot(regions[tile.rows, tile.columns].flatten(), len(present))
        shared[active] += (inside.float().T @ member.float()).long()
    union = shared.sum(1, keepdim=True) + regions.flatten().bincount(minlength=len(present)) - shared
    overlaps = (shared.double() / union).cpu().numpy()
    return np.asarray(overlaps.max(0, initial=0.0)[present != 0])
