"""The Features tab without a browser: what its handlers send to the page."""

from __future__ import annotations

import dataclasses
import io
import re
import threading
from collections.abc import Iterator
from html import unescape
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
from ovdemo.panels import CAPTIONS, LENSES, Grid, LensKind, grid_of
from ovdemo.stopwatch import Stopwatch
from ovdemo.systems.registry import Variant
from ovdemo.ui import jobs
from ovdemo.ui.api import Api
from ovdemo.ui.desk import Desk, sentences
from ovdemo.ui.features_tab import FeaturesTab, Handlers, row_choices
from ovdemo.ui.filling import Filled, fill
from ovdemo.ui.visits import Shot
from ovdemo.workbench import Workbench, load

LIVE: list[Any] = ["cat, sky", [], "panoptic", 0.0, 0.8, "geometric", 0.4, 0.8, 0.0, None]
ROWS, SIDES = ["embedded:res4", "embedded:res3"], [128, 224]
PAGE: Any = SimpleNamespace(session_hash="a page")


@pytest.fixture
def desk(tiny: Variant, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """One tiny model for every name, and no other weights."""
    monkeypatch.setattr("ovdemo.features.catalogue.is_cached", lambda file: None)
    workbench = load(tiny.name, device="cpu", random_weights=True)

    def here(name: str = "") -> Workbench:
        return workbench

    models: Any = SimpleNamespace(
        get=here,
        loaded=here,
        state=lambda name: SimpleNamespace(ready=name == "fcclip-embedded"),
        forget=workbench.forget,
        device="cpu",
        accelerate=None,
    )
    return Desk(models)


def opened(desk: Desk, path: Path, seed: int = 0) -> Shot:
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    shot = desk.open(path, "tiny", None, Stopwatch())[0]
    desk.remember(PAGE.session_hash, shot)
    return shot


@pytest.fixture
def shot(desk: Desk, tmp_path: Path) -> Shot:
    return opened(desk, tmp_path / "photo.png")


@pytest.fixture
def tab() -> FeaturesTab:
    with gr.Blocks(), gr.Tab("Features") as tab:
        return FeaturesTab.build(tab)


@pytest.fixture
def handlers(tab: FeaturesTab, desk: Desk) -> Handlers:
    return Handlers(tab, desk)


def settings(
    kind: str = "k-means", k: int = 8, words: str = "", contrast: str = "none", upsampling: str = "nearest"
) -> list[Any]:
    return [kind, k, False, False, False, words, contrast, upsampling, *LIVE]


def run(updates: Iterator[dict[Any, Any]]) -> dict[Any, Any]:
    """What the page holds in the end."""
    page: dict[Any, Any] = {}
    for update in updates:
        page |= update
    return page


def fill_all(
    handlers: Handlers, tab: FeaturesTab, shot: Shot, rows: list[str] | None = None, sides: list[int] | None = None
) -> Filled:
    filled = run(handlers.fill(PAGE, rows or ROWS, sides or SIDES, False, shot))[tab.filled]
    assert isinstance(filled, Filled)
    return filled


def colours(drawn: str) -> list[int]:
    return [int(count) for count in re.findall(r'data-clusters="(\d+)"', drawn)]


def panels(drawn: str) -> int:
    found = re.search(r'data-shown="(\d+)"', drawn)
    assert found
    return int(found[1])


# Filling


def test_the_grid_fills_pass_by_pass(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    drawn: list[str] = []
    lines: list[str] = []
    photographs: list[Any] = []
    for update in handlers.fill(PAGE, ROWS, SIDES, False, shot):
        if tab.filled in update:  # the page then asks for a look
            drawn.append(handlers.look(PAGE, shot, update[tab.filled], None, *settings()))
            lines.append(update[tab.progress])
            photographs.append(update[tab.panels].get("photo"))
    assert [panels(one) for one in drawn] == [0, 2, 4]
    assert [one.count("data-running") for one in drawn] == [2, 2, 0]
    assert [one.count("waiting</span>") for one in drawn] == [2, 0, 0]
    assert 'aria-label="CLIP ConvNeXt-Femto (embedded), res4, at 224 px" data-running>' in drawn[1]
    assert colours(drawn[-1]) == [8] * 4
    assert "pass 1 of 2" in lines[0]
    assert lines[-1] == ""
    assert photographs[0].startswith("data:image/jpeg;base64,")
    assert photographs[1:] == [None, None]


def test_the_tab_opens_on_a_worked_example_once_a_picture(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    assert tab.sides.value == [224, 448, 672, 896, 1120]
    filled = run(handlers.open(PAGE, None, ROWS, SIDES, False, shot))[tab.filled]
    assert panels(handlers.look(PAGE, shot, filled, None, *settings())) == 4
    for before, here in ((filled, shot), (None, None)):
        assert list(run(handlers.open(PAGE, before, ROWS, SIDES, False, here))) == [tab.progress]
    assert "Segment a picture first" in handlers.look(PAGE, None, None, None, *settings())
    assert "no grid of this picture" in handlers.look(PAGE, shot, None, None, *settings())


def test_nothing_chosen_is_a_sentence(handlers: Handlers, shot: Shot) -> None:
    for rows, sides in (([], SIDES), (ROWS, [])):
        with pytest.raises(gr.Error, match="at least one row and one column"):
            run(sentences(handlers.fill)(PAGE, rows, sides, False, shot))


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


def test_stop_ends_the_bars_and_keeps_what_is_there(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    updates = handlers.fill(PAGE, ROWS, SIDES, False, shot)
    filled = next(update[tab.filled] for update in updates if update.get(tab.filled, Filled).running == 1)
    updates.close()  # type: ignore[attr-defined]
    drawn = handlers.look(PAGE, shot, handlers.end(filled), None, *settings())
    assert panels(drawn) == 2
    assert "<progress" not in drawn
    assert drawn.count("press Fill the grid") == 2
    assert handlers.end(None) is None


def test_what_breaks_a_fill_ends_its_bars(
    tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(desk.features.source("embedded"), "_read", explode)
    updates = sentences(handlers.fill)(PAGE, ROWS, SIDES, False, shot)
    last = next(update for update in updates if tab.filled in update and update[tab.filled].running is None)
    assert last[tab.progress] == ""
    with pytest.raises(gr.Error, match="has been logged"):
        next(updates)


def test_another_picture_ends_a_fill_and_its_grid(
    tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot, tmp_path: Path
) -> None:
    updates = handlers.fill(PAGE, ROWS, SIDES, False, shot)
    filled = next(updates)[tab.filled]
    other = opened(desk, tmp_path / "other.png", seed=1)
    assert [list(update) for update in updates] == [[tab.progress]]
    assert handlers.look(PAGE, shot, filled, None, *settings()) == gr.skip()
    assert handlers.make_files(PAGE, 0.5, shot, fill_elsewhere(desk, shot), None, *settings()) == gr.skip()
    assert handlers.leave(other, filled) == {tab.filled: None, tab.progress: ""}
    assert "no grid of this picture" in handlers.look(PAGE, other, None, None, *settings())
    assert handlers.leave(shot, filled) == {tab.filled: filled, tab.progress: ""}  # by another model, for example


def fill_elsewhere(desk: Desk, shot: Shot) -> Filled:
    *_, last = fill(desk.features, desk.reopen(shot).picture, grid_of(desk.features, [("embedded", "res3")], [128]))
    assert isinstance(last, Filled)
    return last


def test_a_panel_that_does_not_fit_shows_its_sentence_and_the_others_fill(
    tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = desk.features.source("embedded")
    budget = source.bytes_needed((96, 128), 128)
    monkeypatch.setattr("ovdemo.features.sources.memory_budget", lambda device: budget)
    filled = fill_all(handlers, tab, shot, sides=[128, 448])
    drawn = handlers.look(PAGE, shot, filled, None, *settings())
    assert panels(drawn) == 2
    assert drawn.count("choose 128 px or less") == 2


def test_a_source_that_is_not_here_is_one_sentence_a_row(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    filled = fill_all(handlers, tab, shot, rows=["vit-b-16:block-1", *ROWS])
    drawn = handlers.look(PAGE, shot, filled, None, *settings())
    assert drawn.count("allow the download of its weights (598 MB)") == 1
    assert "ov-wide" in drawn
    assert panels(drawn) == 4


class BrokenHub:
    """Every download begins, and breaks as soon as somebody has seen how far it is."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.seen = threading.Event()

    def load_source(self, name: str, *, progress: Any, **_: Any) -> None:
        self.tried.append(name)
        progress(30_000_000, 600_000_000)
        assert self.seen.wait(60)
        raise UserError("The Hub cannot be reached: connect to a network.")


@pytest.fixture
def broken_hub(monkeypatch: pytest.MonkeyPatch) -> BrokenHub:
    hub = BrokenHub()
    monkeypatch.setattr("ovdemo.panels.desk.load_source", hub.load_source)
    return hub


def test_a_download_is_tried_once(desk: Desk, broken_hub: BrokenHub) -> None:
    wanted = tuple(PanelRecipe("vit-b-16", "block-1", size) for size in SIDES)
    picture = load_picture(np.zeros((64, 64, 3), np.uint8))
    last = None
    for last in fill(desk.features, picture, Grid(("a", "b"), (("row", wanted),)), download=True):
        if isinstance(last, jobs.Progress):
            assert (last.done, last.total) == (30, 600)
            broken_hub.seen.set()
    assert broken_hub.tried == ["vit-b-16"]
    assert isinstance(last, Filled)
    assert dict(last.refused) == dict.fromkeys(wanted, "The Hub cannot be reached: connect to a network.")


def test_the_bar_of_a_panel_follows_its_download(
    tab: FeaturesTab, handlers: Handlers, shot: Shot, broken_hub: BrokenHub
) -> None:
    shares: list[float] = []
    for update in handlers.fill(PAGE, ["vit-b-16:block-1"], [128], True, shot):
        if tab.panels in update:
            shares.append(update[tab.panels]["done"])
            if shares[-1] >= 0:
                assert "Downloading CLIP ViT-B/16 (OpenAI), megabytes 30 of 600" in update[tab.progress]
                broken_hub.seen.set()
    assert shares == [-1, 0.05, -1]


def test_figures_set_rows_columns_and_k_and_fill(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    recipe = FIGURES["fcclip-1"]
    first = handlers.preparation(recipe)()
    filled = run(handlers.player(recipe)(PAGE, False, shot))[tab.filled]
    assert first[tab.rows]["value"] == ["vit-l-14:block-24", "convnext-large:res5", "embedded:res5"]
    assert first[tab.sides] == [224, 448, 672, 896, 1120]
    assert (first[tab.lens.kind], first[tab.lens.k]) == ("k-means", recipe.clusters)
    drawn = handlers.look(PAGE, shot, filled, None, *settings(k=recipe.clusters))
    assert "FC-CLIP, Figure 1" in drawn
    assert "noisier" in drawn
    assert CAPTIONS["k-means"] not in unescape(drawn)
    assert panels(drawn) == 5
    assert colours(drawn) == [recipe.clusters] * 5
    assert CAPTIONS["PCA"] in unescape(handlers.look(PAGE, shot, filled, None, *settings("PCA")))


# Looking


def test_a_lens_looks_at_what_was_read(
    tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = fill_all(handlers, tab, shot)
    monkeypatch.setattr(desk.features.source("embedded"), "_read", lambda *_: pytest.fail("read the picture again"))
    for k in (3, 12):
        assert colours(handlers.look(PAGE, shot, filled, None, *settings(k=k))) == [k] * 4
    for upsampling in ("nearest", "bilinear"):
        drawn = handlers.look(PAGE, shot, filled, None, *settings("PCA", upsampling=upsampling))
        assert 'data-lens="PCA"' in drawn
        assert ("image/png" in drawn) == (upsampling == "nearest")


def test_every_lens_says_what_to_look_for(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    filled = fill_all(handlers, tab, shot, rows=["embedded:projected"])
    for kind in LENSES:
        assert CAPTIONS[kind] in unescape(handlers.look(PAGE, shot, filled, None, *settings(kind)))


def test_settings_and_clicks_outlive_a_fill(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    updates = handlers.fill(PAGE, ROWS, SIDES, False, shot)
    next(updates)
    event: Any = SimpleNamespace(_data={"x": 32, "y": 24})
    clicked = handlers.touch(event, shot)
    rest = run(updates)
    assert {tab.filled, tab.progress, tab.panels} == set(rest)  # neither the click nor a control
    assert set(rest[tab.panels]) - {"__type__"} == {"done"}  # what is shown is drawn by a look
    drawn = handlers.look(PAGE, shot, rest[tab.filled], clicked, *settings("click"))
    assert drawn.count("left:25.00%;top:25.00%") == 4


def test_a_click_belongs_to_its_picture(
    tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot, tmp_path: Path
) -> None:
    event: Any = SimpleNamespace(_data={"x": 0, "y": 0})
    clicked = handlers.touch(event, shot)
    other = opened(desk, tmp_path / "other.png", seed=1)
    drawn = handlers.look(PAGE, other, fill_all(handlers, tab, other), clicked, *settings("click"))
    assert drawn.count("left:50.00%;top:50.00%") == 4
    assert handlers.touch(event, None) is None


def test_the_word_lens_brings_a_final_map_where_there_is_none(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    page = run(handlers.project(PAGE, "word", ROWS, SIDES, False, shot))
    assert page[tab.rows]["value"] == [*ROWS, "embedded:projected"]
    drawn = handlers.look(PAGE, shot, page[tab.filled], None, *settings("word"))
    assert panels(drawn) == 2
    assert drawn.count("does not lie among the words") == 2
    assert "one scale for all panels" in drawn
    kinds: tuple[tuple[list[str], LensKind], ...] = ((ROWS, "PCA"), ([*ROWS, "embedded:projected"], "word"))
    for rows, kind in kinds:
        [update] = handlers.project(PAGE, kind, rows, SIDES, False, shot)
        assert list(update) == [tab.progress]


def test_words_that_cannot_be_used_are_a_sentence(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    filled = fill_all(handlers, tab, shot, rows=["embedded:projected"])
    assert "never closed" in handlers.look(PAGE, shot, filled, None, *settings("word", words='"cat'))
    many = ", ".join(f"strange word {number}" for number in range(150))
    drawn = handlers.look(PAGE, shot, filled, None, *settings("word", words=many, contrast="others"))
    assert "150 of these names are new" in drawn
    assert panels(handlers.look(PAGE, shot, filled, None, *settings("word", words=many))) == 2


def test_typed_words_are_text(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    typed = '<img src=x onerror="alert(1)">'
    filled = fill_all(handlers, tab, shot, rows=["embedded:projected"])
    drawn = handlers.look(PAGE, shot, filled, None, *settings("word", words=typed))
    assert "<img src=x" not in drawn
    assert "&lt;img src=x" in drawn


def test_forgotten_features_are_a_sentence(tab: FeaturesTab, handlers: Handlers, desk: Desk, shot: Shot) -> None:
    filled = fill_all(handlers, tab, shot)
    desk.features.forget(shot.digest)
    assert "press Fill the grid" in handlers.look(PAGE, shot, filled, None, *settings())


# Taking away


def test_files_are_the_grid_and_the_features(tab: FeaturesTab, handlers: Handlers, shot: Shot) -> None:
    filled = fill_all(handlers, tab, shot)
    drawing, archive = handlers.make_files(PAGE, 0.5, shot, filled, None, *settings())["value"]
    with Image.open(drawing) as image:
        assert image.format == "PNG"
    with np.load(io.BytesIO(Path(archive).read_bytes())) as loaded:
        assert sorted(loaded.files) == ["about", "map_0", "map_1", "map_2", "map_3"]
    for nothing in (None, dataclasses.replace(filled, digest="another picture's")):
        with pytest.raises(UserError, match="press Fill the grid"):
            handlers.make_files(PAGE, 0.5, shot, nothing, None, *settings())


def test_features_too_large_to_send_are_refused(
    tab: FeaturesTab, handlers: Handlers, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = fill_all(handlers, tab, shot)
    monkeypatch.setattr("ovdemo.ui.filling._MAX_EXPORT", 1000)
    with pytest.raises(UserError, match="fewer rows or smaller sizes"):
        handlers.make_files(PAGE, 0.5, shot, filled, None, *settings())


def test_rows_say_what_would_be_downloaded(desk: Desk) -> None:
    names = {value: words for words, value in row_choices(desk.features)}
    assert "to download, 1,710 MB" in names["vit-l-14:block-12"]
    assert "download" not in names["embedded:res5"]
    assert not any(name.startswith("fcclip-") for name in names)  # no such model is here


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
    calm = api.features(key, layer="res3", size=224, k=5, median=True)
    assert calm["roughness"] < plain["roughness"]
    inside = api.features(key, layer="res3", size=224, lens="PCA", foreground=True)["cells"]
    assert (np.asarray(inside) == 0).all(-1).any()
    shares = api.features(key, layer="projected", lens="word", words="cat, sky", contrast="softmax")["cells"]
    assert 0 <= np.min(shares) <= np.max(shares) <= 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lens": "x"}, "lens must be one of k-means"),
        ({"contrast": "x"}, "contrast must be one of none"),
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
