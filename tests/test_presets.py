"""The shipped class lists against the numbers of their README and, where it is there, their source."""

from pathlib import Path

import pytest

from ovdemo.errors import UserError
from ovdemo.vocabulary import imagenet21k_synsets, infer_kind, load_preset, preset_names, preset_title
from ovdemo.vocabulary.preset_files import PRESET_FOLDER, read_preset

SHARED = Path(__file__).resolve().parents[2] / "shared" / "vocab"

# preset: classes, names, things (None: the data set has no such split)
COUNTS = {
    "coco-panoptic": (133, 254, 80),
    "ade20k-150": (150, 403, 100),
    "ade20k-847": (847, 1342, None),
    "cityscapes": (19, 60, 8),
    "mapillary-vistas": (65, 153, 37),
    "lvis-1203": (1203, 1825, 1203),
    "pascal-context-59": (59, 160, None),
    "pascal-context-459": (459, 559, None),
    "pascal-voc-20": (20, 79, None),
    "pascal-voc-21": (21, 153, None),
    "imagenet-21k": (21841, 40737, None),
}
SOURCES = {
    "coco-panoptic": "coco_panoptic",
    "ade20k-150": "ade20k_150",
    "ade20k-847": "ade20k_847",
    "cityscapes": "cityscapes",
    "mapillary-vistas": "mapillary_vistas",
    "lvis-1203": "lvis_1203",
    "pascal-context-59": "pascal_ctx_59",
    "pascal-context-459": "pascal_ctx_459",
    "pascal-voc-21": "pascal_voc_21",
}


def test_every_file_is_a_preset() -> None:
    files = {path.name.removesuffix(".gz").removesuffix(".json") for path in PRESET_FOLDER.glob("*.json*")}
    assert set(preset_names()) == files == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    classes, names, things = COUNTS[name]
    vocabulary = load_preset(name)
    assert len(vocabulary) == classes
    assert len(vocabulary.names) == names
    assert vocabulary.notes == ()
    if things is not None:
        assert sum(entry.kind == "thing" for entry in vocabulary.classes) == things
        assert not any(entry.inferred for entry in vocabulary.classes)


@pytest.mark.parametrize(
    ("name", "index", "names", "kind"),
    [
        ("coco-panoptic", 1, ("bicycle", "bicycles", "bike", "bikes"), "thing"),
        ("coco-panoptic", 132, ("rug",), "stuff"),
        ("ade20k-150", 0, ("wall", "walls", "brick wall", "stone wall", "interior wall"), "stuff"),
        ("ade20k-150", 149, ("flag", "flags"), "thing"),
        ("ade20k-847", 846, ("adding machine", "totalizer", "totaliser"), "thing"),
        ("cityscapes", 0, ("road", "railroad"), "stuff"),
        ("mapillary-vistas", 7, ("bike Lane",), "stuff"),
        ("lvis-1203", 0, ("aerosol can", "spray can"), "thing"),
        ("pascal-voc-20", 16, ("sheep",), "thing"),
        ("pascal-voc-21", 17, ("sheep",), "thing"),
        ("imagenet-21k", 0, ("organism", "being"), "thing"),
    ],
)
def test_entries(name: str, index: int, names: tuple[str, ...], kind: str) -> None:
    entry = load_preset(name).classes[index]
    assert entry.names == names
    assert entry.kind == kind


def test_names_are_verbatim() -> None:
    assert {"Band Aid", "CD player"} <= set(load_preset("lvis-1203").names)
    background = load_preset("pascal-voc-21").classes[0]
    assert len(background.names) == 74
    assert background.names.count("bag") == 2


def test_voc_20_is_voc_21_without_background() -> None:
    assert load_preset("pascal-voc-20").classes == load_preset("pascal-voc-21").classes[1:]


@pytest.mark.parametrize("name", [name for name, (_, _, things) in COUNTS.items() if things is None])
def test_missing_kinds_are_inferred(name: str) -> None:
    for entry in load_preset(name).classes[:100]:
        assert entry.inferred
        assert entry.kind == infer_kind(entry.names)


def test_synsets_are_in_class_order() -> None:
    synsets = imagenet21k_synsets()
    assert len(synsets) == len(set(synsets)) == 21841
    labels = {synset: entry.label for synset, entry in zip(synsets, load_preset("imagenet-21k").classes, strict=True)}
    assert labels["n02084071"] == "dog"
    assert labels["n02123045"] == "tabby"


@pytest.mark.parametrize("name", COUNTS)
def test_every_file_states_its_source_and_licence(name: str) -> None:
    preset = read_preset(name)
    assert preset.name == name
    assert preset.source
    assert preset.licence
    assert preset_title(name) == preset.title


def test_presets_are_read_once() -> None:
    assert load_preset("cityscapes") is load_preset("cityscapes")


@pytest.mark.parametrize("call", [load_preset, preset_title])
def test_unknown_preset(call) -> None:
    with pytest.raises(UserError, match="the nearest is coco-panoptic, and the choices are coco-panoptic, ade20k-150"):
        call("COCO-panoptics")
    with pytest.raises(UserError, match="choose one of coco-panoptic, ade20k-150"):
        call("../../etc/passwd")


@pytest.mark.parametrize("name", SOURCES)
def test_equal_to_the_source(name: str) -> None:
    path = SHARED / f"{SOURCES[name]}_with_prompt_eng.txt"
    if not path.exists():
        pytest.skip("the folder shared/vocab is not beside this checkout")
    lines = dict(line.split(":") for line in path.read_text(encoding="utf-8").split("\n"))
    if name not in ("cityscapes", "pascal-voc-21"):
        lines.pop("0", None)
    expected = [names.replace(", ", ",").split(",") for names in lines.values() if names != "invalid_class_id"]
    assert [list(entry.names) for entry in load_preset(name).classes] == expected
