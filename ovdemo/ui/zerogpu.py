"""Hugging Face ZeroGPU: a GPU lent call by call, in a forked process that keeps nothing.

https://huggingface.co/docs/hub/spaces-zerogpu
"""

from __future__ import annotations

import importlib
import os

from ovdemo.workbench import Accelerate

_SECONDS = 60  # that one call may take


def accelerate() -> Accelerate | None:
    """The decorator of the package ``spaces`` where it is installed and the Space has ZeroGPU, else None."""
    if not os.environ.get("SPACES_ZERO_GPU"):
        return None
    try:
        spaces = importlib.import_module("spaces")
    except ImportError:
        return None
    wrap: Accelerate = spaces.GPU(duration=_SECONDS)
    return wrap
