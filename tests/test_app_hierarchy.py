"""The Hierarchy tab in a real browser."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from test_app_browser import OpenPage, expect_drawn, legend, open_page, open_tab, slider, unfold  # noqa: F401 - a fixture

VIEWER = "#tree-viewer"


@pytest.fixture
def page(open_page: OpenPage) -> Page:  # noqa: F811
    page = open_page()
    open_tab(page, "Hierarchy")
    expect_drawn(page, VIEWER)
    expect_end(page)
    return page


def paths(page: Page) -> dict[str, list[str]]:
    """What each segment is called at every depth, by its id, as the table of levels says."""
    found = {}
    for row in range(legend(page, VIEWER).count()):
        segment, path = (page.locator(f"#tree-levels [data-testid=cell-{row}-{column}]") for column in (0, 1))
        steps = path.inner_text().split(" > ")
        found[segment.inner_text().split()[0]] = [step.strip().rpartition(" ")[0] for step in steps]
    return found


def expect_end(page: Page) -> int:
    """The slider stands at its end, which is the depth of the deepest path; returns that."""
    deepest = max(len(path) for path in paths(page).values()) - 1
    expect(slider(page, "tree-depth")).to_have_attribute("max", str(deepest))
    expect(slider(page, "tree-depth")).to_have_value(str(deepest))
    return deepest


def expect_depth(page: Page, depth: int) -> set[str]:
    """The viewer calls every segment what it is called at a depth; returns these labels."""
    labels = {number: path[min(depth, len(path) - 1)] for number, path in paths(page).items()}
    for number, label in labels.items():
        expect(page.locator(f"{VIEWER} .ov-row[data-id='{number}'] .ov-name")).to_have_text(label)
    return set(labels.values())


def set_depth(page: Page, depth: int) -> None:
    slider(page, "tree-depth").fill(str(depth))
    slider(page, "tree-depth").press("Enter")


def test_the_tab_opens_on_the_path_of_the_largest_segment(page: Page) -> None:
    expect(page.locator(".ov-tree svg")).to_have_attribute("aria-label", re.compile("entity > .*"))
    expect(page.locator("#tree-note")).to_contain_text("nodes")
    expect(page.locator("#tree-levels")).to_contain_text("entity")


def test_a_click_on_a_segment_shows_its_path(page: Page) -> None:
    row = legend(page, VIEWER).first
    label = row.locator(".ov-name").inner_text()
    row.click()
    expect(page.locator(f"{VIEWER} .ov-viewer")).not_to_have_attribute("data-chosen", "0")
    expect(page.locator(".ov-tree svg")).to_have_attribute("aria-label", re.compile(f"{re.escape(label)}$"))


def test_labels_get_no_fewer_as_the_depth_grows(page: Page) -> None:
    deepest = expect_end(page)
    assert deepest >= 2
    counts = []
    for depth in range(deepest, -1, -1):
        set_depth(page, depth)
        labels = expect_depth(page, depth)
        counts.append(len(labels))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    assert labels == {"entity"}


def test_the_depth_slider_stays_where_it_is_dragged_to(page: Page) -> None:
    deepest = expect_end(page)
    handle = page.locator("#tree-depth input[type=range]")
    handle.focus()
    for _ in range(deepest):  # faster than any answer comes
        handle.press("ArrowLeft")
    handle.press("ArrowRight")
    assert len(expect_depth(page, 1)) >= 1
    expect(slider(page, "tree-depth")).to_have_value("1")
    slider(page, "tree-threshold").fill("1")  # what changes the whole tab leaves the slider alone as well
    slider(page, "tree-threshold").press("Enter")
    expect(page.locator(".ov-tree svg")).to_contain_text("unsure from here")
    expect(slider(page, "tree-depth")).to_have_value("1")
    expect(slider(page, "tree-depth")).to_have_attribute("max", str(deepest))


def test_the_slider_follows_another_tree_from_its_end(page: Page) -> None:
    before = expect_end(page)
    page.locator("#tree-source").get_by_label("ImageNet-21K").check()
    expect(page.locator("#tree-note")).to_contain_text("19,005 classes")
    deepest = expect_end(page)
    assert deepest > before
    expect_depth(page, deepest)
    page.locator("#tree-source").get_by_label("my words").check()
    expect(page.locator("#tree-note")).to_contain_text("6 classes")
    assert expect_end(page) == before
    expect_depth(page, before)


def test_a_tree_of_ones_own_and_a_mistake_in_it(page: Page) -> None:
    page.locator("#tree-source").get_by_label("a tree as text").check()
    text = page.locator("#tree-text textarea")
    text.fill("thing\n  sky\n  plant\n    tree\n  building\n    temple")
    text.blur()
    expect(page.locator(".ov-tree svg")).to_have_attribute("aria-label", re.compile("^thing > "))
    text.fill("thing\n    sky\n  tree\n    sky")
    text.blur()
    expect(page.locator(".toast-body")).to_contain_text("line")
    expect(page.locator(".ov-tree svg")).to_be_visible()


def test_the_best_nouns_are_there_without_asking(page: Page) -> None:
    """The embedded model comes with their embeddings: five a segment, in a table and as bars under the pointer."""
    unfold(page, "Top five of 21,841 nouns for every segment")
    table = page.locator("#tree-nouns table")
    expect(table.get_by_role("rowheader")).to_have_count(legend(page, VIEWER).count())
    expect(table.locator("tbody tr").first.get_by_role("cell")).to_have_count(5)
    expect(page.locator("#tree-top")).to_be_hidden()
    in_the_sky = {"x": 200, "y": 4}
    page.locator(f"{VIEWER} canvas").hover(position=in_the_sky)
    expect(page.locator(f"{VIEWER} .ov-tip-row")).to_have_count(5)
    set_depth(page, 0)
    expect_depth(page, 0)
    page.locator(f"{VIEWER} canvas").hover(position={**in_the_sky, "x": 100})
    expect(page.locator(f"{VIEWER} .ov-tip-row")).to_have_count(5)  # other answers keep them


def test_paths_can_be_downloaded(page: Page) -> None:
    row = legend(page, VIEWER).nth(1)
    number = row.get_attribute("data-id")
    row.click()
    expect(page.locator(f"{VIEWER} .ov-viewer")).to_have_attribute("data-chosen", number or "")
    unfold(page, "The path as JSON")
    page.locator("#tree-make").click()
    links = page.locator("#tree-files a[download]")
    expect(links).to_have_count(2)
    documents = []
    for link in links.all():
        with page.expect_download() as download:
            link.click()
        documents.append(json.loads(download.value.path().read_text("utf-8")))
    one, every = documents
    assert [segment["id"] for segment in one["segments"]] == [int(number or 0)]
    assert one["segments"][0] in every["segments"]
    assert {str(segment["id"]) for segment in every["segments"]} == set(paths(page))
    legend(page, VIEWER).first.click()
    expect(links).to_have_count(0)  # they were of the path before
