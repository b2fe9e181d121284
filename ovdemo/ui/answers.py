"""From an answer to what a page shows of it: the same for every tab that shows one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ovdemo.display import MAX_SIDE, Shown, heat_address, hex_color, shrink
from ovdemo.inspection import Case, formula_at
from ovdemo.recipes import Recipe
from ovdemo.rendering import overlay, segment_colors
from ovdemo.ui import html
from ovdemo.ui.files import photograph_address
from ovdemo.workbench import Analysis

LAYERS = ("segments", "unlabelled", "p(void)", "entropy", "margin")
Point = tuple[int, int]


def viewer_value(analysis: Analysis, case: Case, shown: Shown, point: Point | None) -> dict[str, object]:
    """What a viewer shows of an answer. With the photograph's address, as a viewer in a tab that was never opened
    keeps only the last value that it was sent.
    """
    return shown.to_json() | {
        "picture": photograph_address(analysis.picture),
        "note": note_of(analysis, case),
        "chosen": chosen_id(case, point),
    }


def layer_address(analysis: Analysis, case: Case, layer: str) -> str:
    """The picture of a "don't know" map as a data address; empty for the segments themselves."""
    if layer == LAYERS[0]:
        return ""
    maps = analysis.uncertainty(case)
    values = {
        "unlabelled": maps.unlabelled,
        "p(void)": maps.void,
        "entropy": maps.entropy,
        "margin": 1 - maps.margin,  # bright is doubtful in every layer
    }
    return heat_address(values[layer], analysis.picture.pixels)


def note_of(analysis: Analysis, case: Case) -> str:
    """A sentence on what a person might wonder about."""
    notes = []
    if not case.segmentation.segments:
        notes.append(
            'No segment: for every proposal "no object" was the better answer. Try other words, lower the '
            "thresholds or raise the objectness rescue."
        )
    if analysis.reduced:
        notes.append("The GPU's memory was short, so the picture was analysed at a smaller size.")
    return " ".join(notes)


def chosen_id(case: Case, point: Point | None) -> int:
    """The segment at a point, 0 for none."""
    if point is None:
        return 0
    return int(case.segmentation.id_map[point[1], point[0]]) if _inside(case, point) else 0


def inspector_html(analysis: Analysis, case: Case, point: Point | None) -> str:
    """The inspector for the clicked pixel, or what to do to fill it."""
    if point is None or not _inside(case, point):
        return '<p class="ov-lead">Click a segment, or any pixel, to see why it got its label.</p>'
    found, prompt = analysis.inspect(case, *point)
    colors = segment_colors(case.segmentation)
    return html.inspector(found, prompt, hex_color(colors[found.segment.id]) if found.segment else "#888888")


def maths_html(case: Case, point: Point | None, shown: Shown | None = None) -> str:
    """The formula with the numbers of the clicked segment, or else of the largest one that is shown."""
    if point is None or not _inside(case, point):
        largest = shown.segments[0] if shown and shown.segments else None
        point = (largest.x, largest.y) if largest else (case.segmentation.width // 2, case.segmentation.height // 2)
    return html.maths(formula_at(case, *point))


def overlay_of(analysis: Analysis, case: Case, recipe: Recipe) -> np.ndarray:
    """The labelled picture as its recipe draws it, (h, w, 3) uint8, at most as large as a page shows it."""
    drawn = overlay(analysis.picture.pixels, case.segmentation, **recipe.drawing)
    return shrink(drawn, MAX_SIDE, cv2.INTER_AREA)


def _inside(case: Case, point: Point) -> bool:
    return 0 <= point[0] < case.segmentation.width and 0 <= point[1] < case.segmentation.height


def table_rows(case: Case) -> list[list[Any]]:
    """A row for each segment: id, label, kind, score, share of the picture in percent, seen."""
    size = case.segmentation.id_map.size
    return [
        [s.id, s.label, s.kind, round(s.score, 3), round(100 * s.area / size, 1), "seen" if s.seen else "unseen"]
        for s in sorted(case.segmentation.segments, key=lambda segment: -segment.area)
    ]


TABLE_HEADERS: Sequence[str] = ("id", "label", "kind", "score", "area %", "training")


def class_rows(case: Case, default: Case) -> list[list[Any]]:
    """A row for each class that has pixels now or by default, with how that changed."""
    exponents = case.fusion.weights(case.scores.seen).tolist()
    now, before = (_class_shares(one) for one in (case, default))
    present = sorted({*now, *before}, key=lambda index: -max(now.get(index, 0.0), before.get(index, 0.0)))
    rows = []
    for index in present:
        after, earlier = now.get(index, 0.0), before.get(index, 0.0)
        seen = "seen" if bool(case.scores.seen[index]) else "unseen"
        label = case.segmentation.labels[index]
        rows.append(
            [label, seen, round(exponents[index], 2), *(round(x, 1) for x in (earlier, after, after - earlier))]
        )
    return rows


def _class_shares(case: Case) -> dict[int, float]:
    """Percent of the picture's pixels by class."""
    shares: dict[int, float] = {}
    for segment in case.segmentation.segments:
        share = 100 * segment.area / case.segmentation.id_map.size
        shares[segment.class_index] = shares.get(segment.class_index, 0.0) + share
    return shares
