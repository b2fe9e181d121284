"""A real FC-CLIP small enough for a test: the same classes as the large one, a few hundred thousand weights."""

from __future__ import annotations

import pytest

from ovdemo.checkpoints import HubFile
from ovdemo.images import ResizeRule
from ovdemo.nn.clip import ClipConfig
from ovdemo.nn.mask_decoder import MaskDecoderConfig
from ovdemo.nn.pixel_decoder import PixelDecoderConfig
from ovdemo.systems import registry
from ovdemo.systems.fcclip import FCCLIPConfig
from ovdemo.systems.registry import Variant

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def tiny_config(*, resnet: bool = False) -> FCCLIPConfig:
    if resnet:
        vision: dict = {"image_size": 224, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
        vision["head_width"] = 32
    else:
        vision = {
            "timm_model_name": "convnext_atto",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "mlp",
        }
        vision["image_size"] = 224
    return FCCLIPConfig(
        ClipConfig("RN50", "openai", resnet, {"embed_dim": 32, "vision_cfg": vision, "text_cfg": _TEXT}),
        ensemble_on_valid_mask=resnet,
        pixel_decoder=PixelDecoderConfig(width=32, mask_width=32, layers=2, heads=4, points=2, feedforward=64),
        mask_decoder=MaskDecoderConfig(queries=12, width=32, mask_width=32, layers=3, heads=4, feedforward=64),
        resize_rule=ResizeRule(96, 160),
    )


def tiny_variant(*, resnet: bool = False) -> Variant:
    return Variant(
        name="tiny-resnet" if resnet else "tiny",
        title="A tiny FC-CLIP for tests",
        about="random weights",
        config=tiny_config(resnet=resnet),
        trained=HubFile("someone/tiny", "model.safetensors"),
        authors_link="https://example.org/tiny",
        trained_megabytes=1,
        clip_megabytes=10,
        licence="none",
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Variant:
    """The tiny variant, found by name while the test runs."""
    variant = tiny_variant()
    monkeypatch.setitem(registry.VARIANTS, variant.name, variant)
    return variant
