"""Class lists of public data sets, ready to use as vocabularies."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache

from ovdemo.errors import UserError
from ovdemo.vocabulary.classes import Vocabulary, VocabularyClass
from ovdemo.vocabulary.folding import combine
from ovdemo.vocabulary.kinds import infer_kind
from ovdemo.vocabulary.parsing import parse_classes
from ovdemo.vocabulary.preset_files import PresetClass, read_preset

_NAMES = (
    "coco-panoptic",
    "ade20k-150",
    "ade20k-847",
    "cityscapes",
    "mapillary-vistas",
    "lvis-1203",
    "pascal-context-59",
    "pascal-context-459",
    "pascal-voc-20",
    "pascal-voc-21",
    "imagenet-21k",
)


def preset_names() -> tuple[str, ...]:
    """The names that :func:`load_preset` takes, in the order to offer them."""
    return _NAMES


def preset_title(name: str) -> str:
    """A preset's name for people, such as ``"COCO panoptic"``.

    Raises:
        UserError: there is no such preset.
    """
    return read_preset(_checked(name)).title


@cache
def load_preset(name: str) -> Vocabulary:
    """A preset's classes in the data set's order, names verbatim: neither trimmed, lower-cased nor folded.

    The published class lists repeat some names within and across classes; the systems' published numbers hold for
    them as they are. Kinds are the data set's own; where it has none they are inferred from the names as for typed
    words (:func:`ovdemo.vocabulary.kinds.infer_kind`).

    Raises:
        UserError: there is no such preset.
    """
    return Vocabulary(tuple(map(_vocabulary_class, read_preset(_checked(name)).classes)))


def read_words(text: str, presets: Sequence[str] = ()) -> Vocabulary:
    """What a person typed and the presets they chose, combined in this order; the text may be blank beside a preset.

    Raises:
        UserError: as :func:`ovdemo.vocabulary.parse_classes`, :func:`load_preset` and
            :func:`ovdemo.vocabulary.combine`.
    """
    typed = Vocabulary(()) if presets and not text.strip() else parse_classes(text)
    return combine(typed, *map(load_preset, presets))


@cache
def imagenet21k_synsets() -> tuple[str, ...]:
    """The WordNet 3.0 id (``"n02084071"``) of every class of ``load_preset("imagenet-21k")``, in its order."""
    return tuple(entry.synset or "" for entry in read_preset("imagenet-21k").classes)


def _vocabulary_class(entry: PresetClass) -> VocabularyClass:
    if entry.kind is None:
        return VocabularyClass(entry.names, infer_kind(entry.names), inferred=True)
    return VocabularyClass(entry.names, entry.kind)


def _checked(name: str) -> str:
    if name in _NAMES:
        return name
    close = difflib.get_close_matches(name.lower(), _NAMES, n=1)
    hint = f"the nearest is {close[0]}, and the choices are" if close else "choose one of"
    raise UserError(f'There is no vocabulary called "{name[:80]}"; {hint} {", ".join(_NAMES)}.')
