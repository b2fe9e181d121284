"""A segmentation drawn on its picture: colours, outlines, labels and a legend.

A class has the same colour in every run, tab and export, since the colour comes from its name and the words before it.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovdemo.segmentation import Segment, Segmentation

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = tuple(
    (value >> 16, value >> 8 & 255, value & 255)
    for value in (
        *(0x1479B0, 0xCDF118, 0xF1B4FF, 0xE23726, 0x5F09D2, 0x79C09A, 0x84345F, 0xBD50FD, 0xF2943C, 0x9398D6),
        *(0xF3DAB2, 0x118659, 0xE10195, 0x840A9B, 0x794819, 0x43FEE2, 0x8A956C, 0x7457D1, 0x816688, 0xE67AFF),
        *(0x54DD7D, 0x767700, 0xD67EA9, 0xFD9CBA, 0x43D5DC, 0xAB72D3, 0x3543EE, 0xF4C947, 0x425677, 0x46BC24),
        *(0xA8353E, 0x6EB9DC, 0x3E6E5E, 0xA02A83, 0xC4AC6A, 0x483EB5, 0xAF6974, 0x99FB84, 0x26A9F1, 0xC47C3B),
        *(0xF86685, 0x6B81A5, 0xA3DBCF, 0x397BE9, 0xFFBD99, 0x47A191, 0x2A5FB7, 0xB6E6FF),
    )
)
"""48 sRGB colours, the most distinct first.

