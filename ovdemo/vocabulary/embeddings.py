"""Names to unit vectors: prompts, the text tower, and the average over a name's prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ovdemo.vocabulary.classes import Vocabulary
from ovdemo.vocabulary.embedding_cache import EmbeddingCache, EmbeddingSpace
from ovdemo.vocabulary.prompts import TemplateSet

_PROMPTS_PER_BATCH = 128

Progress = Callable[[int, int], None]


class TextEncoder(Protocol):
    """A CLIP text tower; ``tag`` and ``width`` may be plain attributes."""

    @property
    def tag(self) -> str:
        """Identifies the tower's weights: towers that give different vectors have different tags."""
        ...

    @property
    def width(self) -> int:
        """Length D of a vector."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) float32 on the CPU, one row a prompt, not normalised."""
        ...


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """The vectors of a vocabulary.

    Attributes:
        rows: (S, D) float32, one unit vector a name, in the order of :attr:`Vocabulary.names`.
        owner: (S,) int64, the index of each row's class; it never falls.
        num_classes: C, the number of classes; each owns at least one row.
    """

    rows: Tensor
    owner: Tensor
    num_classes: int

    def max_over_names(self, logits: Tensor) -> Tensor:
        """(N, S) logits, one column a name -> (N, C): the best over each class's own names.

        The published code of FC-CLIP and EOV-Seg scores a class so, whatever its number of names.
        """
        best = logits.new_full((logits.shape[0], self.num_classes), -torch.inf)
        return best.scatter_reduce(1, self.owner.expand_as(logits), logits, "amax")

    def to(self, device: torch.device | str) -> TextEmbeddings:
        """The same embeddings on a device."""
        return replace(self, rows=self.rows.to(device), owner=self.owner.to(device))


class TextEmbedder:
    """Embeds vocabularies with one tower and one template set, and never encodes a name that the cache knows.

    Several threads may share one: they take turns at the tower, batch by batch, and use each other's results.

    Args:
        encoder: the text tower.
        templates: the prompts of a name.
        cache: where rows are looked up and kept.
        batch_names: how many names go through the tower at once; as many as fill 128 prompts if ``None``.
    """

    def __init__(
        self, encoder: TextEncoder, templates: TemplateSet, cache: EmbeddingCache, batch_names: int | None = None
    ) -> None:
        self._encoder = encoder
        self._templates = templates
        self._cache = cache
        self._batch_names = batch_names or max(1, _PROMPTS_PER_BATCH // len(templates.templates))
        self._space = EmbeddingSpace(encoder.tag, templates.name, templates.digest, encoder.width)
        self._turn = Lock()

    def embed(self, vocabulary: Vocabulary, progress: Progress | None = None) -> TextEmbeddings:
        """One unit vector a name.

        The prompts of a name are encoded, L2-normalised, averaged and L2-normalised again (the prompt ensemble of
        CLIP, section 3.1.4; names of a class are not averaged). Every batch goes into the cache as soon as it is made,
        so an interrupted run keeps what it has.

        Args:
            vocabulary: at least one class.
            progress: called with (names done, names to encode) after every batch; not at all if all names are known.
                What it raises ends the run.
        """
        names = vocabulary.names
        known = self._cache.get(self._space, names)
        missing = [name for name in dict.fromkeys(names) if name not in known]
        for start in range(0, len(missing), self._batch_names):
            batch = missing[start : start + self._batch_names]
            known |= self._embed_batch(batch)
            if progress is not None:
                progress(start + len(batch), len(missing))
        sizes = torch.tensor([len(entry.names) for entry in vocabulary.classes])
        return TextEmbeddings(
            rows=torch.from_numpy(np.stack([known[name] for name in names])),
            owner=torch.repeat_interleave(torch.arange(len(vocabulary)), sizes),
            num_classes=len(vocabulary),
        )

    def names_to_encode(self, vocabulary: Vocabulary) -> int:
        """How many names the cache does not know: what :meth:`embed` would have to encode."""
        names = dict.fromkeys(vocabulary.names)
        return len(names) - len(self._cache.get(self._space, names))

    def _embed_batch(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        with self._turn:
            known = self._cache.get(self._space, names)  # another thread may have been here meanwhile
            missing = [name for name in names if name not in known]
            if missing:
                made = dict(zip(missing, self._encode(missing), strict=True))
                self._cache.put(self._space, made)
                known |= made
        return known

    @torch.no_grad()
    def _encode(self, names: Sequence[str]) -> np.ndarray:
        """(len(names), D) float32 unit rows."""
        prompts = [prompt for name in names for prompt in self._templates.fill(name)]
        rows = functional.normalize(self._encoder.encode_prompts(prompts).float(), dim=-1)
        means = rows.reshape(len(names), len(self._templates.templates), self._encoder.width).mean(dim=1)
        return functional.normalize(means, dim=-1).numpy()
