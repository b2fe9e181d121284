"""What every error for people must be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ovdemo.errors import UserError


def failure(action: Callable[[], object], *parts: str) -> UserError:
    """The error of an action, checked to be one sentence with these parts."""
    with pytest.raises(UserError) as caught:
        action()
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert ". " not in sentence
    for part in parts:
        assert part in sentence
    return caught.value
