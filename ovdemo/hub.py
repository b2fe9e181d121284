"""Files from the Hugging Face Hub: into its standard cache, with progress, and one sentence for each failure.

The environment variables of ``huggingface_hub`` hold: ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``,
``HF_ENDPOINT`` (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import httpx2
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ovdemo.checkpoints import NO_ROOM, HubFile, free_bytes, room_to_make
from ovdemo.errors import UserError

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have arrived and the bytes in all, where known; what it raises stops the download."""

_BY_HAND = "or place the file yourself and pass it with --checkpoint FILE"


class MissingFileError(UserError):
    """The repository and its revision are there, the file is not."""


def fetch(file: HubFile, *, progress: Progress | None = None, local_only: bool = False) -> Path:
    """The path of a file in the Hub cache, downloaded where it is not there yet.

    A cached file is taken as it is, without asking the Hub, so that weights neither change nor need a network from
    one start to the next. A connection that breaks is resumed, as ``huggingface_hub`` does. The content is checked
    against ``file.sha256`` where known, and after a download against the Hub's own checksum where it gives one.

    Args:
        file: what to fetch.
        progress: called before, during and after a download, from this thread. What it raises passes through and
            stops the download; nothing remains of it.
        local_only: never use the network.

    Raises:
        MissingFileError: the repository has no such file.
        UserError: the file cannot be had for any other reason, or is not what it should be.
    """
    path = is_cached(file)
    if path is not None:
        _verify(path, file, file.sha256)
        return path
    if local_only:
        raise UserError(f"{file} is not in the Hub cache {constants.HF_HUB_CACHE}: download it first, {_BY_HAND}.")
    path = _download(file, progress)
    _verify(path, file, file.sha256 or _hub_sha256(path))
    return path


def fetch_first(candidates: Sequence[HubFile], *, progress: Progress | None = None, local_only: bool = False) -> Path:
    """The first of several names for the same thing: one that is cached, else the first one the Hub has.

    Only a missing file leads on to the next candidate; every other failure is an error.

    Raises:
        UserError: as :func:`fetch`, or none of the candidates exists.
    """
    cached = [file for file in candidates if is_cached(file) is not None]
    for file in cached or candidates:
        try:
            return fetch(file, progress=progress, local_only=local_only)
        except MissingFileError:
            continue
    names = " nor ".join(map(str, candidates))
    raise MissingFileError(f"The Hub has neither {names}: check the names, {_BY_HAND}.")


