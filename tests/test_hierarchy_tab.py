"""The Hierarchy tab without a browser: what its handlers send to the page."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import gradio as gr
import pytest

from ovdemo.errors import UserError
from ovdemo.hierarchy import Stopping
from ovdemo.inspection import Case
from ovdemo.stopwatch import Stopwatch
from ovdemo.ui import hierarchy_tab, html
from ovdemo.ui.api import Api
from ovdemo.ui.desk import Desk
from ovdemo.ui.hierarchy_tab import Handlers, HierarchyTab, Turns
from ovdemo.ui.tree_answers import Nouns, by_area, kept_depth, sense_choices
from ovdemo.ui.visits import Shot
from ovdemo.vocabulary import Vocabulary, parse_classes
from painted import painted_workbench, painting, png

PAGE: Any = SimpleNamespace(session_hash="page")
WORDS = "cat, grass:stuff, dog"
TREE = "thing\n  animal\n    cat\n    dog\nstuff\n  grass"
IN_THE_DOG = (12, 3)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The painted system under every name, and a short list of nouns for ImageNet's."""
    nouns = parse_classes("cat, dog, grass, cattle, car, lamp")
    monkeypatch.setattr(hierarchy_tab, "load_preset", lambda name: nouns)
    monkeypatch.setattr("ovdemo.workbench.load_preset", lambda name: nouns)
    monkeypatch.setattr("ovdemo.workbench.kinds_of_person", lambda wordnet: (3,))
    workbench = painted_workbench()
    workbench.name = "painted"
    models: Any = SimpleNamespace(
        get=lambda name: workbench,
        loaded=lambda name: workbench,
        forget=workbench.forget,
        device="cpu",
        accelerate=None,
    )
    return Desk(models)


def opened(desk: Desk, folder: Path, *names: str) -> Shot:
    """A painting that the page shows."""
    path = folder / f"{'-'.join(names)}.png"
    path.write_bytes(png(painting(*names)))
    shot, _ = desk.open(path, "painted", None, Stopwatch())
    desk.remember("page", shot)
    return shot


@pytest.fixture
def shot(desk: Desk, tmp_path: Path) -> Shot:
    return opened(desk, tmp_path, "cat", "dog", "grass", "cat")


@pytest.fixture
def tab() -> HierarchyTab:
    with gr.Blocks(), gr.Tab("Hierarchy") as tab:
        return HierarchyTab.build(tab)


@pytest.fixture
def point() -> gr.State:
    return gr.State(None)


@pytest.fixture
def handlers(tab: HierarchyTab, desk: Desk, point: gr.State) -> Handlers:
    return Handlers(tab, desk, point)


def asked(shot: Shot | None, *, words: str = WORDS, depth: int = 8, **given: Any) -> list[Any]:
    """The inputs of a handler, in the order of Question."""
    sent = [given.get("point"), given.get("deepest", 8), given.get("opened", False), given.get("best")]
    source, text, noun = given.get("source", "a tree as text"), given.get("text", TREE), given.get("noun", "animal")
    choices, mode, mean_inner = given.get("choices", {}), given.get("mode", "roll-up"), given.get("mean_inner", True)
    live = [
        words,
        [],
        "panoptic",
        given.get("object_threshold", 0.0),
        0.8,
        given.get("fusion", "geometric"),
        0.4,
        0.8,
        0.0,
        None,
    ]
    settings = [source, text, noun, choices, mode, mean_inner, depth, given.get("threshold", 0.0), 0.0]
    return [shot, *sent, *settings, *live]


def labels(update: dict[Any, Any], tab: HierarchyTab) -> list[str]:
    return [segment["label"] for segment in update[tab.viewer]["value"]["segments"]]


def skipped(answer: Any) -> bool:
    return answer == gr.skip()


# --- what an answer holds ---


def test_the_tab_opens_on_the_largest_segment(tab: HierarchyTab, handlers: Handlers, shot: Shot) -> None:
    page = handlers.open(PAGE, *asked(shot))
    assert labels(page, tab) == ["cat", "grass", "dog"]
    assert page[tab.viewer]["value"]["picture"].startswith("gradio_api/file=")
    assert page[tab.opened]
    assert page[tab.record]["answer"] == "cat"
    assert [row[0] for row in page[tab.levels]] == ["1 cat", "2 grass", "3 dog"]
    assert "anything > thing > animal > cat" in page[tab.drawing].replace("&gt;", ">")
    assert page[tab.depth] == 3
    assert page[tab.deepest] == 3
    assert "7 nodes, 3 classes, 3 levels" in page[tab.note]


