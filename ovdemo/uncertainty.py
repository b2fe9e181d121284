"""Where the answer is "don't know": how sure the proposals are, pixel by pixel.

Computed on the grid of the mask logits, some thousand cells, and interpolated to the picture as masks are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.fusion import Scores
from ovdemo.segmentation import Segmentation
from ovdemo.systems.base import Proposals
from ovdemo.upsampling import cells_to_picture

_CHUNK = 2**22  # probabilities that are worked out at once: 16 MB a copy


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Maps at the picture's size, (H, W) float32 in 0..1 but for the last.

    Attributes:
        void: p(void), that there is nothing with a name of the vocabulary.
        entropy: of the classes, given that it is one of them, over its maximum log C; 0 for a single class.
        margin: the probability of the best class less that of the second best, likewise; 1 for a single class.
        unlabelled: bool, pixels that the segmentation assigns to nothing.
    """

    void: np.ndarray
    entropy: np.ndarray
    margin: np.ndarray
    unlabelled: np.ndarray


@torch.inference_mode()
def uncertainty(proposals: Proposals, scores: Scores, segmentation: Segmentation) -> Uncertainty:
    """How sure the proposals together are at every pixel.

    In a cell where proposal ``i`` has mask probability ``m_i = sigmoid(logit)``:

    p(void) is ``1 - max_i m_i (1 - void_i)``, what the best claim that there is something leaves open. A mean over the
    proposals would not do: most queries of a trained model say "no object" with masks that repeat the segments', and
    would make sure segments look void.

    Entropy and margin are of the mixture ``sum_i m_i fused_i`` over the classes, by which semantic inference decides
    (:mod:`ovdemo.merging`), normalised to sum to one. As ``fused_i`` sums to ``1 - void_i``, void proposals add little.
    Where no class has any probability it is uniform.

    Args:
        proposals: N of them.
        scores: of the same N, for C classes.
        segmentation: made from both, in any mode.
    """
    grid = proposals.mask_logits.shape[1:]
    logits = proposals.mask_logits.flatten(1)
    step = max(1, _CHUNK // scores.fused.shape[1])
    maps = torch.cat([_measures(part.sigmoid(), scores) for part in logits.split(step, 1)], 1)
    whole = cells_to_picture(maps.unflatten(1, grid), proposals.geometry).clamp_(0, 1)
    void, entropy, margin = whole.cpu().numpy()
    return Uncertainty(void, entropy, margin, segmentation.id_map == 0)


def _measures(masks: Tensor, scores: Scores) -> Tensor:
    """p(void), entropy and margin of some cells, (3, cells) from mask probabilities (N, cells)."""
    mixture = masks.T @ scores.fused  # (cells, C)
    count = mixture.shape[1]
    mass = mixture.sum(-1, keepdim=True)
    mixture.div_(mass).masked_fill_(mass <= 0, 1 / count)
    best, place = mixture.max(-1)
    entropy = -torch.xlogy(mixture, mixture).sum(-1) / math.log(max(count, 2))
    second = mixture.scatter_(1, place[:, None], 0).amax(-1)
    claims = F.pad(masks * (1 - scores.void)[:, None], (0, 0, 0, 1))  # one more that claims nothing: there may be none
    return torch.stack((1 - claims.amax(0), entropy, best - second))
