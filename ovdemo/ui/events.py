"""How events of the page run. They are no interface for programs; that is :mod:`ovdemo.ui.api`."""

from __future__ import annotations

from typing import Any

OURS: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LIVE: dict[str, Any] = {**OURS, "trigger_mode": "always_last", "concurrency_id": "live", "concurrency_limit": 4}
"""From cached proposals; while one runs, only the last of those that come meanwhile is run after it."""

BACKGROUND: dict[str, Any] = {**OURS, "concurrency_id": "background", "concurrency_limit": 1}
"""Minutes of encoding words; with progress, and it can be stopped."""

HEAVY: dict[str, Any] = {**OURS, "concurrency_id": "heavy", "concurrency_limit": 1}
"""Through the network: one at a time, whoever asks."""
