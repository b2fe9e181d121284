"""The joint space after training: what photographs of one thing differ in counts less, so that fewer names are hubs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.nn.clip import ClipTower
from ovdemo.training.regions import embed_regions
from ovdemo.training.scenes import Scene
from ovdemo.training.segmenter import collate

SIDE = 128  # pixels of the photographs that are measured
_PHOTOGRAPHS = 4096
_BATCH = 64
_SHRINKAGE = 0.1  # of the covariance towards a sphere: its least directions are hardly measured
_POWER = -0.25  # with a full -0.5 fewer held-out things were named right, and known ones no more often


@torch.no_grad()
def whiten(
    tower: ClipTower, draw: Callable[[np.random.Generator], Scene], names: Tensor, random: np.random.Generator
) -> None:
    """Centre and scale a trained CLIP's image embeddings, in the weights of its last layers.

    The mean embedding is taken from all. Then each becomes ``W^-1/4 x``, with the covariance W (D, D) of photographs
    of one thing about their mean: half of a within-class covariance normalisation (Hatch et al. 2006, whose power is
    -1/2). Names that lie where photographs vary anyway would else win by accident, above all unseen ones (hubs; Suzuki
    et al. 2013, "Centering similarity measures to reduce hubs"). The temperature changes so that logits vary as they
    did.

    Args:
        tower: an embedded CLIP; its image part is changed in place.
        draw: gives a photograph of one thing, a scene with one named region; all of one size.
        names: (V, D) unit text embeddings of names, to measure logits with.
        random: source of the draws.
    """
    clip = tower.clip_model
    embeddings, concepts = _photographs(tower, draw, random)
    names = names.to(embeddings)
    centre = embeddings.mean(0)
    centred = F.normalize(embeddings - centre, dim=-1)
    scale = _power(_within_class(centred, concepts), _POWER)
    projection = clip.visual.head.proj.weight
    clip.visual.trunk.head.norm.bias -= torch.linalg.pinv(projection) @ centre
    projection.copy_(scale @ projection)
    before, after = centred @ names.T, F.normalize(centred @ scale, dim=-1) @ names.T
    clip.logit_scale += (before.std() / after.std()).log()


def _photographs(
    tower: ClipTower, draw: Callable[[np.random.Generator], Scene], random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) of random photographs of one thing, not normalised, and their concepts (N,)."""
    device = tower.clip_model.text_projection.device
    rows, concepts = [], []
    for _ in range(_PHOTOGRAPHS // _BATCH):
        batch = collate([draw(random) for _ in range(_BATCH)], device)
        rows.append(embed_regions(tower, tower.stages(batch.pixels)["res5"], batch.masks, batch.counts))
        concepts.append(batch.concepts)
    return torch.cat(rows), torch.from_numpy(np.concatenate(concepts)).to(device)


def _within_class(rows: Tensor, classes: Tensor) -> Tensor:
    """Covariance (D, D) of rows (N, D) about the mean of their class (N,), without bias."""
    _, place, count = classes.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, place, rows)
    away = rows - (sums / count[:, None])[place]
    covariance: Tensor = away.T @ away / (len(rows) - len(count))
    return covariance


def _power(covariance: Tensor, exponent: float) -> Tensor:
    """A power of a covariance (D, D), shrunk and of mean variance 1."""
    values, vectors = torch.linalg.eigh(covariance.double())
    values = (values / values.mean() + _SHRINKAGE) / (1 + _SHRINKAGE)
    power: Tensor = (vectors * values**exponent) @ vectors.T
    return power.to(covariance.dtype)
