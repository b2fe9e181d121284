"""What the page is made of, without a server or a browser."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ovdemo import Fusion, Merging
from ovdemo.default_model import EMBEDDED_MODEL
from ovdemo.display import show
from ovdemo.errors import UserError
from ovdemo.examples import EXAMPLES
from ovdemo.inspection import Case
from ovdemo.models import Models
from ovdemo.recipes import ExamplePicture, OwnPicture, Recipe
from ovdemo.segmentation import ClassProbability
from ovdemo.sensitivity import UNLABELLED, Sensitivity
from ovdemo.stopwatch import STEPS, Step, Stopwatch
from ovdemo.suggestions import Suggestion
from ovdemo.systems.registry import find_variant
from ovdemo.ui import answers, html, jobs, launch, zerogpu
from ovdemo.ui.controls import Ensemble, Inference, recipe_of, sides
from ovdemo.ui.desk import _MAX_KEYS, Desk, quietly, sentences
from ovdemo.ui.files import saved
from ovdemo.ui.page import Page, differences
from ovdemo.ui.visits import Shot, Visits
from ovdemo.vocabulary import Vocabulary, VocabularyClass
from ovdemo.vocabulary.linting import Hint, lint
from ovdemo.workbench import Analysis, Workbench
from painted import PaintedSystem, painted_workbench, painting
from sentences import failure

NASTY = (
    "<img src=x onerror=alert(1)>",
    'a" onclick="alert(1)',
    "a' onfocus='alert(1)",
    "=cmd|' /C calc'!A0",
    "&lt;b&gt;",
    "</script><script>alert(1)</script>",
    "חתול \u202egnp.exe",
    "👩‍🚀 猫",
)


class Parsed(HTMLParser):
    """Tags, attributes and text of a piece of a page, as a browser reads them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str | None]:
        return [value for key, value in self.attributes if key == name]


def parsed(markup: str) -> Parsed:
    """A piece of a page, checked to run nothing that was typed."""
    page = Parsed(markup)
    assert not page.tags & {"img", "script", "iframe", "svg"}
    assert not any(name.startswith("on") for name, _ in page.attributes)
    return page


def answered(words: str | Vocabulary, *names: str, mode: str = "panoptic") -> tuple[Analysis, Case]:
    analysis = painted_workbench().analyse(painting(*(names or ("cat", "grass"))))
    return analysis, analysis.answer(words, merging=Merging(mode))  # type: ignore[arg-type]


def named(label: str, kind: str = "thing") -> tuple[Analysis, Case]:
    """An answer with a segment of that label: the painted system reads the paint's name in its synonym."""
    words = Vocabulary((VocabularyClass((label, "cat"), kind), VocabularyClass(("grass",), "stuff")))
    return answered(words)


# --- HTML ---


@pytest.mark.parametrize("label", NASTY)
def test_typed_labels_stay_text(label: str) -> None:
    analysis, case = named(label)
    assert label in {segment.label for segment in case.segmentation.segments}
    page = parsed(answers.inspector_html(analysis, case, (3, 3)))
    assert page.values("data-label") == [label]
    assert page.text.count(label) >= 3  # title, bars, formula
    assert label in parsed(answers.maths_html(case, (3, 3))).text
    other = parsed(answers.inspector_html(analysis, case, (20, 3)))
    assert other.values("data-label") == ["grass"]
    assert label in other.text  # among the best classes and the runners-up


@pytest.mark.parametrize("label", NASTY)
def test_typed_words_stay_text_in_hints_and_suggestions(label: str) -> None:
    page = parsed(html.hints([Hint("warning", f"About {label}.", (label,), label), Hint("note", label, (), label)]))
    assert page.values("data-word") == [label, ""]
    assert page.values("data-replacement") == [label, label]
    assert page.text.count(label) == 4
    assert f"use “{label}”" in page.text
    assert f"add “{label}”" in page.text
    page = parsed(html.suggestions([Suggestion(label, 0, 0, 0.5, 0.25)]))
    assert page.values("data-word") == [label]
    assert page.values("title") == ["might name 25% of the picture"]
    assert page.text == f"+ {label}"
    assert label in parsed(html.progress(jobs.Progress(label, 1, 2000))).text


