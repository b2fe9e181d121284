"""Features for whoever asks: networks loaded once, all layers in one pass, and everything remembered within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch

from ovdemo import paths
from ovdemo.caching import BoundedCache
from ovdemo.errors import UserError
from ovdemo.features import (
    ClusterMap,
    FeatureMap,
    FeatureSource,
    Layer,
    cluster,
    find_source,
    load_source,
    system_source,
)
from ovdemo.features.catalogue import SourceCard, VariantConfig
from ovdemo.images import Picture
from ovdemo.loading import Progress
from ovdemo.passes import ONE_PASS
from ovdemo.systems.fcclip import FCCLIP
from ovdemo.systems.registry import find_variant
from ovdemo.vocabulary import VILD_14, EmbeddingCache, TextEmbedder, TextEmbeddings, Vocabulary
from ovdemo.workbench import Accelerate, Workbench

_CLUSTER_BYTES = 32 * 2**20
_TEXT_BYTES = 16 * 2**20
_QUICK_NAMES = 100  # 1,400 prompts, that may be encoded for a look


@dataclass(frozen=True, eq=False)
class Reading:
    """One layer of a source on a picture.

    Attributes:
        picture: digest of the picture.
        features: what was read.
        seconds: that the pass took in which it was read, perhaps together with other layers.
    """

    picture: str
    features: FeatureMap
    seconds: float

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What it depends on: picture, source, layer and input size."""
        return self.picture, *self.features.space, self.features.size


@dataclass(frozen=True, eq=False)
class _Words:
    """The calls of a text tower: embed a vocabulary, and count what of it would have to be encoded."""

    embed: Callable[[Vocabulary], object]
    to_encode: Callable[[Vocabulary], int]


