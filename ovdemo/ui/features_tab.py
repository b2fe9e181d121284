"""The fourth tab: what frozen backbones see, in a grid of layers and input sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import gradio as gr
import numpy as np
from gradio.components import Component

from ovdemo.errors import UserError
from ovdemo.features import CLUSTERS, FIGURES, SOURCES, FigureRecipe, SourceCard, Upsampling, find_source
from ovdemo.images import Picture
from ovdemo.panels import LENSES, FeatureDesk, Grid, Lens, figure_grid, grid_of
from ovdemo.ui import html
from ovdemo.ui.answers import Point
from ovdemo.ui.controls import known
from ovdemo.ui.desk import Desk, Shot, quietly, sentences
from ovdemo.ui.events import HEAVY, LIVE, OURS
from ovdemo.ui.files import saved
from ovdemo.ui.filling import Filled, files, fill, shown
from ovdemo.ui.panel_html import Drawing, nothing, photo_address
from ovdemo.ui.widgets import event_data, feature_panels, page_text

Update = dict[Component, Any]

SIDES = (224, 448, 672, 896, 1120)
_FIRST_ROWS = ("embedded:res5", "embedded:res3")
_FIRST_SIDES = (224, 448)
_MOST_ROWS = 12
_OPACITY = 0.8
_SETTINGS = 8  # values of :attr:`LensControls.settings`
_EMPTY = "Segment a picture first; then this tab shows what the network sees in it."

# The panels lie over the photograph: the browser alone mixes them.
_SET_OPACITY = '(share) => document.documentElement.style.setProperty("--ov-strength", share)'


@dataclass(frozen=True)
class LensControls:
    """How features are looked at."""

    kind: gr.Radio
    k: gr.Slider
    median: gr.Checkbox
    joint: gr.Checkbox
    foreground: gr.Checkbox
    words: gr.Textbox
    contrast: gr.Radio
    upsampling: gr.Radio
    opacity: gr.Slider

    @classmethod
    def build(cls) -> LensControls:
        """Lay the components out here."""
        kind = gr.Radio(list(LENSES), value=LENSES[0], label="Lens", elem_id="features-lens")
        k = gr.Slider(*CLUSTERS, 8, step=1, label="k, number of clusters", elem_id="features-k")
        median = gr.Checkbox(label="5 × 5 median filter", value=False)
        joint = gr.Checkbox(label="Same clusters for all sizes of a row", value=False, elem_id="features-joint")
        foreground = gr.Checkbox(label="Foreground only", value=False, visible=False, elem_id="features-foreground")
        words = gr.Textbox(
            label="Word, then the words it is contrasted with",
            placeholder="empty: the words of the first tab",
            visible=False,
            elem_id="features-words",
        )
        contrast = gr.Radio(
            [("cosine", "none"), ("minus the others' mean", "others"), ("softmax", "softmax")],
            value="none",
            label="Contrast",
            visible=False,
            elem_id="features-contrast",
        )
        upsampling = gr.Radio(
            list(get_args(Upsampling)), value="nearest", label="Upsampling", elem_id="features-upsampling"
        )
        opacity = gr.Slider(0, 1, _OPACITY, step=0.05, label="Opacity", elem_id="features-opacity")
        return cls(kind, k, median, joint, foreground, words, contrast, upsampling, opacity)

    @property
    def switched(self) -> list[Component]:
        """Those that belong to one lens each, in the order of :func:`_visible`."""
        return [self.k, self.median, self.joint, self.foreground, self.words, self.contrast]

    @property
    def settings(self) -> list[Component]:
        """What a look depends on, in the order of :func:`lens_of`; the last one is the upsampling."""
        return [self.kind, *self.switched, self.upsampling]


@dataclass(frozen=True)
class FeaturesTab:
    """The components of the tab."""

    tab: gr.Tab
    rows: gr.Dropdown
    sides: gr.CheckboxGroup
    download: gr.Checkbox
    fill: gr.Button
    stop: gr.Button
    figures: tuple[tuple[FigureRecipe, gr.Button], ...]
    lens: LensControls
    progress: gr.HTML
    panels: gr.HTML
    make_files: gr.Button
    files: gr.Files
    filled: gr.State

    @classmethod
    def build(cls, tab: gr.Tab) -> FeaturesTab:
        """Lay the tab out here."""
        gr.HTML(page_text("features"))
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                figures = _figure_buttons()
                rows = gr.Dropdown(
                    _choices(_FIRST_ROWS),
                    value=list(_FIRST_ROWS),
                    multiselect=True,
                    max_choices=_MOST_ROWS,
                    label="Rows: network and layer",
                    elem_id="features-rows",
                )
                sides = gr.CheckboxGroup(
                    [(str(side), side) for side in SIDES],
                    value=list(_FIRST_SIDES),
                    label="Columns: side of the input in pixels",
                    info="of the square with as many pixels; what does not fit into memory is refused",
                    elem_id="features-sides",
                )
                download = gr.Checkbox(label="Allow the download of missing weights", elem_id="features-download")
                with gr.Row():
                    start = gr.Button("Fill the grid", variant="primary", elem_id="features-fill", scale=3)
                    stop = gr.Button("Stop", elem_id="features-stop", scale=1, min_width=80)
                lens = LensControls.build()
            with gr.Column(scale=9, min_width=320, elem_id="features-view"):
                progress = gr.HTML(elem_id="features-progress")
                panels = feature_panels("features-panels")
                with gr.Accordion("Take it with you", open=False):
                    make_files = gr.Button("Make files: the grid as PNG, raw features as .npz", elem_id="features-make")
                    found = gr.Files(label="Files", visible=False, elem_id="features-files")
        return cls(
            tab=tab,
            rows=rows,
            sides=sides,
            download=download,
            fill=start,
            stop=stop,
            figures=figures,
            lens=lens,
            progress=progress,
            panels=panels,
            make_files=make_files,
            files=found,
            filled=gr.State(None),
        )

    def wire(self, desk: Desk, shot: gr.State, live: list[Component]) -> None:
        """Connect the events. The grid is of the first tab's picture; the worked example fills when it is opened."""
        handlers = Handlers(self, desk)
        settings = [shot, self.filled, *self.lens.settings, *live]
        asked = [self.rows, self.sides, self.download, *settings]
        prepared = [self.rows, self.sides, self.lens.kind, *self.lens.switched]
        opened = self.tab.select(sentences(handlers.open), asked, self._shown, **HEAVY)
        opened.then(handlers.offer, None, self.rows, **OURS)
        long: list[Any] = [
            opened,
            self.fill.click(sentences(handlers.fill), asked, self._shown, **HEAVY),
        ]
        for recipe, button in self.figures:
            play = sentences(partial(handlers.play, recipe))
            ready = button.click(partial(handlers.prepare, recipe), None, prepared, **OURS)
            long.append(ready.then(play, [self.download, *settings], self._shown, **HEAVY))
            long[-1].then(handlers.offer, None, self.rows, **OURS)
        switched = self.lens.kind.input(_visible, self.lens.kind, self.lens.switched, **OURS)
        switched.then(sentences(handlers.look), settings, self._shown, **LIVE)
        long.append(switched.then(sentences(handlers.project), asked, [self.rows, *self._shown], **HEAVY))
        lens = self.lens
        moved = [lens.k.input, lens.median.input, lens.joint.input, lens.foreground.input, lens.contrast.input]
        gr.on([*moved, lens.upsampling.input], quietly(handlers.look), settings, self._shown, **LIVE)
        gr.on([lens.words.submit, lens.words.blur], sentences(handlers.look), settings, self._shown, **LIVE)
        lens.opacity.input(None, lens.opacity, None, js=_SET_OPACITY, api_visibility="private")
        self.panels.point(sentences(handlers.touch), settings, self._shown, **LIVE)
        self.stop.click(lambda: nothing("Stopped; what is there stays."), None, self.progress, cancels=long, **OURS)
        self.make_files.click(sentences(handlers.make_files), [lens.opacity, *settings], self.files, **LIVE)

    @property
    def _shown(self) -> list[Component]:
        return [self.filled, self.progress, self.panels]


