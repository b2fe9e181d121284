"""Which sentences name a concept."""

from __future__ import annotations

import re
from collections.abc import Iterable

_IRREGULAR = {
    "child": "children", "foot": "feet", "goose": "geese", "knife": "knives", "leaf": "leaves", "loaf": "loaves",
    "man": "men", "mouse": "mice", "person": "people", "scarf": "scarves", "shelf": "shelves", "tooth": "teeth",
    "wolf": "wolves", "woman": "women",
}  # fmt: skip


def without_mentions(sentences: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """The sentences in which none of the names occurs as whole words, singular or plural, in any case.

    >>> without_mentions(["Two Dogs run.", "A hotdog."], ["dog"])
    ('A hotdog.',)
    """
    forms = [form for name in names for form in _forms(name)]
    if not forms:
        return tuple(sentences)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)
    return tuple(sentence for sentence in sentences if not pattern.search(sentence))


def _forms(name: str) -> list[str]:
    """Patterns of a name and its plural; its words may be joined by spaces or hyphens."""
    words = re.findall(r"[^\s-]+", name.lower())
    if not words:
        return []
    *first, last = words
    return [r"[\s-]+".join(map(re.escape, (*first, form))) for form in (last, _plural(last))]


def _plural(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if re.search(r"(s|x|z|ch|sh)$", word):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}s"
