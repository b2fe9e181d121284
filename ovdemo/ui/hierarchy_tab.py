"""The third tab: segments in a category tree, from coarse to fine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from ovdemo.display import Shown, picture_address, renamed, show
from ovdemo.hierarchy import (
    TREE_PRESETS,
    CategoryTree,
    ShownNode,
    Stopping,
    TreeMode,
    TreePath,
    TreeScores,
    TreeSource,
    depth_view,
    draw_path,
    path_record,
    senses_of,
    trace,
    tree_of,
    tree_preset,
    usual_sense,
)
from ovdemo.inspection import Case
from ovdemo.ui import html, jobs
from ovdemo.ui.answers import Point, chosen_id
from ovdemo.ui.controls import known
from ovdemo.ui.desk import Desk, Shot, quietly, sentences
from ovdemo.ui.events import BACKGROUND, OURS
from ovdemo.ui.events import LIVE as EVENT
from ovdemo.ui.widgets import event_data, page_text, segment_viewer
from ovdemo.vocabulary import Vocabulary
from ovdemo.vocabulary.wordnet import load_wordnet
from ovdemo.workbench import Analysis

LEVEL_HEADERS = ("segment", "path", "sure of", "p")

_SOURCES = {
    "my words": "words",
    "a tree as text": "text",
    "ImageNet-21K": "imagenet-21k",
    "all nouns under": "nouns under",
}
_FIRST_PRESET = "nature"


@dataclass(frozen=True)
class HierarchyTab:
    """The components of the tab."""

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
    encode: gr.Button
    stop: gr.Button
    top: gr.Button
    nouns: gr.HTML

    @classmethod
    def build(cls, tab: gr.Tab) -> HierarchyTab:
        """Lay the tab out here."""
        gr.HTML(page_text("hierarchy"))
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                source = gr.Radio(list(_SOURCES), value="my words", label="Tree", elem_id="tree-source")
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
                )
                inner = gr.Checkbox(label="Greedy: inner nodes are the mean of their children", value=True)
                depth = gr.Slider(0, 8, 8, step=1, label="Depth", elem_id="tree-depth")
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
                    top = gr.Button("Ask all of ImageNet-21K", elem_id="tree-top")
                    nouns = gr.HTML(elem_id="tree-nouns")
                with gr.Accordion("The path as JSON", open=False):
                    record = gr.JSON(elem_id="tree-json")
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
            encode=encode,
            stop=stop,
            top=top,
            nouns=nouns,
        )

    @property
    def settings(self) -> list[Component]:
        """What an answer depends on, in the order of :func:`settings_of`."""
        return [
            *(self.source, self.text, self.noun, self.choices, self.mode, self.inner),
            *(self.depth, self.threshold, self.margin),
        ]

    def wire(self, desk: Desk, shot: gr.State, point: gr.State, live: list[Component]) -> None:
        """Connect the events. The tab follows the first one's answer whenever it is opened."""
        asked = [shot, point, *self.settings, *live]
        count = len(self.settings)
        shown = [self.viewer, self.drawing, self.levels, self.record, self.depth, self.note]

        def climb(shot: Shot | None, point: Point | None, *values: Any) -> dict[Component, Any]:
            analysis, case = known(desk, shot, values[count:])
            settings = settings_of(values[:count])
            words = analysis.tree_words(case, settings.source, settings.mode)
            desk.check_quick(analysis, words, "press the button that encodes them")
            found = climbed(analysis, case, settings, point)
            depth = gr.update(maximum=found["depth"], value=min(settings.depth, found["depth"]))
            # The photograph is sent along: this viewer is not there until the tab is first opened.
            viewer = gr.update(**found["viewer"], picture=picture_address(analysis.picture.pixels))
            return {
                self.viewer: viewer,
                self.drawing: found["drawing"],
                self.levels: found["levels"],
                self.record: found["record"],
                self.depth: depth,
                self.note: found["note"],
            }

        def touch(event: gr.EventData, shot: Shot | None, *values: Any) -> dict[Component, Any]:
            data = event_data(event)
            place = int(data["x"]), int(data["y"])
            return {point: place, **climb(shot, place, *values)}

        def offer(shot: Shot | None, *values: Any) -> Any:
            _, case = known(desk, shot, values)
            labels = ambiguous(case.vocabulary)
            return gr.update(choices=labels, value=labels[0] if labels else None)

        def explain(shot: Shot | None, label: str | None, choices: dict[str, str], *values: Any) -> Any:
            _, case = known(desk, shot, values)
            senses, usual = sense_choices(case.vocabulary, label or "")
            return gr.update(choices=senses, value=choices.get(label or "", usual))

        opened = self.tab.select(sentences(climb), asked, shown, **EVENT)
        opened.then(quietly(offer), [shot, *live], self.word, **EVENT).then(
            quietly(explain), [shot, self.word, self.choices, *live], self.sense, **EVENT
        )
        self.source.input(_visible, self.source, [self.word, self.sense, self.preset, self.text, self.noun], **EVENT)
        self.preset.input(tree_preset, self.preset, self.text, **EVENT).then(sentences(climb), asked, shown, **EVENT)
        self.word.input(sentences(explain), [shot, self.word, self.choices, *live], self.sense, **EVENT)
        self.sense.input(_choose, [self.choices, self.word, self.sense], self.choices, **EVENT).then(
            sentences(climb), asked, shown, **EVENT
        )
        settled = [self.source.input, self.text.blur, self.noun.submit, self.mode.input, self.inner.input]
        gr.on(settled, sentences(climb), asked, shown, **EVENT)
        gr.on([self.depth.input, self.threshold.input, self.margin.input], quietly(climb), asked, shown, **EVENT)
        self.viewer.point(sentences(touch), [shot, *self.settings, *live], [point, *shown], **EVENT)

        def encode(shot: Shot | None, point: Point | None, *values: Any) -> Iterator[str]:
            analysis, case = known(desk, shot, values[count:])
            settings = settings_of(values[:count])
            words = analysis.tree_words(case, settings.source, settings.mode)
            work = jobs.counted(lambda progress: analysis.workbench.embed(words, progress), "Encoding the tree's words")
            yield from html.steps(work, lambda _: tree_note(tree_of(settings.source, case.vocabulary)))

        encoding = self.encode.click(sentences(encode), asked, self.note, **BACKGROUND)
        encoding.then(sentences(climb), asked, shown, **EVENT)

        def ask_all(shot: Shot | None, *values: Any) -> Iterator[str]:
            analysis, case = known(desk, shot, values)
            work = jobs.counted(lambda progress: analysis.top_nouns(case, progress), "Encoding 21,841 nouns")
            yield from html.steps(work, lambda found: html.nouns(case.segmentation.segments, found))

        asking = self.top.click(sentences(ask_all), [shot, *live], self.nouns, **BACKGROUND)
        self.stop.click(None, cancels=[encoding, asking], **OURS)


