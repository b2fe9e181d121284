"""Click a pixel, see why: what both classifiers said there, and which proposals the merge set aside.

Everything is read from one answer and the cached proposals that it was made from; no network runs, except the text
tower where somebody asks for the winning prompt of a name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.ensemble import Fusion, FusionKind
from ovdemo.errors import UserError
from ovdemo.fusion import Scores, class_logits, clip_trusted, ensemble_weights, fuse
from ovdemo.merging import Merging
from ovdemo.segmentation import Fate, Segment, Segmentation
from ovdemo.systems.base import Classifiers, Proposals
from ovdemo.upsampling import logits_at, tiles
from ovdemo.vocabulary import TemplateSet, TextEmbeddings, TextEncoder, Vocabulary

_TOP = 5
_RUNNERS_UP = 5
_TILE = 128  # pixels a side, for a handful of masks


@dataclass(frozen=True, eq=False)
class Case:
    """One answer and all that it was made from: ``scores`` by ``fusion``, then ``segmentation`` by ``merging``."""

    proposals: Proposals
    text: TextEmbeddings
    vocabulary: Vocabulary
    classifiers: Classifiers
    fusion: Fusion
    merging: Merging
    scores: Scores
    segmentation: Segmentation


@dataclass(frozen=True)
class ClassReading:
    """What was said of one class.

    Attributes:
        class_index: index into the vocabulary's classes.
        label: first name of the class.
        seen: whether it shares a name with the training vocabulary.
        in_vocabulary, out_of_vocabulary, fused: probabilities in 0..1.
        exponent: weight of the out-of-vocabulary classifier that was really used, in 0..1: 0 also where the system does
            not let CLIP judge the proposal.
        name: which of its names has the greatest cosine to the CLIP embedding of the explained proposal.
    """

    class_index: int
    label: str
    seen: bool
    in_vocabulary: float
    out_of_vocabulary: float
    fused: float
    exponent: float
    name: str


@dataclass(frozen=True)
class Contender:
    """A proposal at the pixel.

    Attributes:
        proposal: its index.
        class_index, label: its best class.
        score: fused probability of that class, in 0..1.
        mask_probability: sigmoid of its mask logit at the pixel.
        mask_confidence: mean of sigmoid inside its mask, logit > 0; 0 where that is empty.
        fate: what the merge did with it; None in semantic mode.
        verdict: the same as a phrase, such as "dropped: 'no object' at 0.71 beat its best class at 0.20".
    """

    proposal: int
    class_index: int
    label: str
    score: float
    mask_probability: float
    mask_confidence: float
    fate: Fate | None
    verdict: str


@dataclass(frozen=True)
class Formula:
    """The numbers behind one fused probability of the explained proposal (FC-CLIP, equation 7).

    ``fused = mixed / total * (1 - void)`` with ``void = raw_void * (1 - rescue * clip_peak)``. ``mixed`` is
    ``in_vocabulary ** (1 - exponent) * out_of_vocabulary ** exponent``, for the arithmetic kind
    ``(1 - exponent) * in_vocabulary + exponent * out_of_vocabulary``, and ``total`` its sum over all classes.

    Attributes:
        kind, rescue: settings of the fusion.
        class_index, label: the segment's class, or the proposal's best where there is no segment.
        in_vocabulary, out_of_vocabulary, exponent, mixed, total, void, fused: as above.
        raw_void: p(void) before the rescue.
        clip_peak: greatest out-of-vocabulary probability; 0 where the system does not let CLIP judge the proposal.
    """

    kind: FusionKind
    rescue: float
    class_index: int
    label: str
    in_vocabulary: float
    out_of_vocabulary: float
    exponent: float
    mixed: float
    total: float
    raw_void: float
    clip_peak: float
    void: float
    fused: float


@dataclass(frozen=True)
class Inspection:
    """Why a pixel is labelled as it is, or not at all.

    Attributes:
        x, y: the pixel, column and row.
        segment: which it belongs to; None where it is unlabelled.
        explained: panoptic: the segment's proposal that won the pixel; instance: the segment's; semantic: the one that
            adds most to the pixel's class. Where there is no segment, it has the greatest score times mask probability.
        classes: up to five, by falling fused probability. Of the explained proposal, but in semantic mode of the
            mixture that decided: the mean over all proposals, weighted by their mask probabilities at the pixel.
        void, raw_void: p(void) of the same, after and before the rescue.
        runners_up: up to five other proposals, by falling mask probability at the pixel.
        formula: of the explained proposal.
    """

    x: int
    y: int
    segment: Segment | None
    explained: Contender
    classes: tuple[ClassReading, ...]
    void: float
    raw_void: float
    runners_up: tuple[Contender, ...]
    formula: Formula


@torch.inference_mode()
def inspect(case: Case, x: int, y: int) -> Inspection:
    """Explain the pixel in column ``x`` and row ``y`` of the picture.

    Raises:
        UserError: the pixel lies outside the picture, or the picture has no proposals.
    """
    segment, logits, explained = _at(case, x, y)
    others = [query for query in logits.argsort(descending=True, stable=True).tolist() if query != explained]
    first, *rest = _contenders(case, segment, logits, [explained, *others[:_RUNNERS_UP]])
    if case.segmentation.mode == "semantic":
        share = F.logsigmoid(logits).softmax(0)  # sigmoids over their sum, also where those underflow
    else:
        share = torch.zeros_like(logits)
        share[explained] = 1
    in_logits = class_logits(
        case.proposals.class_embeddings, case.text, case.classifiers.void, case.classifiers.in_scale
    )
    return Inspection(
        x=x,
        y=y,
        segment=segment,
        explained=first,
        classes=_readings(case, share, explained),
        void=float(share @ case.scores.void),
        raw_void=float(share @ in_logits.softmax(-1)[:, -1]),
        runners_up=tuple(rest),
        formula=_formula(case, explained, first.class_index if segment is None else segment.class_index),
    )


@torch.inference_mode()
def formula_at(case: Case, x: int, y: int) -> Formula:
    """:attr:`Inspection.formula` of a pixel alone, at a fraction of the cost.

    Raises:
        UserError: as :func:`inspect`.
    """
    segment, _, explained = _at(case, x, y)
    best = int(case.scores.fused[explained].argmax()) if segment is None else segment.class_index
    return _formula(case, explained, best)


@torch.inference_mode()
def prompt_rows(name: str, templates: TemplateSet, encoder: TextEncoder) -> Tensor:
    """One unit vector a prompt of a name, (P, D) float32 on the CPU. Runs the text tower: worth caching by name."""
    return F.normalize(encoder.encode_prompts(templates.fill(name)).float(), dim=-1)


def winning_prompt(name: str, templates: TemplateSet, rows: Tensor, embedding: Tensor) -> str:
    """The prompt of a name with the greatest cosine to a CLIP embedding.

    Args:
        name: what fills the templates.
        templates: P of them.
        rows: (P, D) from :func:`prompt_rows`.
        embedding: (D,) of a proposal, of any length and on any device.
    """
    return templates.fill(name)[int((rows @ embedding.to(rows)).argmax())]


def _at(case: Case, x: int, y: int) -> tuple[Segment | None, Tensor, int]:
    """The segment at a pixel, the mask logits of all proposals there (N,), and the proposal that explains it."""
    segmentation = case.segmentation
    if not (0 <= x < segmentation.width and 0 <= y < segmentation.height):
        raise UserError(
            f"The pixel ({x}, {y}) lies outside the picture of {segmentation.width} x {segmentation.height} pixels; "
            "choose one inside."
        )
    if not len(case.proposals):
        raise UserError(
            "The model proposed no mask for this picture, so nothing can be explained; try another picture."
        )
    number = int(segmentation.id_map[y, x])
    segment = next((s for s in segmentation.segments if s.id == number), None)
    logits = logits_at(case.proposals, x, y)
    return segment, logits, _explained(case, segment, logits)


def _explained(case: Case, segment: Segment | None, logits: Tensor) -> int:
    """The proposal that :attr:`Inspection.explained` describes."""
    weight = case.scores.fused.amax(-1) if segment is None else case.scores.fused[:, segment.class_index]
    strength = weight.clamp(min=1e-30).log() + F.logsigmoid(logits)  # their product underflows far from every mask
    if segment is None or case.segmentation.mode == "semantic":
        return int(strength.argmax())
    return segment.queries[int(strength[list(segment.queries)].argmax())]


def _readings(case: Case, share: Tensor, explained: int) -> tuple[ClassReading, ...]:
    """The five best classes of the mixture of proposals by ``share`` (N,), which sums to one."""
    scores = case.scores
    exponents = ensemble_weights(case.proposals, scores.seen, case.classifiers, case.fusion)
    tables = (scores.in_vocabulary, scores.out_of_vocabulary, scores.fused, exponents)
    means = torch.stack([share @ table for table in tables])
    best = means[2].topk(min(_TOP, len(case.vocabulary))).indices
    columns = zip(best.tolist(), scores.seen.cpu()[best.cpu()].tolist(), *means[:, best].tolist(), strict=True)
    cosines = (case.text.rows @ case.proposals.clip_embeddings[explained].to(case.text.rows)).cpu()
    owner = case.text.owner.cpu()
    readings = []
    for index, seen, in_vocabulary, out_of_vocabulary, fused, exponent in columns:
        names = case.vocabulary.classes[index].names
        name = names[int(cosines[owner == index].argmax())]
        readings.append(ClassReading(index, names[0], seen, in_vocabulary, out_of_vocabulary, fused, exponent, name))
    return tuple(readings)


def _contenders(case: Case, segment: Segment | None, logits: Tensor, queries: list[int]) -> list[Contender]:
    score, label = case.scores.fused[queries].max(-1)
    columns = (score, label, logits[queries].sigmoid(), _confidence(case.proposals.choose(queries)))
    contenders = []
    for query, best, index, probability, mean in zip(queries, *(column.tolist() for column in columns), strict=True):
        fate = case.segmentation.fates[query] if case.segmentation.fates else None
        if segment is not None and query in segment.queries and fate is not None:
            verdict = "kept: this segment is made from it"
        elif fate is not None and fate.outcome == "segment":
            where = "another proposal won this pixel" if probability >= 0.5 else "this pixel lies outside its mask"
            verdict = f"kept: it is in segment {fate.segment}, and {where}"
        else:
            verdict = _verdict(fate, case.merging, mean > 0)
        name = case.vocabulary.classes[index].label
        contenders.append(Contender(query, index, name, best, probability, mean, fate, verdict))
    return contenders


def _confidence(proposals: Proposals) -> Tensor:
    """Mean of sigmoid inside each mask, logit > 0, at the picture's size: (N,); 0 where a mask has no pixel."""
    total = torch.zeros(len(proposals), device=proposals.mask_logits.device)
    area = torch.zeros_like(total)
    everyone = torch.arange(len(proposals), device=total.device)
    for tile in tiles(proposals, _TILE):
        logits = tile.logits(everyone).flatten(0, 1)
        inside = logits > 0
        total += (logits.sigmoid() * inside).sum(0)
        area += inside.sum(0)
    return total / area.clamp(min=1)