def test_a_click_shows_a_segments_path(tab: HierarchyTab, handlers: Handlers, shot: Shot, point: gr.State) -> None:
    event: Any = SimpleNamespace(_data={"x": IN_THE_DOG[0], "y": IN_THE_DOG[1]})
    page = handlers.touch(PAGE, event, *asked(shot, deepest=3, depth=2, opened=True))
    assert page[tab.record]["levels"][-1]["label"] == "dog"
    assert page[point] == IN_THE_DOG
    assert page[tab.viewer]["value"]["chosen"] == 3
    assert labels(page, tab) == ["animal", "grass", "animal"]
    assert tab.depth not in page


def test_the_depth_slider_is_answered_with_the_viewer_alone(tab: HierarchyTab, handlers: Handlers, shot: Shot) -> None:
    """Anything sent to the slider itself would pull it back from where it is dragged to."""
    seen = []
    for depth in (3, 2, 1, 0):
        page = handlers.recolor(PAGE, *asked(shot, deepest=3, depth=depth, opened=True))
        assert set(page) == {tab.viewer, tab.opened}
        seen.append(labels(page, tab))
    assert seen == [
        ["cat", "grass", "dog"], ["animal", "grass", "animal"], ["thing", "stuff", "thing"], ["anything"] * 3
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("depth", "before", "deepest", "kept"),
    [
        (8, 8, 3, 3),  # deeper than the tree
        (5, 8, 3, 3),
        (3, 3, 6, 6),  # it stood at the end
        (2, 3, 6, 2),  # where the visitor put it
        (2, 6, 3, 2),
        (3, 6, 3, 3),
        (2, 3, 3, 2),
        (3, 3, 3, 3),
        (0, 3, 1, 0),
    ],
)
def test_the_slider_moves_only_where_it_must(  # noqa: PLR0917
    tab: HierarchyTab, handlers: Handlers, shot: Shot, depth: int, before: int, deepest: int, kept: int
) -> None:
    assert kept_depth(depth, before, deepest) == kept
    chain = "\n".join("  " * level + name for level, name in enumerate(["thing", *"abcde"][:deepest]))
    text = f"{chain}\n{'  ' * deepest}cat\n{'  ' * deepest}dog"
    page = handlers.climb(PAGE, *asked(shot, text=text, depth=depth, deepest=before))
    assert page[tab.deepest] == deepest
    assert page.get(tab.depth, depth) == kept
    assert (tab.depth in page) == (kept != depth)


def test_a_picture_without_segments(tab: HierarchyTab, handlers: Handlers, shot: Shot) -> None:
    page = handlers.open(PAGE, *asked(shot, object_threshold=1.0))
    assert page[tab.levels] == []
    assert page[tab.record] is None
    assert "There is no segment" in page[tab.drawing]
    assert page[tab.deepest] == 1
    list(handlers.encode_nouns(PAGE, *asked(shot)))
    assert "There is no segment" in handlers.name(PAGE, *asked(shot, object_threshold=1.0, opened=True))[tab.nouns]
    (file,) = handlers.make_files(PAGE, *asked(shot, object_threshold=1.0))["value"]
    assert json.loads(Path(file).read_text("utf-8"))["segments"] == []


def test_what_prevents_an_answer_is_said_in_the_tab(tab: HierarchyTab, handlers: Handlers, shot: Shot) -> None:
    page = handlers.open(PAGE, *asked(shot, text="a\n    b\n  c"))
    assert "Line 3: the indentation" in page[tab.drawing]
    assert page[tab.opened]
    with pytest.raises(UserError, match="Line 3"):
        handlers.climb(PAGE, *asked(shot, text="a\n    b\n  c"))
    many = "\n".join(f"word {i}" for i in range(200))
    assert "press the button" in handlers.open(PAGE, *asked(shot, text=many))[tab.drawing]


