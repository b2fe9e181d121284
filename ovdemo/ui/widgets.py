"""Gradio components of our own: the picture that can be pointed at, and HTML whose buttons are events.

They are instances of ``gr.HTML`` with a script; for subclasses Gradio would write stub files into the source tree.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from ovdemo import paths

_ASSETS = paths.ASSETS / "ui"
_BUTTONS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act], [data-alpha]");
  if (button) trigger("act", { ...button.dataset });
});
"""


def segment_viewer(elem_id: str) -> gr.HTML:
    """A picture with its segments, drawn in the browser: hover, legend, opacity, original beside result.

    The value is :meth:`ovdemo.display.Shown.to_json` with ``picture``, the address of the photograph, and optionally
    ``note`` (a sentence), ``chosen`` (a segment id) and ``details`` (by segment id, pairs of name and probability to
    show under the pointer). The property ``layer`` is the address of a picture that is shown over the photograph, not
    the segments; ``look`` sets opacity, outlines and labels as :attr:`ovdemo.recipes.Recipe.drawing` has them. The
    event ``point`` carries ``x`` and ``y``, a pixel of the picture, and the event ``restyle`` what ``look`` holds.
    """
    return gr.HTML(
        html_template=page_text("viewer"),
        js_on_load=(_ASSETS / "viewer.js").read_text("utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
        layer="",
        look=None,
    )


def picture_input(**options: Any) -> gr.Image:
    """A picture that comes in as the path of the file that was uploaded.

    ``gr.Image`` would open it first: what is no picture would end in a traceback, and the rest be converted by other
    rules than :func:`ovdemo.images.load_picture` has.
    """
    image = gr.Image(type="filepath", **options)
    decode = image.preprocess

    def keep(payload: ImageData | None) -> Any:
        return payload.path if payload is not None and payload.path else decode(payload)

    setattr(image, "preprocess", keep)  # noqa: B010 - a subclass would be another component to Gradio
    return image


def feature_panels(elem_id: str) -> gr.HTML:
    """A grid of panels over one photograph, whose data address is the property ``photo``.

    The value is :func:`ovdemo.ui.panel_html.panel_grid`. The event ``point`` carries ``x`` and ``y``, a pixel of the
    picture that was clicked where the grid is looked at through the lens ``click``. The property ``done`` is how much
    of a download is there, 0 to 1, or -1 where nothing is downloaded.
    """
    script = (_ASSETS / "features.js").read_text("utf-8")
    return gr.HTML(js_on_load=script, apply_default_css=False, elem_id=elem_id, photo="")


def buttons_html(elem_id: str) -> gr.HTML:
    """HTML whose elements with ``data-act`` or ``data-alpha`` raise the event ``act`` with their data attributes."""
    return gr.HTML(js_on_load=_BUTTONS, apply_default_css=False, elem_id=elem_id)


def event_data(event: gr.EventData) -> dict[str, Any]:
    """What the script of such a component sent with an event."""
    data = event._data
    return data if isinstance(data, dict) else {}


def event_point(event: gr.EventData) -> tuple[int, int]:
    """The pixel (x, y) that an event ``point`` was about."""
    data = event_data(event)
    return int(data["x"]), int(data["y"])


def page_text(name: str) -> str:
    """A piece of the page that is nothing but text."""
    return (_ASSETS / f"{name}.html").read_text("utf-8")


def style() -> str:
    """The style sheet of the page."""
    return (_ASSETS / "style.css").read_text("utf-8")