@dataclass(frozen=True, eq=False)
class _Part:
    """A source that is a part of a workbench, and holds nothing of that but its weights."""

    source: FeatureSource
    encode: Callable[..., object]


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A source, its calls that may go to a lent GPU, and the bytes of weights that it alone holds."""

    source: FeatureSource
    encode: Callable[..., object]
    words: _Words | None
    bytes: int


def _embedded(variant: str) -> bool:
    return find_variant(variant).embedded is not None


class FeatureDesk:
    """Feature sources, the maps that they read and the clusters of these maps. Safe to use from many threads.

    Holds nothing of what a visitor chose.
    """

    def __init__(
        self,
        workbench: Callable[[str], Workbench],
        *,
        ready: Callable[[str], bool] = _embedded,
        device: str = "auto",
        accelerate: Accelerate | None = None,
        source_bytes: int = 4 * 2**30,
        map_bytes: int = 512 * 2**20,
        age: float = 3600.0,
    ) -> None:
        """Say where networks come from and how much is remembered.

        Args:
            workbench: the workbench of a variant, loaded; sources that are a part of a system share its weights.
            ready: whether a variant loads without a download; by default only what is embedded does.
            device: of the sources that are no part of a system.
            accelerate: see :data:`~ovdemo.workbench.Accelerate`.
            source_bytes: of weights.
            map_bytes: of features, each at its own length and at length one.
            age: seconds after which what nobody asked for is forgotten.
        """
        self._workbench, self._ready, self._device, self._accelerate = workbench, ready, device, accelerate
        # Whoever loads models lets them go; what is read of one must not keep its weights.
        self._parts: WeakKeyDictionary[Workbench, _Part] = WeakKeyDictionary()
        self._sources: BoundedCache[_Loaded] = BoundedCache(source_bytes, lambda loaded: loaded.bytes, max_age=age)
        self._readings: BoundedCache[Reading] = BoundedCache(map_bytes, _reading_bytes, max_age=age)
        self._clusters: BoundedCache[tuple[ClusterMap, ...]] = BoundedCache(_CLUSTER_BYTES, _cluster_bytes, max_age=age)
        self._words: BoundedCache[TextEmbeddings] = BoundedCache(_TEXT_BYTES, lambda t: t.rows.nbytes, max_age=age)

    def offers(self, name: str) -> bool:
        """Whether a source can be had, perhaps by a download: those of a model only where that is on this machine.

        Raises:
            UserError: unknown name.
        """
        card = find_source(name)
        return not isinstance(card.config, VariantConfig) or self._ready(card.config.variant)

    def source(self, name: str, *, download: bool = False, progress: Progress | None = None) -> FeatureSource:
        """A source by its name, loaded unless it is there.

        Args:
            name: of a card in :data:`~ovdemo.features.SOURCES`.
            download: whether weights that are not on this machine may be downloaded.
            progress: told the bytes of a download; what it raises stops it.

        Raises:
            UserError: unknown name, or weights that cannot be had or do not fit into memory.
        """
        return self._load(name, download, progress).source

    def layers(self, name: str) -> tuple[Layer, ...]:
        """Where a source's features can be read; nothing is downloaded or loaded for it.

        Raises:
            UserError: unknown name.
        """
        return find_source(name).layers

    def read(self, picture: Picture, source: str, layers: Sequence[str], size: int) -> tuple[Reading, ...]:
        """Layers of a source whose weights are on this machine; those not read before are read in one pass.

        One pass runs at a time in the whole process: each is checked against the memory that is free when it starts.

        Raises:
            UserError: unknown source or layer, a size out of range, or a pass that does not fit into memory.
        """
        found = self._remembered(picture, source, layers, size)
        if len(found) < len(set(layers)):
            loaded = self._load(source)
            with ONE_PASS:
                found = self._remembered(picture, source, layers, size)  # who waited may find it read meanwhile
                missing = [layer for layer in dict.fromkeys(layers) if layer not in found]
                if missing:
                    found |= {r.features.layer.name: self._keep(r) for r in self._pass(loaded, picture, size, missing)}
        return tuple(found[layer] for layer in layers)

    def recall(self, digest: str, source: str, layer: str, size: int) -> Reading | None:
        """What was read of a picture, by the picture's digest, where it is still remembered."""
        return self._readings.peek((digest, source, layer, size))

    def clusters(self, readings: Sequence[Reading], k: int, *, median: bool = False) -> tuple[ClusterMap, ...]:
        """:func:`~ovdemo.features.cluster` of readings of one layer, remembered.

        Raises:
            UserError: k is out of range, or there are fewer cells than clusters.
        """
        key = (tuple(reading.key for reading in readings), k, median)
        maps = [reading.features for reading in readings]
        return self._clusters.get(key, lambda: cluster(maps, k, median=median))

    def embed(self, source: str, vocabulary: Vocabulary) -> TextEmbeddings:
        """Words by the text tower that belongs to a source's pictures.

        Raises:
            UserError: the source knows no words, or more than a hundred names would have to be encoded.
        """

        def make() -> TextEmbeddings:
            loaded = self._load(source)
            if loaded.words is None:
                raise UserError(f"{loaded.source.title} was not trained with words: choose a CLIP.")
            count = loaded.words.to_encode(vocabulary)
            if count > _QUICK_NAMES:
                raise UserError(
                    f"{count:,} of these names are new to {loaded.source.title}, and at most {_QUICK_NAMES} are "
                    "encoded for a look: contrast the word with fewer, or with none."
                )
            return cast(TextEmbeddings, loaded.words.embed(vocabulary))

        return self._words.get((source, vocabulary.classes), make)

    def forget(self, digest: str) -> None:
        """Forget one picture."""
        self._readings.forget(lambda key: isinstance(key, tuple) and key[0] == digest)
        self._clusters.forget(lambda key: isinstance(key, tuple) and key[0][0][0] == digest)

    def _load(self, name: str, download: bool = False, progress: Progress | None = None) -> _Loaded:
        card = find_source(name)
        if isinstance(card.config, VariantConfig):
            return self._part_of(card, card.config.variant)

        def make() -> _Loaded:
            if card.availability == "to download" and not download:
                raise UserError(
                    f"{card.title} is not on this machine: allow the download of its weights "
                    f"({card.megabytes:,.0f} MB) and try again."
                )
            return self._whole(card, load_source(name, device=self._device, progress=progress))

        return self._sources.get(name, make)

    def _part_of(self, card: SourceCard, variant: str) -> _Loaded:
        """Of a system whose workbench already knows how to embed words."""
        if not self._ready(variant):
            raise UserError(f"{card.title} is not on this machine: choose it as the model first, which says how.")
        workbench = self._workbench(variant)
        part = self._parts.get(workbench)
        if part is None:
            assert isinstance(workbench.system, FCCLIP)
            source = system_source(workbench.system, card.name, card.title)
            part = self._parts[workbench] = _Part(source, self._accelerated(source.encode))
        return _Loaded(part.source, part.encode, _Words(workbench.embed, workbench.names_to_encode), 0)

    def _whole(self, card: SourceCard, source: FeatureSource) -> _Loaded:
        words = None
        if source.text_encoder is not None:
            embedder = TextEmbedder(source.text_encoder, VILD_14, EmbeddingCache(paths.cache_dir() / "text"))
            words = _Words(self._accelerated(embedder.embed), embedder.names_to_encode)
        return _Loaded(source, self._accelerated(source.encode), words, int(1e6 * card.megabytes))

    def _accelerated(self, call: Callable[..., object]) -> Callable[..., object]:
        return call if self._accelerate is None else self._accelerate(call)

    def _remembered(self, picture: Picture, source: str, layers: Sequence[str], size: int) -> dict[str, Reading]:
        recalled = ((layer, self.recall(picture.digest, source, layer, size)) for layer in layers)
        return {layer: reading for layer, reading in recalled if reading is not None}

    def _keep(self, reading: Reading) -> Reading:
        return self._readings.get(reading.key, lambda: reading)

    def _pass(self, loaded: _Loaded, picture: Picture, size: int, layers: Sequence[str]) -> tuple[Reading, ...]:
        start = time.perf_counter()
        try:
            maps = cast(tuple[FeatureMap, ...], loaded.encode(picture, size, layers))
        except torch.OutOfMemoryError:
            raise UserError(
                f"The GPU has too little memory free for {loaded.source.title} at {size} px: choose a smaller size."
            ) from None
        seconds = time.perf_counter() - start
        return tuple(Reading(picture.digest, features, seconds) for features in maps)


def _reading_bytes(reading: Reading) -> int:
    """The features themselves, and at length one as soon as a lens asks for them."""
    return 2 * int(reading.features.values.nbytes)


def _cluster_bytes(maps: tuple[ClusterMap, ...]) -> int:
    return sum(int(panel.labels.nbytes + panel.centroids.nbytes) for panel in maps)
