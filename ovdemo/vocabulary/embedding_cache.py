"""Text embeddings that were computed once: in memory, and on disk for the next session."""

from __future__ import annotations

import hashlib
import logging
import re
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np

log = logging.getLogger(__name__)

T = TypeVar("T")
Rows = dict[str, np.ndarray]

# Words come from strangers: a file that has grown this large is read, and no longer added to.
MAX_FILE_BYTES = 2**30

_NAMES_PER_QUERY = 500
_LOCK_TIMEOUT_S = 30.0
_UNIT_TOLERANCE = 1e-3
_STORED = np.dtype("<f4")
_TABLE = "CREATE TABLE IF NOT EXISTS embeddings (name TEXT PRIMARY KEY, row BLOB NOT NULL)"

# Primary result codes (https://sqlite.org/rescode.html); ERROR is the answer of a table of another shape.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@dataclass(frozen=True)
class EmbeddingSpace:
    """What a name's row depends on: the text tower's weights, the prompts, and the width they give.

    Attributes:
        tag: identifies the text tower's weights.
        template_set: name of the prompt templates.
        digest: hash of their content.
        width: length of a row.
    """

    tag: str
    template_set: str
    digest: str
    width: int

    @cached_property
    def slug(self) -> str:
        """A file name of its own: a readable part, then a hash of everything that must not mix."""
        key = "\0".join((self.tag, self.template_set, self.digest, str(self.width)))
        readable = re.sub(r"[^a-z0-9]+", "-", f"{self.tag}-{self.template_set}".lower()).strip("-")
        return f"{readable[:80]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


class RowSource(Protocol):
    """Where rows may lie that are not in memory."""

    def load(self, space: EmbeddingSpace, names: Sequence[str]) -> Rows:
        """The rows that are there, by name: (width,) float32 unit vectors, read-only arrays."""
        ...


class EmbeddingCache:
    """Unit rows by name: the recently used ones in memory, all of them in one SQLite file per space.

    Several threads and processes may share a folder. The disk never makes it fail: a damaged file is deleted and made
    anew, a damaged row counts as missing, a file that stays locked is passed over, and a folder that cannot be used
    (read-only, full) ends the use of the disk with one warning.

    Args:
        folder: where the files are; made at the first use. ``None`` keeps everything in memory.
        memory_rows: how many rows stay in memory; the least recently used leave first.
        shipped: rows that came with the weights; asked before the disk, which need not keep them again.
    """

    def __init__(self, folder: Path | None, memory_rows: int = 50_000, *, shipped: RowSource | None = None) -> None:
        self._disk = _Disk(folder)
        self._sources: tuple[RowSource, ...] = (self._disk,) if shipped is None else (shipped, self._disk)
        self._memory: OrderedDict[tuple[EmbeddingSpace, str], np.ndarray] = OrderedDict()
        self._memory_rows = memory_rows
        self._lock = Lock()

    def get(self, space: EmbeddingSpace, names: Iterable[str]) -> Rows:
        """The rows that are known, by name: (width,) float32 unit vectors, read-only arrays."""
        wanted = list(dict.fromkeys(names))
        rows = self._recall(space, wanted)
        for source in self._sources:
            missing = [name for name in wanted if name not in rows]
            if missing:
                loaded = source.load(space, missing)
                self._remember(space, loaded)
                rows |= loaded
        return rows

    def put(self, space: EmbeddingSpace, rows: Mapping[str, np.ndarray]) -> None:
        """Keep rows by name; on disk they are one transaction.

        Args:
            space: what they were made with.
            rows: (width,) float32 unit vectors, which are copied.

        Raises:
            ValueError: a row is not a unit vector of the space's width.
        """
        blobs = {name: row.astype(_STORED).tobytes() for name, row in rows.items()}
        decoded = {name: _decode(blob, space.width) for name, blob in blobs.items()}
        valid = {name: row for name, row in decoded.items() if row is not None}
        if len(valid) < len(rows):
            raise ValueError(
                f"these rows are not unit vectors of width {space.width}: {sorted(set(rows) - set(valid))}"
            )
        self._remember(space, valid)
        self._disk.store(space, blobs)

    def _recall(self, space: EmbeddingSpace, names: Sequence[str]) -> Rows:
        with self._lock:
            keys = [(space, name) for name in names if (space, name) in self._memory]
            for key in keys:
                self._memory.move_to_end(key)
            return {key[1]: self._memory[key] for key in keys}

    def _remember(self, space: EmbeddingSpace, rows: Rows) -> None:
        with self._lock:
            for name, row in rows.items():
                self._memory[space, name] = row
                self._memory.move_to_end((space, name))
            while len(self._memory) > self._memory_rows:
                self._memory.popitem(last=False)


