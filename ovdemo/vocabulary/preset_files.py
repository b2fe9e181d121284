"""The files of ``assets/vocabularies``: class lists of public data sets, as they are written on disk.

One JSON object a file: ``name``, ``title``, ``source``, ``licence`` and ``classes``, each class with its ``names``
verbatim, its ``kind`` (``null`` where the data set has no such split) and, for ImageNet, its WordNet ``synset``.
``assets/vocabularies/build.py`` writes them.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache

from ovdemo.paths import ASSETS
from ovdemo.vocabulary.classes import Kind

PRESET_FOLDER = ASSETS / "vocabularies"


@dataclass(frozen=True)
class PresetClass:
    """One class of a file. ``kind`` is ``None`` where the data set does not tell things from stuff."""

    names: tuple[str, ...]
    kind: Kind | None
    synset: str | None = None


@dataclass(frozen=True)
class Preset:
    """One file: who it is, where it comes from, and its classes in the data set's order."""

    name: str
    title: str
    source: str
    licence: str
    classes: tuple[PresetClass, ...]


@cache
def read_preset(name: str) -> Preset:
    """Read ``<name>.json``, or ``<name>.json.gz`` for a list too large to ship plain.

    Raises:
        FileNotFoundError: the installation lacks the file.
    """
    plain = PRESET_FOLDER / f"{name}.json"
    data = plain.read_bytes() if plain.exists() else gzip.decompress(plain.with_suffix(".json.gz").read_bytes())
    content = json.loads(data)
    classes = (PresetClass(tuple(c["names"]), c["kind"], c.get("synset")) for c in content["classes"])
    return Preset(content["name"], content["title"], content["source"], content["licence"], tuple(classes))
