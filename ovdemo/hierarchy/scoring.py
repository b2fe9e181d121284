"""Probabilities of every node of a tree, in two ways that claim the same: p(node), never more than its parent's.

*Roll-up* sums a distribution over the classes up the tree. *Greedy descent* classifies among the children of a node,
then among the children of the best, and so on (OPSNet, section 4.4 and Figure 5); the product of these probabilities
along a path is the node's. Both classify with the project's fusion, from cached proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.ensemble import Fusion
from ovdemo.fusion import class_logits, ensemble_weights, fuse
from ovdemo.hierarchy.tree import CategoryTree
from ovdemo.segmentation import ClassProbability, Segment
from ovdemo.systems.base import Classifiers, Proposals
from ovdemo.vocabulary import TextEmbeddings, Vocabulary

TreeMode = Literal["roll-up", "greedy"]


@dataclass(frozen=True, eq=False)
class TreeScores:
    """Probabilities of N proposals or segments over the M nodes of a tree.

    Attributes:
        tree: whose nodes they are.
        mode: how they were made.
        probability: (N, M) of being this or a kind of it: 1 at the root, and at every node the sum over its children
            and its own.
        own: (N, M) of being this and none of the kinds below it: all that a leaf has, at an inner node what the class
            that it answers has; 0 where there is none, and everywhere inside the tree in greedy descent, which never
            weighs a node against its own children.
    """

    tree: CategoryTree
    mode: TreeMode
    probability: Tensor
    own: Tensor


def of_segments(proposals: Proposals, segments: Sequence[Segment]) -> Proposals:
    """The strongest proposal of each segment, in their order: what the segment's class was read from."""
    return proposals.choose([segment.queries[0] for segment in segments])


@torch.inference_mode()
def class_distribution(
    proposals: Proposals, text: TextEmbeddings, *, seen: Tensor, classifiers: Classifiers, fusion: Fusion
) -> Tensor:
    """Fused probabilities given that there is an object, (N, C): each row sums to one.

    They are in proportion to what :func:`ovdemo.fusion.score` says, but void takes no part: where "no object" is
    certain to the last digit, as for a cat in a tree of street furniture, those are all 0 and have no proportion.

    Args:
        proposals: N of them.
        text: embeddings of C classes.
        seen: (C,) bool, classes that share a name with the training vocabulary.
        classifiers: of the system.
        fusion: as for the picture.
    """
    in_logits, out_logits = _without_void(proposals, text, classifiers)
    weights = ensemble_weights(proposals, seen, classifiers, fusion)
    return fuse(in_logits.log_softmax(-1), out_logits.log_softmax(-1), weights, fusion.kind).softmax(-1)


@torch.inference_mode()
def roll_up(tree: CategoryTree, distribution: Tensor) -> TreeScores:
    """Sum a distribution over the tree's classes up the tree.

    Args:
        tree: M nodes, C classes.
        distribution: (N, C), each row sums to one: :func:`class_distribution` for the tree's vocabulary.
    """
    own = distribution.new_zeros(len(tree), len(distribution))  # nodes first: a level is one block of memory
    own[tree.class_nodes.to(distribution.device)] = distribution.T
    total = own.clone()
    _add_to_parents(tree, total)
    return TreeScores(tree, "roll-up", total.T, own.T)


@torch.inference_mode()
def descend(
    tree: CategoryTree,
    proposals: Proposals,
    text: TextEmbeddings,
    *,
    seen: Tensor,
    classifiers: Classifiers,
    fusion: Fusion,
) -> TreeScores:
    """Classify every proposal among the children of every node, and multiply along the paths.

    Args:
        tree: M nodes.
        proposals: N of them.
        text: embeddings of ``tree.words()``, one class a node, or :func:`inner_means`.
        seen: (M,) bool, nodes that share a name with the training vocabulary.
        classifiers: of the system.
        fusion: as for classes.
    """
    logs = sibling_log_probabilities(
        tree, proposals, text, seen=seen, classifiers=classifiers, fusion=fusion
    ).T.contiguous()
    parents = tree.parents.to(logs.device)
    for level in tree.levels[1:]:
        logs[level] += logs[parents[level]]
    probability = logs.exp_()
    return TreeScores(
        tree, "greedy", probability.T, torch.where(tree.is_leaf[:, None].to(logs.device), probability, 0).T
    )


