"""Words of one meaning moved together: what WordNet knows, added to what a sentence encoder says."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.vocabulary.wordnet import Synset, WordNet

_SHOWN = "physical_entity.n.01"  # what photographs can show is one
_ABOVE = 0.5  # weight of the next more general meaning: a house is a building


def gather(rows: Tensor, texts: Sequence[str], names: Collection[str], wordnet: WordNet) -> Tensor:
    """Retrofit unit vectors of names to WordNet (after Faruqui et al. 2015, "Retrofitting Word Vectors").

    A sentence encoder hardly knows rare words: all-MiniLM-L6-v2 puts "rucksack" nearer to "hog" than to "backpack".
    Here the vector of a name becomes the normalised sum of its own, the mean over the words of its meaning, the
    definition's, and half of the same two of the next more general meaning; see :func:`shown_meaning`.

    Args:
        rows: (n, D) float32 unit vectors.
        texts: what they are of, n different ones; words and definitions that are not among them are left out.
        names: those of the texts to move; names that WordNet does not know stay.
        wordnet: the nouns.

    Returns:
        (n, D) float32 unit vectors.
    """
    place = {text: i for i, text in enumerate(texts)}
    known: dict[str, Tensor] = {}

    def meaning(synset: Synset) -> Tensor:
        if synset.name not in known:
            words = [rows[place[word]] for word in synset.words if word in place]
            known[synset.name] = torch.stack(words).mean(0) if words else torch.zeros_like(rows[0])
            if synset.gloss in place:
                known[synset.name] += rows[place[synset.gloss]]
        return known[synset.name]

    moved = rows.clone()
    for name in names:
        synset = shown_meaning(name, wordnet)
        if synset is not None:
            vector = rows[place[name]] + meaning(synset)
            if len(synset.lineage) > 1:
                vector = vector + _ABOVE * meaning(wordnet.synset(synset.lineage[-2]))
            moved[place[name]] = F.normalize(vector, dim=0)
    return moved


def shown_meaning(name: str, wordnet: WordNet) -> Synset | None:
    """What a name most probably means in a picture, None where WordNet does not know it.

    The most frequent meaning that a photograph can show and that has a word in small letters: a crane is a bird rather
    than a writer. Else the most frequent one that can be shown, else the most frequent one.
    """
    senses = wordnet.senses(name)
    shown = [sense for sense in senses if _SHOWN in sense.lineage]
    kinds = [sense for sense in shown if any(word.islower() for word in sense.words)]
    return next(iter((*kinds, *shown, *senses)), None)


def plural(name: str) -> str:
    """The regular plural of a name's last word."""
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"
