"""Category trees from WordNet: of the words in use, of ImageNet-21K, and of all nouns under one."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

from ovdemo.errors import UserError
from ovdemo.hierarchy.tree import MAX_NODES, CategoryTree, Draft, grow
from ovdemo.vocabulary import Vocabulary, VocabularyClass, imagenet21k_synsets, infer_kind, load_preset
from ovdemo.vocabulary.wordnet import Synset, WordNet

_ENTITY = "entity.n.01"


def senses_of(wordnet: WordNet, entry: VocabularyClass) -> tuple[Synset, ...]:
    """What a class may mean: the candidates of a sense picker, the most frequent first.

    The senses of the first of its names that WordNet knows. If it knows none, those of the first last word that it
    knows: a "sports ball" is a ball. Empty where that fails too.
    """
    last_words = (name.split()[-1] for name in entry.names if len(name.split()) > 1)
    for name in (*entry.names, *last_words):
        senses = wordnet.senses(name)
        if senses:
            return senses
    return ()


def usual_sense(senses: Sequence[Synset]) -> Synset | None:
    """The sense that a class has unless somebody chooses: the first that ImageNet-21K has pictures of, else the first.

    So a table is furniture, although tables of numbers are more frequent in texts.
    """
    pictured = _pictured()
    return next((sense for sense in senses if sense.offset in pictured), senses[0] if senses else None)


def vocabulary_tree(
    wordnet: WordNet, vocabulary: Vocabulary, choices: Mapping[str, str | None] | None = None
) -> CategoryTree:
    """The classes and the hypernyms that separate them.

    A hypernym stays where it has several branches or is itself a class; in a chain of hypernyms without a branch, the
    one whose words are the most frequent stays and stands for all. Classes of one meaning hang side by side under it.
    A class that WordNet does not know hangs under the root as itself, with a note.

    Args:
        wordnet: the nouns.
        vocabulary: at least one class.
        choices: name of a synset by label, ``None`` for "none of them"; other classes take their :func:`usual_sense`.

    Raises:
        UserError: a choice for a label that is no class, or of a synset that WordNet lacks, or a tree out of bounds.
    """
    choices = choices or {}
    strange = next((label for label in choices if all(label != c.label for c in vocabulary.classes)), None)
    if strange is not None:
        raise UserError(
            f'A sense was chosen for "{strange[:80]}", which is not a class; choose senses of classes only.'
        )
    meanings: list[Synset | None] = []
    unknown = []
    for entry in vocabulary.classes:
        if entry.label in choices:
            chosen = choices[entry.label]
            meanings.append(None if chosen is None else wordnet.synset(chosen))
            continue
        meaning = usual_sense(senses_of(wordnet, entry))
        meanings.append(meaning)
        if meaning is None:
            unknown.append(entry.label)
    notes = tuple(f'WordNet does not know "{label}"; it hangs under the root' for label in unknown)
    return _folded(wordnet, vocabulary, meanings, notes)


@cache
def imagenet21k_tree(wordnet: WordNet) -> CategoryTree:
    """The synsets of ``load_preset("imagenet-21k")`` and the hypernyms that separate them.

    Inner nodes are classes too where ImageNet has them. Of the 21,841 synsets, kinds of person are left out, so that
    "person" is a leaf (see :func:`kinds_of_person`). Takes some seconds once; later calls give the same tree.
    """
    barred = set(kinds_of_person(wordnet))
    entries = load_preset("imagenet-21k").classes
    kept = [index for index in range(len(entries)) if index not in barred]
    offsets = _imagenet_offsets()
    meanings = [wordnet.at_offset(offsets[index]) for index in kept]
    return _folded(wordnet, Vocabulary(tuple(entries[index] for index in kept)), meanings)


@cache
def kinds_of_person(wordnet: WordNet) -> tuple[int, ...]:
    """Classes of ``load_preset("imagenet-21k")`` that are hyponyms of "person", 2,835 of them, and the genus "homo".

    Many are slurs, or say what no picture shows; ImageNet's makers withdrew most of them (Yang et al., 2020). Nobody
    should find themselves called so by a photograph's label.
    """
    lineages = (wordnet.at_offset(offset).lineage for offset in _imagenet_offsets())
    return tuple(i for i, line in enumerate(lineages) if "person.n.01" in line[:-1] or line[-1] == "homo.n.02")


def nouns_under(wordnet: WordNet, word: str) -> CategoryTree:
    """All kinds of a noun, each a class of its own, and the noun itself as their root.

    Every noun hangs under the hypernym with the longest lineage, among those that are kinds of ``word`` themselves.

    Args:
        wordnet: the nouns.
        word: a word, taken in its most frequent sense, or a synset's name such as ``"dog.n.01"``.

    Raises:
        UserError: there is no word, WordNet does not know it, it has no kinds, or more than 25,000.
    """
    if not word:
        raise UserError('There is no noun to list the kinds of; type one, such as "animal".')
    senses = wordnet.senses(word)
    if not senses and "." not in word:
        raise UserError(f'WordNet does not know the noun "{word[:80]}"; check its spelling or try a synonym.')
    top = senses[0] if senses else wordnet.synset(word)
    parents = _kinds(wordnet, top)
    if len(parents) < 2:
        raise UserError(f'WordNet lists no kinds of "{top.words[0]}"; try a more general noun.')
    place = {synset: index for index, synset in enumerate(parents)}
    drafts = [
        Draft(synset.words, None if above is None else place[above], index, synset.name, synset.gloss, (synset.name,))
        for index, (synset, above) in enumerate(parents.items())
    ]
    classes = (VocabularyClass(synset.words, infer_kind(synset.words), inferred=True) for synset in parents)
    return grow(drafts, Vocabulary(tuple(classes)))


def _imagenet_offsets() -> tuple[int, ...]:
    return tuple(int(identifier[1:]) for identifier in imagenet21k_synsets())


@cache
def _pictured() -> frozenset[int]:
    return frozenset(_imagenet_offsets())


def _kinds(wordnet: WordNet, top: Synset) -> dict[Synset, Synset | None]:
    """The synsets from ``top`` downwards, in breadth-first order, and the parent of each."""
    parents: dict[Synset, Synset | None] = {top: None}
    queue = [top]
    for synset in queue:  # the list grows while it is read
        for kind in wordnet.kinds_of(synset):
            if kind not in parents:
                queue.append(kind)
            best = parents.setdefault(kind, synset)
            if best is not None and (-len(synset.lineage), synset.offset) < (-len(best.lineage), best.offset):
                parents[kind] = synset
        if len(parents) > MAX_NODES:
            raise UserError(
                f'There are more than {MAX_NODES:,} nouns under "{top.words[0]}", the most there can be; '
                "choose a narrower one."
            )
    return parents


@dataclass
class _Branch:
    """A synset in use: the synsets in use right under it, and the classes that mean it, in the order of classes."""

    below: dict[str, None] = field(default_factory=dict)
    classes: list[int] = field(default_factory=list)


def _folded(
    wordnet: WordNet, vocabulary: Vocabulary, meanings: Sequence[Synset | None], notes: tuple[str, ...] = ()
) -> CategoryTree:
    """The tree of classes whose meanings are given; those without hang under the root."""
    branches: defaultdict[str, _Branch] = defaultdict(_Branch)
    strays = [index for index, meaning in enumerate(meanings) if meaning is None]
    for index, meaning in enumerate(meanings):
        if meaning is not None:
            for above, name in pairwise(meaning.lineage):
                branches[above].below[name] = None
            branches[meaning.name].classes.append(index)
    drafts: list[Draft] = []
    queue: deque[tuple[str, int | None]] = deque([(_ENTITY, None)])
    while queue:
        name, parent = queue.popleft()
        chain = _chain(branches, name, is_root=parent is None, has_strays=bool(strays))
        branch = branches[chain[-1]]
        here = len(drafts)
        if len(branch.classes) == 1:
            drafts.append(_class_draft(wordnet, vocabulary, branch.classes[0], parent, chain))
        else:
            drafts.append(_inner_draft(wordnet, parent, chain))
            drafts += (_class_draft(wordnet, vocabulary, index, here, chain[-1:]) for index in branch.classes)
        if parent is None:
            drafts += (Draft(vocabulary.classes[index].names, here, index) for index in strays)
        queue += ((below, here) for below in branch.below)
    return grow(drafts, vocabulary, notes)


def _chain(branches: Mapping[str, _Branch], top: str, *, is_root: bool, has_strays: bool) -> tuple[str, ...]:
    """Synsets from ``top`` down to the first that is a class or has several branches; a root ends before a class."""
    chain = [top]
    while True:
        branch = branches[chain[-1]]
        if branch.classes or len(branch.below) != 1 or (is_root and has_strays):
            return tuple(chain)
        (below,) = branch.below
        if is_root and len(branches[below].classes) == 1:
            return tuple(chain)
        chain.append(below)


def _class_draft(
    wordnet: WordNet, vocabulary: Vocabulary, index: int, parent: int | None, chain: tuple[str, ...]
) -> Draft:
    synset = wordnet.synset(chain[-1])
    return Draft(vocabulary.classes[index].names, parent, index, synset.name, synset.gloss, chain)


def _inner_draft(wordnet: WordNet, parent: int | None, chain: tuple[str, ...]) -> Draft:
    """A node for a chain of synsets, named by its most frequent; by the lowest among equals."""
    synsets = [wordnet.synset(name) for name in reversed(chain)]
    synset = max(synsets, key=wordnet.frequency) if len(synsets) > 1 else synsets[0]
    return Draft(synset.words, parent, None, synset.name, synset.gloss, chain)