Picked greedily among 1299 OKLCh colours (lightness 0.45..0.9, chroma 0.06..0.25, all hues) for the largest smallest
distance in OKLab (Ottosson, 2020), as seen with normal vision (weight 0.6), protanopia and deuteranopia (weight 1;
Machado et al., 2009). The first ten stay apart well for everyone; of all 48, the closest pairs are hard to tell
apart when colour-blind, which is why segments carry outlines and labels too.
"""

# Deals colours to names. Of a hundred thousand deals one that keeps words apart, in OKLab and for protanopes, which the
# examples, streets and rooms ask for together: none of them takes another's colour, and the sky is blue.
_DEAL = 1142
_TONES = (0.0, 0.45, -0.4)  # of the 1st, 2nd, 3rd 48 classes, as shares of white or black mixed in
# Shades of one thing class, as shares of white (above zero) or black (below) mixed in.
_SHADES = (0.0, 0.25, -0.2, 0.4, -0.33)
_UNLABELLED_DIM = 0.35
_HEAT_DIM = 0.7  # brightness left to the picture under a heat map

_INK: Color = (31, 35, 40)
_MUTED: Color = (89, 99, 110)
_PAPER: Color = (255, 255, 255)


def class_color(label: str) -> Color:
    """The RGB colour of a class name, the same in every run; case does not matter."""
    return PALETTE[_palette_index(label)]


def palette(labels: Sequence[str]) -> list[Color]:
    """One RGB colour a label, all distinct for up to 144 labels: the colours of :data:`PALETTE` in three tones.

    In the order of the labels each takes its :func:`class_color`, or the first free colour where that is taken, so
    that a label added at the end changes no other colour; each further 48 labels begin anew in the next tone.
    """
    colors: list[Color] = []
    free: dict[int, None] = {}
    for place, label in enumerate(labels):
        tone, first = divmod(place, len(PALETTE))
        if first == 0:
            free = dict.fromkeys(range(len(PALETTE)))
        index = _palette_index(label)
        if index not in free:
            index = next(iter(free))
        del free[index]
        colors.append(_shaded(PALETTE[index], _TONES[tone % len(_TONES)]))
    return colors


def segment_colors(segmentation: Segmentation) -> dict[int, Color]:
    """The RGB colour of each segment's id: its class's colour in the whole vocabulary, and for things a shade of it."""
    colors = palette(segmentation.labels)
    result: dict[int, Color] = {}
    drawn: dict[int, int] = defaultdict(int)
    for segment in segmentation.segments:
        shade = _SHADES[drawn[segment.class_index] % len(_SHADES)] if segment.kind == "thing" else 0.0
        drawn[segment.class_index] += 1
        result[segment.id] = _shaded(colors[segment.class_index], shade)
    return result


def overlay(
    pixels: np.ndarray,
    segmentation: Segmentation,
    *,
    opacity: float = 0.55,
    outlines: bool = True,
    labels: bool = True,
) -> np.ndarray:
    """The picture with its segments coloured, outlined and named.

    Args:
        pixels: (H, W, 3) uint8 RGB; H and W are the segmentation's.
        segmentation: what to draw; in instance mode the best-scoring instance of each pixel.
        opacity: 0..1; 0 leaves the picture as it is, 1 paints flat colour. Unlabelled pixels are not coloured but
            dimmed by 0.35 of it.
        outlines: white lines with a dark halo where segments meet.
        labels: class names inside the segments that have room for one, none over another.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: ``pixels`` is not of the segmentation's size.
    """
    if pixels.shape != (*segmentation.id_map.shape, 3):
        raise ValueError(f"pixels {pixels.shape} do not belong to a segmentation of {segmentation.id_map.shape}")
    colors = segment_colors(segmentation)
    canvas = _blend(pixels, segmentation.id_map, colors, opacity)
    if outlines:
        _draw_outlines(canvas, segmentation.id_map)
    if labels:
        canvas = _draw_labels(canvas, segmentation, colors)
    return canvas


def legend(segmentation: Segmentation, *, width: int | None = None) -> np.ndarray:
    """A table of the classes present, largest first, in as many columns as fit.

    Each row has the colour, the label, the number of segments of a thing, the share of the picture's pixels that
    show the class, and the mean score of its segments; the last row is what nothing was assigned to.

    Args:
        segmentation: what to describe; the text size follows its height and width.
        width: of the table in pixels, by default the segmentation's; more where one column needs it.

    Returns:
        (h, w, 3) uint8 RGB, w at least ``width``.
    """
    rows = _legend_rows(segmentation)
    size = _text_size(segmentation, smallest=12)
    table = _LegendLayout.of(rows, size, segmentation.width if width is None else width)
    image = Image.new("RGB", (table.width, table.height), _PAPER)
    draw = ImageDraw.Draw(image)
    for column in range(table.columns):
        _draw_cells(draw, table, (column, 0), ("class", "area", "score"), _MUTED)
    for index, row in enumerate(rows):
        column, line = divmod(index, table.lines)
        _draw_row(image, table, (column, line + 1), row)
    return np.array(image)


def overlay_with_legend(
    pixels: np.ndarray,
    segmentation: Segmentation,
    *,
    opacity: float = 0.55,
    outlines: bool = True,
    labels: bool = True,
) -> np.ndarray:
    """:func:`overlay` with :func:`legend` below it, (h, w, 3) uint8 RGB; w exceeds W where the legend needs it."""
    drawn = overlay(pixels, segmentation, opacity=opacity, outlines=outlines, labels=labels)
    below = legend(segmentation)
    left = (below.shape[1] - drawn.shape[1]) // 2
    right = below.shape[1] - drawn.shape[1] - left
    framed = np.pad(drawn, ((0, 0), (left, right), (0, 0)), constant_values=255)
    return np.concatenate([framed, below])


def heat_map(values: np.ndarray, pixels: np.ndarray | None = None, *, opacity: float = 0.7) -> np.ndarray:
    """A map of numbers as colours, over a grey and dimmed picture where there is one; brighter is more.

    The colours are cividis (Nunez, Anderton and Renslow, 2018): perceptually uniform, and the same to the colour-blind.

    Args:
        values: (H, W), of which 0..1 is shown and the rest clipped; bool counts as 0 and 1.
        pixels: (H, W, 3) uint8 RGB.
        opacity: of the colours over the picture, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: ``pixels`` is not of the size of ``values``.
    """
    colors = matplotlib.colormaps["cividis"](np.clip(values, 0, 1).astype(np.float32), bytes=True)[..., :3]
    if pixels is None:
        return np.asarray(colors)
    if pixels.shape != (*values.shape, 3):
        raise ValueError(f"pixels {pixels.shape} do not belong to a map of {values.shape}")
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(np.ascontiguousarray(colors), opacity, grey, _HEAT_DIM * (1 - opacity), 0))


# Colours


def _palette_index(label: str) -> int:
    digest = hashlib.sha256(f"{_DEAL} {label.casefold()}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % len(PALETTE)


def _shaded(color: Color, shade: float) -> Color:
    target = 255 if shade > 0 else 0
    red, green, blue = (round(channel + (target - channel) * abs(shade)) for channel in color)
    return red, green, blue


def text_color(background: Color) -> Color:
    """Ink or paper, whichever has the higher WCAG 2 contrast on the background: 3.9:1 or better."""
    channels = np.array(background) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return _INK if linear @ (0.2126, 0.7152, 0.0722) > 0.215 else _PAPER


def _blend(pixels: np.ndarray, id_map: np.ndarray, colors: dict[int, Color], opacity: float) -> np.ndarray:
    """Mix by table look-up in 8.8 fixed point, which is exact at opacities 0 and 1."""
    entries = max(int(id_map.max(initial=0)), *colors, 0) + 1
    paint = np.zeros((entries, 3), np.uint16)
    weight = np.full((entries, 1), round(256 * opacity * _UNLABELLED_DIM), np.uint16)
    for segment_id, color in colors.items():
        paint[segment_id] = color
        weight[segment_id] = round(256 * opacity)
    paint = paint * weight + 128
    return np.asarray(((pixels * (256 - weight)[id_map] + paint[id_map]) >> 8).astype(np.uint8))


def _draw_outlines(canvas: np.ndarray, id_map: np.ndarray) -> None:
    edges = np.zeros(id_map.shape, np.uint8)
    edges[:, :-1] |= id_map[:, 1:] != id_map[:, :-1]
    edges[:-1] |= id_map[1:] != id_map[:-1]
    thickness = max(1, round(min(id_map.shape) / 400))
    around = thickness + 2 * max(1, thickness // 2)
    line = cv2.dilate(edges, np.ones((thickness, thickness), np.uint8)).astype(bool)
    halo = cv2.dilate(edges, np.ones((around, around), np.uint8)).astype(bool) & ~line
    canvas[halo] = canvas[halo] // 5 * 3
    canvas[line] = 255


# Labels inside segments


@dataclass(frozen=True)
class _Chip:
    """A name as it will be drawn: the text, its font size and the size of the rounded box around it, in pixels."""

    text: str
    size: int
    width: int
    height: int

    @classmethod
    def of(cls, label: str, size: int, max_width: int) -> _Chip:
        text = _shortened(label, size, max_width - size)
        return cls(text, size, round(_font(size).getlength(text)) + size, round(1.5 * size))


def _draw_labels(canvas: np.ndarray, segmentation: Segmentation, colors: dict[int, Color]) -> np.ndarray:
    """Name segments from the largest to the smallest, each where most of its chip lies on the segment itself."""
    height, width = canvas.shape[:2]
    step = 1 + max(height, width) // 512
    ids = segmentation.id_map[::step, ::step]
    taken = np.zeros(ids.shape, np.float32)
    size = _text_size(segmentation, smallest=10)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for segment in sorted(segmentation.segments, key=lambda segment: (-segment.area, segment.id)):
        for smaller in sorted({size, max(9, round(0.8 * size))}, reverse=True):
            chip = _Chip.of(segment.label, smaller, round(0.45 * width))
            corner = _place(ids, segment, chip, taken, step)
            if corner is not None:
                _draw_chip(image, draw, chip, corner, colors[segment.id])
                break
    return np.array(image)


def _place(ids: np.ndarray, segment: Segment, chip: _Chip, taken: np.ndarray, step: int) -> tuple[int, int] | None:
    """Upper left corner (x, y) for a chip, in pixels, and mark it in ``taken``; None where it would not fit.

    ``ids`` and ``taken`` are every ``step``-th pixel. The chip must be centred on the segment, lie at least half on
    it, and touch neither another chip nor the picture's border; among such places the one furthest inside wins.
    """
    rows, columns = ids.shape
    half_rows, half_columns = chip.height // step // 2 + 1, chip.width // step // 2 + 1
    kernel = (2 * half_columns + 1, 2 * half_rows + 1)
    if not chip.text or 2 * segment.area < chip.width * chip.height or kernel[0] > columns or kernel[1] > rows:
        return None
    mask = (ids == segment.id).astype(np.uint8)
    coverage = cv2.boxFilter(mask.astype(np.float32), -1, kernel, borderType=cv2.BORDER_CONSTANT)
    inside = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)
    score = coverage + 0.25 * inside[1:-1, 1:-1] / max(float(inside.max()), 1.0)
    clash = cv2.boxFilter(taken, -1, kernel, borderType=cv2.BORDER_CONSTANT, normalize=False) > 0.5
    score[clash | (mask == 0) | (coverage < 0.5)] = -1
    score[:half_rows] = score[rows - half_rows :] = -1
    score[:, :half_columns] = score[:, columns - half_columns :] = -1
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    if score[y, x] < 0:
        return None
    taken[y - half_rows : y + half_rows + 1, x - half_columns : x + half_columns + 1] = 1
    return int(x) * step - chip.width // 2, int(y) * step - chip.height // 2


def _draw_chip(
    image: Image.Image, draw: ImageDraw.ImageDraw, chip: _Chip, corner: tuple[int, int], color: Color
) -> None:
    x, y = corner
    _paste_rounded(image, (x - 1, y - 1, chip.width + 2, chip.height + 2), _INK)
    _paste_rounded(image, (x, y, chip.width, chip.height), color)
    middle = (x + chip.width / 2, y + chip.height / 2)
    draw.text(middle, chip.text, fill=text_color(color), font=_font(chip.size), anchor="mm")


def _paste_rounded(image: Image.Image, box: tuple[int, int, int, int], color: Color) -> None:
    """Fill a box (x, y, width, height) with rounded, smooth corners: drawn four times too large, then shrunk."""
    x, y, width, height = box
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), radius=1.2 * height, fill=255)
    image.paste(color, (x, y), large.resize((width, height), Image.Resampling.BOX))


# Text


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic and more, but neither CJK nor emoji."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _text_size(segmentation: Segmentation, *, smallest: int) -> int:
    return max(smallest, round(0.024 * math.sqrt(segmentation.height * segmentation.width)))


def _shortened(text: str, size: int, max_width: float) -> str:
    """The text on one line, cut with an ellipsis to a width in pixels; empty where not even two letters fit."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text[:200]).split())
    font = _font(size)
    if font.getlength(text) <= max_width:
        return text
    fitting = bisect_right(range(len(text)), max_width, key=lambda n: font.getlength(text[:n] + "…")) - 1
    return text[:fitting].rstrip() + "…" if fitting >= 2 else ""


