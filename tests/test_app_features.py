"""The Features tab in a real browser."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from ovdemo import paths
from test_app_browser import (
    PHONE,
    OpenPage,
    expect_drawn,
    open_page,  # noqa: F401 - a fixture
    open_tab,
    own_picture,
    slider,
    upload,
)

_OPEN_STREAM = 15  # seconds

# How many colours a panel has, as the browser shows it.
COLOURS = """image => {
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [image.naturalWidth, image.naturalHeight];
  const pen = sheet.getContext("2d");
  pen.drawImage(image, 0, 0);
  return new Set(new Uint32Array(pen.getImageData(0, 0, sheet.width, sheet.height).data.buffer)).size;
}"""


class Quiet:
    """Waits until the server has told a page all it has to tell.

    An event that is raised while Gradio closes its stream of answers is answered only with the next one; a stream that
    stays open waits for that, and then so may the test go on to its next event.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._streams = page, set[Request]()
        page.on("request", self._opened)
        page.on("requestfinished", self._closed)
        page.on("requestfailed", self._closed)

    def wait(self) -> None:
        deadline = time.monotonic() + _OPEN_STREAM
        while self._streams and time.monotonic() < deadline:
            self._page.wait_for_timeout(50)

    def _opened(self, request: Request) -> None:
        if "/queue/data" in request.url:
            self._streams.add(request)

    def _closed(self, request: Request) -> None:
        self._streams.discard(request)


def open_features(open_page: OpenPage, **settings: object) -> tuple[Page, Quiet]:  # noqa: F811
    page = open_page(answered=False, **settings)
    quiet = Quiet(page)
    expect_drawn(page)
    quiet.wait()
    open_tab(page, "Features")
    expect_panels(page, shown=10)
    quiet.wait()
    return page, quiet


@pytest.fixture
def opened(open_page: OpenPage) -> tuple[Page, Quiet]:  # noqa: F811
    return open_features(open_page)


def expect_panels(page: Page, *, shown: int, lens: str = "k-means") -> None:
    grid = page.locator(".ov-panels")
    expect(grid).to_have_attribute("data-shown", str(shown))
    expect(grid).to_have_attribute("data-lens", lens)
    expect(page.locator(".ov-panel")).to_have_count(shown)


def look_through(page: Page, quiet: Quiet, lens: str) -> None:
    quiet.wait()
    page.locator("#features-lens").get_by_label(lens, exact=True).check()


def test_the_tab_opens_on_a_filled_grid(opened: tuple[Page, Quiet]) -> None:
    page, _ = opened
    expect(page.locator(".ov-column")).to_have_text(["224 px", "448 px", "672 px", "896 px", "1120 px"])
    expect(page.locator(".ov-about")).to_contain_text("Cells of one colour have like features")
    expect(page.locator("#figure-eovseg-5")).to_be_disabled()
    expect(page.locator(".ov-panel img").first).to_have_attribute("alt", re.compile("8 clusters .*res5, at 224 px"))
    expect(page.locator(".ov-panel figcaption").first).to_contain_text(re.compile(r"9 × 6 cells.*rough 0\.\d\d"))
    assert "url(" in page.locator(".ov-frame").first.evaluate("e => getComputedStyle(e).backgroundImage")


def test_k_is_the_number_of_colours(opened: tuple[Page, Quiet]) -> None:
    page, quiet = opened
    for k in (8, 3):
        quiet.wait()
        slider(page, "features-k").fill(str(k))
        expect(page.locator(f'.ov-panel[data-clusters="{k}"]')).to_have_count(10)
        assert page.locator(".ov-panel img").last.evaluate(COLOURS) == k


def test_lenses_and_opacity_keep_the_rows_that_were_chosen(opened: tuple[Page, Quiet]) -> None:
    page, quiet = opened
    rows = page.locator("#features-rows .token")
    for lens in ("PCA", "click"):
        look_through(page, quiet, lens)
        expect_panels(page, shown=10, lens=lens)
        expect(page.locator("#features-k")).to_be_hidden()
        expect(page.locator("#features-foreground")).to_be_visible(visible=lens == "PCA")
    expect(rows).to_have_count(2)
    quiet.wait()
    before = page.locator(".ov-mark").first.get_attribute("style")
    page.locator(".ov-panel img").last.click(position={"x": 5, "y": 5})
    expect(page.locator(".ov-mark").first).not_to_have_attribute("style", before or "")
    look_through(page, quiet, "word")
    expect_panels(page, shown=5, lens="word")
    expect(page.locator("#features-words")).to_be_visible()
    expect(rows).to_have_count(3)
    slider(page, "features-opacity").fill("0.25")
    expect(page.locator(".ov-panel img").first).to_have_css("opacity", "0.25")


