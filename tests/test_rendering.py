"""Colours that stay, overlays that are exact, labels and legends that never raise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovdemo import parse_classes, rendering
from ovdemo.examples import EXAMPLES
from ovdemo.rendering import (
    PALETTE,
    class_color,
    heat_map,
    legend,
    overlay,
    overlay_with_legend,
    palette,
    segment_colors,
)
from ovdemo.segmentation import Evidence, Segment, Segmentation
from ovdemo.vocabulary import Kind

NO_EVIDENCE = Evidence((), (), (), 0.0)
CAT_COLOR = (132, 52, 95)
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


def segmentation_of(
    id_map: object, labels: tuple[str, ...] = ("cat", "sky"), kinds: tuple[Kind, ...] = ("thing", "stuff")
) -> Segmentation:
    """Ids 1, 2, ... are of classes 0, 1, ... in turn."""
    ids = np.asarray(id_map, np.int32)
    segments = []
    for segment_id in np.unique(ids[ids > 0]).tolist():
        ys, xs = np.nonzero(ids == segment_id)
        box = (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
        index = (segment_id - 1) % len(labels)
        segments.append(
            Segment(segment_id, index, labels[index], kinds[index], 0.5, len(xs), box, True, NO_EVIDENCE, (0,))
        )
    return Segmentation("panoptic", ids, tuple(segments), labels, kinds)


def halves(height: int = 40, width: int = 60) -> np.ndarray:
    """Left half 1, right half 2, nothing in the lowest quarter."""
    ids = np.ones((height, width), np.int32)
    ids[:, width // 2 :] = 2
    ids[-(height // 4) :] = 0
    return ids


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def linear(colors: object) -> np.ndarray:
    channels = np.asarray(colors) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def smallest_oklab_distance(light: np.ndarray) -> float:
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    lab = np.cbrt(light.clip(0, 1) @ np.transpose(to_lms)) @ np.transpose(to_lab)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return float(distances[~np.eye(len(lab), dtype=bool)].min())


def test_class_color_is_the_same_in_every_run() -> None:
    assert class_color("cat") == CAT_COLOR
    assert class_color("CAT") == CAT_COLOR


@pytest.mark.parametrize(("count", "normal", "colour_blind"), [(10, 0.15, 0.1), (20, 0.1, 0.06), (48, 0.06, 0.035)])
def test_palette_is_spread_out(count: int, normal: float, colour_blind: float) -> None:
    light = linear(PALETTE[:count])
    assert smallest_oklab_distance(light) > normal
    assert smallest_oklab_distance(light @ np.transpose(PROTANOPIA)) > colour_blind
    assert smallest_oklab_distance(light @ np.transpose(DEUTERANOPIA)) > colour_blind


def test_text_is_readable_on_every_colour() -> None:
    def luminance(color: object) -> float:
        return float(linear(color) @ (0.2126, 0.7152, 0.0722))

    for color in PALETTE:
        light, dark = sorted((luminance(color), luminance(rendering.text_color(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.9


@given(st.lists(st.text(max_size=8), unique_by=str.casefold, max_size=len(PALETTE)), st.text(max_size=8))
def test_palette_is_distinct_and_stable_when_a_class_is_added(labels: list[str], more: str) -> None:
    colors = palette(labels)
    assert len(set(colors)) == len(labels)
    assert palette([*labels, more])[: len(labels)] == colors
    if labels:
        assert colors[0] == class_color(labels[0])


@pytest.mark.parametrize("words", [example.words for example in EXAMPLES])
def test_the_examples_words_all_have_their_own_colour(words: str) -> None:
    labels = [entry.label for entry in parse_classes(words).classes]
    assert palette(labels) == [class_color(label) for label in labels]


def test_large_vocabularies_have_distinct_colours_in_three_tones() -> None:
    labels = [f"class {index}" for index in range(200)]
    colors = palette(labels)
    assert set(colors[: len(PALETTE)]) == set(PALETTE)
    assert len(set(colors[: 3 * len(PALETTE)])) == 3 * len(PALETTE)
    assert palette(labels[:-1]) == colors[:-1]


def test_a_class_keeps_its_colour_whatever_else_is_in_the_picture() -> None:
    labels = tuple(f"class {index}" for index in range(133))
    colors = palette(labels)
    for classes in ([3, 70, 130], [130], [5, 3]):
        ids = np.arange(1, 5).repeat(4).reshape(4, 4) % len(classes) + 1
        segmentation = segmentation_of(ids, labels, ("stuff",) * 133)
        shown = segment_colors(segmentation)
        assert {s.class_index: shown[s.id] for s in segmentation.segments} == {
            s.class_index: colors[s.class_index] for s in segmentation.segments
        }


def test_things_of_one_class_differ_in_shade_and_stuff_does_not() -> None:
    ids = np.arange(1, 5).repeat(4).reshape(4, 4)  # cat, sky, cat, sky
    colors = segment_colors(segmentation_of(ids))
    assert colors[1] == class_color("cat") != colors[3]
    assert colors[2] == colors[4]


def test_opacity_one_paints_flat_colour() -> None:
    segmentation = segmentation_of(halves())
    pixels = noise(40, 60)
    drawn = overlay(pixels, segmentation, opacity=1, outlines=False, labels=False)
    colors = segment_colors(segmentation)
    assert (drawn[segmentation.id_map == 1] == colors[1]).all()
    assert (drawn[segmentation.id_map == 2] == colors[2]).all()
    nothing = segmentation.id_map == 0
    np.testing.assert_allclose(drawn[nothing], pixels[nothing] * 0.65, atol=1)


def test_opacity_zero_leaves_the_picture() -> None:
    pixels = noise(40, 60)
    before = pixels.copy()
    drawn = overlay(pixels, segmentation_of(halves()), opacity=0, outlines=False, labels=False)
    np.testing.assert_array_equal(drawn, pixels)
    overlay(pixels, segmentation_of(halves()))
    np.testing.assert_array_equal(pixels, before)


def test_opacity_in_between_mixes() -> None:
    segmentation = segmentation_of(np.ones((20, 20)))
    drawn = overlay(np.full((20, 20, 3), 100, np.uint8), segmentation, opacity=0.25, outlines=False, labels=False)
    np.testing.assert_allclose(drawn[0, 0], 75 + 0.25 * np.array(class_color("cat")), atol=0.51)


def test_outlines_are_drawn_where_segments_meet_only() -> None:
    segmentation = segmentation_of(halves())
    pixels = noise(40, 60)
    plain = overlay(pixels, segmentation, outlines=False, labels=False)
    outlined = overlay(pixels, segmentation, outlines=True, labels=False)
    changed = (plain != outlined).any(axis=2)
    assert (outlined[:28, 29] == 255).all()
    assert changed[:28, 28:31].all()
    assert not changed[:27, :27].any()
    assert not changed[:27, 32:].any()


def test_labels_lie_inside_the_picture_and_off_each_other() -> None:
    segmentation = segmentation_of(np.arange(1, 17).reshape(4, 4).repeat(40, 0).repeat(80, 1))
    pixels = np.zeros((160, 320, 3), np.uint8)
    plain = overlay(pixels, segmentation, labels=False)
    changed = (overlay(pixels, segmentation) != plain).any(axis=2)
    chips = changed.reshape(4, 40, 4, 80).any(axis=(1, 3))
    assert chips.all()
    assert not changed[[0, -1]].any()
    # Each chip stays in its own cell, so no two can touch.
    assert not changed.reshape(4, 40, 4, 80)[:, [0, -1]].any()
    assert not changed.reshape(4, 40, 4, 80)[..., [0, -1]].any()


def test_a_segment_too_small_for_its_label_has_none() -> None:
    ids = np.zeros((100, 200), np.int32)
    ids[50:54, 50:54] = 1
    pixels = np.zeros((100, 200, 3), np.uint8)
    np.testing.assert_array_equal(
        overlay(pixels, segmentation_of(ids)), overlay(pixels, segmentation_of(ids), labels=False)
    )


NAMES = ["a", "x" * 5000, "猫", "🐈‍⬛", "قطة", "two\nlines\tand\0nul", "\ud800", "", " ", "e\u0301" * 50]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (16, 320), (320, 16), (200, 300)])
def test_no_name_or_size_raises(name: str, shape: tuple[int, int]) -> None:
    ids = np.full(shape, 1, np.int32)
    ids[0, 0] = 2
    segmentation = segmentation_of(ids, (name, "other"))
    drawn = overlay_with_legend(noise(*shape), segmentation)
    assert drawn.shape[0] > shape[0]
    assert drawn.shape[1] >= shape[1]
    assert drawn.dtype == np.uint8


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_random_maps_draw_the_same_twice(height: int, width: int, ids: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    segmentation = segmentation_of(rng.integers(0, ids + 1, (height, width)))
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    first = overlay_with_legend(pixels, segmentation)
    assert first.tobytes() == overlay_with_legend(pixels, segmentation).tobytes()


def test_large_ids_are_drawn() -> None:
    ids = np.where(halves() == 1, 70_001, 0)
    segmentation = segmentation_of(ids)
    drawn = overlay(noise(40, 60), segmentation, opacity=1, outlines=False, labels=False)
    assert (drawn[0, 0] == segment_colors(segmentation)[70_001]).all()


def test_legend_rows() -> None:
    ids = np.zeros((10, 10), np.int32)
    ids[0, :5], ids[1, :5], ids[2:7] = 1, 3, 2  # two cats of 5 %, sky 50 %, 40 % of nothing
    rows = rendering._legend_rows(segmentation_of(ids))
    assert [(row.label, row.count, round(row.share, 3), row.score) for row in rows] == [
        ("sky", "", 0.5, 0.5),
        ("cat", " ×2", 0.1, 0.5),
        ("unlabelled", "", 0.4, None),
    ]


@pytest.mark.parametrize("width", [100, 320, 640, 1600, 4000])
def test_legend_shows_every_class_at_every_width(width: int) -> None:
    labels = tuple(f"class {index}" for index in range(20))
    ids = np.tile(np.arange(1, 21), (max(16, width // 8), width // 20))
    segmentation = segmentation_of(ids, labels, ("stuff",) * 20)
    drawn = legend(segmentation, width=width)
    assert drawn.shape[1] >= width
    for color in segment_colors(segmentation).values():
        assert (drawn == color).all(axis=2).any()


def test_legend_of_nothing() -> None:
    assert legend(segmentation_of(np.zeros((20, 20)))).shape[1] >= 20


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="do not belong"):
        overlay(noise(10, 10), segmentation_of(halves()))


def test_heat_map_gets_brighter_and_is_the_colour_map_alone_without_a_picture() -> None:
    ramp = np.linspace(-0.5, 1.5, 101)[None]
    drawn = heat_map(ramp)
    light = linear(drawn[0]) @ (0.2126, 0.7152, 0.0722)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (1, 101, 3)
    assert (np.diff(light[25:76]) > 0).all()
    assert (drawn[0, :26] == drawn[0, 0]).all()
    assert (drawn[0, 75:] == drawn[0, -1]).all()
    assert (heat_map(ramp > 0.5)[0] == np.where(ramp[0, :, None] > 0.5, drawn[0, -1], drawn[0, 0])).all()


@pytest.mark.parametrize("opacity", [0.0, 0.4, 1.0])
def test_heat_map_over_a_picture_mixes_grey_and_colour(opacity: float) -> None:
    pixels = noise(20, 30)
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    drawn = heat_map(values, pixels, opacity=opacity).astype(float)
    grey = pixels @ (0.299, 0.587, 0.114)
    expected = opacity * heat_map(values) + (1 - opacity) * 0.7 * grey[..., None]
    assert np.abs(drawn - expected).max() <= 1.5
    with pytest.raises(ValueError, match="do not belong"):
        heat_map(values[1:], pixels)
