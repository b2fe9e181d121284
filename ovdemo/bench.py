"""Timing of every step on this machine: ``python -m ovdemo bench``.

The cost of a step depends on sizes, hardly on values, so random weights time as real ones do; only the merge depends
on how many proposals compete. Random weights make masks of noise, which overlap everywhere: the rows "merge" show that
worst case. The rows of the page have round masks of many sizes in their place, as trained weights make masks of things.

The rows "to new picture" are all that a page waits for once its picture is analysed, but for the network between:
text embeddings, scores, merge, the numbers beside the picture, and what the browser draws from.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ovdemo.default_model import chosen_model
from ovdemo.display import show
from ovdemo.ensemble import Fusion
from ovdemo.features import display_size
from ovdemo.fusion import Scores, score
from ovdemo.hierarchy import TreeMode, TreeSource, trace
from ovdemo.images import Picture, load_picture
from ovdemo.inspection import Case, formula_at
from ovdemo.loading import load_system
from ovdemo.merging import Merging, merge
from ovdemo.panels import FeatureDesk, Lens, Reading, View, look
from ovdemo.segmentation import Segmentation
from ovdemo.systems.base import Proposals, System
from ovdemo.systems.registry import find_variant
from ovdemo.vocabulary import (
    VILD_14,
    EmbeddingCache,
    EmbeddingSpace,
    TextEmbedder,
    TextEmbeddings,
    Vocabulary,
    VocabularyClass,
    load_preset,
    seen_classes,
)
from ovdemo.workbench import Analysis, Workbench, shipped_rows

_PRESETS = ("coco-panoptic", "lvis-1203")
_SAMPLE_NAMES = 8
_PAGE_CLASSES = (8, 133)  # what people type; a preset
_PANEL = 448  # pixels
_ALPHA_STEP = 0.618034  # its multiples, modulo 1, spread evenly and do not repeat

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one step, warm."""

    step: str
    median_ms: float
    p95_ms: float
    runs: int


@dataclass(frozen=True)
class Report:
    """What was measured, and on what."""

    model: str
    picture: str
    network_input: str
    device: str
    threads: int
    precision: str
    random_weights: bool
    timings: tuple[Timing, ...]
    peak_memory_mb: float
    peak_gpu_memory_mb: float | None

    def to_json(self) -> dict[str, object]:
        """Plain values for :func:`json.dumps`."""
        return asdict(self)

    def to_table(self) -> str:
        """Aligned text for a terminal."""
        weights = "random weights" if self.random_weights else "trained weights"
        lines = [
            f"{self.model} ({weights}, {self.precision}), picture {self.picture}, network input {self.network_input},"
            f" {self.device}, {self.threads} threads",
            f"{'step':<34}{'median ms':>12}{'p95 ms':>12}{'runs':>6}",
        ]
        lines += [f"{t.step:<34}{t.median_ms:>12.1f}{t.p95_ms:>12.1f}{t.runs:>6}" for t in self.timings]
        lines.append(f"peak memory {self.peak_memory_mb:.0f} MB")
        if self.peak_gpu_memory_mb is not None:
            lines.append(f"peak GPU memory {self.peak_gpu_memory_mb:.0f} MB")
        return "\n".join(lines)


def run_bench(
    model: str,
    *,
    height: int,
    width: int,
    device: str,
    precision: str = "float32",
    random_weights: bool = False,
    checkpoint: Path | None = None,
    repeats: int = 10,
    progress: Callable[[str], None] = lambda step: None,
) -> Report:
    """Time the steps of one variant on one made-up picture, and the answers to what a page asks about it.

    Heavy steps run ``repeats`` times after one warm-up, light ones three times as often.
    """
    system = load_system(
        model, device=device, precision=precision, random_weights=random_weights, checkpoint=checkpoint
    )
    cache = EmbeddingCache(None, shipped=shipped_rows(model))
    bench = _Bench(system, cache, repeats, progress)
    return bench.report(model, made_up_picture(height, width), precision, random_weights)