class Handlers:
    """What the events of the tab do, apart from a browser."""

    def __init__(self, tab: FeaturesTab, desk: Desk) -> None:
        self._tab, self._desk = tab, desk
        self._features: FeatureDesk = desk.features

    def offer(self) -> Any:
        """All layers of all networks, which to list takes a few seconds the first time."""
        return gr.update(choices=row_choices(self._features))

    def open(
        self, rows: list[str], sides: list[int], download: bool, shot: Shot | None, *rest: Any
    ) -> Iterator[Update]:
        """The worked example, unless this picture has a grid already."""
        filled = rest[0]
        if shot is None:
            yield {self._tab.progress: nothing(_EMPTY)}
        elif filled is None or filled.digest != shot.digest:
            yield from self.fill(rows, sides, download, shot, *rest)
        else:
            yield self.look(shot, *rest)

    def fill(
        self, rows: list[str], sides: list[int], download: bool, shot: Shot | None, *rest: Any
    ) -> Iterator[Update]:
        """The rows and columns that were chosen."""
        if not rows or not sides:
            raise UserError("Choose at least one row and one column.")
        yield from self._fill(
            grid_of(self._features, [_place(row) for row in rows], sorted(sides)), download, shot, rest
        )

    def prepare(self, recipe: FigureRecipe) -> Update:
        """The controls as a paper's figure has them.

        An event of its own: Gradio loses what else it is sent while it shows or hides components.
        """
        tab = self._tab
        rows = list(dict.fromkeys(f"{panel.source}:{panel.layer}" for panel in figure_grid(recipe).panels))
        return {
            tab.rows: gr.update(choices=_choices(rows), value=rows),
            tab.sides: sorted({panel.size for panel in figure_grid(recipe).panels}),
            tab.lens.kind: LENSES[0],
            tab.lens.k: gr.update(value=recipe.clusters, visible=True),
            **dict(zip(tab.lens.switched[1:], _visible(LENSES[0])[1:], strict=True)),
        }

    def play(self, recipe: FigureRecipe, download: bool, shot: Shot | None, *rest: Any) -> Iterator[Update]:
        """A paper's figure."""
        filled, _, _, *others = rest  # without the lens and k, which are the figure's
        yield from self._fill(figure_grid(recipe), download, shot, (filled, LENSES[0], recipe.clusters, *others))

    def project(self, rows: list[str], *rest: Any) -> Iterator[Update]:
        """Words need a final map: where the lens asks for one and no row has it, a row is added."""
        sides, download, shot, filled, kind, *others = rest
        if kind != "word" or shot is None or any(row.endswith(":projected") for row in rows):
            yield {self._tab.progress: gr.skip()}  # a generator without a word would empty its outputs
            return
        sources = [_place(row)[0] for row in rows] or ["embedded"]
        with_words = (name for name in sources if any(layer.projected for layer in self._features.layers(name)))
        rows = [*rows[: _MOST_ROWS - 1], f"{next(with_words, 'embedded')}:projected"]
        yield {self._tab.rows: gr.update(choices=row_choices(self._features), value=rows)}
        yield from self.fill(rows, sides, download, shot, filled, kind, *others)

    def look(self, shot: Shot | None, filled: Filled | None, *values: Any) -> Update:
        """The same features through another lens; no network but a text tower is asked."""
        if shot is None or filled is None or filled.digest != shot.digest:
            return {self._tab.progress: nothing(_EMPTY if shot is None else "Press Fill the grid.")}
        picture, id_map = self._picture(shot, values)
        drawing = drawing_of(picture, filled.pixel, values)
        return {self._tab.panels: shown(self._features, filled, drawing, id_map, running=False)}

    def touch(self, event: gr.EventData, shot: Shot | None, filled: Filled | None, *values: Any) -> Update:
        """Compare everything with the pixel that was clicked."""
        data = event_data(event)
        filled = filled and replace(filled, pixel=(int(data["x"]), int(data["y"])))
        return {self._tab.filled: filled, **self.look(shot, filled, *values)}

    def make_files(self, opacity: float, shot: Shot | None, filled: Filled | None, *values: Any) -> Any:
        """The grid and its features to keep."""
        if filled is None:
            raise UserError("There are no features to save: press Fill the grid first.")
        picture, _ = self._picture(shot, values)
        drawing = drawing_of(picture, filled.pixel, values)
        made = files(self._features, picture, filled, drawing, float(opacity))
        return gr.update(value=saved(made), visible=True)

    def _fill(self, grid: Grid, download: bool, shot: Shot | None, rest: Sequence[Any]) -> Iterator[Update]:
        before, *values = rest
        picture, id_map = self._picture(shot, values)
        tab, pixel = self._tab, before.pixel if before and before.digest == picture.digest else None
        drawing = drawing_of(picture, pixel, values)
        photograph: dict[str, Any] = {"photo": photo_address(picture)}
        for news in fill(self._features, picture, grid, download=bool(download), pixel=pixel):
            if isinstance(news, Filled):
                drawn = shown(self._features, news, drawing, id_map, running=True)
                yield {tab.filled: news, tab.panels: gr.update(value=drawn, **photograph)}
                photograph = {}  # it goes to the browser once
            else:
                yield {tab.progress: gr.skip() if news is None else html.progress(news)}
        yield {tab.progress: ""}

    def _picture(self, shot: Shot | None, values: Sequence[Any]) -> tuple[Picture, np.ndarray | None]:
        """The picture, and its id map unless the words are not usable at the moment."""
        analysis = self._desk.reopen(shot)
        try:
            _, case = known(self._desk, shot, values[_SETTINGS:])
        except UserError:
            return analysis.picture, None
        return analysis.picture, case.segmentation.id_map


