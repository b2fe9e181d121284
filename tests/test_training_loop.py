"""The training loop: budget, resuming, curves; and batches made in the background."""

from __future__ import annotations

import argparse
import copy
import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovdemo.commands.train import _drawing_seed
from ovdemo.errors import UserError
from ovdemo.training import loop
from ovdemo.training.loop import learning_rate, train
from ovdemo.training.optimiser import MatrixOptimiser
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


def test_batches_depend_on_seed_number_and_share() -> None:
    def draw(random: np.random.Generator, share: float) -> float:
        return share + random.random()

    def numbers(batches: Prefetched[float], count: int, share: float = 0) -> list[float]:
        return [batches.next(share)[0] for _ in range(count)]

    first = numbers(Prefetched(draw, seed=3), 6)
    assert len(set(first)) == 6
    assert numbers(Prefetched(draw, seed=3), 6, share=0.5) == [0.5 + number for number in first]
    again = Prefetched(draw, seed=3)
    assert numbers(again, 2) == first[:2]
    again.skip_to(4)
    assert numbers(again, 2) == first[4:]
    assert again.made == 6
    assert numbers(Prefetched(draw, seed=4), 6) != first


def toy_network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.Conv2d(16, 16, 7, padding=3, groups=16))
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(16, 64, 1), torch.nn.Flatten(), torch.nn.Linear(64 * 16, 4))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_optimiser_moves_every_weight_and_goes_on_as_if_it_had_not_stopped(layout: torch.memory_format) -> None:
    pictures = torch.randn(16, 8, 4, 4)
    targets = pictures.mean((2, 3))[:, :4] * 5

    def loss(network: torch.nn.Module) -> Tensor:
        return torch.nn.functional.mse_loss(network(pictures), targets)

    network = toy_network().to(memory_format=layout)
    start = {name: x.clone() for name, x in network.named_parameters()}
    optimiser = MatrixOptimiser(network, decay=0.01)
    first = loss(network).item()
    for _ in range(30):
        optimiser.step(loss(network), 0.01)
    assert loss(network).item() < 0.3 * first
    assert not any(torch.equal(start[name], x) for name, x in network.named_parameters())
    second = toy_network().to(memory_format=layout)
    resumed = MatrixOptimiser(second, decay=0.01)
    second.load_state_dict(network.state_dict())
    resumed.restore(copy.deepcopy(optimiser.state()))
    for _ in range(2):
        optimiser.step(loss(network), 0.01)
        resumed.step(loss(second), 0.01)
    for name, x in network.named_parameters():
        torch.testing.assert_close(second.get_parameter(name), x)


def test_a_matrix_steps_the_same_in_every_direction() -> None:
    """Muon's point: however unequal a gradient's singular values, those of the step are nearly equal."""
    layer = torch.nn.Linear(64, 48)
    before = layer.weight.detach().clone()
    left, _ = torch.linalg.qr(torch.randn(48, 48))
    right, _ = torch.linalg.qr(torch.randn(64, 48))
    gradient = left @ torch.diag(torch.logspace(0, -1.5, 48)) @ right.T
    MatrixOptimiser(layer, decay=0.0).step((layer.weight * gradient).sum(), 0.01)
    values = torch.linalg.svdvals(before - layer.weight.detach())
    assert values.max() / values.median() < 2
    assert torch.linalg.svdvals(gradient).max() / torch.linalg.svdvals(gradient).median() > 5


def test_matrices_move_as_pytorchs_muon_moves_them_but_for_rounding() -> None:
    ours, theirs = torch.nn.Linear(64, 48), torch.nn.Linear(64, 48)
    theirs.load_state_dict(ours.state_dict())
    start, inputs = ours.weight.detach().clone(), torch.randn(32, 64)
    options = {"weight_decay": 0.1, "momentum": 0.9, "ns_steps": 4, "adjust_lr_fn": "match_rms_adamw"}
    reference = torch.optim.Muon([theirs.weight], lr=0.01, **options)
    optimiser = MatrixOptimiser(ours, decay=0.1)
    for _ in range(3):
        optimiser.step(ours(inputs).sigmoid().mean(), 0.01)
        reference.zero_grad()
        theirs(inputs).sigmoid().mean().backward()
        reference.step()
        theirs.bias.data.copy_(ours.bias.data)  # AdamW moves it in ours
    moved, wanted = ours.weight.detach() - start, theirs.weight.detach() - start
    assert (moved - wanted).norm() < 0.05 * wanted.norm()


def test_training_that_goes_on_from_weights_draws_anew(tmp_path: Path) -> None:
    def seed(start: Path | None, number: int = 3) -> int:
        return _drawing_seed(argparse.Namespace(seed=number, start=start))

    for name in ("first", "second"):
        (tmp_path / name).write_text(f"{name} weights", "utf-8")
    assert seed(None) == 3
    assert seed(tmp_path / "first") == seed(tmp_path / "first")
    assert len({seed(tmp_path / "first"), seed(tmp_path / "second"), seed(tmp_path / "first", 4), 3}) == 4
