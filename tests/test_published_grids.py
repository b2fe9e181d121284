"""The tables as printed, read again from the papers' text where that is at hand."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ovdemo.published_grids import EOVSEG_TABLE_10, FCCLIP_TABLE_8, PublishedGrid

PAPERS = Path(os.environ.get("OVDEMO_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "papers"
NUMBER = r"([\d.]+)"


@pytest.mark.parametrize(
    ("grid", "file", "start", "row"),
    [
        (
            FCCLIP_TABLE_8,
            "fcclip.txt",
            "Table 8:",
            rf"\$\(\\alpha = {NUMBER}, \\beta = {NUMBER}\)\$\s+{NUMBER}\s+{NUMBER}",
        ),
        (EOVSEG_TABLE_10, "eovseg.txt", "| Arithmetic | Geometric |", rf"\| {NUMBER} " * 4 + r"\|"),
    ],
)
def test_every_number_is_the_papers(grid: PublishedGrid, file: str, start: str, row: str) -> None:
    path = PAPERS / file
    if not path.exists():
        pytest.skip("the text of the papers is not beside this checkout")
    text = path.read_text(encoding="utf-8")
    printed = [tuple(map(float, numbers)) for numbers in re.findall(row, text[text.index(start) :])]
    assert [(p.alpha, p.beta, p.arithmetic, p.geometric) for p in grid.points] == printed


@pytest.mark.parametrize("grid", [FCCLIP_TABLE_8, EOVSEG_TABLE_10])
def test_both_papers_recommend_the_default(grid: PublishedGrid) -> None:
    best = max(grid.points, key=lambda point: point.geometric)
    assert (best.alpha, best.beta) == (0.4, 0.8)
    assert all(p.arithmetic == p.geometric for p in grid.points if {p.alpha, p.beta} <= {0.0, 1.0})
