"""FC-CLIP: one frozen convolutional CLIP as backbone and as open-vocabulary classifier.

Yu et al., "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP", NeurIPS 2023.
Where paper and published checkpoint differ, this follows the checkpoint: the in-vocabulary embedding pools the mask
features, projects them, adds the query's state and applies an MLP (the paper's section 3.3 only pools).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdemo.ensemble import Fusion
from ovdemo.images import Picture, ResizeRule
from ovdemo.nn.clip import ClipConfig, ClipTower, clip_tower
from ovdemo.nn.layers import MLP
from ovdemo.nn.mask_decoder import MaskDecoder, MaskDecoderConfig
from ovdemo.nn.pixel_decoder import PixelDecoder, PixelDecoderConfig
from ovdemo.nn.pooling import mask_pool, resize_features
from ovdemo.systems.base import Classifiers, Features, Proposals, network_input
from ovdemo.vocabulary import TextEmbeddings

# CLIP's own normalisation, on 0..255.
PIXEL_MEAN = (122.7709383, 116.7460125, 104.09373615)
PIXEL_STD = (68.5005327, 66.6321579, 70.32316305)
SIZE_DIVISOR = 32


@dataclass(frozen=True)
class FCCLIPConfig:
    """One variant: its CLIP, the sizes of its decoders, and how its weights are meant to be used.

    ``ensemble_on_valid_mask`` is the authors' setting for ResNet towers: a mask that CLIP pools from nothing is
    classified by the in-vocabulary head alone. ``fusion`` is the ensemble that suits the weights.
    """

    clip: ClipConfig
    ensemble_on_valid_mask: bool
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    resize_rule: ResizeRule = field(default_factory=lambda: ResizeRule(short_side=800, long_side=1333))
    fusion: Fusion = field(default_factory=Fusion)


class Predictor(MaskDecoder):
    """The mask decoder with FC-CLIP's in-vocabulary class embedding."""

    def __init__(self, config: MaskDecoderConfig, embedding_width: int) -> None:
        super().__init__(config)
        self._mask_pooling_proj = nn.Sequential(
            nn.LayerNorm(config.mask_width), nn.Linear(config.mask_width, config.width)
        )
        self.class_embed = MLP(config.width, config.width, config.width, embedding_width)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def embed_classes(self, state: Tensor, mask_features: Tensor, mask_logits: Tensor) -> Tensor:
        """In-vocabulary class embeddings (B, Q, D) of query states (B, Q, C) and their masks (B, Q, h, w)."""
        pooled = self._mask_pooling_proj(mask_pool(mask_features, mask_logits))
        out: Tensor = self.class_embed(pooled + state)
        return out


class SegmentationHead(nn.Module):
    """The trained decoders, under the published names."""

    def __init__(self, config: FCCLIPConfig, tower: ClipTower) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder(tower.channels, config.pixel_decoder)
        self.predictor = Predictor(config.mask_decoder, tower.width)


class FCCLIPNetwork(nn.Module):
    """All of FC-CLIP's tensors, named so that the authors' state dict loads with ``strict=True``."""

    def __init__(self, config: FCCLIPConfig) -> None:
        super().__init__()
        self.backbone = clip_tower(config.clip)
        self.sem_seg_head = SegmentationHead(config, self.backbone)
        self.void_embedding = nn.Embedding(1, self.backbone.width)


class FCCLIP:
    """FC-CLIP with its weights, ready to answer (the :class:`~ovdemo.systems.base.System` protocol)."""

    def __init__(
        self,
        network: FCCLIPNetwork,
        config: FCCLIPConfig,
        training_names: frozenset[str],
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Take a network on its device; ``precision`` is the image tower's, the decoders always run in float32."""
        self.network = network.eval().requires_grad_(False)
        self.config = config
        self.resize_rule, self.fusion = config.resize_rule, config.fusion
        self.training_names = training_names
        self.precision = precision
        self.device = network.void_embedding.weight.device
        self._mean = torch.tensor(PIXEL_MEAN, device=self.device)
        self._std = torch.tensor(PIXEL_STD, device=self.device)

    @property
    def text_encoder(self) -> ClipTower:
        """The text tower of the frozen CLIP."""
        return self.network.backbone

    @property
    def classifiers(self) -> Classifiers:
        """Both temperatures are capped at 100, as in the published code."""
        network = self.network
        return Classifiers(
            in_scale=network.sem_seg_head.predictor.logit_scale.exp().clamp(max=100).item(),
            out_scale=network.backbone.clip_model.logit_scale.exp().clamp(max=100).item(),
            void=F.normalize(network.void_embedding.weight[0], dim=-1),
            needs_clip_support=self.config.ensemble_on_valid_mask,
        )

    @torch.inference_mode()
    def encode(self, picture: Picture, rule: ResizeRule) -> Features:
        """The frozen tower's stages ``stem``, ``res2`` .. ``res5`` in float32."""
        image, geometry = network_input(picture, rule, self._mean, self._std, SIZE_DIVISOR)
        with self._autocast():
            stages = self.network.backbone.stages(image)
        # Contiguous, for accuracy: on a CPU channels-last 1x1 convolutions round several times more coarsely.
        return Features({name: stage.float().contiguous() for name, stage in stages.items()}, geometry)

    @torch.inference_mode()
    def propose(self, features: Features, text: TextEmbeddings | None = None) -> Proposals:
        """Masks and their two embeddings (section 3.3). The words do not matter here."""
        head = self.network.sem_seg_head
        pixels = head.pixel_decoder(features.stages)
        state = head.predictor.decode(pixels)[-1]
        mask_logits = head.predictor.predict_masks(state, pixels.mask_features)
        class_embeddings = head.predictor.embed_classes(state, pixels.mask_features, mask_logits)
        clip_embeddings, clip_supported = self.embed_masks(features, mask_logits[0])
        return Proposals(
            mask_logits=mask_logits[0],
            class_embeddings=class_embeddings[0],
            clip_embeddings=clip_embeddings,
            clip_supported=clip_supported,
            geometry=features.geometry,
        )

    @torch.inference_mode()
    def embed_masks(self, features: Features, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the frozen tower's last stage under each mask; the out-of-vocabulary branch of section 3.3."""
        dense = features.stages["res5"]
        logits = resize_features(mask_logits[None], dense.shape[-2:])
        return self.network.backbone.embed_masks(dense, logits)[0], (logits[0] > 0).flatten(1).any(-1)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)
