"""Small pieces of HTML. Whatever a person typed goes through :func:`html.escape`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import numpy as np

from ovdemo.display import hex_color
from ovdemo.inspection import ClassReading, Contender, Formula, Inspection
from ovdemo.published_grids import PUBLISHED_GRIDS, PublishedPoint
from ovdemo.rendering import Color, text_color
from ovdemo.segmentation import ClassProbability, Segment
from ovdemo.sensitivity import UNLABELLED, WEIGHTS, Sensitivity
from ovdemo.stopwatch import Step
from ovdemo.suggestions import Suggestion
from ovdemo.ui import jobs
from ovdemo.vocabulary.linting import Hint

R = TypeVar("R")

_NEAR_ONE = 0.005  # what a division by it would not change
_RAMP = ("#f4f1e8", "#12486b")  # light is little, dark is much
_NOBODY = "#9aa0a6"  # where no label wins


def timing_strip(steps: Sequence[Step]) -> str:
    """The steps of an answer in milliseconds, cached ones greyed."""
    cells = [
        f'<span class="ov-step{" ov-cached" if step.cached else ""}" data-step="{step.name}" '
        f'data-cached="{int(step.cached)}">{step.name} <b>{"cached" if step.cached else _duration(step)}</b></span>'
        for step in steps
    ]
    total = sum(step.milliseconds for step in steps)
    return f'<div class="ov-strip">{"".join(cells)}<span>= <b>{total:.0f} ms</b> on the server</span></div>'


def hints(rows: Iterable[Hint]) -> str:
    """Hints on the words, each with a button where it offers a remedy."""
    lines = []
    for hint in rows:
        button = ""
        if hint.replacement is not None:
            word = escape(hint.words[0]) if hint.words else ""
            action = "use" if hint.words else "add"
            button = (
                f' <button type="button" class="ov-fix" data-act="fix" data-word="{word}" '
                f'data-replacement="{escape(hint.replacement)}">{action} “{escape(hint.replacement)}”</button>'
            )
        lines.append(f'<div class="ov-hint ov-{hint.severity}">{escape(hint.text)}{button}</div>')
    return f'<div class="ov-hints" role="status">{"".join(lines)}</div>'


def inspector(found: Inspection, prompt: str, color: str) -> str:
    """Everything about one pixel: bars of the best classes, the facts and the runners-up."""
    segment = found.segment
    title = escape(segment.label) if segment else "No label here"
    what = f"{segment.kind}, score {segment.score:.2f}" if segment else "the strongest proposal is explained instead"
    bars = "".join(_bars(reading) for reading in found.classes)
    rivals = "".join(_rival(contender) for contender in found.runners_up)
    return f"""<div class="ov-inspector" data-label="{title}">
<h3><span class="ov-swatch" style="background:{color}"></span><bdi>{title}</bdi>
<span class="ov-small">{what}</span></h3>
<div class="ov-key"><span><i class="ov-in"></i>in-vocabulary</span>
<span><i class="ov-out"></i>out-of-vocabulary (CLIP)</span><span><i class="ov-fused"></i>fused</span></div>
<div class="ov-bars">{bars}</div>
<div class="ov-facts">{_facts(found, prompt)}</div>
{maths(found.formula)}
<div><b>Other proposals at this pixel</b><ol class="ov-rivals">{rivals or "<li>none</li>"}</ol></div>
</div>"""


def maths(formula: Formula) -> str:
    """What the ensemble does, in one line, with a proposal's own numbers (FC-CLIP, equation 7)."""
    p, q, w = formula.in_vocabulary, formula.out_of_vocabulary, formula.exponent
    if formula.kind == "arithmetic":
        mixed = f"(1 - {w:.2f}) × {p:.3g} + {w:.2f} × {q:.3g}"
    else:
        mixed = f"{p:.3g}<sup>1 - {w:.2f}</sup> × {q:.3g}<sup>{w:.2f}</sup>"
    void = f"{formula.void:.3f}"
    if formula.rescue:
        void = f"{formula.raw_void:.3f} × (1 - {formula.rescue:.2f} × {formula.clip_peak:.2f}) = {void}"
    total = "" if abs(formula.total - 1) < _NEAR_ONE else f" / {formula.total:.3g}"
    return (
        f'<div class="ov-math">p(<bdi>{escape(formula.label)}</bdi>) = {mixed}{total} '
        f"× (1 - p(void)) = <b>{formula.fused:.3f}</b>, p(void) = {void}"
        "</div>"
    )


def lead(text: str) -> str:
    """A quiet line."""
    return f'<p class="ov-lead" role="status">{escape(text)}</p>'


