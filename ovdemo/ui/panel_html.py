"""A grid of feature panels as HTML: stable places, a caption under each, sentences where there is nothing to show."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from html import escape

import cv2
import numpy as np

from ovdemo.display import picture_address, shrink
from ovdemo.features import ClusterMap, PanelRecipe, Upsampling, display_size, find_source
from ovdemo.features.maps import Size
from ovdemo.images import Picture
from ovdemo.panels import CAPTIONS, Grid, Heat, Lens, LensKind, View

_SIDE = 480  # pixels, of a panel's longer side
_FULL = '<path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4"/>'
_SAVE = '<path d="M8 2v8M4.5 7 8 10.5 11.5 7M2 13.5h12"/>'


class Pending(Enum):
    """What a panel says that is still to come."""

    RUNNING = auto()
    WAITING = auto()


Content = View | str | Pending
"""What a place of the grid shows: features through a lens, or the sentence why there are none, or that they come."""


@dataclass(frozen=True)
class Drawing:
    """How panels are drawn.

    Attributes:
        size: (height, width) of the picture, in pixels.
        lens: that they were looked at with.
        upsampling: of cells.
    """

    size: Size
    lens: Lens
    upsampling: Upsampling


def photo_address(picture: Picture) -> str:
    """What panels lie over, as a data address."""
    return picture_address(shrink(picture.pixels, _SIDE, cv2.INTER_AREA))


def panel_grid(grid: Grid, contents: Mapping[PanelRecipe, Content], drawing: Drawing) -> str:
    """All panels of a grid; ``contents`` has one for each of its places."""
    head = "".join(f'<div class="ov-column">{escape(label)}</div>' for label in grid.columns)
    rows = "".join(_row(label, row, contents, drawing) for label, row in grid.rows)
    shown = sum(isinstance(content, View) for content in contents.values())
    height, width = drawing.size
    return (
        f'<div class="ov-panels" style="--ov-columns:{len(grid.columns)};--ov-ratio:{width}/{height}" '
        f'data-lens="{drawing.lens.kind}" data-width="{width}" data-height="{height}" data-panels="{len(grid.panels)}" '
        f'data-shown="{shown}">{_about(grid, drawing.lens.kind)}{head}{rows}</div>{_scale(contents)}'
    )


def nothing(sentence: str) -> str:
    """In the place of the grid."""
    return f'<p class="ov-lead">{escape(sentence)}</p>'


def _about(grid: Grid, kind: LensKind) -> str:
    """What to look for. The papers' captions are about clusters."""
    title = f"<b>{escape(grid.title)}</b><p>{escape(grid.caption)}</p>" if grid.title else ""
    lens = "" if grid.title and kind == "k-means" else f"<p>{escape(CAPTIONS[kind])}</p>"
    return f'<div class="ov-rowname ov-about">{title}{lens}</div>'


def _row(label: str, row: tuple[PanelRecipe, ...], contents: Mapping[PanelRecipe, Content], drawing: Drawing) -> str:
    name = f'<div class="ov-rowname">{escape(label)}</div>'
    sentences = {content if isinstance(content := contents[panel], str) else None for panel in row}
    if len(sentences) == 1 and (sentence := sentences.pop()) is not None:
        return f'{name}<div class="ov-refused ov-wide">{escape(sentence)}</div>'
    return name + "".join(_panel(panel, contents[panel], drawing) for panel in row)


def _panel(panel: PanelRecipe, content: Content, drawing: Drawing) -> str:
    place = f"{find_source(panel.source).title}, {panel.layer}, at {panel.size} px"
    if isinstance(content, Pending):
        return _pending(content, place)
    if isinstance(content, str):
        return f'<div class="ov-refused">{escape(content)}</div>'
    return _figure(panel, content, place, drawing)


def _pending(content: Pending, place: str) -> str:
    """The script of the panels lets a running bar follow a download."""
    running = content is Pending.RUNNING
    return (
        f'<div class="ov-waiting"><progress aria-label="{escape(place)}" {"data-running" if running else "value=0"}>'
        f"</progress><span>{'reading …' if running else 'waiting'}</span></div>"
    )


def _figure(panel: PanelRecipe, view: View, place: str, drawing: Drawing) -> str:
    about = f"{_what(view, drawing.lens)} of {place}"
    drawn = view.draw(display_size(drawing.size, _SIDE), drawing.upsampling)
    exact = isinstance(view.content, ClusterMap) or drawing.upsampling == "nearest"
    address = (
        f"data:image/png;base64,{base64.b64encode(png(drawn)).decode('ascii')}" if exact else picture_address(drawn)
    )
    file = f"{panel.source}-{panel.layer}-{panel.size}px-{drawing.lens.kind}.png"
    colours = f' data-clusters="{len(np.unique(view.content.labels))}"' if isinstance(view.content, ClusterMap) else ""
    return (
        f'<figure class="ov-panel" data-file="{file}"{colours}><div class="ov-frame">'
        f'<img src="{address}" alt="{escape(about)}" title="{escape(about)}">{_mark(drawing)}</div>'
        f"<figcaption>{_caption(panel, view)}"
        f'<span class="ov-do">{_button("full", f"Full screen: {about}", _FULL)}'
        f"{_button('save', f'Download: {about}', _SAVE)}</span></figcaption></figure>"
    )


def _what(view: View, lens: Lens) -> str:
    match lens.kind:
        case "k-means":
            return f"{lens.k} clusters"
        case "PCA":
            return "Principal components"
        case "word":
            return f"Closeness to the word {lens.words.split(',')[0].strip()}"
        case "click":
            return "Closeness to the clicked pixel"


def _caption(panel: PanelRecipe, view: View) -> str:
    rows, columns = view.reading.features.grid
    facts = [f"{columns} × {rows} cells"]
    if view.roughness is not None:
        facts.append(
            f'<span title="share of neighbouring cells in different clusters">rough {view.roughness:.2f}</span>'
        )
    if view.agreement is not None:
        title = "F1 of cluster boundaries and the segmentation's boundaries, one cell of tolerance"
        facts.append(f'<span title="{escape(title)}">edges {view.agreement:.2f}</span>')
    facts.append(f'<span title="of the pass through the network">{view.reading.seconds:.2f} s</span>')
    return f'<b class="ov-size">{panel.size} px</b>' + "".join(f"<span>{fact}</span>" for fact in facts)


def _button(name: str, title: str, path: str) -> str:
    return (
        f'<button type="button" data-{name} title="{escape(title)}" aria-label="{escape(title)}">'
        '<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true" fill="none" stroke="currentColor" '
        f'stroke-width="1.6">{path}</svg></button>'
    )


def _mark(drawing: Drawing) -> str:
    """Where the pixel is that all others are compared with."""
    if drawing.lens.kind != "click":
        return ""
    height, width = drawing.size
    x, y = drawing.lens.point or (width / 2, height / 2)
    return f'<i class="ov-mark" style="left:{100 * x / width:.2f}%;top:{100 * y / height:.2f}%"></i>'


def _scale(contents: Mapping[PanelRecipe, Content]) -> str:
    """What dark and bright mean where panels are heat maps."""
    heat = next((v.content for v in contents.values() if isinstance(v, View) and isinstance(v.content, Heat)), None)
    if heat is None:
        return ""
    low, high = heat.limits
    return f'<div class="ov-heat"><span>{low:.2f}</span><i></i><span>{high:.2f}</span>one scale for all panels</div>'


def png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a file that keeps flat colours."""
    _, data = cv2.imencode(".png", pixels[..., ::-1])
    return data.tobytes()