def test_without_wordnet_the_tab_says_so_and_trees_as_text_work(
    tab: HierarchyTab, handlers: Handlers, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise UserError("WordNet is missing; get the project's files again.")

    monkeypatch.setattr("ovdemo.hierarchy.sources.load_wordnet", missing)
    for source in ("my words", "ImageNet-21K", "all nouns under"):
        page = handlers.open(PAGE, *asked(shot, source=source, words="cat, dog, grass, rather new words"))
        assert "WordNet is missing" in page[tab.drawing]
        assert set(page) == {tab.drawing, tab.opened}
    assert labels(handlers.open(PAGE, *asked(shot)), tab) == ["cat", "grass", "dog"]


def test_the_tab_opened_before_any_picture_follows_the_first(
    tab: HierarchyTab, handlers: Handlers, desk: Desk, tmp_path: Path
) -> None:
    page = handlers.open(PAGE, *asked(None))
    assert "press Segment" in page[tab.drawing]
    shot = opened(desk, tmp_path, "dog", "grass")
    assert labels(handlers.follow(PAGE, *asked(shot, opened=page[tab.opened])), tab) == ["grass", "dog"]
    assert skipped(handlers.follow(PAGE, *asked(shot)))  # a tab that nobody opened costs nothing


@pytest.mark.parametrize("mean_inner", [True, False])
def test_greedy_descent(tab: HierarchyTab, handlers: Handlers, shot: Shot, mean_inner: bool) -> None:
    page = handlers.climb(PAGE, *asked(shot, mode="greedy", mean_inner=mean_inner))
    assert page[tab.record]["mode"] == "greedy"
    if mean_inner:
        assert labels(page, tab) == ["cat", "grass", "dog"]


# --- answers that come too late ---


def test_answers_for_an_earlier_picture_are_dropped(
    tab: HierarchyTab, handlers: Handlers, desk: Desk, shot: Shot, tmp_path: Path
) -> None:
    opened(desk, tmp_path, "dog", "grass")
    event: Any = SimpleNamespace(_data={"x": 3, "y": 3})
    inputs = asked(shot, opened=True)
    for handler in (handlers.open, handlers.climb, handlers.recolor, handlers.name, handlers.make_files):
        assert skipped(handler(PAGE, *inputs))
    assert skipped(handlers.touch(PAGE, event, *inputs))
    assert skipped(handlers.offer(PAGE, True, shot, None, {}, *inputs[-10:]))
    assert skipped(handlers.explain(PAGE, shot, "cat", {}, *inputs[-10:]))
    for lines in (handlers.encode(PAGE, *inputs), handlers.encode_nouns(PAGE, *inputs)):
        assert all(map(skipped, lines))


def test_an_earlier_answer_does_not_replace_a_later_one(
    tab: HierarchyTab, handlers: Handlers, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the whole tab is being answered, the depth is moved and answered first."""
    climbed = Handlers._climbed
    moved: list[Any] = []

    def slow(self: Handlers, *rest: Any) -> Any:
        if not moved:
            moved.append(None)
            moved.append(self.recolor(PAGE, *asked(shot, depth=1, opened=True)))
        return climbed(self, *rest)

    monkeypatch.setattr(Handlers, "_climbed", slow)
    page = handlers.climb(PAGE, *asked(shot, opened=True))
    assert labels(moved[1], tab) == ["thing", "stuff", "thing"]
    assert tab.viewer not in page
    assert page[tab.record]["answer"] == "cat"  # nobody else has filled that part


def test_turns_are_taken_page_by_page_and_part_by_part() -> None:
    turns = Turns()
    first, second = turns.ask(), turns.ask()
    assert turns.may_fill("one", "picture", second)
    assert turns.may_fill("one", "picture", second)
    assert not turns.may_fill("one", "picture", first)
    assert turns.may_fill("one", "path", first)
    assert turns.may_fill("other", "picture", first)
    for number in range(hierarchy_tab._TURNS):
        turns.may_fill(str(number), "picture", turns.ask())
    assert len(turns._filled) == hierarchy_tab._TURNS
    assert turns.may_fill("one", "picture", first)  # forgotten


# --- nouns ---


def test_nouns_come_with_a_click_and_then_by_themselves(tab: HierarchyTab, handlers: Handlers, shot: Shot) -> None:
    inputs = asked(shot, opened=True)
    page = handlers.name(PAGE, *inputs)
    assert page == {tab.top: gr.update(visible=True), tab.stop_top: gr.update(visible=True)}
    *progress, last = handlers.encode_nouns(PAGE, *inputs)
    assert all("<progress" in line for line in progress)
    assert "encoded" in last

    page = handlers.name(PAGE, *inputs)
    assert page[tab.top] == page[tab.stop_top] == gr.update(visible="hidden")
    details = page[tab.viewer]["value"]["details"]
    assert set(details) == {"1", "2", "3"}
    assert details["3"][0] == ("dog", 1.0)
    assert details["1"][0] == ("cat", 0.5)  # cattle, which stands for the kinds of person here, has the other half
    assert all(dict(best).get("cattle", 0) == 0 for best in details.values())
    assert page[tab.nouns].count("<tr>") == 4
    assert json.loads(json.dumps(page[tab.viewer]["value"]))["details"]["1"][0][0] == "cat"
    best = page[tab.best]
    assert isinstance(best, Nouns)

    inputs = asked(shot, opened=True, best=best, depth=1)
    assert skipped(handlers.name(PAGE, *inputs))
    assert handlers.recolor(PAGE, *inputs)[tab.viewer]["value"]["details"] == details


def test_nouns_of_another_answer_are_not_shown(
    tab: HierarchyTab, handlers: Handlers, desk: Desk, shot: Shot, tmp_path: Path
) -> None:
    stale = Nouns("another answer", {"1": [("tiger", 1.0)]})
    assert "details" not in handlers.climb(PAGE, *asked(shot, best=stale))[tab.viewer]["value"]
    page = handlers.name(PAGE, *asked(shot, opened=True, best=stale))
    assert (page[tab.best], page[tab.nouns]) == (None, "")
    list(handlers.encode_nouns(PAGE, *asked(shot)))
    best = handlers.name(PAGE, *asked(shot, opened=True))[tab.best]
    for changed in ({"words": "dog, grass"}, {"fusion": "out-of-vocabulary"}):
        inputs = asked(shot, opened=True, best=best, **changed)
        assert "details" not in handlers.climb(PAGE, *inputs)[tab.viewer]["value"]
        assert handlers.name(PAGE, *inputs)[tab.best].about != best.about
    other = opened(desk, tmp_path, "dog", "grass")
    page = handlers.follow(PAGE, *asked(other, opened=True, best=best))
    assert (page[tab.best], page[tab.nouns]) == (None, "")
    assert "details" not in page[tab.viewer]["value"]


def test_nouns_are_a_table_with_headers_for_rows_and_columns(desk: Desk, shot: Shot) -> None:
    analysis = desk.reopen(shot)
    case = analysis.answer(WORDS)
    table = ElementTree.fromstring(html.nouns(case.segmentation.segments, analysis.top_nouns(case)))
    assert table.find(".//caption") is not None
    assert [cell.text for cell in table.findall(".//thead//th[@scope='col']")] == ["segment", "1", "2", "3", "4", "5"]
    assert [cell.findtext("bdi") for cell in table.findall(".//tbody//th[@scope='row']")] == ["cat", "grass", "dog"]
    cells = table.findall(".//tbody/tr")[1].findall("td")
    assert [(cell.findtext("bdi"), cell.findtext("b")) for cell in cells[:1]] == [("grass", "1.000")]
    assert len(cells) == 5
    assert "width:100.0%" in str(cells[0].find("i").attrib)  # type: ignore[union-attr]


# --- words ---


def test_the_words_of_a_tree_are_encoded_with_progress(tab: HierarchyTab, handlers: Handlers, shot: Shot) -> None:
    many = "\n".join(f"word {i}" for i in range(200))
    *progress, last = handlers.encode(PAGE, *asked(shot, text=many))
    assert any("of 200" in line for line in progress)
    assert "encoded" in last
    assert tab.viewer in handlers.climb(PAGE, *asked(shot, text=many))


def test_words_with_several_senses_are_offered(tab: HierarchyTab, handlers: Handlers, shot: Shot) -> None:
    live = asked(shot, words="mouse, giraffe, cat, grass")[-10:]
    page = handlers.offer(PAGE, True, shot, None, {}, *live)
    assert page[tab.word] == gr.update(choices=["cat", "grass", "mouse"], value="cat", info=None)
    page = handlers.offer(PAGE, True, shot, "mouse", {"mouse": "mouse.n.04"}, *live)
    assert page[tab.word]["value"] == "mouse"
    assert page[tab.sense]["value"] == "mouse.n.04"
    assert handlers.explain(PAGE, shot, "cat", {}, *live)["value"] == "cat.n.01"
    assert skipped(handlers.offer(PAGE, False, shot, None, {}, *live))


def test_of_thousands_of_words_the_pictures_own_are_offered(
    tab: HierarchyTab, handlers: Handlers, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hierarchy_tab, "_WORDS_OFFERED", 2)
    page = handlers.offer(PAGE, True, shot, None, {}, *asked(shot, words="mouse, table, dog, grass, cat")[-10:])
    assert page[tab.word]["choices"] == ["cat", "grass"]
    assert page[tab.word]["info"] == "of 5 words only 2 are listed here, the picture's own first"


def test_classes_by_area_and_senses_of_unknown_words(desk: Desk, shot: Shot) -> None:
    case: Case = desk.reopen(shot).answer("mouse, grass, dog, cat")
    assert [entry.label for entry in by_area(case)] == ["cat", "grass", "dog", "mouse"]
    assert sense_choices(case.vocabulary, "blorp") == ([], None)
    assert sense_choices(Vocabulary(()), "") == ([], None)


# --- files ---


def test_files_hold_the_shown_path_and_all_paths(handlers: Handlers, shot: Shot) -> None:
    update = handlers.make_files(PAGE, *asked(shot, point=IN_THE_DOG, threshold=0.75))
    assert update["visible"] is True
    one, every = map(Path, update["value"])
    assert (one.name, every.name) == ("path-3.json", "paths.json")
    document = json.loads(every.read_text("utf-8"))
    assert (document["picture"], document["nodes"]) == ("cat-dog-grass-cat.png", 7)
    assert [segment["label"] for segment in document["segments"]] == ["cat", "grass", "dog"]
    assert document["segments"][0]["path"]["threshold"] == Stopping(0.75).threshold
    (path,) = json.loads(one.read_text("utf-8"))["segments"]
    assert path == document["segments"][2]
    assert [level["label"] for level in path["path"]["levels"]] == ["anything", "thing", "animal", "dog"]


# --- the endpoint ---


def test_the_endpoint_answers_as_the_files_do(desk: Desk, handlers: Handlers, shot: Shot) -> None:
    with gr.Blocks():
        api = Api(desk)
    key = desk.key(shot)
    document = api.hierarchy(key, WORDS, "text", TREE, threshold=0.75)
    _, file = handlers.make_files(PAGE, *asked(shot, threshold=0.75))["value"]
    assert {"picture": "cat-dog-grass-cat.png", **document} == json.loads(Path(file).read_text("utf-8"))
    # Inner nodes look like nothing by their names, and like what is below them by the means.
    by_means = api.hierarchy(key, WORDS, "text", TREE, mode="greedy")["segments"][2]["path"]
    by_names = api.hierarchy(key, WORDS, "text", TREE, mode="greedy", inner_means=False)["segments"][2]["path"]
    assert [level["label"] for level in by_means["levels"]] == ["anything", "thing", "animal", "dog"]
    assert by_means["levels"][1]["share"] > 0.9
    assert by_names["levels"][1]["share"] < 0.9


def test_the_endpoint_refuses_what_it_cannot_use(desk: Desk, shot: Shot) -> None:
    with gr.Blocks():
        api = Api(desk)
    key = desk.key(shot)
    for given, sentence in (
        ({"source": "text"}, "empty"),
        ({"source": "text", "text": None}, "empty"),
        ({"source": "leaves"}, "no kind of tree"),
        ({"mode": "upwards"}, "mode must be one of"),
        ({"threshold": float("nan")}, "threshold must be a number"),
        ({"margin": 2}, "margin must be a number"),
    ):
        with pytest.raises(UserError, match=sentence):
            api.hierarchy(key, WORDS, **given)  # type: ignore[arg-type]
