"""A grid of panels that fills pass by pass, and what a page shows of it at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ovdemo.errors import UserError
from ovdemo.features import (
    FeatureMap,
    PanelRecipe,
    display_size,
    features_npz,
    find_source,
    grid_png,
    lay_over,
)
from ovdemo.images import Picture
from ovdemo.panels import FeatureDesk, Grid, Lens, Pass, Reading, View, look
from ovdemo.ui import jobs
from ovdemo.ui.panel_html import Content, Drawing, Pending, panel_grid

_MAX_EXPORT = 128 * 10**6  # bytes of raw features
_GONE = "Not filled, or forgotten meanwhile: press Fill the grid."


@dataclass(frozen=True)
class Filled:
    """What a page's grid holds, however it is looked at. Features themselves stay in caches.

    Attributes:
        grid: the panels.
        digest: of the picture.
        refused: panels that cannot be had, and the sentence that says why.
        running: number of the pass that runs; None is none.
    """

    grid: Grid
    digest: str
    refused: tuple[tuple[PanelRecipe, str], ...] = ()
    running: int | None = None

    @property
    def ended(self) -> Filled:
        """The same when nothing runs any more."""
        return replace(self, running=None)


def fill(
    desk: FeatureDesk, picture: Picture, grid: Grid, *, download: bool = False
) -> Iterator[Filled | jobs.Progress | None]:
    """Read what the panels need, one pass after another; panels that cannot be had do not stop the others.

    Yields:
        The grid before every pass and at the end; progress of downloads; and None where there is no news.
    """
    filled, broken = Filled(grid, picture.digest), dict[str, str]()
    for number, step in enumerate(grid.passes):
        filled = replace(filled, running=number)
        yield filled
        try:
            if step.source not in broken:
                for news in jobs.run(_work(desk, picture, step, download)):
                    if not isinstance(news, jobs.Done):
                        yield news
                    elif news.result is not None:
                        broken[step.source] = news.result
            if step.source in broken:
                filled = _refuse(filled, step, broken[step.source])
        except UserError as error:
            filled = _refuse(filled, step, str(error))
    yield filled.ended


def shown(desk: FeatureDesk, filled: Filled, drawing: Drawing, id_map: np.ndarray | None) -> str:
    """The grid as HTML, from what is remembered; while passes run, what they will read has a bar.

    Raises:
        UserError: the lens lacks a word.
    """
    views = _views(desk, filled, drawing.lens, id_map)
    missing = {panel: _missing(filled, panel) for panel in filled.grid.panels if panel not in views}
    return panel_grid(filled.grid, {**views, **missing}, drawing)


def files(
    desk: FeatureDesk, picture: Picture, filled: Filled | None, drawing: Drawing, opacity: float
) -> list[tuple[str, bytes]]:
    """The grid as one labelled PNG, and the raw features as ``.npz``.

    Raises:
        UserError: nothing is filled with this picture's features, or more than can be sent.
    """
    readings = _readings(desk, filled) if filled and filled.digest == picture.digest else {}
    if filled is None or not readings:
        raise UserError("There are no features to save: press Fill the grid first.")
    maps = list(dict.fromkeys(reading.features for reading in readings.values()))
    _check_size(maps)
    views, size = _views(desk, filled, drawing.lens, None), display_size((picture.height, picture.width))
    grid = filled.grid
    panels = [
        [
            lay_over(view.draw(size, drawing.upsampling), picture, opacity)
            if isinstance(view := views.get(p), View)
            else None
            for p in row
        ]
        for _, row in grid.rows
    ]
    drawn = grid_png(panels, [label for label, _ in grid.rows], grid.columns, grid.title)
    return [("features.png", drawn), ("features.npz", features_npz(maps))]


def _work(desk: FeatureDesk, picture: Picture, step: Pass, download: bool) -> Callable[[jobs.Report], str | None]:
    """One pass; its result is the sentence that says why its source cannot be had at all."""
    title = find_source(step.source).title

    def work(report: jobs.Report) -> str | None:
        try:
            desk.source(
                step.source,
                download=download,
                progress=lambda done, total: report(
                    f"Downloading {title}, megabytes", done // 10**6, total and total // 10**6
                ),
            )
        except UserError as error:
            return str(error)
        desk.read(picture, step.source, step.layers, step.size)
        return None

    return work


def _missing(filled: Filled, panel: PanelRecipe) -> Content:
    if filled.running is None:
        return _GONE
    step = filled.grid.passes[filled.running]
    return Pending.RUNNING if (panel.source, panel.size) == (step.source, step.size) else Pending.WAITING


def _refuse(filled: Filled, step: Pass, sentence: str) -> Filled:
    refused = ((p, sentence) for p in filled.grid.panels if (p.source, p.size) == (step.source, step.size))
    return replace(filled, refused=(*filled.refused, *refused))


def _readings(desk: FeatureDesk, filled: Filled) -> dict[PanelRecipe, Reading]:
    found = {p: desk.recall(filled.digest, p.source, p.layer, p.size) for p in filled.grid.panels}
    return {panel: reading for panel, reading in found.items() if reading is not None}


def _views(desk: FeatureDesk, filled: Filled, lens: Lens, id_map: np.ndarray | None) -> dict[PanelRecipe, View | str]:
    readings = _readings(desk, filled)
    views = dict(zip(readings, look(desk, tuple(readings.values()), lens, id_map), strict=True))
    return {**dict(filled.refused), **views}


def _check_size(maps: list[FeatureMap]) -> None:
    size = sum(features.values.nbytes for features in maps)
    if size > _MAX_EXPORT:
        raise UserError(
            f"These features take {size / 1e6:,.0f} MB and at most {_MAX_EXPORT / 1e6:,.0f} MB can be saved: choose "
            "fewer rows or smaller sizes."
        )
