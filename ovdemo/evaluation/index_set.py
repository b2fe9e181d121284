"""Data sets in folders: ``index.jsonl``, ``classes.json`` and the files of each split.

    SET/index.jsonl     one JSON object a picture: id, split, image, and the paths of whatever labels it has
    SET/classes.json    {"classes": [{id, name, synonyms?, isthing?}]}; absent or empty where nothing is named
    SET/val.zip, val/   the files of a split, as a zip archive or as a folder

Labels of a picture, each optional: ``sem`` (PNG of class ids, 0 not labelled), ``inst`` (PNG of segment ids) with
``segments``, ``regions`` (PNGs of region ids by level), ``category_id`` (what the whole picture shows), ``pseudo_mask``
(PNG, 1 its object, cut out automatically), ``box_xyxy`` (its object, last pixel included) and ``boxes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ovdemo.errors import UserError
from ovdemo.evaluation.members import FolderMembers, Members, ZipMembers, read_json, read_json_lines, read_label_map
from ovdemo.evaluation.truth import (
    UNLABELLED,
    GroundTruth,
    LabelledSegment,
    NamedRegion,
    SegmentMap,
    named_box,
    named_classes,
    named_segments,
    relabel,
)
from ovdemo.images import Picture, load_picture
from ovdemo.vocabulary import Vocabulary, VocabularyClass, infer_kind

_INDEX = "index.jsonl"
_LABELS = ("sem", "inst", "regions", "category_id", "boxes")

Json = dict[str, Any]
Size = tuple[int, int]


class IndexSet:
    """One split of a set (the :class:`~ovdemo.evaluation.truth.LabelledPictures` protocol)."""

    def __init__(self, folder: Path, split: str) -> None:
        """Read the index and the classes; pictures are read when asked for. Those without any label are left out.

        Raises:
            UserError: there is no such set or split, or its index or classes cannot be read.
        """
        self.name = f"{folder.resolve().name} ({split})"
        self._members = _open_split(folder, split)
        rows = (row for row in read_json_lines(folder / _INDEX) if isinstance(row, dict))
        self._rows = [row for row in rows if row.get("split") == split and any(map(row.get, _LABELS))]
        ids, self.vocabulary = _read_classes(folder / "classes.json")
        self._index_of_id = {identity: index for index, identity in enumerate(ids)}
        self._index_of_name = {entry.label: index for index, entry in enumerate(self.vocabulary.classes)}

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, index: int) -> tuple[Picture, GroundTruth]:
        """One picture with all labels that it has.

        Raises:
            UserError: a file cannot be read, or the line of the index is not as described above.
        """
        row = self._rows[index]
        try:
            picture = load_picture(self._members.read(row["image"]), str(row["image"]))
            return picture, self._truth(row, (picture.height, picture.width))
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:  # JSON of any shape
            raise UserError(f'The entry "{row.get("id")}" of {_INDEX} is not as expected; check it.') from error

    def _truth(self, row: Json, size: Size) -> GroundTruth:
        classes = self._classes(row, size)
        segments, unnamed = self._segments(row, size)
        named = self._named(row, size)
        regions = {f"{level} regions": self._map(path, size) for level, path in (row.get("regions") or {}).items()}
        if unnamed is not None:
            regions["segments"] = unnamed
        if row.get("pseudo_mask"):
            regions["automatic masks"] = self._map(row["pseudo_mask"], size)
        if segments is not None:
            regions["segments"] = segments.regions()
            named += named_segments(segments)
        elif classes is not None:
            # A thing's area may be several of them, so it is no region.
            stuff = {i: i + 1 for i, entry in enumerate(self.vocabulary.classes) if entry.kind == "stuff"}
            regions["stuff areas"] = relabel(classes, stuff, 0)
            named += named_classes(classes)
        return GroundTruth(segments, classes, regions=regions, named=named)

    def _classes(self, row: Json, size: Size) -> np.ndarray | None:
        if not row.get("sem"):
            return None
        return relabel(self._map(row["sem"], size), self._index_of_id, UNLABELLED)

    def _segments(self, row: Json, size: Size) -> tuple[SegmentMap | None, np.ndarray | None]:
        """The segments where all of them are of known classes, else only their ids without crowds."""
        if not row.get("inst"):
            return None, None
        ids, infos = self._map(row["inst"], size), row["segments"]
        if any(info.get("category_id") not in self._index_of_id for info in infos):
            return None, relabel(ids, {info["id"]: info["id"] for info in infos if not info.get("iscrowd")}, 0)
        segments = (
            LabelledSegment(info["id"], self._index_of_id[info["category_id"]], bool(info.get("iscrowd")))
            for info in infos
        )
        return SegmentMap(ids, tuple(segments)), None

    def _named(self, row: Json, size: Size) -> tuple[NamedRegion, ...]:
        return tuple(self._named_by_picture(row, size)) + tuple(self._named_by_boxes(row, size))

    def _named_by_picture(self, row: Json, size: Size) -> Iterator[NamedRegion]:
        index = self._index_of_id.get(row.get("category_id", 0))
        if index is None:
            return
        yield NamedRegion("whole pictures", index, partial(np.ones, size, bool))
        if row.get("pseudo_mask"):
            yield NamedRegion("automatic masks", index, partial(np.equal, self._map(row["pseudo_mask"], size), 1))
        if row.get("box_xyxy"):
            left, top, right, bottom = row["box_xyxy"]
            box = left, top, right - left + 1, bottom - top + 1
            yield named_box(index, size, box)

    def _named_by_boxes(self, row: Json, size: Size) -> Iterator[NamedRegion]:
        for box in row.get("boxes") or ():
            if box["category"] in self._index_of_name:
                yield named_box(self._index_of_name[box["category"]], size, box["bbox"])

    def _map(self, path: str, size: Size) -> np.ndarray:
        return read_label_map(self._members.read(path), size, path)


def find_sets(folder: Path, split: str) -> list[str]:
    """Names of the sets in a folder that have the split, in alphabetical order.

    Raises:
        UserError: there are none.
    """
    found = sorted(index.parent.name for index in folder.glob(f"*/{_INDEX}") if _split_path(index.parent, split))
    if not found:
        raise UserError(f'{folder} holds no data set with a split "{split}"; choose another folder or another split.')
    return found


def _split_path(folder: Path, split: str) -> Path | None:
    candidates = folder / f"{split}.zip", folder / split
    return next((path for path in candidates if path.exists()), None)


def _open_split(folder: Path, split: str) -> Members:
    path = _split_path(folder, split)
    if path is None:
        raise UserError(f'{folder} has no split "{split}"; choose another set or another split.')
    return FolderMembers(path) if path.is_dir() else ZipMembers(path)


def _read_classes(path: Path) -> tuple[list[int], Vocabulary]:
    """Ids and classes in one order; id 0 stands for "not labelled" and is no class."""
    if not path.exists():
        return [], Vocabulary(())
    try:
        rows = [row for row in read_json(path)["classes"] if row["id"] != 0]
        return [int(row["id"]) for row in rows], Vocabulary(tuple(_class(row) for row in rows))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path.name} of {path.parent.name} does not list classes by id and name; check it.") from error


def _class(row: Json) -> VocabularyClass:
    names = tuple(dict.fromkeys(str(name) for name in (row["name"], *row.get("synonyms", ()))))
    if "isthing" not in row:
        return VocabularyClass(names, infer_kind(names), inferred=True)
    return VocabularyClass(names, "thing" if row["isthing"] else "stuff")