# The legend


@dataclass(frozen=True)
class _LegendRow:
    """A line of the legend; what nothing was assigned to has neither colour nor score."""

    label: str
    count: str
    share: float
    color: Color | None
    score: float | None


def _legend_rows(segmentation: Segmentation) -> list[_LegendRow]:
    by_class: dict[int, list[Segment]] = defaultdict(list)
    for segment in segmentation.segments:
        by_class[segment.class_index].append(segment)
    colors = palette(segmentation.labels)
    counts = np.bincount(segmentation.id_map.ravel())
    shares = {int(index): float(counts[index] / segmentation.id_map.size) for index in np.flatnonzero(counts)}
    rows = []
    for class_index, segments in by_class.items():
        several = segments[0].kind == "thing" and len(segments) > 1
        share = sum(shares.get(segment.id, 0.0) for segment in segments)
        score = sum(segment.score for segment in segments) / len(segments)
        count = f" ×{len(segments)}" if several else ""
        rows.append(_LegendRow(segments[0].label, count, share, colors[class_index], score))
    rows.sort(key=lambda row: -row.share)
    assigned = {segment.id for segment in segmentation.segments}
    nothing = sum(share for segment_id, share in shares.items() if segment_id not in assigned)
    return [*rows, _LegendRow("unlabelled", "", nothing, None, None)] if nothing else rows


