"""From scored proposals to an answer: panoptic, semantic and instance inference at the picture's size.

The rules are those of the published code (Mask2Former's, as FC-CLIP sets them). The results are exact, but nothing is
upsampled that cannot matter: whole proposals by their scores, the rest tile by tile by their bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ovdemo.fusion import Scores
from ovdemo.segmentation import ClassProbability, Evidence, Fate, Mode, Outcome, Segment, Segmentation
from ovdemo.systems.base import Proposals
from ovdemo.upsampling import Tile, tiles
from ovdemo.vocabulary import Vocabulary

_TOP = 5
_SLACK = 1e-3  # of a bound on logits: rounding between it and the interpolated values it bounds
_ROUNDING = 1e-5  # by which a proposal may lose, of its score: far more than float32 loses where sigmoid saturates
_FEW = 8  # proposals in a tile: upsampling them costs no more than comparing them first

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Merging:
    """Which inference, and its thresholds.

    Attributes:
        mode: ``panoptic``, ``semantic`` or ``instance``.
        object_threshold: in 0..1; panoptic and instance segments need a score above it. FC-CLIP: 0.
        overlap_threshold: in 0..1; a panoptic proposal is dropped when it wins less than this share of its own mask.
            FC-CLIP: 0.8.
        instances: how many (proposal, class) pairs instance inference considers, things and stuff together.
    """

    mode: Mode = "panoptic"
    object_threshold: float = 0.0
    overlap_threshold: float = 0.8
    instances: int = 100


@torch.inference_mode()
def merge(proposals: Proposals, scores: Scores, vocabulary: Vocabulary, merging: Merging) -> Segmentation:
    """Make the segmentation of the mode that ``merging`` names."""
    inference = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}[merging.mode]
    return inference(proposals, scores, vocabulary, merging)


def _panoptic(proposals: Proposals, scores: Scores, vocabulary: Vocabulary, merging: Merging) -> Segmentation:
    """Each pixel goes to the proposal with the greatest ``score * sigmoid(mask)``; each proposal keeps what is also
    inside its own mask, unless others took too much of it. Stuff of one class is one segment.
    """
    best, label = scores.fused.max(-1)
    kept = ((best >= scores.void) & (best > merging.object_threshold)).nonzero().flatten()
    contest = _contest(proposals, kept, best[kept])
    survivors = contest.survivors(merging.overlap_threshold)
    members: dict[int, list[int]] = {}  # segment id -> positions in kept
    stuff: dict[int, int] = {}  # class -> segment id
    segment_of = np.zeros(len(kept) + 1, np.int32)  # the last entry is for pixels that nobody won
    for position in survivors:
        class_index = int(label[kept[position]])
        if vocabulary.classes[class_index].kind == "stuff":
            segment_id = stuff.setdefault(class_index, len(members) + 1)
        else:
            segment_id = len(members) + 1
        members.setdefault(segment_id, []).append(position)
        segment_of[position] = segment_id
    id_map = np.where(contest.inside, segment_of[contest.winner], 0).astype(np.int32)
    areas, boxes = _measure(id_map, len(members))
    segments = []
    for segment_id, positions in members.items():
        queries = kept[positions]
        queries = queries[best[queries].argsort(descending=True, stable=True)]
        segments.append(
            _segment(
                vocabulary,
                scores,
                id=segment_id,
                class_index=int(label[queries[0]]),
                score=float(best[queries[0]]),
                area=areas[segment_id],
                box=boxes[segment_id],
                share=queries[0],
                queries=queries,
            )
        )
    ends = _panoptic_ends(kept, contest, segment_of)
    early = {True: _End("void"), False: _End("below threshold")}
    fates = _fates(vocabulary, scores, lambda query, is_void: ends.get(query, early[is_void]))
    return _segmentation("panoptic", id_map, segments, vocabulary, fates=fates)


def _panoptic_ends(kept: Tensor, contest: _Contest, segment_of: np.ndarray) -> dict[int, _End]:
    """What became of each kept proposal."""
    ends = {}
    for query, both, share, segment in zip(kept.tolist(), contest.both, contest.share, segment_of[:-1], strict=True):
        if both:
            ends[query] = _End("segment" if segment else "overlapped", int(segment) or None, float(share))
        else:
            ends[query] = _End("outshone")
    return ends


@dataclass(frozen=True, eq=False)
class _Contest:
    """Who won each pixel among K proposals.

    Attributes:
        winner: (H, W) position of the winner, or K where there is none.
        inside: (H, W) bool, whether the pixel lies in the winner's own mask.
        won, both: (K,) pixels won, and those of them inside the own mask.
        own: (K,) pixels of the own mask; counted only where ``both`` is not 0.
    """

    winner: np.ndarray
    inside: np.ndarray
    won: np.ndarray
    own: np.ndarray
    both: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """(K,) pixels won over pixels of the own mask; means something only where ``both`` is not 0."""
        return np.asarray(self.won / np.maximum(self.own, 1))

    def survivors(self, overlap_threshold: float) -> list[int]:
        """Positions of the proposals that keep enough of their own mask, in order."""
        return np.flatnonzero((self.both > 0) & (self.share >= overlap_threshold)).tolist()


def _contest(proposals: Proposals, kept: Tensor, weight: Tensor) -> _Contest:
    """Arg-max over the kept proposals of ``weight * sigmoid(mask)``, first one winning ties."""
    height, width = proposals.geometry.picture
    count, device = len(kept), kept.device
    winner = torch.full((height, width), count, dtype=torch.int64, device=device)
    inside = torch.zeros((height, width), dtype=torch.bool, device=device)
    pieces = list(tiles(proposals)) if count else []
    for tile in pieces:
        active = _contenders(tile, kept, weight)
        probability = tile.logits(kept[active]).sigmoid_()
        best, place = probability.mul_(weight[active]).max(-1)
        winner[tile.rows, tile.columns] = active[place]
        inside[tile.rows, tile.columns] = best >= 0.5 * weight[active[place]]
    won = winner.flatten().bincount(minlength=count + 1)[:count]
    both = winner[inside].bincount(minlength=count + 1)[:count]
    own = torch.zeros_like(won)
    own[both > 0] = _mask_areas(pieces, kept[both > 0])
    return _Contest(*(x.cpu().numpy() for x in (winner, inside, won, own, both)))


def _contenders(tile: Tile, kept: Tensor, weight: Tensor) -> Tensor:
    """Positions in ``kept``, in order, of all proposals that may win a pixel of the tile.

    The rival is the proposal that is nowhere below the greatest floor. Who never exceeds that floor is out. So is who
    falls behind the rival everywhere: with ``s`` the ratio of the weights, ``x`` beats the rival's ``y`` where
    ``exp(x - y) * (s + (s - 1) * exp(y)) >= 1``. The first factor is greatest in a cell, since interpolation is linear
    and convex; the second, monotone in ``y``, is greatest at one end of the rival's range.
    """
    low, high = tile.low[kept], tile.high[kept]
    floor, rival = (weight * (low - _SLACK).sigmoid()).max(0)
    active = (weight * (high + _SLACK).sigmoid() >= floor).nonzero().flatten()
    if len(active) <= _FEW:
        return active
    lead = (tile.cells.index_select(-1, kept[active]) - tile.cells[..., kept[rival], None]).amax((0, 1)) + _SLACK
    ratio = (1 + _ROUNDING) * weight[active] / weight[rival]
    ends = torch.stack((low[rival], high[rival])).exp()
    handicap = (ratio + (ratio - 1) * ends[:, None]).amax(0)
    return active[~(lead.exp() * handicap < 1)]  # negated: not-a-number, from overflow, must stay


def _mask_areas(pieces: Sequence[Tile], queries: Tensor) -> Tensor:
    """Pixels of each chosen proposal's own mask, logit >= 0, (n,) int64."""
    areas = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for tile in pieces if len(queries) else ():
        everywhere = tile.low[queries] > _SLACK
        areas[everywhere] += len(tile.row_weights) * len(tile.column_weights)
        some = ((tile.high[queries] > -_SLACK) & ~everywhere).nonzero().flatten()
        areas[some] += (tile.logits(queries[some]) >= 0).flatten(0, 1).sum(0, dtype=torch.int32)
    return areas


