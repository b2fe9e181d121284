"""Colours that refine: a kind has a hue within its parent's share of the colour circle, so depth never jumps hue."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ovdemo.hierarchy.tree import CategoryTree
from ovdemo.rendering import Color

_START = 20.0  # degrees; where the circle of hues is cut
_FILLED = 0.8  # of a share of hues is handed on to the kinds below; the rest keeps cousins apart
_LIGHTNESS = (0.68, 0.56, 0.80, 0.62, 0.74)  # of siblings in turn
_CHROMA = 0.14
_ROOT_LIGHTNESS = 0.65

_TO_LMS = ((1.0, 0.3963377774, 0.2158037573), (1.0, -0.1055613458, -0.0638541728), (1.0, -0.0894841775, -1.2914855480))
_TO_LINEAR = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


def refined_colors(tree: CategoryTree, nodes: Iterable[int]) -> dict[int, Color]:
    """RGB colours of nodes and of all their ancestors; the same nodes have the same colours in every run.

    The circle of hues is divided among the root's children that are shown, each in proportion to the number of given
    nodes below it; each child's part among its own children, and so on. A node's hue is the middle of its part, in
    OKLCh (Ottosson, 2020); siblings differ in lightness too. The root is grey.

    Args:
        tree: whose nodes they are.
        nodes: those that will be shown at the greatest depth, such as the ends of all paths.
    """
    weights: dict[int, int] = {}
    for node in set(nodes):
        for index in tree.lineage(node):
            weights[index] = weights.get(index, 0) + 1
    parts = {0: (_START, _START + 360.0)}
    colors = {0: _to_rgb(_ROOT_LIGHTNESS, 0.0, 0.0)}
    for node in sorted(weights):  # breadth first: parents come before their children
        first, last = parts[node]
        shown = [child for child in tree.nodes[node].children if child in weights]
        total = sum(weights[child] for child in shown)
        for turn, child in enumerate(shown):
            width = (last - first) * weights[child] / total
            middle = first + width / 2
            reach = width / 2 * (_FILLED if len(shown) > 1 else 1.0)
            parts[child] = (middle - reach, middle + reach)
            colors[child] = _to_rgb(_LIGHTNESS[turn % len(_LIGHTNESS)], _CHROMA, middle)
            first += width
    return colors


def _to_rgb(lightness: float, chroma: float, hue: float) -> Color:
    """OKLCh to 8-bit sRGB; chroma gives way where a screen cannot show so much."""
    a, b = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    while True:
        lab = (lightness, chroma * a, chroma * b)
        lms = [_dot(row, lab) ** 3 for row in _TO_LMS]
        linear = [_dot(row, lms) for row in _TO_LINEAR]
        if chroma < 1e-3 or all(-1e-4 <= x <= 1 + 1e-4 for x in linear):
            red, green, blue = (round(255 * _gamma(min(max(x, 0.0), 1.0))) for x in linear)
            return red, green, blue
        chroma *= 0.95


def _gamma(linear: float) -> float:
    """The transfer function of sRGB (IEC 61966-2-1)."""
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _dot(row: Sequence[float], column: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(row, column, strict=True))
