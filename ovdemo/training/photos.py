"""The photographs of a data folder, decoded once and then read straight from two flat files."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from scipy import ndimage

from ovdemo.errors import UserError
from ovdemo.evaluation.index_set import find_sets
from ovdemo.evaluation.members import FolderMembers, Members, ZipMembers, read_json, read_json_lines, read_label_map
from ovdemo.images import load_picture
from ovdemo.training.concepts import Concepts

Kind = Literal["instances", "classes", "regions", "cutout", "boxes"]
Progress = Callable[[int, int], None]
Json = dict[str, Any]
Box = tuple[int, int, int, int]

_FORMAT = 2  # part of the cache's key: raise it when what is stored changes
_COMPLETE = frozenset({"bsds500", "camvid", "coco_stuff"})  # sets whose maps tell all there is where they are not 0
_MIN_BIT = 30  # pixels; a smaller connected bit of a thing's class is too unsure to be one instance
_MAX_ID = 255


@dataclass(frozen=True)
class Segment:
    """One marked area of a photograph.

    Attributes:
        id: its value in the layer's map; in a layer of boxes its place, from 1.
        concept: index of its concept, -1 where it has no name or must not be named.
        is_thing: whether it is one object; of a segment without a concept: true.
        crowd: whether it is a group that was not told apart.
        box: (x, y, width, height) of its pixels.
        area: how many pixels; of a box: all in it.
    """

    id: int
    concept: int
    is_thing: bool
    crowd: bool
    box: Box
    area: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One way in which a photograph is marked.

    Attributes:
        kind: ``instances`` (things one by one; in complete sets stuff too), ``classes`` (areas of a class),
            ``regions`` (areas without names), ``cutout`` (the one object) or ``boxes``.
        ids: (H, W) uint8 segment ids, 0 for none; absent for boxes.
        segments: what the ids stand for.
        complete: whether everything in the photograph is marked wherever ``ids`` is not 0.
    """

    kind: Kind
    ids: np.ndarray | None
    segments: tuple[Segment, ...]
    complete: bool


@dataclass(frozen=True, eq=False)
class Photo:
    """One photograph and all that is known of it.

    Attributes:
        folder: name of its set.
        id: its name in the set.
        pixels: (H, W, 3) uint8 RGB, read-only.
        layers: how it is marked; a set may mark a photograph in several ways.
        concept: what the whole photograph shows, -1 where that is not known or must not be named.
        captions: sentences about it.
        score: how far an automatic cut-out is to be trusted, 0 to 1, where the set says so.
    """

    folder: str
    id: str
    pixels: np.ndarray
    layers: tuple[Layer, ...]
    concept: int
    captions: tuple[str, ...]
    score: float | None


class PhotoStore:
    """All photographs of one split, in memory-mapped files."""

    def __init__(self, photos: tuple[Photo, ...], concepts: Concepts) -> None:
        self.photos = photos
        self.concepts = concepts

    @classmethod
    def open(
        cls, data: Path, cache: Path, concepts: Concepts, split: str = "train", progress: Progress | None = None
    ) -> PhotoStore:
        """Open the decoded photographs, after decoding them on first use.

        What is held out is no part of the files: names become indices here.

        Args:
            data: folder of data sets.
            cache: where the decoded files are kept, under a key made from the sets' indices.
            concepts: gives each name its index.
            split: which part of the sets.
            progress: told how many photographs of how many are decoded.

        Raises:
            UserError: a set cannot be read or is not as described in :mod:`ovdemo.evaluation.index_set`.
        """
        folder = cache / f"{split}-{_digest(data, split)}"
        if not folder.exists():
            _build(data, folder, split, progress)
        pixels, labels = _mapped(folder / "pixels.bin"), _mapped(folder / "labels.bin")
        with (folder / "index.jsonl").open(encoding="utf-8") as lines, _without_collector():
            return cls(tuple(_photo(json.loads(line), pixels, labels, concepts) for line in lines), concepts)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Make a great many small objects that all stay: looking for rubbish among them would take twice as long."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file as a plain array: slices of a memmap object itself are slow to make."""
    empty = path.stat().st_size == 0  # nothing can be mapped then
    return np.zeros(0, np.uint8) if empty else np.asarray(np.memmap(path, np.uint8, "r"))


