"""Training photographs and the pictures composed from them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import HERE
from ovdemo.errors import UserError
from ovdemo.evaluation.members import ZipMembers, read_label_map
from ovdemo.images import load_picture
from ovdemo.training import compose, photos
from ovdemo.training.canvas import Canvas, Sprite, turn
from ovdemo.training.compose import Composer
from ovdemo.training.concepts import NAMELESS, Concepts
from ovdemo.training.mentions import without_mentions
from ovdemo.training.photos import Photo, PhotoStore
from ovdemo.training.scenes import Scene
from painted import png

DATA = Path(os.environ.get("OVDEMO_DATA_DIR", HERE.parents[1] / "shared" / "data"))
NAMES = ("cat", "car", "road", "dog", "coat", "pot")
CAT, CAR, ROAD, DOG, COAT, POT = range(6)
SIDE = 128

Json = dict[str, Any]
SceneKind = Callable[[Composer, np.random.Generator], Scene]


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)


def label_map(height: int, width: int, *rectangles: tuple[int, int, int, int, int]) -> np.ndarray:
    """(value, left, top, right, bottom) each, on a ground of 0."""
    ids = np.zeros((height, width), np.uint8)
    for value, left, top, right, bottom in rectangles:
        ids[top:bottom, left:right] = value
    return ids


def ellipse(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) < 0.16).astype(np.uint8)


def write_set(folder: Path, rows: list[Json], maps: dict[str, np.ndarray], classes: list[Json]) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"split": "train", "image": f"{row['id']}.png"} | row) + "\n" for row in rows]
    (folder / "index.jsonl").write_text("".join(lines))
    (folder / "classes.json").write_text(json.dumps({"classes": classes}))
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for name, values in maps.items():
            archive.writestr(name, png(values))


def segment(number: int, category: str, crowd: int = 0) -> Json:
    return {"id": number, "category": category, "category_id": number, "isthing": True, "iscrowd": crowd}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four small sets, one of each way of marking."""
    root = tmp_path / "data"
    coco = {
        "a.png": noise(128, 160, 0),
        "inst/a.png": label_map(128, 160, (1, 10, 10, 80, 70), (2, 90, 20, 150, 120), (3, 0, 100, 40, 128)),
    }
    row = {"id": "a", "sem": "ignored.png", "inst": "inst/a.png", "captions": ["Two dogs sit.", "A cat sleeps."]}
    segments = [segment(1, "cat"), segment(2, "dog"), segment(3, "dog", crowd=1)]
    write_set(root / "coco_inst", [row | {"segments": segments}], coco, [])
    street = label_map(128, 160, (1, 0, 60, 160, 128), (2, 10, 20, 40, 50), (2, 80, 20, 120, 50), (2, 150, 0, 153, 4))
    write_set(
        root / "camvid",
        [{"id": "b", "sem": "sem/b.png", "inst": None}],
        {"b.png": noise(128, 160, 1), "sem/b.png": street},
        [{"id": 1, "name": "road", "isthing": False}, {"id": 2, "name": "car", "isthing": True}],
    )
    pots = [
        {"id": f"p{n}", "label": "pot", "category_id": 1, "pseudo_mask": f"m/{n}.png", "box_xyxy": [4, 6, 59, 57]}
        for n in range(3)
    ]
    shapes = {f"m/{n}.png": ellipse(64, 64) for n in range(3)} | {f"p{n}.png": noise(64, 64, n + 5) for n in range(3)}
    write_set(root / "tinyimagenet", pots, shapes, [])
    regions = label_map(128, 160, (1, 0, 0, 160, 128), (2, 30, 30, 90, 90))
    levels = dict.fromkeys(("coarse", "medium", "fine"), "regions.png")
    write_set(
        root / "bsds500",
        [{"id": "r", "sem": None, "inst": None, "regions": levels}],
        {"r.png": noise(128, 160, 3), "regions.png": regions},
        [],
    )
    places = {
        "cat": ["coco_inst"],
        "dog": ["coco_inst"],
        "car": ["camvid"],
        "road": ["camvid"],
        "pot": ["tinyimagenet"],
    }
    concepts = [
        {"name": name, "isthing": name != "road", "as_named": {folder: [name] for folder in places.get(name, [])}}
        for name in NAMES
    ]
    (root / "vocabulary.json").write_text(json.dumps({"concepts": concepts}))
    return root


def open_store(data: Path, *held_out: str) -> PhotoStore:
    return PhotoStore.open(data, data.parent / "cache", Concepts.read(data, held_out))


def photo_of(store: PhotoStore, folder: str) -> Photo:
    return next(photo for photo in store.photos if photo.folder == folder)


