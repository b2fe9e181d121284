"""The app in a real browser: Debian's Chromium, driven by Playwright. Nothing is downloaded for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from app_server import PAGE_PATIENCE, AppServer
from ovdemo import images
from ovdemo.default_model import EMBEDDED_MODEL
from ovdemo.examples import find_example
from ovdemo.images import load_picture
from ovdemo.recipes import ExamplePicture, OwnPicture, Recipe
from ovdemo.systems.registry import find_variant
from test_images import png_header

CHINA = find_example("china").path()
SIZE = (640, 427)  # pixels of that photograph
IN_THE_SKY = (320, 8)
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, app: AppServer) -> Iterator[OpenPage]:
    """Opens the app in a context of its own; in the end no page may have had an error or asked another host."""
    faults: list[str] = []
    contexts = []

    def check_host(address: str) -> None:
        if address.startswith(("http:", "https:", "ws:")) and not address.startswith(app.url):
            faults.append(f"asked {address}")

    def opened(address: str = "/", *, answered: bool = True, **settings: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **settings})
        context.set_default_timeout(1000 * PAGE_PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda line: line.type == "error" and faults.append(f"console: {line.text}"))
        page.on("request", lambda request: check_host(request.url))
        page.goto(app.url + address)
        if answered:
            expect_drawn(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def expect_drawn(page: Page, viewer: str = "#viewer") -> None:
    expect(page.locator(f"{viewer} .ov-viewer")).not_to_have_attribute("data-drawn", "0")


def legend(page: Page, viewer: str = "#viewer") -> Locator:
    return page.locator(f"{viewer} .ov-legend .ov-row")


def label(page: Page, text: str) -> Locator:
    """The legend's row of a class."""
    return legend(page).filter(has=page.locator(".ov-name", has_text=re.compile(f"^{re.escape(text)}$")))


def place(page: Page, at: tuple[int, int], size: tuple[int, int] = SIZE) -> dict[str, float]:
    """Where a pixel of the picture lies on the canvas as it is shown."""
    box = page.locator("#viewer canvas").bounding_box()
    assert box
    return {"x": at[0] * box["width"] / size[0], "y": at[1] * box["height"] / size[1]}


def click_picture(page: Page, at: tuple[int, int] = IN_THE_SKY) -> None:
    page.locator("#viewer canvas").click(position=place(page, at))


def words(page: Page) -> Locator:
    return page.locator("#words textarea")


def type_words(page: Page, text: str) -> None:
    """Key by key: Gradio takes no other change of a text box for input."""
    words(page).fill("")
    words(page).press_sequentially(text)


def ask(page: Page, text: str) -> None:
    words(page).fill(text)
    words(page).press("Enter")


def slider(page: Page, name: str) -> Locator:
    return page.locator(f"#{name} input[type=number]")


def unfold(page: Page, title: str) -> None:
    page.get_by_role("button", name=title).click()


