"""Data sets asked with other words than their own, where single segments have names: ``ccp`` names persons and bags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovdemo.evaluation.index_set import IndexSet
from ovdemo.evaluation.truth import UNLABELLED, GroundTruth, relabel
from ovdemo.vocabulary import Vocabulary


class NamedAreas(IndexSet):
    """One split of a set, its named segments against given words (:class:`~ovdemo.evaluation.truth.LabelledPictures`).

    The area of a word is all segments of a picture whose ``category`` is a name of it, crowds among them. All other
    pixels count as something else, which punishes a class that spills over: right only where a set marks every object
    that it names. In ``ccp`` the dressed person is marked and passers-by are not, so a model that finds these loses a
    little. A word that no segment is named by is asked for, as a competitor, and not scored.
    """

    def __init__(self, folder: Path, split: str, words: Vocabulary) -> None:
        """Read the index; pictures without named segments are left out.

        Raises:
            UserError: there is no such set or split, or its index cannot be read.
        """
        super().__init__(folder, split)
        self._rows = [row for row in self._rows if row.get("inst")]
        self.vocabulary = words
        self._index_of_name = {name: index for index, entry in enumerate(words.classes) for name in entry.names}

    def _truth(self, row: dict[str, Any], size: tuple[int, int]) -> GroundTruth:
        named = {info["id"]: self._index_of_name.get(info.get("category"), UNLABELLED) for info in row["segments"]}
        return GroundTruth(areas=relabel(self._map(row["inst"], size), named, UNLABELLED))
