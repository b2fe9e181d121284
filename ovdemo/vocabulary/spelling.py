"""Is a word known, and if it is not, which known word was probably meant?

Known are the names of all presets and the words in them: some 40,000, most of them WordNet nouns from ImageNet-21K.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from ovdemo.vocabulary.names import name_key
from ovdemo.vocabulary.presets import load_preset, preset_names

_LARGE = "imagenet-21k"  # its rare nouns are proposed only where no other list has a word
_CUTOFF = 0.84  # of difflib's ratio: one letter too many or too few from four letters on, a wrong one from seven on
_SHORTEST = 4  # letters; anything shorter is close to too many words
_LETTERS_CHANGED = 3  # by which the sets of letters of two close words may differ
_LENGTH_CHANGED = 2

# The rules of detachment for nouns of WordNet's Morphy, morphy(7WN).
_PLURAL_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)

_Bucket = list[tuple[int, str]]


def correction(name: str) -> str | None:
    """The name with one unknown word replaced by the nearest known one, or ``None`` where nothing seems wrong.

    A word that is unknown and near to no known one is taken to be right, and so is one that a known word is the
    beginning of (cloudy, painted).

    Args:
        name: as :func:`ovdemo.vocabulary.parse_classes` keeps it.
    """
    words = name.split()
    for place, word in enumerate(words):
        nearest = _nearest(word)
        if nearest is not None:
            return " ".join((*words[:place], nearest, *words[place + 1 :]))
    return None


def is_known(name: str) -> bool:
    """Whether a preset lists the name, as :func:`ovdemo.vocabulary.parse_classes` keeps it."""
    return name in _known().names


def singular(name: str) -> str | None:
    """The known name that this one is the plural of: ``"cats"`` -> ``"cat"``.

    ``None`` where there is none, or where the plural has a meaning of its own: a preset lists it, and not as a synonym
    of the singular (``"glasses"``).
    """
    known = _known()
    if name in known.names and name not in known.plurals:
        return None
    return next((base for base in _singulars(name) if base in known.names), None)


@dataclass(frozen=True)
class _Known:
    """What the presets know.

    Attributes:
        names: keys of all names.
        words: keys of all names, and the words in them.
        plurals: names that a class has beside their singular.
        buckets: words by list (common ones first), first letter and length, each with the set of its letters.
    """

    names: frozenset[str]
    words: frozenset[str]
    plurals: frozenset[str]
    buckets: Sequence[Mapping[tuple[str, int], _Bucket]]


@cache
def _known() -> _Known:
    names: set[str] = set()
    words: set[str] = set()
    plurals: set[str] = set()
    buckets = []
    for presets in ([name for name in preset_names() if name != _LARGE], [_LARGE]):
        classes = [tuple(map(name_key, entry.names)) for preset in presets for entry in load_preset(preset).classes]
        names.update(key for keys in classes for key in keys)
        plurals.update(key for keys in classes for key in keys if not set(keys).isdisjoint(_singulars(key)))
        mentioned = {word for keys in classes for key in keys for word in (key, *key.replace("-", " ").split())}
        buckets.append(_bucketed(mentioned - words))
        words |= mentioned
    return _Known(frozenset(names), frozenset(words), frozenset(plurals), buckets)


def _bucketed(words: set[str]) -> Mapping[tuple[str, int], _Bucket]:
    buckets: defaultdict[tuple[str, int], _Bucket] = defaultdict(list)
    for word in sorted(words):
        if len(word) >= _SHORTEST - 1:
            buckets[word[0], len(word)].append((_letters(word), word))
    return dict(buckets)


@lru_cache(maxsize=10_000)
def _nearest(word: str) -> str | None:
    """The known word that an unknown one is close to."""
    known = _known()
    if len(word) < _SHORTEST or not word.isalpha() or word in known.words:
        return None
    if any(base in known.words for base in _singulars(word)):
        return None
    letters = _letters(word)
    lengths = range(len(word) - _LENGTH_CHANGED, len(word) + _LENGTH_CHANGED + 1)
    for buckets in known.buckets:
        candidates = [
            candidate
            for length in lengths
            for others, candidate in buckets.get((word[0], length), ())
            if (letters ^ others).bit_count() <= _LETTERS_CHANGED and not word.startswith(candidate)
        ]
        swapped = (candidate for candidate in candidates if sorted(candidate) == sorted(word))
        for match in swapped:
            return match
        for match in difflib.get_close_matches(word, candidates, n=1, cutoff=_CUTOFF):
            return match
    return None


def _singulars(name: str) -> Iterator[str]:
    for ending, base in _PLURAL_ENDINGS:
        if name.endswith(ending) and len(name) > len(ending) + 1:
            yield name.removesuffix(ending) + base


def _letters(word: str) -> int:
    """The set of letters as bits; letters outside a-z share them, which lets too many words pass, never too few."""
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) & 31)
    return bits