def _photo(entry: Json, pixels: np.ndarray, labels: np.ndarray, concepts: Concepts) -> Photo:
    height, width = entry["size"]
    start = entry["pixels"]
    return Photo(
        folder=entry["set"],
        id=entry["id"],
        pixels=pixels[start : start + height * width * 3].reshape(height, width, 3),
        layers=tuple(_layer(layer, entry["set"], (height, width), labels, concepts) for layer in entry["layers"]),
        concept=concepts.find(entry["set"], entry["name"]),
        captions=tuple(entry["captions"]),
        score=entry["score"],
    )


def _layer(entry: Json, folder: str, size: tuple[int, int], labels: np.ndarray, concepts: Concepts) -> Layer:
    start = entry["labels"]
    ids = None if start is None else labels[start : start + size[0] * size[1]].reshape(size)
    segments = tuple(_segment(segment, folder, concepts) for segment in entry["segments"])
    return Layer(entry["kind"], ids, segments, entry["complete"])


def _segment(entry: Json, folder: str, concepts: Concepts) -> Segment:
    concept = concepts.find(folder, entry["name"])
    is_thing = concept < 0 or concepts.entries[concept].isthing
    left, top, width, height = entry["box"]
    return Segment(entry["id"], concept, is_thing, entry["crowd"], (left, top, width, height), entry["area"])


def _digest(data: Path, split: str) -> str:
    digest = hashlib.sha256(str(_FORMAT).encode())
    for name in find_sets(data, split):
        for path in (data / name / "index.jsonl", data / name / "classes.json"):
            digest.update(f"{name}/{path.name}".encode())
            digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:16]


def _build(data: Path, folder: Path, split: str, progress: Progress | None) -> None:
    """Write the files of the cache beside their place, then move them there, so that they are whole or absent."""
    rows = [(name, row) for name in find_sets(data, split) for row in _rows(data / name, split)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix="draft-"))
    try:
        with (
            (draft / "pixels.bin").open("wb") as pixels,
            (draft / "labels.bin").open("wb") as labels,
            (draft / "index.jsonl").open("w", encoding="utf-8") as index,
        ):
            for done, entry in enumerate(_decoded(data, split, rows, pixels, labels), start=1):
                index.write(json.dumps(entry) + "\n")
                if progress is not None:
                    progress(done, len(rows))
        if not folder.exists():  # another process may have been faster
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rows(folder: Path, split: str) -> list[Json]:
    return [row for row in read_json_lines(folder / "index.jsonl") if row.get("split") == split]


def _decoded(
    data: Path, split: str, rows: list[tuple[str, Json]], pixels: BinaryIO, labels: BinaryIO
) -> Iterator[Json]:
    readers: dict[str, _SetReader] = {}
    for name, row in rows:
        if name not in readers:
            readers[name] = _SetReader(data / name, split)
        try:
            yield readers[name].decode(row, pixels, labels)
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # JSON of any shape
            raise UserError(f'The entry "{row.get("id")}" of {name} is not as expected; copy the set again.') from error


