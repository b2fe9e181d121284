"""From embeddings to class probabilities: two classifiers and how they are fused.

Everything here is a small matrix product over cached proposals, so a new word, alpha or beta costs milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.ensemble import Fusion, FusionKind
from ovdemo.systems.base import Classifiers, Proposals
from ovdemo.vocabulary import TextEmbeddings


@dataclass(frozen=True, eq=False)
class Scores:
    """Probabilities of every proposal.

    Attributes:
        in_vocabulary: (N, C), each row sums to one over the classes.
        out_of_vocabulary: (N, C), likewise.
        fused: (N, C), each row sums to ``1 - void``.
        void: (N,) probability of "no object", after the rescue.
        seen: (C,) bool, classes that share a name with the training vocabulary.
    """

    in_vocabulary: Tensor
    out_of_vocabulary: Tensor
    fused: Tensor
    void: Tensor
    seen: Tensor


def score(proposals: Proposals, text: TextEmbeddings, seen: Tensor, classifiers: Classifiers, fusion: Fusion) -> Scores:
    """Classify every proposal with both classifiers and fuse them (FC-CLIP, section 3.3).

    The void column leaves before either softmax over the classes, but p(void) comes from the in-vocabulary softmax
    over classes and void together - so it falls as the vocabulary grows. The rescue (:class:`Fusion`) lowers it before
    the classes share what it leaves.
    """
    in_logits = class_logits(proposals.class_embeddings, text, classifiers.void, classifiers.in_scale)
    out_logits = class_logits(proposals.clip_embeddings, text, classifiers.void, classifiers.out_scale)
    void = in_logits.softmax(-1)[:, -1]
    in_log = in_logits[:, :-1].log_softmax(-1)
    out_log = out_logits[:, :-1].log_softmax(-1)
    trusted = clip_trusted(proposals, classifiers)
    void = void * (1 - fusion.rescue * out_log.amax(-1).exp() * trusted)
    mixed = fuse(in_log, out_log, ensemble_weights(proposals, seen, classifiers, fusion), fusion.kind)
    return Scores(
        in_vocabulary=in_log.exp(),
        out_of_vocabulary=out_log.exp(),
        fused=mixed.softmax(-1) * (1 - void)[:, None],
        void=void,
        seen=seen,
    )


def clip_trusted(proposals: Proposals, classifiers: Classifiers) -> Tensor:
    """Whether the system lets CLIP judge each proposal, (N,) bool: some do not where it pooled from nothing."""
    supported = proposals.clip_supported
    return supported if classifiers.needs_clip_support else torch.ones_like(supported)


def ensemble_weights(proposals: Proposals, seen: Tensor, classifiers: Classifiers, fusion: Fusion) -> Tensor:
    """Weight of the out-of-vocabulary classifier for every proposal and class, (N, C), as :func:`score` uses it.

    It is :meth:`Fusion.weights`, and 0 where the system does not let CLIP judge the proposal.
    """
    trusted = clip_trusted(proposals, classifiers)
    return fusion.weights(seen.to(trusted.device)) * trusted[:, None]


def class_logits(embeddings: Tensor, text: TextEmbeddings, void: Tensor, scale: float) -> Tensor:
    """Scaled cosines to every class, void last: (N, D) -> (N, C + 1).

    A class scores the maximum over its own names; the void column stands for itself.
    """
    unit = F.normalize(embeddings, dim=-1)
    rows = text.rows.to(unit.device)
    classes = text.max_over_names(unit @ rows.T)
    return scale * torch.cat((classes, unit @ void[:, None]), -1)


def fuse(in_log: Tensor, out_log: Tensor, weights: Tensor, kind: FusionKind) -> Tensor:
    """Log of the mixture of two classifiers before it is normalised, (N, C).

    Geometric: ``(1 - w) log p_in + w log p_out`` (FC-CLIP, equation 7). Arithmetic:
    ``log((1 - w) p_in + w p_out)`` (FC-CLIP, Table 8). Working on log-softmax keeps a vanishing probability finite.

    Args:
        in_log: (N, C) log-probabilities of the in-vocabulary classifier.
        out_log: (N, C) of the out-of-vocabulary classifier.
        weights: (N, C) of the latter, in 0..1.
        kind: only ``arithmetic`` differs; at weights 0 and 1 both formulas agree.
    """
    if kind == "arithmetic":
        return torch.logaddexp(in_log + torch.log1p(-weights), out_log + weights.log())
    return (1 - weights) * in_log + weights * out_log
