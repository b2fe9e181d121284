"""Training of a small FC-CLIP's decoders on a frozen tower (Yu et al. 2023, section 4.1, "Training Strategy").

The recipe is Mask2Former's with six changes for a short schedule on partly labelled, thin data:

- Regions without a name supervise masks only.
- A query that nothing was matched to is told "no object" only where a picture's labels are complete. Elsewhere it is
  told which of the words it cannot be: those whose every instance is marked.
- The first decoder states match each region to several queries (Jia et al. 2023, H-DETR, its hybrid layer scheme), so
  that more of them learn from a picture; the last ones match one to one, as inference needs it.
- Points of the mask features are named too, through a layer that training alone has. Queries learn late what pixels
  should have told apart early.
- Photographs of one thing are named under their true masks: scenes alone would show too few kinds of things.
- Class embeddings are also pulled to what the frozen CLIP makes of their region (Gu et al. 2022, ViLD, section 3.3).
  So regions without a name teach the head to name, and it starts from all that CLIP knows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdemo.nn.pixel_decoder import PixelFeatures
from ovdemo.systems.fcclip import FCCLIPNetwork
from ovdemo.training.concepts import NAMELESS
from ovdemo.training.loop import averaging_decay, learning_rate
from ovdemo.training.losses import (
    VOID_WEIGHT,
    bce_loss,
    class_logits,
    class_loss,
    dice_loss,
    lies_unlabelled,
    sample_features,
    sample_labels,
    sample_logits,
    uncertain_points,
)
from ovdemo.training.matcher import BCE_WEIGHT, CLASS_WEIGHT, DICE_WEIGHT, assign, matching_cost
from ovdemo.training.optimiser import MatrixOptimiser
from ovdemo.training.precision import mixed_precision
from ovdemo.training.prefetch import Prefetched
from ovdemo.training.regions import embed_regions
from ovdemo.training.scenes import Scene, tower_input
from ovdemo.training.words import StepWords, Words

Draw = Callable[[np.random.Generator], Scene]

POINTS = 1024  # a quarter of the 64 x 64 cells of a mask; Mask2Former takes 12,544 of 65,536
POINTS_NAMED = 256  # of a picture
THINGS = 12  # photographs of one thing in a step
THING_SIDE = 128  # pixels
_NAMING_WEIGHT = 4.0  # of points and of photographs of one thing, beside the losses of seven decoder states
_DISTIL_WEIGHT = 2.0  # of one minus the cosine to CLIP's embedding, in each state
_SHARING_STATES, _SHARERS = 3, 3  # the first states, and how many queries a region has there
PEAK_RATE = 1.5e-3  # fifteen times FC-CLIP's: the decoders are small and start from nothing
WEIGHT_DECAY = 0.05


@dataclass(frozen=True, eq=False)
class Batch:
    """Scenes side by side.

    Attributes:
        pixels: (B, 3, S, S) float32, normalised for the tower.
        masks: (R, S, S) bool, the regions of all pictures one after the other.
        counts: number of regions of each picture.
        concepts: (R,) int64.
        labelled: (B, S / 4, S / 4) float, the labelled share of each cell of a mask.
        complete: of each picture, the concepts that nothing unmarked in it can be.
    """

    pixels: Tensor
    masks: Tensor
    counts: list[int]
    concepts: np.ndarray
    labelled: Tensor
    complete: list[frozenset[int]]

    def inside(self, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each picture's regions (R,), and whether points (B, P, 2), x and y in 0..1, lie in them: (R, P) float."""
        first = 0
        for picture, count in enumerate(self.counts):
            regions = torch.arange(first, first + count, device=points.device)
            yield regions, sample_labels(self.masks, regions, points[picture].expand(count, -1, -1))
            first += count


@dataclass(frozen=True, eq=False)
class Matches:
    """Which query shows which region, (N,) int64 each, over all pictures and decoder states.

    Attributes:
        picture: index in the batch.
        query: index among the queries of all states, ``state * Q + query``.
        region: index among the regions of the batch.
    """

    picture: Tensor
    query: Tensor
    region: Tensor


