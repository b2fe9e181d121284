"""How good the answers are, on labelled pictures."""

from ovdemo.evaluation.coco_set import CocoPanopticSet
from ovdemo.evaluation.index_set import IndexSet, find_sets
from ovdemo.evaluation.instances import InstancePrecision, InstanceResult, ScoredMask
from ovdemo.evaluation.named_areas import NamedAreas
from ovdemo.evaluation.naming import NamingAccuracy, NamingResult
from ovdemo.evaluation.panoptic import PanopticQuality, PanopticResult
from ovdemo.evaluation.recall import MaskRecall, RecallResult, best_overlaps
from ovdemo.evaluation.report import report_json, report_table
from ovdemo.evaluation.run import SetReport, evaluate_set
from ovdemo.evaluation.semantic import AreaIoU, SemanticIoU, SemanticResult
from ovdemo.evaluation.truth import GroundTruth, LabelledPictures, LabelledSegment, NamedRegion, SegmentMap

__all__ = [
    "AreaIoU",
    "CocoPanopticSet",
    "GroundTruth",
    "IndexSet",
    "InstancePrecision",
    "InstanceResult",
    "LabelledPictures",
    "LabelledSegment",
    "MaskRecall",
    "NamedAreas",
    "NamedRegion",
    "NamingAccuracy",
    "NamingResult",
    "PanopticQuality",
    "PanopticResult",
    "RecallResult",
    "ScoredMask",
    "SegmentMap",
    "SemanticIoU",
    "SemanticResult",
    "SetReport",
    "best_overlaps",
    "evaluate_set",
    "find_sets",
    "report_json",
    "report_table",
]
