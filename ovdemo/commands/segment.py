"""``python -m ovdemo segment``: pictures and words in, labelled pictures and their data out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from ovdemo.commands.model import chosen_fusion, load_workbench
from ovdemo.errors import UserError
from ovdemo.export import export
from ovdemo.images import load_picture
from ovdemo.merging import Merging
from ovdemo.segmentation import Segmentation
from ovdemo.vocabulary import Vocabulary, combine, load_preset, parse_classes, read_vocabulary_file
from ovdemo.workbench import Workbench


def run(options: argparse.Namespace) -> int:
    """Segment every picture; a bad one is reported and the rest go on (exit code 1)."""
    vocabulary = read_words(options)
    for note in vocabulary.notes:
        print(f"note: {note}", file=sys.stderr)
    if options.random_weights:
        print("RANDOM WEIGHTS: the segments and labels below mean nothing.", file=sys.stderr)
    workbench = load_workbench(options)
    _embed(workbench, vocabulary)
    fusion = chosen_fusion(options, workbench)
    merging = Merging(options.mode, options.object_threshold, options.overlap_threshold)
    results: list[dict[str, object]] = []
    failures = 0
    stems: Counter[str] = Counter()
    bar = tqdm(options.pictures, unit="picture", disable=len(options.pictures) == 1, file=sys.stderr)
    for image_id, path in enumerate(bar, start=1):
        try:
            picture = load_picture(path)
            stem = _unused_stem(picture.stem, stems)
            analysis = workbench.analyse(picture, short_side=options.short_side)
            segmentation = analysis.segment(vocabulary, fusion=fusion, merging=merging)
            files = export(picture, segmentation, options.out, image_id=image_id, stem=stem, cutouts=options.cutouts)
            results.append(_describe(path, segmentation, files))
            if not options.json:
                tqdm.write(_summary(path, segmentation, options.out), file=sys.stdout)
        except UserError as error:
            failures += 1
            results.append({"picture": path, "error": str(error)})
            tqdm.write(f"ovdemo: {error}", file=sys.stderr)
    if options.json:
        document = {"model": options.model, "random_weights": options.random_weights, "results": results}
        json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
        print()
    return 1 if failures else 0


def read_words(options: argparse.Namespace) -> Vocabulary:
    """Typed words, then the file's, then the presets', as one vocabulary.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    parts = []
    if options.classes is not None:
        parts.append(parse_classes(options.classes))
    if options.vocabulary_file is not None:
        parts.append(read_vocabulary_file(options.vocabulary_file))
    parts += [load_preset(name) for name in options.preset]
    if not parts:
        raise UserError('Say what to look for, for example --classes "cat|kitten, sofa, wall:stuff".')
    return combine(*parts)


def _embed(workbench: Workbench, vocabulary: Vocabulary) -> None:
    with tqdm(unit="name", desc="encoding words", file=sys.stderr, leave=False, delay=1) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        workbench.embed(vocabulary, progress)


def _unused_stem(stem: str, used: Counter[str]) -> str:
    """Two pictures may share a name (a/cat.jpg, b/cat.jpg): the second becomes cat_2."""
    used[stem] += 1
    return stem if used[stem] == 1 else _unused_stem(f"{stem}_{used[stem]}", used)


def _describe(path: str, segmentation: Segmentation, files: Iterable[Path]) -> dict[str, object]:
    return {
        "picture": path,
        "mode": segmentation.mode,
        "files": [str(file) for file in files],
        "segments": [dataclasses.asdict(segment) for segment in segmentation.segments],
    }


def _summary(path: str, segmentation: Segmentation, folder: Path) -> str:
    counts = Counter(segment.label for segment in segmentation.segments)
    found = ", ".join(label if n == 1 else f"{n} x {label}" for label, n in counts.items()) or "nothing"
    return f"{path}: {found} -> {folder}"
