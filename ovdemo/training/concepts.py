"""The concepts that labelled photographs name: one entry for what several data sets may call differently."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovdemo.errors import UserError
from ovdemo.evaluation.members import read_json
from ovdemo.vocabulary import Vocabulary, VocabularyClass, infer_kind

NAMELESS = -1  # index of a region whose concept is unknown or held out
_MARKED_FULLY = {"coco_inst": None, "ccp": ("person",)}  # a set's classes that it marks wherever they occur; None: all


@dataclass(frozen=True)
class Concept:
    """One thing or stuff: its names (the first is the data's own), its kind, and whether photographs name it."""

    names: tuple[str, ...]
    isthing: bool

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]

    @property
    def spoken(self) -> tuple[str, ...]:
        """The names that people use. Latin ones, which are capitalised, would be most of some animals' names."""
        return (self.name, *(name for name in self.names[1:] if name.islower()))


class Concepts:
    """All concepts of a data folder; the index of a concept is its place here.

    Attributes:
        entries: the concepts.
        places: index by data set and the set's own name of a class.
        held_out: indices that training must never name.
    """

    def __init__(self, entries: Iterable[Concept], places: dict[tuple[str, str], int], held_out: Collection[str] = ()):
        """Take the concepts and where each (data set, class name) leads.

        Raises:
            UserError: a concept to be held out does not exist.
        """
        self.entries = tuple(entries)
        self.places = places
        by_name = {concept.name: index for index, concept in enumerate(self.entries)}
        unknown = sorted(set(held_out) - set(by_name))
        if unknown:
            raise UserError(f'There is no concept "{unknown[0]}" to hold out; see vocabulary.json of the data.')
        self.held_out = frozenset(by_name[name] for name in held_out)

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def read(cls, data: Path, held_out: Collection[str] = ()) -> Concepts:
        """Read ``vocabulary.json`` and the synonyms in each set's ``classes.json``.

        Args:
            data: folder of data sets.
            held_out: names of concepts that training must never name.

        Raises:
            UserError: the file is absent or not as expected, or a held-out name is unknown.
        """
        synonyms = _synonyms(data)
        entries, places = [], {}
        try:
            for index, row in enumerate(read_json(data / "vocabulary.json")["concepts"]):
                named = [(folder, name) for folder, names in row["as_named"].items() for name in names]
                places.update(dict.fromkeys(named, index))
                names = (row["name"], *(name for place in named for name in synonyms.get(place, ())))
                isthing = row["isthing"] if row["isthing"] is not None else infer_kind(names) == "thing"
                entries.append(Concept(tuple(dict.fromkeys(names)), isthing))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError("vocabulary.json does not list concepts by name; copy the data again.") from error
        return cls(entries, places, held_out)

    def find(self, folder: str, name: str | None) -> int:
        """Index of what a data set calls ``name``; :data:`NAMELESS` if unknown or held out."""
        index = self.places.get((folder, name or ""), NAMELESS)
        return NAMELESS if index in self.held_out else index

    def marked_fully(self, folder: str) -> frozenset[int]:
        """Concepts that a data set marks wherever they occur, though other things in its photographs are unmarked."""
        if folder not in _MARKED_FULLY:
            return frozenset()
        chosen = _MARKED_FULLY[folder]
        listed = {name for place, name in self.places if place == folder}
        return frozenset(self.find(folder, name) for name in listed & set(chosen or listed)) - {NAMELESS}

    def names(self, indices: Collection[int]) -> list[str]:
        """Every name that people or the data sets use for the chosen concepts, each once."""
        written = [name for (_, name), index in self.places.items() if index in indices]
        return list(dict.fromkeys([name for index in indices for name in self.entries[index].spoken] + written))

    def told_apart(self) -> np.ndarray:
        """(V, V) bool: pairs that some data set lists as different classes; the diagonal is true."""
        folders = sorted({folder for folder, _ in self.places})
        listed = np.zeros((len(self), len(folders)), bool)
        for (folder, _), index in self.places.items():
            listed[index, folders.index(folder)] = True
        apart: Any = (listed[:, None] & listed[None]).any(-1)
        return np.asarray(apart)

    def vocabulary(self, indices: Iterable[int] | None = None) -> Vocabulary:
        """Classes of the chosen concepts (default: all), each under its first name."""
        chosen = range(len(self)) if indices is None else indices
        return Vocabulary(
            tuple(
                VocabularyClass((self.entries[i].name,), "thing" if self.entries[i].isthing else "stuff")
                for i in chosen
            )
        )


def _synonyms(data: Path) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(data.glob("*/classes.json")):
        rows: list[dict[str, Any]] = read_json(path)["classes"]
        found.update({(path.parent.name, row["name"]): row.get("synonyms", []) for row in rows})
    return found
