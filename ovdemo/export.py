"""Results as files: COCO panoptic, semantic and instance formats, an overlay and cut-outs.

The functions that make documents and PNG bytes touch no disk; :func:`export` writes what they make.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ovdemo.errors import UserError
from ovdemo.images import Picture, file_slug
from ovdemo.recipes import Recipe
from ovdemo.rendering import overlay_with_legend
from ovdemo.segmentation import ClassProbability, Segment, Segmentation

Json = dict[str, Any]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # how a spreadsheet's formula may begin


def export(
    picture: Picture,
    segmentation: Segmentation,
    folder: str | os.PathLike[str],
    *,
    stem: str | None = None,
    image_id: int = 1,
    cutouts: bool = False,
) -> tuple[Path, ...]:
    """Write the files of :func:`export_files` to a folder, which is made where it does not exist.

    Each file appears whole or not at all; one of the same name is replaced. Two pictures exported to one folder need
    different stems.

    Returns:
        The paths, in the order of writing.

    Raises:
        UserError: the folder cannot be made or written, or the disk is full. Files written before stay.
        ValueError: picture and segmentation differ in size.
    """
    folder = Path(folder)
    files = export_files(picture, segmentation, stem=stem, image_id=image_id, cutouts=cutouts)
    return tuple(_write(folder / name, content) for name, content in files)


def export_files(
    picture: Picture,
    segmentation: Segmentation,
    *,
    stem: str | None = None,
    image_id: int = 1,
    cutouts: bool = False,
    drawing: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """File names and contents of a result, made one at a time.

    * panoptic: ``<stem>.png`` (:func:`panoptic_png`) and ``<stem>.json`` (:func:`panoptic_json`)
    * semantic: ``<stem>_semantic.png`` (:func:`semantic_png`) and ``<stem>.json`` (:func:`semantic_json`)
    * instance: ``<stem>.json`` (:func:`instance_dataset`) and ``<stem>_instances.json`` (:func:`instance_results`)
    * always ``<stem>_overlay.png``
    * with ``cutouts``, ``<stem>_cutout_<id>_<label>.png`` for each segment (:func:`cutout_png`)

    Args:
        picture: what was segmented.
        segmentation: of the picture's size.
        stem: how the file names begin, by default the picture's own stem; made safe as a file name.
        image_id: the picture's id in the documents.
        cutouts: whether to add the cut-outs.
        drawing: what :func:`~ovdemo.rendering.overlay` takes, where it is not the default.

    Raises:
        ValueError: picture and segmentation differ in size.
    """
    if picture.pixels.shape[:2] != segmentation.id_map.shape:
        raise ValueError(f"picture {picture.pixels.shape} and segmentation {segmentation.id_map.shape} differ in size")
    stem = picture.stem if stem is None else file_slug(stem, default="picture")
    document: Json
    if segmentation.mode == "panoptic":
        yield f"{stem}.png", panoptic_png(segmentation.id_map)
        document = panoptic_json(picture, segmentation, stem=stem, image_id=image_id)
    elif segmentation.mode == "semantic":
        yield f"{stem}_semantic.png", semantic_png(segmentation)
        document = semantic_json(picture, segmentation, stem=stem, image_id=image_id)
    else:
        yield f"{stem}_instances.json", _encode_json(instance_results(segmentation, image_id=image_id))
        document = instance_dataset(picture, segmentation, image_id=image_id)
    yield f"{stem}.json", _encode_json(document)
    yield f"{stem}_overlay.png", _encode_png(overlay_with_legend(picture.pixels, segmentation, **(drawing or {})))
    for segment in segmentation.segments if cutouts else ():
        label = file_slug(segment.label, default="segment", max_length=40)
        yield f"{stem}_cutout_{segment.id}_{label}.png", cutout_png(picture, segmentation, segment)


def download_files(picture: Picture, segmentation: Segmentation, recipe: Recipe) -> Iterator[tuple[str, bytes]]:
    """What a page offers to take away: file names and contents. Equal arguments give equal bytes.

    * ``<stem>_coco.zip``: the documents and pictures of :func:`export_files`
    * ``<stem>_overlay.png``, ``<stem>_ids.png`` (:func:`panoptic_png` of the id map), ``<stem>.csv``
      (:func:`segments_csv`), ``<stem>_recipe.json``
    * ``<stem>_cutouts.zip``: a transparent PNG for each segment

    Args:
        picture: what was segmented.
        segmentation: of the picture's size.
        recipe: what restores the settings; the overlay is drawn as it says.
    """
    stem = picture.stem
    files = dict(export_files(picture, segmentation, cutouts=True, drawing=recipe.drawing))
    cutouts = {name: data for name, data in files.items() if name.startswith(f"{stem}_cutout_")}
    overlay = f"{stem}_overlay.png"
    yield f"{stem}_coco.zip", _zip({name: data for name, data in files.items() if name not in (overlay, *cutouts)})
    yield overlay, files[overlay]
    yield f"{stem}_ids.png", panoptic_png(segmentation.id_map)
    yield f"{stem}_cutouts.zip", _zip(cutouts)
    yield f"{stem}.csv", segments_csv(segmentation)
    yield f"{stem}_recipe.json", (recipe.to_json() + "\n").encode("ascii")


def segments_csv(segmentation: Segmentation) -> bytes:
    """A line for each segment, as UTF-8 with a byte order mark, which spreadsheets look for.

    A label that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(["id", "label", "kind", "score", "area", "x", "y", "width", "height", "seen", "p_void"])
    for segment in segmentation.segments:
        label = f"'{segment.label}" if segment.label.startswith(_FORMULA) else segment.label
        facts = [segment.kind, f"{segment.score:.6f}", segment.area, *segment.box, int(segment.seen)]
        writer.writerow([segment.id, label, *facts, f"{segment.evidence.void:.6f}"])
    return table.getvalue().encode("utf-8-sig", "replace")


