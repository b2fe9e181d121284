"""The command line, as a person uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save

from hub_server import HubServer
from ovdemo.__main__ import main
from ovdemo.evaluation import LabelledSegment, PanopticQuality, SegmentMap
from ovdemo.loading import random_network
from ovdemo.systems.registry import Variant
from test_loading import CLIP_REPOSITORY, clip_part, trained_part

pytestmark = pytest.mark.usefixtures("tiny")

MODEL = ["--model", "tiny", "--random-weights", "--device", "cpu"]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three pictures of different sizes, two of one name."""
    paths = [tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.png", tmp_path / "dog.jpg"]
    for seed, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (70 + 10 * seed, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def test_one_picture_and_words_in_a_labelled_picture_out(
    photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = "cat|kitten, sofa, Sofa, wall:stuff"
    assert main(["segment", str(photos[0]), "--classes", words, "--out", str(out), *MODEL]) == 0
    assert {p.name for p in out.iterdir()} == {"cat.png", "cat.json", "cat_overlay.png"}
    document = json.loads((out / "cat.json").read_text())
    assert [(c["name"], c["isthing"]) for c in document["categories"]] == [("cat", 1), ("sofa", 1), ("wall", 0)]
    assert document["images"][0]["file_name"] == "cat.png"
    printed = capsys.readouterr()
    assert "RANDOM WEIGHTS" in printed.err
    assert 'merged "Sofa" into "sofa"' in printed.err
    assert str(out) in printed.out


def test_a_bad_picture_is_reported_and_the_rest_go_on(
    photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "notes.txt"
    bad.write_text("hello")
    paths = [str(p) for p in (photos[0], bad, photos[1], photos[2])]
    assert main(["segment", *paths, "--classes", "cat", "--out", str(tmp_path / "out"), "--json", *MODEL]) == 1
    printed = capsys.readouterr()
    results = json.loads(printed.out)["results"]
    assert [("error" in r) for r in results] == [False, True, False, False]
    assert "notes.txt" in results[1]["error"]
    assert "notes.txt" in printed.err
    assert "Traceback" not in printed.err
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"cat.png", "cat_2.png", "dog.png", "dog_overlay.png"} <= written
    ids = [json.loads((tmp_path / "out" / f"{s}.json").read_text())["images"][0]["id"] for s in ("cat", "cat_2", "dog")]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("mode", "files"),
    [
        ("panoptic", {"dog.png", "dog.json", "dog_overlay.png"}),
        ("semantic", {"dog_semantic.png", "dog.json", "dog_overlay.png"}),
        ("instance", {"dog.json", "dog_instances.json", "dog_overlay.png"}),
    ],
)
def test_every_mode_writes_its_files(photos: list[Path], tmp_path: Path, mode: str, files: set[str]) -> None:
    arguments = ["--preset", "cityscapes", "--classes", "zebra", "--mode", mode, "--out", str(tmp_path / "out")]
    settings = ["--fusion", "arithmetic", "--alpha", "0.2", "--beta", "0.9", "--short-side", "64"]
    assert main(["segment", str(photos[2]), *arguments, *settings, *MODEL]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == files
    document = json.loads((tmp_path / "out" / "dog.json").read_text())
    assert [c["name"] for c in document["categories"]][:2] == ["zebra", "road"]
    assert len(document["categories"]) == 20


def test_rescue_lowers_no_object(photos: list[Path], tmp_path: Path) -> None:
    void = []
    for rescue in ("0", "1"):
        arguments = ["--classes", "zebra, sky:stuff", "--mode", "semantic", "--rescue", rescue, "--out", str(tmp_path)]
        assert main(["segment", str(photos[2]), *arguments, *MODEL]) == 0
        records = json.loads((tmp_path / "dog.json").read_text())["annotations"][0]["segments_info"]
        void.append(max(record["evidence"]["void"] for record in records))
    assert void[1] < void[0]


def test_the_panoptic_output_is_perfect_against_itself(photos: list[Path], tmp_path: Path) -> None:
    """Read as COCO's format defines it, then scored by the project's panoptic quality."""
    arguments = ["--classes", "a, b, c:stuff, d:stuff", "--overlap-threshold", "0.1", "--out", str(tmp_path)]
    assert main(["segment", str(photos[2]), *arguments, *MODEL]) == 0
    document = json.loads((tmp_path / "dog.json").read_text())
    colours = np.asarray(Image.open(tmp_path / "dog.png")).astype(np.int64)
    ids = colours @ [1, 256, 65536]
    annotation = document["annotations"][0]
    assert annotation["file_name"] == "dog.png"
    assert annotation["image_id"] == document["images"][0]["id"]
    assert (document["images"][0]["height"], document["images"][0]["width"]) == ids.shape
    records = annotation["segments_info"]
    assert records, "this seed should find something"
    assert {r["id"] for r in records} == set(np.unique(ids)) - {0}
    for record in records:
        rows, columns = np.nonzero(ids == record["id"])
        assert record["area"] == len(rows)
        assert record["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert record["iscrowd"] == 0
    classes = {c["id"]: index for index, c in enumerate(document["categories"])}
    segments = tuple(LabelledSegment(r["id"], classes[r["category_id"]]) for r in records)
    quality = PanopticQuality(["thing" if c["isthing"] else "stuff" for c in document["categories"]])
    quality.update(SegmentMap(ids, segments), SegmentMap(ids, segments))
    overall = quality.result().all
    assert (overall.pq, overall.sq, overall.rq) == (100, 100, 100)


def test_cutouts_and_a_vocabulary_file(photos: list[Path], tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("# my words\ncat | kitten\nsky:stuff\n", encoding="utf-8")
    arguments = ["--vocabulary-file", str(words), "--mode", "semantic", "--cutouts", "--out", str(tmp_path / "out")]
    assert main(["segment", str(photos[2]), *arguments, *MODEL]) == 0
    cutouts = list((tmp_path / "out").glob("dog_cutout_*.png"))
    assert cutouts
    assert all(Image.open(path).mode == "RGBA" for path in cutouts)


def test_the_same_seed_gives_the_same_bytes(photos: list[Path], tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert main(["segment", str(photos[0]), "--classes", "a, b, c", "--out", str(tmp_path / out), *MODEL]) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["x.png"], "Say what to look for"),
        (["x.png", "--classes", " , "], "cat"),
        (["x.png", "--preset", "coco"], "coco-panoptic"),
        (["x.png", "--classes", "cat", "--model", "fcclip"], "no model named"),
        (["x.png", "--classes", "cat", "--model", "fcclip-rn101"], "--checkpoint"),
        (["x.png", "--classes", "cat", "--model", "tiny", "--checkpoint", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_what_cannot_run_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", *arguments]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""


@pytest.mark.parametrize("arguments", [["--alpha", "1.5"], ["--size", "12"], ["--size", "1x1"], ["--mode", "magic"]])
def test_a_mistyped_flag_is_refused(arguments: list[str]) -> None:
    command = "bench" if "--size" in arguments else "segment"
    with pytest.raises(SystemExit, match="2"):
        main([command, *([] if command == "bench" else ["x.png"]), *arguments])


def test_bench_measures_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--size", "64x80", "--repeats", "2", "--json", *MODEL]) == 0
    report = json.loads(capsys.readouterr().out)
    steps = [timing["step"] for timing in report["timings"]]
    assert steps[:3] == ["encode", "propose", "text encoding, a name"]
    assert steps[3:7] == ["score, 133 classes", "merge, 133 classes", "score, 1203 classes", "merge, 1203 classes"]
    asked = ("slider", "known words", "a new word")
    assert steps[7:13] == [f"{what} to new picture, {size} classes" for size in (8, 133) for what in asked]
    assert steps[13:] == [
        *("tree of 133 words, roll-up", "tree of 133 words, greedy", "ImageNet-21K's tree, roll-up"),
        *("inspect a pixel", "uncertainty maps", "sensitivity, 121 settings", "suggest of 21,841 nouns"),
    ]
    assert all(0 < t["median_ms"] <= t["p95_ms"] for t in report["timings"])
    assert report["random_weights"]
    assert report["peak_memory_mb"] > 0
    assert main(["bench", "--size", "64x80", "--repeats", "1", *MODEL]) == 0
    assert "merge, 1203 classes" in capsys.readouterr().out


def test_checkpoints_from_fetch_to_convert(
    hub: HubServer,
    tiny: Variant,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tensors = {name: tensor.clone() for name, tensor in random_network(tiny, 0).state_dict().items()}
    hub.add("someone/tiny", "model.safetensors", save(trained_part(tensors)))
    hub.add(CLIP_REPOSITORY, "open_clip_model.safetensors", save(clip_part(tensors)))
    assert main(["checkpoints", "list"]) == 0
    assert "to download: python -m ovdemo checkpoints fetch tiny" in capsys.readouterr().out
    assert main(["checkpoints", "fetch", "tiny"]) == 0
    capsys.readouterr()
    assert main(["checkpoints", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["tiny"]["state"] == "downloaded"
    assert "authors' file" in rows["fcclip-rn50"]["state"]
    assert "PQ 26.8" in rows["fcclip-convnext-large"]["published"]

    torch.save({"model": {f"module.{n}": t for n, t in trained_part(tensors).items()}}, tmp_path / "authors.pth")
    assert main(["checkpoints", "verify", str(tmp_path / "authors.pth"), "--as", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert 'begin with "module."' in printed
    assert "come from open_clip" in printed
    target = tmp_path / "tiny.safetensors"
    assert main(["checkpoints", "convert", str(tmp_path / "authors.pth"), "--as", "tiny", "--to", str(target)]) == 0
    assert load_file(target).keys() == trained_part(tensors).keys()
    assert main(["checkpoints", "verify", str(target), "--as", "fcclip-rn50"]) == 2
    assert "another variant" in capsys.readouterr().err
    assert main(["checkpoints", "convert", str(target), "--as", "tiny", "--to", str(target)]) == 2


def test_help_does_not_wait_for_pytorch() -> None:
    code = "import sys; from ovdemo.__main__ import _parser; _parser().format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
