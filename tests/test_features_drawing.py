"""Panels show the values they are given, grids and archives can be read again."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from ovdemo import load_picture
from ovdemo.features import (
    ClusterMap,
    FeatureMap,
    Layer,
    Upsampling,
    display_size,
    draw_clusters,
    draw_colours,
    draw_heat,
    features_npz,
    grid_png,
    lay_over,
)
from ovdemo.rendering import PALETTE

UPSAMPLINGS: tuple[Upsampling, ...] = ("nearest", "bilinear")
SIZE = (60, 90)


def clusters(labels: object) -> ClusterMap:
    return ClusterMap(np.asarray(labels, np.uint8), np.zeros((20, 3), np.float32), ("a", "last"))


def colours_of(drawn: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}


@pytest.mark.parametrize(
    ("picture", "expected"), [((300, 400), (480, 640)), ((400, 300), (640, 480)), ((20, 1), (640, 32))]
)
def test_a_panel_has_the_picture_s_shape(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    assert display_size(picture) == expected


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_clusters_have_as_many_colours_as_there_are_clusters(upsampling: Upsampling) -> None:
    drawn = draw_clusters(clusters(np.arange(20).reshape(4, 5)), SIZE, upsampling)
    assert (drawn.shape, drawn.dtype) == ((*SIZE, 3), np.uint8)
    assert colours_of(drawn) == set(PALETTE[:20])


def test_nearest_shows_every_cell_as_a_block_and_bilinear_rounds_its_corners() -> None:
    labels = np.zeros((3, 3), np.uint8)
    labels[1, 1] = 1
    nearest, bilinear = ((draw_clusters(clusters(labels), (60, 60), way) == PALETTE[1]).all(-1) for way in UPSAMPLINGS)
    assert nearest[20:40, 20:40].all()
    assert nearest.sum() == 400
    assert bilinear[30, 30]
    assert not bilinear[21, 21]
    assert not bilinear[~nearest].any()


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_heat_follows_its_limits(upsampling: Upsampling) -> None:
    values = np.array([[-0.5, 0.0], [0.5, 2.0]])
    drawn = draw_heat(values, (0.0, 0.5), SIZE, upsampling).astype(int)
    darkest, brightest = drawn[0, 0], drawn[-1, -1]
    np.testing.assert_array_equal(drawn[0, -1], darkest)  # what lies beyond a limit looks like the limit
    np.testing.assert_array_equal(drawn[-1, 0], brightest)
    assert brightest.sum() > darkest.sum() + 200
    flat = draw_heat(np.full((2, 2), 0.3), (0.3, 0.3), SIZE, upsampling)
    assert len(colours_of(flat)) == 1


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_components_are_red_green_and_blue(upsampling: Upsampling) -> None:
    drawn = draw_colours(np.array([[[1.0, 0.0, 0.0], [0.0, 0.5, 1.0]]]), SIZE, upsampling)
    assert (drawn.shape, drawn.dtype) == ((*SIZE, 3), np.uint8)
    assert drawn[30, 0].tolist() == [255, 0, 0]
    assert drawn[30, -1].tolist() == [0, 128, 255]


def test_opacity_mixes_with_the_picture() -> None:
    picture = load_picture(np.full((30, 45, 3), 200, np.uint8))
    drawn = np.full((*SIZE, 3), 100, np.uint8)
    for opacity, expected in ((0.0, 200), (1.0, 100), (0.25, 175)):
        np.testing.assert_array_equal(lay_over(drawn, picture, opacity), np.full((*SIZE, 3), expected))


@pytest.mark.parametrize("word", ["$x_{$", "猫", "a" * 500, "two\nlines", ""])
def test_a_grid_is_a_picture_whatever_its_labels(word: str) -> None:
    red = np.full((40, 60, 3), (255, 0, 0), np.uint8)
    png = grid_png([[red, None], [None, red]], [word, "second"], ["224 px", word], title=word)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    reds = (pixels == (255, 0, 0)).all(-1)
    assert reds.any()
    rows, columns = np.nonzero(reds)
    middle = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    assert reds[: middle[0], : middle[1]].any()
    assert not reds[: middle[0], middle[1] + 5 :].any()
    assert reds[middle[0] :, middle[1] :].any()


def test_an_empty_grid_is_a_picture() -> None:
    assert Image.open(io.BytesIO(grid_png([[None]], ["a"], ["b"]))).width > 0


def test_an_archive_holds_features_and_where_they_are_from() -> None:
    maps = [
        FeatureMap(np.random.default_rng(n).normal(size=(2, 3, 4)).astype(np.float32), "vit-b-16", layer, 224, (64, 96))
        for n, layer in enumerate((Layer("block-1", "block 1", 16, 4), Layer("projected", "final", 16, 4, True)))
    ]
    with np.load(io.BytesIO(features_npz(maps)), allow_pickle=False) as archive:
        about = json.loads(str(archive["about"]))
        for index, panel in enumerate(maps):
            np.testing.assert_array_equal(archive[f"map_{index}"], panel.values)
    assert about[1] == {
        "source": "vit-b-16",
        "layer": "projected",
        "stride": 16,
        "size": 224,
        "picture": [64, 96],
        "projected": True,
    }
    assert [entry["projected"] for entry in about] == [False, True]
