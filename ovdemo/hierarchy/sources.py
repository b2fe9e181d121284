"""Where a tree comes from, as a value that can be kept and compared, and the tree itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from ovdemo.errors import UserError
from ovdemo.hierarchy.text import parse_tree
from ovdemo.hierarchy.tree import CategoryTree
from ovdemo.hierarchy.wordnet_trees import imagenet21k_tree, nouns_under, vocabulary_tree
from ovdemo.vocabulary import Vocabulary
from ovdemo.vocabulary.wordnet import load_wordnet

SourceKind = Literal["words", "text", "imagenet-21k", "nouns under"]


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


def tree_of(source: TreeSource, vocabulary: Vocabulary) -> CategoryTree:
    """The tree of a source; the words in use matter to ``words`` only.

    Raises:
        UserError: unknown kind, or as the makers of the four kinds.
    """
    makers: dict[str, Callable[[], CategoryTree]] = {
        "words": lambda: _of_words(vocabulary, source.choices),
        "text": lambda: _of_text(source.text),
        "imagenet-21k": lambda: imagenet21k_tree(load_wordnet()),
        "nouns under": lambda: _of_noun(source.text),
    }
    if source.kind not in makers:
        raise UserError(f'"{source.kind[:40]}" is no kind of tree; choose one of {", ".join(get_args(SourceKind))}.')
    return makers[source.kind]()


@lru_cache(maxsize=16)
def _of_words(vocabulary: Vocabulary, choices: tuple[tuple[str, str], ...]) -> CategoryTree:
    labels = {entry.label for entry in vocabulary.classes}
    return vocabulary_tree(load_wordnet(), vocabulary, {label: name for label, name in choices if label in labels})


@lru_cache(maxsize=16)
def _of_text(text: str) -> CategoryTree:
    return parse_tree(text)


@lru_cache(maxsize=4)
def _of_noun(word: str) -> CategoryTree:
    return nouns_under(load_wordnet(), word.strip())
