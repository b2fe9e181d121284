"""The image tower: it learns to place what a mask covers where the frozen text tower places its name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ovdemo.nn.clip import ClipTower
from ovdemo.systems.fcclip import PIXEL_MEAN, PIXEL_STD
from ovdemo.training.compose import Composer
from ovdemo.training.loop import averaging_decay, learning_rate
from ovdemo.training.optimiser import MatrixOptimiser
from ovdemo.training.precision import mixed_precision
from ovdemo.training.prefetch import Prefetched
from ovdemo.training.regions import embed_regions
from ovdemo.training.scenes import Scene

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
_SHIFTED = 0.7  # of the concepts in a step
_OTHERS = 511  # captions that each photograph's own is told from

_Drawn = tuple[list[Scene], list[Scene], list[tuple[np.ndarray, str]]]


class ImageTrainee:
    """Aligns a CLIP's image tower to its frozen text tower (:class:`~ovdemo.training.loop.Trainee`).

    Features are pooled under each mask as inference pools them (FC-CLIP, section 3.3), but for masks smaller than a
    cell, which pool the cells that they cover best. They are classified among all concepts by cosine, with a learned
    temperature, and pulled to their own; whole captioned photographs are told from other captions.
    """

    def __init__(
        self,
        tower: ClipTower,
        composer: Composer,
        *,
        wordings: Tensor,
        shifts: Tensor,
        alike: Tensor,
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
        visual = tower.clip_model.visual
        for name, parameter in tower.clip_model.named_parameters():
            parameter.requires_grad_(name.startswith("visual.") or name == "logit_scale")
        visual.to(memory_format=torch.channels_last)
        self._average = AveragedModel(visual, avg_fn=_follow)
        self._optimiser = MatrixOptimiser(tower.clip_model, _DECAY)
        self._batches = Prefetched(partial(_draw, composer), seed)
        self._device = tower.clip_model.text_projection.device
        self._mean = torch.tensor(PIXEL_MEAN, device=self._device)[:, None, None]
        self._std = torch.tensor(PIXEL_STD, device=self._device)[:, None, None]

    def step(self, share: float) -> dict[str, float]:
        """One batch of scenes and captioned photographs."""
        (scenes, objects, captioned), random = self._batches.next(share)
        dense = self._dense([scene.pixels for scene in scenes] + [pixels for pixels, _ in captioned])
        small = self._dense([scene.pixels for scene in objects])
        classes = self._classes(random)
        regions, _ = self._naming_loss(self._embed(dense, scenes), scenes, classes)
        naming, right = self._naming_loss(self._embed(small, objects), objects, classes)
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
        pixels = torch.from_numpy(np.stack(pictures)).to(self._device).permute(0, 3, 1, 2)
        image = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        with mixed_precision(self._device):
            dense = self._tower.stages(image)["res5"]
        return dense.float()

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

    def _naming_loss(self, embeddings: Tensor, scenes: list[Scene], classes: Tensor) -> tuple[Tensor, float]:
        """Loss of named regions (R, D) among all concepts (V, D), and the share named right."""
        concepts = torch.from_numpy(np.concatenate([scene.concepts for scene in scenes]))
        logits = self._tower.clip_model.logit_scale.exp() * F.normalize(embeddings, dim=-1) @ classes.T
        logits = logits.masked_fill(self._ignored[concepts].to(self._device), float("-inf"))
        target = concepts.to(self._device)
        # Telling concepts apart would be enough for their own names. What comes near its name is also near other words
        # of that meaning.
        away = 1 - F.cosine_similarity(embeddings, classes[target]).mean()
        loss = F.cross_entropy(logits, target) + _PULL * away
        return loss, (logits.argmax(-1) == target).float().mean().item()

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
        """The whole CLIP's tensors under open_clip's names, the image tower's averaged over the last steps."""
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
    return scenes, objects, [composer.caption_scene(random) for _ in range(_CAPTIONED)]
