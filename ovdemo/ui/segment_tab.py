"""The first tab: a picture, words, and the labelled segments."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr

from ovdemo.examples import EXAMPLES
from ovdemo.ui.answers import LAYERS, TABLE_HEADERS
from ovdemo.ui.controls import Inference, Words
from ovdemo.ui.widgets import buttons_html, page_text, picture_input, segment_viewer


@dataclass(frozen=True)
class SegmentTab:
    """The components of the tab."""

    image: gr.Image
    gallery: gr.Gallery
    words: Words
    hints: gr.HTML
    things: gr.CheckboxGroup
    segment: gr.Button
    stop: gr.Button
    inference: Inference
    viewer: gr.HTML
    timing: gr.HTML
    layer: gr.Radio
    inspector: gr.HTML
    table: gr.Dataframe
    suggest: gr.Button
    suggestions: gr.HTML
    make_files: gr.Button
    files: gr.Files
    recipe: gr.UploadButton
    link: gr.Textbox

    @classmethod
    def build(cls) -> SegmentTab:
        """Lay the tab out here."""
        gr.HTML(page_text("segment"))
        gallery = _gallery()
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                image = picture_input(
                    sources=["upload", "clipboard", "webcam"],
                    label="Picture",
                    height=280,
                    buttons=["fullscreen"],
                    elem_id="picture",
                )
                words = Words.build()
                hints = buttons_html(elem_id="hints")
                with gr.Row():
                    segment = gr.Button("Segment", variant="primary", elem_id="segment", scale=3)
                    stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
                with gr.Accordion("Things and stuff", open=False):
                    things = gr.CheckboxGroup(
                        label="Ticked classes are counted one by one; the others are one region each", elem_id="things"
                    )
                with gr.Accordion("Settings", open=False):
                    inference = Inference.build()
            with gr.Column(scale=6, min_width=320):
                viewer = segment_viewer(elem_id="viewer")
                timing = gr.HTML(elem_id="timing")
                layer = gr.Radio(list(LAYERS), value=LAYERS[0], label="Show", elem_id="layer")
                inspector = gr.HTML(elem_id="inspector", container=True, padding=True)
                with gr.Accordion("Missing a word?", open=False):
                    suggest = gr.Button("Suggest words for what is unlabelled or doubtful", elem_id="suggest")
                    suggestions = buttons_html(elem_id="suggestions")
                with gr.Accordion("All segments as a table", open=False):
                    table = gr.Dataframe(headers=list(TABLE_HEADERS), interactive=False, elem_id="table")
                with gr.Accordion("Take it with you", open=False):
                    link = gr.Textbox(
                        label="Link to this result",
                        info="restores words and settings; pictures of your own stay with you",
                        buttons=["copy"],
                        interactive=False,
                        elem_id="link",
                    )
                    with gr.Row():
                        make_files = gr.Button("Make files", elem_id="make-files")
                        recipe = gr.UploadButton(
                            "Open a saved recipe", file_types=[".json"], elem_id="open-recipe", size="lg"
                        )
                    files = gr.Files(label="Files", visible=False, interactive=False, elem_id="files")
        return cls(
            image=image,
            gallery=gallery,
            words=words,
            hints=hints,
            things=things,
            segment=segment,
            stop=stop,
            inference=inference,
            viewer=viewer,
            timing=timing,
            layer=layer,
            inspector=inspector,
            table=table,
            suggest=suggest,
            suggestions=suggestions,
            make_files=make_files,
            files=files,
            recipe=recipe,
            link=link,
        )


def _gallery() -> gr.Gallery:
    """One row of photographs; a click takes one with the words that suit it."""
    available = [example for example in EXAMPLES if example.path()]
    gallery = gr.Gallery(
        [(str(example.path()), example.title) for example in available],
        columns=max(1, len(available)),
        height="auto",
        object_fit="cover",
        allow_preview=False,
        show_label=False,
        buttons=[],
        elem_id="gallery",
    )
    credits = " · ".join(f"{escape(example.title)}: {escape(example.credit)}" for example in available)
    gr.HTML(f'<details class="ov-small"><summary>Who took these photographs</summary>{credits}</details>')
    return gallery