class _SetReader:
    """Decodes the photographs of one set."""

    def __init__(self, folder: Path, split: str) -> None:
        archive = folder / f"{split}.zip"
        self._members: Members = ZipMembers(archive) if archive.exists() else FolderMembers(folder / split)
        path = folder / "classes.json"
        self._classes: dict[int, Json] = {c["id"]: c for c in read_json(path)["classes"]} if path.exists() else {}
        self._folder = folder.name

    def decode(self, row: Json, pixels: BinaryIO, labels: BinaryIO) -> Json:
        """Append one photograph to the flat files; gives its entry of the index."""
        photo = load_picture(self._members.read(row["image"]), row["image"]).pixels
        start = pixels.tell()
        pixels.write(np.ascontiguousarray(photo).data)
        layers = []
        for kind, ids, segments in self._layers(row, photo.shape[:2]):
            complete = self._folder in _COMPLETE
            place = None if ids is None else labels.tell()
            if ids is not None:
                labels.write(ids.data)
            layers.append({"kind": kind, "labels": place, "segments": segments, "complete": complete})
        return {
            "set": self._folder, "id": row["id"], "size": photo.shape[:2], "pixels": start, "layers": layers,
            "name": row.get("label"), "captions": row.get("captions") or [], "score": row.get("pseudo_score"),
        }  # fmt: skip

    def _layers(self, row: Json, size: tuple[int, int]) -> Iterator[tuple[Kind, np.ndarray | None, list[Json]]]:
        if row.get("inst"):
            ids = self._map(row["inst"], size)
            infos = {info["id"]: info for info in row["segments"]}
            names = {i: info["category"] for i, info in infos.items()}
            yield "instances", ids, _segments(ids, names, {i for i, info in infos.items() if info["iscrowd"]})
        if row.get("sem") and (not row.get("inst") or row.get("parts_present")):  # else the instances say it all
            ids, names = self._split_things(self._map(row["sem"], size))
            yield "classes", ids, _segments(ids, names)
        for level in ("coarse", "fine"):
            if row.get("regions"):
                ids = self._map(row["regions"][level], size)
                yield "regions", ids, _segments(ids, dict.fromkeys(range(1, _MAX_ID + 1)))
        if row.get("pseudo_mask"):
            ids = self._map(row["pseudo_mask"], size)
            yield "cutout", ids, _segments(ids, {1: row["label"]})
        if row.get("box_xyxy") or row.get("boxes"):
            yield "boxes", None, list(_boxes(row, size))

    def _map(self, path: str, size: tuple[int, int]) -> np.ndarray:
        ids = read_label_map(self._members.read(path), size, path)
        if ids.max() > _MAX_ID:
            raise UserError(f"{path} has more than {_MAX_ID} regions; merge the smallest of them.")
        return ids.astype(np.uint8)

    def _split_things(self, ids: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Class ids with each connected bit of a thing of the set as a segment of its own, tiny bits dropped."""
        split, names = ids.copy(), {i: info["name"] for i, info in self._classes.items() if i != 0}
        bits = []
        for class_id in (i for i, info in self._classes.items() if i != 0 and info["isthing"]):
            parts, count = ndimage.label(ids == class_id)
            sizes = np.bincount(parts.ravel(), minlength=count + 1)
            split[parts > 0] = 0
            bits += [(sizes[n], class_id, parts == n) for n in range(1, count + 1) if sizes[n] >= _MIN_BIT]
        largest = sorted(bits, key=lambda bit: -bit[0])
        for new_id, (_, class_id, area) in zip(range(max(names) + 1, _MAX_ID + 1), largest, strict=False):
            split[area] = new_id
            names[new_id] = names[class_id]
        return split, names


def _segments(
    ids: np.ndarray, names: dict[int, str | None] | dict[int, str], crowds: set[int] | None = None
) -> list[Json]:
    """Entries of the ids that occur and have a name or are known to have none."""
    areas = np.bincount(ids.ravel(), minlength=_MAX_ID + 1)
    found = ndimage.find_objects(ids)
    return [
        {
            "id": i, "name": names[i], "crowd": i in (crowds or ()), "area": int(areas[i]),
            "box": [place[1].start, place[0].start, place[1].stop - place[1].start, place[0].stop - place[0].start],
        }
        for i, place in enumerate(found, start=1)
        if place is not None and i in names
    ]  # fmt: skip


def _boxes(row: Json, size: tuple[int, int]) -> Iterator[Json]:
    rectangles = [(box["category"], box["bbox"]) for box in row.get("boxes") or ()]
    if row.get("box_xyxy"):
        left, top, right, bottom = row["box_xyxy"]  # the last pixel belongs to it
        rectangles.append((row["label"], (left, top, right - left + 1, bottom - top + 1)))
    for number, (name, (x, y, width, height)) in enumerate(rectangles, start=1):
        left, top = max(0, round(x)), max(0, round(y))
        w, h = min(round(x + width), size[1]) - left, min(round(y + height), size[0]) - top
        if w > 0 and h > 0:
            yield {"id": number, "name": name, "crowd": False, "area": w * h, "box": [left, top, w, h]}
