"""Words that may be missing: nouns for what an answer leaves unlabelled or doubtful."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.inspection import Case
from ovdemo.uncertainty import uncertainty
from ovdemo.upsampling import picture_to_cells
from ovdemo.vocabulary import TextEmbeddings, Vocabulary
from ovdemo.vocabulary.names import name_key

_COUNT = 12
_PROPOSALS = 32  # that are classified: each costs a product with all nouns
_DEPTH = 24  # nouns of a proposal that are considered
_DOUBTFUL_VOID = 0.5  # p(void) from which a pixel is doubtful
_DOUBTFUL_MARGIN = 0.2  # margin below which it is
_SMALLEST = 0.005  # share of the picture
_LEFT = 0.5  # of the doubt under a proposal, when one more noun was found for it


@dataclass(frozen=True)
class Suggestion:
    """A noun to add.

    Attributes:
        word: the noun, first name of its class.
        class_index: of that class, in the vocabulary of nouns.
        proposal: which looks like it.
        probability: of the noun among all nouns, by the CLIP embedding of the proposal, in 0..1.
        share: unlabelled or doubtful pixels in the proposal's mask, as a share of the picture's, in 0..1.
    """

    word: str
    class_index: int
    proposal: int
    probability: float
    share: float


@torch.inference_mode()
def suggest(
    case: Case, nouns: Vocabulary, text: TextEmbeddings, *, leave_out: Callable[[int], bool] = lambda index: False
) -> tuple[Suggestion, ...]:
    """Up to twelve nouns for what is unlabelled or doubtful, the most useful first.

    A pixel is doubtful where p(void) is 0.5 or more or the margin is below 0.2 (:mod:`ovdemo.uncertainty`). Proposals
    whose mask lies at least half on unlabelled or doubtful pixels, and on 0.5 % of the picture's, are classified among
    all nouns by their CLIP embeddings: the 32 with the most such pixels, weighted by mask probability. A noun is worth
    its probability times those pixels. The best is taken again and again, and each time the pixels under its proposal
    count half as much from then on, so that other parts of the picture have their turn.

    A noun that shares a name with the case's vocabulary or with a noun that was taken before is left out; each class
    of ImageNet-21K is one synset of WordNet, so that no two suggestions are synonyms.

    Args:
        case: the answer.
        nouns: classes to choose from, such as ``load_preset("imagenet-21k")``.
        text: their embeddings, made with the case's text tower.
        leave_out: whether not to suggest a class, by its index; asked of few. See
            :func:`ovdemo.hierarchy.kinds_of_person`.
    """
    regions = _regions(case)
    embeddings = F.normalize(case.proposals.clip_embeddings[regions.queries], dim=-1)
    logits = case.classifiers.out_scale * text.max_over_names(embeddings @ text.rows.to(embeddings).T)
    probability, classes = logits.softmax(-1).topk(min(_DEPTH, len(nouns)))
    names = {index: {name_key(name) for name in nouns.classes[index].names} for index in classes.unique().tolist()}
    barred = {index for index in names if leave_out(index)}
    taken = {name_key(name) for name in case.vocabulary.names}
    doubt = regions.doubt
    found: list[Suggestion] = []
    while len(found) < _COUNT:
        free = [index for index in names if index not in barred and names[index].isdisjoint(taken)]
        usable = torch.isin(classes, torch.tensor(free, dtype=classes.dtype, device=classes.device))
        worth = probability * usable * (regions.masks @ doubt)[:, None]
        if not worth.any():
            break
        row, column = divmod(int(worth.argmax()), worth.shape[1])
        index = int(classes[row, column])
        found.append(
            Suggestion(
                word=nouns.classes[index].label,
                class_index=index,
                proposal=int(regions.queries[row]),
                probability=float(probability[row, column]),
                share=float(regions.share[row]),
            )
        )
        taken |= names[index]
        doubt = torch.where(regions.masks[row] > 0, _LEFT * doubt, doubt)
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Regions:
    """The n proposals that cover most of what is unlabelled or doubtful, on the grid of P cells.

    Attributes:
        queries: (n,) their indices.
        masks: (n, P) mask probabilities, 0 outside the mask.
        share: (n,) unlabelled or doubtful pixels in the mask, as a share of the picture's.
        doubt: (P,) how many such pixels each cell stands for.
    """

    queries: Tensor
    masks: Tensor
    share: Tensor
    doubt: Tensor


def _regions(case: Case) -> _Regions:
    proposals = case.proposals
    maps = uncertainty(proposals, case.scores, case.segmentation)
    doubtful = maps.unlabelled | (maps.void >= _DOUBTFUL_VOID) | (maps.margin < _DOUBTFUL_MARGIN)
    masks = proposals.mask_logits.sigmoid()
    grid = (masks.shape[1], masks.shape[2])
    both = torch.from_numpy(np.stack((doubtful, np.ones_like(doubtful)))).to(masks)
    doubt, pixels = (picture_to_cells(x, grid, proposals.geometry).flatten() for x in both)
    masks = masks.flatten(1)
    inside = masks >= 0.5
    covered, area = inside.to(masks) @ doubt, inside.to(masks) @ pixels
    useful = proposals.clip_supported & (2 * covered >= area) & (covered >= _SMALLEST * doubtful.size)
    masks = masks * inside
    queries = (masks @ doubt * useful).topk(min(_PROPOSALS, int(useful.sum()))).indices
    return _Regions(queries, masks[queries], covered[queries] / doubtful.size, doubt)
