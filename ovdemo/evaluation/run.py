"""One pass over a data set: each picture through the system once, and into every measure that its labels support."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ovdemo.ensemble import Fusion
from ovdemo.errors import UserError
from ovdemo.evaluation.instances import InstancePrecision, InstanceResult, scored_masks
from ovdemo.evaluation.naming import NamingAccuracy, NamingResult, name_regions
from ovdemo.evaluation.panoptic import PanopticQuality, PanopticResult
from ovdemo.evaluation.recall import MaskRecall, RecallResult, best_overlaps
from ovdemo.evaluation.semantic import AreaIoU, SemanticIoU, SemanticResult
from ovdemo.evaluation.truth import GroundTruth, LabelledPictures, NamedRegion, SegmentMap
from ovdemo.fusion import Scores, score
from ovdemo.images import Picture
from ovdemo.merging import Merging, merge
from ovdemo.segmentation import Mode, Segmentation
from ovdemo.systems.base import Features, Proposals
from ovdemo.vocabulary import TextEmbeddings, Vocabulary, seen_classes
from ovdemo.workbench import Workbench

# Panoptic inference may leave a pixel without a class; semantic inference never does, however unlikely all of them are.
_AREA_MODES: tuple[Mode, ...] = ("panoptic", "semantic")


@dataclass(frozen=True)
class SetReport:
    """What was measured on one data set.

    Attributes:
        name: of the set.
        labels: of its classes, in the order of every ``class_index``.
        pictures: how many went through.
        skipped: one sentence for each picture that could not be read.
        panoptic, semantic, instances: ``None`` where no picture had the labels.
        areas: by inference, ``panoptic`` (what a person is shown) and ``semantic`` (some class everywhere).
        recall: by kind of region.
        naming: by kind of label.
    """

    name: str
    labels: tuple[str, ...]
    pictures: int
    skipped: tuple[str, ...]
    panoptic: PanopticResult | None
    semantic: SemanticResult | None
    areas: dict[Mode, SemanticResult]
    instances: InstanceResult | None
    recall: dict[str, RecallResult]
    naming: dict[str, NamingResult]


def evaluate_set(
    workbench: Workbench,
    data: LabelledPictures,
    *,
    fusion: Fusion | None = None,
    short_side: int | None = None,
    limit: int | None = None,
    advance: Callable[[str | None], None] = lambda problem: None,
) -> SetReport:
    """Measure a system on a data set, one picture in memory at a time.

    Args:
        workbench: the loaded system.
        data: pictures, labels and the words to ask for.
        fusion: of the two classifiers; default the system's own.
        short_side: of the network's input in pixels; default the system's own rule.
        limit: how many pictures, spread evenly over the set.
        advance: called after each picture, with a sentence if it was skipped and ``None`` if not.

    Raises:
        UserError: the short side is out of range.
    """
    run = _Run(workbench, data.vocabulary, fusion or workbench.system.fusion, short_side)
    skipped = []
    for index in spread(len(data), limit):
        problem = None
        try:
            picture, truth = data.load(index)
        except UserError as error:
            problem = str(error)
            skipped.append(problem)
        else:
            run.add(picture, truth)
        advance(problem)
    return run.measures.report(data, tuple(skipped))


def spread(total: int, limit: int | None) -> list[int]:
    """At most ``limit`` of ``range(total)``, evenly spread: sets are often sorted by class or by drive."""
    count = total if limit is None else min(limit, total)
    return [position * total // count for position in range(count)]


@dataclass
class _Measures:
    """The accumulators of one set; those that nothing was added to are left out of its report."""

    panoptic: PanopticQuality
    semantic: SemanticIoU
    areas: dict[Mode, AreaIoU]
    instances: InstancePrecision
    recall: defaultdict[str, MaskRecall] = field(default_factory=lambda: defaultdict(MaskRecall))
    naming: defaultdict[str, NamingAccuracy] = field(default_factory=lambda: defaultdict(NamingAccuracy))
    pictures: int = 0

    def report(self, data: LabelledPictures, skipped: tuple[str, ...]) -> SetReport:
        panoptic, semantic, instances = self.panoptic.result(), self.semantic.result(), self.instances.result()
        areas = {mode: measure.result() for mode, measure in self.areas.items()}
        return SetReport(
            name=data.name,
            labels=tuple(entry.label for entry in data.vocabulary.classes),
            pictures=self.pictures,
            skipped=skipped,
            panoptic=panoptic if panoptic.pictures else None,
            semantic=semantic if semantic.pictures else None,
            areas={mode: result for mode, result in areas.items() if result.pictures},
            instances=instances if instances.pictures else None,
            recall={name: recall.result() for name, recall in self.recall.items()},
            naming={name: naming.result() for name, naming in self.naming.items()},
        )


class _Run:
    def __init__(self, workbench: Workbench, vocabulary: Vocabulary, fusion: Fusion, short_side: int | None) -> None:
        self.system = workbench.system
        self.rule = workbench.resize_rule(short_side)
        self.vocabulary, self.fusion = vocabulary, fusion
        self.text = workbench.embed(vocabulary) if vocabulary.classes else None
        self.seen = torch.from_numpy(seen_classes(vocabulary, self.system.training_names))
        kinds = [entry.kind for entry in vocabulary.classes]
        self.measures = _Measures(
            PanopticQuality(kinds),
            SemanticIoU(len(kinds)),
            {mode: AreaIoU(len(kinds)) for mode in _AREA_MODES},
            InstancePrecision(kinds),
        )

    @torch.inference_mode()
    def add(self, picture: Picture, truth: GroundTruth) -> None:
        features = self.system.encode(picture, self.rule)
        proposals = self.system.propose(features, self.text)
        for name, ids in truth.regions.items():
            self.measures.recall[name].update(best_overlaps(proposals, ids))
        if self.text is not None:
            if any(labels is not None for labels in (truth.segments, truth.classes, truth.areas)):
                self._add_answers(proposals, self.text, truth)
            self._add_names(features, self.text, truth.named)
        self.measures.pictures += 1

    def _add_answers(self, proposals: Proposals, text: TextEmbeddings, truth: GroundTruth) -> None:
        scores = score(proposals, text, self.seen, self.system.classifiers, self.fusion)
        if truth.segments is not None:
            panoptic = self._merge(proposals, scores, "panoptic")
            self.measures.panoptic.update(truth.segments, SegmentMap.of(panoptic))
            instances = self._merge(proposals, scores, "instance")
            self.measures.instances.update(truth.segments, scored_masks(instances))
        if truth.classes is not None:
            self.measures.semantic.update(truth.classes, self._classes(proposals, scores, "semantic"))
        if truth.areas is not None:
            for mode, measure in self.measures.areas.items():
                measure.update(truth.areas, self._classes(proposals, scores, mode))

    def _classes(self, proposals: Proposals, scores: Scores, mode: Mode) -> np.ndarray:
        return SegmentMap.of(self._merge(proposals, scores, mode)).classes()

    def _merge(self, proposals: Proposals, scores: Scores, mode: Mode) -> Segmentation:
        return merge(proposals, scores, self.vocabulary, Merging(mode))

    def _add_names(self, features: Features, text: TextEmbeddings, named: tuple[NamedRegion, ...]) -> None:
        if not named:
            return
        given = name_regions(self.system, features, (region.mask() for region in named), text)
        truth = np.array([region.class_index for region in named])
        sources = np.array([region.source for region in named])
        for source in dict.fromkeys(sources.tolist()):
            chosen = sources == source
            self.measures.naming[source].update(truth[chosen], given[chosen])
