"""The multi-scale deformable-attention pixel decoder of Mask2Former (Cheng et al. 2022, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdemo.nn.deformable_attention import DeformableAttention, Shapes
from ovdemo.nn.layers import ConvNorm, linear
from ovdemo.nn.position import sine_position


@dataclass(frozen=True)
class PixelDecoderConfig:
    """Sizes of a pixel decoder; the defaults are FC-CLIP's and Mask2Former's."""

    width: int = 256
    mask_width: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4
    feedforward: int = 1024


@dataclass(frozen=True, eq=False)
class PixelFeatures:
    """What the pixel decoder makes of one batch.

    Attributes:
        memory: the mask decoder's levels at strides 32, 16, 8, each (B, C, h, w).
        mask_features: (B, C, H/4, W/4), what mask embeddings are multiplied with.
    """

    memory: tuple[Tensor, Tensor, Tensor]
    mask_features: Tensor


class PixelDecoder(nn.Module):
    """Backbone stages res2..res5 -> :class:`PixelFeatures`. Always float32."""

    def __init__(self, channels: Mapping[str, int], config: PixelDecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels[stage], width, 1), nn.GroupNorm(32, width))
            for stage in ("res5", "res4", "res3")
        )
        self.transformer = DeformableTransformer(config)
        self.adapter_1 = ConvNorm(channels["res2"], width, 1)
        self.layer_1 = ConvNorm(width, width, 3)
        self.mask_features = nn.Conv2d(width, config.mask_width, 1)

    def forward(self, stages: Mapping[str, Tensor]) -> PixelFeatures:
        """Encode res3..res5 jointly, then lift the finest level to stride 4 with a lateral connection from res2."""
        levels = [
            project(stages[stage]) for project, stage in zip(self.input_proj, ("res5", "res4", "res3"), strict=True)
        ]
        coarse, middle, fine = self.transformer(levels)
        lateral = self.adapter_1(stages["res2"])
        lifted = lateral + F.interpolate(fine, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        mask_features = self.mask_features(F.relu(self.layer_1(lifted)))
        return PixelFeatures((coarse, middle, fine), mask_features)


class DeformableTransformer(nn.Module):
    """Level embeddings and the stack of deformable encoder layers over all levels at once."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(3, config.width))
        self.encoder = DeformableEncoder(config)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """(B, C, h, w) maps in, coarse to fine, the same maps encoded out."""
        shapes: Shapes = tuple((x.shape[-2], x.shape[-1]) for x in levels)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)
        position = torch.cat(
            [
                sine_position(h, w, tokens.shape[-1], tokens.device) + embed
                for (h, w), embed in zip(shapes, self.level_embed, strict=True)
            ]
        )
        tokens = self.encoder(tokens, position, shapes)
        maps = tokens.transpose(1, 2).split([h * w for h, w in shapes], -1)
        return [x.unflatten(-1, shape) for x, shape in zip(maps, shapes, strict=True)]


class DeformableEncoder(nn.Module):
    """The encoder layers, under ``layers``."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DeformableEncoderLayer(config) for _ in range(config.layers))

    def forward(self, tokens: Tensor, position: Tensor, shapes: Shapes) -> Tensor:
        """(B, T, C) tokens and (T, C) positions -> (B, T, C)."""
        for layer in self.layers:
            tokens = layer(tokens, position, shapes)
        return tokens


class DeformableEncoderLayer(nn.Module):
    """Post-norm deformable self-attention and feed-forward network."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(config.width, config.heads, 3, config.points)
        self.norm1 = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, config.width)
        self.norm2 = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, position: Tensor, shapes: Shapes) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        tokens = self.norm1(tokens + self.self_attn(tokens + position, tokens, shapes))
        out: Tensor = self.norm2(tokens + linear(self.linear2, linear(self.linear1, tokens, "relu")))
        return out