def test_store_gives_back_what_the_files_hold(data: Path) -> None:
    done: list[tuple[int, int]] = []
    concepts = Concepts.read(data)
    store = PhotoStore.open(data, data.parent / "cache", concepts, progress=lambda n, total: done.append((n, total)))
    assert done == [(n, 6) for n in range(1, 7)]
    photo = photo_of(store, "coco_inst")
    members = ZipMembers(data / "coco_inst" / "train.zip")
    np.testing.assert_array_equal(photo.pixels, load_picture(members.read("a.png")).pixels)
    (layer,) = photo.layers
    np.testing.assert_array_equal(layer.ids, read_label_map(members.read("inst/a.png"), (128, 160), "a"))
    assert [(s.id, s.concept, s.crowd, s.box, s.area) for s in layer.segments] == [
        (1, CAT, False, (10, 10, 70, 60), 4200),
        (2, DOG, False, (90, 20, 60, 100), 6000),
        (3, DOG, True, (0, 100, 40, 28), 1120),
    ]
    assert (layer.kind, layer.complete, photo.concept) == ("instances", False, NAMELESS)
    assert photo.captions == ("Two dogs sit.", "A cat sleeps.")


def test_each_way_of_marking_becomes_a_layer(data: Path) -> None:
    store = open_store(data)
    (street,) = photo_of(store, "camvid").layers
    assert (street.kind, street.complete) == ("classes", True)
    # Each car is a segment of its own, the bit of twelve pixels none.
    assert [(s.concept, s.is_thing, s.area) for s in street.segments] == [
        (ROAD, False, 160 * 68),
        (CAR, True, 1200),
        (CAR, True, 900),
    ]
    pot = photo_of(store, "tinyimagenet")
    assert pot.concept == POT
    assert [layer.kind for layer in pot.layers] == ["cutout", "boxes"]
    assert pot.layers[1].segments[0].box == (4, 6, 56, 52)
    levels = photo_of(store, "bsds500").layers
    assert [(layer.kind, [s.concept for s in layer.segments]) for layer in levels] == [("regions", [-1, -1])] * 2


