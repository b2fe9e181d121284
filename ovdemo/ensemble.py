"""How a system's two classifiers are weighed against each other: settings, chosen by a person or fit for weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

FusionKind = Literal["geometric", "arithmetic", "in-vocabulary", "out-of-vocabulary"]


@dataclass(frozen=True)
class Fusion:
    """How the two classifiers are combined.

    ``alpha`` and ``beta``, in 0..1, weigh the out-of-vocabulary classifier for seen and for unseen classes. The
    defaults are FC-CLIP's. The two single-classifier kinds ignore them: they are weight 0 and weight 1. Where a system
    leaves a proposal without CLIP support to the in-vocabulary classifier, it does so in every kind.

    ``rescue`` is the strength w, in 0..1, of OVRCOAT's objectness correction (CVPR 2026), which gives back objects that
    the trained head takes for background: ``p(void) <- p(void) * (1 - w * max_k p_clip(k))``. 0 is off. The maximum
    over a single class is 1, so that with one class and w = 1 nothing is void.
    """

    kind: FusionKind = "geometric"
    alpha: float = 0.4
    beta: float = 0.8
    rescue: float = 0.0

    def but(self, **given: Any) -> Fusion:
        """The same with the fields that are given; None leaves one as it is."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def weights(self, seen: Tensor) -> Tensor:
        """Weight of the out-of-vocabulary classifier for each class, (C,) from ``seen`` (C,) bool."""
        if self.kind == "in-vocabulary":
            return torch.zeros(len(seen), device=seen.device)
        if self.kind == "out-of-vocabulary":
            return torch.ones(len(seen), device=seen.device)
        return torch.where(seen, self.alpha, self.beta)