def open_tab(page: Page, name: str) -> None:
    """Where a page is too narrow for all tabs, the last ones are in a menu."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def upload(page: Page, path: Path) -> None:
    remove = page.locator("#picture").get_by_label("Remove Image")
    if remove.count():
        remove.click()
    page.locator("#picture input[type=file]").set_input_files(path)
    expect(remove).to_be_visible()


def own_picture(folder: Path, width: int, name: str = "mine.png") -> Path:
    """A photograph that no other test has uploaded, so that nothing about it is cached."""
    with Image.open(CHINA) as image:
        image.resize((width, round(width * SIZE[1] / SIZE[0]))).save(folder / name)
    return folder / name


def toast(page: Page, text: str) -> Locator:
    return page.get_by_test_id("toast-body").filter(has_text=text)


# --- first paint, pictures ---


def test_the_page_opens_on_a_worked_example(open_page: OpenPage) -> None:
    page = open_page()
    expect(label(page, "sky")).to_be_visible()
    expect(page.locator("#viewer .ov-chip").first).to_be_visible()
    expect(words(page)).to_have_value(find_example("china").words)
    expect(page.locator("#hints")).to_contain_text("training words")
    expect(page.locator("#timing [data-step]")).to_have_count(7)
    expect(page.locator("#model-card")).to_contain_text("embedded")
    expect(page.locator("#inspector")).to_contain_text("Click a segment")


# Every timing strip that the page ever shows says whether its answer went through the network.
COUNT_PASSES = """() => {
  window.passes = 0;
  new MutationObserver(() => {
    const step = document.querySelector('#timing [data-step=encode][data-cached="0"]');
    if (step && step !== window.counted) window.passes += 1;
    window.counted = step || window.counted;
  }).observe(document.querySelector("#timing"), { childList: true, subtree: true });
}"""


def test_an_uploaded_picture_is_cut_by_its_own_words(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    page.evaluate(COUNT_PASSES)
    upload(page, own_picture(tmp_path, 400))
    words(page).fill("heaven|sky, tree, person")
    page.locator("#segment").click()
    expect(page.locator("#viewer canvas")).to_have_attribute("width", "400")
    expect(label(page, "heaven")).to_be_visible()
    page.wait_for_function("window.passes === 1")
    # The sliders answer from what the network proposed.
    page.get_by_role("tab", name="Ensemble").click()
    expect_drawn(page, "#ensemble-viewer")
    scores = page.locator("#ensemble-viewer .ov-legend")  # of all segments: one may be as sure as can be either way
    before = scores.inner_text()
    slider(page, "rescue").fill("1")
    expect(scores).not_to_have_text(before, use_inner_text=True)
    page.get_by_role("tab", name="Segment").click()
    expect(page.locator('#timing [data-step=encode][data-cached="1"]')).to_be_visible()
    expect(page.locator('#timing [data-step=merge][data-cached="0"]')).to_be_visible()
    assert page.evaluate("window.passes") == 1


def test_answers_about_an_earlier_picture_do_not_appear(open_page: OpenPage, tmp_path: Path) -> None:
    """Words and sliders that move while the network is at work are followed on the new picture."""
    page = open_page()
    expect(page).to_have_url(re.compile("recipe="))
    weights = recipe_in(page).weights
    upload(page, own_picture(tmp_path, 416))
    type_words(page, "sky, tree")
    page.locator("#segment").click()
    words(page).press_sequentially(", person")
    expect(page.locator("#viewer canvas")).to_have_attribute("width", "416")
    own = find_variant(EMBEDDED_MODEL).config.fusion
    wanted = Recipe(
        model=EMBEDDED_MODEL,
        weights=weights,
        picture=OwnPicture(load_picture(tmp_path / "mine.png").digest, "mine.png"),
        words="sky, tree, person",
        alpha=own.alpha,
        beta=own.beta,
        rescue=own.rescue,
    )
    expect_recipe(page, wanted)


def test_a_file_that_is_too_large_is_refused_with_its_limit(browser: Browser, app: AppServer, tmp_path: Path) -> None:
    page = browser.new_page()  # Gradio, which refuses it, writes to the console
    page.goto(app.url)
    expect_drawn(page)
    (tmp_path / "mine.png").write_bytes(bytes(images.MAX_BYTES + 1))
    page.locator("#picture").get_by_label("Remove Image").click()
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "mine.png")
    expect(toast(page, "maximum allowed size of 20")).to_be_visible()
    page.locator("#gallery button").nth(1).click()
    expect(page.locator("#viewer canvas")).to_have_attribute("width", "512")
    page.close()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"This is a letter, not a picture.\n" * 20, "not a picture that can be read here"),
        (png_header(50_000, 50_000), "megapixels"),
    ],
)
def test_a_bad_upload_gets_a_sentence_and_the_page_works_on(
    open_page: OpenPage, tmp_path: Path, content: bytes, sentence: str
) -> None:
    page = open_page()
    (tmp_path / "letter.jpg").write_bytes(content)
    upload(page, tmp_path / "letter.jpg")
    page.locator("#segment").click()
    expect(toast(page, sentence)).to_be_visible()
    page.locator("#gallery button").nth(1).click()
    expect(words(page)).to_have_value(find_example("astronaut").words)
    expect(page.locator("#viewer canvas")).to_have_attribute("width", "512")


# --- asking the picture ---


def test_pointing_names_a_segment_and_a_click_explains_it(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#viewer canvas").hover(position=place(page, IN_THE_SKY))
    expect(page.locator("#viewer .ov-tip")).to_contain_text("sky")
    click_picture(page)
    inspector = page.locator("#inspector .ov-inspector")
    expect(inspector).to_have_attribute("data-label", "sky")
    expect(inspector.locator(".ov-bar")).to_have_count(3 * 5)
    expect(inspector.locator(".ov-math")).to_contain_text("p(sky)")
    expect(label(page, "sky")).to_have_attribute("aria-pressed", "true")
    unfold(page, "All segments as a table")
    expect(page.locator("#table")).to_contain_text("sky")


def test_a_name_in_the_legend_selects_its_segment(open_page: OpenPage) -> None:
    page = open_page()
    label(page, "sky").click()
    expect(label(page, "sky")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#viewer .ov-viewer")).not_to_have_attribute("data-chosen", "0")
    expect(page.locator("#inspector .ov-inspector")).to_have_attribute("data-label", "sky")


def test_layers_show_what_is_doubtful(open_page: OpenPage) -> None:
    page = open_page()
    drawing = "document.querySelector('#viewer canvas').toDataURL()"
    for layer in ("entropy", "p(void)"):
        before = page.evaluate(drawing)
        page.locator("#layer").get_by_label(layer).check()
        page.wait_for_function(f"before => {drawing} !== before", arg=before)
        expect(page.locator("#viewer .ov-chip")).to_have_count(0)
    page.locator("#layer").get_by_label("segments").check()
    expect(page.locator("#viewer .ov-chip").first).to_be_visible()


def test_files_can_be_taken_home(open_page: OpenPage) -> None:
    page = open_page()
    unfold(page, "Take it with you")
    page.locator("#make-files").click()
    links = page.locator("#files a[href]")
    expect(links).to_have_count(6)
    for link in links.all():
        answer = page.request.get(link.get_attribute("href"))
        assert answer.ok
        assert answer.body()
    expect(page.locator("#link textarea, #link input")).to_have_value(page.url)
    # Files of earlier words must not pass for those of the present ones.
    ask(page, "cloud|sky, tree")
    expect(label(page, "cloud")).to_be_visible()
    expect(links).to_have_count(0)


def test_a_saved_recipe_restores_everything_even_how_it_is_drawn(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    recipe = dataclasses.replace(
        Recipe(model=EMBEDDED_MODEL, picture=ExamplePicture("astronaut"), words="cloud|sky, woman|person, flag"),
        **{"alpha": 0.25, "rescue": 0.5, "opacity": 0.3, "outlines": False, "weights": "other"},
    )
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    unfold(page, "Take it with you")
    opener = page.locator("input[type=file][accept='.json']")
    opener.set_input_files(tmp_path / "recipe.json")
    expect(words(page)).to_have_value(recipe.words)
    expect(page.locator("#viewer canvas")).to_have_attribute("width", "512")
    expect(page.locator("#viewer .ov-opacity")).to_have_js_property("value", "30")
    expect(page.locator("#viewer .ov-outlines")).not_to_be_checked()
    expect(toast(page, "weights have changed")).to_be_visible()
    page.wait_for_function("window.location.search.includes('recipe=')")
    expect_recipe(page, dataclasses.replace(recipe, weights=recipe_in(page).weights))
    (tmp_path / "other.json").write_text("{}")
    opener.set_input_files(tmp_path / "other.json")
    expect(toast(page, "not of version")).to_be_visible()


def test_how_the_picture_is_drawn_is_part_of_the_recipe(open_page: OpenPage) -> None:
    page = open_page()
    expect(page).to_have_url(re.compile("recipe="))
    before = recipe_in(page)
    page.locator("#viewer .ov-labels").uncheck()
    expect_recipe(page, dataclasses.replace(before, labels=False))


# --- words ---


def test_words_are_followed_while_they_are_typed(open_page: OpenPage) -> None:
    page = open_page()
    type_words(page, "cloud|sky, tree, person")
    expect(label(page, "cloud")).to_be_visible()
    type_words(page, "zerba|sky, tree, person")
    expect(page.locator("#hints")).to_contain_text("zerba")
    expect(label(page, "cloud")).to_be_visible()  # half a word is no word
    words(page).press("Enter")
    expect(label(page, "zerba")).to_be_visible()
    expect(words(page)).to_have_value("zerba|sky, tree, person")


def test_hints_mend_words_and_a_switch_sets_the_kind(open_page: OpenPage) -> None:
    page = open_page()
    type_words(page, "zerba, sky, tree, person")
    page.locator("#hints button", has_text="zebra").click()
    expect(words(page)).to_have_value("zebra, sky, tree, person")
    expect(page.locator("#hints")).not_to_contain_text("zerba")
    unfold(page, "Things and stuff")
    page.locator("#things").get_by_label("sky").click()
    expect(words(page)).to_have_value("zebra, sky:thing, tree, person")
    expect(label(page, "sky")).to_have_attribute("title", re.compile("^thing"))


def test_names_of_classes_are_shown_as_text_only(open_page: OpenPage) -> None:
    page = open_page()
    unfold(page, "All segments as a table")
    unfold(page, "Things and stuff")
    for name in ("<img src=x onerror=alert(1)>", "it's =cmd()", "שמיים", "🌈"):
        ask(page, f"{name}|sky, tree, person")
        expect(label(page, name)).to_be_visible()
        expect(page.locator("#viewer .ov-chip", has_text=name)).to_be_visible()
        click_picture(page)
        expect(page.locator("#inspector .ov-who bdi").filter(has_text=name)).to_be_visible()
        expect(page.locator("#things")).to_contain_text(name)
        expect(page.locator("#table")).to_contain_text(name)
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("[onerror]").count() == 0


# --- links ---


def recipe_in(page: Page) -> Recipe:
    return Recipe.from_link(parse_qs(urlsplit(page.url).query)["recipe"][0])


def expect_recipe(page: Page, recipe: Recipe) -> None:
    expect(page).to_have_url(re.compile(re.escape(recipe.to_link()) + "$"))


def test_the_address_restores_words_and_settings(open_page: OpenPage) -> None:
    page = open_page()
    expect(page).to_have_url(re.compile("recipe="))
    ask(page, "cloud|sky, tree, person")
    expect(label(page, "cloud")).to_be_visible()
    first = recipe_in(page)
    page.get_by_role("tab", name="Ensemble").click()
    slider(page, "alpha").fill("0.9")
    slider(page, "alpha").press("Tab")
    wanted = dataclasses.replace(first, words="cloud|sky, tree, person", alpha=0.9)
    expect(page).to_have_url(re.compile(re.escape(wanted.to_link()) + "$"))
    again = open_page(urlsplit(page.url).path + "?" + urlsplit(page.url).query)
    expect(label(again, "cloud")).to_be_visible()
    expect(words(again)).to_have_value("cloud|sky, tree, person")
    again.get_by_role("tab", name="Ensemble").click()
    expect(slider(again, "alpha")).to_have_value("0.9")


def test_a_damaged_address_gets_a_sentence(open_page: OpenPage) -> None:
    page = open_page("/?recipe=abc")
    expect(toast(page, "damaged or cut off")).to_be_visible()
    expect(label(page, "sky")).to_be_visible()  # the worked example, as without an address


# --- the ensemble ---


def test_tables_set_the_sliders_and_settings_can_be_compared(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("tab", name="Ensemble").click()
    expect_drawn(page, "#ensemble-viewer")
    page.locator('#papers [data-alpha="0.5"][data-beta="0.7"]').first.click()
    expect(slider(page, "alpha")).to_have_value("0.5")
    expect(slider(page, "beta")).to_have_value("0.7")
    expect(page.locator("#maths")).to_contain_text("0.50")
    expect(page.locator("#classes")).to_contain_text("sky")
    unfold(page, "The whole grid for this picture")
    page.locator("#measure").click()
    expect(page.locator("#grid td button")).to_have_count(2 * 121)
    page.locator('#grid [data-alpha="1.0"][data-beta="0.0"]').first.click()
    expect(slider(page, "alpha")).to_have_value("1")
    expect(page.locator("#maths")).to_contain_text("1.00")
    expect(page.locator('#grid .ov-here[data-alpha="1.0"][data-beta="0.0"]')).to_have_count(2)
    expect(page.locator("#grid .ov-here")).to_have_count(2)
    slider(page, "rescue").fill("0.1")  # what was computed with another is no longer true
    expect(page.locator("#grid td button")).to_have_count(0)
    unfold(page, "Two settings side by side")
    page.locator("#keep").click()
    pictures = page.locator("#compare img")
    expect(pictures).to_have_count(2)
    kept = [picture.get_attribute("src") for picture in pictures.all()]
    slider(page, "rescue").fill("1")
    expect(page.locator(f'#compare img[src="{kept[1]}"]')).to_have_count(1)  # A stays, B follows
    page.locator("#reset").click()
    own = find_variant(EMBEDDED_MODEL).config.fusion
    expect(slider(page, "alpha")).to_have_value(f"{own.alpha}")
    expect(slider(page, "rescue")).to_have_value(f"{own.rescue}")


# --- models ---


def choose_model(page: Page, title: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=title).click()


def test_a_model_that_is_not_here_is_offered_and_can_be_refused(open_page: OpenPage) -> None:
    page = open_page()
    choose_model(page, "ConvNeXt-Large")
    offer = page.locator("#offer").first  # Gradio gives a group's name to two elements
    expect(offer).to_contain_text("Download 1.5 GB")
    expect(page.locator("#model-card")).to_contain_text("checkpoints fetch fcclip-convnext-large")
    page.locator("#refuse").click()
    expect(offer).to_be_hidden()
    expect(page.locator("#model input")).to_have_value(re.compile("embedded"))
    choose_model(page, "ConvNeXt-Large")
    page.locator("#download").click()
    expect(toast(page, "HF_HUB_OFFLINE")).to_be_visible()
    expect(offer).to_be_hidden()  # the embedded model answers again
    expect(page.locator("#model input")).to_have_value(re.compile("embedded"))
    choose_model(page, "ResNet 50 (needs")
    expect(page.locator("#model-card")).to_contain_text("needs the authors' file")
    expect(page.locator("#model-card code")).to_contain_text("--checkpoint fcclip-rn50=FILE")
    expect(offer).to_be_hidden()


# --- looks ---


def brightness(locator: Locator, of: str) -> float:
    """Mean of the red, green and blue of a computed colour, 0..255."""
    color = locator.evaluate(f"element => getComputedStyle(element).{of}")
    return sum(float(number) for number in re.findall(r"[\d.]+", color)[:3]) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(open_page: OpenPage, scheme: str) -> None:
    page = open_page(f"/?__theme={scheme}")
    ground = brightness(page.locator("body"), "backgroundColor")
    assert (ground > 128) == (scheme == "light")
    click_picture(page)
    expect(page.locator("#inspector .ov-inspector")).to_be_visible()
    for place_of_text in ("#model-card b", "#inspector h3", "#hints .ov-hint", "#timing b", "#viewer .ov-name"):
        text = brightness(page.locator(place_of_text).first, "color")
        assert abs(text - ground) > 120, place_of_text


def test_a_phone_needs_no_sideways_scrolling(open_page: OpenPage) -> None:
    page = open_page(**PHONE)
    for tab in ("Ensemble", "Hierarchy", "Features", "Segment"):
        open_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, tab
    page.locator("#viewer canvas").tap(position=place(page, IN_THE_SKY))
    expect(page.locator("#inspector .ov-inspector")).to_have_attribute("data-label", "sky")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_keyboard_reaches_everything(open_page: OpenPage) -> None:
    page = open_page()
    words(page).focus()
    tab_to(page, "#segment")
    page.keyboard.press("Enter")
    tab_to(page, "#viewer .ov-row")
    page.keyboard.press("Enter")
    expect(page.locator("#inspector .ov-inspector")).to_be_visible()


def tab_to(page: Page, selector: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.closest(selector) !== null", selector):
            return
    pytest.fail(f"Tab does not reach {selector}")


# --- many visitors ---


def test_two_visitors_at_once_keep_their_own_words(open_page: OpenPage) -> None:
    pages = {"left": open_page(), "right": open_page()}
    for turn in range(3):
        for who, page in pages.items():
            ask(page, f"{who} {turn}|sky, tree")
        for who, page in pages.items():
            expect(label(page, f"{who} {turn}")).to_be_visible()
            expect(legend(page).filter(has_text="left" if who == "right" else "right")).to_have_count(0)
