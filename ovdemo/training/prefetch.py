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
    """Draws batches ahead of their use, from a generator and the share (0..1) of the schedule that is over.

    Batch n has a generator of its own, made from the seed and n, so that a resumed run goes on.
    """

    def __init__(self, draw: Callable[[np.random.Generator, float], _Batch], seed: int) -> None:
        self._draw, self._seed = draw, seed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._waiting: deque[Future[tuple[_Batch, np.random.Generator]]] = deque()
        self.made = 0

    def next(self, share: float) -> tuple[_Batch, np.random.Generator]:
        """The next batch, and a generator for whatever else its step draws.

        Args:
            share: of the schedule, for the batches that this call asks for; they are used up to three calls later.
        """
        while len(self._waiting) < _AHEAD:
            self._waiting.append(self._pool.submit(self._make, self.made + len(self._waiting), share))
        self.made += 1
        return self._waiting.popleft().result()

    def skip_to(self, number: int) -> None:
        """Go on with batch ``number``."""
        self._waiting.clear()
        self.made = number

    def _make(self, number: int, share: float) -> tuple[_Batch, np.random.Generator]:
        random = np.random.default_rng([self._seed, number])
        return self._draw(random, share), random
