"""One loop for every training: a time budget, a curve, and a checkpoint to go on from."""

from __future__ import annotations

import csv
import math
import os
import pickle
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ovdemo.errors import UserError

_SAVE_SECONDS = 120.0  # at most this much work is lost
_ROW_SECONDS = 10.0  # between two rows of the curve
_WARM_UP = 0.04  # share of the schedule

Report = Callable[[float, dict[str, float]], None]


class Trainee(Protocol):
    """Something that learns step by step."""

    def step(self, share: float) -> dict[str, float]:
        """One optimiser step at ``share`` (0..1) of the schedule; returns losses by name, for the curve."""

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on; ``torch.save`` can write it, ``weights_only`` can read it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""

    def result(self) -> dict[str, Tensor]:
        """The trained tensors by name."""


def train(trainee: Trainee, out: Path, name: str, minutes: float, report: Report = lambda share, losses: None) -> int:
    """Train for a time, going on from ``OUT/NAME.pt`` where it exists.

    Writes ``NAME.pt`` (to go on from), ``NAME.csv`` and ``NAME.png`` (the curve). Ctrl-C and SIGTERM stop after the
    current step, with everything saved, and then raise ``KeyboardInterrupt``.

    Args:
        trainee: what learns.
        out: folder of the files; must exist.
        name: of the files.
        minutes: of training in all, those of earlier runs counted in.
        report: called after each step with the share done and its losses.

    Returns:
        Steps made in all.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    checkpoint, curve = out / f"{name}.pt", Curve(out / f"{name}.csv")
    seconds, steps = _resume(trainee, checkpoint)
    budget = minutes * 60
    last_save = last_row = start = time.monotonic()
    with _stoppable() as stop:
        while seconds < budget and not stop.is_set():
            losses = trainee.step(seconds / budget)
            steps += 1
            now = time.monotonic()
            seconds, start = seconds + now - start, now
            curve.add(losses)
            report(min(seconds / budget, 1.0), losses)
            if now - last_row > _ROW_SECONDS:
                curve.write(seconds, steps)
                last_row = now
            if now - last_save > _SAVE_SECONDS:
                _save(trainee, checkpoint, seconds, steps)
                last_save = start = time.monotonic()  # saving is not training
        if steps:
            curve.write(seconds, steps)
            curve.draw(out / f"{name}.png", name)
            _save(trainee, checkpoint, seconds, steps)
    if stop.is_set():
        raise KeyboardInterrupt
    return steps


def learning_rate(peak: float, share: float) -> float:
    """Linear warm-up over the first 4% of the schedule, then a cosine down to a hundredth of the peak."""
    if share < _WARM_UP:
        return peak * (share + 1e-3) / _WARM_UP
    angle = math.pi * (share - _WARM_UP) / (1 - _WARM_UP)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(min(angle, math.pi))))


def averaging_decay(steps: int) -> float:
    """Decay of the weights' moving average after a number of steps: ``min(0.998, (1 + n) / (10 + n))``.

    Over short schedules it so covers about the last ninth, and what training began with is forgotten.
    """
    return min(0.998, (1 + steps) / (10 + steps))


def adamw(module: nn.Module, decay: float) -> torch.optim.AdamW:
    """AdamW over what requires a gradient; vectors (norms, biases, layer scales) and scalars do not decay."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Of every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate


class Curve:
    """Losses over time as a CSV file, a row each few seconds, and as a drawing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._count = 0

    def add(self, losses: dict[str, float]) -> None:
        """Remember one step for the next row."""
        self._count += 1
        for name, value in losses.items():
            self._sums[name] += value

    def write(self, seconds: float, steps: int) -> None:
        """Append the means since the last row."""
        if not self._count:
            return
        row = {"seconds": f"{seconds:.1f}", "steps": str(steps)}
        row |= {name: f"{total / self._count:.5f}" for name, total in self._sums.items()}
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        self._sums.clear()
        self._count = 0

    def draw(self, path: Path, title: str) -> None:
        """One small plot a loss, all over minutes."""
        with self._path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name not in ("seconds", "steps")]
        minutes = [float(row["seconds"]) / 60 for row in rows]
        figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            axes.plot(minutes, [float(row[name]) for row in rows], linewidth=1)
            axes.set(title=f"{title}: {name}", xlabel="minutes")
            axes.grid(alpha=0.3)
        figure.savefig(path, dpi=100)


def _resume(trainee: Trainee, checkpoint: Path) -> tuple[float, int]:
    if not checkpoint.exists():
        return 0.0, 0
    try:
        saved = torch.load(checkpoint, weights_only=True)
        trainee.restore(saved["trainee"])
        return float(saved["seconds"]), int(saved["steps"])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{checkpoint} is not a checkpoint of this training; remove it to start anew.") from error


def _save(trainee: Trainee, checkpoint: Path, seconds: float, steps: int) -> None:
    partial = checkpoint.with_suffix(".partial")
    torch.save({"trainee": trainee.state(), "seconds": seconds, "steps": steps}, partial)
    os.replace(partial, checkpoint)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of ending the process in the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
