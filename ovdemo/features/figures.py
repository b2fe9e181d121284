"""The papers' figures as recipes: which panels to make, and what to look for in them.

EOV-Seg's Figure 5, the aggregated features before and after vocabulary-aware selection, needs that system's own
features and is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PanelRecipe:
    """One panel: a layer of a source of :data:`~ovdemo.features.catalogue.SOURCES` at an input size in pixels."""

    source: str
    layer: str
    size: int


@dataclass(frozen=True)
class FigureRecipe:
    """A grid of k-means panels after a figure.

    Attributes:
        name: short and unique.
        title: for people.
        clusters: k; no paper states its own.
        columns: label of each column.
        rows: a row's label and its panels, one a column.
        caption: what to look for, and what of the figure the paper does not state.
    """

    name: str
    title: str
    clusters: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[PanelRecipe, ...]], ...]
    caption: str


_SIZES = (224, 448, 672, 896, 1120)
_BLOCKS = (1, 6, 12)
_BLOCK_SIZE = 672


def _across_sizes(label: str, source: str, layer: str) -> tuple[str, tuple[PanelRecipe, ...]]:
    return label, tuple(PanelRecipe(source, layer, size) for size in _SIZES)


def _across_blocks(label: str, source: str) -> tuple[str, tuple[PanelRecipe, ...]]:
    return label, tuple(PanelRecipe(source, f"block-{block}", _BLOCK_SIZE) for block in _BLOCKS)


_RECIPES = (
    FigureRecipe(
        name="fcclip-1",
        title="FC-CLIP, Figure 1: features of CNN- and ViT-based CLIP at growing input sizes",
        clusters=8,
        columns=tuple(f"{size} px" for size in _SIZES),
        rows=(
            _across_sizes("ViT-L/14", "vit-l-14", "block-24"),
            _across_sizes("ConvNeXt-Large", "convnext-large", "res5"),
            _across_sizes("ConvNeXt-Femto (embedded)", "embedded", "res5"),
        ),
        caption=(
            "Follow each row to the right: the paper finds that the ViT's clusters turn noisier as the input grows "
            "beyond its native 224 px while the CNN's become smoother and finer. The paper names neither the towers, "
            "here those of its Table 9, nor k. The last row is not in the paper: it is the network that comes with "
            "the project."
        ),
    ),
    FigureRecipe(
        name="eovseg-3",
        title="EOV-Seg, Figures 3 and 9: features of three vision transformers, block by block",
        clusters=8,
        columns=tuple(f"block {block}" for block in _BLOCKS),
        rows=(
            _across_blocks("DINOv2", "dinov2-b-14"),
            _across_blocks("SAM", "sam-b-16"),
            _across_blocks("CLIP ViT-B/16", "vit-b-16"),
        ),
        caption=(
            "Compare CLIP's first block with SAM's last: the paper finds their outlines equally fine, CLIP's at a "
            "fraction of the cost, and CLIP's clusters noisier from block to block; DINOv2 tells objects apart but "
            "not where they end. The paper states neither the input size nor k."
        ),
    ),
)
FIGURES: Mapping[str, FigureRecipe] = {recipe.name: recipe for recipe in _RECIPES}
