"""Downloads through the real Hub client from a local Hub: what arrives, what it costs, and how each failure reads."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from hub_server import Answer, CutAfter, HubServer, Swap, aim
from ovdemo import hub as ovdemo_hub
from ovdemo.checkpoints import HubFile
from ovdemo.hub import MissingFileError, fetch, fetch_first, is_cached
from sentences import failure

ROOT = Path(__file__).resolve().parents[1]
BODY = bytes(range(256)) * 32  # eight of the fixture's chunks
FILE = HubFile("someone/weights", "model.safetensors")


def files_left() -> list[Path]:
    """What a later load could find in the cache: blobs, whole or half, and names that point to them."""
    cache = Path(constants.HF_HUB_CACHE)
    return [path for folder in ("blobs", "snapshots") for path in cache.glob(f"*/{folder}/**/*") if not path.is_dir()]


@pytest.mark.parametrize("large", [True, False])
def test_fetch_brings_the_file_into_the_cache_with_its_bytes_counted(hub: HubServer, large: bool) -> None:
    hub.add(FILE.repo, FILE.filename, BODY, large=large)
    steps: list[tuple[int, int | None]] = []
    path = fetch(FILE, progress=lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == BODY
    assert path.is_relative_to(constants.HF_HUB_CACHE)
    assert steps == [(0, None)] + [(done, len(BODY)) for done in range(1024, len(BODY) + 1, 1024)]
    assert is_cached(FILE) == path


def test_progress_knows_a_stated_size_before_the_first_byte(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    steps: list[tuple[int, int | None]] = []
    fetch(HubFile(FILE.repo, FILE.filename, size=len(BODY)), progress=lambda *step: steps.append(step))
    assert steps[0] == (0, len(BODY))


def test_a_cached_file_is_taken_without_a_network(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    assert is_cached(FILE) is None
    path = fetch(FILE)
    seen = len(hub.requests)
    steps: list[tuple[int, int | None]] = []
    assert fetch(FILE, progress=lambda *step: steps.append(step)) == path
    assert fetch(FILE, local_only=True) == path
    assert (len(hub.requests), steps) == (seen, [])


def test_local_only_does_not_download(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    failure(lambda: fetch(FILE, local_only=True), "someone/weights/model.safetensors", "download it first")
    assert hub.requests == []


def test_xet_files_come_by_plain_http_and_the_setting_is_put_back(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY, xet=True)
    during: list[bool] = []
    path = fetch(FILE, progress=lambda *_: during.append(constants.HF_HUB_DISABLE_XET))
    assert path.read_bytes() == BODY
    assert not any("xet" in request.path for request in hub.requests)
    assert during[1:] == [True] * 8
    assert constants.HF_HUB_DISABLE_XET is False


def test_a_cut_connection_is_resumed_where_it_broke(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    hub.fail("GET", CutAfter(3 * 1024))
    steps: list[tuple[int, int | None]] = []
    path = fetch(FILE, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == BODY
    assert [request.range for request in hub.seen("GET")] == [None, "bytes=3072-"]
    assert steps[-1] == (len(BODY), len(BODY))


def test_a_server_error_is_tried_again(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    hub.fail("HEAD", Answer(500), Answer(503))
    assert fetch(FILE).read_bytes() == BODY
    assert len(hub.seen("HEAD")) == 3
    assert len(hub.waits) == 1


class StopError(Exception):
    """What a person's "cancel" raises."""


