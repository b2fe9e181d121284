from __future__ import annotations

import base64
import io
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovdemo.display import (
    MAX_SIDE,
    PackedIds,
    heat_address,
    hex_color,
    packed_ids,
    picture_address,
    renamed,
    show,
    shown_segments,
    shrink,
)
from ovdemo.rendering import segment_colors, text_color
from ovdemo.segmentation import Segmentation
from test_export import overlapping_instances, panoptic, segmentation_of


def decoded(address: str, kind: str) -> np.ndarray:
    """The pixels behind a data address, read by Pillow."""
    head = f"data:image/{kind};base64,"
    assert address.startswith(head)
    with Image.open(io.BytesIO(base64.b64decode(address.removeprefix(head), validate=True))) as picture:
        assert picture.format == kind.upper()
        return np.asarray(picture.convert("RGB"))


def ids_of(packed: PackedIds) -> np.ndarray:
    content = zlib.decompress(base64.b64decode(packed.data, validate=True))
    return np.frombuffer(content, "<i4").reshape(packed.height, packed.width)


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=20))
def test_ids_come_back(ids: list[int]) -> None:
    assert ids_of(packed_ids(np.array([ids], np.int32))).tolist() == [ids]


def test_a_large_id_map_shrinks_without_new_ids() -> None:
    id_map = np.zeros((50, 2 * MAX_SIDE), np.int32)
    id_map[:, 1000:] = 2**24 - 1
    small = ids_of(packed_ids(id_map))
    assert small.shape == (25, MAX_SIDE)
    assert set(small.ravel().tolist()) == {0, 2**24 - 1}
    assert (small[:, 500:] == 2**24 - 1).all()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 400))
def test_nothing_is_larger_than_its_side_or_enlarged(height: int, width: int, side: int) -> None:
    pixels = np.zeros((height, width), np.uint8)
    small = shrink(pixels, side, cv2.INTER_NEAREST)
    assert max(small.shape) == min(side, max(height, width))
    assert small.shape[0] / height == pytest.approx(small.shape[1] / width, abs=1 / min(height, width))


@st.composite
def id_maps(draw: st.DrawFn) -> np.ndarray:
    """Rectangles and single lines over each other, of any aspect."""
    height, width = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    id_map = np.zeros((height, width), np.int32)
    for number in range(1, draw(st.integers(1, 6)) + 1):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        down, right = draw(st.sampled_from([1, 2, 50, 700])), draw(st.sampled_from([1, 2, 50, 700]))
        id_map[top : top + down, left : left + right] = number
    return id_map


@given(id_maps())
def test_anchors_lie_inside_and_shares_sum(id_map: np.ndarray) -> None:
    present = [int(i) for i in np.unique(id_map) if i]
    segmentation = segmentation_of("panoptic", id_map, {i: i % 3 for i in present})
    shown = show(segmentation)
    assert [s.id for s in shown.segments] == sorted(present, key=lambda i: (-(id_map == i).sum(), i))
    for segment in shown.segments:
        assert id_map[segment.y, segment.x] == segment.id
        assert 0 <= segment.room <= max(id_map.shape)
    assert shown.unlabelled + sum(s.share for s in shown.segments) == pytest.approx(1)
    assert (shown.height, shown.width) == id_map.shape


def test_the_anchor_is_the_middle_and_its_room_stays_inside() -> None:
    id_map = np.zeros((200, 900), np.int32)
    id_map[20:181, 100:701] = 1
    (segment,) = shown_segments(segmentation_of("panoptic", id_map, {1: 0}))
    assert abs(segment.y - 100) <= 3
    assert 70 <= segment.room <= 84
    assert id_map[segment.y, segment.x - 70 : segment.x + 71].all()


def test_an_instance_behind_another_is_pointed_at_in_its_own_mask() -> None:
    masks = np.zeros((2, 16, 24), bool)
    masks[:, 4:10, 4:10] = True
    top = overlapping_instances()
    segmentation = Segmentation("instance", masks[0].astype(np.int32), top.segments, top.labels, top.kinds, masks)
    behind = next(s for s in shown_segments(segmentation) if s.id == 2)
    assert masks[1][behind.y, behind.x]
    assert behind.room == 0


def test_colours_are_those_of_pictures() -> None:
    segmentation = panoptic()
    colors = segment_colors(segmentation)
    for segment in shown_segments(segmentation):
        assert segment.color == hex_color(colors[segment.id])
        assert segment.ink == hex_color(text_color(colors[segment.id]))
    assert hex_color((0, 10, 255)) == "#000aff"


def test_segments_under_other_names() -> None:
    shown = show(panoptic())
    again = renamed(shown, {s.id: (f"<{s.id}>", 0.25, (255, 255, 255)) for s in shown.segments})
    assert [s.label for s in again.segments] == [f"<{s.id}>" for s in shown.segments]
    assert {(s.score, s.color) for s in again.segments} == {(0.25, "#ffffff")}
    assert [(s.id, s.x, s.y) for s in again.segments] == [(s.id, s.x, s.y) for s in shown.segments]
    assert again.ids == shown.ids


def test_nothing_found_is_shown_too() -> None:
    shown = show(segmentation_of("panoptic", np.zeros((16, 24)), {}))
    assert (shown.segments, shown.unlabelled) == ((), 1.0)
    assert not ids_of(shown.ids).any()
    assert shown.to_json()["width"] == 24


def test_the_photograph_keeps_its_colours() -> None:
    pixels = np.zeros((64, 2 * MAX_SIDE, 3), np.uint8)
    pixels[:, :MAX_SIDE] = (250, 60, 10)
    shown = decoded(picture_address(pixels), "jpeg").astype(int)
    assert shown.shape == (32, MAX_SIDE, 3)
    assert np.abs(shown[16, 100] - (250, 60, 10)).max() < 12
    assert shown[16, -100].max() < 12


def test_a_map_is_brighter_where_it_is_more() -> None:
    values = np.zeros((40, 60))
    values[:, 30:] = 1
    for kind in (values, values > 0):
        shown = decoded(heat_address(kind, np.full((40, 60, 3), 128, np.uint8)), "jpeg").astype(int)
        assert shown.shape == (40, 60, 3)
        assert shown[:, 40:].sum() > 1.5 * shown[:, :20].sum()
