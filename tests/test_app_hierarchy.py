"""The Hierarchy tab in a real browser."""

from __future__ import annotations

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
    return page


def names(page: Page) -> set[str]:
    return set(page.locator(f"{VIEWER} .ov-legend .ov-name").all_inner_texts())


def set_depth(page: Page, depth: int) -> None:
    drawn = page.locator(f"{VIEWER} .ov-viewer").get_attribute("data-drawn")
    slider(page, "tree-depth").fill(str(depth))
    slider(page, "tree-depth").press("Enter")
    expect(page.locator(f"{VIEWER} .ov-viewer")).not_to_have_attribute("data-drawn", drawn or "")


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
    deepest = int(slider(page, "tree-depth").get_attribute("max") or 0)
    assert deepest >= 1
    counts = []
    for depth in range(deepest - 1, -1, -1):
        set_depth(page, depth)
        counts.append(len(names(page)))
    assert counts == sorted(counts, reverse=True)
    assert names(page) == {"entity"}


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


def test_all_nouns_of_imagenet_as_a_tree(page: Page) -> None:
    page.locator("#tree-source").get_by_label("ImageNet-21K").check()
    expect(page.locator("#tree-note")).to_contain_text("19,005 classes")
    unfold(page, "Top five of 21,841 nouns for every segment")
    page.locator("#tree-top").click()
    expect(page.locator("#tree-nouns .ov-noun").first).to_be_visible()
