"""What the text tower learns from: nouns, glosses, class names and captions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovdemo.evaluation.members import read_json_lines
from ovdemo.training.concepts import Concepts
from ovdemo.vocabulary import load_preset, preset_names

# WordNet's lexicographer files of what a photograph can show: animals, artifacts, bodies, food, groups (a crowd),
# places, natural objects, people, phenomena, plants, possessions (a banknote), shapes and substances. Acts, thoughts
# and feelings cannot be segmented.
_VISIBLE = frozenset({"05", "06", "08", "13", "14", "15", "17", "18", "19", "20", "21", "25", "27"})
_GLOSS_LENGTH = 80  # characters; longer ones are mostly subordinate clauses
_CAPTIONS = 12_000  # of them spread evenly over all; the teacher is slow


@dataclass(frozen=True)
class Phrases:
    """Texts by kind; within a kind no text comes twice.

    Attributes:
        nouns: WordNet's lemmas of what can be seen, without proper and Latin names.
        glosses: their short definitions, without examples.
        classes: names of the data's concepts and of every preset but ImageNet-21K's, whose names are nouns anyway.
        captions: sentences about photographs.
    """

    nouns: tuple[str, ...]
    glosses: tuple[str, ...]
    classes: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every text once, in a fixed order."""
        return tuple(dict.fromkeys((*self.nouns, *self.glosses, *self.classes, *self.captions)))


def read_phrases(data: Path, nouns_file: Path, concepts: Concepts) -> Phrases:
    """Collect them from the data folder, WordNet's file of nouns and the presets."""
    nouns, glosses = _read_wordnet(nouns_file)
    named = (name for concept in concepts.entries for name in concept.names)
    small = (load_preset(preset) for preset in preset_names() if preset != "imagenet-21k")
    listed = (name for preset in small for entry in preset.classes for name in entry.names)
    captions = _unique(_captions(data))
    step = max(1, len(captions) // _CAPTIONS)
    return Phrases(nouns, glosses, _unique((*named, *listed)), captions[::step])


def _read_wordnet(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lemmas and glosses."""
    nouns, glosses = [], []
    for line in path.read_text("latin-1").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        words = fields.split()
        lemmas = [word.replace("_", " ") for word in words[4 : 4 + 2 * int(words[3], 16) : 2] if word.islower()]
        if words[1] not in _VISIBLE or not lemmas:
            continue
        nouns += lemmas
        gloss = gloss.split('; "')[0].strip()
        glosses += [gloss] if len(gloss) <= _GLOSS_LENGTH else []
    return _unique(nouns), _unique(glosses)


def _captions(data: Path) -> list[str]:
    """Captions of training photographs, and the loose ones that come without a photograph."""
    found: list[str] = []
    for index in sorted(data.glob("*/index.jsonl")):
        for row in read_json_lines(index):
            if row.get("split") == "train":
                found += row.get("captions") or ()
    for loose in sorted(data.glob("*/captions_text.txt")):
        found += loose.read_text("utf-8").splitlines()
    return found


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
