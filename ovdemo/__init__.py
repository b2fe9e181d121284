"""Open-vocabulary panoptic segmentation you can take apart.

Load a model, analyse a picture once, ask it many vocabularies::

    import ovdemo

    photo = ovdemo.load().analyse("photo.jpg")
    result = photo.segment("cat|kitten, sofa, wall:stuff")
    ovdemo.save(photo.picture, result, "out")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovdemo.ensemble import Fusion
    from ovdemo.errors import UserError
    from ovdemo.export import export as save
    from ovdemo.fusion import Scores
    from ovdemo.images import Picture, load_picture
    from ovdemo.merging import Merging
    from ovdemo.segmentation import ClassProbability, Evidence, Segment, Segmentation
    from ovdemo.vocabulary import Vocabulary, VocabularyClass, combine, load_preset, parse_classes, preset_names
    from ovdemo.workbench import Analysis, Workbench, load

__version__ = "0.1.0"

# Where each public name lives. Imported on first use: PyTorch takes seconds, and `--help` should not.
_HOMES = {
    "Analysis": "workbench",
    "ClassProbability": "segmentation",
    "Evidence": "segmentation",
    "Fusion": "ensemble",
    "Merging": "merging",
    "Picture": "images",
    "Scores": "fusion",
    "Segment": "segmentation",
    "Segmentation": "segmentation",
    "UserError": "errors",
    "Vocabulary": "vocabulary",
    "VocabularyClass": "vocabulary",
    "Workbench": "workbench",
    "combine": "vocabulary",
    "load": "workbench",
    "load_picture": "images",
    "load_preset": "vocabulary",
    "parse_classes": "vocabulary",
    "preset_names": "vocabulary",
    "save": "export",
}

__all__ = [
    "Analysis",
    "ClassProbability",
    "Evidence",
    "Fusion",
    "Merging",
    "Picture",
    "Scores",
    "Segment",
    "Segmentation",
    "UserError",
    "Vocabulary",
    "VocabularyClass",
    "Workbench",
    "combine",
    "load",
    "load_picture",
    "load_preset",
    "parse_classes",
    "preset_names",
    "save",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(home, "export" if name == "save" else name)


def __dir__() -> list[str]:
    return sorted(__all__)
