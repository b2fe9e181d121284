"""Batches made in the background, the same ones in every run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

_AHEAD = 3

_Batch = TypeVar("_Batch")


class Prefetched(Generic[_Batch]):
    """Draws batches ahead of their use. Batch n depends on the seed and n alone, so that a resumed run goes on."""

    def __init__(self, draw: Callable[[np.random.Generator], _Batch], seed: int) -> None:
        self._draw, self._seed = draw, seed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._waiting: deque[Future[tuple[_Batch, np.random.Generator]]] = deque()
        self.made = 0

    def next(self) -> tuple[_Batch, np.random.Generator]:
        """The next batch, and a generator for whatever else its step draws."""
        while len(self._waiting) < _AHEAD:
            self._waiting.append(self._pool.submit(self._make, self.made + len(self._waiting)))
        self.made += 1
        return self._waiting.popleft().result()

    def skip_to(self, number: int) -> None:
        """Go on with batch ``number``."""
        self._waiting.clear()
        self.made = number

    def _make(self, number: int) -> tuple[_Batch, np.random.Generator]:
        random = np.random.default_rng([self._seed, number])
        return self._draw(random), random
