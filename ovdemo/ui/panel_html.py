"""A grid of feature panels as HTML: stable places, a caption under each, sentences where there is nothing to show."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from ovdemo.display import shrink
from ovdemo.features import ClusterMap, PanelRecipe, Upsampling, display_size, find_source
from ovdemo.features.maps import Size
from ovdemo.images import Picture
from ovdemo.panels import Grid, Heat, Lens, View

_SIDE = 480  # pixels, of a panel's longer side
_QUALITY = 90
_FULL = '<path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4"/>'
_SAVE = '<path d="M8 2v8M4.5 7 8 10.5 11.5 7M2 13.5h12"/>'


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
    return _address(shrink(picture.pixels, _SIDE, cv2.INTER_AREA), exact=False)


def panel_grid(grid: Grid, views: Mapping[PanelRecipe, View | str], drawing: Drawing) -> str:
    """All panels; a place without a view or a sentence is still to be filled."""
    head = "".join(f'<div class="ov-column">{escape(label)}</div>' for label in grid.columns)
    rows = "".join(_row(label, row, views, drawing) for label, row in grid.rows)
    shown = sum(isinstance(view, View) for view in views.values())
    height, width = drawing.size
    return (
        f'<div class="ov-panels" style="--ov-columns:{len(grid.columns)};--ov-ratio:{width}/{height}" '
        f'data-lens="{drawing.lens.kind}" data-width="{width}" data-height="{height}" data-panels="{len(grid.panels)}" '
        f'data-shown="{shown}">{_title(grid)}{head}{rows}</div>{_scale(views)}'
    )


def nothing(sentence: str) -> str:
    """In the place of the grid."""
    return f'<p class="ov-lead">{escape(sentence)}</p>'


def _title(grid: Grid) -> str:
    if not grid.title:
        return ""
    return f'<div class="ov-rowname ov-about"><b>{escape(grid.title)}</b><p>{escape(grid.caption)}</p></div>'


def _row(label: str, row: tuple[PanelRecipe, ...], views: Mapping[PanelRecipe, View | str], drawing: Drawing) -> str:
    name = f'<div class="ov-rowname">{escape(label)}</div>'
    sentences = {view if isinstance(view := views.get(panel), str) else None for panel in row}
    if len(sentences) == 1 and (sentence := sentences.pop()) is not None:
        return f'{name}<div class="ov-refused ov-wide">{escape(sentence)}</div>'
    return name + "".join(_panel(panel, views.get(panel), drawing) for panel in row)


def _panel(panel: PanelRecipe, view: View | str | None, drawing: Drawing) -> str:
    if view is None:
        return '<div class="ov-waiting" aria-hidden="true"></div>'
    if isinstance(view, str):
        return f'<div class="ov-refused">{escape(view)}</div>'
    about = f"{_what(view, drawing.lens)} of {find_source(panel.source).title}, {panel.layer}, at {panel.size} px"
    size = display_size(drawing.size, _SIDE)
    exact = isinstance(view.content, ClusterMap) or drawing.upsampling == "nearest"
    address = _address(view.draw(size, drawing.upsampling), exact=exact)
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


def _scale(views: Mapping[PanelRecipe, View | str]) -> str:
    """What dark and bright mean where panels are heat maps."""
    heat = next((v.content for v in views.values() if isinstance(v, View) and isinstance(v.content, Heat)), None)
    if heat is None:
        return ""
    low, high = heat.limits
    return f'<div class="ov-heat"><span>{low:.2f}</span><i></i><span>{high:.2f}</span>one scale for all panels</div>'


def encoded(pixels: np.ndarray, *, exact: bool) -> bytes:
    """(H, W, 3) uint8 as a file: flat colours as PNG, which keeps them, the rest as JPEG."""
    options = [] if exact else [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, data = cv2.imencode(".png" if exact else ".jpg", pixels[..., ::-1], options)
    return data.tobytes()


def _address(pixels: np.ndarray, *, exact: bool) -> str:
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(encoded(pixels, exact=exact)).decode("ascii")