def _semantic(proposals: Proposals, scores: Scores, vocabulary: Vocabulary, merging: Merging) -> Segmentation:
    """Each pixel goes to the class with the greatest ``sum over proposals of p(class) * sigmoid(mask)``.

    A segment's probabilities are the means over all proposals, weighted by how much each covers the segment.
    """
    height, width = proposals.geometry.picture
    chosen = torch.zeros((height, width), dtype=torch.int64, device=scores.fused.device)
    coverage = torch.zeros_like(scores.fused)  # (N, C): how much of each class's pixels a proposal covers
    everyone = torch.arange(len(proposals), device=scores.fused.device)
    for tile in tiles(proposals):
        upper = (tile.high + _SLACK).sigmoid() @ scores.fused
        lower = (tile.low - _SLACK).sigmoid() @ scores.fused
        candidates = (upper >= lower.max()).nonzero().flatten()
        probability = tile.logits(everyone).sigmoid_()
        place = (probability @ scores.fused[:, candidates]).argmax(-1)
        chosen[tile.rows, tile.columns] = candidates[place]
        present, place = place.unique(return_inverse=True)
        belongs = torch.nn.functional.one_hot(place).float().flatten(0, 1)
        coverage[:, candidates[present]] += probability.flatten(0, 1).T @ belongs
    id_map = (chosen + 1).to(torch.int32).cpu().numpy()
    areas, boxes = _measure(id_map, len(vocabulary))
    segments = []
    for class_index in np.unique(id_map) - 1:
        share = coverage[:, class_index]
        share = share / share.sum().clamp(min=1e-12)
        segment_id = int(class_index) + 1
        segments.append(
            _segment(
                vocabulary,
                scores,
                id=segment_id,
                class_index=int(class_index),
                score=float(share @ scores.fused[:, class_index]),
                area=areas[segment_id],
                box=boxes[segment_id],
                share=share,
                queries=share.topk(min(_TOP, len(share))).indices,
            )
        )
    return _segmentation("semantic", id_map, segments, vocabulary)