@dataclass(frozen=True)
class _LegendLayout:
    """Where the legend's cells are: ``lines`` rows in each of ``columns`` columns under a heading, in pixels."""

    size: int
    lines: int
    columns: int
    label_width: int
    number_width: int
    width: int

    @classmethod
    def of(cls, rows: Sequence[_LegendRow], size: int, width: int) -> _LegendLayout:
        font = _font(size)
        widest = max([font.getlength(_shortened(row.label, size, 11 * size) + row.count) for row in rows], default=0)
        label_width = max(round(widest) + 1, 5 * size)
        number_width = round(max(font.getlength(text) for text in ("100.0%", "score"))) + size
        column_width = cls(size, 0, 1, label_width, number_width, 0).column_width
        columns = max(1, min(width // column_width, len(rows)))
        lines = -(-len(rows) // columns)
        return cls(size, lines, columns, label_width, number_width, max(width, columns * column_width))

    @property
    def line_height(self) -> int:
        return round(1.7 * self.size)

    @property
    def column_width(self) -> int:
        return round(3.5 * self.size) + self.label_width + 2 * self.number_width

    @property
    def height(self) -> int:
        return (self.lines + 1) * self.line_height + self.size

    def middle(self, cell: tuple[int, int]) -> tuple[int, int]:
        """Left end and vertical middle of the cell (column, line), in pixels."""
        column, line = cell
        return column * self.column_width + self.size, round((line + 0.5) * self.line_height + self.size / 2)


def _draw_cells(
    draw: ImageDraw.ImageDraw, table: _LegendLayout, cell: tuple[int, int], texts: tuple[str, str, str], ink: Color
) -> None:
    """One line of the legend: label, share and score in the cell (column, line), where line 0 is the heading."""
    label, share, score = texts
    x, y = table.middle(cell)
    left = x + round(1.5 * table.size)
    right = left + table.label_width
    font = _font(table.size)
    draw.text((left, y), label, fill=ink, font=font, anchor="lm")
    draw.text((right + table.number_width, y), share, fill=_MUTED, font=font, anchor="rm")
    draw.text((right + 2 * table.number_width, y), score, fill=_MUTED, font=font, anchor="rm")


def _draw_row(image: Image.Image, table: _LegendLayout, cell: tuple[int, int], row: _LegendRow) -> None:
    room = table.label_width - _font(table.size).getlength(row.count)
    label = _shortened(row.label, table.size, room) + row.count
    share = "<0.1%" if row.share < 0.001 else f"{row.share:.1%}"
    score = "" if row.score is None else f"{row.score:.2f}"
    _draw_cells(ImageDraw.Draw(image), table, cell, (label, share, score), _MUTED if row.color is None else _INK)
    x, y = table.middle(cell)
    top = y - table.size // 2
    _paste_rounded(image, (x, top, table.size, table.size), row.color or _MUTED)
    if row.color is None:
        _paste_rounded(image, (x + 1, top + 1, table.size - 2, table.size - 2), _PAPER)
