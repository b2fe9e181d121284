"""Category trees: which classes are kinds of the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ovdemo.errors import UserError
from ovdemo.vocabulary import Vocabulary, VocabularyClass

MAX_NODES = 25_000
MAX_DEPTH = 100
_GLOSS_CHARACTERS = 80


@dataclass(frozen=True)
class Draft:
    """A node before its tree is grown.

    Attributes:
        names: at least one; the first is its label.
        parent: index of the parent's draft, ``None`` for the root. Parents need not come first.
        class_index: the class of the vocabulary that the node answers; every leaf has one, an inner node may.
        synset: WordNet's name of it, such as ``"dog.n.01"``.
        gloss: what WordNet says it is.
        stands_for: the synsets that were folded into it, the most general first, its own among them.
    """

    names: tuple[str, ...]
    parent: int | None
    class_index: int | None = None
    synset: str | None = None
    gloss: str = ""
    stands_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node of a tree; the fields it shares with :class:`Draft` mean the same.

    Attributes:
        parent: index of the parent, -1 for the root.
        children: indices of its children, which are consecutive.
        depth: edges from the root.
    """

    names: tuple[str, ...]
    parent: int
    children: range
    depth: int
    class_index: int | None
    synset: str | None
    gloss: str
    stands_for: tuple[str, ...]

    @property
    def label(self) -> str:
        """The first name."""
        return self.names[0]


@dataclass(frozen=True)
class CategoryTree:
    """A tree whose leaves, and some of whose inner nodes, answer the classes of a vocabulary.

    Attributes:
        nodes: M of them in breadth-first order: the root, its children, theirs; siblings are consecutive.
        vocabulary: the C classes; each is answered by one node.
        notes: one sentence for everything that could not be done as asked.
    """

    nodes: tuple[Node, ...]
    vocabulary: Vocabulary
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def depth(self) -> int:
        """Depth of the deepest node."""
        return self.nodes[-1].depth

    @cached_property
    def parents(self) -> Tensor:
        """(M,) int64 index of each node's parent, which never falls; the root's is 0."""
        return torch.tensor([max(node.parent, 0) for node in self.nodes])

    @cached_property
    def is_leaf(self) -> Tensor:
        """(M,) bool."""
        return torch.tensor([not node.children for node in self.nodes])

    @cached_property
    def levels(self) -> tuple[slice, ...]:
        """The nodes of each depth, the root's first."""
        counts = torch.tensor([node.depth for node in self.nodes]).bincount()
        ends = counts.cumsum(0).tolist()
        return tuple(map(slice, (0, *ends), ends))

    @cached_property
    def class_nodes(self) -> Tensor:
        """(C,) int64 index of the node that answers each class."""
        answers = {node.class_index: index for index, node in enumerate(self.nodes) if node.class_index is not None}
        return torch.tensor([answers[index] for index in range(len(self.vocabulary))])

    def lineage(self, node: int) -> tuple[int, ...]:
        """Indices from the root down to a node, both included."""
        indices = [node]
        while self.nodes[indices[-1]].parent >= 0:
            indices.append(self.nodes[indices[-1]].parent)
        return tuple(reversed(indices))

    def find(self, synset: str) -> int | None:
        """The node of a synset, or the one that stands for it."""
        for index, node in enumerate(self.nodes):
            if synset == node.synset or synset in node.stands_for:
                return index
        return None

    def words(self, *, glosses: bool = True) -> Vocabulary:
        """What to embed in order to score nodes: one class a node, in their order.

        Args:
            glosses: whether inner nodes have the first phrase of their gloss as one more name.
        """
        classes = self.vocabulary.classes
        answered = (None if n.class_index is None else classes[n.class_index] for n in self.nodes)
        return Vocabulary(
            tuple(
                VocabularyClass(
                    node.names + (_phrase(node) if glosses and node.children else ()),
                    entry.kind if entry else "thing",
                    inferred=entry is None or entry.inferred,
                )
                for node, entry in zip(self.nodes, answered, strict=True)
            )
        )


def grow(drafts: Sequence[Draft], vocabulary: Vocabulary, notes: tuple[str, ...] = ()) -> CategoryTree:
    """The tree of drafts; siblings keep the drafts' order.

    Raises:
        UserError: fewer than two nodes, more than 25,000, deeper than 100, or a node that is its own ancestor.
        ValueError: no root or several, a leaf without a class, or a class not answered by exactly one node.
    """
    if len(drafts) < 2:
        raise UserError("The tree is empty; it needs at least one category under its root.")
    if len(drafts) > MAX_NODES:
        raise UserError(f"The tree has {len(drafts):,} nodes, and {MAX_NODES:,} are possible; choose a narrower one.")
    children: list[list[int]] = [[] for _ in drafts]
    for index, draft in enumerate(drafts):
        if draft.parent is not None:
            children[draft.parent].append(index)
    order = _breadth_first(drafts, children)
    answered = sorted(draft.class_index for draft in drafts if draft.class_index is not None)
    if answered != list(range(len(vocabulary))):
        raise ValueError("every class needs one node that answers it")
    if any(not below and draft.class_index is None for draft, below in zip(drafts, children, strict=True)):
        raise ValueError("every leaf needs a class")

    place = {index: position for position, index in enumerate(order)}
    nodes: list[Node] = []
    for index in order:
        draft, below = drafts[index], children[index]
        first = place[below[0]] if below else 0
        parent = -1 if draft.parent is None else place[draft.parent]
        nodes.append(
            Node(
                draft.names,
                parent,
                range(first, first + len(below)),
                nodes[parent].depth + 1 if parent >= 0 else 0,
                draft.class_index,
                draft.synset,
                draft.gloss,
                draft.stands_for,
            )
        )
    if nodes[-1].depth > MAX_DEPTH:
        raise UserError(f"The tree is {nodes[-1].depth} levels deep, and {MAX_DEPTH} are possible; leave some out.")
    return CategoryTree(tuple(nodes), vocabulary, notes)


def _breadth_first(drafts: Sequence[Draft], children: Sequence[Sequence[int]]) -> list[int]:
    roots = [index for index, draft in enumerate(drafts) if draft.parent is None]
    order = list(roots)
    for index in order:  # the list grows while it is read
        order += children[index]
    if len(order) < len(drafts):
        lost = min(set(range(len(drafts))) - set(order))
        raise UserError(
            f'"{_on_cycle(drafts, lost)}" is its own ancestor; give one node of that circle another parent.'
        )
    if len(roots) != 1:
        raise ValueError(f"a tree has one root, not {len(roots)}")
    return order


def _on_cycle(drafts: Sequence[Draft], lost: int) -> str:
    """Label of a node of the circle that a node without a root leads up to."""
    met: set[int] = set()
    while lost not in met:
        met.add(lost)
        parent = drafts[lost].parent
        assert parent is not None
        lost = parent
    return drafts[lost].names[0]


def _phrase(node: Node) -> tuple[str, ...]:
    """The gloss up to its first bracket or semicolon, cut between words to the length of a name; none if empty."""
    text = " ".join(node.gloss.split("(")[0].split(";")[0].split())
    if len(text) > _GLOSS_CHARACTERS:
        text = text[: _GLOSS_CHARACTERS + 1].rpartition(" ")[0]
    return (text,) if text and text not in node.names else ()
