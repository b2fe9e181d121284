"""Results that are kept while there is room: bounded by bytes and by age, made once however many ask."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


@dataclass(eq=False)
class _Slot(Generic[_Value]):
    """A place for a result: threads that want the same one queue at its lock and find it made."""

    lock: threading.Lock
    value: _Value | None = None
    size: int = 0
    used: float = 0.0
    failed: bool = False


class BoundedCache(Generic[_Value]):
    """The results that were asked for last, by key. Safe to use from many threads.

    Threads that ask for one key share its making; other keys do not wait for it. What falls out of the cache stays
    alive in whoever still holds it.
    """

    def __init__(
        self,
        max_bytes: int,
        size_of: Callable[[_Value], int],
        *,
        max_age: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the bounds.

        Args:
            max_bytes: of all results together; the last one is kept even if it alone is larger.
            size_of: bytes of a result.
            max_age: seconds since a result was last asked for.
            clock: seconds.
        """
        self._max_bytes, self._size_of, self._max_age, self._clock = max_bytes, size_of, max_age, clock
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot[_Value]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """The result for a key, made unless it is there. What ``make`` raises passes through; nothing is kept then."""
        while True:
            with self._lock:
                self._drop_old()
                slot = self._slots.setdefault(key, _Slot(threading.Lock()))
                self._touch(key, slot)
            with slot.lock:
                if slot.failed:  # while this thread waited: its own try needs a slot that is still in the cache
                    continue
                return self._make(key, slot, make) if slot.value is None else slot.value

    def peek(self, key: Hashable) -> _Value | None:
        """The result for a key where it is there; nothing is made, and nobody is waited for."""
        with self._lock:
            self._drop_old()
            slot = self._slots.get(key)
            if slot is None or slot.value is None:
                return None
            self._touch(key, slot)
            return slot.value

    def values(self) -> list[_Value]:
        """All results that are kept, the one that was asked for last at the end."""
        with self._lock:
            return [slot.value for slot in self._slots.values() if slot.value is not None]

    def forget(self, belongs: Callable[[Hashable], bool] = lambda key: True) -> None:
        """Drop the results whose keys belong, by default all; what is being made meanwhile stays."""
        with self._lock:
            for key in [key for key, slot in self._slots.items() if slot.value is not None and belongs(key)]:
                del self._slots[key]

    @property
    def bytes(self) -> int:
        """Of all results that are kept."""
        with self._lock:
            return sum(slot.size for slot in self._slots.values())

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._slots

    def __len__(self) -> int:
        with self._lock:
            return sum(slot.value is not None for slot in self._slots.values())

    def _make(self, key: Hashable, slot: _Slot[_Value], make: Callable[[], _Value]) -> _Value:
        try:
            value = make()
            size = self._size_of(value)
        except BaseException:
            slot.failed = True
            with self._lock:
                del self._slots[key]
            raise
        with self._lock:
            slot.value, slot.size = value, size
            self._touch(key, slot)  # making may have taken long
            self._drop_large()
        return value

    def _touch(self, key: Hashable, slot: _Slot[_Value]) -> None:
        slot.used = self._clock()
        self._slots.move_to_end(key)

    def _drop_old(self) -> None:
        oldest = self._clock() - self._max_age
        for key in [key for key, slot in self._slots.items() if slot.used < oldest and slot.value is not None]:
            del self._slots[key]

    def _drop_large(self) -> None:
        made = [(key, slot.size) for key, slot in self._slots.items() if slot.value is not None]
        excess = sum(size for _, size in made) - self._max_bytes
        for key, size in made[:-1]:
            if excess <= 0:
                return
            del self._slots[key]
            excess -= size
