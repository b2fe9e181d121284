"""The fourth tab: what frozen backbones see, in a grid of layers and input sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr
import numpy as np
from gradio.components import Component

from ovdemo.errors import UserError
from ovdemo.features import CLUSTERS, FIGURES, SOURCES, Contrast, FigureRecipe, SourceCard, Upsampling, find_source
from ovdemo.images import Picture
from ovdemo.panels import LENSES, FeatureDesk, Grid, Lens, LensKind, figure_grid, grid_of
from ovdemo.ui import html, jobs
from ovdemo.ui.answers import Point
from ovdemo.ui.controls import known
from ovdemo.ui.desk import Desk, sentences
from ovdemo.ui.events import FEATURES, FILES, LIVE, OURS, POINT
from ovdemo.ui.files import saved
from ovdemo.ui.filling import Filled, files, fill, shown
from ovdemo.ui.panel_html import Drawing, nothing, photo_address
from ovdemo.ui.visits import Shot
from ovdemo.ui.widgets import event_point, feature_panels, page_text

Update = dict[Component, Any]

SIDES = (224, 448, 672, 896, 1120)
_FIRST_ROWS = ("embedded:res5", "embedded:res3")
_MOST_ROWS = 12
_OPACITY = 0.8
_UNKNOWN = -1  # share that is done; Gradio does not send None
_EMPTY = "Segment a picture first; then this tab shows what the network sees in it."
_UNFILLED = (
    "There is no grid of this picture yet. One that was asked for begins as soon as it is its turn; "
    "otherwise press Fill the grid."
)

# The browser alone mixes panels with the photograph they lie over, and hides what belongs to other lenses.
_SET_OPACITY = '(share) => document.documentElement.style.setProperty("--ov-strength", share)'
_SET_LENS = "(kind) => { document.documentElement.dataset.lens = kind; }"
_OF_CLUSTERS, _OF_COMPONENTS, _OF_WORD = "ov-of-clusters", "ov-of-components", "ov-of-word"


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
        k = gr.Slider(
            *CLUSTERS, 8, step=1, label="k, number of clusters", elem_id="features-k", elem_classes=_OF_CLUSTERS
        )
        median = gr.Checkbox(
            label="5 × 5 median filter", value=False, elem_id="features-median", elem_classes=_OF_CLUSTERS
        )
        joint = gr.Checkbox(
            label="Same clusters for all sizes of a row",
            value=False,
            elem_id="features-joint",
            elem_classes=_OF_CLUSTERS,
        )
        foreground = gr.Checkbox(
            label="Foreground only", value=False, elem_id="features-foreground", elem_classes=_OF_COMPONENTS
        )
        words = gr.Textbox(
            label="Word, then the words it is contrasted with",
            placeholder="empty: the words of the first tab",
            elem_id="features-words",
            elem_classes=_OF_WORD,
        )
        contrast = gr.Radio(
            [("cosine", "none"), ("minus the others' mean", "others"), ("softmax", "softmax")],
            value="none",
            label="Contrast",
            elem_id="features-contrast",
            elem_classes=_OF_WORD,
        )
        upsampling = gr.Radio(
            list(get_args(Upsampling)), value="nearest", label="Upsampling", elem_id="features-upsampling"
        )
        opacity = gr.Slider(0, 1, _OPACITY, step=0.05, label="Opacity", elem_id="features-opacity")
        return cls(kind, k, median, joint, foreground, words, contrast, upsampling, opacity)

    @property
    def settings(self) -> list[Component]:
        """What a look depends on, in the order of :func:`settings_of`."""
        return [
            *(self.kind, self.k, self.median, self.joint, self.foreground),
            *(self.words, self.contrast, self.upsampling),
        ]

    @property
    def moved(self) -> list[Callable[..., Any]]:
        """The events by which a person asks for another look."""
        given = (self.kind, self.k, self.median, self.joint, self.foreground, self.contrast, self.upsampling)
        return [*(control.input for control in given), self.words.submit, self.words.blur]


@dataclass(frozen=True)
class LensSettings:
    """The values of :attr:`LensControls.settings`."""

    kind: LensKind
    k: int
    median: bool
    joint: bool
    foreground: bool
    words: str
    contrast: Contrast
    upsampling: Upsampling

    def drawing(self, picture: Picture, pixel: Point | None, first_words: str) -> Drawing:
        """How the panels of a picture are drawn; the words of the first tab stand in where there are no others."""
        words = self.words or first_words
        lens = Lens(self.kind, self.k, self.median, self.joint, self.foreground, words, self.contrast, pixel)
        return Drawing((picture.height, picture.width), lens, self.upsampling)


def settings_of(values: Sequence[Any]) -> LensSettings:
    """From the values of the components."""
    kind, k, median, joint, foreground, words, contrast, upsampling = values
    return LensSettings(kind, int(k), bool(median), bool(joint), bool(foreground), words or "", contrast, upsampling)


@dataclass(frozen=True)
class Clicked:
    """A pixel of a picture that all others are compared with."""

    digest: str
    pixel: Point


@dataclass(frozen=True)
class FeaturesTab:
    """The components of the tab.

    What fills and what is clicked are kept in states of their own, so that neither undoes the other; whenever one of
    them or a control changes, the grid is drawn anew with what all of them say then.
    """

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
    clicked: gr.State

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
                    value=list(SIDES),
                    label="Columns: side of the input in pixels",
                    info="of a square with as many pixels; what does not fit into memory says so in its place",
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
            clicked=gr.State(None),
        )

    def wire(self, desk: Desk, shot: gr.State, live: list[Component]) -> None:
        """Connect the events. The grid is of the first tab's picture; the worked example fills when it is opened."""
        handlers = Handlers(self, desk)
        lens, filling = self.lens, [self.filled, self.progress, self.panels]
        looked = [shot, self.filled, self.clicked, *lens.settings, *live]
        asked = [self.rows, self.sides, self.download, shot]
        # One listener for everything that asks for a look, so that answers cannot overtake each other. Of one event the
        # listeners run one after another, so what is quick comes first.
        changed = [self.filled.change, self.clicked.change, *lens.moved]
        gr.on([self.tab.select, *changed], sentences(handlers.look), looked, self.panels, **LIVE)
        # Files of an earlier grid must not pass for this one's.
        outdated = [shot.change, self.fill.click, lens.kind.input, *(button.click for _, button in self.figures)]
        gr.on(outdated, lambda: gr.update(value=None, visible=False), None, self.files, **OURS)
        long: list[Any] = [
            self.tab.select(sentences(handlers.open), [self.filled, *asked], filling, **FEATURES),
            self.fill.click(sentences(handlers.fill), asked, filling, **FEATURES),
        ]
        long[0].then(sentences(handlers.offer), None, self.rows, **OURS)
        for recipe, button in self.figures:
            figure = [self.rows, self.sides, lens.kind, lens.k]
            ready = button.click(handlers.preparation(recipe), None, figure, **OURS)
            long.append(ready.then(sentences(handlers.player(recipe)), [self.download, shot], filling, **FEATURES))
            long[-1].then(sentences(handlers.offer), None, self.rows, **OURS)
        long.append(
            lens.kind.input(sentences(handlers.project), [lens.kind, *asked], [self.rows, *filling], **FEATURES)
        )
        for event in long:  # Stop, too, is an end: what was under way is over only when the page hears of that
            event.then(handlers.end, self.filled, self.filled, **LIVE)
        lens.kind.change(None, lens.kind, None, js=_SET_LENS, api_visibility="private")
        lens.opacity.input(None, lens.opacity, None, js=_SET_OPACITY, api_visibility="private")
        self.panels.point(sentences(handlers.touch), shot, self.clicked, **POINT)
        self.stop.click(lambda: nothing("Stopped; what is there stays."), None, self.progress, cancels=long, **OURS)
        shot.change(handlers.leave, [shot, self.filled], [self.filled, self.progress], **OURS)
        self.make_files.click(sentences(handlers.make_files), [lens.opacity, *looked], self.files, **FILES)


