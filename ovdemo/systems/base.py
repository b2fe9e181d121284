"""What every system gives: a heavy pass from a picture to proposals, and the constants that scoring needs.

The cut between :class:`Proposals` and everything after it is the heart of the program. Left of it is computed once a
picture; right of it is a matrix product and a merge, and answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ovdemo.ensemble import Fusion
from ovdemo.images import Picture, ResizeRule, resize
from ovdemo.vocabulary import TextEmbeddings, TextEncoder

Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """(height, width) of the picture, of its resized copy, and of that copy padded at the bottom and right."""

    picture: Size
    resized: Size
    padded: Size


@dataclass(frozen=True, eq=False)
class Features:
    """The backbone's stages by name, each (1, C, h, w), and the geometry of the input they came from."""

    stages: Mapping[str, Tensor]
    geometry: Geometry


@dataclass(frozen=True, eq=False)
class Proposals:
    """What a system proposes, before any class is named.

    Attributes:
        mask_logits: (N, H/4, W/4) over the padded input.
        class_embeddings: (N, D) in-vocabulary embeddings, not normalised.
        clip_embeddings: (N, D) frozen-CLIP embeddings of the masks, not normalised.
        clip_supported: (N,) bool, whether the mask covers any cell that CLIP pools from.
        geometry: of the input.
    """

    mask_logits: Tensor
    class_embeddings: Tensor
    clip_embeddings: Tensor
    clip_supported: Tensor
    geometry: Geometry

    def __len__(self) -> int:
        return len(self.mask_logits)

    def to(self, device: torch.device | str) -> Proposals:
        """The same proposals on a device."""
        return replace(
            self,
            mask_logits=self.mask_logits.to(device),
            class_embeddings=self.class_embeddings.to(device),
            clip_embeddings=self.clip_embeddings.to(device),
            clip_supported=self.clip_supported.to(device),
        )

    def choose(self, indices: Sequence[int]) -> Proposals:
        """Those at the indices, in their order; no index chooses none."""
        rows = torch.tensor(indices, dtype=torch.int64, device=self.mask_logits.device)
        return replace(
            self,
            mask_logits=self.mask_logits[rows],
            class_embeddings=self.class_embeddings[rows],
            clip_embeddings=self.clip_embeddings[rows],
            clip_supported=self.clip_supported[rows],
        )


@dataclass(frozen=True, eq=False)
class Classifiers:
    """The constants of a system's two classifiers.

    Attributes:
        in_scale: multiplies in-vocabulary cosines.
        out_scale: multiplies out-of-vocabulary cosines.
        void: (D,) unit vector of "no object".
        needs_clip_support: whether a proposal that CLIP pooled from nothing is left to the in-vocabulary classifier.
    """

    in_scale: float
    out_scale: float
    void: Tensor
    needs_clip_support: bool


class System(Protocol):
    """A published system with its weights."""

    resize_rule: ResizeRule
    fusion: Fusion
    training_names: frozenset[str]
    device: torch.device

    @property
    def text_encoder(self) -> TextEncoder:
        """The text tower of the system's CLIP."""

    @property
    def classifiers(self) -> Classifiers:
        """The constants that turn embeddings into class scores."""

    def encode(self, picture: Picture, rule: ResizeRule) -> Features:
        """Run the frozen backbone once."""

    def propose(self, features: Features, text: TextEmbeddings | None = None) -> Proposals:
        """Run the decoders once. Only a system whose masks depend on the words reads ``text``."""

    def embed_masks(self, features: Features, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Frozen-CLIP embeddings (Q, D) of any masks (Q, h, w) over the padded input, and which cover any cell (Q,)."""


def network_input(
    picture: Picture, rule: ResizeRule, mean: Tensor, std: Tensor, divisor: int
) -> tuple[Tensor, Geometry]:
    """A picture as a normalised, padded batch of one: (1, 3, H, W) float32 on the device of ``mean``.

    Pillow's bilinear resize on 8-bit values, then ``(x - mean) / std`` on 0..255, then zeros (the mean colour) at the
    bottom and right up to a multiple of ``divisor``.
    """
    height, width = picture.pixels.shape[:2]
    resized = rule.size(height, width)
    padded = (-(-resized[0] // divisor) * divisor, -(-resized[1] // divisor) * divisor)
    pixels = np.array(resize(picture.pixels, resized))  # a copy: torch wants it writable
    image = torch.from_numpy(pixels).to(mean.device).permute(2, 0, 1).float()
    image = (image - mean[:, None, None]) / std[:, None, None]
    bottom, right = padded[0] - resized[0], padded[1] - resized[1]
    image = torch.nn.functional.pad(image, (0, right, 0, bottom))
    return image[None], Geometry((height, width), resized, padded)
