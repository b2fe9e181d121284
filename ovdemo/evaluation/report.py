"""Reports as JSON values and as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ovdemo.evaluation.run import SetReport

_HEADER = ("data set", "measure", "%", "over", "pictures")

Row = tuple[str, str, str, str, str]


def report_json(report: SetReport) -> dict[str, Any]:
    """Plain values for :func:`json.dumps`; each class carries its label."""
    document = asdict(report)
    for result in (*(document[name] for name in ("panoptic", "semantic", "instances")), *document["areas"].values()):
        for row in (result or {}).get("per_class", ()):
            row["label"] = report.labels[row["class_index"]]
    return document


def report_table(reports: Sequence[SetReport]) -> str:
    """Aligned text: one number a line, in percent, with the counts that it rests on."""
    rows = [_HEADER, *(row for report in reports for row in _rows(report))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        f"{name:<{widths[0]}}  {measure:<{widths[1]}}  {value:>{widths[2]}}  {over:<{widths[3]}}  {count:>{widths[4]}}"
        for name, measure, value, over, count in rows
    ]
    return "\n".join(lines)


def _rows(report: SetReport) -> Iterator[Row]:
    found = [*_panoptic_rows(report), *_other_rows(report), *_recall_rows(report), *_naming_rows(report)]
    if not found:
        yield report.name, "nothing to measure", "-", "", str(report.pictures)
    for measure, value, over, pictures in found:
        yield report.name, measure, "-" if value is None else f"{value:.1f}", over, str(pictures)


_Number = tuple[str, float | None, str, int]


def _panoptic_rows(report: SetReport) -> Iterable[_Number]:
    result = report.panoptic
    if result is None:
        return
    for name, part in (("", result.all), (" things", result.things), (" stuff", result.stuff)):
        if part is not None:
            over = _counted(part.classes, "class", "classes")
            yield f"PQ{name}", part.pq, over, result.pictures
            yield f"SQ{name}", part.sq, over, result.pictures
            yield f"RQ{name}", part.rq, over, result.pictures


def _other_rows(report: SetReport) -> Iterable[_Number]:
    if report.semantic is not None:
        over = _counted(len(report.semantic.per_class), "class", "classes")
        yield "mIoU", report.semantic.miou, over, report.semantic.pictures
    for mode, areas in report.areas.items():
        for row in areas.per_class:
            label = report.labels[row.class_index]
            yield f"{mode} area IoU, {label}", row.iou, f"{row.pixels} pixels", areas.pictures
    result = report.instances
    if result is not None and result.instances:
        over = _counted(result.instances, "instance", "instances")
        for name, value in (("AP", result.ap), ("AP50", result.ap50), ("AP75", result.ap75)):
            yield name, value, over, result.pictures


def _recall_rows(report: SetReport) -> Iterable[_Number]:
    for kind, result in report.recall.items():
        over = _counted(result.regions, "region", "regions")
        yield f"recall, {kind}, IoU 0.5", result.at_50, over, result.pictures
        yield f"recall, {kind}, IoU 0.5:0.95", result.mean, over, result.pictures


def _naming_rows(report: SetReport) -> Iterable[_Number]:
    for kind, result in report.naming.items():
        over = _counted(result.regions, "region", "regions")
        if result.too_small:
            over += f", {result.too_small} too small"
        yield f"naming, {kind}, top-1", result.top1, over, result.pictures


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"
