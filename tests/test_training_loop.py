"""The training loop: budget, resuming, curves; and batches made in the background."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovdemo.errors import UserError
from ovdemo.training import loop
from ovdemo.training.loop import learning_rate, train
from ovdemo.training.prefetch import Prefetched


class Counter:
    """Counts its steps, and does not let the clock stand still."""

    def __init__(self, clock: Clock, seconds: float = 1.0) -> None:
        self.clock, self.seconds, self.shares = clock, seconds, []
        self.steps = torch.zeros(())

    def step(self, share: float) -> dict[str, float]:
        self.clock.now += self.seconds
        self.shares.append(share)
        self.steps += 1
        return {"loss": 1 / float(self.steps)}

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps.clone()}

    def restore(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"].clone()

    def result(self) -> dict[str, Tensor]:
        return {"steps": self.steps}


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock.now)
    return clock


def test_it_trains_for_the_time_given_and_shows_how_far_it_is(tmp_path: Path, clock: Clock) -> None:
    trainee = Counter(clock)
    assert train(trainee, tmp_path, "toy", minutes=1) == 60
    assert trainee.shares == pytest.approx([i / 60 for i in range(60)])
    rows = list(csv.DictReader((tmp_path / "toy.csv").open()))
    assert [float(row["seconds"]) for row in rows] == [11, 22, 33, 44, 55, 60]
    # Each row holds the mean since the one before.
    assert float(rows[1]["loss"]) == pytest.approx(np.mean([1 / i for i in range(12, 23)]), abs=1e-5)
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_goes_on_where_the_first_stopped(tmp_path: Path, clock: Clock) -> None:
    train(Counter(clock), tmp_path, "toy", minutes=1)
    second = Counter(clock)
    assert train(second, tmp_path, "toy", minutes=1.5) == 90
    assert len(second.shares) == 30
    assert second.shares[0] == pytest.approx(60 / 90)
    assert train(Counter(clock), tmp_path, "toy", minutes=1) == 90  # the time is spent


def test_ctrl_c_saves_before_it_stops(tmp_path: Path, clock: Clock) -> None:
    class Interrupted(Counter):
        def step(self, share: float) -> dict[str, float]:
            if self.steps == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(share)

    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(clock), tmp_path, "toy", minutes=1)
    after = Counter(clock)
    train(after, tmp_path, "toy", minutes=1)
    assert after.steps == 60
    assert len(after.shares) == 55


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "toy.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="remove it to start anew"):
        train(Counter(clock), tmp_path, "toy", minutes=1)


def test_the_learning_rate_rises_and_then_falls() -> None:
    rates = [learning_rate(2.0, share) for share in np.linspace(0, 1, 101)]
    assert rates[0] < 0.1
    assert max(rates) == pytest.approx(2.0, rel=0.03)
    assert np.argmax(rates) == 4
    assert all(np.diff(rates[5:]) < 0)
    assert rates[-1] == pytest.approx(0.02)


def test_batches_depend_on_seed_and_number_alone() -> None:
    def numbers(batches: Prefetched[float], count: int) -> list[float]:
        return [batches.next()[0] for _ in range(count)]

    first = numbers(Prefetched(np.random.Generator.random, seed=3), 6)
    assert len(set(first)) == 6
    again = Prefetched(np.random.Generator.random, seed=3)
    assert numbers(again, 2) == first[:2]
    again.skip_to(4)
    assert numbers(again, 2) == first[4:]
    assert again.made == 6
    assert numbers(Prefetched(np.random.Generator.random, seed=4), 6) != first
