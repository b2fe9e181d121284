"""Long work in a thread of its own, so that a page sees how far it is and can stop it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")

Report = Callable[[str, int, int | None], None]
"""Called by the work with what it is doing, how much is done and how much there is, where known."""

_TICK = 0.25  # seconds between two looks at whether the page still wants the result


class StoppedError(Exception):
    """The page no longer wants the result."""


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    text: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Done(Generic[R]):
    """The work's result."""

    result: R


def run(work: Callable[[Report], R]) -> Iterator[Progress | Done[R] | None]:
    """Do the work; yields its latest progress, ``None`` each quarter of a second without any, and at last the result.

    Closing the iterator makes the work's next report raise :class:`StoppedError`. What the work raises is raised here.
    """
    news: queue.SimpleQueue[Progress | Done[R] | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def report(text: str, done: int, total: int | None) -> None:
        if stop.is_set():
            raise StoppedError
        news.put(Progress(text, done, total))

    def target() -> None:
        try:
            news.put(Done(work(report)))
        except BaseException as error:
            news.put(error)

    threading.Thread(target=target, name="job", daemon=True).start()
    try:
        while True:
            try:
                latest = news.get(timeout=_TICK)
            except queue.Empty:
                yield None
                continue
            while isinstance(latest, Progress) and not news.empty():  # a page cannot draw all that a fast job tells
                latest = news.get()
            if isinstance(latest, BaseException):
                raise latest
            yield latest
            if isinstance(latest, Done):
                return
    finally:
        stop.set()


def counted(work: Callable[[Callable[[int, int], None]], R], text: str) -> Callable[[Report], R]:
    """Work that counts what it has done, as :func:`run` takes it."""
    return lambda report: work(lambda done, total: report(text, done, total))