def test_reopening_decodes_nothing_unless_the_sets_changed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counting(source: bytes, name: str) -> object:
        decoded.append(name)
        return load_picture(source, name)

    monkeypatch.setattr(photos, "load_picture", counting)
    first = open_store(data)
    again = open_store(data, "cat")
    assert len(decoded) == 6
    for one, other in zip(first.photos, again.photos, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    index = data / "coco_inst" / "index.jsonl"
    index.write_text(index.read_text().replace("A cat sleeps.", "A cat wakes."))
    assert photo_of(open_store(data), "coco_inst").captions[1] == "A cat wakes."
    assert len(decoded) == 12
    assert not list((data.parent / "cache").glob("draft-*"))


def test_a_build_that_fails_leaves_nothing_behind(data: Path) -> None:
    index = data / "coco_inst" / "index.jsonl"
    index.write_text(index.read_text().replace('"category": "cat"', '"kind": "cat"'))
    with pytest.raises(UserError, match=r'"a" of coco_inst is not as expected'):
        open_store(data)
    assert not list((data.parent / "cache").iterdir())


def test_what_is_held_out_has_no_name(data: Path) -> None:
    store = open_store(data, "cat", "pot")
    segments = photo_of(store, "coco_inst").layers[0].segments
    assert [(s.concept, s.is_thing) for s in segments] == [(NAMELESS, True), (DOG, True), (DOG, True)]
    assert all(p.concept == NAMELESS for p in store.photos)
    composer = Composer(store, SIDE)
    assert not {CAT, POT} & {c for n in range(30) for c in composer.region_scene(np.random.default_rng(n)).concepts}
    with pytest.raises(UserError, match="too few named regions"):
        Composer(open_store(data, "cat", "pot", "dog", "car", "road"), SIDE).region_scene(np.random.default_rng(0))


@pytest.mark.parametrize("kind", [Composer.region_scene, Composer.panoptic_scene])
def test_scenes_repeat_and_are_sound(data: Path, kind: SceneKind) -> None:
    composer = Composer(open_store(data), SIDE)
    for seed in range(40):
        scene, again = (kind(composer, np.random.default_rng(seed)) for _ in range(2))
        for name in ("pixels", "masks", "concepts", "is_thing", "labelled"):
            np.testing.assert_array_equal(getattr(scene, name), getattr(again, name))
        assert_sound(scene, SIDE, len(NAMES))
    different = kind(composer, np.random.default_rng(99))
    assert not np.array_equal(different.pixels, scene.pixels)


def assert_sound(scene: Scene, side: int, concepts: int) -> None:
    count = len(scene.masks)
    assert count > 0
    assert scene.pixels.shape == (side, side, 3)
    assert scene.pixels.dtype == np.uint8
    assert scene.masks.shape == (count, side, side)
    assert scene.masks.dtype == scene.labelled.dtype == scene.is_thing.dtype == bool
    assert scene.concepts.shape == scene.is_thing.shape == (count,)
    assert scene.concepts.min() >= NAMELESS
    assert scene.concepts.max() < concepts
    assert scene.masks.any((1, 2)).all()
    assert scene.labelled.shape == (side, side)
    assert not (scene.labelled & ~scene.masks.any(0)).any()


def test_scenes_hold_what_they_promise(data: Path) -> None:
    composer = Composer(open_store(data), SIDE)
    regions = [composer.region_scene(np.random.default_rng(n)) for n in range(60)]
    assert all(scene.masks.sum((1, 2)).min() >= 256 for scene in regions)
    assert {int(c) for scene in regions for c in scene.concepts} == {CAT, CAR, ROAD, DOG, POT}
    panoptic = [composer.panoptic_scene(np.random.default_rng(n)) for n in range(60)]
    assert all(scene.masks.sum((1, 2)).min() >= 64 for scene in panoptic)
    assert {int(c) for scene in panoptic for c in scene.concepts} == {NAMELESS, CAT, CAR, ROAD, DOG, POT}
    assert all(scene.is_thing[i] == (scene.concepts[i] != ROAD) for scene in panoptic for i in range(len(scene.masks)))


def test_photographs_of_one_thing_are_shown_whole_or_cut_out(data: Path) -> None:
    composer = Composer(open_store(data), SIDE)
    scenes = [composer.object_scene(32, np.random.default_rng(n)) for n in range(40)]
    assert all(scene.pixels.shape == (32, 32, 3) and scene.masks.shape == (1, 32, 32) for scene in scenes)
    assert all(scene.concepts[0] != NAMELESS for scene in scenes)
    whole = [bool(scene.masks.all()) for scene in scenes]
    assert True in whole
    assert False in whole
    with pytest.raises(UserError, match="no names of their own"):
        Composer(open_store(data, *NAMES), SIDE).object_scene(32, np.random.default_rng(0))


def test_a_picture_is_turned_about_its_centre() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    assert turn(picture, 0.0) is picture
    np.testing.assert_array_equal(turn(picture, 90.0), np.rot90(picture))
    tilted = turn(np.full((9, 9), 200, np.uint8), 10.0)
    assert tilted.min() == 200  # no corner is left blank


def test_a_cut_out_thing_is_also_shown_elsewhere(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "jitter_colours", lambda pixels, random: pixels)
    monkeypatch.setattr(compose, "_MOVED", 1.0)
    composer = Composer(open_store(data), SIDE)
    [plain] = composer._plain
    composer._plain = [replace(plain, pixels=np.zeros_like(plain.pixels))]
    cut_out = [composer.object_scene(32, np.random.default_rng(n)) for n in range(40)]
    cut_out = [scene for scene in cut_out if not scene.masks.all()]
    assert cut_out
    for scene in cut_out:
        inside = cv2.erode(scene.masks[0].astype(np.uint8), np.ones((3, 3))) == 1
        outside = cv2.dilate(scene.masks[0].astype(np.uint8), np.ones((3, 3))) == 0
        assert scene.pixels[inside].min() >= 60  # the photograph's own
        assert not scene.pixels[outside].any()


def sprite(value: int, side: int, concept: int) -> Sprite:
    return Sprite(np.full((side, side, 3), value, np.uint8), np.full((side, side), 255, np.uint8), concept, True)


def test_what_is_pasted_hides_what_lies_below() -> None:
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8))
    ground = np.zeros((64, 64), bool)
    ground[:32] = True
    canvas.add(ground, ROAD, False)
    canvas.paste(sprite(100, 16, CAT), 8, 8)
    canvas.paste(sprite(200, 16, DOG), 56, -8)  # sticks out above and to the right
    canvas.paste(sprite(150, 16, POT), 64, 0)  # lies outside
    scene = canvas.scene(1, 0, named_only=False)
    assert scene.concepts.tolist() == [ROAD, CAT, DOG]
    assert scene.masks.sum((1, 2)).tolist() == [32 * 64 - 16 * 16 - 8 * 8, 16 * 16, 8 * 8]
    assert scene.masks.sum(0).max() == 1
    assert (scene.pixels[8:24, 8:24] == 100).all()
    assert (scene.pixels[:8, 56:] == 200).all()
    np.testing.assert_array_equal(scene.labelled, scene.masks.any(0))


