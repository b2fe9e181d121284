"""The third tab: segments in a category tree, from coarse to fine."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component

from ovdemo.errors import UserError
from ovdemo.hierarchy import MAX_DEPTH, TREE_PRESETS, ambiguous, path_record, trace, tree_preset
from ovdemo.inspection import Case
from ovdemo.ui import html, jobs
from ovdemo.ui.answers import Point, chosen_id
from ovdemo.ui.controls import known
from ovdemo.ui.desk import Desk, quietly, sentences
from ovdemo.ui.events import BACKGROUND, FILES, LIVE, OURS, POINT
from ovdemo.ui.files import photograph_address, saved
from ovdemo.ui.tree_answers import (
    SOURCES,
    Climbed,
    Nouns,
    TreeSettings,
    answer_key,
    by_area,
    details_of,
    drawing_html,
    kept_depth,
    level_rows,
    row_of,
    sense_choices,
    settings_of,
    shown_value,
    tree_files,
    tree_note,
)
from ovdemo.ui.visits import Shot
from ovdemo.ui.widgets import event_point, page_text, segment_viewer
from ovdemo.vocabulary import Vocabulary, load_preset
from ovdemo.workbench import Analysis

Update = dict[Component, Any]

LEVEL_HEADERS = ("segment", "path", "sure of", "p")

_FIRST_PRESET = "nature"
_NOUNS = "imagenet-21k"
_STOPPED = "Stopped; what was encoded is kept."
_WORDS_OFFERED = 200  # that are looked at for several senses; presets have thousands
_TURNS = 4000  # parts of pages whose last question is remembered
_SETTINGS = 9  # values of :attr:`HierarchyTab.settings`

# The slider ends at the tree's depth in the browser alone. Where the server set its maximum, Gradio would refuse what
# a page had asked before it heard of that.
_SET_END = '(deepest) => ({ __type__: "update", maximum: deepest })'


@dataclass(frozen=True)
class HierarchyTab:
    """The components of the tab.

    Three hold what the page was sent: ``deepest`` the greatest depth of its tree, ``opened`` whether the tab was ever
    opened, ``best`` the :class:`Nouns` of the table.
    """

    tab: gr.Tab
    source: gr.Radio
    preset: gr.Dropdown
    text: gr.Textbox
    noun: gr.Textbox
    word: gr.Dropdown
    sense: gr.Dropdown
    choices: gr.State
    mode: gr.Radio
    inner: gr.Checkbox
    depth: gr.Slider
    threshold: gr.Slider
    margin: gr.Slider
    note: gr.HTML
    viewer: gr.HTML
    drawing: gr.HTML
    levels: gr.Dataframe
    record: gr.JSON
    make_files: gr.Button
    files: gr.Files
    encode: gr.Button
    stop: gr.Button
    top: gr.Button
    stop_top: gr.Button
    nouns: gr.HTML
    deepest: gr.Number
    opened: gr.State
    best: gr.State

    @classmethod
    def build(cls, tab: gr.Tab) -> HierarchyTab:
        """Lay the tab out here."""
        gr.HTML(page_text("hierarchy"))
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                source = gr.Radio(list(SOURCES), value="my words", label="Tree", elem_id="tree-source")
                with gr.Group():
                    word = gr.Dropdown([], label="Which sense of", visible=True, elem_id="tree-word")
                    sense = gr.Dropdown([], label="means", visible=True, elem_id="tree-sense")
                preset = gr.Dropdown(list(TREE_PRESETS), value=_FIRST_PRESET, label="Start from", visible=False)
                text = gr.Textbox(
                    tree_preset(_FIRST_PRESET),
                    label="One category a line, deeper ones indented, synonyms by |",
                    lines=10,
                    max_lines=24,
                    visible=False,
                    elem_id="tree-text",
                )
                noun = gr.Textbox("animal", label="Noun", visible=False, elem_id="tree-noun")
                mode = gr.Radio(
                    ["roll-up", "greedy"],
                    value="roll-up",
                    label="How",
                    info="roll-up sums leaves up the tree; greedy descends as OPSNet does",
                    elem_id="tree-mode",
                )
                inner = gr.Checkbox(label="Greedy: inner nodes are the mean of their children", value=True)
                depth = gr.Slider(0, MAX_DEPTH, MAX_DEPTH, step=1, label="Depth", buttons=[], elem_id="tree-depth")
                deepest = gr.Number(MAX_DEPTH, precision=0, visible="hidden", elem_id="tree-deepest")
                threshold = gr.Slider(0, 1, 0.0, step=0.01, label="Stop when less sure than", elem_id="tree-threshold")
                margin = gr.Slider(0, 1, 0.0, step=0.01, label="Stop when the lead is smaller than")
                note = gr.HTML(elem_id="tree-note")
                with gr.Row():
                    encode = gr.Button("Encode this tree's words", size="sm", elem_id="tree-encode")
                    stop = gr.Button("Stop", size="sm", min_width=60)
            with gr.Column(scale=6, min_width=320):
                viewer = segment_viewer("tree-viewer")
                drawing = gr.HTML(elem_id="tree-drawing", container=True, padding=True)
                levels = gr.Dataframe(
                    headers=list(LEVEL_HEADERS), interactive=False, label="Levels", wrap=True, elem_id="tree-levels"
                )
                with gr.Accordion("Top five of 21,841 nouns for every segment", open=False):
                    with gr.Row():
                        top = gr.Button("Ask all of ImageNet-21K", elem_id="tree-top", scale=3)
                        stop_top = gr.Button("Stop", min_width=60)
                    nouns = gr.HTML(elem_id="tree-nouns", apply_default_css=False)
                with gr.Accordion("The path as JSON", open=False):
                    record = gr.JSON(elem_id="tree-json")
                    make_files = gr.Button("Make files: this path, and the paths of all segments", elem_id="tree-make")
                    files = gr.Files(label="Files", visible=False, interactive=False, elem_id="tree-files")
        return cls(
            tab=tab,
            source=source,
            preset=preset,
            text=text,
            noun=noun,
            word=word,
            sense=sense,
            choices=gr.State({}),
            mode=mode,
            inner=inner,
            depth=depth,
            threshold=threshold,
            margin=margin,
            note=note,
            viewer=viewer,
            drawing=drawing,
            levels=levels,
            record=record,
            make_files=make_files,
            files=files,
            encode=encode,
            stop=stop,
            top=top,
            stop_top=stop_top,
            nouns=nouns,
            deepest=deepest,
            opened=gr.State(False),
            best=gr.State(None),
        )

    @property
    def settings(self) -> list[Component]:
        """What an answer depends on, in the order of :func:`settings_of`."""
        return [
            *(self.source, self.text, self.noun, self.choices, self.mode, self.inner),
            *(self.depth, self.threshold, self.margin),
        ]

    def wire(self, desk: Desk, shot: gr.State, point: gr.State, live: list[Component]) -> None:
        """Connect the events. The tab follows the first one's answer from when it was first opened."""
        handlers = Handlers(self, desk, point)
        asked = [shot, point, self.deepest, self.opened, self.best, *self.settings, *live]
        viewed = [self.viewer, self.opened]
        shown = [*viewed, self.drawing, self.levels, self.record, self.note, self.depth, self.deepest]
        named = [*viewed, self.best, self.nouns, self.top, self.stop_top]
        about_words = [shot, self.word, self.choices, *live]

        opened = self.tab.select(sentences(handlers.open), asked, shown, **LIVE)
        followed = shot.change(sentences(handlers.follow), asked, [*shown, self.best, self.nouns], **LIVE)
        for answered in (opened, followed):
            answered.then(quietly(handlers.name), asked, named, **LIVE)
            answered.then(quietly(handlers.offer), [self.opened, *about_words], [self.word, self.sense], **LIVE)

        inputs = [self.word, self.sense, self.preset, self.text, self.noun]
        choosing = self.source.input(_visible, self.source, inputs, **LIVE)
        starting = self.preset.input(tree_preset, self.preset, self.text, **LIVE)
        self.word.input(sentences(handlers.explain), about_words, self.sense, **LIVE)
        meaning = self.sense.input(_choose, [self.choices, self.word, self.sense], self.choices, **LIVE)
        for event in (choosing, starting, meaning):
            event.then(sentences(handlers.climb), asked, shown, **LIVE)
        finished = [self.text.submit, self.text.blur, self.noun.submit, self.noun.blur]
        gr.on([*finished, self.mode.input, self.inner.input], sentences(handlers.climb), asked, shown, **LIVE)
        gr.on([self.threshold.input, self.margin.input], quietly(handlers.climb), asked, shown, **LIVE)
        self.depth.input(quietly(handlers.recolor), asked, viewed, **LIVE)
        self.deepest.change(None, self.deepest, self.depth, js=_SET_END, api_visibility="private")
        self.viewer.point(sentences(handlers.touch), asked, [point, *shown], **POINT)

        encoding = self.encode.click(sentences(handlers.encode), asked, self.note, **BACKGROUND)
        encoding.then(sentences(handlers.climb), asked, shown, **LIVE)
        self.stop.click(lambda: html.lead(_STOPPED), None, self.note, cancels=encoding, **OURS)
        asking = self.top.click(sentences(handlers.encode_nouns), asked, self.nouns, **BACKGROUND)
        asking.then(sentences(handlers.name), asked, named, **LIVE)
        self.stop_top.click(lambda: html.lead(_STOPPED), None, self.nouns, cancels=asking, **OURS)

        self.make_files.click(sentences(handlers.make_files), asked, self.files, **FILES)
        # Files of an earlier path must not pass for this one's.
        gone = [self.record.change, self.levels.change]
        gr.on(gone, lambda: gr.update(value=None, visible=False), None, self.files, **OURS)


