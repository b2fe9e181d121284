"""Progress bars of the command line, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tqdm import tqdm

from ovdemo.loading import Progress


def download_bar() -> AbstractContextManager[Progress]:
    """A bar in bytes."""
    return progress_bar("downloading", unit="B", unit_scale=True)


@contextmanager
def progress_bar(title: str, *, unit: str = "it", unit_scale: bool = False) -> Iterator[Progress]:
    """A bar that appears with the first step; gives the callback that moves it, with what is done and what in all."""
    bar: tqdm | None = None

    def progress(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None or bar.total != total:
            if bar is not None:
                bar.close()
            bar = tqdm(total=total, unit=unit, unit_scale=unit_scale, desc=title, file=sys.stderr)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