def test_regions_with_little_left_to_see_are_not_labelled() -> None:
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8))
    canvas.paste(sprite(100, 20, CAT), 0, 0)
    canvas.paste(sprite(200, 18, DOG), 0, 0)
    scene = canvas.scene(10, 0.3, named_only=True)
    assert scene.concepts.tolist() == [DOG]
    assert scene.labelled.sum() == 18 * 18
    assert canvas.scene(10, 0, named_only=True).concepts.tolist() == [CAT, DOG]


def test_what_is_lost_is_no_longer_marked_wherever_it_occurs() -> None:
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8), frozenset({CAT, DOG}))
    canvas.paste(sprite(100, 20, CAT), 0, 0)
    assert canvas.scene(10, 0.3, named_only=True).complete == {CAT, DOG}
    canvas.paste(sprite(200, 18, DOG), 0, 0)
    assert canvas.scene(10, 0.3, named_only=True).complete == {DOG}


def test_of_twins_the_first_stays() -> None:
    canvas = Canvas(np.zeros((32, 32, 3), np.uint8))
    bag, purse, coat = np.zeros((3, 32, 32), bool)
    bag[4:24, 4:24] = purse[4:24, 4:23] = coat[4:24, 4:16] = True
    for concept, mask in enumerate((bag, purse, coat)):
        canvas.add(mask, concept, True)
    canvas.drop_twins()
    assert [region.concept for region in canvas.regions] == [0, 2]


def test_crowds_are_no_masks(data: Path) -> None:
    store = open_store(data)
    only = PhotoStore((photo_of(store, "coco_inst"),), store.concepts)
    composer = Composer(only, 32)
    scenes = [composer._masked_draft(SIDE, np.random.default_rng(n)) for n in range(20)]
    assert max(len(canvas.regions) for canvas in scenes) == 2
    crowded = {segment.concept for layer in only.photos[0].layers for segment in layer.segments if segment.crowd}
    assert crowded
    assert all(canvas.complete == store.concepts.marked_fully("coco_inst") - crowded for canvas in scenes)


def test_sides_are_whole_strides(data: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        Composer(open_store(data), 100)


def test_captions_that_name_what_is_held_out_are_not_shown(data: Path) -> None:
    drawn = {Composer(open_store(data, "dog"), SIDE).caption_scene(np.random.default_rng(n))[1] for n in range(8)}
    assert drawn == {"A cat sleeps."}
    pixels, _ = Composer(open_store(data), SIDE).caption_scene(np.random.default_rng(0))
    assert pixels.shape == (SIDE, SIDE, 3)
    with pytest.raises(UserError, match="no captions"):
        Composer(open_store(data, "dog", "cat"), SIDE).caption_scene(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("sentence", "name", "kept"),
    [
        ("Two Dogs run.", "dog", False),
        ("A hotdog on a plate.", "dog", True),
        ("Dog-friendly place", "dog", False),
        ("Five buses wait.", "bus", False),
        ("Cherries in a bowl", "cherry", False),
        ("Two women talk.", "woman", False),
        ("A woman talks.", "man", True),
        ("The potted  plants grow.", "potted plant", False),
        ("A parking-meter.", "parking meter", False),
        ("What (a) day", "a)", False),
        ("Anything", "", True),
    ],
)
def test_mentions(sentence: str, name: str, kept: bool) -> None:
    assert without_mentions([sentence], [name]) == ((sentence,) if kept else ())


@pytest.mark.skipif(not (DATA / "coco_stuff").is_dir(), reason="the training data are not here")
def test_real_photographs(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "coco_stuff").symlink_to(DATA / "coco_stuff")
    (root / "vocabulary.json").symlink_to(DATA / "vocabulary.json")
    store = open_store(root)
    assert len(store.photos) == 13
    members = ZipMembers(DATA / "coco_stuff" / "train.zip")
    photo = store.photos[0]
    stored = Image.open(io.BytesIO(members.read(f"images/{photo.id}.jpg")))
    np.testing.assert_array_equal(photo.pixels, np.asarray(stored.convert("RGB")))
    assert any(not s.is_thing for p in store.photos for s in p.layers[0].segments)
    composer = Composer(store, 256)
    for seed in range(5):
        assert_sound(composer.region_scene(np.random.default_rng(seed)), 256, len(store.concepts))
        assert_sound(composer.panoptic_scene(np.random.default_rng(seed)), 256, len(store.concepts))
