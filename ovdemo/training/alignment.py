"""The image tower: it learns to place what a mask covers where the frozen text tower places its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ovdemo.nn.clip import ClipTower
from ovdemo.training.blending import Blended, blend
from ovdemo.training.compose import Composer
from ovdemo.training.loop import averaging_decay, learning_rate
from ovdemo.training.optimiser import MatrixOptimiser
from ovdemo.training.precision import mixed_precision
from ovdemo.training.prefetch import Prefetched
from ovdemo.training.regions import embed_regions
from ovdemo.training.scenes import Scene, tower_input

PEAK_RATE = 3e-3  # from fresh weights; of what was tried for 120 steps, 4e-3 was a little ahead of 1.5e-3
_DECAY = 0.05
_LAYER_SCALE = 0.1
_MAX_LOGIT_SCALE = float(np.log(25))  # not CLIP's 100: cosines themselves should tell names apart
_PULL = 4.0  # of the cosine itself beside the cross-entropy
_REGION_WEIGHT = 0.5  # of the regions of scenes beside the photographs of one thing, a mean each
_CAPTION_WEIGHT = 0.05  # one caption beside a hundred regions: more would be noise

_SCENES, _CAPTIONED = 2, 1  # of a step
# Photographs of one thing, by side: as many as have the pixels of nine scenes. They are small, so that a step shows
# many, and apart, because 7 x 7 convolutions at stride 32 would mix neighbours in a mosaic.
_OBJECTS = {64: 144, 96: 64, 128: 36, 192: 16, 256: 9}
# How often each side comes: first the small ones, of which the same time shows ten times as many, then the large ones.
# Those count: a tower that saw things at 128 pixels or less could not name them at 320.
_SMALL_SHARE = 0.4  # of the schedule
_OBJECT_SHARES = ((0.4, 0.6, 0.0, 0.0, 0.0), (0.1, 0.25, 0.25, 0.2, 0.2))
# Photographs of one thing that are blended with another, and from when on none is: at the end what is learned is what
# inference meets.
_BLENDED, _BLENDED_UNTIL = 0.5, 0.8
_SHIFTED = 0.7  # of the concepts in a step
_NOUNS = 1024  # other wrong answers in a step
_OTHERS = 511  # captions that each photograph's own is told from

_Drawn = tuple[list[Scene], list[Blended], list[tuple[np.ndarray, str]]]


@dataclass(frozen=True, eq=False)
class _Answers:
    """What regions are told apart among in a step.

    Attributes:
        rows: (V + N, D) unit vectors: a wording of each concept, then other nouns.
        ignored: (V, V + N) bool, what is no wrong answer for a concept.
    """

    rows: Tensor
    ignored: Tensor


class ImageTrainee:
    """Aligns a CLIP's image tower to its frozen text tower (:class:`~ovdemo.training.loop.Trainee`).

    Features are pooled under each mask as inference pools them (FC-CLIP, section 3.3), but for masks smaller than a
    cell, which pool the cells that they cover best. They are classified among all concepts and some other nouns by
    cosine, with a learned temperature, and pulled to their own; whole captioned photographs are told from other
    captions.
    """

    def __init__(
        self,
        tower: ClipTower,
        composer: Composer,
        *,
        wordings: Tensor,
        shifts: Tensor,
        alike: Tensor,
        nouns: tuple[Tensor, Tensor],
        held_out: frozenset[int],
        captions: Mapping[str, Tensor],
        seed: int,
        peak_rate: float = PEAK_RATE,
    ) -> None:
        """Take the tower and what it learns from.

        Args:
            tower: text trained, image part fresh (see :func:`open_layers`) or trained before.
            composer: draws scenes with named regions only, photographs of one thing, and captioned ones.
            wordings: (V, M, D) unit vectors of the concepts.
            shifts: (P, D) from one word for a thing to another, see
                :func:`~ovdemo.training.wording.paraphrase_shifts`.
            alike: (V, V) bool, pairs that are never each other's wrong answer.
            nouns: (N, D) unit vectors of other words, wrong answers but for the concepts that they fit, (V, N) bool;
                see :func:`~ovdemo.training.wording.other_nouns`.
            held_out: concepts that are nobody's wrong answer either.
            captions: (D,) unit vector of every caption that may be drawn.
            seed: of the batches and the wordings.
            peak_rate: greatest learning rate.
        """
        self._peak_rate = peak_rate
        self._tower, self._wordings, self._shifts = tower, wordings, shifts
        self._place = {caption: i for i, caption in enumerate(captions)}
        self._captions = torch.stack(list(captions.values()))
        self._ignored = alike.clone()
        self._ignored[:, list(held_out)] = True
        self._nouns, self._fitting = nouns
        visual = tower.clip_model.visual
        for name, parameter in tower.clip_model.named_parameters():
            parameter.requires_grad_(name.startswith("visual.") or name == "logit_scale")
        visual.to(memory_format=torch.channels_last)
        self._average = AveragedModel(visual, avg_fn=_follow)
        self._optimiser = MatrixOptimiser(tower.clip_model, _DECAY)
        self._batches = Prefetched(partial(_draw, composer), seed)
        self._device = tower.clip_model.text_projection.device

    @property
    def names(self) -> Tensor:
        """(V, D) unit text embeddings of the concepts, as inference makes them."""
        return self._wordings[:, 0]

    def step(self, share: float) -> dict[str, float]:
        """One batch of scenes and captioned photographs."""
        (scenes, objects, captioned), random = self._batches.next(share)
        dense = self._dense([scene.pixels for scene in scenes] + [pixels for pixels, _ in captioned])
        shown = [one.scene for one in objects]
        small = self._dense([scene.pixels for scene in shown])
        answers = self._answers(random)
        regions = self._naming_loss(self._embed(dense, scenes), _concepts(scenes), answers)
        naming, right = self._blended_loss(self._embed(small, shown), objects, answers)
        places = [self._place[caption] for _, caption in captioned]
        telling = self._caption_loss(dense[len(scenes) :], places, random)
        total = naming + _REGION_WEIGHT * regions + _CAPTION_WEIGHT * telling
        self._optimiser.step(total, learning_rate(self._peak_rate, share))
        self._tower.clip_model.logit_scale.data.clamp_(max=_MAX_LOGIT_SCALE)
        self._average.update_parameters(self._tower.clip_model.visual)
        losses = {"things": naming, "regions": regions, "captions": telling}
        return {name: loss.item() for name, loss in losses.items()} | {"things named right": right}

    def _dense(self, pictures: list[np.ndarray]) -> Tensor:
        """Pictures (S, S, 3) -> res5 (B, C, S / 32, S / 32)."""
        image = tower_input(pictures, self._device).contiguous(memory_format=torch.channels_last)
        with mixed_precision(self._device):
            dense = self._tower.stages(image)["res5"]
        return dense.float()

    def _answers(self, random: np.random.Generator) -> _Answers:
        """The concepts and random other nouns, so that photographs keep away from words that no data set has."""
        chosen = torch.from_numpy(random.choice(len(self._nouns), min(_NOUNS, len(self._nouns)), replace=False))
        rows = torch.cat([self._classes(random), self._nouns[chosen].to(self._device)])
        return _Answers(rows, torch.cat([self._ignored, self._fitting[:, chosen]], 1))

    def _classes(self, random: np.random.Generator) -> Tensor:
        """One wording of every concept, (V, D), most of them moved a part of the way that lies between synonyms: what
        is learned must bear words that nobody thought of.
        """
        count = len(self._wordings)
        wording = torch.from_numpy(random.integers(self._wordings.shape[1], size=count))
        shift = self._shifts[torch.from_numpy(random.integers(len(self._shifts), size=count))]
        share = torch.from_numpy(random.random(count) * (random.random(count) < _SHIFTED)).float()
        rows = self._wordings[torch.arange(count), wording] + share[:, None] * shift
        return F.normalize(rows, dim=-1).to(self._device)

    def _blended_loss(self, embeddings: Tensor, objects: list[Blended], answers: _Answers) -> tuple[Tensor, float]:
        """Loss of photographs of one thing (R, D), of both of their names in proportion, and the share named right of
        those that show one only.
        """
        own, other = _concepts([one.scene for one in objects]), torch.tensor([one.other for one in objects])
        share = torch.tensor([one.share for one in objects])
        losses, right = self._naming_losses(embeddings, own, other, answers)
        others, _ = self._naming_losses(embeddings, other, own, answers)
        share, single = share.to(self._device), (share == 1).to(self._device)
        return losses.lerp(others, 1 - share).mean(), right[single].float().mean().item() if single.any() else 0.0

    def _naming_loss(self, embeddings: Tensor, concepts: Tensor, answers: _Answers) -> Tensor:
        """Mean loss of named regions (R, D)."""
        return self._naming_losses(embeddings, concepts, concepts, answers)[0].mean()

    def _naming_losses(
        self, embeddings: Tensor, concepts: Tensor, shown: Tensor, answers: _Answers
    ) -> tuple[Tensor, Tensor]:
        """Loss (R,) of regions (R, D) that show two concepts (R,) for the first of them, and whether it wins (R,)."""
        logits = self._tower.clip_model.logit_scale.exp() * F.normalize(embeddings, dim=-1) @ answers.rows.T
        ignored = answers.ignored[concepts] | answers.ignored[shown]
        ignored[torch.arange(len(concepts)), concepts] = False
        logits = logits.masked_fill(ignored.to(self._device), float("-inf"))
        target = concepts.to(self._device)
        # Telling concepts apart would be enough for their own names. What comes near its name is also near other words
        # of that meaning.
        away = 1 - F.cosine_similarity(embeddings, answers.rows[target])
        loss = F.cross_entropy(logits, target, reduction="none") + _PULL * away
        return loss, logits.argmax(-1) == target

    def _embed(self, dense: Tensor, scenes: list[Scene]) -> Tensor:
        """Embeddings (R, D) of all regions of scenes, whose features are the first of (B, C, h, w)."""
        masks = torch.from_numpy(np.concatenate([scene.masks for scene in scenes])).to(self._device)
        return embed_regions(self._tower, dense, masks, [len(scene.masks) for scene in scenes])

    def _caption_loss(self, dense: Tensor, indices: list[int], random: np.random.Generator) -> Tensor:
        """Each photograph's own caption among random others."""
        others = torch.from_numpy(random.integers(len(self._captions), size=_OTHERS))
        everywhere = torch.ones(1, 1, *dense.shape[-2:], device=self._device).expand(len(dense), -1, -1, -1)
        embeddings = F.normalize(self._tower.embed_masks(dense, everywhere)[:, 0], dim=-1)
        rows = torch.cat([self._captions[indices], self._captions[others]]).to(self._device)
        logits = self._tower.clip_model.logit_scale.exp() * embeddings @ rows.T
        return F.cross_entropy(logits, torch.arange(len(indices), device=self._device))

    def state(self) -> dict[str, Any]:
        """See :class:`~ovdemo.training.loop.Trainee`."""
        return {
            "tensors": self._tower.clip_model.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state(),
            "batches": self._batches.made,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """See :class:`~ovdemo.training.loop.Trainee`."""
        self._tower.clip_model.load_state_dict(state["tensors"])
        self._average.load_state_dict(state["average"])
        self._optimiser.restore(state["optimiser"])
        self._batches.skip_to(state["batches"])

    def result(self) -> dict[str, Tensor]:
        """All of the CLIP under open_clip's names, the image tower averaged over the last steps."""
        tensors = dict(self._tower.clip_model.state_dict())
        tensors.update({f"visual.{name}": value for name, value in self._average.module.state_dict().items()})
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items() if name != "attn_mask"}


def _follow(average: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
    return average.lerp(current, 1 - averaging_decay(int(steps)))


def open_layers(tower: ClipTower) -> None:
    """Let a fresh ConvNeXt's blocks speak from the start: its own layer scales of 1e-6 are for long schedules."""
    for name, parameter in tower.clip_model.visual.named_parameters():
        if name.endswith(".gamma"):
            parameter.data.fill_(_LAYER_SCALE)


def _draw(composer: Composer, random: np.random.Generator, share: float) -> _Drawn:
    scenes = [composer.region_scene(random) for _ in range(_SCENES)]
    side = int(random.choice(list(_OBJECTS), p=_OBJECT_SHARES[share > _SMALL_SHARE]))
    objects = [composer.object_scene(side, random) for _ in range(_OBJECTS[side])]
    blended = blend(objects, _BLENDED if share < _BLENDED_UNTIL else 0.0, random)
    return scenes, blended, [composer.caption_scene(random) for _ in range(_CAPTIONED)]


def _concepts(scenes: list[Scene]) -> Tensor:
    """Of all regions, (R,)."""
    return torch.from_numpy(np.concatenate([scene.concepts for scene in scenes]))
