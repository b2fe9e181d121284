"""Thing or stuff, for a class whose kind nobody set."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from ovdemo.vocabulary.classes import Kind
from ovdemo.vocabulary.names import name_key
from ovdemo.vocabulary.preset_files import read_preset


def infer_kind(names: Iterable[str]) -> Kind:
    """The kind of the first name (label first) that COCO panoptic or ADE20K-150 knows; a thing if they know none.

    Where the two disagree on a name, COCO panoptic wins: it is what the published systems were trained on.
    """
    known = _known_kinds()
    return next((known[key] for key in map(name_key, names) if key in known), "thing")


@cache
def _known_kinds() -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for preset in ("coco-panoptic", "ade20k-150"):
        for entry in read_preset(preset).classes:
            if entry.kind is not None:
                for name in entry.names:
                    kinds.setdefault(name_key(name), entry.kind)
    return kinds
