"""How events of the page run. They are no interface for programs; that is :mod:`ovdemo.ui.api`."""

from __future__ import annotations

from typing import Any

LIVE_QUEUE: dict[str, Any] = {"concurrency_id": "live", "concurrency_limit": 4}
"""From cached proposals; the network only where those were forgotten meanwhile."""

HEAVY_QUEUE: dict[str, Any] = {"concurrency_id": "heavy", "concurrency_limit": 1}
"""Through the network: one at a time, whoever asks."""

BACKGROUND_QUEUE: dict[str, Any] = {"concurrency_id": "background", "concurrency_limit": 1}
"""Minutes of encoding words; with progress, and it can be stopped."""

FILES_QUEUE: dict[str, Any] = {"concurrency_id": "files", "concurrency_limit": 1}
"""Compressing what is to be kept takes seconds for a large picture."""

OURS: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
HEAVY: dict[str, Any] = {**OURS, **HEAVY_QUEUE}
BACKGROUND: dict[str, Any] = {**OURS, **BACKGROUND_QUEUE}
FILES: dict[str, Any] = {**OURS, **FILES_QUEUE}
LIVE: dict[str, Any] = {**OURS, **LIVE_QUEUE, "trigger_mode": "always_last"}
"""While one runs, only the last of those that come meanwhile is run after it."""

POINT: dict[str, Any] = {**OURS, **LIVE_QUEUE, "trigger_mode": "multiple"}
"""Of events that carry data, such as where was clicked: a run that had to wait would be sent the first one's."""

FEATURES: dict[str, Any] = {**OURS, "concurrency_id": "features", "concurrency_limit": 1}
"""Grids of many passes, and downloads of gigabytes: whoever only wants segments does not wait for these."""