def is_cached(file: HubFile) -> Path | None:
    """The file's path in the Hub cache, or None; never uses the network."""
    found = try_to_load_from_cache(file.repo, file.filename, cache_dir=constants.HF_HUB_CACHE, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


class _Meter:
    """What ``huggingface_hub`` takes for its progress bar: counts bytes and hands them on, printing nothing."""

    def __init__(self, file: HubFile, progress: Progress | None) -> None:
        self.total = file.size
        self.done = 0
        self.stopped_by: BaseException | None = None
        self._progress = progress

    def open(self, *, total: int | None = None, initial: int = 0, **_: object) -> _Meter:
        """Stands in for the class of the bar: called once the server has said how much is coming."""
        self.total = total or self.total
        self.done = initial
        if self.total is not None and free_bytes(Path(constants.HF_HUB_CACHE)) < self.total - initial:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self

    def update(self, count: int) -> None:
        self.done += count
        self.report()

    def report(self) -> None:
        if self._progress is None:
            return
        try:
            self._progress(self.done, self.total)
        except BaseException as reason:
            self.stopped_by = reason
            raise

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _PlainHttp:
    """While one of our downloads runs, ``huggingface_hub`` uses plain HTTP rather than the Xet transport.

    Xet swallows what a progress callback raises and downloads on, and its only way to stop ends every other download
    of the process (https://github.com/huggingface/huggingface_hub/issues/4632). There is no argument for it, only
    the constant, which is put back when the last download ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._configured = False

    def __enter__(self) -> None:
        with self._lock:
            if self._running == 0:
                self._configured = constants.HF_HUB_DISABLE_XET
                constants.HF_HUB_DISABLE_XET = True
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                constants.HF_HUB_DISABLE_XET = self._configured


_PLAIN_HTTP = _PlainHttp()


def _download(file: HubFile, progress: Progress | None) -> Path:
    meter = _Meter(file, progress)
    meter.report()
    try:
        with _PLAIN_HTTP:
            path = hf_hub_download(
                file.repo,
                file.filename,
                revision=file.revision,
                cache_dir=constants.HF_HUB_CACHE,
                endpoint=constants.ENDPOINT,
                tqdm_class=cast(Any, meter.open),
            )
    except Exception as error:
        explained = None if error is meter.stopped_by else _explain(error, file, meter.total)
        if explained is None:
            raise
        raise explained from error
    return Path(path)


def _verify(path: Path, file: HubFile, sha256: str | None) -> None:
    """Remove a file whose content is not the expected one, so that no later load takes it for good."""
    if sha256 is None:
        return
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual == sha256.lower():
        return
    for place in (path.resolve(), path):
        place.unlink(missing_ok=True)
    raise UserError(
        f"{file} is damaged or not the file it should be (SHA-256 {actual[:12]}… instead of {sha256[:12]}…) and was "
        f"removed from the Hub cache: download it again, {_BY_HAND}."
    )


def _hub_sha256(path: Path) -> str | None:
    """The checksum under which the cache keeps a large file: its blob's name, which is the ETag the Hub gave.

    Small files have a git hash there, and a cache without symbolic links keeps no such name.
    """
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


def _explain(error: Exception, file: HubFile, size: int | None) -> UserError | None:
    """The sentence for what went wrong in ``huggingface_hub``, or None for what nobody foresaw."""
    cause: BaseException = error
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        cause = error.__cause__
    match cause:
        case OfflineModeIsEnabled():
            where = f"is not in the Hub cache {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE forbids to download it"
            return UserError(f"{file} {where}: unset HF_HUB_OFFLINE, {_BY_HAND}.")
        case HfHubHTTPError():
            return _explain_refusal(cause, file)
        case FileMetadataError() | httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            where = f"{constants.ENDPOINT} does not answer as a Hub does"
            return UserError(
                f"{file} cannot be downloaded because {where}: check HF_ENDPOINT and the proxy, {_BY_HAND}."
            )
        case httpx2.HTTPError():
            where = f"the connection to {constants.ENDPOINT} failed"
            return UserError(f"{file} cannot be downloaded because {where}: check the network, {_BY_HAND}.")
        case OSError():
            return _explain_disk(cause, file, size)
        case _:
            return None


def _explain_refusal(error: HfHubHTTPError, file: HubFile) -> UserError:
    status = error.response.status_code
    page = f"{constants.ENDPOINT}/{file.repo}"
    match error:
        case RemoteEntryNotFoundError():
            return MissingFileError(
                f"{page} has no file {file.filename} at {file.revision}: check the name, {_BY_HAND}."
            )
        case RevisionNotFoundError():
            text = f"{page} has no revision {file.revision} from which to download {file.filename}: check the revision"
        case GatedRepoError():
            text = f"{file} is gated: accept its terms at {page} and set HF_TOKEN to your access token"
        case RepositoryNotFoundError():
            text = f"{file} is private or its repository does not exist: check the name, set HF_TOKEN"
        case _ if status in (401, 403):
            text = f"The Hub refused access to {file} (HTTP {status}): set HF_TOKEN to a token that may read it"
        case _ if status == 429:
            text = f"The Hub refused {file} after too many requests (HTTP 429): wait a few minutes, set HF_TOKEN"
        case _:
            text = f"The Hub failed to serve {file} (HTTP {status}): try again later"
    return UserError(f"{text}, {_BY_HAND}.")


def _explain_disk(error: OSError, file: HubFile, size: int | None) -> UserError:
    cache = Path(constants.HF_HUB_CACHE)
    if error.errno is None:  # huggingface_hub's own check of the length
        return UserError(f"{file} arrived with another length than the Hub announced: download it again, {_BY_HAND}.")
    if error.errno in NO_ROOM:
        return UserError(
            f"{file} does not fit on the disk: {room_to_make(cache, size)}, or set HF_HOME to another disk."
        )
    reason = os.strerror(error.errno)
    return UserError(f"{file} cannot be written to the Hub cache {cache} ({reason}): set HF_HOME to a writable folder.")