@pytest.mark.parametrize("label", NASTY)
def test_typed_labels_stay_text_in_grids(label: str) -> None:
    winner = np.zeros((11, 11), np.int64)
    winner[0, 0] = UNLABELLED
    found = Sensitivity(np.linspace(0, 1, 121).reshape(11, 11), winner, np.full((11, 11), 0.5))
    page = parsed(html.measured(found, (label,), ("#aabbcc",), f"the segment {label}", (0.4, 0.81)))
    assert f"Which label wins the segment {label}" in page.text
    assert any(title and f"{label} has 50%" in title for title in page.values("title"))
    assert page.values("class").count("ov-here") == 2
    assert page.values("data-alpha").count("0.4") == 22
    assert sum("#aabbcc" in (style or "") for style in page.values("style")) == 120


@pytest.mark.parametrize("label", NASTY)
def test_hints_of_the_linter_stay_text(label: str) -> None:
    parsed(html.hints(lint(label, training_names=frozenset()).hints))


@pytest.mark.parametrize("label", NASTY)
def test_nouns_stay_text(label: str) -> None:
    _, case = named(label)
    segments = case.segmentation.segments
    page = parsed(html.nouns(segments, [(ClassProbability(0, label, 0.5),)] * len(segments)))
    assert page.text.count(label) == len(segments) + 1


def test_the_papers_tables_frame_the_nearest_point() -> None:
    page = parsed(html.published(0.4, 0.8))
    assert page.values("class").count("ov-here") == 2
    assert {"0.4"} <= set(page.values("data-alpha"))
    assert all(link and link.startswith("https://") for link in page.values("href"))
    # EOV-Seg did not try all settings: of those it tried, the nearest.
    assert parsed(html.published(0.5, 0.6)).values("class").count("ov-here") == 2
    assert parsed(html.published(0.4, 1.0)).values("class").count("ov-here") == 2


def test_nothing_suggested() -> None:
    assert "None found" in html.suggestions([])


def test_the_timing_strip_greys_what_was_cached() -> None:
    steps = [Step(name, 0.0, cached=True) for name in STEPS[:3]] + [Step("text", 12.4, cached=False)]
    page = parsed(html.timing_strip([*steps, Step("score", 0.25, cached=False)]))
    assert page.values("data-cached") == ["1", "1", "1", "0", "0"]
    assert page.values("data-step") == [*STEPS[:3], "text", "score"]
    assert [text for text in ("12 ms", "0.2 ms", "13 ms", "decode cached") if text not in page.text] == []


@pytest.mark.parametrize("mode", ["panoptic", "semantic", "instance"])
@pytest.mark.parametrize("fusion", [Fusion(), Fusion("arithmetic", rescue=0.5)])
def test_the_formula_has_the_numbers_of_its_result(mode: str, fusion: Fusion) -> None:
    analysis = painted_workbench().analyse(painting("cat", "grass"))
    case = analysis.answer("cat, grass:stuff", fusion=fusion, merging=Merging(mode))  # type: ignore[arg-type]
    found, _ = analysis.inspect(case, 3, 3)
    text = parsed(html.maths(found.formula)).text
    assert f"= {found.formula.fused:.3f}" in text
    assert ("0.50 ×" in text) == (fusion.rescue > 0)


# --- work in a thread ---


def test_progress_and_result_of_a_job() -> None:
    asked, told, ended = threading.Event(), threading.Event(), threading.Event()

    def work(report: jobs.Report) -> str:
        report("reading", 1, 10)
        assert asked.wait(10)
        for done in range(2, 10):
            report("reading", done, None)
        told.set()
        assert ended.wait(10)
        return "done"

    running = jobs.run(work)
    assert _first(running, 1) == [jobs.Progress("reading", 1, 10)]
    asked.set()
    assert told.wait(10)
    assert _first(running, 1) == [jobs.Progress("reading", 9, None)]  # a page cannot draw all that a fast job tells
    ended.set()
    assert _first(running, 1) == [jobs.Done("done")]
    assert list(running) == []


