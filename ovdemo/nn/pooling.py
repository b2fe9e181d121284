"""Averages of features under masks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mask_pool(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Mean of the features where a mask's logit is positive (MaskFormer-style hard pooling).

    Args:
        features: (B, C, h, w).
        mask_logits: (B, Q, h, w) at the same size.

    Returns:
        (B, Q, C); zero for an empty mask (the count is padded by 1e-8).
    """
    inside = (mask_logits > 0).flatten(2).to(features.dtype)
    total = inside @ features.flatten(2).transpose(1, 2)
    return total / (inside.sum(-1, keepdim=True) + 1e-8)


def resize_features(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps (B, C, h, w) at another size, bilinear between cell centres and without antialiasing."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