class Handlers:
    """What the events of the tab do, apart from a browser."""

    def __init__(self, tab: FeaturesTab, desk: Desk) -> None:
        self._tab, self._desk = tab, desk
        self._features: FeatureDesk = desk.features

    def offer(self) -> Any:
        """All layers of all networks, which to list takes a few seconds the first time."""
        return gr.update(choices=row_choices(self._features))

    def open(  # noqa: PLR0917 - Gradio hands inputs over by position
        self,
        request: gr.Request,
        filled: Filled | None,
        rows: list[str],
        sides: list[int],
        download: bool,
        shot: Shot | None,
    ) -> Iterator[Update]:
        """The worked example, unless this picture has a grid already."""
        if shot is None or (filled is not None and filled.digest == shot.digest):
            yield {self._tab.progress: gr.skip()}  # a generator without a word would empty its outputs
        else:
            yield from self.fill(request, rows, sides, download, shot)

    def fill(
        self, request: gr.Request, rows: list[str], sides: list[int], download: bool, shot: Shot | None
    ) -> Iterator[Update]:
        """The rows and columns that were chosen."""
        if not rows or not sides:
            raise UserError("Choose at least one row and one column.")
        grid = grid_of(self._features, [_place(row) for row in rows], sorted(sides))
        yield from self._fill(request, grid, download, shot)

    def preparation(self, recipe: FigureRecipe) -> Callable[[], Update]:
        """Sets the controls as a paper's figure has them."""
        panels, tab = figure_grid(recipe).panels, self._tab
        rows = list(dict.fromkeys(f"{panel.source}:{panel.layer}" for panel in panels))

        def prepare() -> Update:
            return {
                tab.rows: gr.update(choices=_choices(rows), value=rows),
                tab.sides: sorted({panel.size for panel in panels}),
                tab.lens.kind: LENSES[0],
                tab.lens.k: recipe.clusters,
            }

        return prepare

    def player(self, recipe: FigureRecipe) -> Callable[[gr.Request, bool, Shot | None], Iterator[Update]]:
        """Fills a paper's figure."""

        def play(request: gr.Request, download: bool, shot: Shot | None) -> Iterator[Update]:
            yield from self._fill(request, figure_grid(recipe), download, shot)

        return play

    def project(  # noqa: PLR0917 - Gradio hands inputs over by position
        self,
        request: gr.Request,
        kind: LensKind,
        rows: list[str],
        sides: list[int],
        download: bool,
        shot: Shot | None,
    ) -> Iterator[Update]:
        """Words need a final map: where the lens asks for one and no row has it, a row is added."""
        if kind != "word" or shot is None or any(row.endswith(":projected") for row in rows):
            yield {self._tab.progress: gr.skip()}
            return
        sources = [_place(row)[0] for row in rows]
        with_words = (name for name in sources if any(layer.projected for layer in self._features.layers(name)))
        rows = [*rows[: _MOST_ROWS - 1], f"{next(with_words, 'embedded')}:projected"]
        yield {self._tab.rows: gr.update(choices=row_choices(self._features), value=rows)}
        yield from self.fill(request, rows, sides, download, shot)

    def look(
        self, request: gr.Request, shot: Shot | None, filled: Filled | None, clicked: Clicked | None, *values: Any
    ) -> Any:
        """What was read until now through the lens as it is set now; no network but a text tower is asked."""
        if shot is None or filled is None or filled.digest != shot.digest:
            return nothing(_EMPTY if shot is None else _UNFILLED)
        try:
            drawing, _, id_map = self._drawing(shot, clicked, values)
            drawn = shown(self._features, filled, drawing, id_map)
        except UserError as error:
            drawn = nothing(str(error))
        return drawn if self._desk.visits.shows(request.session_hash, shot) else gr.skip()

    def touch(self, event: gr.EventData, shot: Shot | None) -> Clicked | None:
        """The pixel that was clicked."""
        return None if shot is None else Clicked(shot.digest, event_point(event))

    def end(self, filled: Filled | None) -> Filled | None:
        """A grid that nobody fills any more."""
        return filled and filled.ended

    def leave(self, shot: Shot | None, filled: Filled | None) -> Update:
        """The page shows a picture from now on: the grid of another one is gone."""
        stays = filled is not None and shot is not None and filled.digest == shot.digest
        return {self._tab.filled: filled if stays else None, self._tab.progress: ""}

    def make_files(
        self,
        request: gr.Request,
        opacity: float,
        shot: Shot | None,
        filled: Filled | None,
        clicked: Clicked | None,
        *values: Any,
    ) -> Any:
        """The grid and its features to keep."""
        drawing, picture, _ = self._drawing(shot, clicked, values)
        made = files(self._features, picture, filled, drawing, float(opacity))
        if not self._desk.visits.shows(request.session_hash, shot):
            return gr.skip()
        return gr.update(value=saved(made), visible=True)

    def _fill(self, request: gr.Request, grid: Grid, download: bool, shot: Shot | None) -> Iterator[Update]:
        """Tells the page what is read; :meth:`look` draws it. Ends where the page shows another picture."""
        tab, picture = self._tab, self._picture(shot)
        news = fill(self._features, picture, grid, download=bool(download))
        photograph: dict[str, Any] = {"photo": photo_address(picture)}
        last: Filled | None = None
        try:
            for one in news:
                if not self._desk.visits.shows(request.session_hash, shot):
                    yield {tab.progress: gr.skip()}
                    return
                if isinstance(one, Filled):
                    last, bar = one, gr.update(done=_UNKNOWN, **photograph)
                    yield {tab.filled: one, tab.progress: _line(one), tab.panels: bar}
                    photograph = {}  # it goes to the browser once
                elif one is not None and one.total:
                    yield {tab.progress: html.progress(one), tab.panels: gr.update(done=one.done / one.total)}
                else:
                    yield {tab.progress: gr.skip() if one is None else html.progress(one)}
        except Exception:
            if last is not None:
                yield {tab.filled: last.ended, tab.progress: ""}
            raise

    def _drawing(
        self, shot: Shot | None, clicked: Clicked | None, values: Sequence[Any]
    ) -> tuple[Drawing, Picture, np.ndarray | None]:
        """How panels are drawn, the picture, and the segments whose boundaries clusters are compared with, if any."""
        count = len(self._tab.lens.settings)
        settings, live = settings_of(values[:count]), values[count:]
        picture, id_map = self._segments(shot, live) if settings.kind == "k-means" else (self._picture(shot), None)
        pixel = clicked.pixel if clicked is not None and clicked.digest == picture.digest else None
        return settings.drawing(picture, pixel, live[0] or ""), picture, id_map

    def _picture(self, shot: Shot | None) -> Picture:
        return self._desk.reopen(shot).picture

    def _segments(self, shot: Shot | None, live: Sequence[Any]) -> tuple[Picture, np.ndarray | None]:
        """The picture and its id map; without that where the words are not usable at the moment."""
        try:
            analysis, case = known(self._desk, shot, live)
        except UserError:
            return self._picture(shot), None
        return analysis.picture, case.segmentation.id_map