def progress(news: jobs.Progress) -> str:
    """What long work is doing, with a bar: of how much is done, or that moves where nobody knows how much there is."""
    text, bar = f"{news.text} …", ""
    if news.total:
        text = f"{news.text} {news.done:,} of {news.total:,}"
        bar = f' value="{min(news.done / news.total, 1):.3f}"'
    return f'<p class="ov-lead" role="status">{escape(text)} <progress aria-label="Progress"{bar}></progress></p>'


def steps(work: Callable[[jobs.Report], R], draw: Callable[[R], str]) -> Iterator[str]:
    """The progress of long work, line after line, and at last its result as ``draw`` shows it."""
    line = progress(jobs.Progress("Working", 0, None))
    for news in jobs.run(work):
        if isinstance(news, jobs.Done):
            yield draw(news.result)
        else:
            line = line if news is None else progress(news)
            yield line


def suggestions(found: Iterable[Suggestion]) -> str:
    """Words to add with one click."""
    buttons = [
        f'<button type="button" class="ov-fix" data-act="add" data-word="{escape(one.word)}" '
        f'title="might name {100 * one.share:.0f}% of the picture">+ {escape(one.word)}</button>'
        for one in found
    ]
    return f'<div class="ov-buttons">{" ".join(buttons)}</div>' if buttons else '<p class="ov-lead">None found.</p>'