@torch.inference_mode()
def sibling_log_probabilities(
    tree: CategoryTree,
    proposals: Proposals,
    text: TextEmbeddings,
    *,
    seen: Tensor,
    classifiers: Classifiers,
    fusion: Fusion,
) -> Tensor:
    """log p(node | parent): what :func:`ovdemo.fusion.score` says with a node's children as the vocabulary, (N, M).

    Void takes no part: whether there is an object at all was decided before. Arguments as in :func:`descend`.
    """
    groups = _Siblings(tree, text.rows.device)
    in_logits, out_logits = _without_void(proposals, text, classifiers)
    weights = ensemble_weights(proposals, seen, classifiers, fusion)
    in_log, out_log = groups.log_softmax(in_logits.T.contiguous()), groups.log_softmax(out_logits.T.contiguous())
    return groups.log_softmax(fuse(in_log, out_log, weights.T, fusion.kind)).T


def _without_void(proposals: Proposals, text: TextEmbeddings, classifiers: Classifiers) -> tuple[Tensor, Tensor]:
    """Logits (N, C) of the in-vocabulary and of the out-of-vocabulary classifier."""
    in_logits = class_logits(proposals.class_embeddings, text, classifiers.void, classifiers.in_scale)
    out_logits = class_logits(proposals.clip_embeddings, text, classifiers.void, classifiers.out_scale)
    return in_logits[:, :-1], out_logits[:, :-1]


def _add_to_parents(tree: CategoryTree, values: Tensor, *, normalised: bool = False) -> None:
    """Add (M, D) rows to their parents' in place, from the leaves up; as unit vectors if ``normalised``."""
    parents = tree.parents.to(values.device)
    for above, level in reversed(tuple(pairwise(tree.levels))):
        if normalised:
            values[level] = F.normalize(values[level], dim=-1)
        values[above].index_add_(0, parents[level] - above.start, values[level])
    if normalised:
        values[0] = F.normalize(values[0], dim=-1)


class _Siblings:
    """Softmax among siblings, which are consecutive; the root is alone."""

    def __init__(self, tree: CategoryTree, device: torch.device) -> None:
        counts = [1, *(len(node.children) for node in tree.nodes if node.children)]
        self._counts = torch.tensor(counts, device=device)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """(M, N) -> (M, N)."""
        peaks = torch.segment_reduce(logits, "max", lengths=self._counts, axis=0)
        shifted = logits - self._spread(peaks)
        sums = torch.segment_reduce(shifted.exp(), "sum", lengths=self._counts, axis=0)
        return shifted.sub_(self._spread(sums.log_()))

    def _spread(self, groups: Tensor) -> Tensor:
        return groups.repeat_interleave(self._counts, 0)


@torch.inference_mode()
def inner_means(tree: CategoryTree, text: TextEmbeddings) -> TextEmbeddings:
    """Embeddings of nodes with inner nodes as the mean of their children, instead of their own names and glosses.

    A leaf keeps its rows, and counts above as the mean of them; every mean is a unit vector again, as for the prompts
    of a name. It depends on no picture, and on the words of the leaves alone: there is nothing to encode beyond what
    roll-up needs.

    Args:
        tree: M nodes, C classes.
        text: embeddings of ``tree.vocabulary``.

    Returns:
        Embeddings of M classes, one a node.
    """
    nodes, is_leaf = tree.class_nodes.to(text.rows.device)[text.owner], tree.is_leaf.to(text.rows.device)
    of_leaves = is_leaf[nodes]
    rows, owners = text.rows[of_leaves], nodes[of_leaves]
    vectors = rows.new_zeros(len(tree), rows.shape[1]).index_add_(0, owners, rows)
    _add_to_parents(tree, vectors, normalised=True)
    owners = torch.cat((owners, (~is_leaf).nonzero().flatten()))
    order = owners.argsort(stable=True)
    return TextEmbeddings(torch.cat((rows, vectors[~is_leaf]))[order], owners[order], len(tree))


def top_classes(
    distribution: Tensor, vocabulary: Vocabulary, count: int = 5
) -> tuple[tuple[ClassProbability, ...], ...]:
    """The best classes of each row, best first: OPSNet's Figure 3 with ``load_preset("imagenet-21k")``.

    Args:
        distribution: (N, C) probabilities.
        vocabulary: C classes.
        count: how many; fewer where there are fewer classes.
    """
    values, indices = distribution.topk(min(count, len(vocabulary)))
    return tuple(
        tuple(ClassProbability(i, vocabulary.classes[i].label, p) for i, p in zip(row_indices, row_values, strict=True))
        for row_indices, row_values in zip(indices.tolist(), values.tolist(), strict=True)
    )