def _verdict(fate: Fate | None, merging: Merging, anywhere: bool) -> str:
    """Why a proposal became no segment; ``anywhere`` says whether its mask has any pixel."""
    if fate is None:
        return "counted: semantic mode drops none, each adds to its classes by its mask probability"
    instance = merging.mode == "instance"
    if not anywhere and (fate.outcome == "outshone" or (fate.outcome == "below threshold" and instance)):
        return "dropped: its mask has no pixel"
    if fate.outcome == "void":
        return f"dropped: 'no object' at {fate.void:.2f} beat its best class at {fate.score:.2f}"
    if fate.outcome == "below threshold":
        what = "the score of its best instance" if instance else f"its score of {fate.score:.2f}"
        return f"dropped: {what} is not above the threshold of {merging.object_threshold:g}"
    if fate.outcome == "overlapped" and fate.share is not None:
        share = math.floor(1000 * fate.share) / 10  # rounded down: it must not look enough
        return f"dropped: it kept {share:g}% of its own mask, {100 * merging.overlap_threshold:g}% are needed"
    if fate.outcome == "outshone":
        return "dropped: others won every pixel of its mask"
    if fate.outcome == "stuff":
        return "left out: its best classes are stuff, and instances are things"
    return f"left out: none of its classes is among the {merging.instances} best pairs of proposal and class"


