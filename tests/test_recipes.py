"""Recipes: they come back as they went out, and hostile ones are refused with a sentence."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from dataclasses import asdict, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ovdemo.ensemble import Fusion
from ovdemo.errors import UserError
from ovdemo.merging import Merging
from ovdemo.recipes import MAX_BYTES, ExamplePicture, OwnPicture, Recipe
from ovdemo.vocabulary import combine, load_preset, parse_classes, preset_names
from sentences import failure

RECIPE = Recipe("fcclip-embedded", ExamplePicture("astronaut"), "cat, sofa")
KEYS = list(json.loads(RECIPE.to_json()))
DIGEST = "0123456789abcdef" * 4

shares = st.floats(0, 1)
lines = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=80)
pictures = st.one_of(
    st.builds(ExamplePicture, st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)),
    st.builds(OwnPicture, st.text("0123456789abcdef", min_size=64, max_size=64), lines),
)
arbitrary = st.builds(
    Recipe,
    model=lines,
    picture=pictures,
    words=st.text(max_size=200),
    weights=st.none() | lines,
    presets=st.lists(st.sampled_from(preset_names()), unique=True).map(tuple),
    mode=st.sampled_from(["panoptic", "semantic", "instance"]),
    object_threshold=shares,
    overlap_threshold=shares,
    fusion_kind=st.sampled_from(["geometric", "arithmetic", "in-vocabulary", "out-of-vocabulary"]),
    alpha=shares,
    beta=shares,
    rescue=shares,
    short_side=st.none() | st.integers(64, 2048),
    opacity=shares,
    outlines=st.booleans(),
    labels=st.booleans(),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(data)).decode().rstrip("=")


def changed(**values: object) -> str:
    """A recipe as JSON with other values, whatever they are."""
    return json.dumps(json.loads(RECIPE.to_json()) | values)


# --- there and back ---


@given(arbitrary)
def test_a_recipe_comes_back_from_json_and_from_a_link(recipe: Recipe) -> None:
    text, link = recipe.to_json(), recipe.to_link()
    assert text.isascii()
    assert "\n" not in text
    assert Recipe.from_json(text) == Recipe.from_json(text.encode()) == Recipe.from_link(link) == recipe
    assert Recipe.from_link(link).to_json() == text
    assert set(link) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_json_is_stable_whatever_the_order_layout_and_kind_of_number() -> None:
    shuffled = dict(reversed(json.loads(changed(alpha=1, object_threshold=-0.0)).items()))
    recipe = Recipe.from_json("\ufeff".encode() + json.dumps(shuffled, indent=2).encode())
    assert recipe.to_json() == replace(RECIPE, alpha=1.0).to_json()
    assert list(json.loads(recipe.to_json())) == ["schema", *asdict(recipe)]


def test_it_builds_what_it_describes() -> None:
    recipe = replace(
        RECIPE,
        mode="semantic",
        object_threshold=0.1,
        overlap_threshold=0.2,
        fusion_kind="arithmetic",
        alpha=0.3,
        beta=0.6,
        rescue=0.7,
        presets=("cityscapes",),
    )
    assert recipe.fusion == Fusion("arithmetic", 0.3, 0.6, 0.7)
    assert recipe.merging == Merging("semantic", 0.1, 0.2)
    assert recipe.vocabulary == combine(parse_classes("cat, sofa"), load_preset("cityscapes"))


def test_defaults_are_those_of_the_settings() -> None:
    assert RECIPE.fusion == Fusion()
    assert RECIPE.merging == Merging()


# --- hostile input ---


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"schema": 2}, "version 1"),
        ({"schema": True}, "version 1"),
        ({"schema": None}, "version 1"),
        ({"surprise": 1}, '"surprise"'),
        ({"model": ""}, '"model"'),
        ({"model": "x" * 81}, '"model"'),
        ({"model": "a\nb"}, '"model"'),
        ({"model": None}, '"model"'),
        ({"weights": 3}, '"weights"'),
        ({"picture": "astronaut"}, '"picture"'),
        ({"picture": {}}, '"digest"'),
        ({"picture": {"example": "../secret"}}, '"example"'),
        ({"picture": {"example": ["cat"]}}, '"example"'),
        ({"picture": {"example": "cat", "digest": DIGEST}}, '"digest"'),
        ({"picture": {"digest": DIGEST[1:], "name": "cat.jpg"}}, '"digest"'),
        ({"picture": {"digest": DIGEST, "name": "\x1b[31m"}}, '"name"'),
        ({"words": 7}, '"words"'),
        ({"words": "\ud83d"}, '"words"'),
        ({"presets": "cityscapes"}, '"presets"'),
        ({"presets": ["nowhere"]}, '"presets"'),
        ({"presets": [["cityscapes"]]}, '"presets"'),
        ({"presets": ["cityscapes", "cityscapes"]}, "once"),
        ({"mode": "magic"}, '"mode"'),
        ({"mode": ["panoptic"]}, '"mode"'),
        ({"fusion_kind": None}, '"fusion_kind"'),
        ({"alpha": 1.5}, '"alpha"'),
        ({"beta": -0.1}, '"beta"'),
        ({"rescue": "0.5"}, '"rescue"'),
        ({"opacity": True}, '"opacity"'),
        ({"overlap_threshold": 10**400}, '"overlap_threshold"'),
        ({"short_side": 63}, '"short_side"'),
        ({"short_side": 640.0}, '"short_side"'),
        ({"short_side": True}, '"short_side"'),
        ({"outlines": 1}, '"outlines"'),
        ({"labels": None}, '"labels"'),
    ],
)
def test_wrong_values_are_refused_with_their_key(values: dict[str, object], part: str) -> None:
    failure(lambda: Recipe.from_json(changed(**values)), part)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    text = RECIPE.to_json().replace('"alpha": 0.4', f'"alpha": {number}')
    assert number in text
    failure(lambda: Recipe.from_json(text))


@pytest.mark.parametrize("key", KEYS)
def test_no_key_may_be_missing_or_there_twice(key: str) -> None:
    content = json.loads(RECIPE.to_json())
    value = content.pop(key)
    failure(lambda: Recipe.from_json(json.dumps(content)), "version" if key == "schema" else f'"{key}"')
    twice = f'{{"{key}": {json.dumps(value)}, {RECIPE.to_json()[1:]}'
    failure(lambda: Recipe.from_json(twice), "JSON")


@pytest.mark.parametrize("text", ["", "null", "[1]", '"cat"', "{", "[" * 60_000, b"\xff\xfe", b"{}", "\x00"])
def test_what_is_no_recipe_is_refused(text: str | bytes) -> None:
    failure(lambda: Recipe.from_json(text), "recipe")


def test_large_recipes_are_refused_at_both_ends() -> None:
    failure(lambda: Recipe.from_json(" " * MAX_BYTES + RECIPE.to_json()), "64 KiB")
    failure(lambda: replace(RECIPE, words="é" * (MAX_BYTES // 5)), "64 KiB")
    large = replace(RECIPE, words="x" * (MAX_BYTES - 2000))
    assert Recipe.from_link(large.to_link()) == large


def test_a_bomb_is_not_unpacked() -> None:
    link = packed(b" " * 40_000_000)
    assert len(link) < 2 * MAX_BYTES
    failure(lambda: Recipe.from_link(link), "64 KiB")


@pytest.mark.parametrize(
    "link",
    [
        "",
        "A",
        "é",
        "a b",
        "=" * 8,
        "AAAA",
        RECIPE.to_link()[:-8],
        RECIPE.to_link()[8:],
        RECIPE.to_link() + "\n",
        base64.urlsafe_b64encode(zlib.compress(RECIPE.to_json().encode()) + b"more").decode().rstrip("="),
        "A" * (2 * MAX_BYTES + 1),
    ],
)
def test_damaged_links_are_refused(link: str) -> None:
    failure(lambda: Recipe.from_link(link), "damaged")


@given(st.text() | st.binary() | st.dictionaries(st.sampled_from(KEYS), values).map(json.dumps))
@example(b'{"schema": 1, "\xed\xa0\x80": 1}')
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    with contextlib.suppress(UserError):
        Recipe.from_json(text)


@given(st.sampled_from(KEYS), values)
def test_any_value_of_any_key_is_read_or_refused(key: str, value: object) -> None:
    for read in (Recipe.from_json, lambda text: Recipe.from_link(packed(text.encode()))):
        with contextlib.suppress(UserError):
            recipe = read(changed(**{key: value}))
            assert Recipe.from_json(recipe.to_json()) == recipe


@given(st.text() | st.binary().map(packed) | st.text("AZaz09-_"))
def test_any_link_is_read_or_refused(link: str) -> None:
    with pytest.raises(UserError):
        Recipe.from_link(link)
