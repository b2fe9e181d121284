from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovdemo.caching import BoundedCache


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def texts(max_bytes: int = 10, max_age: float = float("inf"), clock: Clock | None = None) -> BoundedCache[str]:
    return BoundedCache(max_bytes, len, max_age=max_age, clock=clock or Clock())


def fill(cache: BoundedCache[str], **sizes: int) -> None:
    for key, size in sizes.items():
        cache.get(key, lambda size=size: "x" * size)


def refuse() -> str:
    raise AssertionError("this must not be made")


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_what_was_asked_for_longest_ago_makes_room() -> None:
    cache = texts(10)
    fill(cache, a=4, b=4)
    cache.get("a", refuse)
    fill(cache, c=4)
    assert cache.peek("b") is None
    assert (cache.peek("a"), cache.peek("c")) == ("xxxx", "xxxx")
    assert (len(cache), cache.bytes) == (2, 8)
    assert "a" in cache
    assert "b" not in cache


def test_the_last_one_stays_even_if_it_is_too_large() -> None:
    cache = texts(10)
    fill(cache, a=4, b=50)
    assert (len(cache), cache.bytes) == (1, 50)
    fill(cache, c=1)
    assert (len(cache), cache.bytes) == (1, 1)


def test_age_counts_from_the_last_question() -> None:
    clock = Clock()
    cache = texts(max_age=5, clock=clock)
    fill(cache, a=1, b=1)
    clock.now = 4
    assert cache.peek("a") == "x"
    clock.now = 6
    assert cache.peek("b") is None
    assert cache.get("a", refuse) == "x"
    clock.now = 12
    assert cache.get("a", lambda: "new") == "new"


def test_what_takes_longer_than_its_age_is_kept() -> None:
    clock = Clock()
    cache = texts(max_age=5, clock=clock)

    def slowly() -> str:
        clock.now += 100
        return "x"

    cache.get("a", slowly)
    assert cache.get("a", refuse) == "x"


def test_threads_share_one_making_and_others_do_not_wait() -> None:
    cache = texts()
    began, go = threading.Event(), threading.Event()
    made: list[str] = []
    got: list[str] = []

    def make() -> str:
        made.append("once")
        began.set()
        assert go.wait(10)
        return "value"

    threads = [in_thread(lambda: got.append(cache.get("a", make))) for _ in range(4)]
    assert began.wait(10)
    assert cache.get("b", lambda: "other") == "other"
    assert cache.peek("a") is None
    assert (len(cache), cache.bytes) == (1, 5)
    go.set()
    for thread in threads:
        thread.join(10)
    assert got == ["value"] * 4
    assert made == ["once"]


@pytest.mark.parametrize("disturb", ["crowd", "age", "forget"])
def test_what_is_being_made_is_not_dropped(disturb: str) -> None:
    clock = Clock()
    cache = texts(10, max_age=5, clock=clock)

    def make() -> str:
        if disturb == "crowd":
            fill(cache, b=9, c=9)
        elif disturb == "age":
            clock.now = 100
            fill(cache, b=1)
        else:
            fill(cache, b=1)
            cache.forget()
            assert cache.peek("b") is None
        return "a" * 5

    cache.get("a", make)
    assert cache.get("a", refuse) == "a" * 5
    assert cache.bytes <= 10


def test_a_failed_making_is_not_kept_and_who_waited_tries_again() -> None:
    cache = texts()
    began, go = threading.Event(), threading.Event()
    errors: list[Exception] = []
    got: list[str] = []

    def fail() -> str:
        began.set()
        assert go.wait(10)
        raise ValueError("no")

    def first() -> None:
        try:
            cache.get("a", fail)
        except ValueError as error:
            errors.append(error)

    threads = [in_thread(first)]
    assert began.wait(10)
    threads.append(in_thread(lambda: got.append(cache.get("a", lambda: "second"))))
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 1
    assert got == ["second"]
    assert cache.get("a", refuse) == "second"


def test_a_value_that_cannot_be_measured_is_not_kept() -> None:
    cache: BoundedCache[str] = BoundedCache(10, int)
    with pytest.raises(ValueError, match="invalid literal"):
        cache.get("a", lambda: "no number")
    assert cache.get("a", lambda: "7") == "7"
    assert cache.bytes == 7


def test_forget_drops_what_belongs() -> None:
    cache = texts()
    fill(cache, a=1, b=2, c=3)
    cache.forget(lambda key: key in ("a", "c"))
    assert (len(cache), cache.bytes, cache.peek("b")) == (1, 2, "xx")
    cache.forget()
    assert (len(cache), cache.bytes) == (0, 0)


class Model:
    """The same bounds, one thread, nothing clever."""

    def __init__(self, max_bytes: int, max_age: float) -> None:
        self.max_bytes, self.max_age = max_bytes, max_age
        self.kept: OrderedDict[int, tuple[int, float]] = OrderedDict()

    def expire(self, now: float) -> None:
        self.kept = OrderedDict((k, v) for k, v in self.kept.items() if now - v[1] <= self.max_age)

    def get(self, key: int, size: int, now: float) -> int:
        self.expire(now)
        size = self.kept.pop(key, (size, now))[0]
        self.kept[key] = (size, now)
        while len(self.kept) > 1 and sum(s for s, _ in self.kept.values()) > self.max_bytes:
            self.kept.popitem(last=False)
        return size

    def peek(self, key: int, now: float) -> int | None:
        self.expire(now)
        if key not in self.kept:
            return None
        self.kept[key] = (self.kept.pop(key)[0], now)
        return self.kept[key][0]


_STEPS = st.tuples(st.sampled_from(["get", "peek", "forget", "wait", "fail"]), st.integers(0, 4), st.integers(0, 8))


@given(st.lists(_STEPS, max_size=40), st.integers(0, 12), st.integers(0, 12))
def test_it_does_what_a_plain_model_does(steps: list[tuple[str, int, int]], max_bytes: int, max_age: int) -> None:
    clock, model = Clock(), Model(max_bytes, max_age)
    cache: BoundedCache[int] = BoundedCache(max_bytes, lambda size: size, max_age=max_age, clock=clock)
    for step, key, size in steps:
        if step == "get":
            assert cache.get(key, lambda size=size: size) == model.get(key, size, clock.now)
        elif step == "peek":
            assert cache.peek(key) == model.peek(key, clock.now)
        elif step == "forget":
            cache.forget(lambda one, key=key: one == key)
            model.kept.pop(key, None)
        elif step == "fail":
            known = model.peek(key, clock.now)
            if known is None:
                with pytest.raises(ZeroDivisionError):
                    cache.get(key, lambda: 1 // 0)
            else:
                assert cache.get(key, lambda: 1 // 0) == known
        else:
            clock.now += size
        assert len(cache) == len(model.kept)
        assert cache.bytes == sum(s for s, _ in model.kept.values())
