"""Which words a training step uses, and what each region should answer to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovdemo.training.concepts import NAMELESS

KEPT_SHARE = 0.85  # of the concepts in a batch; the others teach "none of your words"
WORDS = (4, 128)  # of a step, evenly by ratio: "no object" must hold its own against few words and against many


@dataclass(frozen=True, eq=False)
class StepWords:
    """The vocabulary of one step.

    Attributes:
        rows: (K, D) float32, one unit text embedding a word.
        target: (V + 1,) int64, what a region of each concept should be called: a row number, K for void, or
            :data:`NAMELESS` for no supervision. Indexed by concept; the last entry is that of nameless regions.
    """

    rows: Tensor
    target: Tensor


class Words:
    """Draws the vocabulary of each step.

    Args:
        text: (V, M, D) float32 unit text embeddings, M variants of each concept.
        trained: (V,) bool, concepts that may be drawn; held-out concepts are never named, not even as wrong answers.
        alike: (V, V) bool, pairs that may mean the same, see :func:`~ovdemo.training.wording.may_mean_the_same`.
    """

    def __init__(self, text: Tensor, trained: np.ndarray, alike: Tensor) -> None:
        self._text, self._trained, self._alike = text, trained, alike.numpy()

    @property
    def width(self) -> int:
        """Of the text embeddings, D."""
        return self._text.shape[-1]

    def draw(self, present: np.ndarray, rng: np.random.Generator) -> StepWords:
        """Most of the concepts in the batch, and random others that mean something else.

        A present concept that was left out is void, unless a near synonym of it was kept: then nobody can say.

        Args:
            present: concept of every region of the batch, in any order; nameless ones count for nothing.
            rng: source of all choices.
        """
        present = np.unique(present[present != NAMELESS])
        is_kept = rng.random(len(present)) < KEPT_SHARE
        kept, dropped = present[is_kept], present[~is_kept]
        others = np.flatnonzero(self._trained & ~self._alike[present].any(0))
        others = np.setdiff1d(others, present)
        wanted = round(float(np.exp(rng.uniform(*np.log(WORDS)))))
        others = rng.choice(others, min(len(others), max(0, wanted - len(kept))), replace=False)
        words = np.concatenate((kept, others))
        target = np.full(len(self._text) + 1, NAMELESS)
        target[words] = np.arange(len(words))
        target[dropped[~self._alike[np.ix_(dropped, kept)].any(1)]] = len(words)
        variant = rng.integers(0, self._text.shape[1], len(words))
        return StepWords(self._text[torch.from_numpy(words), torch.from_numpy(variant)], torch.from_numpy(target))
