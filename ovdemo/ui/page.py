"""The page: header, tabs, and which event asks for what. What a visitor chose is kept in the page alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.events import Dependency

from ovdemo.default_model import DEFAULT_MODEL, chosen_model
from ovdemo.display import hex_color, show
from ovdemo.errors import UserError
from ovdemo.examples import EXAMPLES, find_example
from ovdemo.export import download_files
from ovdemo.inspection import Case
from ovdemo.recipes import MAX_BYTES, ExamplePicture, OwnPicture, Recipe
from ovdemo.rendering import palette
from ovdemo.stopwatch import Stopwatch
from ovdemo.systems.registry import find_variant
from ovdemo.ui import html, jobs
from ovdemo.ui.answers import (
    LAYERS,
    Point,
    chosen_id,
    class_rows,
    inspector_html,
    layer_address,
    maths_html,
    overlay_of,
    table_rows,
    viewer_value,
)
from ovdemo.ui.controls import Controls, known, recipe_of, sides
from ovdemo.ui.desk import Desk, quietly, sentences
from ovdemo.ui.ensemble_tab import EnsembleTab
from ovdemo.ui.events import BACKGROUND, FILES, HEAVY, LIVE, OURS, POINT
from ovdemo.ui.features_tab import FeaturesTab
from ovdemo.ui.files import saved
from ovdemo.ui.header import Header
from ovdemo.ui.hierarchy_tab import HierarchyTab
from ovdemo.ui.segment_tab import SegmentTab
from ovdemo.ui.visits import Shot
from ovdemo.ui.widgets import event_data, event_point
from ovdemo.vocabulary import Kind, TextEmbeddings, Vocabulary
from ovdemo.vocabulary.linting import Hint, lint, take_hint
from ovdemo.vocabulary.parsing import add_classes, parse_classes, set_kind
from ovdemo.vocabulary.spelling import is_known
from ovdemo.workbench import Analysis, Workbench

Update = dict[Block, Any]

_ENCODED_FOR_HINTS = 12  # names: a tenth of a second with the embedded model
_THINGS_SHOWN = 60  # classes with a switch of their own; presets have thousands

# The address follows the answer, so that it can be copied or reloaded; the text box shows it in full.
_SHOW_LINK = """(code) => {
  if (!code) return "";
  const address = new URL(window.location);
  address.searchParams.set("recipe", code);
  try {
    window.history.replaceState(null, "", address);
  } catch {
    // Some browsers refuse the hundredth change within half a minute; the next one comes soon enough.
  }
  return address.toString();
}"""

# The frame around the current point follows the sliders in a grid that is not drawn anew.
_MOVE_FRAME = """(alpha, beta) => {
  const cells = [...document.querySelectorAll("#grid [data-alpha]")];
  const far = (cell) => Math.abs(cell.dataset.alpha - alpha) + Math.abs(cell.dataset.beta - beta);
  const least = Math.min(...cells.map(far));
  let free = {};
  for (const cell of cells) {
    const table = cell.closest("table"), here = far(cell) === least && free !== table;
    cell.classList.toggle("ov-here", here);
    if (here) free = table;
  }
}"""


class Page:
    """All components, and the handlers of their events."""

    def __init__(self, desk: Desk) -> None:
        """Lay the page out in the current ``gr.Blocks`` and connect its events."""
        self._desk = desk
        self._header = Header.build(desk)
        self._shot = gr.State(None)
        self._point = gr.State(None)
        self._kept = gr.State(None)
        self._look = gr.State(None)
        self._expected = gr.State(None)
        self._code = gr.Textbox(visible="hidden", elem_id="recipe")
        with gr.Tabs():
            with gr.Tab("Segment", id="segment"):
                self._tab = SegmentTab.build()
            with gr.Tab("Ensemble", id="ensemble"):
                self._ensemble = EnsembleTab.build(find_variant(chosen_model(DEFAULT_MODEL)).config.fusion)
            with gr.Tab("Hierarchy", id="hierarchy", render_children=True) as tab:
                self._hierarchy = HierarchyTab.build(tab)
            with gr.Tab("Features", id="features", render_children=True) as tab:
                self._features = FeaturesTab.build(tab)
        self._controls = Controls(
            self._header.model, self._tab.words, self._tab.inference, self._ensemble.controls, self._look
        )
        self._wire_pictures(self._header.wire(desk))
        self._wire_words()
        self._wire_answers()
        self._wire_ensemble()
        self._hierarchy.wire(desk, self._shot, self._point, self._controls.live)
        self._features.wire(desk, self._shot, self._controls.live)

    # What answers consist of

    @property
    def _shown(self) -> list[Component]:
        tab, ensemble = self._tab, self._ensemble
        of_segment = [tab.viewer, tab.timing, tab.inspector, tab.table, self._code]
        return [*of_segment, ensemble.viewer, ensemble.maths, ensemble.classes, ensemble.papers, ensemble.compare]

    def _show(
        self,
        shot: Shot,
        analysis: Analysis,
        values: Sequence[Any],
        watch: Stopwatch,
        *,
        layer: str = LAYERS[0],
        point: Point | None = None,
        kept: Recipe | None = None,
        fresh: bool = False,
    ) -> Update:
        """Everything that follows from the words and settings; the photograph itself only where it is fresh."""
        tab, ensemble = self._tab, self._ensemble
        recipe = recipe_of(shot, values)
        case = self._desk.answer(analysis, recipe, watch)
        with watch.step("draw"):
            shown = show(case.segmentation)
            value = viewer_value(analysis, case, shown, point)
        return {
            tab.viewer: gr.update(value=value, layer=layer_address(analysis, case, layer)),
            tab.timing: html.timing_strip(watch.steps),
            tab.inspector: inspector_html(analysis, case, point),
            tab.table: table_rows(case),
            self._code: recipe.to_link(),
            ensemble.viewer: gr.update(value=value),
            ensemble.maths: maths_html(case, point, shown),
            ensemble.classes: class_rows(case, self._default(analysis, recipe)),
            ensemble.papers: html.published(recipe.alpha, recipe.beta),
            ensemble.compare: self._compare(analysis, case, recipe, kept, fresh=fresh),
        }

    def _default(self, analysis: Analysis, recipe: Recipe) -> Case:
        return analysis.answer(recipe.vocabulary, merging=recipe.merging)

    def _compare(self, analysis: Analysis, case: Case, recipe: Recipe, kept: Recipe | None, *, fresh: bool) -> Any:
        if fresh:
            return None
        if kept is None:
            return gr.skip()
        before = self._desk.answer(analysis, kept)
        return overlay_of(analysis, before, kept), overlay_of(analysis, case, recipe)

    # Pictures

    def _wire_pictures(self, models: Sequence[Dependency]) -> None:
        tab, live = self._tab, self._controls.live
        inputs = [self._expected, tab.image, self._header.model, tab.inference.short_side, tab.layer, *live]
        outputs = [self._expected, self._shot, self._point, self._kept, *self._shown]
        chosen = tab.gallery.select(sentences(self._choose_example), None, [tab.image, tab.words.text], **POINT)
        demo = gr.context.Context.root_block
        assert demo is not None
        opened = demo.load(sentences(self._open), None, self._restored, **OURS)
        uploaded = tab.recipe.upload(sentences(self._open_file), tab.recipe, self._restored, **OURS)
        asked = [self._expected, self._shot, self._header.model]
        models = [
            event.success(sentences(self._suit_model), asked, self._ensemble.controls.parts, **OURS) for event in models
        ]
        segmenting = [
            tab.segment.click(sentences(self._segment), inputs, outputs, **HEAVY),
            *(
                event.success(sentences(self._segment_if_any), inputs, outputs, **HEAVY)
                for event in (chosen, opened, uploaded, *models)
            ),
        ]
        for segmented in segmenting:
            caught_up = segmented.success(
                quietly(self._catch_up), [self._code, *self._live_inputs], self._shown, **LIVE
            )
            caught_up.then(sentences(self._lint), self._lint_inputs, self._lint_outputs, **LIVE)
        tab.stop.click(lambda: html.lead("Stopped."), None, tab.timing, cancels=segmenting, **OURS)
        tab.image.upload(lambda: html.lead("A new picture: press Segment."), None, tab.timing, **OURS)
        demo.unload(self._close)
        self._code.change(None, self._code, tab.link, js=_SHOW_LINK, api_visibility="private")
        # What was made of an earlier picture or of earlier settings must not pass for this one's.
        self._shot.change(lambda: ("", ""), None, [tab.suggestions, self._ensemble.grid], **OURS)
        self._code.change(lambda: gr.update(value=None, visible=False), None, tab.files, **OURS)

    def _segment(  # noqa: PLR0917 - Gradio hands inputs over by position
        self,
        request: gr.Request,
        expected: Recipe | None,
        path: str | None,
        model: str,
        side: int,
        layer: str,
        *values: Any,
    ) -> Iterator[Update]:
        if not path:
            raise UserError("Choose a picture first: drop one, paste one, or click an example.")
        watch = Stopwatch()

        def work(report: jobs.Report) -> tuple[Shot, Analysis]:
            report("Loading the model", 0, None)
            shot, analysis = self._desk.open(path, model, side or None, watch)
            words = recipe_of(shot, values).vocabulary
            analysis.workbench.embed(words, lambda done, total: report("Encoding words", done, total), watch)
            return shot, analysis

        for news in jobs.run(work):
            if isinstance(news, jobs.Done):
                shot, analysis = news.result
                self._desk.remember(request.session_hash, shot)
                for sentence in differences(expected, shot):
                    gr.Warning(sentence)
                update = self._show(shot, analysis, values, watch, layer=layer, fresh=True)
                yield {self._expected: None, self._shot: shot, self._point: None, self._kept: None, **update}
            else:
                yield {self._tab.timing: gr.skip() if news is None else html.progress(news)}

    def _segment_if_any(
        self, request: gr.Request, expected: Recipe | None, path: str | None, model: str, *rest: Any
    ) -> Iterator[Update]:
        if path and self._desk.models.state(model).ready:
            yield from self._segment(request, expected, path, model, *rest)
        else:
            yield {self._tab.timing: gr.skip()}  # without any answer Gradio would empty all outputs

    def _choose_example(self, event: gr.SelectData) -> Update:
        available = [example for example in EXAMPLES if example.path()]
        example = available[event.index]
        return {self._tab.image: str(example.path()), self._tab.words.text: example.words}

    @property
    def _restored(self) -> list[Block]:
        """What a recipe determines."""
        tab, header = self._tab, self._header
        viewers = [tab.viewer, self._ensemble.viewer]
        return [
            *(self._expected, tab.image, tab.timing, *self._controls.live, tab.inference.short_side),
            *(header.model, *header.shown, *viewers),
        ]

    def _open(self, request: gr.Request) -> Update:
        """What the address asks for, or the worked example."""
        link = dict(request.query_params).get("recipe")
        if link:
            try:
                return self._restore(Recipe.from_link(link))
            except UserError as error:
                gr.Warning(escape(str(error), quote=False))
        example = EXAMPLES[0]
        path = example.path()
        return {self._tab.image: path and str(path), self._tab.words.text: example.words}

    def _open_file(self, path: str) -> Update:
        """A recipe that was saved with the other files of a result."""
        with Path(path).open("rb") as file:
            return self._restore(Recipe.from_json(file.read(MAX_BYTES + 1)))

    def _restore(self, recipe: Recipe) -> Update:
        """All settings as a recipe has them, and its picture where that comes with the project.

        Raises:
            UserError: there is no such model or example.
        """
        find_variant(recipe.model)
        tab = self._tab
        picture, note = None, ""
        if isinstance(recipe.picture, ExamplePicture):
            path = find_example(recipe.picture.example).path()
            picture = path and str(path)
        else:
            note = html.lead(f"These settings belong to your picture {recipe.picture.name}: add it and press Segment.")
        values = [
            *(recipe.words, list(recipe.presets), recipe.mode, recipe.object_threshold, recipe.overlap_threshold),
            *(recipe.fusion_kind, recipe.alpha, recipe.beta, recipe.rescue, recipe.drawing),
        ]
        look = gr.update(look=recipe.drawing)
        return {
            self._expected: recipe,
            tab.image: picture,
            tab.timing: note,
            tab.inference.short_side: gr.update(choices=sides(recipe.short_side), value=recipe.short_side or 0),
            self._header.model: recipe.model,
            **self._header.choose(self._desk, recipe.model),
            **dict(zip(self._controls.live, values, strict=True)),
            tab.viewer: look,
            self._ensemble.viewer: look,
        }

    def _close(self, request: gr.Request) -> None:
        self._desk.close(request.session_hash)

    # Words

    @property
    def _lint_inputs(self) -> list[Component]:
        return [self._header.model, self._tab.words.text, self._tab.words.presets]

    @property
    def _lint_outputs(self) -> list[Component]:
        return [self._tab.hints, self._tab.things]

    def _wire_words(self) -> None:
        tab, words = self._tab, self._tab.words
        # Whatever changes the words: keys, paste, an example, a button.
        edited = [words.text.change, words.presets.change]
        gr.on(edited, sentences(self._lint), self._lint_inputs, self._lint_outputs, **LIVE)
        gr.on(edited, lambda: "", None, self._ensemble.grid, **OURS)
        fixed = tab.hints.act(sentences(self._fix), words.text, words.text, **POINT)
        switched = tab.things.input(
            sentences(self._switch), [words.text, words.presets, tab.things], words.text, **LIVE
        )
        added = tab.suggestions.act(sentences(self._add), words.text, words.text, **POINT)
        for changed in (fixed, switched, added):
            changed.success(sentences(self._settle), self._live_inputs, self._shown, **LIVE)

    def _lint(self, model: str, text: str, presets: list[str]) -> Update:
        workbench = self._desk.models.loaded(model)
        found = lint(
            text or "",
            presets or (),
            training_names=workbench.system.training_names if workbench else None,
            embed=partial(_embedded, workbench) if workbench else None,
        )
        rows, hints = found.rows[:_THINGS_SHOWN], list(found.hints)
        if len(found.rows) > len(rows):
            more = f"Only the first {len(rows)} of {len(found.rows):,} classes have a switch of their own below."
            hints.append(Hint("note", more))
        things = gr.update(
            choices=[row.label for row in rows], value=[row.label for row in rows if row.kind == "thing"]
        )
        return {self._tab.hints: html.hints(hints), self._tab.things: things}

    def _fix(self, event: gr.EventData, text: str) -> str:
        data = event_data(event)
        words = (str(data.get("word")),) if data.get("word") else ()
        return take_hint(text, Hint("note", "", words, str(data.get("replacement", ""))))

    def _add(self, event: gr.EventData, text: str) -> str:
        return add_classes(text or "", str(event_data(event).get("word", "")))

    def _switch(self, text: str, presets: list[str], things: list[str]) -> str:
        rows = lint(text or "", presets or ()).rows[:_THINGS_SHOWN]
        for row in rows:
            wanted: Kind = "thing" if row.label in things else "stuff"
            if row.kind != wanted:
                text = set_kind(text, row.label, wanted)
        return text

    # Answers from cached proposals

    @property
    def _live_inputs(self) -> list[Component]:
        return [self._shot, self._point, self._kept, self._tab.layer, *self._controls.live]

    def _wire_answers(self) -> None:
        tab, live = self._tab, self._controls.live
        words, inference, ensemble = self._controls.words, self._controls.inference, self._controls.ensemble
        words.text.input(quietly(self._follow_typing), self._live_inputs, self._shown, **LIVE)
        settled = [
            words.text.submit,
            words.text.blur,
            words.presets.input,
            inference.mode.input,
            inference.object_threshold.input,
            inference.overlap_threshold.input,
            ensemble.kind.input,
            ensemble.alpha.input,
            ensemble.beta.input,
            ensemble.rescue.input,
            tab.layer.input,
        ]
        gr.on(settled, sentences(self._settle), self._live_inputs, self._shown, **LIVE)
        asked = [self._shot, *live]
        shown = [self._point, tab.inspector, self._ensemble.maths]
        for viewer in (tab.viewer, self._ensemble.viewer):
            viewer.point(sentences(self._inspect), asked, shown, **POINT)
            viewer.restyle(sentences(self._restyle), asked, [self._look, self._code], **POINT)
        suggesting = tab.suggest.click(sentences(self._suggest), asked, tab.suggestions, **BACKGROUND)
        tab.stop.click(None, cancels=[suggesting], **OURS)
        tab.make_files.click(sentences(self._make_files), asked, tab.files, **FILES)

    def _follow(
        self,
        request: gr.Request,
        shot: Shot | None,
        point: Point | None,
        kept: Recipe | None,
        layer: str,
        *values: Any,
    ) -> Update | Any:
        if shot is None:
            return gr.skip()
        session = request.session_hash
        question = self._desk.visits.ask(session)
        watch = Stopwatch()
        analysis = self._desk.reopen(shot, watch)
        self._desk.check_quick(analysis, recipe_of(shot, values).vocabulary, "press Segment")
        update = self._show(shot, analysis, values, watch, layer=layer, point=point, kept=kept)
        return update if self._desk.visits.may_answer(session, shot, question) else gr.skip()

    def _catch_up(  # noqa: PLR0917
        self,
        request: gr.Request,
        code: str,
        shot: Shot | None,
        point: Point | None,
        kept: Recipe | None,
        layer: str,
        *values: Any,
    ) -> Update | Any:
        """Words and sliders that moved while the network was at work were not in its answer."""
        if shot is None or recipe_of(shot, values).to_link() == code:
            return gr.skip()
        return self._follow(request, shot, point, kept, layer, *values)

    def _settle(self, request: gr.Request, *inputs: Any) -> Update | Any:
        """:meth:`_follow` for whoever has finished an input: what is wrong with it is said in a quiet place."""
        try:
            return self._follow(request, *inputs)
        except UserError as error:
            return {self._tab.timing: html.lead(str(error))}

    def _follow_typing(
        self,
        request: gr.Request,
        shot: Shot | None,
        point: Point | None,
        kept: Recipe | None,
        layer: str,
        *values: Any,
    ) -> Update | Any:
        """Half a word is no word: a name that nobody knows waits until Enter is pressed or the text box left."""
        vocabulary = parse_classes(values[0] or "")
        workbench = shot and self._desk.models.loaded(shot.model)
        known = workbench and workbench.names_to_encode(vocabulary) == 0
        if not known and not all(map(is_known, vocabulary.names)):
            return gr.skip()
        return self._follow(request, shot, point, kept, layer, *values)

    def _inspect(self, request: gr.Request, event: gr.EventData, shot: Shot | None, *values: Any) -> Update | Any:
        analysis, case = known(self._desk, shot, values)
        if not self._desk.visits.shows(request.session_hash, shot):
            return gr.skip()
        point = event_point(event)
        return {
            self._point: point,
            self._tab.inspector: inspector_html(analysis, case, point),
            self._ensemble.maths: maths_html(case, point),
        }

    def _restyle(self, event: gr.EventData, shot: Shot | None, *values: Any) -> Update:
        """How files are drawn follows the viewer."""
        data = event_data(event)
        look = {"opacity": float(data["opacity"]), "outlines": bool(data["outlines"]), "labels": bool(data["labels"])}
        code = gr.skip() if shot is None else recipe_of(shot, (*values[:-1], look)).to_link()
        return {self._look: look, self._code: code}

    def _suggest(self, shot: Shot | None, *values: Any) -> Iterator[str]:
        analysis, case = known(self._desk, shot, values)
        work = jobs.counted(lambda progress: analysis.suggest(case, progress), "Encoding 21,841 nouns")
        yield from html.steps(work, html.suggestions)

    def _make_files(self, shot: Shot | None, *values: Any) -> Any:
        analysis, case = known(self._desk, shot, values)
        assert shot is not None
        files = download_files(analysis.picture, case.segmentation, recipe_of(shot, values))
        return gr.update(value=saved(files), visible=True)

    # The ensemble

    def _wire_ensemble(self) -> None:
        tab, controls = self._ensemble, self._ensemble.controls
        sliders = [controls.alpha, controls.beta]
        for table in (tab.papers, tab.grid):
            table.act(sentences(self._go_to), None, sliders, **POINT).success(
                sentences(self._settle), self._live_inputs, self._shown, **LIVE
            )
        inference = self._controls.inference
        others = (controls.kind, controls.rescue, inference.object_threshold, inference.overlap_threshold)
        gr.on([setting.change for setting in others], lambda: "", None, tab.grid, **OURS)
        gr.on([slider.change for slider in sliders], None, sliders, None, js=_MOVE_FRAME, api_visibility="private")
        tab.reset.click(
            sentences(self._own_fusion), [self._shot, self._header.model], self._ensemble.controls.parts, **LIVE
        ).success(sentences(self._settle), self._live_inputs, self._shown, **LIVE)
        live = self._controls.live
        tab.measure.click(sentences(self._measure), [self._shot, self._point, *live], tab.grid, **LIVE)
        tab.keep.click(sentences(self._keep), [self._shot, *live], [self._kept, tab.compare], **LIVE)

    def _own_fusion(self, shot: Shot | None, model: str) -> Update:
        """The ensemble that suits the weights of the model that answers, or will."""
        return self._ensemble.controls.choose(find_variant(shot.model if shot else model).config.fusion)

    def _suit_model(self, expected: Recipe | None, shot: Shot | None, model: str) -> Update | Any:
        """The same for another model that can answer; one that a recipe waits for has its settings from there."""
        stays = model in (expected and expected.model, shot and shot.model)
        return gr.skip() if stays or not self._desk.models.state(model).ready else self._own_fusion(None, model)

    def _go_to(self, event: gr.EventData) -> tuple[float, float]:
        return float(event_data(event)["alpha"]), float(event_data(event)["beta"])

    def _measure(self, shot: Shot | None, point: Point | None, *values: Any) -> str:
        analysis, case = known(self._desk, shot, values)
        labels = case.segmentation.labels
        colors = [hex_color(color) for color in palette(labels)]
        here = case.fusion.alpha, case.fusion.beta
        if point is None or not (number := chosen_id(case, point)):
            return html.measured(analysis.sensitivity(case), labels, colors, "the picture", here)
        chosen = next(segment for segment in case.segmentation.segments if segment.id == number)
        return html.measured(analysis.sensitivity(case, *point), labels, colors, f"the segment {chosen.label}", here)

    def _keep(self, shot: Shot | None, *values: Any) -> Update:
        analysis, case = known(self._desk, shot, values)
        assert shot is not None
        recipe = recipe_of(shot, values)
        drawn = overlay_of(analysis, case, recipe)
        return {self._kept: recipe, self._ensemble.compare: (drawn, drawn)}


def differences(expected: Recipe | None, shot: Shot) -> Iterator[str]:
    """Sentences on why a segmented picture may not give what a restored recipe gave."""
    if expected is None:
        return
    if isinstance(expected.picture, OwnPicture) and expected.picture.digest != shot.digest:
        yield "This is not the picture that the recipe was made of, so its result will differ."
    if expected.model == shot.model and expected.weights not in (None, shot.weights):
        yield "The weights have changed since the recipe was made, so its result may differ."


def _embedded(workbench: Workbench, vocabulary: Vocabulary) -> TextEmbeddings | None:
    """Text embeddings for hints: of known names, or of few whole words, so that nothing is encoded for half a word."""
    missing = workbench.names_to_encode(vocabulary)
    if missing and (missing > _ENCODED_FOR_HINTS or not all(map(is_known, vocabulary.names))):
        return None
    return workbench.embed(vocabulary)
