"""Progress bars of the command line, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ovdemo.loading import Progress


@contextmanager
def download_bar() -> Iterator[Progress]:
    """A bar in bytes that appears with the first byte; gives the callback that moves it."""
    bar: tqdm | None = None

    def progress(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None or bar.total != total:
            if bar is not None:
                bar.close()
            bar = tqdm(total=total, unit="B", unit_scale=True, desc="downloading", file=sys.stderr)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
