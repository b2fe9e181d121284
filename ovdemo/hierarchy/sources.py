"""Where a tree comes from, as a value that can be kept and compared, and the tree itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ovdemo.caching import BoundedCache
from ovdemo.errors import UserError
from ovdemo.hierarchy.text import parse_tree
from ovdemo.hierarchy.tree import CategoryTree
from ovdemo.hierarchy.wordnet_trees import imagenet21k_tree, nouns_under, senses_of, vocabulary_tree
from ovdemo.vocabulary import Vocabulary, VocabularyClass
from ovdemo.vocabulary.wordnet import Synset, load_wordnet

SourceKind = Literal["words", "text", "imagenet-21k", "nouns under"]

_NODE_BYTES = 600  # of a node without its words, and of the class that it answers


@dataclass(frozen=True)
class TreeSource:
    """One of the four ways to get a tree.

    Attributes:
        kind: ``words``: the words in use and the hypernyms that separate them; ``text``: indented text;
            ``imagenet-21k``: its nouns; ``nouns under``: all kinds of a noun.
        text: the indented text, or the noun.
        choices: of senses, (label, name of a synset), for ``words``.
    """

    kind: SourceKind = "words"
    text: str = ""
    choices: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> Hashable:
        """Equal for equal sources, and small: a text may have two million characters."""
        return self.kind, hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest(), self.choices


def tree_of(source: TreeSource, vocabulary: Vocabulary) -> CategoryTree:
    """The tree of a source, mostly from memory; the words in use matter to ``words`` only.

    Raises:
        UserError: unknown kind, or as the makers of the four kinds.
    """
    makers: dict[str, Callable[[], CategoryTree]] = {
        "words": lambda: _of_words(vocabulary, source.choices),
        "text": lambda: parse_tree(source.text),
        "imagenet-21k": lambda: imagenet21k_tree(load_wordnet()),
        "nouns under": lambda: nouns_under(load_wordnet(), source.text.strip()),
    }
    if source.kind not in makers:
        raise UserError(f'"{source.kind[:40]}" is no kind of tree; choose one of {", ".join(get_args(SourceKind))}.')
    make = makers[source.kind]
    if source.kind == "imagenet-21k":  # which the process keeps for everybody
        return make()
    return _TREES.get((source.key, vocabulary if source.kind == "words" else None), make)


def tree_bytes(tree: CategoryTree) -> int:
    """Roughly what a tree takes in memory."""
    return sum(_NODE_BYTES + len(node.gloss) + sum(map(len, node.names)) for node in tree.nodes)


def senses(entry: VocabularyClass) -> tuple[Synset, ...]:
    """What a class may mean, the most frequent first; see :func:`ovdemo.hierarchy.senses_of`.

    Raises:
        UserError: WordNet is missing.
    """
    return senses_of(load_wordnet(), entry)


def ambiguous(classes: Iterable[VocabularyClass]) -> tuple[str, ...]:
    """Labels of the classes that have several senses, in their order. Takes a tenth of a millisecond a class.

    Raises:
        UserError: WordNet is missing.
    """
    return tuple(entry.label for entry in classes if len(senses(entry)) > 1)


def _of_words(vocabulary: Vocabulary, choices: tuple[tuple[str, str], ...]) -> CategoryTree:
    labels = {entry.label for entry in vocabulary.classes}
    return vocabulary_tree(load_wordnet(), vocabulary, {label: name for label, name in choices if label in labels})


# Visitors' own trees, which the largest text makes about 15 MB.
_TREES: BoundedCache[CategoryTree] = BoundedCache(64 * 2**20, tree_bytes, max_age=3600.0)