@dataclass(frozen=True)
class Question:
    """What an event asks.

    Attributes:
        number: the later the question, the greater.
        shot, point, settings, live: values of the page's components.
        deepest, opened, best: what the page was sent before, see :class:`HierarchyTab`.
    """

    number: int
    shot: Shot | None
    point: Point | None
    deepest: int
    opened: bool
    best: Nouns | None
    settings: TreeSettings
    live: tuple[Any, ...]


class Turns:
    """Numbers the questions of all pages, so that an earlier one's answer does not replace a later one's.

    Events of a page run side by side and may be answered in any order. Some fill a part of the tab only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._filled: OrderedDict[tuple[str | None, str], int] = OrderedDict()

    def ask(self) -> int:
        """A number for a new question."""
        return next(self._numbers)

    def may_fill(self, session: str | None, part: str, number: int) -> bool:
        """Whether no later question has filled that part of the page; if so, this one counts as having done it."""
        with self._lock:
            if number < self._filled.get((session, part), 0):
                return False
            self._filled[session, part] = number
            self._filled.move_to_end((session, part))
            while len(self._filled) > _TURNS:
                self._filled.popitem(last=False)
            return True


class Handlers:
    """What the events of the tab do, apart from a browser.

    Most take the same inputs: those of :class:`Question`, as :meth:`HierarchyTab.wire` lists them. Answers for a
    picture that the page no longer shows are dropped.
    """

    def __init__(self, tab: HierarchyTab, desk: Desk, point: gr.State) -> None:
        self._tab, self._desk, self._point, self._turns = tab, desk, point, Turns()

    def open(self, request: gr.Request, *inputs: Any) -> Update | Any:
        """Everything, when the tab is opened; what prevents it is said in the drawing's place."""
        return self._open(request, self._ask(inputs))

    def follow(self, request: gr.Request, *inputs: Any) -> Update | Any:
        """The same for a new picture, if the tab was ever opened; nouns of the earlier picture go."""
        tab, question = self._tab, self._ask(inputs)
        if not question.opened:
            return gr.skip()
        return self._open(request, replace(question, best=None), nouns={tab.best: None, tab.nouns: ""})

    def climb(self, request: gr.Request, *inputs: Any) -> Update | Any:
        """Everything that follows from the tree's settings."""
        return self._climb(request, self._ask(inputs))

    def touch(self, request: gr.Request, event: gr.EventData, *inputs: Any) -> Update | Any:
        """The path of the segment that was clicked."""
        question = replace(self._ask(inputs), point=event_point(event))
        return self._climb(request, question, point={self._point: question.point})

    def recolor(self, request: gr.Request, *inputs: Any) -> Update | Any:
        """The viewer at another depth; nothing else depends on it, and its slider is the visitor's alone."""
        question = self._ask(inputs)
        analysis, case = known(self._desk, question.shot, question.live)
        found = self._climbed(analysis, case, question)
        viewed = self._viewed(analysis, case, found, question, question.settings.depth)
        return self._fill(request, question, picture=viewed)

    def name(self, request: gr.Request, *inputs: Any) -> Update | Any:
        """ImageNet-21K's best nouns for every segment, where nothing has to be encoded for it."""
        tab, question = self._tab, self._ask(inputs)
        if not question.opened:
            return gr.skip()
        analysis, case = known(self._desk, question.shot, question.live)
        about = answer_key(question.shot, case)
        if question.best is not None and question.best.about == about:
            return gr.skip()
        if analysis.workbench.names_to_encode(load_preset(_NOUNS)):
            table: Update = {tab.best: None, tab.nouns: ""} if question.best is not None else {}
            return self._fill(request, question, nouns={**table, **self._buttons(shown=True)})
        found, segments = analysis.top_nouns(case), case.segmentation.segments
        question = replace(question, best=Nouns(about, details_of(segments, found)))
        climbed = self._climbed(analysis, case, question)
        return self._fill(
            request,
            question,
            picture=self._viewed(analysis, case, climbed, question, question.settings.depth),
            nouns={tab.best: question.best, tab.nouns: html.nouns(segments, found), **self._buttons(shown=False)},
        )

    def encode(self, request: gr.Request, *inputs: Any) -> Iterator[Any]:
        """The words of the tree, with progress."""
        question = self._ask(inputs)
        analysis, case = known(self._desk, question.shot, question.live)
        settings = question.settings
        words = analysis.tree_words(case, settings.source, settings.mode, mean_inner=settings.mean_inner)
        yield from self._encode(request, question, analysis, words, "Encoding the tree's words")

    def encode_nouns(self, request: gr.Request, *inputs: Any) -> Iterator[Any]:
        """The nouns of ImageNet-21K, with progress."""
        question = self._ask(inputs)
        analysis = self._desk.reopen(question.shot)
        yield from self._encode(request, question, analysis, load_preset(_NOUNS), "Encoding 21,841 nouns")

    def offer(
        self,
        request: gr.Request,
        opened: bool,
        shot: Shot | None,
        word: str | None,
        choices: dict[str, str],
        *live: Any,
    ) -> Update | Any:
        """The words that have several senses, and the senses of one of them."""
        if not opened:
            return gr.skip()
        _, case = known(self._desk, shot, live)
        classes = by_area(case)
        labels = ambiguous(classes[:_WORDS_OFFERED])
        word = word if word in labels else next(iter(labels), None)
        info = None
        if len(classes) > _WORDS_OFFERED:
            info = f"of {len(classes):,} words only {_WORDS_OFFERED} are listed here, the picture's own first"
        if not self._desk.visits.shows(request.session_hash, shot):
            return gr.skip()
        return {
            self._tab.word: gr.update(choices=list(labels), value=word, info=info),
            self._tab.sense: _senses(case.vocabulary, word, choices),
        }

    def explain(
        self,
        request: gr.Request,
        shot: Shot | None,
        word: str | None,
        choices: dict[str, str],
        *live: Any,
    ) -> Any:
        """The senses of a word."""
        _, case = known(self._desk, shot, live)
        shown = self._desk.visits.shows(request.session_hash, shot)
        return _senses(case.vocabulary, word, choices) if shown else gr.skip()

    def make_files(self, request: gr.Request, *inputs: Any) -> Any:
        """The path that is shown, and the paths of all segments, to keep."""
        question = self._ask(inputs)
        analysis, case = known(self._desk, question.shot, question.live)
        found = self._climbed(analysis, case, question)
        files = saved(tree_files(analysis.picture.name, case, found, question.settings.stopping))
        shown = self._desk.visits.shows(request.session_hash, question.shot)
        return gr.update(value=files, visible=True) if shown else gr.skip()

    def _ask(self, inputs: Sequence[Any]) -> Question:
        shot, point, deepest, opened, best, *values = inputs
        settings, live = settings_of(values[:_SETTINGS]), tuple(values[_SETTINGS:])
        return Question(self._turns.ask(), shot, point, int(deepest), bool(opened), best, settings, live)

    def _open(self, request: gr.Request, question: Question, **more: Update) -> Update | Any:
        try:
            return self._climb(request, question, **more)
        except UserError as error:
            path = {self._tab.drawing: html.lead(str(error)), self._tab.opened: True}
            return self._fill(request, question, path=path, **more)

    def _climbed(self, analysis: Analysis, case: Case, question: Question) -> Climbed:
        settings = question.settings
        words = analysis.tree_words(case, settings.source, settings.mode, mean_inner=settings.mean_inner)
        self._desk.check_quick(analysis, words, "press the button that encodes them")
        scores = analysis.tree_scores(case, settings.source, settings.mode, mean_inner=settings.mean_inner)
        return Climbed(scores, trace(scores), row_of(case, question.point))

    def _climb(self, request: gr.Request, question: Question, **more: Update) -> Update | Any:
        tab, stopping = self._tab, question.settings.stopping
        analysis, case = known(self._desk, question.shot, question.live)
        found = self._climbed(analysis, case, question)
        depth = kept_depth(question.settings.depth, question.deepest, found.deepest)
        path: Update = {
            tab.drawing: drawing_html(found, stopping),
            tab.levels: level_rows(case, found.paths, stopping),
            tab.record: None if found.row is None else path_record(found.paths[found.row], stopping),
            tab.note: tree_note(found.scores.tree),
            tab.deepest: found.deepest,
        }
        if depth != question.settings.depth:
            path[tab.depth] = depth
        picture = self._viewed(analysis, case, found, question, depth)
        return self._fill(request, question, picture=picture, path=path, **more)

    def _viewed(self, analysis: Analysis, case: Case, found: Climbed, question: Question, depth: int) -> Update:
        """The viewer at a depth."""
        assert question.shot is not None
        value = shown_value(case, found, depth, question.settings.stopping)
        value["chosen"] = chosen_id(case, question.point)
        if question.best is not None and question.best.about == answer_key(question.shot, case):
            value["details"] = question.best.details
        value["picture"] = photograph_address(analysis.picture)
        return {self._tab.viewer: gr.update(value=value), self._tab.opened: True}

    def _fill(self, request: gr.Request, question: Question, **parts: Update) -> Update | Any:
        """The parts of an answer that the page still wants."""
        session = request.session_hash
        if not self._desk.visits.shows(session, question.shot):
            return gr.skip()
        wanted = [update for part, update in parts.items() if self._turns.may_fill(session, part, question.number)]
        return {component: value for update in wanted for component, value in update.items()} or gr.skip()

    def _encode(
        self, request: gr.Request, question: Question, analysis: Analysis, words: Vocabulary, text: str
    ) -> Iterator[Any]:
        work = jobs.counted(lambda progress: analysis.workbench.embed(words, progress), text)
        for line in html.steps(work, lambda _: html.lead("All words are encoded.")):
            yield line if self._desk.visits.shows(request.session_hash, question.shot) else gr.skip()

    def _buttons(self, *, shown: bool) -> Update:
        """Kept on the page while hidden: components that come and go make Gradio lose what they are sent meanwhile."""
        return {button: gr.update(visible=shown or "hidden") for button in (self._tab.top, self._tab.stop_top)}


def _visible(source: str) -> tuple[Any, ...]:
    kind = SOURCES[source]
    kinds = ("words", "words", "text", "text", "nouns under")
    return tuple(gr.update(visible=kind == one) for one in kinds)


def _choose(choices: dict[str, str], word: str | None, sense: str | None) -> dict[str, str]:
    return {**choices, word: sense} if word and sense else choices


def _senses(vocabulary: Vocabulary, word: str | None, choices: dict[str, str]) -> Any:
    listed, usual = sense_choices(vocabulary, word or "")
    return gr.update(choices=listed, value=choices.get(word or "", usual))