def _first(news: Iterator[object], count: int) -> list[object]:
    return [next(one for one in news if one is not None) for _ in range(count)]


def test_waiting_for_a_job_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_TICK", 0.001)
    go = threading.Event()
    running = jobs.run(lambda report: go.wait(10))
    assert next(running) is None
    go.set()
    assert [one for one in running if one is not None] == [jobs.Done(True)]


def test_errors_of_a_job_pass_through() -> None:
    def work(report: jobs.Report) -> None:
        raise UserError("Nothing works.")

    with pytest.raises(UserError, match="Nothing works"):
        list(jobs.run(work))


def test_closing_a_job_stops_it_at_its_next_report() -> None:
    closed, ended = threading.Event(), threading.Event()
    reached: list[str] = []

    def work(report: jobs.Report) -> None:
        try:
            report("first", 0, None)
            assert closed.wait(10)
            reached.append("before")
            report("second", 1, None)
            reached.append("after")
        except jobs.StoppedError:
            reached.append("stopped")
            raise
        finally:
            ended.set()

    running = jobs.run(work)
    assert _first(running, 1) == [jobs.Progress("first", 0, None)]
    running.close()  # type: ignore[attr-defined]
    closed.set()
    assert ended.wait(10)
    assert reached == ["before", "stopped"]


def test_counted_work_and_its_drawing() -> None:
    told = threading.Event()

    def work(progress: object) -> int:
        progress(3, 9)  # type: ignore[operator]
        assert told.wait(10)
        return 5

    lines = html.steps(jobs.counted(work, "Encoding"), lambda number: f"<b>{number}</b>")
    line = next(line for line in lines if "Encoding 3 of 9" in line)
    assert parsed(line).values("value") == ["0.333"]
    told.set()
    assert list(lines)[-1] == "<b>5</b>"


# --- errors ---


def test_what_a_handler_raises_becomes_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    def bad(kind: str) -> str:
        if kind == "user":
            raise UserError("Type a word.")
        if kind == "bug":
            raise KeyError("secret")
        return kind

    def steps(kind: str) -> Iterator[str]:
        yield "first"
        yield bad(kind)

    for handler in (sentences(bad), lambda kind: list(sentences(steps)(kind))):
        assert handler("fine") in ("fine", ["first", "fine"])
        with pytest.raises(gr.Error) as caught:
            handler("user")
        assert caught.value.message == "Type a word."
        with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as caught:
            handler("bug")
        assert "secret" not in caught.value.message
        assert "secret" in caplog.text
        caplog.clear()


def test_an_error_that_is_gradios_own_passes() -> None:
    def fail() -> None:
        raise gr.Error("mine")

    with pytest.raises(gr.Error, match="mine"):
        sentences(fail)()


def test_closing_a_guarded_generator_closes_the_handler() -> None:
    closed: list[bool] = []

    def steps() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    running = sentences(steps)()
    assert next(running) == 1
    running.close()  # type: ignore[attr-defined]
    assert closed == [True]


def test_quietly_leaves_the_page_as_it_is_for_unusable_input() -> None:
    def handler(kind: str) -> str:
        if kind == "user":
            raise UserError("Half a word.")
        if kind == "bug":
            raise KeyError("secret")
        return kind

    assert quietly(handler)("fine") == "fine"
    assert quietly(handler)("user") == gr.skip()
    with pytest.raises(gr.Error, match="went wrong"):
        quietly(handler)("bug")


# --- the desk ---


class OneModel(Models):
    """A single model that is loaded already."""

    def __init__(self, workbench: Workbench) -> None:
        super().__init__(device="cpu")
        self.workbench = workbench

    def get(self, name: str = "auto", progress: object = None) -> Workbench:
        return self.workbench

    def loaded(self, name: str = "auto") -> Workbench | None:
        return self.workbench

    def forget(self, digest: str) -> None:
        self.workbench.forget(digest)