class _Bench:
    def __init__(self, system: System, cache: EmbeddingCache, repeats: int, progress: Callable[[str], None]) -> None:
        self.system, self.cache, self.repeats, self.progress = system, cache, repeats, progress
        self.workbench = Workbench(system, cache)
        self.timings: list[Timing] = []
        self._new = itertools.count()

    def report(self, model: str, picture: Picture, precision: str, random_weights: bool) -> Report:
        system = self.system
        features = self._time("encode", lambda: system.encode(picture, system.resize_rule))
        proposals: Proposals = self._time("propose", lambda: system.propose(features))
        names = load_preset("lvis-1203").classes[:_SAMPLE_NAMES]
        self._time("text encoding, a name", lambda: self._embed(Vocabulary(names)), per=_SAMPLE_NAMES)
        for preset in _PRESETS:
            vocabulary = load_preset(preset)
            text = self._random(vocabulary) if random_weights else self.workbench.embed(vocabulary)
            seen = torch.from_numpy(seen_classes(vocabulary, system.training_names))
            size = f"{len(vocabulary)} classes"

            def rescore(text: TextEmbeddings = text, seen: torch.Tensor = seen) -> Scores:
                with torch.inference_mode():
                    return score(proposals, text, seen, system.classifiers, system.fusion)

            scores = self._time(f"score, {size}", rescore, times=3)

            def remerge(scores: Scores = scores, vocabulary: Vocabulary = vocabulary) -> Segmentation:
                return merge(proposals, scores, vocabulary, Merging())

            self._time(f"merge, {size}", remerge, times=3)
        if random_weights:
            proposals = replace(proposals, mask_logits=round_masks(proposals.mask_logits))
        self._time_page(Analysis(self.workbench, picture, proposals, system.resize_rule, None))
        if find_variant(chosen_model(model)).embedded is not None:
            self._time_features(picture)
        cuda = system.device.type == "cuda"
        return Report(
            model=model,
            picture=f"{picture.pixels.shape[0]}x{picture.pixels.shape[1]}",
            network_input="x".join(map(str, proposals.geometry.padded)),
            device=torch.cuda.get_device_name(system.device) if cuda else "cpu",
            threads=torch.get_num_threads(),
            precision=precision,
            random_weights=random_weights,
            timings=tuple(self.timings),
            peak_memory_mb=_peak_memory_mb(),
            peak_gpu_memory_mb=torch.cuda.max_memory_allocated(system.device) / 1e6 if cuda else None,
        )

    def _time_page(self, analysis: Analysis) -> None:
        """No run may repeat the words and settings of another, as answers are remembered."""
        known, default = load_preset("lvis-1203").classes, self.system.fusion
        for size in _PAGE_CLASSES:
            words = Vocabulary(known[:size])
            pairs = itertools.combinations(known[size - 2 :], 2)
            slider = ((words, default.but(alpha=turn * _ALPHA_STEP % 1)) for turn in itertools.count(1))
            edits = ((Vocabulary((*known[: size - 2], *pair)), default) for pair in pairs)
            novel = (
                (Vocabulary((*known[: size - 1], _new_class(next(self._new)))), default) for _ in itertools.count()
            )
            asked = {"slider": slider, "known words": edits, "a new word": novel}
            for what, questions in asked.items():
                self._time_answers(f"{what} to new picture, {size} classes", analysis, questions)
        self._time_trees(analysis)
        case = analysis.answer(words)
        row, column = (side // 2 for side in case.segmentation.id_map.shape)
        self._time("inspect a pixel", lambda: analysis.inspect(case, column, row), times=3)
        self._time("uncertainty maps", lambda: analysis.uncertainty(case), times=3)
        self._time("sensitivity, 121 settings", lambda: analysis.sensitivity(case), times=3)
        self._time("suggest of 21,841 nouns", lambda: analysis.suggest(case), times=3)

    def _time_trees(self, analysis: Analysis) -> None:
        """From cached proposals and embeddings, each time for another answer, as trees are remembered with theirs.

        Answers are of instances: a hundred segments, more than a picture mostly has.
        """
        nouns = load_preset("imagenet-21k")
        if self.workbench.names_to_encode(nouns):  # that would take hours, and values do not matter here
            self._random(nouns)
        leaves, merging = load_preset("coco-panoptic"), Merging("instance")
        turns = range(1, 3 * self.repeats + 2)
        own = self.system.fusion
        cases = [analysis.answer(leaves, fusion=own.but(alpha=t * _ALPHA_STEP % 1), merging=merging) for t in turns]
        of_words, everything = TreeSource("words"), TreeSource("imagenet-21k")

        def climb(source: TreeSource, mode: TreeMode) -> Callable[[], object]:
            left = iter(cases)
            return lambda: trace(analysis.tree_scores(next(left), source, mode, mean_inner=True))

        self._time("tree of 133 words, roll-up", climb(of_words, "roll-up"), times=3)
        self._time("tree of 133 words, greedy", climb(of_words, "greedy"), times=3)
        self._time("ImageNet-21K's tree, roll-up", climb(everything, "roll-up"), times=3)

    def _time_features(self, picture: Picture) -> None:
        """Panels of the embedded model's features, and lenses on features that are remembered."""
        desk = FeatureDesk(lambda name: self.workbench)

        def fill() -> tuple[View | str, ...]:
            desk.forget(picture.digest)
            return look(desk, desk.read(picture, "embedded", ("res5",), _PANEL), Lens())

        self._time(f"panel of {_PANEL} px, encode and k-means", fill)
        layers = ("res3", "res5", "projected")
        readings = desk.read(picture, "embedded", layers, _PANEL)
        clusters = itertools.cycle(itertools.product(range(2, 21), (False, True)))
        points = itertools.count()
        words = [entry.label for entry in load_preset("coco-panoptic").classes]
        typed = itertools.cycle(words)
        lenses: dict[str, Callable[[], Lens]] = {
            "k-means": lambda: Lens("k-means", *next(clusters)),
            "PCA": lambda: Lens("PCA"),
            "word": lambda: Lens("word", words=next(typed)),
            "click": lambda: Lens("click", point=(next(points) % picture.width, 0)),
        }
        for name, lens in lenses.items():
            for reading in readings:
                if name == "word" and not reading.features.layer.projected:
                    continue

                def change(lens: Callable[[], Lens] = lens, reading: Reading = reading) -> None:
                    for view in look(desk, (reading,), lens()):
                        assert isinstance(view, View)
                        view.draw(display_size(reading.features.picture), "nearest")

                self._time(f"lens {name}, {reading.features.layer.name} at {_PANEL} px", change)

    def _time_answers(self, step: str, analysis: Analysis, questions: Iterator[tuple[Vocabulary, Fusion]]) -> None:
        self._time(step, lambda: _for_page(analysis, *next(questions)), times=3)

    def _time(self, step: str, work: Callable[[], _Result], *, times: int = 1, per: int = 1) -> _Result:
        self.progress(step)
        result = work()
        seconds = []
        for _ in range(self.repeats * times):
            start = time.perf_counter()
            work()
            if self.system.device.type == "cuda":
                torch.cuda.synchronize(self.system.device)
            seconds.append((time.perf_counter() - start) / per)
        median, p95 = np.percentile(seconds, (50, 95)) * 1000
        self.timings.append(Timing(step, float(median), float(p95), len(seconds)))
        return result

    def _embed(self, vocabulary: Vocabulary) -> TextEmbeddings:
        embedder = TextEmbedder(self.system.text_encoder, VILD_14, EmbeddingCache(None))
        return embedder.embed(vocabulary).to(self.system.device)

    def _random(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """Random embeddings of a vocabulary, which the workbench takes for its own from now on."""
        text, encoder = random_text(self.system, vocabulary), self.system.text_encoder
        space = EmbeddingSpace(encoder.tag, VILD_14.name, VILD_14.digest, encoder.width)
        self.cache.put(space, dict(zip(vocabulary.names, text.rows.cpu().numpy(), strict=True)))
        return text


def _for_page(analysis: Analysis, vocabulary: Vocabulary, fusion: Fusion) -> Case:
    """What a page asks for when its words or settings change, and what it is sent."""
    case = analysis.answer(vocabulary, fusion=fusion)
    analysis.answer(vocabulary)  # what the table of classes compares with
    shown = show(case.segmentation)
    largest = shown.segments[0] if shown.segments else None
    formula_at(case, largest.x if largest else 0, largest.y if largest else 0)
    json.dumps(shown.to_json())
    return case


def _new_class(turn: int) -> VocabularyClass:
    """A class that nobody has asked for yet."""
    return VocabularyClass((f"new word {turn}",), "thing")


def random_text(system: System, vocabulary: Vocabulary) -> TextEmbeddings:
    """Seeded unit vectors in place of a vocabulary's embeddings, on the system's device."""
    owner = torch.tensor([i for i, entry in enumerate(vocabulary.classes) for _ in entry.names])
    rows = torch.randn(len(owner), system.text_encoder.width, generator=torch.Generator().manual_seed(0))
    return TextEmbeddings(torch.nn.functional.normalize(rows, dim=-1), owner, len(vocabulary)).to(system.device)


def round_masks(like: torch.Tensor) -> torch.Tensor:
    """Seeded mask logits (N, h, w) of discs anywhere, of 3 to 40 % of the shorter side in radius, evenly by ratio."""
    count, height, width = like.shape
    random = torch.rand(3, count, 1, 1, generator=torch.Generator().manual_seed(0))
    radius = min(height, width) * 0.03 * (0.4 / 0.03) ** random[2]
    down, across = torch.arange(height)[:, None] - height * random[0], torch.arange(width) - width * random[1]
    return (10 * (1 - torch.hypot(down, across) / radius)).clamp(-10, 10).to(like)


def made_up_picture(height: int, width: int) -> Picture:
    """Smooth seeded noise: neither flat nor white, like a photograph's statistics."""
    noise = np.random.default_rng(0).integers(0, 256, (max(height // 16, 1), max(width // 16, 1), 3), dtype=np.uint8)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(noise).permute(2, 0, 1)[None].float(), size=(height, width), mode="bicubic"
    )
    return load_picture(smooth[0].permute(1, 2, 0).clamp(0, 255).byte().numpy(), "bench.png")


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