def _visible(source: str) -> tuple[Any, ...]:
    kind = _SOURCES[source]
    kinds = ("words", "words", "text", "text", "nouns under")
    return tuple(gr.update(visible=kind == one) for one in kinds)


def _choose(choices: dict[str, str], word: str | None, sense: str | None) -> dict[str, str]:
    return {**choices, word: sense} if word and sense else choices


@dataclass(frozen=True)
class TreeSettings:
    """The values of :attr:`HierarchyTab.settings`."""

    source: TreeSource
    mode: TreeMode
    mean_inner: bool
    depth: int
    stopping: Stopping


def settings_of(values: Sequence[Any]) -> TreeSettings:
    """From the values of the components."""
    source, text, noun, choices, mode, inner, depth, threshold, margin = values
    kind: Any = _SOURCES.get(source, "words")
    content = {"text": text, "nouns under": noun}.get(kind) or ""
    chosen = tuple(sorted((choices or {}).items())) if kind == "words" else ()
    return TreeSettings(
        TreeSource(kind, content, chosen), mode, bool(inner), int(depth), Stopping(float(threshold), float(margin))
    )


def climbed(analysis: Analysis, case: Case, settings: TreeSettings, point: Point | None) -> dict[str, Any]:
    """What the tab shows, by the names of its components."""
    scores = analysis.tree_scores(case, settings.source, settings.mode, mean_inner=settings.mean_inner)
    paths = trace(scores)
    nodes = depth_view(paths, settings.depth, settings.stopping)
    deepest = max((len(path.steps) - 1 for path in paths), default=1)
    row = _row(case, point)
    return {
        "viewer": {"value": _shown(case, nodes, point).to_json() | {"chosen": chosen_id(case, point)}},
        "drawing": _drawing(scores, paths, row, settings.stopping),
        "levels": level_rows(case, paths, settings.stopping),
        "record": None if row is None else path_record(paths[row], settings.stopping),
        "depth": max(deepest, 1),
        "note": tree_note(scores.tree),
    }


