"""What a frozen backbone sees: feature sources, lenses on their features, and pictures of both."""

from ovdemo.features.catalogue import SOURCES, Availability, SourceCard, find_source, load_source
from ovdemo.features.clusters import CLUSTERS, ClusterMap, cluster, match_colours
from ovdemo.features.components import principal_colours
from ovdemo.features.convolutional import system_source
from ovdemo.features.drawing import (
    Upsampling,
    display_size,
    draw_clusters,
    draw_colours,
    draw_heat,
    features_npz,
    grid_png,
    lay_over,
)
from ovdemo.features.figures import FIGURES, FigureRecipe, PanelRecipe
from ovdemo.features.maps import SIZES, FeatureMap, Layer, input_size
from ovdemo.features.memory import memory_budget
from ovdemo.features.similarity import Contrast, click_map, shared_range, word_map
from ovdemo.features.smoothness import BoundaryAgreement, boundary_agreement, roughness
from ovdemo.features.sources import FeatureSource

__all__ = [
    "CLUSTERS",
    "FIGURES",
    "SIZES",
    "SOURCES",
    "Availability",
    "BoundaryAgreement",
    "ClusterMap",
    "Contrast",
    "FeatureMap",
    "FeatureSource",
    "FigureRecipe",
    "Layer",
    "PanelRecipe",
    "SourceCard",
    "Upsampling",
    "boundary_agreement",
    "click_map",
    "cluster",
    "display_size",
    "draw_clusters",
    "draw_colours",
    "draw_heat",
    "features_npz",
    "find_source",
    "grid_png",
    "input_size",
    "lay_over",
    "load_source",
    "match_colours",
    "memory_budget",
    "principal_colours",
    "roughness",
    "shared_range",
    "system_source",
    "word_map",
]
