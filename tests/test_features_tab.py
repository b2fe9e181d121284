"""The Features tab without a browser: what its handlers send to the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from ovdemo import load_picture
from ovdemo.errors import UserError
from ovdemo.features import FIGURES, PanelRecipe
from ovdemo.panels import Grid, grid_of
from ovdemo.stopwatch import Stopwatch
from ovdemo.systems.registry import Variant
from ovdemo.ui import jobs
from ovdemo.ui.api import Api
from ovdemo.ui.desk import Desk, Shot, sentences
from ovdemo.ui.features_tab import FeaturesTab, Handlers, row_choices
from ovdemo.ui.filling import Filled, fill
from ovdemo.workbench import Workbench, load

LIVE: list[Any] = ["cat, sky", [], "panoptic", 0.0, 0.8, "geometric", 0.4, 0.8, 0.0]
ROWS, SIDES = ["embedded:res4", "embedded:res3"], [128, 224]


@pytest.fixture
def desk(tiny: Variant, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """One tiny model for every name, and no other weights."""
    monkeypatch.setattr("ovdemo.features.catalogue.is_cached", lambda file: None)
    workbench = load(tiny.name, device="cpu", random_weights=True)

    def here(name: str = "") -> Workbench:
        return workbench

    models: Any = SimpleNamespace(get=here, loaded=here, device="cpu", accelerate=None)
    return Desk(models)


@pytest.fixture
def shot(desk: Desk, tmp_path: Path) -> Shot:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return desk.open(tmp_path / "photo.png", "tiny", None, Stopwatch())[0]


@pytest.fixture
def tab() -> FeaturesTab:
    with gr.Blocks(), gr.Tab("Features") as tab:
        return FeaturesTab.build(tab)


@pytest.fixture
def handlers(tab: FeaturesTab, desk: Desk) -> Handlers:
    return Handlers(tab, desk)


def settings(kind: str = "k-means", k: int = 8, words: str = "", upsampling: str = "nearest") -> list[Any]:
    return [kind, k, False, False, False, words, "none", upsampling, *LIVE]


def run(updates: Iterator[dict[Any, Any]]) -> dict[Any, Any]:
    """What the page shows in the end."""
    page: dict[Any, Any] = {}
    for update in updates:
        page |= update
    return page


def grid_html(tab: FeaturesTab, page: dict[Any, Any]) -> str:
    value = page[tab.panels]
    return str(value["value"] if isinstance(value, dict) else value)


def colours(drawn: str) -> list[int]:
    return [int(count) for count in re.findall(r'data-clusters="(\d+)"', drawn)]


def shown(drawn: str) -> int:
    found = re.search(r'data-shown="(\d+)"', drawn)
    assert found
    return int(found[1])


# Filling


def test_the_grid_fills_pass_by_pass(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    updates = list(handlers.fill(ROWS, SIDES, False, shot, None, *settings()))
    drawn = [grid_html(tab, update) for update in updates if tab.panels in update]
    assert [shown(one) for one in drawn] == [0, 2, 4]
    assert [one.count("ov-waiting") for one in drawn] == [4, 2, 0]
    assert colours(drawn[-1]) == [8] * 4
    photographs = [update[tab.panels].get("photo") for update in updates if tab.panels in update]
    assert photographs[0].startswith("data:image/jpeg;base64,")
    assert photographs[1:] == [None, None]
    assert "pass 1 of 2" in next(str(update[tab.progress]) for update in updates if tab.progress in update)
    assert updates[-1] == {tab.progress: ""}


def test_the_tab_opens_on_a_worked_example_once_a_picture(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    page = run(handlers.open(ROWS, SIDES, False, shot, None, *settings()))
    assert shown(grid_html(tab, page)) == 4
    again = list(handlers.open(ROWS[:1], SIDES, False, shot, page[tab.filled], *settings()))
    assert len(again) == 1
    assert shown(grid_html(tab, again[0])) == 4
    assert "Segment a picture first" in run(handlers.open(ROWS, SIDES, False, None, None, *settings()))[tab.progress]


def test_nothing_chosen_is_a_sentence(handlers: Handlers, shot: Shot) -> None:
    for rows, sides in (([], SIDES), (ROWS, [])):
        with pytest.raises(gr.Error, match="at least one row and one column"):
            run(sentences(handlers.fill)(rows, sides, False, shot, None, *settings()))


def test_closing_the_page_s_iterator_stops_before_the_next_pass(desk: Desk, shot: Shot) -> None:
    picture = desk.reopen(shot).picture
    grid = grid_of(desk.features, [("embedded", "res3")], [128, 160, 192])
    news: Any = fill(desk.features, picture, grid)
    seen = [next(news)]
    while sum(isinstance(one, Filled) for one in seen) < 2:
        seen.append(next(news))
    news.close()
    here = [desk.features.recall(picture.digest, "embedded", "res3", panel.size) for panel in grid.panels]
    assert [reading is not None for reading in here] == [True, False, False]


def test_a_panel_that_does_not_fit_shows_its_sentence_and_the_others_fill(
    tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = desk.features.source("embedded")
    budget = source.bytes_needed((96, 128), 128)
    monkeypatch.setattr("ovdemo.features.sources.memory_budget", lambda device: budget)
    drawn = grid_html(tab, run(handlers.fill(ROWS, [128, 448], False, shot, None, *settings())))
    assert shown(drawn) == 2
    assert drawn.count("choose 128 px or less") == 2


def test_a_source_that_is_not_here_is_one_sentence_a_row(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    rows = ["vit-b-16:block-1", *ROWS]
    drawn = grid_html(tab, run(handlers.fill(rows, SIDES, False, shot, None, *settings())))
    assert drawn.count("allow the download of its weights (598 MB)") == 1
    assert "ov-wide" in drawn
    assert shown(drawn) == 4


def test_a_download_shows_its_progress_and_is_tried_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def offline(name: str, *, progress: Any, **_: Any) -> None:
        tried.append(name)
        progress(30_000_000, 598_000_000)
        raise UserError("The Hub cannot be reached: connect to a network.")

    monkeypatch.setattr("ovdemo.panels.desk.load_source", offline)
    panels = tuple(PanelRecipe("vit-b-16", "block-1", size) for size in SIDES)
    picture = load_picture(np.zeros((64, 64, 3), np.uint8))
    news = list(fill(desk.features, picture, Grid(("a", "b"), (("row", panels),)), download=True))
    assert tried == ["vit-b-16"]
    assert any(isinstance(one, jobs.Progress) and (one.done, one.total) == (30, 598) for one in news)
    assert isinstance(news[-1], Filled)
    assert dict(news[-1].refused) == dict.fromkeys(panels, "The Hub cannot be reached: connect to a network.")


def test_figures_set_rows_columns_and_k_and_fill(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    recipe = FIGURES["fcclip-1"]
    first = handlers.prepare(recipe)
    drawn = grid_html(tab, run(handlers.play(recipe, False, shot, None, *settings("PCA", 3))))
    assert first[tab.rows]["value"] == ["vit-l-14:block-24", "convnext-large:res5", "embedded:res5"]
    assert first[tab.sides] == [224, 448, 672, 896, 1120]
    assert (first[tab.lens.kind], first[tab.lens.k]["value"]) == ("k-means", recipe.clusters)
    assert "FC-CLIP, Figure 1" in drawn
    assert "noisier" in drawn
    assert shown(drawn) == 5
    assert colours(drawn) == [recipe.clusters] * 5


# Looking


def test_a_lens_looks_at_what_was_read(
    tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = run(handlers.fill(ROWS, SIDES, False, shot, None, *settings()))[tab.filled]
    monkeypatch.setattr(desk.features.source("embedded"), "_read", lambda *_: pytest.fail("read the picture again"))
    for k in (3, 12):
        assert colours(grid_html(tab, handlers.look(shot, filled, *settings(k=k)))) == [k] * 4
    for upsampling in ("nearest", "bilinear"):
        drawn = grid_html(tab, handlers.look(shot, filled, *settings("PCA", upsampling=upsampling)))
        assert 'data-lens="PCA"' in drawn
        assert ("image/png" in drawn) == (upsampling == "nearest")


def test_a_click_moves_the_mark(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    filled = run(handlers.fill(ROWS, SIDES, False, shot, None, *settings()))[tab.filled]
    event: Any = SimpleNamespace(_data={"x": 32, "y": 24})
    page = handlers.touch(event, shot, filled, *settings("click"))
    assert page[tab.filled].pixel == (32, 24)
    assert grid_html(tab, page).count("left:25.00%;top:25.00%") == 4
    refilled = run(handlers.fill(ROWS, SIDES, False, shot, page[tab.filled], *settings("click")))
    assert refilled[tab.filled].pixel == (32, 24)


def test_the_word_lens_brings_a_final_map_where_there_is_none(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    page = run(handlers.project(ROWS, SIDES, False, shot, None, *settings("word")))
    assert page[tab.rows]["value"] == [*ROWS, "embedded:projected"]
    drawn = grid_html(tab, page)
    assert shown(drawn) == 2
    assert drawn.count("does not lie among the words") == 2
    assert "one scale for all panels" in drawn
    for rows, kind in ((ROWS, "PCA"), ([*ROWS, "embedded:projected"], "word")):
        [update] = handlers.project(rows, SIDES, False, shot, None, *settings(kind))
        assert list(update) == [tab.progress]


def test_typed_words_are_text(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    typed = '<img src=x onerror="alert(1)">'
    page = run(handlers.fill(["embedded:projected"], [128], False, shot, None, *settings("word", words=typed)))
    drawn = grid_html(tab, page)
    assert "<img src=x" not in drawn
    assert "&lt;img src=x" in drawn


def test_forgotten_features_are_a_sentence(tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot) -> None:
    filled = run(handlers.fill(ROWS, SIDES, False, shot, None, *settings()))[tab.filled]
    desk.features.forget(shot.digest)
    assert "press Fill the grid" in grid_html(tab, handlers.look(shot, filled, *settings()))
    assert "Fill the grid" in handlers.look(shot, None, *settings())[tab.progress]


# Taking away


def test_files_are_the_grid_and_the_features(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    filled = run(handlers.fill(ROWS, SIDES, False, shot, None, *settings()))[tab.filled]
    drawing, archive = handlers.make_files(0.5, shot, filled, *settings())["value"]
    with Image.open(drawing) as image:
        assert image.format == "PNG"
    with np.load(io.BytesIO(Path(archive).read_bytes())) as loaded:
        assert sorted(loaded.files) == ["about", "map_0", "map_1", "map_2", "map_3"]
    with pytest.raises(UserError, match="press Fill the grid"):
        handlers.make_files(0.5, shot, None, *settings())


def test_features_too_large_to_send_are_refused(
    tab: FeaturesTab, handlers: Handlers, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = run(handlers.fill(ROWS, SIDES, False, shot, None, *settings()))[tab.filled]
    monkeypatch.setattr("ovdemo.ui.filling._MAX_EXPORT", 1000)
    with pytest.raises(UserError, match="fewer rows or smaller sizes"):
        handlers.make_files(0.5, shot, filled, *settings())


def test_rows_say_what_would_be_downloaded(desk: Desk) -> None:
    names = {value: words for words, value in row_choices(desk.features)}
    assert "to download, 1,710 MB" in names["vit-l-14:block-12"]
    assert "download" not in names["embedded:res5"]


# For programs


def test_the_endpoint_answers_with_bounded_cells(desk: Desk, shot: Shot) -> None:
    with gr.Blocks():
        api = Api(desk)
    key = desk.key(shot)
    plain = api.features(key, layer="res3", size=224, k=5)
    assert (plain["rows"], plain["columns"]) == (24, 32)
    assert sorted({label for row in plain["cells"] for label in row}) == [0, 1, 2, 3, 4]
    assert 0 < plain["roughness"] <= 1
    assert plain["agreement"] is None
    with Image.open(plain["picture"].removeprefix("/gradio_api/file=")) as image:
        assert image.format == "PNG"
    assert 0 <= api.features(key, layer="res3", size=224, words="cat, sky")["agreement"] <= 1
    fine = api.features(key, layer="res2", size=448, lens="PCA")
    assert fine["columns"] > 96
    assert np.shape(fine["cells"]) == (96, 96, 3)
    middle = api.features(key, layer="res3", lens="click")["cells"]
    corner = api.features(key, layer="res3", lens="click", x=0, y=0)["cells"]
    assert corner[0][0] == pytest.approx(1)
    assert middle != corner


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lens": "x"}, "lens must be one of k-means"),
        ({"source": "x"}, "sources are embedded"),
        ({"layer": "x"}, "choose one of res2"),
        ({"size": 5000}, "between 64 and 1120"),
        ({"k": 99}, "between 2 and 20"),
        ({"source": "vit-l-14"}, "not on this machine"),
        ({"lens": "word"}, "at least one class"),
        ({"lens": "word", "words": "cat"}, "final map"),
        ({"lens": "click", "x": 9999, "y": 1}, "outside the picture"),
    ],
)
def test_a_wrong_question_is_answered_with_a_sentence(
    desk: Desk, shot: Shot, settings: dict[str, Any], sentence: str
) -> None:
    with gr.Blocks():
        api = Api(desk)
    with pytest.raises(UserError, match=sentence):
        api.features(desk.key(shot), **settings)
