"""The components that several tabs read, and how their values become a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, get_args

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from ovdemo.ensemble import Fusion, FusionKind
from ovdemo.inspection import Case
from ovdemo.merging import Merging
from ovdemo.recipes import Recipe
from ovdemo.segmentation import Mode
from ovdemo.ui.desk import Desk
from ovdemo.ui.visits import Shot
from ovdemo.vocabulary import preset_names, preset_title
from ovdemo.workbench import Analysis

_MERGING = Merging()
_SIDES = (192, 256, 320, 384, 512, 640, 800, 1024)  # pixels


@dataclass(frozen=True)
class Words:
    """What a person looks for."""

    text: gr.Textbox
    presets: gr.Dropdown

    @classmethod
    def build(cls) -> Words:
        """Lay the components out here."""
        text = gr.Textbox(
            label="Words",
            info="Classes by commas, synonyms by |, and :thing or :stuff where the guess is wrong",
            placeholder="cat|kitten, sofa, wall:stuff",
            lines=1,  # so that Enter asks; more lines still fit
            max_lines=6,
            elem_id="words",
        )
        presets = gr.Dropdown(
            [(preset_title(name), name) for name in preset_names()],
            multiselect=True,
            label="Add a list",
            value=[],
            elem_id="presets",
        )
        return cls(text, presets)


@dataclass(frozen=True)
class Inference:
    """How proposals become segments."""

    mode: gr.Radio
    object_threshold: gr.Slider
    overlap_threshold: gr.Slider
    short_side: gr.Dropdown

    @classmethod
    def build(cls) -> Inference:
        """Lay the components out here."""
        mode = gr.Radio(list(get_args(Mode)), value=_MERGING.mode, label="Mode", elem_id="mode")
        object_threshold = gr.Slider(
            0, 1, _MERGING.object_threshold, step=0.01, label="Object threshold", info="least score of a segment"
        )
        overlap_threshold = gr.Slider(
            0, 1, _MERGING.overlap_threshold, step=0.01, label="Overlap threshold", info="share of its mask it must win"
        )
        short_side = gr.Dropdown(
            sides(),
            value=0,
            label="Short side of the network's input",
            info="takes effect with Segment",
        )
        return cls(mode, object_threshold, overlap_threshold, short_side)


@dataclass(frozen=True)
class Ensemble:
    """How the two classifiers are combined."""

    kind: gr.Radio
    alpha: gr.Slider
    beta: gr.Slider
    rescue: gr.Slider

    @classmethod
    def build(cls, fusion: Fusion) -> Ensemble:
        """Lay the components out here, with the values of a fusion."""
        alpha = gr.Slider(
            0, 1, fusion.alpha, step=0.01, label="alpha", info="weight of CLIP for seen classes", elem_id="alpha"
        )
        beta = gr.Slider(
            0, 1, fusion.beta, step=0.01, label="beta", info="weight of CLIP for unseen classes", elem_id="beta"
        )
        rescue = gr.Slider(
            0,
            1,
            fusion.rescue,
            step=0.01,
            label="Objectness rescue w",
            info="p(void) becomes p(void) × (1 - w × greatest CLIP probability)",
            elem_id="rescue",
        )
        kind = gr.Radio(list(get_args(FusionKind)), value=fusion.kind, label="Fusion", elem_id="fusion")
        return cls(kind, alpha, beta, rescue)

    @property
    def parts(self) -> list[Component]:
        """The components, in the order of the fields of a fusion."""
        return [self.kind, self.alpha, self.beta, self.rescue]

    def choose(self, fusion: Fusion) -> dict[Block, Any]:
        """Give every component the value of a fusion."""
        return dict(zip(self.parts, astuple(fusion), strict=True))


@dataclass(frozen=True)
class Controls:
    """All components whose values make a recipe."""

    model: gr.Dropdown
    words: Words
    inference: Inference
    ensemble: Ensemble
    look: gr.State
    """How overlays are drawn, as :attr:`~ovdemo.recipes.Recipe.drawing` has it; None is the default."""

    @property
    def live(self) -> list[Component]:
        """Those that an answer from cached proposals follows, in the order of :func:`recipe_of`."""
        words, inference, ensemble = self.words, self.inference, self.ensemble
        return [
            words.text,
            words.presets,
            inference.mode,
            inference.object_threshold,
            inference.overlap_threshold,
            *ensemble.parts,
            self.look,
        ]


def sides(asked: int | None = None) -> list[tuple[str, int]]:
    """What the short side may be, in words and pixels: some usual ones, and the one that a recipe asks for."""
    return [("the model's own", 0), *((f"{side} px", side) for side in sorted({*_SIDES, asked or _SIDES[0]}))]


def recipe_of(shot: Shot, values: Sequence[Any]) -> Recipe:
    """The recipe of a page's picture and the values of :attr:`Controls.live`.

    Raises:
        UserError: a value is out of its range.
    """
    words, presets, mode, object_threshold, overlap_threshold, kind, alpha, beta, rescue, look = values
    return shot.recipe(
        words=words or "",
        presets=tuple(presets or ()),
        mode=mode,
        object_threshold=object_threshold,
        overlap_threshold=overlap_threshold,
        fusion_kind=kind,
        alpha=alpha,
        beta=beta,
        rescue=rescue,
        **(look or {}),
    )


def known(desk: Desk, shot: Shot | None, values: Sequence[Any]) -> tuple[Analysis, Case]:
    """The analysis and the answer that a page shows, mostly from caches.

    Raises:
        UserError: the page has segmented no picture yet or it was cleaned away, its words or settings cannot be used,
            or so many of the words are new that only Segment, which shows its progress, encodes them.
    """
    analysis = desk.reopen(shot)
    assert shot is not None
    recipe = recipe_of(shot, values)
    desk.check_quick(analysis, recipe.vocabulary, "press Segment")
    return analysis, desk.answer(analysis, recipe)