def _instance(proposals: Proposals, scores: Scores, vocabulary: Vocabulary, merging: Merging) -> Segmentation:
    """The best (proposal, class) pairs that are things; score = p(class) times the mean of sigmoid inside the mask."""
    classes = len(vocabulary)
    pair_scores, pairs = scores.fused.flatten().topk(min(merging.instances, scores.fused.numel()))
    considered = set((pairs // classes).tolist())
    is_thing = torch.tensor([c.kind == "thing" for c in vocabulary.classes], device=pairs.device)
    pair_scores, pairs = pair_scores[is_thing[pairs % classes]], pairs[is_thing[pairs % classes]]
    queries, position = (pairs // classes).unique(return_inverse=True)
    masks, confidence = _whole_masks(proposals, queries)
    total = (pair_scores * confidence[position]).cpu()
    order = [i for i in total.argsort(descending=True, stable=True).tolist() if total[i] > merging.object_threshold]
    chosen = masks[position[order]].cpu().numpy()
    id_map = np.zeros(proposals.geometry.picture, np.int32)
    segments = []
    for segment_id, (index, mask) in enumerate(zip(order, chosen, strict=True), start=1):
        id_map[mask & (id_map == 0)] = segment_id
        segments.append(
            _segment(
                vocabulary,
                scores,
                id=segment_id,
                class_index=int(pairs[index] % classes),
                score=float(total[index]),
                area=int(mask.sum()),
                box=_box(mask),
                share=pairs[index] // classes,
                queries=pairs[index : index + 1] // classes,
            )
        )
    first = {segment.queries[0]: segment.id for segment in reversed(segments)}
    things = set(queries.tolist())

    def end(query: int, is_void: bool) -> _End:
        if query not in considered:
            return _End("outranked")
        if query not in things:
            return _End("stuff")
        return _End("segment", first[query]) if query in first else _End("below threshold")

    fates = _fates(vocabulary, scores, end)
    return _segmentation("instance", id_map, segments, vocabulary, masks=chosen, fates=fates)


def _whole_masks(proposals: Proposals, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Whole masks (n, H, W) bool, logit > 0, and the mean of sigmoid inside each (n,), of the chosen proposals."""
    masks = torch.zeros((len(queries), *proposals.geometry.picture), dtype=torch.bool, device=queries.device)
    inside = torch.zeros(len(queries), device=queries.device)
    for tile in tiles(proposals):
        active = (tile.high[queries] > -_SLACK).nonzero().flatten()
        logits = tile.logits(queries[active])
        masks[active, tile.rows, tile.columns] = (logits > 0).permute(2, 0, 1)
        inside[active] += (logits.sigmoid() * (logits > 0)).sum((0, 1))
    return masks, inside / (masks.sum((1, 2)) + 1e-6)


class _End(NamedTuple):
    """The last fields of a :class:`Fate`."""

    outcome: Outcome
    segment: int | None = None
    share: float | None = None


def _fates(vocabulary: Vocabulary, scores: Scores, end: Callable[[int, bool], _End]) -> tuple[Fate, ...]:
    """One fate a proposal; ``end`` is asked with its index and whether "no object" beats its best class."""
    best, label = scores.fused.max(-1)
    table = torch.stack((label.float(), best.float(), scores.void.float())).tolist()
    return tuple(
        Fate(int(index), vocabulary.classes[int(index)].label, score, void, *end(query, score < void))
        for query, (index, score, void) in enumerate(zip(*table, strict=True))
    )


def _segment(
    vocabulary: Vocabulary,
    scores: Scores,
    *,
    id: int,
    class_index: int,
    score: float,
    area: int,
    box: Box,
    share: Tensor,
    queries: Tensor,
) -> Segment:
    """A segment whose evidence is that of one proposal (``share`` its index) or of a mixture (``share`` (N,))."""
    chosen = vocabulary.classes[class_index]
    return Segment(
        id=id,
        class_index=class_index,
        label=chosen.label,
        kind=chosen.kind,
        score=score,
        area=area,
        box=box,
        seen=bool(scores.seen[class_index]),
        evidence=_evidence(scores, share, vocabulary),
        queries=tuple(queries.tolist()),
    )


def _evidence(scores: Scores, share: Tensor, vocabulary: Vocabulary) -> Evidence:
    """The five best classes of each classifier, of one proposal or of a mixture of proposals."""

    def pick(table: Tensor) -> Tensor:
        return table[share] if share.ndim == 0 else share @ table

    def top(table: Tensor) -> tuple[ClassProbability, ...]:
        values, indices = pick(table).topk(min(_TOP, len(vocabulary)))
        return tuple(
            ClassProbability(i, vocabulary.classes[i].label, p)
            for i, p in zip(indices.tolist(), values.tolist(), strict=True)
        )

    return Evidence(
        top(scores.in_vocabulary), top(scores.out_of_vocabulary), top(scores.fused), float(pick(scores.void))
    )


def _measure(id_map: np.ndarray, count: int) -> tuple[list[int], list[Box]]:
    """Area and (x, y, width, height) of each id 0..count; an id without pixels has area 0 and an empty box."""
    areas = np.bincount(id_map.ravel(), minlength=count + 1).tolist()
    found = ndimage.find_objects(id_map, max_label=count)
    boxes = [(0, 0, 0, 0) if place is None else _slices_to_box(place) for place in (None, *found)]
    return areas, boxes


def _box(mask: np.ndarray) -> Box:
    return _slices_to_box(ndimage.find_objects(mask.astype(np.uint8))[0])


def _slices_to_box(place: tuple[slice, ...]) -> Box:
    rows, columns = place
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


def _segmentation(
    mode: Mode,
    id_map: np.ndarray,
    segments: Sequence[Segment],
    vocabulary: Vocabulary,
    *,
    masks: np.ndarray | None = None,
    fates: tuple[Fate, ...] = (),
) -> Segmentation:
    labels = tuple(c.label for c in vocabulary.classes)
    kinds = tuple(c.kind for c in vocabulary.classes)
    return Segmentation(mode, id_map, tuple(segments), labels, kinds, masks, fates)
