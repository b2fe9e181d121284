"""Features for whoever asks: networks loaded once, all layers in one pass, and everything remembered within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

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
from ovdemo.systems.fcclip import FCCLIP
from ovdemo.vocabulary import VILD_14, EmbeddingCache, TextEmbedder, TextEmbeddings, Vocabulary
from ovdemo.workbench import Accelerate, Workbench

_CLUSTER_BYTES = 32 * 2**20
_TEXT_BYTES = 16 * 2**20


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
class _Loaded:
    """A source, its calls that may go to a lent GPU, and the bytes of weights that it alone holds."""

    source: FeatureSource
    encode: Callable[..., object]
    embed: Callable[[Vocabulary], object] | None
    bytes: int


class FeatureDesk:
    """Feature sources, the maps that they read and the clusters of these maps. Safe to use from many threads.

    Holds nothing of what a visitor chose.
    """

    def __init__(
        self,
        workbench: Callable[[str], Workbench],
        *,
        device: str = "auto",
        accelerate: Accelerate | None = None,
        source_bytes: int = 4 * 2**30,
        map_bytes: int = 512 * 2**20,
        age: float = 3600.0,
    ) -> None:
        """Say where networks come from and how much is remembered.

        Args:
            workbench: the workbench of a variant, loaded; sources that are a part of a system share its weights.
            device: of the sources that are no part of a system.
            accelerate: see :data:`~ovdemo.workbench.Accelerate`.
            source_bytes: of weights.
            map_bytes: of features, each at its own length and at length one.
            age: seconds after which what nobody asked for is forgotten.
        """
        self._workbench, self._device, self._accelerate = workbench, device, accelerate
        self._turn = threading.Lock()
        self._sources: BoundedCache[_Loaded] = BoundedCache(source_bytes, lambda loaded: loaded.bytes, max_age=age)
        self._readings: BoundedCache[Reading] = BoundedCache(map_bytes, _reading_bytes, max_age=age)
        self._clusters: BoundedCache[tuple[ClusterMap, ...]] = BoundedCache(_CLUSTER_BYTES, _cluster_bytes, max_age=age)
        self._words: BoundedCache[TextEmbeddings] = BoundedCache(_TEXT_BYTES, lambda t: t.rows.nbytes, max_age=age)

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
        """Where a source's features can be read; nothing is downloaded for it.

        Raises:
            UserError: unknown name.
        """
        card = find_source(name)
        return card.layers if card.files else self.source(name).layers  # loading these is faster than building a copy

    def read(self, picture: Picture, source: str, layers: Sequence[str], size: int) -> tuple[Reading, ...]:
        """Layers of a source whose weights are on this machine; those not read before are read in one pass.

        One pass runs at a time: each is checked against the memory that is free when it starts.

        Raises:
            UserError: unknown source or layer, a size out of range, or a pass that does not fit into memory.
        """
        loaded = self._load(source)
        with self._turn:
            found = {layer: self.recall(picture.digest, source, layer, size) for layer in layers}
            missing = [layer for layer, reading in found.items() if reading is None]
            if missing:
                found |= {r.features.layer.name: self._keep(r) for r in self._pass(loaded, picture, size, missing)}
        return tuple(cast(Reading, found[layer]) for layer in layers)

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
            UserError: the source knows no words.
        """
        loaded = self._load(source)
        embed = loaded.embed
        if embed is None:
            raise UserError(f"{loaded.source.title} was not trained with words: choose a CLIP.")
        return self._words.get((source, vocabulary.classes), lambda: cast(TextEmbeddings, embed(vocabulary)))

    def forget(self, digest: str) -> None:
        """Forget one picture."""
        self._readings.forget(lambda key: isinstance(key, tuple) and key[0] == digest)
        self._clusters.forget(lambda key: isinstance(key, tuple) and key[0][0][0] == digest)

    def _load(self, name: str, download: bool = False, progress: Progress | None = None) -> _Loaded:
        card = find_source(name)

        def make() -> _Loaded:
            if isinstance(card.config, VariantConfig):
                return self._part(card, self._workbench(card.config.variant))
            if card.availability == "to download" and not download:
                raise UserError(
                    f"{card.title} is not on this machine: allow the download of its weights "
                    f"({card.megabytes:,.0f} MB) and try again."
                )
            return self._whole(card, load_source(name, device=self._device, progress=progress))

        return self._sources.get(name, make)

    def _part(self, card: SourceCard, workbench: Workbench) -> _Loaded:
        """Of a system whose workbench already knows how to embed words."""
        system = workbench.system
        assert isinstance(system, FCCLIP)
        source = system_source(system, card.name, card.title)
        return _Loaded(source, self._accelerated(source.encode), workbench.embed, 0)

    def _whole(self, card: SourceCard, source: FeatureSource) -> _Loaded:
        encoder, embed = source.text_encoder, None
        if encoder is not None:
            embed = self._accelerated(TextEmbedder(encoder, VILD_14, EmbeddingCache(paths.cache_dir() / "text")).embed)
        return _Loaded(source, self._accelerated(source.encode), embed, int(1e6 * card.megabytes))

    def _accelerated(self, call: Callable[..., object]) -> Callable[..., object]:
        return call if self._accelerate is None else self._accelerate(call)

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
