"""The feature sources that can be had, as data: what they are, where their weights come from, and how they load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import open_clip
import timm
import torch
from torch import nn

from ovdemo.checkpoints import Expected, HubFile, match, read_tensors
from ovdemo.errors import UserError
from ovdemo.features.convolutional import ConvolutionalSource, system_source
from ovdemo.features.maps import Layer
from ovdemo.features.memory import memory_budget
from ovdemo.features.sources import FeatureSource
from ovdemo.features.transformers import ClipTransformerSource, TimmSource
from ovdemo.hub import fetch_first, is_cached
from ovdemo.loading import Progress, empty_network, load_system, resolve_device
from ovdemo.nn.clip import ClipConfig, ClipTower, clip_tower
from ovdemo.systems.registry import VARIANTS, Variant, find_variant

Availability = Literal["embedded", "downloaded", "to download", "with its model"]

_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_COUNTER = ".num_batches_tracked"
_READING = 2  # times the weights, while they are read and brought to float32


@dataclass(frozen=True)
class VariantConfig:
    """The tower and the pixel decoder of a variant of :data:`~ovdemo.systems.registry.VARIANTS`."""

    variant: str


@dataclass(frozen=True)
class TimmConfig:
    """A model of timm by name, and what of its own configuration to override."""

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceCard:
    """One feature source and everything known about it before it is loaded.

    Attributes:
        name: what :func:`load_source` takes.
        title: for people.
        family: whether the network is convolutional or a vision transformer.
        megabytes: size of its weights (10^6 bytes): embedded ones in half precision, others in float32.
        licence: of the weights.
        config: builds the network.
    """

    name: str
    title: str
    family: Literal["CNN", "ViT"]
    megabytes: float
    licence: str
    config: VariantConfig | ClipConfig | TimmConfig

    @property
    def files(self) -> tuple[HubFile, ...]:
        """Names under which the Hub keeps these weights, safest first; none where they are embedded."""
        match self.config:
            case ClipConfig(name, pretrained):
                repository = open_clip.get_pretrained_cfg(name, pretrained)["hf_hub"].strip("/")
                return tuple(HubFile(repository, file) for file in _OPEN_CLIP_FILES)
            case TimmConfig(name):
                settings: Any = timm.get_pretrained_cfg(name)
                return (HubFile(settings.hf_hub_id, "model.safetensors"),)
            case _:
                return ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Where features can be read, in the order of the network."""
        return _layers(self.name)

    @property
    def availability(self) -> Availability:
        """Where the weights are, those of a variant of FC-CLIP wherever its model is; never uses the network."""
        if isinstance(self.config, VariantConfig):
            return "with its model" if find_variant(self.config.variant).embedded is None else "embedded"
        return "downloaded" if any(is_cached(file) for file in self.files) else "to download"


def _resnet(name: str, megabytes: float) -> SourceCard:
    config = ClipConfig(name, "openai", quick_gelu=True)
    return SourceCard(name.lower(), f"CLIP {name} (OpenAI)", "CNN", megabytes, "MIT", config)


def _of_variant(variant: Variant) -> SourceCard:
    """A published system's own tower and pixel decoder."""
    megabytes = variant.trained_megabytes + variant.clip_megabytes
    return SourceCard(variant.name, variant.title, "CNN", megabytes, variant.licence, VariantConfig(variant.name))


_CARDS = (
    SourceCard(
        "embedded",
        "CLIP ConvNeXt-Femto (embedded)",
        "CNN",
        44.7,
        "trained on research data sets, for research and demonstration",
        VariantConfig("fcclip-embedded"),
    ),
    _resnet("RN50", 408),
    _resnet("RN101", 479),
    _resnet("RN50x4", 713),
    _resnet("RN50x16", 1164),
    _resnet("RN50x64", 2493),
    SourceCard(
        "convnext-large",
        "CLIP ConvNeXt-Large (LAION-2B)",
        "CNN",
        1410,
        "MIT",
        ClipConfig("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"),
    ),
    SourceCard(
        "vit-b-16", "CLIP ViT-B/16 (OpenAI)", "ViT", 598, "MIT", ClipConfig("ViT-B-16", "openai", quick_gelu=True)
    ),
    SourceCard(
        "vit-l-14", "CLIP ViT-L/14 (OpenAI)", "ViT", 1710, "MIT", ClipConfig("ViT-L-14", "openai", quick_gelu=True)
    ),
    SourceCard(
        "dinov2-b-14",
        "DINOv2 ViT-B/14",
        "ViT",
        346,
        "Apache-2.0",
        TimmConfig("vit_base_patch14_dinov2", {"dynamic_img_size": True}),
    ),
    SourceCard("sam-b-16", "SAM ViT-B/16", "ViT", 359, "Apache-2.0", TimmConfig("samvit_base_patch16")),
    *(_of_variant(variant) for variant in VARIANTS.values() if variant.embedded is None),
)
SOURCES: Mapping[str, SourceCard] = {card.name: card for card in _CARDS}
"""A small embedded vision transformer does not exist; every ViT is to be downloaded."""


