"""Write the vocabularies of this folder: ``python assets/vocabularies/build.py SHARED_VOCAB_DIR``.

The argument is a folder with the class lists of FC-CLIP (``*_with_prompt_eng.txt``) and the thing flags
(``*_things.json``); its README states the format. ImageNet-21K comes from the class table that timm carries.
The output is the same, byte for byte, for the same input.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from timm.data import ImageNetInfo

FOLDER = Path(__file__).resolve().parent
FC_CLIP = "FC-CLIP, github.com/bytedance/fc-clip, fcclip/data/datasets"
FC_CLIP_LICENCE = "Apache-2.0, Copyright 2023 Bytedance Ltd. and/or its affiliates"
WORDNET_LICENCE = "WordNet 3.0 licence, Copyright 2006 Princeton University; table from timm, Apache-2.0"

Entry = dict[str, object]


@dataclass(frozen=True)
class BenchmarkList:
    """One text file: the preset it becomes, whether its id 0 is a class, and where its kinds come from."""

    name: str
    title: str
    stem: str
    zero_is_class: bool = False
    kinds: Literal["file", "things", "unknown"] = "unknown"


LISTS = (
    BenchmarkList("coco-panoptic", "COCO panoptic", "coco_panoptic", kinds="file"),
    BenchmarkList("ade20k-150", "ADE20K (150 classes)", "ade20k_150", kinds="file"),
    BenchmarkList("ade20k-847", "ADE20K (847 classes)", "ade20k_847"),
    BenchmarkList("cityscapes", "Cityscapes", "cityscapes", zero_is_class=True, kinds="file"),
    BenchmarkList("mapillary-vistas", "Mapillary Vistas", "mapillary_vistas", kinds="file"),
    BenchmarkList("lvis-1203", "LVIS (1203 classes)", "lvis_1203", kinds="things"),
    BenchmarkList("pascal-context-59", "Pascal Context (59 classes)", "pascal_ctx_59"),
    BenchmarkList("pascal-context-459", "Pascal Context (459 classes)", "pascal_ctx_459"),
    BenchmarkList("pascal-voc-21", "Pascal VOC (20 classes and background)", "pascal_voc_21", zero_is_class=True),
)


def read_names(path: Path, *, zero_is_class: bool) -> list[list[str]]:
    """The names of every class, split as the published systems split them: no trimming, no lower-casing."""
    classes = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        identifier, _, names = line.partition(":")
        if names == "invalid_class_id" or (identifier == "0" and not zero_is_class):
            continue
        classes.append(names.replace(", ", ",").split(","))
    return classes


def read_kinds(spec: BenchmarkList, folder: Path, count: int) -> list[str | None]:
    """``"thing"``, ``"stuff"`` or, where the data set has no such split, ``None`` for every class."""
    if spec.kinds == "things":
        return ["thing"] * count
    if spec.kinds == "unknown":
        return [None] * count
    table = json.loads((folder / f"{spec.stem}_things.json").read_text(encoding="utf-8"))["classes"]
    return ["thing" if entry["isthing"] else "stuff" for entry in table]


def benchmark_classes(spec: BenchmarkList, folder: Path) -> list[Entry]:
    """The classes of one text file with their kinds."""
    names = read_names(folder / f"{spec.stem}_with_prompt_eng.txt", zero_is_class=spec.zero_is_class)
    kinds = read_kinds(spec, folder, len(names))
    return [{"names": n, "kind": k} for n, k in zip(names, kinds, strict=True)]


def imagenet_classes() -> list[Entry]:
    """The 21,841 synsets of ImageNet's fall 2011 release, their lemmas as names."""
    table = ImageNetInfo("imagenet-22k")
    return [
        {"names": table.label_name_to_description(synset).split(", "), "kind": None, "synset": synset}
        for synset in table.label_names()
    ]


def to_json(name: str, title: str, source: str, licence: str, classes: Sequence[Entry]) -> str:
    """The file's text, one class a line."""
    head = {"name": name, "title": title, "source": source, "licence": licence}
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in head.items()]
    rows = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in classes)
    return "\n".join(["{", *lines, '  "classes": [', rows, "  ]", "}"]) + "\n"


def main() -> None:
    """Read the lists, write one file each."""
    parser = argparse.ArgumentParser(description="Build the vocabulary files of this folder.")
    parser.add_argument("shared_vocab_dir", type=Path, help="folder with *_with_prompt_eng.txt and *_things.json")
    folder = parser.parse_args().shared_vocab_dir
    texts = {}
    for spec in LISTS:
        classes = benchmark_classes(spec, folder)
        texts[spec.name] = to_json(spec.name, spec.title, FC_CLIP, FC_CLIP_LICENCE, classes)
        if spec.name == "pascal-voc-21":
            short = to_json("pascal-voc-20", "Pascal VOC (20 classes)", FC_CLIP, FC_CLIP_LICENCE, classes[1:])
            texts["pascal-voc-20"] = short
    for name, text in texts.items():
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")

    imagenet_source = "ImageNet, fall 2011 release, through timm.data.ImageNetInfo"
    imagenet = to_json("imagenet-21k", "ImageNet-21K", imagenet_source, WORDNET_LICENCE, imagenet_classes())
    (FOLDER / "imagenet-21k.json.gz").write_bytes(gzip.compress(imagenet.encode(), mtime=0))


if __name__ == "__main__":
    main()