@pytest.mark.parametrize("reason", [StopError(), OSError(errno.ENOSPC, "not the disk's"), KeyboardInterrupt()])
def test_progress_stops_the_download_with_its_own_exception(hub: HubServer, reason: BaseException) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)

    def stop(done: int, _: int | None) -> None:
        if done >= 2048:
            raise reason

    with pytest.raises(type(reason)) as caught:
        fetch(FILE, progress=stop)
    assert caught.value is reason
    assert files_left() == []
    assert fetch(FILE).read_bytes() == BODY


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (Answer(404, "RepoNotFound"), ("check the name", "HF_TOKEN")),
        (Answer(401, "RepoNotFound"), ("private", "HF_TOKEN")),
        (Answer(401), ("HF_TOKEN",)),
        (Answer(403, "GatedRepo"), ("gated", "accept its terms", "HF_TOKEN")),
        (Answer(403), ("refused access", "HTTP 403", "HF_TOKEN")),
        (Answer(404, "RevisionNotFound"), ("no revision main",)),
        (Answer(404, "EntryNotFound"), ("has no file", "check the name")),
        (Answer(404), ("HTTP 404",)),
        (Answer(429), ("too many requests",)),
        (Answer(500), ("HTTP 500", "try again later")),
        (Answer(302), ("check HF_ENDPOINT",)),
    ],
)
def test_refusals_name_the_file_and_the_way_out(hub: HubServer, fault: Answer, parts: tuple[str, ...]) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    hub.always = fault
    failure(lambda: fetch(FILE), "someone/weights", "model.safetensors", "--checkpoint FILE", *parts)
    assert files_left() == []


@pytest.mark.parametrize(
    ("file", "part"),
    [
        (HubFile("someone/else", FILE.filename), "does not exist"),
        (HubFile(FILE.repo, FILE.filename, revision="v9"), "no revision v9"),
        (HubFile(FILE.repo, "other.bin"), "no file other.bin"),
    ],
)
def test_what_is_not_on_the_hub(hub: HubServer, file: HubFile, part: str) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    failure(lambda: fetch(file), file.filename, part)


def test_a_server_error_in_the_middle(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    hub.fail("GET", Answer(502))
    failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "HTTP 502")
    assert files_left() == []


def test_a_connection_that_keeps_breaking(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    hub.always = CutAfter(100)
    failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "connection", "check the network")
    assert len(hub.seen("GET")) == 6
    assert files_left() == []


def test_no_network(hub: HubServer) -> None:
    hub.close()
    failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "check the network", "--checkpoint FILE")
    assert sum(hub.waits) > 0
    assert files_left() == []


@pytest.mark.parametrize("endpoint", ["no scheme", "http://127.0.0.1:port", "ftp://127.0.0.1"])
def test_a_wrong_endpoint(hub: HubServer, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    aim(monkeypatch, endpoint)
    failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "check HF_ENDPOINT")


def test_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "unset HF_HUB_OFFLINE", "--checkpoint FILE")
    assert hub.requests == []


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"x"])
def test_another_length_than_announced(hub: HubServer, body: bytes) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    hub.fail("GET", Swap(body))
    failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "another length", "download it again")
    assert files_left() == []


def test_other_bytes_than_the_hub_promised_are_removed(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    hub.fail("GET", Swap(bytes(len(BODY))))
    failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "SHA-256", "download it again")
    assert files_left() == []
    assert fetch(FILE).read_bytes() == BODY


def test_a_damaged_cache_heals_once_the_file_is_deleted(hub: HubServer) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    path = fetch(FILE)
    path.resolve().write_bytes(bytes(len(BODY)))
    path.unlink()  # a link only: the bytes stay, and the client would link to them again
    failure(lambda: fetch(FILE), "SHA-256", "download it again")
    assert fetch(FILE).read_bytes() == BODY


