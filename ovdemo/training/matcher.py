"""One-to-one matching of queries and regions (Mask2Former, Cheng et al. 2022, section 4.1; FC-CLIP keeps it)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovdemo.training.concepts import NAMELESS

CLASS_WEIGHT, BCE_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0


def matching_cost(probabilities: Tensor, logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Cost of giving each region of one picture to each query: ``2 class + 5 BCE + 5 dice``.

    Args:
        probabilities: (Q, K + 1) of each query's words, void last.
        logits: (Q, P) of each query's mask at P points.
        targets: (R,) int64 what each region should be called, :data:`NAMELESS` if that is unknown.
        labels: (R, P) float, 1 where a point lies in a region.

    Returns:
        (Q, R). The class cost of a nameless region is the same for all queries.
    """
    by_class = torch.where(targets == NAMELESS, 0.0, -probabilities[:, targets])
    by_bce = F.softplus(logits).mean(-1, keepdim=True) - logits @ labels.T / labels.shape[1]
    inside = logits.sigmoid()
    overlap = 2 * inside @ labels.T
    by_dice = 1 - (overlap + 1) / (inside.sum(-1, keepdim=True) + labels.sum(-1) + 1)
    return CLASS_WEIGHT * by_class + BCE_WEIGHT * by_bce + DICE_WEIGHT * by_dice


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one assignment: cost (Q, R) -> the chosen queries and their regions, (min(Q, R),) each."""
    queries, regions = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(queries), torch.from_numpy(regions)
