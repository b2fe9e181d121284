"""The masked-attention transformer decoder of Mask2Former (Cheng et al. 2022, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ovdemo.nn.layers import MLP, Attention, linear
from ovdemo.nn.pixel_decoder import PixelFeatures
from ovdemo.nn.pooling import resize_features
from ovdemo.nn.position import sine_position


@dataclass(frozen=True)
class MaskDecoderConfig:
    """Sizes of a mask decoder; the defaults are FC-CLIP's."""

    queries: int = 250
    width: int = 256
    mask_width: int = 256
    layers: int = 9
    heads: int = 8
    feedforward: int = 2048


class MaskDecoder(nn.Module):
    """Learned queries that attend, within their current masks, to the pixel decoder's levels.

    Masks do not depend on any vocabulary, so one run serves every later question about a picture.
    """

    def __init__(self, config: MaskDecoderConfig) -> None:
        super().__init__()
        width, layers = config.width, range(config.layers)
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttentionLayer(width, config.heads) for _ in layers)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(width, config.heads) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(width, config.feedforward) for _ in layers)
        self.decoder_norm = nn.LayerNorm(width)
        self.query_feat = nn.Embedding(config.queries, width)
        self.query_embed = nn.Embedding(config.queries, width)
        self.level_embed = nn.Embedding(3, width)
        self.mask_embed = MLP(width, width, width, config.mask_width)

    def decode(self, pixels: PixelFeatures) -> list[Tensor]:
        """Normalised query states before the first layer and after each one: ``layers + 1`` tensors (B, Q, C).

        Inference predicts masks from the last state only; training supervises all of them. Bilinear resizing and the
        inner product commute, so the attention masks come from mask features resized once per level rather than
        from masks predicted at stride 4 and resized in every layer.
        """
        memory, position = self._memory(pixels)
        with torch.no_grad():  # attention masks are yes or no: nothing to learn through them
            guides = [resize_features(pixels.mask_features, x.shape[-2:]) for x in pixels.memory]
        query = self.query_feat.weight.expand(pixels.mask_features.shape[0], -1, -1)
        query_position = self.query_embed.weight
        states = [self.decoder_norm(query)]
        for layer in range(len(self.transformer_ffn_layers)):
            level = layer % 3
            with torch.no_grad():
                allowed = attention_mask(self.predict_masks(states[-1], guides[level]))
            query = self.transformer_cross_attention_layers[layer](
                query, query_position, memory[level], position[level], allowed
            )
            query = self.transformer_self_attention_layers[layer](query, query_position)
            query = self.transformer_ffn_layers[layer](query)
            states.append(self.decoder_norm(query))
        return states

    def predict_masks(self, state: Tensor, mask_features: Tensor) -> Tensor:
        """Mask logits (B, Q, h, w): inner product of each query's mask embedding with mask features (B, C, h, w)."""
        logits: Tensor = self.mask_embed(state) @ mask_features.flatten(2)
        return logits.view(*logits.shape[:-1], *mask_features.shape[-2:])

    def _memory(self, pixels: PixelFeatures) -> tuple[list[Tensor], list[Tensor]]:
        memory = [
            x.flatten(2).transpose(1, 2) + embed
            for x, embed in zip(pixels.memory, self.level_embed.weight, strict=True)
        ]
        position = [sine_position(*x.shape[-2:], x.shape[1], x.device) for x in pixels.memory]
        return memory, position


def attention_mask(mask_logits: Tensor) -> Tensor:
    """Where each query may look, (B, Q, h * w) bool: inside its mask (B, Q, h, w), or everywhere if that is empty.

    A cell is blocked where ``sigmoid(logit) < 0.5`` (Mask2Former, equation 2).
    """
    allowed = (mask_logits.detach().sigmoid() >= 0.5).flatten(2)
    return allowed | ~allowed.any(-1, keepdim=True)


class CrossAttentionLayer(nn.Module):
    """Post-norm attention of the queries (B, Q, C) to one memory level (B, K, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, query: Tensor, query_position: Tensor, memory: Tensor, position: Tensor, allowed: Tensor
    ) -> Tensor:
        """Keys carry positions, values do not."""
        attended = self.multihead_attn(query + query_position, memory + position, memory, allowed)
        out: Tensor = self.norm(query + attended)
        return out


class SelfAttentionLayer(nn.Module):
    """Post-norm attention among the queries (B, Q, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, query: Tensor, query_position: Tensor) -> Tensor:
        """Queries and keys carry positions, values do not."""
        placed = query + query_position
        out: Tensor = self.norm(query + self.self_attn(placed, placed, query))
        return out


class FeedForwardLayer(nn.Module):
    """Post-norm two-layer network on each query."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, query: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        out: Tensor = self.norm(query + linear(self.linear2, linear(self.linear1, query, "relu")))
        return out
