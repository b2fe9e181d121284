"""A Hub on this machine: enough of its resolve protocol for the real ``huggingface_hub`` client, and faults on order.

``HEAD`` and ``GET /{owner}/{name}/resolve/{revision}/{file}`` answer with ``ETag``, ``X-Repo-Commit`` and lengths,
``Range`` with 206, what is not there with ``X-Error-Code``. A large file redirects to a second origin as the Hub does
to its storage. ``conftest.py`` makes the fixture ``hub`` known to every test.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub import file_download as hub_downloads
from huggingface_hub.utils import _http as hub_http
from huggingface_hub.utils import close_session

RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<filename>.+)")
RANGE = re.compile(r"bytes=(?P<start>\d+)-")


@dataclass(frozen=True)
class Answer:
    """Answer with this status instead of the file."""

    status: int
    error_code: str = ""


@dataclass(frozen=True)
class CutAfter:
    """Send so many bytes of the body, then close the connection."""

    count: int


@dataclass(frozen=True)
class Swap:
    """Send another body, with its own length, under the file's name and ETag."""

    body: bytes


Fault = Answer | CutAfter | Swap


@dataclass(frozen=True)
class Stored:
    body: bytes
    large: bool
    xet: bool

    @property
    def etag(self) -> str:
        algorithm = hashlib.sha256 if self.large else hashlib.sha1
        return algorithm(self.body).hexdigest()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class HubServer:
    """Files by ``(repo, revision, filename)``, faults yet to happen by method, and the requests seen."""

    files: dict[tuple[str, str, str], Stored] = field(default_factory=dict)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: {"HEAD": deque(), "GET": deque()})
    always: Fault | None = None
    requests: list[Request] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Go down: connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, repo: str, filename: str, body: bytes, *, large: bool = True, xet: bool = False) -> None:
        """Store a file at ``main``; a large one has a SHA-256 for its ETag, and only a Xet client may want more."""
        self.files[repo, "main", filename] = Stored(body, large, xet)

    def fail(self, method: str, *faults: Fault) -> None:
        """The next requests of that method end so, one after the other."""
        self.faults[method].extend(faults)

    def seen(self, method: str) -> list[Request]:
        """Requests for files; the client also asks for things of its own."""
        return [request for request in self.requests if request.method == method and "/api/" not in request.path]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        headers = self.headers
        self.hub.requests.append(Request(self.command, self.path, headers["Range"], headers["Authorization"]))
        if self.path.startswith("/api/"):
            return self._send(404, {})
        if self.path.startswith("/storage/"):
            stored = next(file for file in self.hub.files.values() if file.etag == self.path.removeprefix("/storage/"))
            return self._send_file(stored, self._next_fault())
        return self._resolve()

    def _resolve(self) -> None:
        place = RESOLVE.fullmatch(self.path)
        assert place is not None, self.path
        stored = self.hub.files.get((place["repo"], place["revision"], place["filename"]))
        redirected = stored is not None and stored.large and self.command == "GET"
        fault = None if redirected else self._next_fault()
        if isinstance(fault, Answer):
            return self._send_error(fault.status, fault.error_code)
        if stored is None:
            return self._send_error(*self._what_is_missing(place["repo"], place["revision"]))
        if stored.large:
            return self._redirect(stored, place)
        return self._send_file(stored, fault, self._commit(place))

    def _next_fault(self) -> Fault | None:
        queue = self.hub.faults[self.command]
        return queue.popleft() if queue else self.hub.always

    def _what_is_missing(self, repo: str, revision: str) -> tuple[int, str]:
        if not any(name == repo for name, _, _ in self.hub.files):
            return 401, "RepoNotFound"  # what the Hub tells those who do not log in, of private ones too
        if not any((name, at) == (repo, revision) for name, at, _ in self.hub.files):
            return 404, "RevisionNotFound"
        return 404, "EntryNotFound"

    @staticmethod
    def _commit(place: re.Match[str]) -> dict[str, str]:
        return {"X-Repo-Commit": hashlib.sha1(f"{place['repo']}@{place['revision']}".encode()).hexdigest()}

    def _redirect(self, stored: Stored, place: re.Match[str]) -> None:
        headers = {
            **self._commit(place),
            "X-Linked-Etag": f'"{stored.etag}"',
            "X-Linked-Size": str(len(stored.body)),
            # By name rather than by number, the same server is another origin.
            "Location": f"http://localhost:{self.hub.port}/storage/{stored.etag}",
        }
        if stored.xet:
            headers |= {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": f"{self.hub.url}/api/xet-read-token"}
        self._send(302, headers)

    def _send_error(self, status: int, error_code: str) -> None:
        self._send(status, {"X-Error-Code": error_code} if error_code else {})

    def _send_file(self, stored: Stored, fault: Fault | None, headers: dict[str, str] | None = None) -> None:
        if isinstance(fault, Answer):
            return self._send_error(fault.status, fault.error_code)
        body = fault.body if isinstance(fault, Swap) else stored.body
        status, headers = 200, {**(headers or {}), "ETag": f'"{stored.etag}"', "Accept-Ranges": "bytes"}
        if wanted := RANGE.match(self.headers["Range"] or ""):
            start = int(wanted["start"])
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        return self._send(status, headers, body, fault.count if isinstance(fault, CutAfter) else None)

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"", cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        self.close_connection = cut is not None


def aim(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Do to this process's client what ``HF_ENDPOINT`` does to one that starts."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture(name="hub")
def hub_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A local Hub and an empty cache, to which this process's client is turned; waits are noted instead of kept."""
    with HubServer() as server:
        aim(monkeypatch, server.url)
        for name, value in {
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": False,
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "AGENT_HARNESSES_PATH": str(tmp_path / "harnesses.json"),
            "DOWNLOAD_CHUNK_SIZE": 1024,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        for module in (hub_http, hub_downloads):
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=server.waits.append))
        close_session()
        yield server
        close_session()
