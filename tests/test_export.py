"""Files that other tools can read: checked with readers that share no code with the writer."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ovdemo.errors import UserError
from ovdemo.export import cutout_png, download_files, export, export_files, panoptic_png, segments_csv
from ovdemo.images import Picture, load_picture
from ovdemo.recipes import ExamplePicture, Recipe
from ovdemo.segmentation import ClassProbability, Evidence, Mode, Segment, Segmentation
from ovdemo.vocabulary import Kind

LABELS = ("cat", "../../etc", "=cmd()")
KINDS: tuple[Kind, ...] = ("thing", "stuff", "thing")


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1


def segment_of(segment_id: int, class_index: int, mask: np.ndarray, labels: tuple[str, ...] = LABELS) -> Segment:
    top = (ClassProbability(class_index, labels[class_index], np.float32(0.75)),)  # type: ignore[arg-type]
    return Segment(
        id=segment_id,
        class_index=class_index,
        label=labels[class_index],
        kind=KINDS[class_index % 3],
        score=np.float32(0.5),  # type: ignore[arg-type]  # as a careless caller would
        area=int(mask.sum()),
        box=box_of(mask),
        seen=True,
        evidence=Evidence(top, top, top, 0.25),
        queries=(0,),
    )


def segmentation_of(
    mode: Mode, id_map: object, classes: dict[int, int], labels: tuple[str, ...] = LABELS
) -> Segmentation:
    ids = np.asarray(id_map, np.int32)
    segments = tuple(segment_of(i, c, ids == i, labels) for i, c in classes.items())
    return Segmentation(mode, ids, segments, labels, KINDS)


def panoptic(ids: tuple[int, int, int] = (1, 300, 70_000)) -> Segmentation:
    id_map = np.zeros((16, 24), np.int32)
    id_map[2:9, 3:10], id_map[9:, 5:20], id_map[0, 23] = ids
    return segmentation_of("panoptic", id_map, dict(zip(ids, (0, 1, 0), strict=True)))


def overlapping_instances() -> Segmentation:
    masks = np.zeros((2, 16, 24), bool)
    masks[0, 2:10, 3:12] = True
    masks[1, 5:16, 8:20] = True
    id_map = np.where(masks[0], 1, np.where(masks[1], 2, 0)).astype(np.int32)
    segments = (segment_of(1, 0, masks[0]), segment_of(2, 2, masks[1]))
    return Segmentation("instance", id_map, segments, LABELS, KINDS, masks)


@pytest.fixture
def picture() -> Picture:
    return load_picture(np.random.default_rng(0).integers(1, 256, (16, 24, 3), np.uint8), "dir/my cat.JPG")


def read_coco_panoptic(folder: Path, document: Path) -> dict[int, tuple[str, np.ndarray]]:
    """id -> (category name, mask), by the definition of the format on cocodataset.org."""
    data = json.loads(document.read_text())
    (image,) = data["images"]
    (annotation,) = data["annotations"]
    assert annotation["image_id"] == image["id"]
    categories = {category["id"]: category for category in data["categories"]}
    assert len(categories) == len(data["categories"])
    assert all(category["isthing"] in {0, 1} for category in categories.values())
    with Image.open(folder / annotation["file_name"]) as png:
        assert png.mode == "RGB"
        assert png.size == (image["width"], image["height"])
        rgb = np.asarray(png).astype(int)
    ids = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
    result = {}
    for info in annotation["segments_info"]:
        mask = ids == info["id"]
        assert info["area"] == mask.sum()
        assert tuple(info["bbox"]) == box_of(mask)
        assert info["iscrowd"] == 0
        result[info["id"]] = (categories[info["category_id"]]["name"], mask)
    assert set(np.unique(ids).tolist()) - {0} == set(result)
    return result


def test_panoptic_files_are_coco_panoptic(picture: Picture, tmp_path: Path) -> None:
    segmentation = panoptic()
    paths = export(picture, segmentation, tmp_path / "new" / "folder", image_id=7)
    assert [path.name for path in paths] == ["my-cat.png", "my-cat.json", "my-cat_overlay.png"]
    read = read_coco_panoptic(paths[0].parent, paths[1])
    assert {segment_id: name for segment_id, (name, _) in read.items()} == {1: "cat", 300: "../../etc", 70_000: "cat"}
    for segment in segmentation.segments:
        np.testing.assert_array_equal(read[segment.id][1], segmentation.mask(segment))
    data = json.loads(paths[1].read_text())
    assert data["images"] == [{"id": 7, "file_name": "my cat.JPG", "width": 24, "height": 16}]
    assert data["categories"][1] == {"id": 2, "name": "../../etc", "isthing": 0, "supercategory": "stuff"}


def test_segments_carry_their_evidence(picture: Picture) -> None:
    info = json.loads(dict(export_files(picture, panoptic()))["my-cat.json"])["annotations"][0]["segments_info"][0]
    assert info["score"] == 0.5
    top = [{"category_id": 1, "name": "cat", "probability": 0.75}]
    assert info["evidence"] == {"in_vocabulary": top, "out_of_vocabulary": top, "fused": top, "void": 0.25}


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=20))
def test_panoptic_png_round_trip(ids: list[int]) -> None:
    rgb = np.asarray(Image.open(io.BytesIO(panoptic_png(np.array([ids], np.int32))))).astype(int)
    assert (rgb @ (1, 256, 65536)).tolist() == [ids]


@pytest.mark.parametrize("bad", [-1, 2**24])
def test_panoptic_png_refuses_ids_beyond_24_bits(bad: int) -> None:
    with pytest.raises(ValueError, match="24 bits"):
        panoptic_png(np.array([[bad]], np.int32))


def test_semantic_png_is_16_bit_class_numbers(picture: Picture, tmp_path: Path) -> None:
    labels = tuple(f"class {index}" for index in range(300))
    id_map = np.zeros((16, 24), np.int32)
    id_map[:5], id_map[5:9] = 2, 300
    segments = (segment_of(2, 1, id_map == 2, labels), segment_of(300, 299, id_map == 300, labels))
    segmentation = Segmentation("semantic", id_map, segments, labels, ("stuff",) * 300)
    paths = export(picture, segmentation, tmp_path)
    assert [path.name for path in paths] == ["my-cat_semantic.png", "my-cat.json", "my-cat_overlay.png"]
    with Image.open(paths[0]) as png:
        assert png.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(png), id_map)
    data = json.loads(paths[1].read_text())
    (annotation,) = data["annotations"]
    assert annotation["file_name"] == "my-cat_semantic.png"
    assert [(info["category_id"], info["area"]) for info in annotation["segments_info"]] == [(2, 120), (300, 96)]
    assert [category["id"] for category in data["categories"]] == list(range(1, 301))


def test_instance_files_load_in_pycocotools(picture: Picture, tmp_path: Path) -> None:
    segmentation = overlapping_instances()
    results_path, dataset_path, _ = export(picture, segmentation, tmp_path, image_id=3)
    dataset = COCO(str(dataset_path))
    assert [category["name"] for category in dataset.loadCats(dataset.getCatIds())] == list(LABELS)
    results = dataset.loadRes(str(results_path))
    annotations = results.loadAnns(results.getAnnIds(imgIds=[3]))
    assert [annotation["category_id"] for annotation in annotations] == [1, 3]
    assert segmentation.masks is not None
    for annotation, segment, mask in zip(annotations, segmentation.segments, segmentation.masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), mask)
        assert annotation["area"] == segment.area
        assert tuple(annotation["bbox"]) == segment.box
        assert annotation["score"] == 0.5


@pytest.mark.parametrize("segmentation", [panoptic(), overlapping_instances()], ids=["panoptic", "instance"])
def test_cutouts_have_the_mask_as_alpha(picture: Picture, segmentation: Segmentation, tmp_path: Path) -> None:
    paths = export(picture, segmentation, tmp_path, cutouts=True)[3:]
    assert len(paths) == len(segmentation.segments)
    for path, segment in zip(paths, segmentation.segments, strict=True):
        x, y, width, height = segment.box
        mask = segmentation.mask(segment)[y : y + height, x : x + width]
        pixels = picture.pixels[y : y + height, x : x + width]
        with Image.open(path) as png:
            rgba = np.asarray(png)
        np.testing.assert_array_equal(rgba[..., 3], mask * 255)
        np.testing.assert_array_equal(rgba[..., :3][mask], pixels[mask])


def test_cutout_hides_the_background(picture: Picture) -> None:
    id_map = np.eye(16, 24, dtype=np.int32)
    segmentation = segmentation_of("panoptic", id_map, {1: 0})
    rgba = np.asarray(Image.open(io.BytesIO(cutout_png(picture, segmentation, segmentation.segments[0]))))
    assert rgba.shape == (16, 16, 4)
    assert not rgba[~np.eye(16, dtype=bool)].any()


@pytest.mark.parametrize(
    ("label", "slug"),
    [
        ("../../etc", "etc"),
        ("=cmd()", "cmd"),
        ("🐈", "segment"),
        ("x" * 200, "x" * 40),
        (".hidden", "hidden"),
        ("a/b\\c:d", "a-b-c-d"),
        ("nul\0\n", "nul"),
        ("\ud800", "segment"),
    ],
    ids=ascii,
)
def test_labels_are_harmless_in_file_names(picture: Picture, tmp_path: Path, label: str, slug: str) -> None:
    labels = (label, *LABELS[1:])
    folder = tmp_path / "out"
    paths = export(picture, segmentation_of("panoptic", np.ones((16, 24)), {1: 0}, labels), folder, cutouts=True)
    assert paths[-1].name == f"my-cat_cutout_1_{slug}.png"
    assert sorted(folder.iterdir()) == sorted(paths)
    assert list(tmp_path.iterdir()) == [folder]
    assert json.loads(paths[1].read_text())["categories"][0]["name"] == label


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=100), st.text(max_size=100))
def test_any_stem_and_label_stay_in_the_folder(stem: str, label: str) -> None:
    picture = load_picture(np.zeros((16, 24, 3), np.uint8))
    segmentation = segmentation_of("panoptic", np.ones((16, 24)), {1: 0}, (label, *LABELS[1:]))
    for name, _ in export_files(picture, segmentation, stem=stem, cutouts=True):
        assert Path(name).name == name
        assert name.isascii()
        assert not name.startswith(".")
        assert len(name) < 150


def test_stem_keeps_pictures_of_one_name_apart(picture: Picture, tmp_path: Path) -> None:
    first = export(picture, panoptic(), tmp_path)
    second = export(picture, panoptic(), tmp_path, stem="my-cat-2")
    assert not set(first) & set(second)
    assert json.loads(second[1].read_text())["annotations"][0]["file_name"] == "my-cat-2.png"
    assert json.loads(second[1].read_text())["images"][0]["file_name"] == "my cat.JPG"


def test_exporting_again_replaces_with_the_same_bytes(picture: Picture, tmp_path: Path) -> None:
    first = {path: path.read_bytes() for path in export(picture, panoptic(), tmp_path, cutouts=True)}
    assert {path: path.read_bytes() for path in export(picture, panoptic(), tmp_path, cutouts=True)} == first
    assert set(tmp_path.iterdir()) == set(first)


def test_nothing_found(picture: Picture) -> None:
    for mode in ("panoptic", "semantic", "instance"):
        masks = np.zeros((0, 16, 24), bool) if mode == "instance" else None
        segmentation = Segmentation(mode, np.zeros((16, 24), np.int32), (), LABELS, KINDS, masks)
        assert len(dict(export_files(picture, segmentation, cutouts=True))) == 3


def raise_disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_while_renaming(picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", raise_disk_full)
    with pytest.raises(UserError, match=r"my-cat\.png could not be written .*No space left.*choose another folder\."):
        export(picture, panoptic(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_full_disk_while_writing(picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(picture, panoptic(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    class FullFile(io.FileIO):
        def write(self, content: object) -> int:
            super().write(bytes(content)[:9])  # type: ignore[call-overload]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_on_full_disk(path: Path, mode: str) -> FullFile:
        return FullFile(path, mode)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(UserError, match="No space left"):
        export(picture, panoptic((2, 3, 4)), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_folder_that_cannot_be_made(picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="choose another folder"):
        export(picture, panoptic(), tmp_path / "file" / "out")


def test_sizes_must_agree(picture: Picture) -> None:
    segmentation = segmentation_of("panoptic", np.ones((16, 25)), {1: 0})
    with pytest.raises(ValueError, match="differ in size"):
        list(export_files(picture, segmentation))


# --- what a page offers ---


@pytest.mark.parametrize("segmentation", [panoptic(), overlapping_instances()], ids=["panoptic", "instance"])
def test_downloads(picture: Picture, segmentation: Segmentation) -> None:
    recipe = Recipe(model="painted", picture=ExamplePicture("china"), words="cat")
    files = dict(download_files(picture, segmentation, recipe))
    assert list(files) == [
        "my-cat_coco.zip",
        "my-cat_overlay.png",
        "my-cat_ids.png",
        "my-cat_cutouts.zip",
        "my-cat.csv",
        "my-cat_recipe.json",
    ]
    assert dict(download_files(picture, segmentation, recipe)) == files
    whole = dict(export_files(picture, segmentation, cutouts=True))
    assert files["my-cat_overlay.png"] == whole.pop("my-cat_overlay.png")
    packed = {}
    for archive, wanted in (("coco", "my-cat"), ("cutouts", "my-cat_cutout_")):
        with zipfile.ZipFile(io.BytesIO(files[f"my-cat_{archive}.zip"])) as opened:
            assert opened.testzip() is None
            assert all(name.startswith(wanted) for name in opened.namelist())
            packed |= {name: opened.read(name) for name in opened.namelist()}
            assert all(info.external_attr >> 16 & 0o400 for info in opened.infolist())  # readable when unpacked
    assert packed == whole
    assert sum(name.startswith("my-cat_cutout_") for name in packed) == len(segmentation.segments)
    ids = np.asarray(Image.open(io.BytesIO(files["my-cat_ids.png"]))).astype(int) @ (1, 256, 65536)
    np.testing.assert_array_equal(ids, segmentation.id_map)
    assert json.loads(files["my-cat_recipe.json"]) == json.loads(recipe.to_json())
    faint = dict(download_files(picture, segmentation, replace(recipe, opacity=0.1)))
    assert {name for name in files if files[name] != faint[name]} == {"my-cat_overlay.png", "my-cat_recipe.json"}


def rows_of(*labels: str) -> list[dict[str, str]]:
    labels = (*labels, *LABELS)[: max(3, len(labels))]
    id_map = np.arange(16)[:, None].repeat(24, 1) % len(labels) + 1
    data = segments_csv(segmentation_of("panoptic", id_map, {i + 1: i for i in range(len(labels))}, labels))
    assert data.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_label_is_a_formula(start: str) -> None:
    assert rows_of(f"{start}cmd|' /C calc'!A0")[0]["label"] == f"'{start}cmd|' /C calc'!A0"


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ('say "cat", twice', 'say "cat", twice'),
        ("two\r\nlines", "two\r\nlines"),
        ("<b>bold</b>", "<b>bold</b>"),
        ("קטקומבה", "קטקומבה"),
        ("👩‍🚀 猫", "👩‍🚀 猫"),
        ("a\ud800b", "a?b"),
        ("a=b", "a=b"),
    ],
    ids=ascii,
)
def test_labels_are_text_in_a_table(label: str, text: str) -> None:
    assert rows_of(label)[0]["label"] == text


def test_the_table_has_the_facts() -> None:
    first = rows_of("cat")[0]
    assert first.pop("label") == "cat"
    assert first == {
        "id": "1",
        "kind": "thing",
        "score": "0.500000",
        "area": "144",
        "x": "0",
        "y": "0",
        "width": "24",
        "height": "16",
        "seen": "1",
        "p_void": "0.250000",
    }


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=8))
def test_any_labels_come_back_from_the_table(labels: list[str]) -> None:
    found = [row["label"] for row in rows_of(*labels)[: len(labels)]]
    assert [text.removeprefix("'") for text in found] == [label.removeprefix("'") for label in labels]
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r")) for text in found)
