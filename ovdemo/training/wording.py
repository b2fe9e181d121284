"""Text embeddings of the concepts for training: several wordings of each, and which of them say nearly the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, cycle, islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ovdemo.nn.clip import ClipTower
from ovdemo.training.compose import captioned
from ovdemo.training.concepts import Concept, Concepts
from ovdemo.training.meanings import plural, shown_meaning
from ovdemo.training.photos import PhotoStore
from ovdemo.vocabulary import VILD_14, EmbeddingCache, TextEmbedder, load_preset
from ovdemo.vocabulary.wordnet import Synset, WordNet

WORDINGS = 10  # of each concept; the first is what inference uses: its first name in all prompt templates
_RELATED = 3  # of them, where there are any: words for the concept that the data does not have
_TEMPLATED = 0.7  # of the wordings after the first; the others are a bare word
_SYNONYM, _NOUN = 0.4, 0.6  # least cosine of a synonym and of a mere noun to the concept's name
_SHIFTS = 4096  # pairs of synonyms
_ALIKE = 0.5  # cosine from which names of different data sets may mean one thing ("sock", "christmas stocking")


@dataclass(frozen=True, eq=False)
class Wordings:
    """Several ways to say each of V concepts.

    Attributes:
        rows: (V, M, D) unit text embeddings.
        words: of each concept, all that its rows were made of.
    """

    rows: Tensor
    words: tuple[tuple[str, ...], ...]

    def names(self, indices: Iterable[int]) -> list[str]:
        """The words of the chosen concepts."""
        return [word for index in indices for word in self.words[index]]


def word_concepts(tower: ClipTower, concepts: Concepts, wordnet: WordNet, seed: int) -> Wordings:
    """Word every concept by its names, the plural of the first, and words related to it, in any prompt template.

    So what is learned of a name holds for words like it: "automobile" is a car, too.
    """
    random = np.random.default_rng(seed)
    usual = TextEmbedder(tower, VILD_14, EmbeddingCache(None)).embed(concepts.vocabulary()).rows.cpu()
    prompts, words = [], []
    for concept, related in zip(concepts.entries, _related_words(tower, concepts, wordnet, usual), strict=True):
        several = [] if concept.name.endswith("s") else [plural(concept.name)]
        said = [*related[:_RELATED], *several]
        said += islice(cycle(random.permutation(concept.spoken).tolist()), WORDINGS - 1 - len(said))
        templates = random.choice(VILD_14.templates, len(said))
        bare = random.random(len(said)) > _TEMPLATED
        prompts += [
            word if plain else template.replace("{}", word)
            for word, template, plain in zip(said, templates.tolist(), bare, strict=True)
        ]
        words.append(tuple(dict.fromkeys((concept.name, *said))))
    others = functional.normalize(tower.encode_prompts(prompts), dim=-1).unflatten(0, (len(concepts), -1))
    return Wordings(torch.cat([usual[:, None], others.cpu()], 1), tuple(words))


def _related_words(tower: ClipTower, concepts: Concepts, wordnet: WordNet, rows: Tensor) -> list[list[str]]:
    """For each concept, WordNet's synonyms and then nouns of ImageNet-21K above or below it, nearest first.

    Only words whose nearest concept it is, and nobody's names. Those that are nearest to a held-out concept are so
    never used for another.
    """
    names = {name.lower() for concept in concepts.entries for name in concept.names}
    meanings = [_meaning(concept, wordnet) for concept in concepts.entries]
    synonyms = [_small(meaning.words) if meaning else () for meaning in meanings]
    nouns = [entry.names[0] for entry in load_preset("imagenet-21k").classes]
    asked = list(dict.fromkeys(word for word in (*chain(*synonyms), *nouns) if word.lower() not in names))
    best, nearest = (functional.normalize(tower.encode_prompts(asked), dim=-1).cpu() @ rows.T).max(-1)
    same: list[list[str]] = [[] for _ in concepts.entries]
    akin: list[list[str]] = [[] for _ in concepts.entries]
    for place in best.argsort(descending=True, stable=True).tolist():
        concept, word, cosine = int(nearest[place]), asked[place], float(best[place])
        if word in synonyms[concept] and cosine > _SYNONYM:
            same[concept].append(word)
        elif cosine > _NOUN and _is_above_or_below(shown_meaning(word, wordnet), meanings[concept]):
            akin[concept].append(word)
    return [[*first, *second] for first, second in zip(same, akin, strict=True)]


def _meaning(concept: Concept, wordnet: WordNet) -> Synset | None:
    """Of the first name that WordNet knows."""
    return next(filter(None, (shown_meaning(name, wordnet) for name in concept.spoken)), None)


def _small(words: Iterable[str]) -> tuple[str, ...]:
    """Those without capitals: no proper and no Latin names."""
    return tuple(word for word in words if word.islower())


def _is_above_or_below(one: Synset | None, other: Synset | None) -> bool:
    """Whether one is a kind of the other. Nearness alone would take a hen for a rooster and a tadpole for a pole."""
    return one is not None and other is not None and (one.name in other.lineage or other.name in one.lineage)


def paraphrase_shifts(tower: ClipTower, wordnet: WordNet, seed: int) -> Tensor:
    """How far one word for a thing lies from another: (P, D) differences of unit vectors of random synonyms.

    Args:
        tower: its text part is used.
        wordnet: its meanings of ImageNet-21K's nouns give the synonyms.
        seed: of the choice.
    """
    random = np.random.default_rng(seed)
    nouns = [entry.names[0] for entry in load_preset("imagenet-21k").classes]
    meanings = dict.fromkeys(filter(None, (shown_meaning(noun, wordnet) for noun in nouns)))
    several = [words for words in (_small(meaning.words) for meaning in meanings) if len(words) > 1]
    chosen = random.permutation(len(several))[:_SHIFTS]
    pairs = [word for place in chosen for word in random.permutation(several[place])[:2].tolist()]
    rows = functional.normalize(tower.encode_prompts(pairs), dim=-1).cpu()
    return rows[::2] - rows[1::2]


def other_nouns(tower: ClipTower, concepts: Concepts, wordnet: WordNet, rows: Tensor) -> tuple[Tensor, Tensor]:
    """ImageNet-21K's nouns: words that a region of some concept is told apart from.

    Args:
        tower: its text part is used.
        concepts: V of them.
        wordnet: tells which nouns lie above or below a concept.
        rows: (V, D) unit vectors of the concepts' names.

    Returns:
        (N, D) unit vectors, none close to a held-out concept, and (V, N) bool: which of the nouns may be said of what
        shows a concept, because they are close to its name or above or below it.
    """
    nouns = list(dict.fromkeys(entry.names[0] for entry in load_preset("imagenet-21k").classes))
    found = functional.normalize(tower.encode_prompts(nouns), dim=-1).cpu()
    shown = [_meaning(concept, wordnet) for concept in concepts.entries]
    meant = [shown_meaning(noun, wordnet) for noun in nouns]
    kin = [[_is_above_or_below(meaning, other) for other in meant] for meaning in shown]
    fitting = near_in_meaning(rows, found) | torch.tensor(kin)
    kept = ~fitting[sorted(concepts.held_out)].any(0)
    return found[kept], fitting[:, kept]


def word_captions(tower: ClipTower, store: PhotoStore) -> dict[str, Tensor]:
    """Unit vector (D,) of each caption that names nothing held out."""
    captions = list(dict.fromkeys(caption for _, captions in captioned(store) for caption in captions))
    rows = functional.normalize(tower.encode_prompts(captions), dim=-1)
    return dict(zip(captions, rows, strict=True))


def may_mean_the_same(concepts: Concepts, rows: Tensor) -> Tensor:
    """(V, V) bool: pairs that no data set tells apart and whose unit vectors (V, D) are close; neither is wrong for the
    other. A concept is never its own pair.
    """
    return near_in_meaning(rows, rows) & ~torch.from_numpy(concepts.told_apart())


def near_in_meaning(rows: Tensor, others: Tensor) -> Tensor:
    """(n, m) bool: which unit vectors (n, D) and (m, D) may be of words for one thing."""
    return rows @ others.T > _ALIKE
