from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

pytest_plugins = ("app_server", "hub_server", "tiny")

settings.register_profile("ovdemo", derandomize=True, deadline=None)
settings.load_profile("ovdemo")

HERE = Path(__file__).parent
PARITY = Path(os.environ.get("OVDEMO_PARITY_DIR", HERE.parents[1] / "shared" / "parity"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the caches of the person who runs it."""
    monkeypatch.setenv("OVDEMO_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
