"""Text embeddings of the concepts for training: several wordings of each, and which of them say nearly the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ovdemo.nn.clip import ClipTower
from ovdemo.training.compose import captioned
from ovdemo.training.concepts import Concepts
from ovdemo.training.photos import PhotoStore
from ovdemo.vocabulary import VILD_14, EmbeddingCache, TextEmbedder

WORDINGS = 6  # of each concept; the first is what inference uses: its first name in all prompt templates
_ALIKE = 0.5  # cosine from which names of different data sets may mean one thing ("sock", "christmas stocking")


def word_concepts(tower: ClipTower, concepts: Concepts, seed: int) -> Tensor:
    """Unit vectors (V, M, D) of M wordings of each concept: any of its names in any prompt template."""
    random = np.random.default_rng(seed)
    usual = TextEmbedder(tower, VILD_14, EmbeddingCache(None)).embed(concepts.vocabulary()).rows
    prompts = []
    for concept in concepts.entries:
        for _ in range(WORDINGS - 1):
            template = random.choice(VILD_14.templates) if random.random() < 0.7 else "{}"
            prompts.append(template.replace("{}", random.choice(concept.spoken)))
    others = functional.normalize(tower.encode_prompts(prompts), dim=-1).unflatten(0, (len(concepts), -1))
    return torch.cat([usual.cpu()[:, None], others], 1)


def word_captions(tower: ClipTower, store: PhotoStore) -> dict[str, Tensor]:
    """Unit vector (D,) of each caption that names nothing held out."""
    captions = list(dict.fromkeys(caption for _, captions in captioned(store) for caption in captions))
    rows = functional.normalize(tower.encode_prompts(captions), dim=-1)
    return dict(zip(captions, rows, strict=True))


def may_mean_the_same(concepts: Concepts, rows: Tensor) -> Tensor:
    """(V, V) bool: pairs that no data set tells apart and whose unit vectors (V, D) are close; neither is wrong for the
    other. A concept is never its own pair.
    """
    close = (rows @ rows.T > _ALIKE).numpy()
    return torch.from_numpy(close & ~concepts.told_apart())
