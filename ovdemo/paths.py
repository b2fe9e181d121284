"""Where the project keeps what is not code."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "assets"
CHECKPOINTS = ROOT / "checkpoints"


def cache_dir() -> Path:
    """The folder for what can be computed again: ``OVDEMO_CACHE`` where it is set, else the user's cache folder.

    It is read at every call, and nothing is created: who writes there makes the folder.
    """
    configured = os.environ.get("OVDEMO_CACHE")
    return Path(configured).expanduser() if configured else Path(platformdirs.user_cache_dir("ovdemo"))