def _formula(case: Case, query: int, class_index: int) -> Formula:
    """Computed again in float64, from embeddings: probabilities that vanish in float32 still have a ratio."""
    one, classifiers, fusion = case.proposals.choose([query]), case.classifiers, case.fusion
    in_logits = class_logits(one.class_embeddings, case.text, classifiers.void, classifiers.in_scale).double()
    out_logits = class_logits(one.clip_embeddings, case.text, classifiers.void, classifiers.out_scale).double()
    in_log, out_log = in_logits[:, :-1].log_softmax(-1), out_logits[:, :-1].log_softmax(-1)
    weights = ensemble_weights(one, case.scores.seen, classifiers, fusion).double()
    mixed = fuse(in_log, out_log, weights, fusion.kind).exp()
    peak = out_log.exp().amax() * clip_trusted(one, classifiers)[0]
    return Formula(
        kind=fusion.kind,
        rescue=fusion.rescue,
        class_index=class_index,
        label=case.vocabulary.classes[class_index].label,
        in_vocabulary=float(in_log[0, class_index].exp()),
        out_of_vocabulary=float(out_log[0, class_index].exp()),
        exponent=float(weights[0, class_index]),
        mixed=float(mixed[0, class_index]),
        total=float(mixed.sum()),
        raw_void=float(in_logits.softmax(-1)[0, -1]),
        clip_peak=float(peak),
        void=float(case.scores.void[query]),
        fused=float(case.scores.fused[query, class_index]),
    )
