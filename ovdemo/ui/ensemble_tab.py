"""The second tab: what alpha and beta do, on this picture and in the papers' tables."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ovdemo.ensemble import Fusion
from ovdemo.ui.controls import Ensemble
from ovdemo.ui.widgets import buttons_html, page_text, segment_viewer

CLASS_HEADERS = ("class", "training", "weight of CLIP", "area % by default", "area % now", "change")


@dataclass(frozen=True)
class EnsembleTab:
    """The components of the tab."""

    controls: Ensemble
    reset: gr.Button
    maths: gr.HTML
    viewer: gr.HTML
    classes: gr.Dataframe
    papers: gr.HTML
    measure: gr.Button
    grid: gr.HTML
    keep: gr.Button
    compare: gr.ImageSlider

    @classmethod
    def build(cls, fusion: Fusion) -> EnsembleTab:
        """Lay the tab out here, with the values of a fusion."""
        gr.HTML(page_text("ensemble"))
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                controls = Ensemble.build(fusion)
                reset = gr.Button("Back to the default", size="sm", elem_id="reset")
                maths = gr.HTML(elem_id="maths")
                papers = buttons_html(elem_id="papers")
            with gr.Column(scale=6, min_width=320):
                viewer = segment_viewer(elem_id="ensemble-viewer")
                classes = gr.Dataframe(
                    headers=list(CLASS_HEADERS), interactive=False, label="Classes", elem_id="classes"
                )
                with gr.Accordion("The whole grid for this picture", open=False):
                    measure = gr.Button("Compute all 121 settings", elem_id="measure")
                    grid = buttons_html(elem_id="grid")
                with gr.Accordion("Two settings side by side", open=False):
                    keep = gr.Button("Keep what is shown as A; B follows the sliders", elem_id="keep")
                    compare = gr.ImageSlider(label="A | B", interactive=False, elem_id="compare", max_height=500)
        return cls(controls, reset, maths, viewer, classes, papers, measure, grid, keep, compare)
