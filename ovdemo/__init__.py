"""Open-vocabulary panoptic segmentation you can take apart.

Load a variant by name, analyse a picture once, ask it many vocabularies::

    import ovdemo

    photo = ovdemo.load("fcclip-convnext-large").analyse("photo.jpg")
    result = photo.segment("cat|kitten, sofa, wall:stuff")
"""

from ovdemo.errors import UserError
from ovdemo.export import export
from ovdemo.fusion import Fusion, Scores
from ovdemo.images import Picture, load_picture
from ovdemo.merging import Merging
from ovdemo.segmentation import ClassProbability, Evidence, Segment, Segmentation
from ovdemo.vocabulary import Vocabulary, VocabularyClass, combine, load_preset, parse_classes, preset_names
from ovdemo.workbench import Analysis, Workbench, load

__version__ = "0.1.0"

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
    "export",
    "load",
    "load_picture",
    "load_preset",
    "parse_classes",
    "preset_names",
]
