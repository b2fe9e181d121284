"""Grids of feature panels: what is read once and remembered, and what a lens shows of it."""

from ovdemo.panels.desk import FeatureDesk, Reading
from ovdemo.panels.grid import Grid, Pass, figure_grid, grid_of
from ovdemo.panels.lens import CAPTIONS, LENSES, Heat, Lens, LensKind, View, bounded, look

__all__ = [
    "CAPTIONS",
    "LENSES",
    "FeatureDesk",
    "Grid",
    "Heat",
    "Lens",
    "LensKind",
    "Pass",
    "Reading",
    "View",
    "bounded",
    "figure_grid",
    "grid_of",
    "look",
]
