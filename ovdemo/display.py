"""A segmentation as a browser shows it: a small picture, a small id map, and what to say about each segment.

The browser colours, outlines and highlights on its own from these, so that an answer to a slider is a few kilobytes.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np

from ovdemo.images import resize
from ovdemo.rendering import Color, heat_map, segment_colors, text_color
from ovdemo.segmentation import Segment, Segmentation

MAX_SIDE = 1280  # pixels; more than that a page does not show
_JPEG_QUALITY = 90
_ANCHOR_SIDE = 320  # rows or columns of an id map, at most, in which places for labels are looked for


@dataclass(frozen=True)
class ShownSegment:
    """What a page says of a segment.

    Attributes:
        id: its value in the id map.
        label: of its class; text, never markup.
        kind: ``thing`` or ``stuff``.
        color: ``#rrggbb``, stable for the class.
        ink: ``#rrggbb`` of text on that colour.
        score: 0..1.
        share: of the picture's pixels, 0..1.
        seen: whether the class was in the training vocabulary.
        x: of a point well inside the segment, in pixels of the picture.
        y: likewise.
        room: largest distance in pixels from that point at which all is still the segment.
    """

    id: int
    label: str
    kind: str
    color: str
    ink: str
    score: float
    share: float
    seen: bool
    x: int
    y: int
    room: int


@dataclass(frozen=True)
class PackedIds:
    """An id map of ``height`` rows: little-endian 32-bit numbers, row by row, through zlib, as base64.

    No PNG: browsers that guard against fingerprinting change pixels that a page reads back.
    """

    width: int
    height: int
    data: str


@dataclass(frozen=True)
class Shown:
    """What a page needs to draw an answer.

    Attributes:
        width: of the picture, in pixels.
        height: likewise.
        ids: the id map, see :func:`packed_ids`.
        unlabelled: share of the picture's pixels that belong to no segment, 0..1.
        segments: largest first.
    """

    width: int
    height: int
    ids: PackedIds
    unlabelled: float
    segments: tuple[ShownSegment, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values for :func:`json.dumps`."""
        return asdict(self)


def show(segmentation: Segmentation) -> Shown:
    """Prepare an answer for a page."""
    return Shown(
        width=segmentation.width,
        height=segmentation.height,
        ids=packed_ids(segmentation.id_map),
        unlabelled=float((segmentation.id_map == 0).mean()),
        segments=shown_segments(segmentation),
    )


def shown_segments(segmentation: Segmentation) -> tuple[ShownSegment, ...]:
    """What a page says of each segment that has pixels, largest first."""
    colors = segment_colors(segmentation)
    grid = _Grid.of(segmentation.id_map)
    return tuple(
        _show_segment(segmentation, segment, colors[segment.id], grid)
        for segment in sorted(segmentation.segments, key=lambda segment: (-segment.area, segment.id))
        if segment.area
    )


def renamed(shown: Shown, names: Mapping[int, tuple[str, float, Color]]) -> Shown:
    """The same segments under other labels, scores and colours, by their ids."""
    segments = []
    for segment in shown.segments:
        label, score, color = names[segment.id]
        fresh = replace(segment, label=label, score=score, color=hex_color(color), ink=hex_color(text_color(color)))
        segments.append(fresh)
    return replace(shown, segments=tuple(segments))


def picture_jpeg(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 pixels as a JPEG of at most :data:`MAX_SIDE` pixels a side."""
    small = shrink(pixels, MAX_SIDE, cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(data.tobytes())


def picture_address(pixels: np.ndarray) -> str:
    """:func:`picture_jpeg` as a data address."""
    return "data:image/jpeg;base64," + base64.b64encode(picture_jpeg(pixels)).decode("ascii")


def heat_address(values: np.ndarray, pixels: np.ndarray) -> str:
    """An (H, W) map in 0..1 over its dimmed picture, as :func:`picture_address`; brighter is more."""
    small = shrink(values.astype(np.float32), MAX_SIDE, cv2.INTER_AREA)
    return picture_address(heat_map(small, resize(pixels, small.shape[:2])))


def packed_ids(id_map: np.ndarray) -> PackedIds:
    """An (H, W) id map for the browser, at most :data:`MAX_SIDE` cells a side."""
    small = shrink(id_map.astype(np.float32), MAX_SIDE, cv2.INTER_NEAREST).astype("<i4")
    return PackedIds(
        small.shape[1], small.shape[0], base64.b64encode(zlib.compress(small.tobytes(), 1)).decode("ascii")
    )


def shrink(pixels: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    """The same picture with at most ``side`` pixels on its longer side."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.asarray(cv2.resize(pixels, size, interpolation=interpolation))


@dataclass(frozen=True, eq=False)
class _Grid:
    """Each ``step``-th row and column of an id map: their numbers, and the ids where they cross."""

    step: int
    rows: np.ndarray
    columns: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, id_map: np.ndarray) -> _Grid:
        step = -(-max(id_map.shape) // _ANCHOR_SIDE)
        rows, columns = (np.arange((side - 1) % step // 2, side, step) for side in id_map.shape)
        return cls(step, rows, columns, id_map[np.ix_(rows, columns)])


def _show_segment(segmentation: Segmentation, segment: Segment, color: Color, grid: _Grid) -> ShownSegment:
    x, y, room = _anchor(segmentation, segment, grid)
    return ShownSegment(
        id=segment.id,
        label=segment.label,
        kind=segment.kind,
        color=hex_color(color),
        ink=hex_color(text_color(color)),
        score=segment.score,
        share=segment.area / segmentation.id_map.size,
        seen=segment.seen,
        x=x,
        y=y,
        room=room,
    )


def _anchor(segmentation: Segmentation, segment: Segment, grid: _Grid) -> tuple[int, int, int]:
    """The point furthest inside a segment, as far as the grid tells, and how far that is."""
    mask = grid.ids == segment.id
    if not mask.any():  # too thin for the grid, or covered by other instances
        rows, columns = np.nonzero(segmentation.mask(segment))
        return int(columns[len(columns) // 2]), int(rows[len(rows) // 2]), 0
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    inside = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(grid.columns[column]), int(grid.rows[row]), int(inside[row, column] * grid.step)


def hex_color(color: Color) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color)