class _Disk:
    """The SQLite files of a folder. Every operation has its own connection; what goes wrong with it is logged."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._reported_row = False
        # Threads take turns, so that none deletes a damaged file while another writes to its successor.
        self._lock = Lock()

    def load(self, space: EmbeddingSpace, names: Sequence[str]) -> Rows:
        """The rows that the space's file has, by name."""

        def select(connection: sqlite3.Connection) -> list[tuple[str, object]]:
            found = []
            for start in range(0, len(names), _NAMES_PER_QUERY):
                chunk = names[start : start + _NAMES_PER_QUERY]
                marks = ",".join("?" * len(chunk))
                found += connection.execute(
                    f"SELECT name, row FROM embeddings WHERE name IN ({marks})", chunk
                ).fetchall()
            return found

        decoded = {name: _decode(blob, space.width) for name, blob in self._run(space, select) or ()}
        rows = {name: row for name, row in decoded.items() if row is not None}
        if len(rows) < len(decoded) and not self._reported_row:
            self._reported_row = True
            log.warning("text embeddings on disk are damaged (%s) and are computed again", space.slug)
        return rows

    def store(self, space: EmbeddingSpace, blobs: Mapping[str, bytes]) -> None:
        """Write rows into the space's file, all or none."""

        def insert(connection: sqlite3.Connection) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            if pages * page_size < MAX_FILE_BYTES:
                connection.executemany("INSERT OR REPLACE INTO embeddings (name, row) VALUES (?, ?)", blobs.items())

        self._run(space, insert)

    def _run(self, space: EmbeddingSpace, operation: Callable[[sqlite3.Connection], T]) -> T | None:
        """The operation's answer, or ``None`` where the disk could not give one."""
        with self._lock:
            if self._folder is None:
                return None
            path = self._folder / f"{space.slug}.sqlite"
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                try:
                    return _in_transaction(path, operation)
                except sqlite3.Error as error:
                    if _code(error) not in _DAMAGED:
                        raise
                    log.warning("the text embeddings in %s are damaged (%s) and are made anew", path, error)
                    for leftover in (path, path.with_name(f"{path.name}-journal")):
                        leftover.unlink(missing_ok=True)
                    return _in_transaction(path, operation)
            except (sqlite3.Error, OSError) as error:
                if _code(error) not in _LOCKED:
                    log.warning("text embeddings are no longer kept in %s: %s", self._folder, error)
                    self._folder = None
                return None


def _in_transaction(path: Path, operation: Callable[[sqlite3.Connection], T]) -> T:
    with closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S)) as connection, connection:
        connection.execute(_TABLE)
        return operation(connection)


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _decode(blob: object, width: int) -> np.ndarray | None:
    """The (width,) float32 row, or ``None`` where the bytes are anything but a unit vector of that width."""
    if not isinstance(blob, bytes) or len(blob) != width * _STORED.itemsize:
        return None
    row = np.frombuffer(blob, dtype=_STORED).astype(np.float32)
    row.flags.writeable = False
    # Not "> tolerance": a NaN compares false and must not pass.
    return row if abs(float(np.linalg.norm(row)) - 1) <= _UNIT_TOLERANCE else None
