"""Reading labelled pictures, and measuring a system of known answers on them."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import HERE
from ovdemo.commands import evaluate, model
from ovdemo.errors import UserError
from ovdemo.evaluation import (
    AreaIoU,
    CocoPanopticSet,
    IndexSet,
    NamedAreas,
    SetReport,
    evaluate_set,
    find_sets,
    report_table,
)
from ovdemo.evaluation.run import spread
from ovdemo.export import export
from ovdemo.images import load_picture
from ovdemo.vocabulary import parse_classes
from painted import PAINTS, SIDE, bands, painted_workbench, painting, png

DATA = Path(os.environ.get("OVDEMO_DATA_DIR", HERE.parents[1] / "shared" / "data"))

CLASSES = [
    {"id": 0, "name": "null", "isthing": False},
    {"id": 1, "name": "cat", "synonyms": ["kitten"], "isthing": True},
    {"id": 5, "name": "grass", "isthing": False},
    {"id": 90, "name": "dog", "isthing": True},
]
CAT, GRASS, DOG = range(3)

Json = dict[str, Any]


def write_set(folder: Path, rows: list[Json], files: dict[str, bytes], *, zipped: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "index.jsonl").write_text("".join(json.dumps({"split": "val"} | row) + "\n" for row in rows))
    (folder / "classes.json").write_text(json.dumps({"classes": CLASSES}))
    if zipped:
        with zipfile.ZipFile(folder / "val.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    for name, content in {} if zipped else files.items():
        path = folder / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def segment_row(segment_id: int, category: int | None, crowd: int = 0) -> Json:
    return {"id": segment_id, "iscrowd": crowd} | ({} if category is None else {"category_id": category})


PANOPTIC_ROW = {
    "id": "a", "image": "images/a.png", "sem": "sem/a.png", "inst": "inst/a.png",
    "segments": [segment_row(1, 1), segment_row(2, 5), segment_row(3, 90, crowd=1)],
}  # fmt: skip
PANOPTIC_FILES = {
    "images/a.png": png(painting("cat", "grass", "dog", "cat")),
    "sem/a.png": png(bands(1, 5, 90, 0)),
    "inst/a.png": png(bands(1, 2, 3, 0)),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "folder"])
def test_segments_and_classes(tmp_path: Path, zipped: bool) -> None:
    data = IndexSet(write_set(tmp_path / "set", [PANOPTIC_ROW], PANOPTIC_FILES, zipped=zipped), "val")
    assert data.name == "set (val)"
    assert [(c.names, c.kind) for c in data.vocabulary.classes] == [
        (("cat", "kitten"), "thing"),
        (("grass",), "stuff"),
        (("dog",), "thing"),
    ]
    picture, truth = data.load(0)
    np.testing.assert_array_equal(picture.pixels, painting("cat", "grass", "dog", "cat"))
    assert truth.segments is not None
    assert [(s.id, s.class_index, s.crowd) for s in truth.segments.segments] == [
        (1, CAT, False),
        (2, GRASS, False),
        (3, DOG, True),
    ]
    assert truth.classes is not None
    assert truth.classes[0, ::8].tolist() == [CAT, GRASS, DOG, -1]
    assert {name: ids[0, ::8].tolist() for name, ids in truth.regions.items()} == {"segments": [1, 2, 0, 0]}
    assert [(r.source, r.class_index, r.mask().sum()) for r in truth.named] == [
        ("segments", CAT, SIDE * 8),
        ("segments", GRASS, SIDE * 8),
    ]


def test_unnamed_segments_are_regions_only(tmp_path: Path) -> None:
    row = PANOPTIC_ROW | {"segments": [segment_row(1, None), segment_row(2, 5)]}
    _, truth = IndexSet(write_set(tmp_path / "set", [row], PANOPTIC_FILES), "val").load(0)
    assert truth.segments is None
    assert truth.regions["segments"][0, ::8].tolist() == [1, 2, 0, 0]
    assert truth.regions["stuff areas"][0, ::8].tolist() == [0, GRASS + 1, 0, 0]
    assert [(r.source, r.class_index) for r in truth.named] == [("class areas", c) for c in (CAT, GRASS, DOG)]


def test_whole_pictures_boxes_masks_and_levels(tmp_path: Path) -> None:
    row = {
        "id": "b", "image": "b.png", "category_id": 90, "pseudo_mask": "mask.png", "box_xyxy": [4, 0, 7, 31],
        "boxes": [{"category": "cat", "bbox": [-3.5, 1.2, 5.0, 2.0]}, {"category": "unknown", "bbox": [0, 0, 1, 1]}],
        "regions": {"fine": "fine.png"},
    }  # fmt: skip
    files = {"b.png": png(painting("dog")), "mask.png": png(bands(0, 1)), "fine.png": png(bands(1, 2, 3, 4))}
    _, truth = IndexSet(write_set(tmp_path / "set", [row], files), "val").load(0)
    assert (truth.segments, truth.classes) == (None, None)
    assert sorted(truth.regions) == ["automatic masks", "fine regions"]
    assert [(r.source, r.class_index, int(r.mask().sum())) for r in truth.named] == [
        ("whole pictures", DOG, SIDE * SIDE),
        ("automatic masks", DOG, SIDE * SIDE // 2),
        ("boxes", DOG, SIDE * 4),
        ("boxes", CAT, 2 * 3),  # columns 0 and 1, rows 1 to 3
    ]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"image": "absent.png"}, "absent.png is not in val"),
        ({"image": "../classes.json"}, "is not in val"),
        ({"image": "broken.png"}, "cannot be decoded|not a picture"),
        ({"sem": "small.png"}, "small.png is 16 x 16, and its picture 32 x 32"),
        ({"sem": "broken.png"}, "not a PNG that can be read"),
        ({"inst": "inst/a.png", "segments": None}, 'The entry "x" of index.jsonl is not as expected'),
        ({"boxes": [{"category": "cat", "bbox": [0, 0, float("inf"), 1]}]}, "not as expected"),
        ({"boxes": [{"category": "cat", "bbox": [0, 0, 1]}]}, "not as expected"),
        ({"regions": "fine.png"}, "not as expected"),
        ({"category_id": [1]}, "not as expected"),
    ],
    ids=str,
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "folder"])
def test_bad_entries_are_one_sentence(tmp_path: Path, row: Json, sentence: str, zipped: bool) -> None:
    files = PANOPTIC_FILES | {"small.png": png(bands(1)[:16, :16]), "broken.png": PANOPTIC_FILES["sem/a.png"][:40]}
    entry = {"id": "x", "image": "images/a.png", "category_id": 1} | row
    data = IndexSet(write_set(tmp_path / "set", [entry], files, zipped=zipped), "val")
    with pytest.raises(UserError, match=sentence):
        data.load(0)


def test_sets_that_cannot_be_opened(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", [PANOPTIC_ROW], PANOPTIC_FILES)
    with pytest.raises(UserError, match='has no split "train"'):
        IndexSet(folder, "train")
    with pytest.raises(UserError, match='no data set with a split "train"'):
        find_sets(tmp_path, "train")
    assert find_sets(tmp_path, "val") == ["set"]
    (folder / "val.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="cannot be read as a zip archive"):
        IndexSet(folder, "val")
    (folder / "val.zip").unlink()
    (folder / "val").mkdir()
    (folder / "index.jsonl").write_text('{"split": "val"}\n{"split":\n')
    with pytest.raises(UserError, match=r"index\.jsonl, line 2: this is not JSON"):
        IndexSet(folder, "val")


def test_a_picture_without_labels_is_not_read(tmp_path: Path) -> None:
    assert len(IndexSet(write_set(tmp_path / "set", [{"image": "a.png", "captions": ["a cat"]}], {}), "val")) == 0


# What each of the real sets must give: segments, classes of pixels, kinds of regions, kinds of names.
REAL: dict[str, tuple[bool, bool, set[str], set[str]]] = {
    "bsds500": (False, False, {"coarse regions", "medium regions", "fine regions"}, set()),
    "caltech101": (False, False, set(), {"whole pictures"}),
    "camvid": (False, True, {"stuff areas"}, {"class areas"}),
    "ccp": (False, True, {"segments", "stuff areas"}, {"class areas"}),
    "coco_inst": (True, True, {"segments"}, {"segments"}),
    "coco_stuff": (True, True, {"segments"}, {"segments"}),
    "indoor85": (False, False, set(), {"boxes"}),
    "tinyimagenet": (False, False, {"automatic masks"}, {"whole pictures", "automatic masks", "boxes"}),
}


@pytest.mark.parametrize("name", REAL)
def test_a_picture_of_each_real_set(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"no data set at {DATA / name}")
    data = IndexSet(DATA / name, "val" if (DATA / name / "val.zip").exists() else "train")
    picture, truth = data.load(0)
    segments, classes, regions, named = REAL[name]
    assert (truth.segments is not None, truth.classes is not None) == (segments, classes)
    assert regions <= set(truth.regions)
    assert named <= {region.source for region in truth.named}
    size = picture.height, picture.width
    assert all(ids.shape == size and ids.any() for ids in truth.regions.values())
    assert all(r.mask().shape == size and r.mask().any() for r in truth.named)
    if truth.segments is not None and truth.classes is not None:
        known = truth.segments.classes() >= 0
        np.testing.assert_array_equal(truth.segments.classes()[known], truth.classes[known])


def measure(folder: Path) -> SetReport:
    return evaluate_set(painted_workbench(), IndexSet(folder, "val"))


def test_a_perfect_system_measures_perfect(tmp_path: Path) -> None:
    """The fourth band is not labelled, the third is a crowd: neither may count against anybody."""
    report = measure(write_set(tmp_path / "set", [PANOPTIC_ROW], PANOPTIC_FILES))
    assert report.panoptic is not None
    assert report.semantic is not None
    assert report.instances is not None
    assert {row.class_index: row.pq for row in report.panoptic.per_class} == {CAT: 100, GRASS: 100}
    assert report.semantic.miou == 100
    assert [row.class_index for row in report.semantic.per_class] == [CAT, GRASS, DOG]
    # The cat's proposal has its unlabelled band too: an IoU of one half is enough for recall and not for more.
    assert report.recall["segments"].at_50 == 100
    assert report.recall["segments"].mean == pytest.approx((100 + 10) / 2)
    assert report.instances.ap50 == pytest.approx(100)
    assert report.naming["segments"].top1 == 100
    assert (report.pictures, report.skipped) == (1, ())


def test_names_of_pictures_masks_and_boxes(tmp_path: Path) -> None:
    """Half cat, half dog: the whole picture is a tie that the first class wins, the right half is all dog."""
    row = {"image": "b.png", "category_id": 90, "pseudo_mask": "mask.png", "box_xyxy": [16, 0, 31, 31]}
    boxes = [{"category": "cat", "bbox": [0, 0, 8, 8]}, {"category": "grass", "bbox": [24, 0, 8, 8]}]
    beyond = [{"category": "cat", "bbox": [40, 0, 8, 8]}]
    files = {"b.png": png(painting("cat", "dog")), "mask.png": png(bands(0, 1))}
    report = measure(write_set(tmp_path / "set", [row | {"boxes": boxes + beyond}], files))
    assert {name: (r.top1, r.regions, r.too_small) for name, r in report.naming.items()} == {
        "whole pictures": (0, 1, 0),
        "automatic masks": (100, 1, 0),
        "boxes": (pytest.approx(200 / 3), 3, 1),
    }
    assert report.recall["automatic masks"].mean == 100
    assert (report.panoptic, report.semantic, report.instances) == (None, None, None)


def test_a_set_without_classes_has_recall_only(tmp_path: Path) -> None:
    row = {"image": "b.png", "regions": {"coarse": "coarse.png"}}
    folder = write_set(
        tmp_path / "set", [row], {"b.png": png(painting("cat", "dog")), "coarse.png": png(bands(1, 1, 2, 3))}
    )
    (folder / "classes.json").unlink()
    report = measure(folder)
    result = report.recall["coarse regions"]
    assert (result.at_50, result.regions) == (100, 3)
    assert (report.panoptic, report.semantic, report.naming) == (None, None, {})


def test_an_exported_answer_agrees_with_itself(tmp_path: Path) -> None:
    workbench = painted_workbench()
    path = tmp_path / "photo.png"
    path.write_bytes(png(painting("cat", "grass", "dog")))
    picture = load_picture(path)
    export(picture, workbench.analyse(picture).segment("cat, grass:stuff, dog"), tmp_path / "out", stem="answer")
    data = CocoPanopticSet(tmp_path / "out" / "answer.json", tmp_path / "out", tmp_path)
    report = evaluate_set(workbench, data)
    assert report.panoptic is not None
    for part, classes in ((report.panoptic.all, 3), (report.panoptic.things, 2), (report.panoptic.stuff, 1)):
        assert part is not None
        assert (part.pq, part.sq, part.rq, part.classes) == (100, 100, 100, classes)
    assert report.semantic is not None
    assert report.semantic.miou == 100
    assert report.instances is not None
    assert report.instances.ap == pytest.approx(100)
    assert report.recall["segments"].mean == 100
    assert report.naming["segments"].top1 == 100


def write_coco(root: Path) -> tuple[Path, Path]:
    """COCO's own layout: annotations/panoptic_val2017.json with its PNGs beside it, pictures in val2017."""
    masks, pictures = root / "annotations" / "panoptic_val2017", root / "val2017"
    masks.mkdir(parents=True)
    pictures.mkdir()
    ids = bands(1, 2).astype(int) * 300  # ids beyond 8 bits
    rgb = np.stack([ids % 256, ids // 256, ids * 0], -1).astype(np.uint8)
    (masks / "7.png").write_bytes(png(rgb))
    (pictures / "7.png").write_bytes(png(painting("cat", "dog")))
    document = {
        "images": [{"id": 7, "file_name": "7.png"}],
        "categories": [{"id": 17, "name": "cat", "isthing": 1}, {"id": 18, "name": "dog", "isthing": 1}],
        "annotations": [
            {
                "image_id": 7,
                "file_name": "7.png",
                "segments_info": [{"id": 300, "category_id": 17}, {"id": 600, "category_id": 18, "iscrowd": 1}],
            }
        ],
    }
    path = root / "annotations" / "panoptic_val2017.json"
    path.write_text(json.dumps(document))
    return path, masks


def test_coco_finds_its_pictures(tmp_path: Path) -> None:
    document, masks = write_coco(tmp_path)
    data = CocoPanopticSet(document, masks)
    picture, truth = data.load(0)
    np.testing.assert_array_equal(picture.pixels, painting("cat", "dog"))
    assert truth.segments is not None
    assert [(s.id, s.class_index, s.crowd) for s in truth.segments.segments] == [(300, 0, False), (600, 1, True)]
    assert np.unique(truth.segments.ids).tolist() == [300, 600]
    (tmp_path / "val2017" / "7.png").unlink()
    with pytest.raises(UserError, match=r"7\.png was not found .* --images"):
        data.load(0)


@pytest.mark.parametrize("text", ["{}", "[]", '{"images": [], "annotations": [{}], "categories": []}', "{"])
def test_coco_documents_that_are_none(tmp_path: Path, text: str) -> None:
    document, masks = write_coco(tmp_path)
    document.write_text(text)
    with pytest.raises(UserError, match=r"panoptic_val2017\.json"):
        CocoPanopticSet(document, masks)


def test_spread_is_even_and_in_order() -> None:
    assert spread(10, None) == list(range(10))
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 10) == [0, 1, 2]


def options(**flags: Any) -> argparse.Namespace:
    defaults = {
        "data": None, "set": [], "split": "val", "coco_panoptic": None, "images": None, "model": "painted",
        "checkpoint": None, "device": "cpu", "precision": "float32", "random_weights": False, "seed": 0, "limit": None,
        "words": None, "fusion": "geometric", "alpha": 0.4, "beta": 0.8, "rescue": 0.0, "short_side": None,
        "json": False,
    }  # fmt: skip
    return argparse.Namespace(**(defaults | flags))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(model, "load", lambda *_, **__: painted_workbench())
    lost = {"id": "lost", "image": "lost.png", "category_id": 1}
    write_set(tmp_path / "sets" / "meadow", [PANOPTIC_ROW, lost], PANOPTIC_FILES)
    out = tmp_path / "out"
    assert evaluate.run(options(data=tmp_path / "sets", out=out)) == 1
    printed = capsys.readouterr()
    assert "lost.png is not in val.zip" in printed.err
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["meadow", "(val)", "PQ", "100.0", "2", "classes", "1"] in lines
    assert ["meadow", "(val)", "mIoU", "100.0", "3", "classes", "1"] in lines
    document = json.loads((out / "evaluation.json").read_text())
    (report,) = document["sets"]
    assert report["skipped"] == ["lost.png is not in val.zip; check the index of the data set."]
    assert [row["label"] for row in report["panoptic"]["per_class"]] == ["cat", "grass"]

    path, masks = write_coco(tmp_path / "coco")
    assert evaluate.run(options(coco_panoptic=[str(path), str(masks)], out=out, json=True)) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((out / "evaluation.json").read_text())
    assert json.loads(printed.out)["sets"][0]["name"] == "panoptic_val2017"


def named(segment_id: int, category: str, crowd: int = 0) -> Json:
    return {"id": segment_id, "category": category, "iscrowd": crowd}


NAMED_ROW = {
    "image": "a.png", "inst": "ia.png", "segments": [named(1, "cat"), named(2, "kitten", crowd=1), named(3, "dog")],
}  # fmt: skip
UNNAMED_ROW = {"image": "b.png", "inst": "ib.png", "segments": [named(1, "hat")]}
NAMED_FILES = {
    "a.png": png(painting("cat", "cat", "grass", "cat")),
    "ia.png": png(bands(1, 2, 3, 0)),  # the cat's last band is marked by nobody: it counts as something else
    "b.png": png(painting("cat", "grass", "grass", "grass")),
    "ib.png": png(bands(0, 1, 0, 0)),
}
WORDS = "cat|kitten, grass:stuff, dog"


def test_areas_of_named_segments(tmp_path: Path) -> None:
    rows = [NAMED_ROW, UNNAMED_ROW, {"image": "a.png", "category_id": 1}]
    folder = write_set(tmp_path / "set", rows, NAMED_FILES)
    data = NamedAreas(folder, "val", parse_classes(WORDS))
    assert (len(data), data.name) == (2, "set (val)")
    _, truth = data.load(0)
    assert truth.areas is not None
    assert truth.areas[0, ::8].tolist() == [CAT, CAT, DOG, -1]
    assert (truth.segments, truth.classes, truth.regions, truth.named) == (None, None, {}, ())
    _, truth = data.load(1)
    assert truth.areas is not None
    assert (truth.areas == -1).all()

    report = evaluate_set(painted_workbench(), data)
    assert list(report.areas) == ["panoptic", "semantic"]
    for areas in report.areas.values():
        # Of cat two bands are right, and two more found where it is not marked; no dog is found; grass is not scored.
        found = [(row.class_index, row.iou, row.pixels) for row in areas.per_class]
        assert found == [(CAT, 50, 2 * SIDE * 8), (DOG, 0, SIDE * 8)]
        assert areas.miou == 25
    assert (report.panoptic, report.semantic, report.instances, report.recall, report.naming) == (None,) * 3 + ({}, {})
    rows = [line.split() for line in report_table([report]).splitlines()]
    assert ["set", "(val)", "panoptic", "area", "IoU,", "dog", "0.0", "256", "pixels", "2"] in rows


def test_area_iou_counts_every_pixel() -> None:
    iou = AreaIoU(2)
    assert iou.result().miou is None
    iou.update(np.array([[0, 0, -1, -1]]), np.array([[0, -1, 0, 1]]))
    iou.update(np.array([[0, -1, -1, -1]]), np.array([[0, 0, 0, 1]]))
    result = iou.result()
    assert [(row.class_index, row.iou, row.pixels) for row in result.per_class] == [(0, pytest.approx(200 / 6), 3)]
    assert (result.miou, result.pictures) == (pytest.approx(200 / 6), 2)


@pytest.mark.parametrize("segments", [None, [{"id": 1, "category": ["cat"]}], [{"category": "cat"}], 7])
def test_named_segments_of_any_shape(tmp_path: Path, segments: object) -> None:
    folder = write_set(tmp_path / "set", [NAMED_ROW | {"segments": segments}], NAMED_FILES)
    with pytest.raises(UserError, match="not as expected"):
        NamedAreas(folder, "val", parse_classes(WORDS)).load(0)


def test_the_command_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model, "load", lambda *_, **__: painted_workbench())
    write_set(tmp_path / "sets" / "pets", [NAMED_ROW, UNNAMED_ROW], NAMED_FILES)
    assert evaluate.run(options(data=tmp_path / "sets", out=tmp_path / "out", words=WORDS)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["pets", "(val)", "panoptic", "area", "IoU,", "cat", "50.0", "512", "pixels", "2"] in lines
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert document["words"] == WORDS
    assert [row["label"] for row in document["sets"][0]["areas"]["panoptic"]["per_class"]] == ["cat", "dog"]
    with pytest.raises(UserError, match="--data"):
        evaluate.run(options(coco_panoptic=["a.json", "b"], words=WORDS))


def test_persons_and_bags_of_the_real_set() -> None:
    if not (DATA / "ccp").is_dir():
        pytest.skip(f"no data set at {DATA / 'ccp'}")
    data = NamedAreas(DATA / "ccp", "val", parse_classes("wall:stuff, bag, person"))
    assert len(data) == 80
    _, truth = data.load(0)
    assert truth.areas is not None
    assert (truth.areas == 2).sum() == 26737  # the area in its index
    assert set(np.unique(truth.areas)) == {-1, 2}


def test_a_set_with_nothing_to_measure_says_so(tmp_path: Path) -> None:
    report = measure(write_set(tmp_path / "set", [], {}))
    assert report_table([report]).splitlines()[1].split() == ["set", "(val)", "nothing", "to", "measure", "-", "0"]
    assert set(PAINTS) == {*report.labels}