def _line(filled: Filled) -> str:
    """What runs, in a line above the grid."""
    if filled.running is None:
        return ""
    passes = filled.grid.passes
    step = passes[filled.running]
    text = f"{find_source(step.source).title} at {step.size} px, pass"
    return html.progress(jobs.Progress(text, filled.running + 1, len(passes)))


def row_choices(desk: FeatureDesk) -> list[tuple[str, str]]:
    """(Words, "source:layer") of every layer of every network, with what would have to be downloaded."""
    return [
        (f"{_title(card)}: {layer.title}", f"{card.name}:{layer.name}")
        for card in SOURCES.values()
        if desk.offers(card.name)
        for layer in desk.layers(card.name)
    ]


def _title(card: SourceCard) -> str:
    missing = card.availability == "to download"
    return f"{card.title} (to download, {card.megabytes:,.0f} MB)" if missing else card.title


def _choices(rows: Sequence[str]) -> list[tuple[str, str]]:
    """These rows alone, without building their networks for the layers' titles."""
    return [(f"{_title(find_source(source))}: {layer}", row) for row in rows for source, layer in [_place(row)]]


def _place(row: str) -> tuple[str, str]:
    source, _, layer = row.partition(":")
    return source, layer


def _figure_buttons() -> tuple[tuple[FigureRecipe, gr.Button], ...]:
    """One click replays a figure of a paper; what cannot be replayed yet says why."""
    with gr.Row():
        figures = tuple(
            (
                recipe,
                gr.Button(recipe.title.partition(":")[0], size="sm", min_width=120, elem_id=f"figure-{recipe.name}"),
            )
            for recipe in FIGURES.values()
        )
        gr.Button(
            "EOV-Seg, Figure 5: comes with that system",
            size="sm",
            min_width=120,
            interactive=False,
            elem_id="figure-eovseg-5",
        )
    return figures