def panoptic_png(id_map: np.ndarray) -> bytes:
    """An (H, W) id map as COCO's RGB PNG: id = R + 256 G + 65536 B, and 0 where nothing is assigned.

    Raises:
        ValueError: an id is negative or takes more than 24 bits.
    """
    ids = id_map.astype(np.int64)
    if ids.size and (ids.min() < 0 or ids.max() >= 1 << 24):
        raise ValueError(f"segment ids {ids.min()}..{ids.max()} do not fit the 24 bits of a panoptic PNG")
    return _encode_png(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8))


def semantic_png(segmentation: Segmentation) -> bytes:
    """The class of each pixel as a 16-bit grey PNG: from 1 in the order of the words, 0 where nothing is assigned."""
    id_map = segmentation.id_map
    categories = np.zeros(max([int(id_map.max(initial=0)), *(s.id for s in segmentation.segments)]) + 1, np.uint16)
    for segment in segmentation.segments:
        categories[segment.id] = _category_id(segment.class_index)
    return _encode_png(categories[id_map])


def cutout_png(picture: Picture, segmentation: Segmentation, segment: Segment) -> bytes:
    """A segment's box of the picture as an RGBA PNG that is transparent, and black, outside its mask."""
    x, y, width, height = segment.box
    crop = np.s_[y : y + height, x : x + width]
    mask = segmentation.mask(segment)[crop]
    return _encode_png(np.dstack([picture.pixels[crop] * mask[..., None], mask.astype(np.uint8) * 255]))


def panoptic_json(picture: Picture, segmentation: Segmentation, *, stem: str, image_id: int) -> Json:
    """COCO's panoptic annotation of ``<stem>.png``, with each segment's score and evidence as an extension."""
    return _segments_document(picture, segmentation, f"{stem}.png", image_id)


def semantic_json(picture: Picture, segmentation: Segmentation, *, stem: str, image_id: int) -> Json:
    """What ``<stem>_semantic.png`` shows, laid out as :func:`panoptic_json`; a segment is all of a class."""
    return _segments_document(picture, segmentation, f"{stem}_semantic.png", image_id)


def instance_dataset(picture: Picture, segmentation: Segmentation, *, image_id: int) -> Json:
    """The COCO dataset, without annotations, that the list of :func:`instance_results` belongs to."""
    return {
        "info": {"description": "instances found by ovdemo"},
        "images": [_image(picture, image_id)],
        "annotations": [],
        "categories": _categories(segmentation),
    }


def instance_results(segmentation: Segmentation, *, image_id: int) -> list[Json]:
    """COCO's list of instance results: whole masks as compressed RLE, boxes (x, y, width, height), scores."""
    return [
        {
            "image_id": image_id,
            "category_id": _category_id(segment.class_index),
            "segmentation": _run_lengths(segmentation.mask(segment)),
            "bbox": [float(value) for value in segment.box],
            "score": float(segment.score),
        }
        for segment in segmentation.segments
    ]


def _category_id(class_index: int) -> int:
    return int(class_index) + 1


def _categories(segmentation: Segmentation) -> list[Json]:
    return [
        {"id": _category_id(index), "name": label, "isthing": int(kind == "thing"), "supercategory": kind}
        for index, (label, kind) in enumerate(zip(segmentation.labels, segmentation.kinds, strict=True))
    ]


def _image(picture: Picture, image_id: int) -> Json:
    return {"id": image_id, "file_name": picture.name, "width": picture.width, "height": picture.height}


def _segments_document(picture: Picture, segmentation: Segmentation, file_name: str, image_id: int) -> Json:
    segments = [_segment_info(segment) for segment in segmentation.segments]
    return {
        "images": [_image(picture, image_id)],
        "annotations": [{"image_id": image_id, "file_name": file_name, "segments_info": segments}],
        "categories": _categories(segmentation),
    }


def _segment_info(segment: Segment) -> Json:
    evidence = segment.evidence
    return {
        "id": int(segment.id),
        "category_id": _category_id(segment.class_index),
        "area": int(segment.area),
        "bbox": [int(value) for value in segment.box],
        "iscrowd": 0,
        "score": float(segment.score),
        "evidence": {
            "in_vocabulary": _probabilities(evidence.in_vocabulary),
            "out_of_vocabulary": _probabilities(evidence.out_of_vocabulary),
            "fused": _probabilities(evidence.fused),
            "void": float(evidence.void),
        },
    }


def _probabilities(classes: tuple[ClassProbability, ...]) -> list[Json]:
    return [
        {"category_id": _category_id(entry.class_index), "name": entry.label, "probability": float(entry.probability)}
        for entry in classes
    ]


def _run_lengths(mask: np.ndarray) -> Json:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _zip(files: Mapping[str, bytes]) -> bytes:
    """An archive whose bytes depend on nothing but names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _encode_json(document: Json | list[Json]) -> bytes:
    # ASCII escapes keep any label valid, lone surrogates too; NaN is no JSON, so it is an error here.
    return (json.dumps(document, allow_nan=False, indent=1) + "\n").encode("ascii")


def _write(path: Path, content: bytes) -> Path:
    """Write beside the target under a name of its own, then rename, which is atomic within a folder."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path.name} could not be written to {path.parent} ({error.strerror or error}); "
            "free some space there or choose another folder."
        ) from error
    return path