class SegmenterTrainer:
    """Trains pixel decoder, mask decoder, void embedding and temperature of a network whose tower stays as it is.

    The same seed and the same shares of the schedule give the same weights.

    Args:
        network: on its device; its tower is switched to evaluation and frozen.
        words: gives the vocabulary of a step.
        draw: gives one scene.
        draw_thing: gives a photograph of one thing, a scene with one named region.
        batch: scenes a step.
        seed: of scenes, words and points.
        peak_rate: greatest learning rate.
    """

    def __init__(
        self,
        network: FCCLIPNetwork,
        words: Words,
        draw: Draw,
        draw_thing: Draw,
        *,
        batch: int = 4,
        seed: int = 0,
        peak_rate: float = PEAK_RATE,
    ) -> None:
        self.network = network
        self._device = network.void_embedding.weight.device
        network.backbone.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._words, self._peak_rate = words, peak_rate
        self._batches = Prefetched(partial(_draw, draw, batch, draw_thing), seed)
        self._generator = torch.Generator().manual_seed(seed)
        features = network.sem_seg_head.pixel_decoder.mask_features.out_channels
        self._namer = nn.Linear(features, words.width).to(self._device)
        self._weights = {name: x for name, x in network.named_parameters() if x.requires_grad}
        self._average = {name: x.detach().clone() for name, x in self._weights.items()}
        self._optimiser = MatrixOptimiser(nn.ModuleList((network, self._namer)), WEIGHT_DECAY)
        self._states = len(network.sem_seg_head.predictor.transformer_ffn_layers) + 1
        self._steps = 0

    def step(self, share: float) -> dict[str, float]:
        """One optimiser step at progress ``share`` (0..1) of the schedule.

        Returns:
            ``total``, the sum over all decoder states, points and things, and unweighted the ``class``, ``bce``,
            ``dice`` and ``distilled`` of the last state, the ``points``, the ``things`` and the ``things distilled``.
        """
        (scenes, things), random = self._batches.next(share)
        batch, shown = collate(scenes, self._device), collate(things, self._device)
        losses = self.losses(batch, self._words.draw(batch.concepts, random))
        losses |= self._things_losses(shown, self._words.draw(shown.concepts, random), random)
        weighted = CLASS_WEIGHT * losses["class"] + BCE_WEIGHT * losses["bce"] + DICE_WEIGHT * losses["dice"]
        total = (weighted + _DISTIL_WEIGHT * losses["distilled"]).sum()
        total = total + _NAMING_WEIGHT * (losses["points"] + losses["things"] + losses["things distilled"]).sum()
        self._optimiser.step(total, learning_rate(self._peak_rate, share))
        self._follow()
        return {"total": total.item()} | {name: states[-1].item() for name, states in losses.items()}

    def losses(self, batch: Batch, words: StepWords) -> dict[str, Tensor]:
        """``class``, ``bce``, ``dice`` and ``distilled`` of every decoder state, (S,) each, and ``points`` (1,).

        All states are predicted, matched and compared at once, as if their queries were those of one long state.
        """
        head = self.network.sem_seg_head
        stages = self.stages(batch.pixels)
        pixels: PixelFeatures = head.pixel_decoder(stages)
        queries = torch.cat(head.predictor.decode(pixels), 1)  # (B, S * Q, C)
        with torch.no_grad():
            masks = head.predictor.predict_masks(queries, pixels.mask_features)
        embeddings = head.predictor.embed_classes(queries, pixels.mask_features, masks)
        logits = self._class_logits(embeddings, words)
        targets = words.target[batch.concepts].to(self._device)
        probabilities = logits.detach().softmax(-1)
        matches = self._match(probabilities, queries, pixels.mask_features, batch, targets)
        # Unmatched queries are void; a matched one is what its region is called.
        wanted = torch.full(masks.shape[:2], len(words.rows), device=self._device)
        wanted[lies_unlabelled(masks, batch.labelled)] = NAMELESS
        weights = torch.full_like(masks[..., 0, 0], VOID_WEIGHT)
        called = targets[matches.region]
        wanted[matches.picture, matches.query] = called
        weights[matches.picture, matches.query] = torch.where(called == len(words.rows), VOID_WEIGHT, 1.0)
        weights[matches.picture, matches.query] *= called != NAMELESS
        by_state = (self._states, -1)
        logits, wanted, weights = (x.unflatten(1, by_state) for x in (logits, wanted, weights))
        named = class_loss(logits, wanted, weights, denied_words(batch.complete, words).to(self._device))
        points = self._points_loss(pixels.mask_features, batch, words, targets)
        away = self._clip_distance(embeddings[matches.picture, matches.query], stages["res5"], batch, matches.region)
        of_matches = {"distilled": away} | self._mask_losses(queries, pixels.mask_features, batch, matches)
        state = F.one_hot(matches.query // (queries.shape[1] // self._states), self._states).float()  # (N, S)
        share = state / state.sum(0).clamp(min=1)
        return {"class": named, "points": points} | {name: each @ share for name, each in of_matches.items()}

    def _clip_distance(self, embeddings: Tensor, dense: Tensor, batch: Batch, region: Tensor) -> Tensor:
        """One minus the cosine of class embeddings (N, D) to the frozen CLIP's of their regions, (N,) in 0..2.

        CLIP pools res5 ``dense`` (B, C, h, w) under the true mask of each region.
        """
        with torch.no_grad():
            known = embed_regions(self.network.backbone, dense, batch.masks, batch.counts)
        return 1 - F.cosine_similarity(embeddings, known[region], dim=-1)

    def _points_loss(self, features: Tensor, batch: Batch, words: StepWords, targets: Tensor) -> Tensor:
        """Cross-entropy (1,) of mask features (B, C, h, w) at random points that lie in a named region.

        Where regions overlap, a point belongs to the smallest. Each region counts as the root of its points.
        """
        points = torch.rand(len(features), POINTS_NAMED, 2, generator=self._generator).to(self._device)
        region = owners(batch, points)  # (B, P)
        target = F.pad(targets, (0, 1), value=NAMELESS)[region]  # the last is that of points in no region
        named = (target != NAMELESS) & (target != len(words.rows))
        rows = F.normalize(self._namer(sample_features(features, points).transpose(1, 2)[named]), dim=-1)
        each = F.cross_entropy(self._scale() * rows @ words.rows.to(self._device).T, target[named], reduction="none")
        weights = torch.bincount(region[named], minlength=1)[region[named]] ** -0.5
        return ((each * weights).sum() / weights.sum().clamp(min=1e-6))[None]

    def _things_losses(self, batch: Batch, words: StepWords, random: np.random.Generator) -> dict[str, Tensor]:
        """``things``, the cross-entropy (1,) of photographs of one region each, from the pixels under its mask and a
        query before the first layer, and ``things distilled`` (1,).

        Far more things are so named than scenes can hold: the pixel decoder runs on small photographs, and no query.
        """
        predictor = self.network.sem_seg_head.predictor
        stages = self.stages(batch.pixels)
        features = self.network.sem_seg_head.pixel_decoder(stages).mask_features
        queries = predictor.decoder_norm(predictor.query_feat.weight)
        state = queries[torch.from_numpy(random.integers(len(queries), size=len(batch.masks)))][:, None]
        inside = F.interpolate(batch.masks[:, None].float(), features.shape[-2:], mode="area") - 0.5
        rows = predictor.embed_classes(state, features, inside)[:, 0]
        away = self._clip_distance(rows, stages["res5"], batch, torch.arange(len(rows), device=self._device))
        targets = words.target[batch.concepts].to(self._device)
        weights = torch.where(targets == len(words.rows), VOID_WEIGHT, 1.0)
        logits, targets, weights = (x[:, None, None] for x in (self._class_logits(rows, words), targets, weights))
        named = class_loss(logits, targets, weights, denied_words(batch.complete, words).to(self._device))
        return {"things": named, "things distilled": away.mean()[None]}

    def _class_logits(self, embeddings: Tensor, words: StepWords) -> Tensor:
        """Of class embeddings (..., D) to the words and void, (..., K + 1)."""
        void = self.network.void_embedding.weight[0]
        return class_logits(embeddings, words.rows.to(self._device), void, self._scale())

    def _scale(self) -> Tensor:
        scale: Tensor = self.network.sem_seg_head.predictor.logit_scale.exp().clamp(max=100)
        return scale

    @torch.no_grad()
    def _match(
        self, probabilities: Tensor, queries: Tensor, features: Tensor, batch: Batch, targets: Tensor
    ) -> Matches:
        """Match every state of every picture on its own, on random points that its queries share.

        Bilinear sampling and the inner product commute, so features are sampled once and not each query's mask.
        """
        points = torch.rand(len(queries), POINTS, 2, generator=self._generator).to(self._device)
        sampled = sample_features(features, points)[..., None]
        logits = self.network.sem_seg_head.predictor.predict_masks(queries, sampled)[..., 0]
        found = []
        for picture, (regions, labels) in enumerate(batch.inside(points)):
            cost = matching_cost(probabilities[picture], logits[picture], targets[regions], labels)
            for state, part in enumerate(cost.chunk(self._states)):
                query, region = assign(part.repeat(1, _SHARERS) if state < _SHARING_STATES else part)
                region = regions[region % max(len(regions), 1)].cpu()
                found.append(torch.stack((torch.full_like(query, picture), query + state * len(part), region)))
        return Matches(*torch.cat(found, 1).to(self._device))

    def _mask_losses(self, queries: Tensor, features: Tensor, batch: Batch, matches: Matches) -> dict[str, Tensor]:
        """``bce`` and ``dice`` of matched masks, (N,) each.

        Only matched masks are predicted again, with gradients: one in ten.
        """
        predict = self.network.sem_seg_head.predictor.predict_masks
        masks = torch.cat(
            [
                predict(queries[picture, matches.query[matches.picture == picture]][None], features[picture][None])[0]
                for picture in range(len(queries))
            ]
        )
        points = uncertain_points(masks, POINTS, self._generator)
        logits, labels = sample_logits(masks, points), sample_labels(batch.masks, matches.region, points)
        return {"bce": bce_loss(logits, labels), "dice": dice_loss(logits, labels)}

    @torch.no_grad()
    def stages(self, pixels: Tensor) -> dict[str, Tensor]:
        """The frozen tower's stages of normalised pixels (B, 3, S, S), float32."""
        image = pixels.contiguous(memory_format=torch.channels_last)
        with mixed_precision(self._device):
            stages = self.network.backbone.stages(image)
        return {name: stage.float() for name, stage in stages.items()}

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, for ``torch.save`` and ``torch.load(weights_only=True)``."""
        return {
            "weights": {name: x.detach().clone() for name, x in self._weights.items()},
            "namer": copy.deepcopy(self._namer.state_dict()),
            "average": {name: x.clone() for name, x in self._average.items()},
            "optimiser": copy.deepcopy(self._optimiser.state()),
            "steps": self._steps,
            "batches": self._batches.made,
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state` of a trainer made with the same arguments."""
        with torch.no_grad():
            for name, x in self._weights.items():
                x.copy_(state["weights"][name])
                self._average[name].copy_(state["average"][name])
        self._namer.load_state_dict(state["namer"])
        self._optimiser.restore(copy.deepcopy(state["optimiser"]))
        self._steps = state["steps"]
        self._batches.skip_to(state["batches"])
        self._generator.set_state(state["generator"].cpu())

    def result(self) -> dict[str, Tensor]:
        """The averaged weights under the network's own names; the frozen tower's are not among them."""
        return {name: x.clone() for name, x in self._average.items()}

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights."""
        self._steps += 1
        for name, x in self._weights.items():
            self._average[name].lerp_(x, 1 - averaging_decay(self._steps))


def _draw(
    scene: Draw, batch: int, thing: Draw, random: np.random.Generator, share: float
) -> tuple[list[Scene], list[Scene]]:
    return [scene(random) for _ in range(batch)], [thing(random) for _ in range(THINGS)]


def denied_words(complete: Sequence[frozenset[int]], words: StepWords) -> Tensor:
    """Words that nothing unmarked in each picture can be, (B, K + 1) bool, void last and never denied."""
    denied = torch.zeros(len(complete), len(words.rows) + 1, dtype=torch.bool)
    for picture, concepts in enumerate(complete):
        places = words.target[list(concepts)]
        denied[picture, places[(places != NAMELESS) & (places != len(words.rows))]] = True
    return denied


def owners(batch: Batch, points: Tensor) -> Tensor:
    """The smallest region of the batch that holds each point, or -1: points (B, P, 2) as (x, y) in 0..1 -> (B, P)."""
    areas = batch.masks.sum((-2, -1))
    found = []
    for picture, (regions, labels) in enumerate(batch.inside(points)):
        inside = labels > 0
        size = torch.where(inside, areas[regions][:, None], torch.iinfo(areas.dtype).max)
        nobody = torch.full_like(points[picture, :, 0], -1, dtype=torch.int64)
        found.append(torch.where(inside.any(0), regions[size.argmin(0)], nobody) if len(regions) else nobody)
    return torch.stack(found)


def collate(scenes: Sequence[Scene], device: torch.device) -> Batch:
    """Put scenes of one size side by side, on a device."""
    labelled = torch.from_numpy(np.stack([scene.labelled for scene in scenes])).to(device)
    return Batch(
        pixels=tower_input([scene.pixels for scene in scenes], device),
        masks=torch.from_numpy(np.concatenate([scene.masks for scene in scenes])).to(device),
        counts=[len(scene.masks) for scene in scenes],
        concepts=np.concatenate([scene.concepts for scene in scenes]),
        labelled=F.avg_pool2d(labelled[:, None].float(), 4)[:, 0],
        complete=[scene.complete for scene in scenes],
    )
