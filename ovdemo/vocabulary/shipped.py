"""Text embeddings that travel with weights: one file of names and rows for one tower and one set of prompts.

A safetensors file: ``names`` (N, L) uint8, each a name in UTF-8 filled up with zeros, sorted by bytes; ``rows`` (N, D)
float16 unit vectors; and what they were made with, an :class:`EmbeddingSpace`, in the metadata. Sorted names of one
length are searched where they lie: nothing is parsed, and only the rows that are asked for are read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovdemo.vocabulary.embedding_cache import EmbeddingSpace, Rows

_UNIT_TOLERANCE = 1e-2  # half precision moves a length by less

log = logging.getLogger(__name__)


class ShippedRows:
    """The rows of one file, which is opened at the first question.

    A file made with another tower or other prompts has no rows; neither has one that is missing or damaged, with one
    warning: names are then encoded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, space: EmbeddingSpace, names: Sequence[str]) -> Rows:
        """The rows that the file has, by name: (width,) float32 unit vectors, read-only arrays."""
        file = self._file
        if file is None or file.space != space or not len(file.names):
            return {}
        wanted = np.array([name.encode() for name in names])
        places = np.searchsorted(file.names, wanted).clip(max=len(file.names) - 1)
        found = np.flatnonzero(file.names[places] == wanted)
        rows = file.rows[torch.from_numpy(places[found])].float().numpy()
        lengths = np.linalg.norm(rows, axis=-1)
        whole = np.abs(lengths - 1) <= _UNIT_TOLERANCE  # false for a row with a NaN
        rows = rows[whole] / lengths[whole, None]
        rows.flags.writeable = False
        return {names[place]: row for place, row in zip(found[whole].tolist(), rows, strict=True)}

    @cached_property
    def _file(self) -> _File | None:
        try:
            return _File.open(self._path)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            log.warning("the text embeddings in %s cannot be used (%s) and are computed again", self._path, error)
            return None


@dataclass(frozen=True, eq=False)
class _File:
    """An open file: sorted names (N,) as bytes, and rows (N, D) float16 that lie on disk until they are used."""

    space: EmbeddingSpace
    names: np.ndarray
    rows: Tensor

    @classmethod
    def open(cls, path: Path) -> _File:
        with safe_open(path, framework="pt") as file:
            facts, letters, rows = file.metadata() or {}, file.get_tensor("names"), file.get_tensor("rows")
        if letters.dtype != torch.uint8 or letters.ndim != 2 or rows.ndim != 2 or len(letters) != len(rows):
            raise ValueError("names and rows do not fit")
        space = EmbeddingSpace(facts["tag"], facts["template_set"], facts["digest"], rows.shape[1])
        return cls(space, letters.numpy().view(f"S{letters.shape[1]}")[:, 0], rows)


def packed(space: EmbeddingSpace, rows: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that :class:`ShippedRows` reads.

    Args:
        space: what the rows were made with.
        rows: at least one, (width,) float32 unit vectors by name.
    """
    ordered = sorted(rows, key=str.encode)
    letters = np.array([name.encode() for name in ordered])
    tensors = {
        "names": torch.from_numpy(letters.view(np.uint8).reshape(len(ordered), -1)),
        "rows": torch.from_numpy(np.stack([rows[name] for name in ordered])).half(),
    }
    return tensors, {"tag": space.tag, "template_set": space.template_set, "digest": space.digest}