class AnySize(PaintedSystem):
    """Painted pictures, and photographs, whatever their size."""

    passes = 0

    def encode(self, picture: object, rule: object) -> object:
        self.passes += 1
        return super().encode(picture, self.resize_rule)  # type: ignore[arg-type]


@pytest.fixture
def desk() -> Desk:
    workbench = painted_workbench()
    workbench.system = AnySize()
    workbench.name = "painted"
    return Desk(OneModel(workbench))


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "mine.png"
    Image.fromarray(painting("cat", "grass")).save(path)
    return path


def passes(desk: Desk) -> int:
    return desk.models.get().system.passes  # type: ignore[attr-defined]


def test_a_shot_holds_names_only(desk: Desk, upload: Path) -> None:
    shot, analysis = desk.open(upload, "painted", None, Stopwatch())
    assert shot == Shot(
        "painted", None, OwnPicture(analysis.picture.digest, "mine.png"), analysis.picture.digest, None, str(upload)
    )
    assert desk.reopen(shot) is analysis
    recipe = Recipe(model=shot.model, picture=shot.picture, words="cat, grass")
    assert {s.label for s in desk.answer(analysis, recipe).segmentation.segments} == {"cat", "grass"}


def test_an_example_is_known_by_its_content(desk: Desk, tmp_path: Path) -> None:
    example = EXAMPLES[0]
    own = example.path()
    assert own is not None
    copy = tmp_path / own.name
    copy.write_bytes(own.read_bytes())
    shot, analysis = desk.open(copy, "painted", None, Stopwatch())
    assert shot.picture == ExamplePicture(example.name)
    copy.unlink()
    desk.models.get().forget()
    assert desk.reopen(shot).picture.digest == analysis.picture.digest
    other = tmp_path / "other" / own.name
    other.parent.mkdir()
    Image.fromarray(painting("dog")).save(other, "PNG")
    shot, _ = desk.open(other, "painted", None, Stopwatch())
    assert isinstance(shot.picture, OwnPicture)


