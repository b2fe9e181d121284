"""What CLIP makes of marked regions: the image tower learns from it, and the decoders follow it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.nn.clip import ClipTower
from ovdemo.systems.fcclip import SIZE_DIVISOR


def embed_regions(tower: ClipTower, dense: Tensor, masks: Tensor, counts: Sequence[int]) -> Tensor:
    """CLIP embeddings of regions, pooled as inference pools them (FC-CLIP, section 3.3), not normalised: (R, D).

    Each region pools the cells that it covers more than half as well as its best, so that a small one still pools
    something.

    Args:
        tower: its head is used.
        dense: (B, C, S / 32, S / 32) the last stage, res5, of the pictures.
        masks: (R, S, S) bool, the regions of all pictures one after the other.
        counts: number of regions of each picture, from the first on.
    """
    picture = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(dense.device)
    area = F.avg_pool2d(masks[:, None].float(), SIZE_DIVISOR)
    return tower.embed_masks(dense[picture], area - 0.5 * area.amax((-2, -1), keepdim=True))[:, 0]
