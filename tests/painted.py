"""A system that sees colours: flat paintings in, exact masks and names out, so every measure has a known answer."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovdemo.ensemble import Fusion
from ovdemo.images import Picture, ResizeRule
from ovdemo.nn.pooling import mask_pool, resize_features
from ovdemo.systems.base import Classifiers, Features, Geometry, Proposals
from ovdemo.vocabulary import EmbeddingCache, TextEmbeddings
from ovdemo.workbench import Workbench

PAINTS = {"cat": (200, 0, 0), "grass": (0, 200, 0), "dog": (0, 0, 200)}
SIDE = 32


def painting(*names: str) -> np.ndarray:
    """(32, 32, 3) uint8: vertical bands of equal width, one a name."""
    return np.array([[PAINTS[names[x * len(names) // SIDE]] for x in range(SIDE)]] * SIDE, np.uint8)


def bands(*values: int) -> np.ndarray:
    """(32, 32) uint8 labels of a painting, one value a band."""
    return np.array([[values[x * len(values) // SIDE] for x in range(SIDE)]] * SIDE, np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class PaintedWords:
    """Each paint's name is an axis; every other word is the axis of "no object"."""

    tag = "painted"
    width = len(PAINTS) + 1

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        axes = [next((i for i, name in enumerate(PAINTS) if name in prompt), len(PAINTS)) for prompt in prompts]
        return torch.eye(self.width)[axes]


class PaintedSystem:
    """One proposal a paint in the picture."""

    resize_rule, fusion = ResizeRule(SIDE, SIDE), Fusion()
    training_names = frozenset({"cat"})
    device = torch.device("cpu")
    text_encoder = PaintedWords()
    classifiers = Classifiers(100.0, 100.0, torch.eye(PaintedWords.width)[-1], needs_clip_support=False)

    def encode(self, picture: Picture, rule: ResizeRule) -> Features:
        assert rule == self.resize_rule
        layers = [(picture.pixels == paint).all(-1) for paint in PAINTS.values()]
        layers.append(~np.any(layers, axis=0))
        size = picture.height, picture.width
        return Features({"res5": torch.from_numpy(np.array(layers)).float()[None]}, Geometry(size, size, size))

    def propose(self, features: Features, text: TextEmbeddings | None = None) -> Proposals:
        layers = features.stages["res5"][0]
        present = layers[:-1].flatten(1).any(1).nonzero().flatten()
        embeddings = torch.eye(PaintedWords.width)[present]
        return Proposals(
            layers[present] * 20 - 10, embeddings, embeddings, torch.ones(len(present), dtype=torch.bool),
            features.geometry,
        )  # fmt: skip

    def embed_masks(self, features: Features, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
        dense = features.stages["res5"]
        logits = resize_features(mask_logits[None], dense.shape[-2:])
        return mask_pool(dense, logits)[0], (logits[0] > 0).flatten(1).any(-1)


def painted_workbench() -> Workbench:
    return Workbench(PaintedSystem(), EmbeddingCache(None))
