"""The real app in a process of its own, with the embedded model, and Debian's Chromium to look at it.

``conftest.py`` makes the fixtures ``app`` and ``browser`` known to every test. One of each serves a whole run.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds until the default model is loaded: about ten on an idle machine, far more beside other work
PAGE_PATIENCE = 60  # seconds until a page must show what is expected; what is there is seen at once
TICK = 0.2  # seconds between two looks


@dataclass(frozen=True)
class AppServer:
    """A running app."""

    url: str
    log_file: Path
    has_mcp: bool

    @property
    def log(self) -> str:
        """What it has printed until now."""
        return self.log_file.read_text("utf-8", errors="replace")


@contextmanager
def running_app(folder: Path) -> Iterator[AppServer]:
    """The app on a free port, ready, with its caches in ``folder``, no Hub, and MCP where that is installed."""
    port, has_mcp = _free_port(), find_spec("mcp") is not None
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OVDEMO_", "GRADIO_"))}
    environment |= {
        "OVDEMO_CACHE": str(folder / "cache"),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu", *(["--mcp"] if has_mcp else [])]
    server = AppServer(f"http://127.0.0.1:{port}", folder / "app.log", has_mcp)
    with server.log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Debian's Chromium; Playwright downloads nothing."""
    program = shutil.which("chromium")
    assert program, "This needs Chromium: tests/run installs it, or do it with apt-get install chromium."
    expect.set_options(timeout=1000 * PAGE_PATIENCE)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


def _wait_until_ready(server: AppServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if httpx2.get(f"{server.url}/readyz", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass  # it does not listen yet
        try:
            process.wait(timeout=TICK)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"The app did not get ready; it said:\n{server.log[-4000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def _one_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with running_app(tmp_path_factory.mktemp("app")) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser; every test opens contexts of its own in it."""
    with running_chromium() as running:
        yield running


@pytest.fixture
def app(_one_app: AppServer) -> Iterator[AppServer]:
    """The running app; whatever a test asks of it, its log must show no traceback."""
    before = len(_one_app.log)
    yield _one_app
    assert "Traceback" not in _one_app.log[before:], _one_app.log[before:]
