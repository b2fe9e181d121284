"""The vocabulary a picture is asked: classes, their names and their kinds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["thing", "stuff"]


@dataclass(frozen=True)
class VocabularyClass:
    """One class: its names (the first is its label, the rest are synonyms) and whether it is a thing or stuff.

    ``inferred`` marks a kind that nobody set: it gives way when the class is merged with one whose kind was. It says
    where the kind comes from, not what the class is, so it takes no part in comparisons.
    """

    names: tuple[str, ...]
    kind: Kind
    inferred: bool = field(default=False, compare=False)

    @property
    def label(self) -> str:
        """The first name, which stands for the class wherever it is shown."""
        return self.names[0]


@dataclass(frozen=True)
class Vocabulary:
    """Classes in order, and one sentence for everything that was folded while reading them."""

    classes: tuple[VocabularyClass, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, grouped by class in class order: the rows of its text embeddings."""
        return tuple(name for entry in self.classes for name in entry.names)