def level_rows(case: Case, paths: Sequence[TreePath], stopping: Stopping) -> list[list[Any]]:
    """A row for each segment: what it is called at every level, and how far that is sure."""
    rows = []
    for segment, path in zip(case.segmentation.segments, paths, strict=True):
        names = [path.tree.nodes[step.node].label for step in path.steps]
        sure = path.sure(stopping)
        line = " > ".join(f"{name} {step.probability:.2f}" for name, step in zip(names, path.steps, strict=True))
        rows.append([f"{segment.id} {segment.label}", line, names[sure], round(path.steps[sure].probability, 3)])
    return rows


def ambiguous(vocabulary: Vocabulary) -> list[str]:
    """Labels of the classes that have several senses."""
    wordnet = load_wordnet()
    return [entry.label for entry in vocabulary.classes if len(senses_of(wordnet, entry)) > 1]


def sense_choices(vocabulary: Vocabulary, label: str) -> tuple[list[tuple[str, str]], str | None]:
    """(Words and gloss, name) of each sense of a class, the most frequent first; and the usual one."""
    wordnet = load_wordnet()
    entry = next((entry for entry in vocabulary.classes if entry.label == label), None)
    if entry is None:
        return [], None
    senses = senses_of(wordnet, entry)
    usual = usual_sense(senses)
    return [(f"{', '.join(s.words[:3])}: {s.gloss[:80]}", s.name) for s in senses], usual.name if usual else None


def tree_note(tree: CategoryTree) -> str:
    """How large the tree is, and what could not be placed in it."""
    notes = "; ".join(tree.notes[:5])
    size = f"{len(tree):,} nodes, {len(tree.vocabulary):,} classes, {tree.depth} levels."
    return f'<p class="ov-small">{size} {escape(notes)}</p>'


def _shown(case: Case, nodes: Sequence[ShownNode], point: Point | None) -> Shown:
    segments = case.segmentation.segments
    names = {s.id: (node.label, node.probability, node.color) for s, node in zip(segments, nodes, strict=True)}
    return renamed(show(case.segmentation), names)


def _row(case: Case, point: Point | None) -> int | None:
    """Place of the clicked segment, or of the largest one."""
    segments = case.segmentation.segments
    number = chosen_id(case, point)
    if not number:
        return max(range(len(segments)), key=lambda i: segments[i].area, default=None)
    return next(i for i, segment in enumerate(segments) if segment.id == number)


def _drawing(scores: TreeScores, paths: Sequence[TreePath], row: int | None, stopping: Stopping) -> str:
    if row is None:
        return '<p class="ov-lead">There is no segment to place in the tree; find one in the Segment tab first.</p>'
    return f'<div class="ov-tree">{draw_path(scores, row, paths[row], stopping)}</div>'
