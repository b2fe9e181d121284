"""How long each step of an answer took, and which steps came from a cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STEPS = ("decode", "encode", "propose", "text", "score", "merge", "draw")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: one of :data:`STEPS`.
        milliseconds: of wall time; 0 where the result was cached.
        cached: whether an earlier answer had done it.
    """

    name: str
    milliseconds: float
    cached: bool


class Stopwatch:
    """Times the steps of one answer; those that nobody times count as cached. Not for several threads at once."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block as a step, or as part of one that has several blocks."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in their order."""
        return tuple(Step(name, 1000 * self._seconds.get(name, 0.0), name not in self._seconds) for name in STEPS)