def find_source(name: str) -> SourceCard:
    """The card of that name.

    Raises:
        UserError: there is none.
    """
    if name not in SOURCES:
        raise UserError(f'There is no feature source named "{name}"; the sources are {", ".join(SOURCES)}.')
    return SOURCES[name]


def load_source(name: str, *, device: str = "auto", progress: Progress | None = None) -> FeatureSource:
    """Build a source and give it its published weights, downloaded to the Hub cache unless they are there.

    Args:
        name: of a card in :data:`SOURCES`.
        device: ``auto``, ``cpu`` or ``cuda`` (optionally with an index).
        progress: called with bytes done and bytes in all while downloading; what it raises stops the download.

    Raises:
        UserError: unknown name or device; weights that cannot be had, do not fit the network or not into memory.
    """
    card = find_source(name)
    target = resolve_device(device)
    _check_memory(card)
    if isinstance(card.config, VariantConfig):
        return system_source(load_system(card.config.variant, device=str(target)), card.name, card.title)
    path = fetch_first(card.files, progress=progress)
    network = _empty(card.config)
    module = network.clip_model if isinstance(network, ClipTower) else network
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    required = {name: shape for name, shape in shapes.items() if not name.endswith(_COUNTER)}
    expected = Expected(required, {}, ignored=("*" + _COUNTER, "attn_mask", "head.*"))
    tensors = dict(match(read_tensors(path), expected, f"{path} as {card.title}").tensors)
    tensors |= {name: torch.zeros((), dtype=torch.int64) for name in shapes if name.endswith(_COUNTER)}
    module.load_state_dict(tensors, strict=True, assign=True)
    if isinstance(network, ClipTower):
        clip = network.clip_model  # its causal mask is in no file
        clip.attn_mask = torch.full((clip.context_length, clip.context_length), float("-inf")).triu(1)
    return _as_source(card, network.to(target))


@lru_cache(maxsize=len(SOURCES))
def _layers(name: str) -> tuple[Layer, ...]:
    card = find_source(name)
    if isinstance(card.config, VariantConfig):
        network = empty_network(find_variant(card.config.variant))
        decoder = network.sem_seg_head.pixel_decoder
        return ConvolutionalSource(card.name, card.title, network.backbone, decoder).layers
    return _as_source(card, _empty(card.config)).layers


def _empty(config: ClipConfig | TimmConfig) -> nn.Module:
    """The network without memory behind its tensors."""
    with torch.device("meta"):
        if isinstance(config, TimmConfig):
            network: nn.Module = timm.create_model(config.name, pretrained=False, **config.overrides)
            return network
        return ClipTower(config) if _is_transformer(config) else clip_tower(config)


def _as_source(card: SourceCard, network: nn.Module) -> FeatureSource:
    if not isinstance(network, ClipTower):
        return TimmSource(card.name, card.title, network)
    family = ClipTransformerSource if _is_transformer(network.config) else ConvolutionalSource
    return family(card.name, card.title, network)


def _is_transformer(config: ClipConfig) -> bool:
    """open_clip's own towers are transformers where a patch size is set."""
    architecture = config.architecture or open_clip.get_model_config(config.name)
    return bool(architecture["vision_cfg"].get("patch_size"))


def _check_memory(card: SourceCard) -> None:
    needed, budget = _READING * card.megabytes * 1e6, memory_budget(torch.device("cpu"))
    if needed > budget:
        raise UserError(
            f"{card.title} needs about {needed / 1e9:.1f} GB of memory to load and only {budget / 1e9:.1f} GB may be "
            "used: close other programs, or choose a smaller network."
        )
