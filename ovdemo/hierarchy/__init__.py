"""Category trees: from "thing" to "tabby cat" (OPSNet, section 4.4, Figures 3 and 5)."""

from ovdemo.hierarchy.colors import refined_colors
from ovdemo.hierarchy.depth import ShownNode, depth_view
from ovdemo.hierarchy.drawing import draw_path
from ovdemo.hierarchy.paths import Step, Stopping, TreePath, path_record, trace, tree_document
from ovdemo.hierarchy.presets import TREE_PRESETS, tree_preset
from ovdemo.hierarchy.scoring import (
    TreeMode,
    TreeScores,
    class_distribution,
    descend,
    inner_means,
    of_segments,
    roll_up,
    sibling_log_probabilities,
    top_classes,
)
from ovdemo.hierarchy.sources import SourceKind, TreeSource, ambiguous, senses, tree_bytes, tree_of
from ovdemo.hierarchy.text import format_tree, parse_tree
from ovdemo.hierarchy.tree import MAX_DEPTH, MAX_NODES, CategoryTree, Draft, Node, grow
from ovdemo.hierarchy.wordnet_trees import (
    imagenet21k_tree,
    kinds_of_person,
    nouns_under,
    senses_of,
    usual_sense,
    vocabulary_tree,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_NODES",
    "TREE_PRESETS",
    "CategoryTree",
    "Draft",
    "Node",
    "ShownNode",
    "SourceKind",
    "Step",
    "Stopping",
    "TreeMode",
    "TreePath",
    "TreeScores",
    "TreeSource",
    "ambiguous",
    "class_distribution",
    "depth_view",
    "descend",
    "draw_path",
    "format_tree",
    "grow",
    "imagenet21k_tree",
    "inner_means",
    "kinds_of_person",
    "nouns_under",
    "of_segments",
    "parse_tree",
    "path_record",
    "refined_colors",
    "roll_up",
    "senses",
    "senses_of",
    "sibling_log_probabilities",
    "top_classes",
    "trace",
    "tree_bytes",
    "tree_document",
    "tree_of",
    "tree_preset",
    "usual_sense",
    "vocabulary_tree",
]
