"""The losses of FC-CLIP: Mask2Former's, with classes named by text embeddings (Cheng et al. 2022, section 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.nn.pooling import mask_pool
from ovdemo.training.concepts import NAMELESS

VOID_WEIGHT = 0.1
_OVERSAMPLING, _UNCERTAIN_SHARE = 3, 0.75


def class_logits(embeddings: Tensor, rows: Tensor, void: Tensor, scale: Tensor) -> Tensor:
    """Scaled cosines of class embeddings (..., D) to unit text embeddings (K, D) and to void (D,): (..., K + 1)."""
    words = torch.cat((rows, F.normalize(void, dim=-1)[None]))
    out: Tensor = scale * F.normalize(embeddings, dim=-1) @ words.T
    return out


def lies_unlabelled(mask_logits: Tensor, labelled: Tensor) -> Tensor:
    """Whether masks lie mostly where the picture is not fully labelled, (B, Q) bool: they may show something unmarked.

    Args:
        mask_logits: (B, Q, h, w).
        labelled: (B, h, w) float, the labelled share of each cell.
    """
    return mask_pool(1 - labelled[:, None], mask_logits)[..., 0] > 0.5  # an empty mask pools zero


def class_loss(logits: Tensor, targets: Tensor, weights: Tensor, denied: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy of each decoder state, (S,).

    Where the target is :data:`NAMELESS` a query only learns what it is not: minus the log of what its probabilities
    leave to words that are not denied. Where none is, it counts for nothing.

    Args:
        logits: (B, S, Q, K + 1).
        targets: (B, S, Q) int64.
        weights: (B, S, Q).
        denied: (B, K + 1) bool, words that nothing unmarked in a picture can be.
    """
    log = logits.log_softmax(-1)
    named = -log.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    others = -log.masked_fill(denied[:, None, None], float("-inf")).logsumexp(-1)
    weights = weights * ((targets != NAMELESS) | denied.any(-1)[:, None, None])
    total = (torch.where(targets == NAMELESS, others, named) * weights).sum((0, 2))
    return total / weights.sum((0, 2)).clamp(min=1e-6)


def bce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each mask, mean over its points: (N, P) -> (N,)."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1)


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``1 - (2 |A B| + 1) / (|A| + |B| + 1)`` of each mask over its points: (N, P) -> (N,)."""
    inside = logits.sigmoid()
    return 1 - (2 * (inside * labels).sum(-1) + 1) / (inside.sum(-1) + labels.sum(-1) + 1)


def uncertain_points(mask_logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Where to compare each mask: mostly where it is least sure (Kirillov et al. 2020, PointRend, section 3.1).

    Of three times as many random points the surest are dropped until 75 % of ``count`` are left; the rest is random.

    Args:
        mask_logits: (N, h, w), not differentiated here.
        count: number of points P.
        generator: on the CPU, so that points do not depend on the device.

    Returns:
        (N, P, 2) as (x, y) in 0..1.
    """
    masks, device = len(mask_logits), mask_logits.device
    candidates = torch.rand(masks, _OVERSAMPLING * count, 2, generator=generator).to(device)
    uncertainty = -sample_logits(mask_logits.detach(), candidates).abs()
    wanted = int(_UNCERTAIN_SHARE * count)
    chosen = uncertainty.topk(wanted, sorted=False).indices
    uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    random = torch.rand(masks, count - wanted, 2, generator=generator).to(device)
    return torch.cat((uncertain, random), 1)


def sample_logits(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (N, h, w) at points (N, P, 2) in 0..1, bilinear as when masks are resized for an answer: (N, P)."""
    return sample_features(maps[:, None], points)[:, 0]


def sample_features(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (N, C, h, w) at points (N, P, 2) in 0..1, bilinear, the border continued outwards: (N, C, P)."""
    grid = (2 * points - 1)[:, None]
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, :, 0]


def sample_labels(masks: Tensor, region: Tensor, points: Tensor) -> Tensor:
    """Whether points lie in their region, from the pixel that holds them: (N, P) float.

    Args:
        masks: (R, H, W) bool.
        region: (N,) int64 index of each row's mask.
        points: (N, P, 2) as (x, y) in 0..1.
    """
    height, width = masks.shape[-2:]
    column = (points[..., 0] * width).long().clamp(max=width - 1)
    line = (points[..., 1] * height).long().clamp(max=height - 1)
    return masks[region[:, None], line, column].float()
