"""The endpoints for programs and agents: the same questions as the page's, with typed inputs and outputs.

A picture is segmented once and from then on named by its ``key``; nothing else is kept between calls.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import gradio as gr
import numpy as np
from gradio.events import api

from ovdemo.ensemble import Fusion, FusionKind
from ovdemo.errors import UserError
from ovdemo.export import download_files
from ovdemo.features import Contrast, display_size
from ovdemo.hierarchy import SourceKind, Stopping, TreeMode, TreeSource, trace, tree_document
from ovdemo.inspection import Case
from ovdemo.panels import LENSES, Lens, LensKind, bounded, look
from ovdemo.recipes import Recipe
from ovdemo.segmentation import Mode
from ovdemo.stopwatch import Stopwatch
from ovdemo.systems.registry import VARIANTS
from ovdemo.ui.answers import overlay_of
from ovdemo.ui.desk import Desk, sentences
from ovdemo.ui.events import BACKGROUND_QUEUE, FILES_QUEUE, HEAVY_QUEUE, LIVE_QUEUE
from ovdemo.ui.files import file_address, saved
from ovdemo.ui.panel_html import png
from ovdemo.ui.visits import Shot
from ovdemo.ui.widgets import picture_input
from ovdemo.workbench import Analysis

Json = dict[str, Any]

_CELLS = 96  # a side, that /features answers with at most


class Api:
    """Endpoints on a desk."""

    def __init__(self, desk: Desk) -> None:
        """Add the endpoints to the current ``gr.Blocks``."""
        self._desk = desk
        with gr.Column(visible=False):
            picture = picture_input(label="picture")
            words = gr.Textbox(label="words")
            model = gr.Textbox("auto", label="model")
            short_side = gr.Number(0, precision=0, label="short_side")
            presets = gr.JSON([], label="presets")
            overlay = gr.Image(label="overlay", format="png")
            result = gr.JSON(label="result")
            gr.Button().click(
                sentences(self.segment),
                [picture, words, model, short_side, presets],
                [overlay, result],
                api_name="segment",
                **HEAVY_QUEUE,
            )
        api(sentences(self.rescore), api_name="rescore", **LIVE_QUEUE)
        api(sentences(self.inspect), api_name="inspect", **LIVE_QUEUE)
        # A tree may have thousands of words that no answer has needed yet.
        api(sentences(self.hierarchy), api_name="hierarchy", **BACKGROUND_QUEUE)
        api(sentences(self.features), api_name="features", **HEAVY_QUEUE)
        api(sentences(self.export), api_name="export", **FILES_QUEUE)
        api(sentences(self.models), api_name="models", **LIVE_QUEUE)

    def segment(
        self, picture: str, words: str, model: str = "auto", short_side: int = 0, presets: list[str] | None = None
    ) -> tuple[Any, Json]:
        """Cut a picture into segments labelled with any words (open-vocabulary panoptic segmentation).

        Args:
            picture: the picture: JPEG, PNG, WebP, BMP, GIF or TIFF, at most 20 MB and 40 megapixels.
            words: classes separated by commas, synonyms by |, e.g. "cat|kitten, sofa, wall:stuff".
            model: name of a model from /models, or "auto".
            short_side: shorter side of the network's input in pixels, 64 to 2048; 0 for the model's own.
            presets: class lists to add to the words, such as ["coco-panoptic"]; the words may then be empty.

        Returns:
            The picture with its segments drawn on it; and a document with the key for further questions, the segments
            (id, label, kind, score, area in pixels, box as x, y, width, height, seen) and the timings in milliseconds.
        """
        if not picture:
            raise UserError("Give a picture.")
        watch = Stopwatch()
        shot, analysis = self._desk.open(picture, model or "auto", int(short_side or 0) or None, watch)
        recipe = _recipe(shot, analysis.workbench.system.fusion, words, presets)
        case = self._desk.answer(analysis, recipe, watch)
        with watch.step("draw"):
            overlay = overlay_of(analysis, case, recipe)
        return overlay, self._document(self._desk.key(shot), case, watch)

    def rescore(  # noqa: PLR0917 - an endpoint's inputs are positional for clients
        self,
        key: str,
        words: str,
        mode: Mode = "panoptic",
        fusion: FusionKind = "geometric",
        alpha: float | None = None,
        beta: float | None = None,
        rescue: float | None = None,
        object_threshold: float = 0.0,
        overlap_threshold: float = 0.8,
        presets: list[str] | None = None,
    ) -> Json:
        """Ask a segmented picture for other words or settings: milliseconds, no new look at the picture.

        Args:
            key: from /segment.
            words: as for /segment.
            mode: which inference.
            fusion: how the in-vocabulary and the out-of-vocabulary classifier are combined.
            alpha: weight of the out-of-vocabulary classifier (CLIP) for seen classes, 0 to 1; null for the model's own.
            beta: the same for unseen classes; likewise.
            rescue: objectness rescue, 0 to 1; likewise.
            object_threshold: least score of a segment, 0 to 1.
            overlap_threshold: least share of its mask that a panoptic segment must win, 0 to 1.
            presets: as for /segment.

        Returns:
            As the document of /segment.
        """
        watch = Stopwatch()
        analysis, recipe = self._recall(
            key,
            words,
            presets,
            watch,
            mode=mode,
            fusion_kind=fusion,
            alpha=alpha,
            beta=beta,
            rescue=rescue,
            object_threshold=object_threshold,
            overlap_threshold=overlap_threshold,
        )
        return self._document(key, self._desk.answer(analysis, recipe, watch), watch)

    def inspect(  # noqa: PLR0917
        self,
        key: str,
        words: str,
        x: int,
        y: int,
        mode: Mode = "panoptic",
        fusion: FusionKind = "geometric",
        alpha: float | None = None,
        beta: float | None = None,
        rescue: float | None = None,
        object_threshold: float = 0.0,
        overlap_threshold: float = 0.8,
        presets: list[str] | None = None,
    ) -> Json:
        """Say why a pixel is labelled as it is: both classifiers' probabilities, p(void), the proposals set aside.

        Args:
            key: from /segment.
            words: as for /segment.
            x: column of the pixel, from 0.
            y: row of the pixel, from 0.
            mode: which inference; this and the following as for /rescore.
            fusion: how the in-vocabulary and the out-of-vocabulary classifier are combined.
            alpha: weight of the out-of-vocabulary classifier (CLIP) for seen classes, 0 to 1; null for the model's own.
            beta: the same for unseen classes; likewise.
            rescue: objectness rescue, 0 to 1; likewise.
            object_threshold: least score of a segment, 0 to 1.
            overlap_threshold: least share of its mask that a panoptic segment must win, 0 to 1.
            presets: as for /segment.

        Returns:
            The segment, the five best classes, the explained proposal, the runners-up and the numbers of the formula.
        """
        analysis, recipe = self._recall(
            key,
            words,
            presets,
            mode=mode,
            fusion_kind=fusion,
            alpha=alpha,
            beta=beta,
            rescue=rescue,
            object_threshold=object_threshold,
            overlap_threshold=overlap_threshold,
        )
        found, prompt = analysis.inspect(self._desk.answer(analysis, recipe), int(x), int(y))
        return {**dataclasses.asdict(found), "prompt": prompt}

    def hierarchy(  # noqa: PLR0917
        self,
        key: str,
        words: str,
        source: SourceKind = "words",
        text: str = "",
        mode: TreeMode = "roll-up",
        threshold: float = 0.5,
        margin: float = 0.0,
        inner_means: bool = True,
        fusion: FusionKind = "geometric",
        alpha: float | None = None,
        beta: float | None = None,
        presets: list[str] | None = None,
    ) -> Json:
        """Place every segment in a category tree, from coarse to fine, with a probability at every step.

        Args:
            key: from /segment.
            words: as for /segment.
            source: "words": the words' own WordNet tree; "text": the indented tree in text; "imagenet-21k": its
                nouns; "nouns under": all kinds of the noun in text.
            text: indented text or a noun, for the sources that need one.
            mode: "roll-up" sums the leaves up the tree, "greedy" descends as OPSNet does.
            threshold: probability under which a path is no longer sure, 0 to 1.
            margin: lead over the next sibling under which it is no longer sure, 0 to 1.
            inner_means: whether "greedy" knows an inner node by the mean of what is below it; false for its own name
                and gloss.
            fusion: how the two classifiers are combined, in the picture and in the tree.
            alpha: weight of the out-of-vocabulary classifier (CLIP) for seen classes, 0 to 1; null for the model's own.
            beta: the same for unseen classes; likewise.
            presets: as for /segment.

        Returns:
            The size of the tree, and for each segment its id, label and path.
        """
        analysis, recipe = self._recall(key, words, presets, fusion_kind=fusion, alpha=alpha, beta=beta)
        case = self._desk.answer(analysis, recipe)
        if mode not in get_args(TreeMode):
            raise UserError(f"mode must be one of {', '.join(get_args(TreeMode))}; change it and try again.")
        stopping = Stopping(share(threshold, "threshold"), share(margin, "margin"))
        scores = analysis.tree_scores(case, TreeSource(source, text or ""), mode, mean_inner=inner_means)
        return tree_document(scores.tree, case.segmentation.segments, trace(scores), stopping)

    def features(  # noqa: PLR0917
        self,
        key: str,
        source: str = "embedded",
        layer: str = "res5",
        size: int = 448,
        k: int = 8,
        lens: LensKind = "k-means",
        words: str = "",
        x: int = -1,
        y: int = -1,
        median: bool = False,
        foreground: bool = False,
        contrast: Contrast = "none",
    ) -> Json:
        """Show what a frozen backbone sees: clusters, principal components or similarities of its features.

        Args:
            key: from /segment.
            source: name of a network whose weights are on this machine; a wrong name is answered with all names.
            layer: of the network; likewise.
            size: side in pixels of the square with as many pixels as the network's input, 64 to 1120.
            k: number of clusters, 2 to 20.
            lens: "k-means"; "PCA": three components as red, green and blue, 0 to 1; "word": likeness to the first of
                the words, for a final map; "click": cosine to the pixel x, y.
            words: as for /segment; with "k-means", boundaries are compared with those of its segments.
            x: column of the pixel, from 0; -1, with y, for the middle.
            y: row of the pixel.
            median: with "k-means", whether the map of clusters goes through a median filter of 5 x 5 cells.
            foreground: with "PCA", whether the background is left out; it is 0 0 0 then.
            contrast: with "word", "none" for the cosine, "others" for what it is above the mean of the other words',
                or "softmax" for the word's share among all words, 0 to 1.

        Returns:
            The size of the grid of cells; the cells, row by row, at most 96 a side, at even distances where there are
            more; with "k-means" the roughness (share of 4-neighbours in different clusters) and the agreement (F1) of
            boundaries; seconds of the pass through the network; and the address of a PNG.
        """
        if lens not in LENSES:
            raise UserError(f"lens must be one of {', '.join(LENSES)}; change it and try again.")
        if contrast not in get_args(Contrast):
            raise UserError(f"contrast must be one of {', '.join(get_args(Contrast))}; change it and try again.")
        analysis, recipe = self._recall(key, words)
        desk, point = self._desk.features, None if x == y == -1 else (int(x), int(y))
        [reading] = desk.read(analysis.picture, source, (layer,), int(size))
        id_map = self._desk.answer(analysis, recipe).segmentation.id_map if words and lens == "k-means" else None
        through = Lens(
            lens,
            int(k),
            median=bool(median),
            foreground=bool(foreground),
            words=words,
            contrast=contrast,
            point=point,
        )
        [view] = look(desk, (reading,), through, id_map)
        if isinstance(view, str):
            raise UserError(view)
        drawn = view.draw(display_size(reading.features.picture), "nearest")
        [file] = saved([("features.png", png(drawn))])
        rows, columns = reading.features.grid
        cells = bounded(view.cells, _CELLS)
        return {
            "rows": rows,
            "columns": columns,
            "cells": (cells if cells.dtype == np.uint8 else cells.astype(float).round(4)).tolist(),
            "roughness": view.roughness,
            "agreement": view.agreement,
            "seconds": reading.seconds,
            "picture": _address(file),
        }

    def export(  # noqa: PLR0917
        self,
        key: str,
        words: str,
        mode: Mode = "panoptic",
        fusion: FusionKind = "geometric",
        alpha: float | None = None,
        beta: float | None = None,
        rescue: float | None = None,
        object_threshold: float = 0.0,
        overlap_threshold: float = 0.8,
        presets: list[str] | None = None,
    ) -> list[str]:
        """Write the result's files: COCO panoptic zip, overlay, id map, cut-outs, CSV and recipe.

        Args:
            key: from /segment.
            words: as for /segment.
            mode: which inference; this and the following as for /rescore.
            fusion: how the in-vocabulary and the out-of-vocabulary classifier are combined.
            alpha: weight of the out-of-vocabulary classifier (CLIP) for seen classes, 0 to 1; null for the model's own.
            beta: the same for unseen classes; likewise.
            rescue: objectness rescue, 0 to 1; likewise.
            object_threshold: least score of a segment, 0 to 1.
            overlap_threshold: least share of its mask that a panoptic segment must win, 0 to 1.
            presets: as for /segment.

        Returns:
            Addresses of the files on this server.
        """
        analysis, recipe = self._recall(
            key,
            words,
            presets,
            mode=mode,
            fusion_kind=fusion,
            alpha=alpha,
            beta=beta,
            rescue=rescue,
            object_threshold=object_threshold,
            overlap_threshold=overlap_threshold,
        )
        case = self._desk.answer(analysis, recipe)
        return list(map(_address, saved(download_files(analysis.picture, case.segmentation, recipe))))

    def models(self) -> list[Json]:
        """List the models: name, title, state of the weights, licence, published numbers and size in MB."""
        rows = []
        for name, variant in VARIANTS.items():
            state = self._desk.models.state(name)
            rows.append(
                {
                    "name": name,
                    "title": variant.title,
                    "state": state.kind,
                    "remedy": state.remedy,
                    "licence": variant.licence,
                    "published": dataclasses.asdict(variant.published),
                    "megabytes": variant.trained_megabytes + variant.clip_megabytes,
                }
            )
        return rows

    def _recall(
        self, key: str, words: str, presets: list[str] | None = None, watch: Stopwatch | None = None, **settings: Any
    ) -> tuple[Analysis, Recipe]:
        shot = self._desk.find(key)
        analysis = self._desk.reopen(shot, watch)
        recipe = _recipe(shot, analysis.workbench.system.fusion, words, presets, **settings)
        if recipe.words or recipe.presets:
            self._desk.check_quick(analysis, recipe.vocabulary, "call /segment with them")
        return analysis, recipe

    def _document(self, key: str, case: Case, watch: Stopwatch) -> Json:
        segmentation = case.segmentation
        return {
            "key": key,
            "width": segmentation.width,
            "height": segmentation.height,
            "mode": segmentation.mode,
            "notes": list(case.vocabulary.notes),
            "segments": [
                {
                    "id": s.id,
                    "label": s.label,
                    "kind": s.kind,
                    "score": s.score,
                    "area": s.area,
                    "box": list(s.box),
                    "seen": s.seen,
                }
                for s in segmentation.segments
            ],
            "milliseconds": {step.name: round(step.milliseconds, 2) for step in watch.steps if not step.cached},
            "cached": [step.name for step in watch.steps if step.cached],
        }


def _recipe(
    shot: Shot,
    own: Fusion,
    words: str,
    presets: list[str] | None,
    *,
    fusion_kind: FusionKind = "geometric",
    alpha: float | None = None,
    beta: float | None = None,
    rescue: float | None = None,
    **settings: Any,
) -> Recipe:
    """The recipe of a question; alpha, beta and rescue are the model's own where it leaves them out."""
    fusion = own.but(kind=fusion_kind, alpha=alpha, beta=beta, rescue=rescue)
    return shot.recipe(
        words=words or "",
        presets=tuple(presets or ()),
        fusion_kind=fusion.kind,
        alpha=fusion.alpha,
        beta=fusion.beta,
        rescue=fusion.rescue,
        **settings,
    )


def _address(file: str) -> str:
    return f"/{file_address(file)}"


def share(value: float, name: str) -> float:
    """A number from 0 to 1.

    Raises:
        UserError: it is not.
    """
    if not 0 <= value <= 1:  # not-a-number compares false
        raise UserError(f"{name} must be a number from 0 to 1; change it and try again.")
    return float(value)
