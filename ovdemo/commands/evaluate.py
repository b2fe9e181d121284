"""``python -m ovdemo evaluate``: measure a model on labelled pictures.

With ``--words`` the named segments of a set are looked for among words of a person's own, one IoU a class
(:class:`ovdemo.evaluation.NamedAreas`)::

    python -m ovdemo evaluate --data ../data --set ccp \\
        --words "person, wall, floor, street, building, tree, grass, car, door, window, sky"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ovdemo.commands.model import chosen_fusion, load_workbench
from ovdemo.ensemble import Fusion
from ovdemo.errors import UserError
from ovdemo.evaluation import (
    CocoPanopticSet,
    IndexSet,
    LabelledPictures,
    NamedAreas,
    SetReport,
    evaluate_set,
    find_sets,
    report_json,
    report_table,
)
from ovdemo.vocabulary import parse_classes
from ovdemo.workbench import Workbench


def run(options: argparse.Namespace) -> int:
    """Measure every set, write ``evaluation.json``, print a table or the JSON; 1 if some pictures were skipped."""
    sets = open_sets(options)
    if options.random_weights:
        print("RANDOM WEIGHTS: the numbers below mean nothing.", file=sys.stderr)
    workbench = load_workbench(options)
    fusion = chosen_fusion(options, workbench)
    reports = [_evaluate(workbench, data, fusion, options) for data in sets]
    document = _document(reports, fusion, options)
    path = _write(options.out, document)
    if options.json:
        print(document)
    else:
        print(report_table(reports))
        print(path)
    return 1 if any(report.skipped for report in reports) else 0


def open_sets(options: argparse.Namespace) -> list[LabelledPictures]:
    """The data sets that the flags name, indexes read and pictures not.

    Raises:
        UserError: one cannot be opened.
    """
    if options.coco_panoptic is not None:
        if options.words is not None:
            raise UserError("--words asks about the sets of a folder; pass the folder with --data.")
        document, masks = options.coco_panoptic
        return [CocoPanopticSet(Path(document), Path(masks), options.images)]
    names: Sequence[str] = options.set or find_sets(options.data, options.split)
    if options.words is not None:
        words = parse_classes(options.words)
        return [NamedAreas(options.data / name, options.split, words) for name in names]
    return [IndexSet(options.data / name, options.split) for name in names]


def _evaluate(workbench: Workbench, data: LabelledPictures, fusion: Fusion, options: argparse.Namespace) -> SetReport:
    total = len(data) if options.limit is None else min(options.limit, len(data))
    with tqdm(total=total, unit="picture", desc=data.name, file=sys.stderr) as bar:

        def advance(problem: str | None) -> None:
            bar.update()
            if problem is not None:
                bar.write(f"ovdemo: {data.name}: {problem}", file=sys.stderr)

        return evaluate_set(
            workbench,
            data,
            fusion=fusion,
            short_side=options.short_side,
            limit=options.limit,
            advance=advance,
        )


def _document(reports: Sequence[SetReport], fusion: Fusion, options: argparse.Namespace) -> str:
    content: dict[str, Any] = {
        "model": options.model,
        "checkpoint": None if options.checkpoint is None else str(options.checkpoint),
        "random_weights": options.random_weights,
        "precision": options.precision,
        "fusion": asdict(fusion),
        "short_side": options.short_side,
        "words": options.words,
        "limit": options.limit,
        "sets": [report_json(report) for report in reports],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def _write(folder: Path, document: str) -> Path:
    path = folder / "evaluation.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(document + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}); choose another folder with --out.") from error
    return path
