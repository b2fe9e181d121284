"""From an answer to what the tab of category trees shows of it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ovdemo.display import renamed, show
from ovdemo.hierarchy import (
    CategoryTree,
    SourceKind,
    Stopping,
    TreeMode,
    TreePath,
    TreeScores,
    TreeSource,
    depth_view,
    draw_path,
    senses,
    tree_document,
    usual_sense,
)
from ovdemo.inspection import Case
from ovdemo.segmentation import ClassProbability, Segment
from ovdemo.ui import html
from ovdemo.ui.answers import Point, chosen_id
from ovdemo.ui.visits import Shot
from ovdemo.vocabulary import Vocabulary, VocabularyClass

SOURCES: dict[str, SourceKind] = {
    "my words": "words",
    "a tree as text": "text",
    "ImageNet-21K": "imagenet-21k",
    "all nouns under": "nouns under",
}


@dataclass(frozen=True)
class TreeSettings:
    """The values of :attr:`ovdemo.ui.hierarchy_tab.HierarchyTab.settings`."""

    source: TreeSource
    mode: TreeMode
    mean_inner: bool
    depth: int
    stopping: Stopping


def settings_of(values: Sequence[Any]) -> TreeSettings:
    """From the values of the components."""
    source, text, noun, choices, mode, inner, depth, threshold, margin = values
    kind = SOURCES.get(source, "words")
    content = {"text": text, "nouns under": noun}.get(kind) or ""
    chosen = tuple(sorted((choices or {}).items())) if kind == "words" else ()
    return TreeSettings(
        TreeSource(kind, content, chosen), mode, bool(inner), int(depth), Stopping(float(threshold), float(margin))
    )


@dataclass(frozen=True)
class Nouns:
    """ImageNet-21K's best nouns for every segment of an answer.

    Attributes:
        about: which answer.
        details: pairs of noun and probability by the segment's id, as the viewer shows them under the pointer.
    """

    about: Hashable
    details: dict[str, list[tuple[str, float]]]


@dataclass(frozen=True)
class Climbed:
    """The ways of all segments down the tree.

    Attributes:
        scores: of the N segments.
        paths: theirs, in the same order.
        row: of the segment whose path is shown; None where there is no segment.
    """

    scores: TreeScores
    paths: tuple[TreePath, ...]
    row: int | None

    @property
    def deepest(self) -> int:
        """Depth of the deepest answer; 1 at least, as a slider has two ends."""
        return max((1, *(len(path.steps) - 1 for path in self.paths)))


def kept_depth(depth: int, before: int, deepest: int) -> int:
    """Where the depth slider is to stand, which is the visitor's: it moves where the tree ends above it, or where it
    stood at the end, and then keeps to the end.

    Args:
        depth: where it stands.
        before: its maximum until now.
        deepest: its maximum from now on.
    """
    return deepest if depth == before else min(depth, deepest)


def shown_value(case: Case, found: Climbed, depth: int, stopping: Stopping) -> dict[str, Any]:
    """The viewer's value: every segment under the name and in the colour that it has at a depth."""
    segments, nodes = case.segmentation.segments, depth_view(found.paths, depth, stopping)
    names = {s.id: (node.label, node.probability, node.color) for s, node in zip(segments, nodes, strict=True)}
    return renamed(show(case.segmentation), names).to_json()


def drawing_html(found: Climbed, stopping: Stopping) -> str:
    """The path that is shown as a drawing, or what to do where there is none."""
    if found.row is None:
        return html.lead("There is no segment to place in the tree; find one in the Segment tab first.")
    return f'<div class="ov-tree">{draw_path(found.scores, found.row, found.paths[found.row], stopping)}</div>'


def level_rows(case: Case, paths: Sequence[TreePath], stopping: Stopping) -> list[list[Any]]:
    """A row for each segment: what it is called at every level, and how far that is sure."""
    rows = []
    for segment, path in zip(case.segmentation.segments, paths, strict=True):
        names = [path.tree.nodes[step.node].label for step in path.steps]
        sure = path.sure(stopping)
        line = " > ".join(f"{name} {step.probability:.2f}" for name, step in zip(names, path.steps, strict=True))
        rows.append([f"{segment.id} {segment.label}", line, names[sure], round(path.steps[sure].probability, 3)])
    return rows


def tree_note(tree: CategoryTree) -> str:
    """How large the tree is, and what could not be placed in it."""
    notes = "; ".join(tree.notes[:5])
    size = f"{len(tree):,} nodes, {len(tree.vocabulary):,} classes, {tree.depth} levels."
    return f'<p class="ov-small">{size} {escape(notes)}</p>'


def details_of(
    segments: Sequence[Segment], found: Sequence[Sequence[ClassProbability]]
) -> dict[str, list[tuple[str, float]]]:
    """For :attr:`Nouns.details`."""
    return {
        str(segment.id): [(noun.label, round(noun.probability, 4)) for noun in best]
        for segment, best in zip(segments, found, strict=True)
    }


def tree_files(picture: str, case: Case, found: Climbed, stopping: Stopping) -> list[tuple[str, bytes]]:
    """(Name, content) of JSON files: the path that is shown, where there is one, and the paths of all segments."""
    segments = case.segmentation.segments
    chosen = [] if found.row is None else [slice(found.row, found.row + 1)]
    names = [*(f"path-{segments[part.start].id}.json" for part in chosen), "paths.json"]
    documents = (
        {"picture": picture, **tree_document(found.scores.tree, segments[part], found.paths[part], stopping)}
        for part in [*chosen, slice(None)]
    )
    return [
        (name, json.dumps(document, indent=1, allow_nan=False).encode())
        for name, document in zip(names, documents, strict=True)
    ]


def by_area(case: Case) -> list[VocabularyClass]:
    """All classes: first those that the picture shows, by the area of their largest segment."""
    segments = sorted(case.segmentation.segments, key=lambda segment: -segment.area)
    indices = dict.fromkeys((*(segment.class_index for segment in segments), *range(len(case.vocabulary))))
    return [case.vocabulary.classes[index] for index in indices]


def sense_choices(vocabulary: Vocabulary, label: str) -> tuple[list[tuple[str, str]], str | None]:
    """(Words and gloss, name) of each sense of a class, the most frequent first; and the usual one."""
    entry = next((entry for entry in vocabulary.classes if entry.label == label), None)
    if entry is None:
        return [], None
    found = senses(entry)
    usual = usual_sense(found)
    return [(f"{', '.join(s.words[:3])}: {s.gloss[:80]}", s.name) for s in found], usual.name if usual else None


def row_of(case: Case, point: Point | None) -> int | None:
    """Place of the clicked segment, or of the largest one."""
    segments = case.segmentation.segments
    number = chosen_id(case, point)
    if not number:
        return max(range(len(segments)), key=lambda i: segments[i].area, default=None)
    return next(i for i, segment in enumerate(segments) if segment.id == number)


def answer_key(shot: Shot | None, case: Case) -> Hashable:
    """The same for the same answer."""
    return shot, case.vocabulary, case.fusion, case.merging
