"""The application's core: one loaded system, and everything it has already worked out.

The interface, the command line and the API call this and nothing below it::

    workbench = ovdemo.load()
    photo = workbench.analyse("photo.jpg")           # heavy, once a picture
    result = photo.segment("cat|kitten, sofa, wall:stuff")   # at once, as often as you like
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from ovdemo import paths
from ovdemo.default_model import DEFAULT_MODEL, chosen_model
from ovdemo.errors import UserError
from ovdemo.fusion import Fusion, Scores, score
from ovdemo.images import Picture, PictureSource, ResizeRule, load_picture
from ovdemo.loading import Progress, load_system
from ovdemo.merging import Merging, merge
from ovdemo.segmentation import Segmentation
from ovdemo.systems.base import Proposals, System
from ovdemo.systems.registry import find_variant
from ovdemo.vocabulary import (
    VILD_14,
    EmbeddingCache,
    ShippedRows,
    TextEmbedder,
    TextEmbeddings,
    Vocabulary,
    parse_classes,
    seen_classes,
)

SHORT_SIDES = (64, 2048)  # pixels; below, features vanish; above, memory does

_Value = TypeVar("_Value")


class Workbench:
    """A system with its caches: proposals per picture, text embeddings per word. Safe to use from many threads."""

    def __init__(self, system: System, cache: EmbeddingCache, *, pictures_kept: int = 4) -> None:
        """Take a loaded system; keep the proposals of the last few pictures (about 60 MB each at 800 x 1088)."""
        self.system = system
        self._embedder = TextEmbedder(system.text_encoder, VILD_14, cache)
        self._proposals: _Recent[Proposals] = _Recent(pictures_kept)
        self._embeddings: _Recent[TextEmbeddings] = _Recent(8)

    def analyse(
        self, source: PictureSource | Picture, *, name: str | None = None, short_side: int | None = None
    ) -> Analysis:
        """Decode a picture and run the backbone and the decoders on it, unless that was done before.

        Args:
            source: a path, bytes, an open file, a PIL picture, an (H, W, 3) array or a decoded picture.
            name: display name where the source has none.
            short_side: of the network's input in pixels, 64 to 2048; None is the system's own rule.

        Raises:
            UserError: the picture cannot be used, or the short side is out of range.
        """
        picture = source if isinstance(source, Picture) else load_picture(source, name)
        rule = self.resize_rule(short_side)

        def propose() -> Proposals:
            return self.system.propose(self.system.encode(picture, rule))

        return Analysis(self, picture, self._proposals.get((picture.digest, rule), propose))

    def embed(self, vocabulary: Vocabulary, progress: Callable[[int, int], None] | None = None) -> TextEmbeddings:
        """Text embeddings of every name, on the system's device; only names never met before are encoded."""
        return self._embeddings.get(
            vocabulary.classes, lambda: self._embedder.embed(vocabulary, progress).to(self.system.device)
        )

    def resize_rule(self, short_side: int | None = None) -> ResizeRule:
        """The system's own resize rule, or the same shape of rule for another short side in pixels.

        Raises:
            UserError: the short side is out of range.
        """
        rule = self.system.resize_rule
        if short_side is None:
            return rule
        low, high = SHORT_SIDES
        if not low <= short_side <= high:
            raise UserError(f"The short side must lie between {low} and {high} pixels; {short_side} does not.")
        return ResizeRule(short_side, round(short_side * rule.long_side / rule.short_side))


@dataclass(frozen=True, eq=False)
class Analysis:
    """A picture that has been through the heavy pass. Every question below costs a matrix product and a merge."""

    workbench: Workbench
    picture: Picture
    proposals: Proposals

    def score(self, words: str | Vocabulary, fusion: Fusion | None = None) -> Scores:
        """Class probabilities of every proposal for the words."""
        vocabulary = as_vocabulary(words)
        system = self.workbench.system
        seen = torch.from_numpy(seen_classes(vocabulary, system.training_names))
        text = self.workbench.embed(vocabulary)
        with torch.inference_mode():
            return score(self.proposals, text, seen, system.classifiers, fusion or Fusion())

    def segment(
        self, words: str | Vocabulary, *, fusion: Fusion | None = None, merging: Merging | None = None
    ) -> Segmentation:
        """Cut the picture into segments labelled with the words.

        Args:
            words: ``"cat|kitten, sofa, wall:stuff"`` or a vocabulary.
            fusion: how the two classifiers are combined; default FC-CLIP's geometric ensemble.
            merging: panoptic, semantic or instance, and thresholds; default panoptic.

        Raises:
            UserError: the words hold no class, or too many.
        """
        vocabulary = as_vocabulary(words)
        return merge(self.proposals, self.score(vocabulary, fusion), vocabulary, merging or Merging())


def load(
    name: str = DEFAULT_MODEL,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    random_weights: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Workbench:
    """Load a variant by name, downloading its weights if need be; see :func:`ovdemo.loading.load_system`.

    The default is the model that ``OVDEMO_MODEL`` names, else the one that is embedded in the project. Text embeddings
    are cached in :func:`ovdemo.paths.cache_dir`, those of random weights in memory only.
    """
    system = load_system(
        name,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        device=device,
        precision=precision,
        random_weights=random_weights,
        seed=seed,
        progress=progress,
    )
    return Workbench(system, EmbeddingCache(None) if random_weights else _text_cache(name))


def _text_cache(name: str) -> EmbeddingCache:
    """Text embeddings on disk, and those of an embedded variant that come with the project."""
    embedded = find_variant(chosen_model(name)).embedded
    shipped = None if embedded is None else ShippedRows(paths.CHECKPOINTS / embedded.text)
    return EmbeddingCache(paths.cache_dir() / "text", shipped=shipped)


def as_vocabulary(words: str | Vocabulary) -> Vocabulary:
    """Words as typed, or a vocabulary as it is."""
    return parse_classes(words) if isinstance(words, str) else words


class _Recent(Generic[_Value]):
    """The last few results. Threads that ask for the same one share its making; other keys do not wait for it."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot[_Value]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > self._kept:
                self._slots.popitem(last=False)
        with slot.lock:
            if slot.value is None:
                slot.value = make()
            return slot.value


class _Slot(Generic[_Value]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: _Value | None = None
