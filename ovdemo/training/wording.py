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
from ovdemo.vocabulary import VILD_14, EmbeddingCache, TextEmbedder, load_preset

WORDINGS = 8  # of each concept; the first is what inference uses: its first name in all prompt templates
_NEARBY = 2  # of them, where there are any: nouns that come nearer to this concept than to any other
_NEAR = 0.6  # least cosine of those
_ALIKE = 0.5  # cosine from which names of different data sets may mean one thing ("sock", "christmas stocking")


def word_concepts(tower: ClipTower, concepts: Concepts, seed: int) -> Tensor:
    """Unit vectors (V, M, D) of M wordings of each concept: any of its names, or of the nouns of ImageNet-21K that the
    text tower puts next to it, in any prompt template. So what is learned of a name holds for words like it.
    """
    random = np.random.default_rng(seed)
    usual = TextEmbedder(tower, VILD_14, EmbeddingCache(None)).embed(concepts.vocabulary()).rows.cpu()
    prompts = []
    for concept, nouns in zip(concepts.entries, _near_nouns(tower, concepts, usual), strict=True):
        for number in range(WORDINGS - 1):
            template = random.choice(VILD_14.templates) if random.random() < 0.7 else "{}"
            words = nouns if nouns and number < _NEARBY else concept.spoken
            prompts.append(template.replace("{}", random.choice(words)))
    others = functional.normalize(tower.encode_prompts(prompts), dim=-1).unflatten(0, (len(concepts), -1))
    return torch.cat([usual[:, None], others.cpu()], 1)


def _near_nouns(tower: ClipTower, concepts: Concepts, rows: Tensor) -> list[list[str]]:
    """For each concept, nouns whose nearest concept it is; nobody's name is among them. Those that are nearest to a
    held-out concept are so never used for another.
    """
    names = {name.lower() for concept in concepts.entries for name in concept.names}
    nouns = [entry.names[0] for entry in load_preset("imagenet-21k").classes if entry.names[0].lower() not in names]
    best, nearest = (functional.normalize(tower.encode_prompts(nouns), dim=-1).cpu() @ rows.T).max(-1)
    found: list[list[str]] = [[] for _ in concepts.entries]
    for noun, cosine, concept in zip(nouns, best.tolist(), nearest.tolist(), strict=True):
        if cosine > _NEAR:
            found[concept].append(noun)
    return found


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
