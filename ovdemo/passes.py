"""One heavy pass at a time in the whole process."""

from __future__ import annotations

import threading

ONE_PASS = threading.Lock()
"""Held during a pass through an image network: two side by side are slower than one after the other, and need twice
the memory."""