@pytest.mark.parametrize("large", [True, False])
def test_other_bytes_than_ovdemo_knows_are_removed(hub: HubServer, large: bool) -> None:
    hub.add(FILE.repo, FILE.filename, BODY, large=large)
    known = HubFile(FILE.repo, FILE.filename, sha256=hashlib.sha256(b"other").hexdigest())
    failure(lambda: fetch(known), "SHA-256")
    assert files_left() == []
    fetch(FILE)
    failure(lambda: fetch(known, local_only=True), "SHA-256")
    assert files_left() == []
    right = HubFile(FILE.repo, FILE.filename, sha256=hashlib.sha256(BODY).hexdigest().upper())
    assert fetch(right).read_bytes() == BODY


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
def test_a_disk_too_small_is_seen_before_the_first_byte(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    steps: list[int] = []
    monkeypatch.setattr(ovdemo_hub, "free_bytes", lambda _: len(BODY) - 1)
    monkeypatch.setattr("ovdemo.checkpoints.free_bytes", lambda _: len(BODY) - 1)
    action = lambda: fetch(FILE, progress=lambda done, _: steps.append(done))  # noqa: E731
    failure(action, "someone/weights/model.safetensors", "free at least 1 MB", "HF_HOME")
    assert steps == [0]
    assert files_left() == []


def test_a_disk_that_fills_up(hub: HubServer) -> None:
    resource = pytest.importorskip("resource")
    body = bytes(1 << 20)
    hub.add(FILE.repo, FILE.filename, body)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(body) // 2, hard))  # the system's own refusal, halfway
    try:
        failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "does not fit on the disk", "free ")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_left() == []
    assert fetch(FILE).read_bytes() == body


def test_a_cache_that_cannot_be_made(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    failure(lambda: fetch(FILE), "someone/weights/model.safetensors", "cannot be written", "HF_HOME")


NAMES = tuple(HubFile("someone/clip", name) for name in ("a.safetensors", "b.safetensors", "c.bin"))


@pytest.mark.parametrize("present", NAMES)
def test_fetch_first_moves_on_where_a_name_is_missing(hub: HubServer, present: HubFile) -> None:
    hub.add(present.repo, present.filename, BODY)
    path = fetch_first(NAMES)
    assert (path.name, path.read_bytes()) == (present.filename, BODY)
    assert len(hub.seen("HEAD")) == NAMES.index(present) + 1


def test_fetch_first_prefers_what_is_cached(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAMES[1].repo, NAMES[1].filename, BODY)
    path = fetch_first(NAMES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_first(NAMES) == path
    assert fetch_first(NAMES, local_only=True) == path


def test_fetch_first_stops_at_any_other_failure(hub: HubServer) -> None:
    hub.add(NAMES[1].repo, NAMES[1].filename, BODY)
    hub.fail("HEAD", Answer(403, "GatedRepo"))
    error = failure(lambda: fetch_first(NAMES), "someone/clip/a.safetensors", "gated")
    assert not isinstance(error, MissingFileError)
    assert len(hub.seen("HEAD")) == 1


def test_fetch_first_names_all_that_are_missing(hub: HubServer) -> None:
    hub.add("someone/clip", "unrelated.txt", b"")
    failure(lambda: fetch_first(NAMES), *map(str, NAMES), "--checkpoint FILE")


SCRIPT = """
import sys
from ovdemo.checkpoints import HubFile
from ovdemo.errors import UserError
from ovdemo.hub import fetch
for name in sys.argv[1:]:
    try:
        print(fetch(HubFile("someone/weights", name)))
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_as_people_run_it_with_environment_variables(hub: HubServer, tmp_path: Path) -> None:
    hub.add(FILE.repo, FILE.filename, BODY)
    cache = tmp_path / "elsewhere"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    setting = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_mine"}

    def run(*names: str, **more: str) -> list[str]:
        command = [sys.executable, "-c", SCRIPT, *names]
        environment = {**inherited, **setting, **more}
        result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    [path] = run(FILE.filename)
    assert Path(path).is_relative_to(cache)
    assert Path(path).read_bytes() == BODY
    assert hub.seen("HEAD")[0].token == "Bearer hf_mine"
    assert hub.seen("GET")[0].token is None  # another origin must not see it
    hub.requests.clear()
    cached, sentence = run(FILE.filename, "other.bin", HF_HUB_OFFLINE="1")
    assert cached == path
    assert "someone/weights/other.bin" in sentence
    assert "HF_HUB_OFFLINE" in sentence
    assert hub.requests == []