@pytest.mark.parametrize("name", ["👩\u200d🚀.png", "\u202egnp.exe.png", "קטקומבה.png", "x" * 240 + ".png", "a\nb.png"])
def test_any_file_name_can_be_opened(desk: Desk, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(painting("cat")).save(path)
    shot, _ = desk.open(path, "painted", None, Stopwatch())
    assert isinstance(shot.picture, OwnPicture)


def test_a_forgotten_picture_is_analysed_again(desk: Desk, upload: Path) -> None:
    failure(lambda: desk.reopen(None), "press Segment first")
    shot, analysis = desk.open(upload, "painted", None, Stopwatch())
    assert passes(desk) == 1
    desk.models.get().forget(shot.digest)
    again = desk.reopen(shot)
    assert passes(desk) == 2
    assert again is not analysis
    assert desk.reopen(shot) is again
    upload.unlink()
    assert desk.reopen(shot) is again
    desk.models.get().forget()
    failure(lambda: desk.reopen(shot), "cleaned away", "upload it again")


def test_keys_name_shots_until_they_are_forgotten(desk: Desk, upload: Path) -> None:
    shot, _ = desk.open(upload, "painted", None, Stopwatch())
    key = desk.key(shot)
    assert desk.key(shot) != key  # who segments the same picture learns nobody else's key
    assert desk.find(key) == shot
    for nothing in ("", "unknown", "../" * 99):
        failure(lambda nothing=nothing: desk.find(nothing), "call /segment again")
    others = [Shot("painted", None, shot.picture, f"{i:064x}", None, "") for i in range(_MAX_KEYS)]
    assert len({desk.key(other) for other in others}) == _MAX_KEYS
    failure(lambda: desk.find(key), "forgotten")
    assert desk.key(Shot("painted", None, shot.picture, shot.digest, 64, "")) != key


def test_a_closed_page_frees_what_no_other_shows(desk: Desk, upload: Path) -> None:
    workbench = desk.models.get()
    shot, analysis = desk.open(upload, "painted", None, Stopwatch())
    for session in ("one", "two"):
        desk.remember(session, shot)
    desk.remember(None, shot)
    desk.close("unknown")
    desk.close(None)
    desk.close("one")
    assert workbench.recall(shot.digest) is analysis
    desk.close("two")
    assert workbench.recall(shot.digest) is None
    desk.close("two")


def test_the_same_picture_keeps_each_visitors_name(desk: Desk, upload: Path, tmp_path: Path) -> None:
    other = tmp_path / "theirs.png"
    other.write_bytes(upload.read_bytes())
    mine, _ = desk.open(upload, "painted", None, Stopwatch())
    theirs, analysis = desk.open(other, "painted", None, Stopwatch())
    assert passes(desk) == 1
    assert isinstance(theirs.picture, OwnPicture)
    assert (theirs.picture.name, analysis.picture.name) == ("theirs.png", "theirs.png")
    assert [desk.reopen(shot).picture.name for shot in (mine, theirs)] == ["mine.png", "theirs.png"]


def test_many_new_words_wait_for_the_button(desk: Desk, upload: Path) -> None:
    shot, analysis = desk.open(upload, "painted", None, Stopwatch())
    few, many = (Vocabulary(tuple(VocabularyClass((f"w{i}",), "thing") for i in range(n))) for n in (100, 101))
    desk.check_quick(analysis, few, "press Segment")
    failure(lambda: desk.check_quick(analysis, many, "press Segment"), "101", "press Segment")
    analysis.workbench.embed(many)
    desk.check_quick(analysis, many, "press Segment")
    assert shot.model == "painted"


# --- visits ---


def shot_of(digest: str, side: int | None = None) -> Shot:
    return Shot("painted", None, ExamplePicture("china"), digest, side, "")


def test_an_answer_that_was_overtaken_is_dropped() -> None:
    visits, shot = Visits(), shot_of("a")
    assert visits.show("me", shot) is None
    first, second, third = (visits.ask("me") for _ in range(3))
    assert visits.may_answer("me", shot, second)
    assert not visits.may_answer("me", shot, first)
    assert visits.may_answer("me", shot, third)
    assert not visits.may_answer("me", shot, third)


def test_an_answer_about_an_earlier_picture_is_dropped() -> None:
    visits, old, new = Visits(), shot_of("a"), shot_of("b")
    visits.show("me", old)
    late = visits.ask("me")
    assert visits.show("me", new) == old
    assert not visits.shows("me", old)
    assert visits.shows("me", new)
    assert not visits.may_answer("me", old, late)
    assert visits.may_answer("me", new, visits.ask("me"))
    # The same picture once more: what was asked before stays behind, what is asked now does not.
    late = visits.ask("me")
    visits.show("me", new)
    assert not visits.may_answer("me", new, late)
    assert visits.may_answer("me", new, visits.ask("me"))


def test_pages_do_not_know_of_each_other() -> None:
    visits, shot = Visits(), shot_of("a")
    visits.show("one", shot)
    visits.show("two", shot)
    early = visits.ask("one")
    assert visits.may_answer("two", shot, visits.ask("two"))
    assert visits.may_answer("one", shot, early)
    assert visits.close("one") == shot
    assert visits.is_shown("a")
    assert visits.close("two") == shot
    assert not visits.is_shown("a")
    assert visits.close("two") is None
    assert visits.may_answer("gone", shot, visits.ask("gone"))
    assert visits.show(None, shot) is None


def test_visits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovdemo.ui.visits._MAX_VISITS", 2)
    visits = Visits()
    for number in range(3):
        visits.show(str(number), shot_of(str(number)))
    assert [visits.is_shown(str(number)) for number in range(3)] == [False, True, True]


def test_a_restored_recipe_says_what_is_not_as_it_was() -> None:
    own = OwnPicture("1" * 64, "cat.jpg")
    shot = Shot("painted", "new", own, own.digest, None, "")
    recipe = Recipe(model="painted", weights="new", picture=own, words="cat")
    assert list(differences(None, shot)) == list(differences(recipe, shot)) == []
    (sentence,) = differences(replace(recipe, picture=OwnPicture("2" * 64, "cat.jpg")), shot)
    assert "not the picture" in sentence
    (sentence,) = differences(replace(recipe, weights="old"), shot)
    assert "weights have changed" in sentence
    assert not list(differences(replace(recipe, weights=None), shot))


def test_examples_stay_for_the_next_page(desk: Desk) -> None:
    path = EXAMPLES[0].path()
    assert path is not None
    shot, analysis = desk.open(path, "painted", None, Stopwatch())
    desk.remember("one", shot)
    desk.close("one")
    assert desk.models.get().recall(shot.digest) is analysis


# --- controls ---


def test_the_controls_begin_with_the_default_recipe() -> None:
    inference, ensemble = Inference.build(), Ensemble.build(Fusion())
    shot = Shot("painted", "abc", ExamplePicture("china"), "0" * 64, None, "")
    values = [
        *("cat", []),
        *(part.value for part in (inference.mode, inference.object_threshold, inference.overlap_threshold)),
        *(part.value for part in (ensemble.kind, ensemble.alpha, ensemble.beta, ensemble.rescue)),
        None,
    ]
    recipe = recipe_of(shot, values)
    assert recipe == Recipe(model="painted", weights="abc", picture=ExamplePicture("china"), words="cat")
    assert Recipe.from_link(recipe.to_link()) == recipe
    assert (recipe.fusion, recipe.merging) == (Fusion(), Merging())
    assert inference.short_side.value == 0
    assert recipe_of(shot, [*values[:-1], recipe.drawing]) == recipe
    assert recipe_of(shot, [*values[:-1], {"opacity": 1.0, "outlines": False, "labels": False}]).opacity == 1


@pytest.mark.parametrize(
    ("position", "value", "part"),
    [
        (0, "\ud800", '"words"'),
        (1, ["no such list"], '"presets"'),
        (2, "other", '"mode"'),
        (3, 1.5, '"object_threshold"'),
        (5, None, '"fusion_kind"'),
        (6, "0.4", '"alpha"'),
        (7, None, '"beta"'),
        (8, float("nan"), '"rescue"'),
        (9, {"opacity": 2.0}, '"opacity"'),
    ],
)
def test_values_that_no_control_sends_are_a_sentence(position: int, value: object, part: str) -> None:
    shot = Shot("painted", None, ExamplePicture("china"), "0" * 64, None, "")
    values: list = ["cat", None, "panoptic", 0, 1, "geometric", 0.4, 0.8, 0, None]
    assert recipe_of(shot, values).words == "cat"
    values[position] = value
    failure(lambda: recipe_of(shot, values), part)


def test_a_model_brings_its_own_ensemble_once_it_can_answer() -> None:
    with gr.Blocks():
        page = Page(Desk(Models(device="cpu")))
    embedded, away = find_variant(EMBEDDED_MODEL), "fcclip-rn50"
    wanted = list(dataclasses.astuple(embedded.config.fusion))
    assert [part.value for part in page._ensemble.controls.parts] == wanted
    assert list(page._own_fusion(None, EMBEDDED_MODEL).values()) == wanted
    assert list(page._own_fusion(None, away).values()) == ["geometric", 0.4, 0.8, 0.0]
    shown, other = (Shot(name, None, ExamplePicture("china"), "0" * 64, None, "") for name in (EMBEDDED_MODEL, away))
    assert list(page._own_fusion(shown, away).values()) == wanted  # of the model that answered
    for shot in (None, other):
        assert list(page._suit_model(None, shot, EMBEDDED_MODEL).values()) == wanted
    waiting = Recipe(model=EMBEDDED_MODEL, picture=ExamplePicture("china"), words="cat", alpha=0.1)
    # A recipe's own settings; a download that was cancelled; a model without weights.
    for expected, shot, model in (
        (waiting, None, EMBEDDED_MODEL),
        (None, shown, EMBEDDED_MODEL),
        (None, shown, away),
    ):
        assert page._suit_model(expected, shot, model) == gr.skip()


def test_a_short_side_of_a_recipe_can_be_chosen() -> None:
    assert sides() == sides(256)
    assert ("300 px", 300) in sides(300)
    assert [pixels for _, pixels in sides(300)] == sorted(pixels for _, pixels in sides(300))
    with gr.Blocks():
        page = Page(Desk(Models(device="cpu")))
    asked = page._restore(Recipe(model=EMBEDDED_MODEL, picture=ExamplePicture("china"), words="sky", short_side=300))
    update = asked[page._tab.inference.short_side]
    assert update["value"] == 300
    assert ("300 px", 300) in update["choices"]


# --- answers ---


def test_notes_say_what_a_person_might_wonder_about() -> None:
    analysis, case = answered("cat, grass")
    assert answers.note_of(analysis, case) == ""
    nothing = analysis.answer("sofa, lamp", merging=Merging(object_threshold=1.0))
    assert "No segment" in answers.note_of(analysis, nothing)
    small = SimpleNamespace(reduced=True)
    assert "smaller size" in answers.note_of(small, case)  # type: ignore[arg-type]


def test_rows_of_the_table_are_largest_first() -> None:
    _, case = answered("cat, grass:stuff", "cat", "grass", "grass", "grass")
    first, second = answers.table_rows(case)
    assert first[1:3] == ["grass", "stuff"]
    assert second[1:3] == ["cat", "thing"]
    assert (first[4], second[4]) == (75.0, 25.0)
    assert (first[5], second[5]) == ("unseen", "seen")
    assert len(first) == len(answers.TABLE_HEADERS)


def test_rows_of_classes_tell_what_changed() -> None:
    analysis, default = answered("cat, grass", "cat", "grass", "grass", "grass")
    now = analysis.answer("cat, grass", fusion=Fusion(alpha=0.25), merging=Merging(object_threshold=1.0))
    assert answers.class_rows(default, default) == [
        ["grass", "unseen", 0.8, 75.0, 75.0, 0.0],
        ["cat", "seen", 0.4, 25.0, 25.0, 0.0],
    ]
    assert answers.class_rows(now, default) == [
        ["grass", "unseen", 0.8, 75.0, 0.0, -75.0],
        ["cat", "seen", 0.25, 25.0, 0.0, -25.0],
    ]


@pytest.mark.parametrize("point", [None, (-1, 0), (0, -1), (32, 0), (0, 10**9)])
def test_a_point_outside_chooses_nothing(point: tuple[int, int] | None) -> None:
    analysis, case = answered("cat, grass")
    assert answers.chosen_id(case, point) == 0
    assert "Click a segment" in answers.inspector_html(analysis, case, point)
    assert "p(" in parsed(answers.maths_html(case, point)).text


def test_viewers_find_the_photograph_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr("ovdemo.ui.files._photographs", {})
    analysis, case = answered("cat, grass")
    value = answers.viewer_value(analysis, case, show(case.segmentation), (3, 3))
    assert value["chosen"] == case.segmentation.id_map[3, 3]
    head, path = str(value["picture"]).split("=", 1)
    assert head == "gradio_api/file"
    with Image.open(path) as photograph:
        assert (photograph.format, photograph.size) == ("JPEG", (32, 32))
    Path(path).unlink()  # cleaned away after an hour
    again = answers.viewer_value(analysis, case, show(case.segmentation), None)
    assert again == value | {"chosen": 0}
    assert Path(path).is_file()


def test_the_segments_themselves_are_no_layer() -> None:
    analysis, case = answered("cat, sofa")
    assert answers.layer_address(analysis, case, answers.LAYERS[0]) == ""


@pytest.mark.parametrize("layer", answers.LAYERS[1:])
def test_every_layer_is_drawn(layer: str) -> None:
    analysis, case = answered("cat, sofa")
    assert answers.layer_address(analysis, case, layer).startswith("data:image/jpeg;base64,")


def test_overlays_are_as_large_as_a_page_shows_them() -> None:
    analysis, case = answered("cat, grass")
    recipe = Recipe(model="painted", picture=ExamplePicture("china"), words="cat, grass", opacity=0, labels=False)
    drawn = answers.overlay_of(analysis, case, replace(recipe, outlines=False))
    assert (drawn == analysis.picture.pixels).all()
    assert (answers.overlay_of(analysis, case, recipe) != drawn).any()


def test_files_lie_in_folders_of_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    first, second = saved([("a.csv", b"one"), ("a.csv", b"two")])
    assert first != second
    assert (Path(first).read_bytes(), Path(second).read_bytes()) == (b"one", b"two")
    assert Path(first).name == "a.csv"
    assert tmp_path in Path(first).parents


# --- starting ---


def test_zerogpu_wraps_only_where_a_space_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: list[int] = []

    def lend(duration: int) -> object:
        seconds.append(duration)
        return lambda call: call

    fake = ModuleType("spaces")
    fake.GPU = lend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spaces", fake)
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert zerogpu.accelerate() is None
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    wrap = zerogpu.accelerate()
    assert wrap is not None
    assert wrap(len)("abc") == 3
    assert seconds == [60]
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert zerogpu.accelerate() is None


def test_zerogpu_finds_the_model_before_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    monkeypatch.setattr(launch, "accelerate", lambda: lambda call: happened.append("wrapped") or call)
    monkeypatch.setattr(launch, "serve", lambda *_: happened.append("launched"))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    monkeypatch.delenv("OVDEMO_AUTH", raising=False)
    assert launch.main([]) == 0
    assert happened[0] == "wrapped"
    assert happened[-1] == "launched"


def test_name_and_password_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVDEMO_AUTH", raising=False)
    assert launch._auth() is None
    monkeypatch.setenv("OVDEMO_AUTH", "me:a:b")
    assert launch._auth() == ("me", "a:b")
    for bad in ("me", "me:", ":secret", ":"):
        monkeypatch.setenv("OVDEMO_AUTH", bad)
        assert "secret" not in str(failure(launch._auth, "user:password"))


def test_checkpoints_are_pairs_of_a_name_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a=b.pth"
    file.touch()
    assert launch._checkpoint(f"fcclip-rn50={file}") == ("fcclip-rn50", file)
    for bad in ("fcclip-rn50", f"fcclip-rn50={tmp_path}", f"fcclip-rn50={file}2", ""):
        failure(lambda bad=bad: launch._checkpoint(bad), "NAME=FILE")
    with pytest.raises(UserError, match="no model named"):
        launch._checkpoint(f"nothing={file}")


def test_a_bad_flag_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launch, "serve", lambda *_: pytest.fail("nothing is to be served"))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    assert launch.main(["--checkpoint", "nothing"]) == 2
    monkeypatch.setenv("OVDEMO_AUTH", "me")
    assert launch.main([]) == 2
    printed = "".join(capsys.readouterr())
    assert "NAME=FILE" in printed
    assert "OVDEMO_AUTH" in printed


def test_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    options = launch._parser().parse_args([])
    assert (options.host, options.port, options.share, options.mcp) == ("127.0.0.1", None, False, False)
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    options = launch._parser().parse_args(["--port", "80", "--share", "--mcp"])
    assert (options.host, options.port, options.share, options.mcp) == ("0.0.0.0", 80, True, True)


def test_health_and_readiness() -> None:
    ready = threading.Event()
    client = TestClient(Starlette(routes=launch.health_routes(ready)))
    assert client.get("/healthz").status_code == 200
    assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (503, {"status": "loading"})
    ready.set()
    assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (200, {"status": "ready"})
    assert client.post("/healthz").status_code == 405
