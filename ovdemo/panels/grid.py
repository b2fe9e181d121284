"""Which panels are shown, in rows and columns, and the passes through networks that they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovdemo.features import FigureRecipe, PanelRecipe, find_source
from ovdemo.panels.desk import FeatureDesk


@dataclass(frozen=True)
class Pass:
    """One pass of a picture through a source, and the layers that it reads."""

    source: str
    size: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """Panels in rows and columns.

    Attributes:
        columns: a label each.
        rows: a label each, and its panels, one a column.
        title: of the whole; empty where a person chose the panels.
        caption: what to look for; likewise.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[PanelRecipe, ...]], ...]
    title: str = ""
    caption: str = ""

    @property
    def panels(self) -> tuple[PanelRecipe, ...]:
        """Row by row."""
        return tuple(panel for _, row in self.rows for panel in row)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Column by column, small inputs first: all layers of a source at one size are read together."""
        layers: dict[tuple[str, int], list[str]] = {}
        for panel in self.panels:
            together = layers.setdefault((panel.source, panel.size), [])
            if panel.layer not in together:
                together.append(panel.layer)
        passes = (Pass(source, size, tuple(names)) for (source, size), names in layers.items())
        return tuple(sorted(passes, key=lambda step: step.size))


def grid_of(desk: FeatureDesk, places: Sequence[tuple[str, str]], sizes: Sequence[int]) -> Grid:
    """A row for each (source, layer), a column for each input size in pixels.

    Raises:
        UserError: there is no such source.
    """
    rows = []
    for source, layer in places:
        title = next((known.title for known in desk.layers(source) if known.name == layer), layer)
        rows.append(
            (f"{find_source(source).title}: {title}", tuple(PanelRecipe(source, layer, size) for size in sizes))
        )
    return Grid(tuple(f"{size} px" for size in sizes), tuple(rows))


def figure_grid(recipe: FigureRecipe) -> Grid:
    """The grid of a paper's figure."""
    return Grid(recipe.columns, recipe.rows, recipe.title, recipe.caption)
