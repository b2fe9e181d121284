from __future__ import annotations

import time

import pytest

from ovdemo.stopwatch import STEPS, Step, Stopwatch


def test_steps_that_nobody_timed_count_as_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.5, 1.0, 1.25, 2.0, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    with watch.step("score"):
        pass
    with watch.step("score"):
        pass
    with pytest.raises(ZeroDivisionError), watch.step("merge"):
        _ = 1 / 0
    steps = {step.name: step for step in watch.steps}
    assert tuple(steps) == STEPS
    assert steps["score"] == Step("score", 750.0, cached=False)
    assert steps["merge"] == Step("merge", 0.0, cached=False)
    assert steps["encode"] == Step("encode", 0.0, cached=True)