def row_choices(desk: FeatureDesk) -> list[tuple[str, str]]:
    """(Words, "source:layer") of every layer of every network, with what would have to be downloaded."""
    return [
        (f"{_title(card)}: {layer.title}", f"{card.name}:{layer.name}")
        for card in SOURCES.values()
        for layer in desk.layers(card.name)
    ]


def drawing_of(picture: Picture, pixel: Point | None, values: Sequence[Any]) -> Drawing:
    """From the values of :attr:`LensControls.settings`, and the words of the first tab that follow them."""
    kind, k, median, joint, foreground, words, contrast, upsampling, first_words, *_ = values
    words = words or first_words or ""
    lens = Lens(kind, int(k), bool(median), bool(joint), bool(foreground), words, contrast, pixel)
    return Drawing((picture.height, picture.width), lens, upsampling)


def _title(card: SourceCard) -> str:
    missing = card.availability == "to download"
    return f"{card.title} (to download, {card.megabytes:,.0f} MB)" if missing else card.title


def _choices(rows: Sequence[str]) -> list[tuple[str, str]]:
    """These rows alone, without building their networks for the layers' titles."""
    return [(f"{_title(find_source(source))}: {layer}", row) for row in rows for source, layer in [_place(row)]]


def _place(row: str) -> tuple[str, str]:
    source, _, layer = row.partition(":")
    return source, layer


def _visible(kind: str) -> tuple[Any, ...]:
    """For :attr:`LensControls.switched`."""
    owners = ("k-means", "k-means", "k-means", "PCA", "word", "word")
    return tuple(gr.update(visible=kind == owner) for owner in owners)


def _figure_buttons() -> tuple[tuple[FigureRecipe, gr.Button], ...]:
    """One click replays a figure of a paper."""
    with gr.Row():
        return tuple(
            (
                recipe,
                gr.Button(recipe.title.partition(":")[0], size="sm", min_width=120, elem_id=f"figure-{recipe.name}"),
            )
            for recipe in FIGURES.values()
        )