def test_a_figure_is_one_click(opened: tuple[Page, Quiet]) -> None:
    page, quiet = opened
    page.locator("#figure-eovseg-3").click()
    expect(page.locator(".ov-about")).to_contain_text("EOV-Seg, Figures 3 and 9")
    expect(page.locator(".ov-refused.ov-wide")).to_have_count(3)
    quiet.wait()
    page.locator("#figure-fcclip-1").click()
    expect(page.locator(".ov-about")).to_contain_text("FC-CLIP, Figure 1")
    expect_panels(page, shown=5)
    expect(page.locator(".ov-refused")).to_contain_text(["ViT-L/14", "ConvNeXt-Large"])


def see_own(page: Page, quiet: Quiet, folder: Path, width: int) -> None:
    """Segment a photograph that nothing is known about yet, so that its grid takes seconds to fill."""
    open_tab(page, "Segment")
    upload(page, own_picture(folder, width))
    page.locator("#segment").click()
    expect(page.locator("#viewer canvas")).to_have_attribute("width", str(width))
    quiet.wait()


def filling(open_page: OpenPage, folder: Path, width: int) -> tuple[Page, Quiet]:  # noqa: F811
    """A page whose grid is being filled."""
    page = open_page(answered=False)
    quiet = Quiet(page)
    expect_drawn(page)
    quiet.wait()
    see_own(page, quiet, folder, width)
    open_tab(page, "Features")
    expect(page.locator(".ov-waiting progress").first).to_be_visible()
    return page, quiet


def test_stop_leaves_the_page_usable(open_page: OpenPage, tmp_path: Path) -> None:  # noqa: F811
    page, quiet = filling(open_page, tmp_path, width=500)
    page.locator("#features-stop").click()
    expect(page.locator("#features-progress")).to_contain_text("Stopped")
    expect(page.locator(".ov-waiting")).to_have_count(0)
    expect(page.locator(".ov-refused").first).to_contain_text("press Fill the grid")
    quiet.wait()
    page.locator("#features-sides").get_by_label("1120").uncheck()
    page.locator("#features-fill").click()
    expect(page.locator(".ov-column")).to_have_count(4)
    expect_panels(page, shown=8)


def test_a_lens_moved_while_the_grid_fills_stays_moved(open_page: OpenPage, tmp_path: Path) -> None:  # noqa: F811
    page, quiet = filling(open_page, tmp_path, width=510)
    slider(page, "features-k").fill("3")
    expect(page.locator('.ov-panel[data-clusters="3"]').first).to_be_visible()
    expect(page.locator(".ov-waiting progress").last).to_be_visible()
    expect(page.locator(".ov-waiting progress:indeterminate").first).to_be_visible()
    expect_panels(page, shown=10)
    quiet.wait()
    expect(page.locator('.ov-panel[data-clusters="3"]')).to_have_count(10)
    expect(page.locator("#features-progress")).not_to_contain_text("pass")


def test_another_picture_is_another_grid(opened: tuple[Page, Quiet], tmp_path: Path) -> None:
    page, quiet = opened
    page.get_by_role("button", name="Take it with you").last.click()
    page.locator("#features-make").click()
    expect(page.locator("#features-files a[href]")).to_have_count(2)
    quiet.wait()
    see_own(page, quiet, tmp_path, width=520)
    open_tab(page, "Features")
    expect(page.locator(".ov-waiting").first).to_be_visible()
    expect(page.locator("#features-files")).to_be_hidden()
    expect_panels(page, shown=10)


def test_a_panel_opens_and_is_saved(opened: tuple[Page, Quiet]) -> None:
    page, _ = opened
    page.locator(".ov-panel img").first.click()
    expect(page.locator(".ov-panel:fullscreen")).to_be_visible()
    page.locator(".ov-panel:fullscreen [data-full]").click()
    expect(page.locator(".ov-panel:fullscreen")).to_have_count(0)
    with page.expect_download() as saved:
        page.locator(".ov-panel [data-save]").last.click()
    assert saved.value.suggested_filename == "embedded-res3-1120px-k-means.png"


def test_the_running_bar_follows_a_download(browser: Browser) -> None:
    """The script alone: here nothing can be downloaded."""
    page = browser.new_page()
    page.set_content('<div id="grid"><progress data-running></progress><progress value="0"></progress></div>')
    script = (paths.ASSETS / "ui" / "features.js").read_text("utf-8")
    values = page.evaluate(
        """(script) => {
          const grid = document.querySelector("#grid"), props = { photo: "" }, calls = [];
          const watch = (names, call) => names.includes("done") && calls.push(call);
          new Function("element", "props", "trigger", "watch", script)(grid, props, () => {}, watch);
          return [0.25, 1, -1].map((done) => {
            props.done = done;
            calls.forEach((call) => call());
            return [...grid.children].map((bar) => bar.getAttribute("value"));
          });
        }""",
        script,
    )
    page.close()
    assert values == [["0.25", "0"], ["1", "0"], [None, "0"]]


def test_it_fits_a_phone(open_page: OpenPage) -> None:  # noqa: F811
    page, _ = open_features(open_page, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    expect(page.locator(".ov-size").first).to_be_visible()
    panels, controls = (page.locator(name).bounding_box() for name in ("#features-view", "#features-rows"))
    assert panels
    assert controls
    assert panels["y"] < controls["y"]
