"""Which model is used where nobody names one."""

from __future__ import annotations

import os

DEFAULT_MODEL = "auto"
EMBEDDED_MODEL = "fcclip-embedded"


def chosen_model(name: str) -> str:
    """``"auto"`` is the model that ``OVDEMO_MODEL`` names, else the embedded one; any other name is itself."""
    if name != DEFAULT_MODEL:
        return name
    preferred = os.environ.get("OVDEMO_MODEL", "").strip()
    return preferred if preferred not in ("", DEFAULT_MODEL) else EMBEDDED_MODEL
