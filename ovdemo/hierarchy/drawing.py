"""A segment's way down the tree as an SVG picture: its path bold, what it might have been instead faint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ovdemo.hierarchy.paths import Stopping, TreePath
from ovdemo.hierarchy.scoring import TreeScores

MAX_SIBLINGS = 8

_COLUMN, _BOX, _ROW, _TOP, _EDGE = 196, 132, 30, 34, 14  # pixels
_LABEL_CHARACTERS = 19
_FAINT = "0.65"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Entry:
    """A line of a column: a child of the path's node, or that node itself as an answer."""

    label: str
    gloss: str
    probability: float
    share: float
    on_path: bool


def draw_path(scores: TreeScores, row: int, path: TreePath, stopping: Stopping) -> str:
    """The path of one row, left to right, as SVG text: at most eight siblings a level, the likeliest.

    Lines and words have the colour of the surrounding text, so that it reads on light and dark pages alike; what is
    not on the path is faint. Each edge bears the probability among the siblings; each node of the path its own. A
    dashed line stands where the path is no longer sure.

    Args:
        scores: where the path was traced.
        row: of the segment in ``scores``.
        path: of that row.
        stopping: where to draw the cut.
    """
    columns = _columns(scores, row, path)
    rows = max(len(entries) + (hidden > 0) for entries, hidden in columns)
    width, height = _COLUMN * len(columns) - (_COLUMN - _BOX) + 2 * _EDGE, _TOP + _ROW * rows + _EDGE
    labels = " > ".join(path.tree.nodes[step.node].label for step in path.steps)
    svg = Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "width": f"{width}"}
        | {"height": f"{height}", "role": "img", "aria-label": _clean(labels), "fill": "currentColor"}
        | {"font-family": "system-ui, sans-serif", "font-size": "12"},
    )
    sure = path.sure(stopping)
    for column, (entries, hidden) in enumerate(columns):
        start = min(_BOX, 8 * len(_shortened(columns[column - 1][0][0].label)) + 6) if column else 0
        for place, entry in enumerate(entries):
            if column:
                _draw_edge(svg, column, place, entry, start=start, unsure=column > sure)
            _draw_label(svg, column, place, entry)
        if hidden:
            _text(svg, column, len(entries), f"… {hidden:,} more", opacity=_FAINT)
    if sure + 1 < len(path.steps):
        _draw_cut(svg, sure, height)
    return ElementTree.tostring(svg, encoding="unicode")


def _columns(scores: TreeScores, row: int, path: TreePath) -> list[tuple[list[_Entry], int]]:
    """For each depth the likeliest entries, the path's first, and how many more there are."""
    tree = scores.tree
    root = tree.nodes[0]
    columns = [([_Entry(root.label, root.gloss, path.steps[0].probability, 1.0, on_path=True)], 0)]
    on_path = {step.node for step in path.steps}
    for step in path.steps:
        node = tree.nodes[step.node]
        if not node.children:
            break
        ends = step is path.steps[-1]
        values = scores.probability[row, node.children.start : node.children.stop]
        own = float(scores.own[row, step.node])
        whole = max(step.probability, 1e-30)
        # Stable: of equals the first comes first, as on the path.
        best = values.argsort(descending=True, stable=True)[:MAX_SIBLINGS]
        entries = [
            _Entry(tree.nodes[child].label, tree.nodes[child].gloss, p, min(p / whole, 1.0), child in on_path)
            for child, p in zip((best + node.children.start).tolist(), values[best].tolist(), strict=True)
        ]
        if own > 0:
            entries.append(_Entry(f"{node.label} itself", node.gloss, own, min(own / whole, 1.0), ends))
        entries.sort(key=lambda entry: (not entry.on_path, -entry.probability))
        hidden = len(values) + (own > 0) - MAX_SIBLINGS
        columns.append((entries[:MAX_SIBLINGS], max(hidden, 0)))
    return columns


def _draw_edge(svg: Element, column: int, place: int, entry: _Entry, *, start: int, unsure: bool) -> None:
    """From right of the path's label in the column before, ``start`` pixels from its left, to an entry's label."""
    x, y, level = _EDGE + column * _COLUMN - 4, _TOP + (place + 0.5) * _ROW, _TOP + 0.5 * _ROW
    before, knee = _EDGE + (column - 1) * _COLUMN + start, x - (_COLUMN - _BOX)
    middle = (knee + x) / 2
    opacity = "1" if entry.on_path else _FAINT
    dashes = {"stroke-dasharray": "4 3"} if entry.on_path and unsure else {}
    line = f"M{before} {level}H{knee}C{middle} {level} {middle} {y} {x} {y}"
    look = {"stroke": "currentColor", "stroke-width": "2.5" if entry.on_path else "0.6", "opacity": opacity}
    SubElement(svg, "path", {"d": line, "fill": "none"} | look | dashes)
    place_of_number = {"x": f"{x - 2}", "y": f"{y - 4}", "text-anchor": "end", "font-size": "10", "opacity": opacity}
    number = SubElement(svg, "text", place_of_number | {"font-weight": "700" if entry.on_path else "400"})
    number.text = _percent(entry.share)


def _draw_label(svg: Element, column: int, place: int, entry: _Entry) -> None:
    label = _text(svg, column, place, _shortened(entry.label), opacity="1" if entry.on_path else _FAINT)
    if entry.on_path:
        label.set("font-weight", "700")
        below = {"x": label.get("x", ""), "y": f"{_TOP + (place + 0.5) * _ROW + 15}", "font-size": "9"}
        SubElement(svg, "text", below).text = f"p = {_percent(entry.probability)}"
    SubElement(label, "title").text = _clean(f"{entry.label}: {entry.gloss}" if entry.gloss else entry.label)


def _draw_cut(svg: Element, column: int, height: int) -> None:
    """A dashed line right of a column, and what it means."""
    x = _EDGE + column * _COLUMN + _BOX + 6
    place = {"x1": f"{x}", "x2": f"{x}", "y1": "6", "y2": f"{height - 6}"}
    SubElement(svg, "line", place | {"stroke": "currentColor", "stroke-width": "1", "stroke-dasharray": "2 4"})
    SubElement(svg, "text", {"x": f"{x + 4}", "y": "16", "font-size": "10", "class": "cut"}).text = "unsure from here"


def _text(svg: Element, column: int, place: int, words: str, *, opacity: str) -> Element:
    x, y = _EDGE + column * _COLUMN, _TOP + place * _ROW + _ROW / 2 + 4
    text = SubElement(svg, "text", {"x": f"{x}", "y": f"{y}", "opacity": opacity})
    text.text = _clean(words)
    return text


def _shortened(label: str) -> str:
    return label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 1]}…"


def _clean(words: str) -> str:
    """Without characters that XML cannot hold; markup is escaped by the writer."""
    return _NOT_XML.sub("", words)


def _percent(probability: float) -> str:
    percent = 100 * probability
    return f"{percent:.0f} %" if percent >= 1 or percent == 0 else "< 1 %"