def nouns(segments: Sequence[Segment], found: Sequence[Sequence[ClassProbability]]) -> str:
    """The best nouns of every segment as a table, a row a segment (OPSNet, Figure 3).

    Bars are relative to a segment's best noun: among 21,841 even that may have a hundredth of the probability.
    """
    if not segments:
        return lead("There is no segment to name; find one in the Segment tab first.")
    places = max(map(len, found))
    head = "".join(f'<th scope="col">{place}</th>' for place in range(1, places + 1))
    body = ""
    for segment, best in zip(segments, found, strict=True):
        cells = "".join(
            f'<td class="ov-noun"><bdi>{escape(noun.label)}</bdi> <b>{noun.probability:.3f}</b>'
            f'<i class="ov-fused" style="width:{100 * noun.probability / (best[0].probability or 1):.1f}%"></i></td>'
            for noun in best
        )
        body += f'<tr><th scope="row"><bdi>{escape(segment.label)}</bdi> <small>#{segment.id}</small></th>{cells}</tr>'
    return (
        '<div class="ov-nouns" tabindex="0" role="region" aria-label="Best nouns of every segment">'
        "<table><caption>The likeliest of ImageNet-21K's nouns for every segment, with their probabilities; "
        "bars are relative to the first</caption>"
        f'<thead><tr><th scope="col">segment</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def published(alpha: float, beta: float) -> str:
    """The papers' tables of alpha and beta, geometric fusion, with the current point."""
    tables = []
    for table in PUBLISHED_GRIDS:
        known = {(point.alpha, point.beta): point for point in table.points}
        alphas, betas = sorted({a for a, _ in known}), sorted({b for _, b in known})
        cells = [[_cell(known.get((a, b)), table.points) for b in betas] for a in alphas]
        caption = (
            f"{escape(table.system)}: {escape(table.measured)}, geometric "
            f'(<a href="{table.link}" target="_blank" rel="noopener">{escape(table.source.rsplit(", ", 1)[1])}</a>)'
        )
        tables.append(_table(caption, cells, (alphas, betas), (alpha, beta)))
    return "".join(tables)


def measured(
    found: Sensitivity, labels: Sequence[str], colors: Sequence[str], about: str, here: tuple[float, float]
) -> str:
    """What every alpha and beta does to this picture: how much changes, and who wins.

    Args:
        found: the 11 x 11 grids.
        labels: of the classes.
        colors: of the classes, ``#rrggbb``.
        about: what the winner is of, such as a segment's label.
        here: the current alpha and beta.
    """
    changed = [
        [
            _Cell(_mix(_between(x, found.changed)), f"{100 * x:.0f}", f"{100 * x:.1f}% of the pixels change label")
            for x in row
        ]
        for row in found.changed.tolist()
    ]
    won = []
    for classes, shares in zip(found.winner.tolist(), found.winner_share.tolist(), strict=True):
        named = [("no label", _NOBODY) if k == UNLABELLED else (labels[k], colors[k]) for k in classes]
        won.append(
            [
                _Cell(color, name[:9], f"{name} has {100 * share:.0f}%")
                for (name, color), share in zip(named, shares, strict=True)
            ]
        )
    axes = (WEIGHTS, WEIGHTS)
    return _table("Percent of pixels that change label against the default", changed, axes, here) + _table(
        f"Which label wins {escape(about)}", won, axes, here
    )


@dataclass(frozen=True)
class _Cell:
    color: str  # "#rrggbb"
    text: str
    tip: str


def _cell(point: PublishedPoint | None, all_points: Sequence[PublishedPoint]) -> _Cell | None:
    if point is None:
        return None
    share = _between(point.geometric, [one.geometric for one in all_points])
    tip = f"geometric {point.geometric}, arithmetic {point.arithmetic}"
    return _Cell(_mix(share), f"{point.geometric:.1f}", tip)


def _between(value: float, values: Iterable[float]) -> float:
    """Where a value lies among others, 0 for the least and 1 for the greatest."""
    numbers = np.asarray(values)
    low, high = float(numbers.min()), float(numbers.max())
    return (value - low) / (high - low) if high > low else 0.0


def _table(
    caption: str,
    cells: Sequence[Sequence[_Cell | None]],
    axes: tuple[Sequence[float], Sequence[float]],
    here: tuple[float, float],
) -> str:
    """A table whose cells set alpha (row) and beta (column) when clicked; the one nearest to ``here`` is framed."""
    alphas, betas = axes
    there = [(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell is not None]
    nearest = min(there, key=lambda ij: abs(alphas[ij[0]] - here[0]) + abs(betas[ij[1]] - here[1]), default=None)
    head = "".join(f"<th scope='col'>{beta:.1f}</th>" for beta in betas)
    body = ""
    for i, (alpha, row) in enumerate(zip(alphas, cells, strict=True)):
        line = ""
        for j, (beta, cell) in enumerate(zip(betas, row, strict=True)):
            if cell is None:
                line += "<td></td>"
                continue
            line += (
                f'<td><button type="button" data-alpha="{alpha}" data-beta="{beta}" '
                f'title="alpha {alpha:.1f}, beta {beta:.1f}: {escape(cell.tip)}" '
                f'class="{"ov-here" if (i, j) == nearest else ""}" style="background:{cell.color};'
                f'color:{hex_color(text_color(_rgb(cell.color)))}">{escape(cell.text)}</button></td>'
            )
        body += f"<tr><th scope='row'>{alpha:.1f}</th>{line}</tr>"
    return (
        f'<table class="ov-grid"><caption>{caption}</caption><thead><tr><th>&alpha; \\ &beta;</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _duration(step: Step) -> str:
    return f"{step.milliseconds:.0f} ms" if step.milliseconds >= 9.5 else f"{step.milliseconds:.1f} ms"


def _rgb(color: str) -> Color:
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def _mix(share: float) -> str:
    low, high = map(_rgb, _RAMP)
    return "#{:02x}{:02x}{:02x}".format(*(round(a + (b - a) * share) for a, b in zip(low, high, strict=True)))


def _bars(reading: ClassReading) -> str:
    rows = "".join(
        f'<div class="ov-bar"><i class="ov-{name}" style="width:{100 * value:.1f}%"></i><span>{value:.3f}</span></div>'
        for name, value in (
            ("in", reading.in_vocabulary),
            ("out", reading.out_of_vocabulary),
            ("fused", reading.fused),
        )
    )
    seen = "seen" if reading.seen else "unseen"
    synonym = f"as “<bdi>{escape(reading.name)}</bdi>”, " if reading.name != reading.label else ""
    return (
        f'<div class="ov-who"><bdi>{escape(reading.label)}</bdi><small>{synonym}{seen}, weight {reading.exponent:.2f}'
        f"</small></div><div>{rows}</div>"
    )


def _facts(found: Inspection, prompt: str) -> str:
    explained = found.explained
    facts = {
        "p(void)": f"{found.void:.2f}",
        "mask confidence": f"{explained.mask_confidence:.2f}",
        "mask here": f"{explained.mask_probability:.2f}",
        "proposal": f"#{explained.proposal}",
        "nearest prompt": f"“<bdi>{escape(prompt)}</bdi>”",
        "pixel": f"{found.x}, {found.y}",
    }
    if found.segment is not None:
        facts["area"] = f"{found.segment.area:,} pixels"
    else:
        facts["why"] = escape(explained.verdict)
    return "".join(f"<span>{name} <b>{value}</b></span>" for name, value in facts.items())


def _rival(contender: Contender) -> str:
    return (
        f"<li>#{contender.proposal} <bdi>{escape(contender.label)}</bdi> {contender.score:.2f}, mask here "
        f"{contender.mask_probability:.2f}: {escape(contender.verdict)}</li>"
    )
