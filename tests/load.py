"""The real app under load, from outside: ``PYTHONPATH=. python tests/load.py [--visitors 20] [--uploads 200]``.

Measured with the embedded model: how long the app takes to start and to segment the first picture, what it answers to
many visitors at once, and how its memory grows over many uploads. Needs Linux, whose ``/proc`` tells memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

from app_server import running_app
from ovdemo.examples import EXAMPLES

SIZE = (640, 480)
TURNS = 4  # new pictures of a visitor
RESCORES = 3  # and other words for each
PATIENCE = 600  # seconds that one call may take; many visitors wait in a queue
WARM_UP = 20  # uploads until caches, pools and allocators have their size
THINGS = ("sky", "tree", "person", "wall", "floor", "car")


@dataclass(frozen=True)
class Visit:
    """What one visitor met.

    Attributes:
        segment_seconds, rescore_seconds: of every call, as the visitor waits for it.
        labels: how many segments were named in all.
        foreign: names that were not among the visitor's words at that time.
        errors: what the server said instead of an answer.
    """

    segment_seconds: tuple[float, ...]
    rescore_seconds: tuple[float, ...]
    labels: int
    foreign: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """All that was measured; memory is resident, in 10^6 bytes."""

    cold_start_seconds: float
    first_segmentation_seconds: float
    visitors: int
    segmentations: int
    segment_median_seconds: float
    segment_p95_seconds: float
    rescores: int
    rescore_median_seconds: float
    rescore_p95_seconds: float
    named_segments: int
    foreign_names: tuple[str, ...]
    errors: tuple[str, ...]
    uploads: int
    memory_warm_mb: float
    memory_end_mb: float
    memory_growth_mb: float

    @property
    def sound(self) -> bool:
        """Whether every call was answered, with the visitor's own words only."""
        return not self.errors and not self.foreign_names and self.named_segments > 0

    def to_table(self) -> str:
        """Aligned text for a terminal."""
        rows = [
            ("cold start to a page that answers", f"{self.cold_start_seconds:.1f} s"),
            (f"first segmentation, {SIZE[0]}x{SIZE[1]}", f"{self.first_segmentation_seconds:.2f} s"),
            (
                f"{self.visitors} visitors, {self.segmentations} x /segment, median / p95",
                f"{self.segment_median_seconds:.2f} / {self.segment_p95_seconds:.2f} s",
            ),
            (
                f"{self.visitors} visitors, {self.rescores} x /rescore, median / p95",
                f"{self.rescore_median_seconds:.2f} / {self.rescore_p95_seconds:.2f} s",
            ),
            ("errors", str(len(self.errors))),
            (f"foreign names among {self.named_segments} segments", str(len(self.foreign_names))),
            (f"memory after {min(WARM_UP, self.uploads)} uploads", f"{self.memory_warm_mb:.0f} MB"),
            (f"memory after {self.uploads} uploads", f"{self.memory_end_mb:.0f} MB"),
            ("greatest growth between", f"{self.memory_growth_mb:.0f} MB"),
        ]
        return "\n".join([*(f"{what:<50}{value:>18}" for what, value in rows), *self.errors, *self.foreign_names])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Returns:
        0, or 1 where a call failed or a visitor was answered with another's words.
    """
    parser = argparse.ArgumentParser(description="The real app under load.")
    parser.add_argument("--visitors", type=int, default=20, help="at once (default 20)")
    parser.add_argument("--uploads", type=int, default=200, help="one after another, after that (default 200)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options.visitors, options.uploads)
    print(json.dumps(asdict(report), indent=2) if options.json else report.to_table())
    return 0 if report.sound else 1


def measure(folder: Path, visitors: int, uploads: int) -> Report:
    """Start the app, put it under load, stop it."""
    start = time.monotonic()
    with running_app(folder) as app:
        httpx2.get(app.url, timeout=PATIENCE).raise_for_status()
        cold_start = time.monotonic() - start
        process = _only_child()
        note(f"started in {cold_start:.1f} s")
        pictures = different_pictures(folder)
        with closing(_client(app.url, folder)) as client:
            first = _timed(client, next(pictures), ", ".join(THINGS))
        note(f"first segmentation in {first:.2f} s; {visitors} visitors come")
        own = [[next(pictures) for _ in range(TURNS)] for _ in range(visitors)]
        visits = _visit_at_once(app.url, folder, own)
        note(f"{uploads} uploads")
        memory = _upload(app.url, folder, process, (next(pictures) for _ in range(uploads)))
    segment = [seconds for visit in visits for seconds in visit.segment_seconds]
    rescore = [seconds for visit in visits for seconds in visit.rescore_seconds]
    warm = memory[min(WARM_UP, uploads) - 1 :]
    return Report(
        cold_start_seconds=cold_start,
        first_segmentation_seconds=first,
        visitors=visitors,
        segmentations=len(segment),
        segment_median_seconds=_percentile(segment, 50),
        segment_p95_seconds=_percentile(segment, 95),
        rescores=len(rescore),
        rescore_median_seconds=_percentile(rescore, 50),
        rescore_p95_seconds=_percentile(rescore, 95),
        named_segments=sum(visit.labels for visit in visits),
        foreign_names=tuple(name for visit in visits for name in visit.foreign),
        errors=tuple(error for visit in visits for error in visit.errors),
        uploads=uploads,
        memory_warm_mb=warm[0],
        memory_end_mb=warm[-1],
        memory_growth_mb=max(warm) - warm[0],
    )


def different_pictures(folder: Path) -> Iterator[Path]:
    """The example photographs at one size, over and over, each time with other pixels."""
    photographs = []
    for path in filter(None, (example.path() for example in EXAMPLES)):
        with Image.open(path) as image:
            photographs.append(np.asarray(image.convert("RGB").resize(SIZE)))
    noise = np.random.default_rng(0)
    number = 0
    while True:
        photograph = photographs[number % len(photographs)]
        shifted = np.roll(photograph, noise.integers(SIZE[0]), axis=1)
        file = folder / f"upload-{number}.jpg"
        Image.fromarray(shifted ^ noise.integers(8, size=shifted.shape, dtype=np.uint8)).save(file, quality=90)
        yield file
        number += 1


def _visit_at_once(url: str, folder: Path, pictures: Sequence[Sequence[Path]]) -> list[Visit]:
    with ExitStack() as open_clients, ThreadPoolExecutor(len(pictures)) as pool:
        clients = [open_clients.enter_context(closing(_client(url, folder))) for _ in pictures]
        visits = [
            pool.submit(_visit, client, f"visitor {number}", own)
            for number, (client, own) in enumerate(zip(clients, pictures, strict=True), 1)
        ]
        return [visit.result() for visit in visits]


def _visit(client: Client, who: str, pictures: Iterable[Path]) -> Visit:
    """Segment every picture, then ask for other words; each word is the visitor's own, and only of that time."""
    segment: list[float] = []
    rescore: list[float] = []
    named: list[str] = []
    foreign: list[str] = []
    errors: list[str] = []

    def ask(seconds: list[float], words: dict[str, str], call: Sequence[Any], api_name: str) -> dict[str, Any]:
        start = time.monotonic()
        text = ", ".join(f"{label}|{name}" for label, name in words.items())
        answer = client.submit(*call, text, api_name=api_name).result(timeout=PATIENCE)
        seconds.append(time.monotonic() - start)
        document: dict[str, Any] = answer[1] if api_name == "/segment" else answer
        labels = [one["label"] for one in document["segments"]]
        named.extend(labels)
        foreign.extend(f"{who} asked for {text} and got {label}" for label in labels if label not in words)
        return document

    for turn, picture in enumerate(pictures):
        try:
            words = {f"{who} {name} {turn}": name for name in THINGS[:3]}
            key = ask(segment, words, [handle_file(picture)], "/segment")["key"]
            for again in range(RESCORES):
                words = {f"{who} {name} {turn}.{again}": name for name in THINGS[again : again + 3]}
                ask(rescore, words, [key], "/rescore")
        except Exception as error:  # whatever it is, it is what the visitor met
            errors.append(f"{who}: {type(error).__name__}: {error}")
    return Visit(tuple(segment), tuple(rescore), len(named), tuple(foreign), tuple(errors))


def _upload(url: str, folder: Path, process: int, pictures: Iterable[Path]) -> list[float]:
    """Resident memory after each picture, in MB."""
    memory = []
    with closing(_client(url, folder)) as client:
        for picture in pictures:
            _timed(client, picture, ", ".join(THINGS))
            memory.append(_resident_mb(process))
            picture.unlink()
    return memory


def _timed(client: Client, picture: Path, words: str) -> float:
    start = time.monotonic()
    client.submit(handle_file(picture), words, api_name="/segment").result(timeout=PATIENCE)
    return time.monotonic() - start


def _client(url: str, folder: Path) -> Client:
    patient = {"timeout": PATIENCE}  # the client's own five seconds are too few where the processor is shared
    return Client(url, verbose=False, download_files=folder / "answers", analytics_enabled=False, httpx_kwargs=patient)


def _percentile(seconds: Sequence[float], percent: float) -> float:
    return float(np.percentile(seconds, percent)) if seconds else float("nan")


def _only_child() -> int:
    """The app's process id: this process started no other."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()
    return int(children[0])


def _resident_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def note(text: str) -> None:
    """Tell on standard error how far it is."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
