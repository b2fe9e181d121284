"""How the labels of one picture move with the ensemble weights: 11 x 11 settings of alpha and beta at once.

Three facts make it cheap. The scores of seen classes depend on alpha only and those of unseen classes on beta only, so
that 11 scorings give all 121. p(void) depends on neither. And where labels, not outlines, are compared, the merge may
stay on the grid of the mask logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ovdemo.ensemble import Fusion
from ovdemo.fusion import Scores, class_logits, ensemble_weights, fuse, score
from ovdemo.merging import Merging
from ovdemo.systems.base import Classifiers, Proposals
from ovdemo.upsampling import picture_to_cells
from ovdemo.vocabulary import TextEmbeddings

WEIGHTS = tuple(step / 10 for step in range(11))
"""The values of alpha and of beta."""

UNLABELLED = -1
"""In place of a class's index: no segment."""

_TILE = 8  # cells a side


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What 121 settings do; rows are alpha, columns beta, both :data:`WEIGHTS`.

    Attributes:
        changed: (11, 11) float64, share of the picture's pixels whose label is not that of the reference, in 0..1.
        winner: (11, 11) int64, the class that most of the chosen pixels have, or :data:`UNLABELLED`.
        winner_share: (11, 11) float64, the share of the chosen pixels that have it, in 0..1.
    """

    changed: np.ndarray
    winner: np.ndarray
    winner_share: np.ndarray


@torch.inference_mode()
def sensitivity(
    proposals: Proposals,
    text: TextEmbeddings,
    seen: Tensor,
    classifiers: Classifiers,
    *,
    fusion: Fusion,
    merging: Merging,
    reference: Fusion,
    chosen: np.ndarray | None = None,
) -> Sensitivity:
    """Label the picture by 121 settings of alpha and beta, and compare.

    This is the panoptic rule of :mod:`ovdemo.merging` on the grid of the mask logits, without interpolation: a cell
    goes to the proposal with the greatest ``score * sigmoid(mask)`` among those that are not void, if it lies in that
    proposal's mask and the proposal keeps enough of it. A cell counts as many pixels as it stands for in bilinear
    interpolation. The full-size answer may differ along outlines; for masks of a few cells; and where a proposal keeps
    a share of its mask close to the overlap threshold, as a whole segment. A label is a class: segments of one class
    are not told apart.

    Args:
        proposals: N of them.
        text: of C classes.
        seen: (C,) bool, classes that share a name with the training vocabulary.
        classifiers: constants of the system that made the proposals.
        fusion: gives the kind and the rescue; its alpha and beta are not used. A kind that ignores them gives the same
            answer 121 times.
        merging: its thresholds; its mode is not used.
        reference: what to compare with, such as the system's own ensemble.
        chosen: (H, W) bool, pixels to name the winner of, such as a segment's mask; None is all.
    """
    verdicts = _with(
        _grid_verdicts(proposals, text, seen, classifiers, fusion),
        score(proposals, text, seen, classifiers, reference),
    )
    whole = torch.ones(proposals.geometry.picture, device=verdicts.best.device)
    asked = whole if chosen is None else torch.from_numpy(chosen).to(whole)
    grid = (proposals.mask_logits.shape[1], proposals.mask_logits.shape[2])
    pixels, wanted = (picture_to_cells(x, grid, proposals.geometry).flatten() for x in (whole, asked))
    labels = _label_cells(proposals, verdicts, pixels, merging)
    compared = next(labels)
    changed, winner, share = [], [], []
    for found in labels:
        changed.append(float(pixels @ (found != compared).float() / pixels.sum()))
        votes = torch.bincount(found - UNLABELLED, weights=wanted)
        winner.append(int(votes.argmax()) + UNLABELLED)
        share.append(float(votes.max() / wanted.sum().clamp(min=1e-9)))
    side = len(WEIGHTS)
    return Sensitivity(*(np.array(values).reshape(side, side) for values in (changed, winner, share)))


@dataclass(frozen=True, eq=False)
class _Verdicts:
    """What each of S settings says of each of N proposals, all (S, N).

    Attributes:
        best: fused probability of the best class.
        label: index of that class.
        void: p(void).
    """

    best: Tensor
    label: Tensor
    void: Tensor


def _grid_verdicts(
    proposals: Proposals, text: TextEmbeddings, seen: Tensor, classifiers: Classifiers, fusion: Fusion
) -> _Verdicts:
    """Of all 121 settings, beta running fastest.

    With ``mixed`` the log of the mixture (:func:`ovdemo.fusion.fuse`), the best class is that of the seen ones at this
    alpha or that of the unseen ones at this beta, and the softmax's denominator is the sum of theirs.
    """
    in_logits = class_logits(proposals.class_embeddings, text, classifiers.void, classifiers.in_scale)
    out_logits = class_logits(proposals.clip_embeddings, text, classifiers.void, classifiers.out_scale)
    in_log, out_log = in_logits[:, :-1].log_softmax(-1), out_logits[:, :-1].log_softmax(-1)
    seen = seen.to(in_log.device)
    halves: tuple[list[tuple[Tensor, ...]], ...] = ([], [])  # seen, unseen: best, label and denominator by weight
    for weight in WEIGHTS:
        weights = ensemble_weights(proposals, seen, classifiers, replace(fusion, alpha=weight, beta=weight))
        mixed = fuse(in_log, out_log, weights, fusion.kind)
        for half, others in zip(halves, (~seen, seen), strict=True):
            part = mixed.masked_fill(others, -torch.inf)
            half.append((*part.max(-1), part.logsumexp(-1)))
    by_alpha, by_beta = ([torch.stack(column) for column in zip(*half, strict=True)] for half in halves)
    seen_best, seen_label, seen_total = (column[:, None] for column in by_alpha)
    unseen_best, unseen_label, unseen_total = (column[None] for column in by_beta)
    best = torch.maximum(seen_best, unseen_best) - torch.logaddexp(seen_total, unseen_total)
    label = torch.where(seen_best >= unseen_best, seen_label, unseen_label)
    void = score(proposals, text, seen, classifiers, fusion).void.expand_as(best)
    return _Verdicts(*(x.flatten(0, 1) for x in (best.exp() * (1 - void), label, void)))


def _with(verdicts: _Verdicts, reference: Scores) -> _Verdicts:
    """The verdicts with one more setting in front."""
    best, label = reference.fused.max(-1)
    columns = ((best, verdicts.best), (label, verdicts.label), (reference.void, verdicts.void))
    return _Verdicts(*(torch.cat((first[None], rest)) for first, rest in columns))


def _label_cells(proposals: Proposals, verdicts: _Verdicts, pixels: Tensor, merging: Merging) -> Iterator[Tensor]:
    """The class of every cell or :data:`UNLABELLED`, (P,) int64, setting by setting.

    Args:
        proposals: N of them.
        verdicts: of S settings.
        pixels: (P,) how many pixels each cell stands for.
        merging: thresholds.
    """
    kept = (verdicts.best >= verdicts.void) & (verdicts.best > merging.object_threshold)
    ever = kept.any(0)
    if not ever.any():
        yield from [torch.full_like(pixels, UNLABELLED, dtype=torch.int64)] * len(kept)
        return
    masks = proposals.mask_logits[ever].sigmoid()
    own = (masks >= 0.5).flatten(1).float() @ pixels
    kept, label = kept[:, ever], verdicts.label[:, ever]
    winner, inside = _winners(masks, verdicts.best[:, ever] * kept)
    for setting in range(len(kept)):
        place, within = winner[setting].long(), inside[setting]
        won = torch.bincount(place, weights=pixels, minlength=len(own))
        both = torch.bincount(place, weights=pixels * within, minlength=len(own))
        survives = kept[setting] & (both > 0) & (won >= merging.overlap_threshold * own)
        within &= survives[place]
        yield torch.where(within, label[setting][place], UNLABELLED)


def _winners(masks: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Who has the greatest ``weight * mask`` in each cell, and whether the cell lies in its mask, mask >= 0.5.

    Tile by tile, and there only among those that may win in any setting: a proposal whose greatest weight does not
    reach another's least is out.

    Args:
        masks: (n, h, w) probabilities.
        weights: (S, n) scores, 0 where a proposal is dropped.

    Returns:
        (S, h * w) int16 positions, the first winning ties, and (S, h * w) bool.
    """
    shape = (len(weights), *masks.shape[1:])
    winner = torch.zeros(shape, dtype=torch.int16, device=masks.device)
    inside = torch.zeros(shape, dtype=torch.bool, device=masks.device)
    low, high = (bound[:, None, None] for bound in torch.aminmax(weights, dim=0))
    for top in range(0, shape[1], _TILE):
        for left in range(0, shape[2], _TILE):
            tile = (slice(top, top + _TILE), slice(left, left + _TILE))
            part = masks[(slice(None), *tile)]
            floor = (low * part).amax(0)
            active = (high * part >= floor).flatten(1).any(1).nonzero().flatten()
            cells = part[active]
            place = (weights[:, active, None, None] * cells).max(1).indices  # a third of the time of argmax
            winner[(slice(None), *tile)] = active[place].to(torch.int16)
            inside[(slice(None), *tile)] = (cells >= 0.5).gather(0, place)
    return winner.flatten(1), inside.flatten(1)
