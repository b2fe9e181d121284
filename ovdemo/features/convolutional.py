"""Feature sources that are convolutional CLIP towers, alone or with the pixel decoder trained on top."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovdemo.features.maps import Layer, Size
from ovdemo.features.sources import FeatureSource
from ovdemo.nn.clip import STAGES, ClipTower
from ovdemo.nn.pixel_decoder import PixelDecoder
from ovdemo.systems.fcclip import FCCLIP, PIXEL_MEAN, PIXEL_STD, SIZE_DIVISOR

_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
_DECODED = ("decoder-32", "decoder-16", "decoder-8")  # in the order of PixelFeatures.memory
_CELLS_A_BATCH = 256
# Measured peaks, rounded up: maps as large as the first stage's that are alive at once, and the decoder's share.
_STAGE_COPIES = 14
_DECODER_COPIES = 24


class ConvolutionalSource(FeatureSource):
    """Stages ``res2`` .. ``res5`` of a ConvNeXt or ResNet CLIP, and its final map among the words.

    The layer ``projected`` is what CLIP's own head makes of each single cell of ``res5``: the out-of-vocabulary
    embedding (FC-CLIP, section 3.3) of a mask of one cell. With a pixel decoder there are also its three levels and
    the mask features.
    """

    def __init__(self, name: str, title: str, tower: ClipTower, pixel_decoder: PixelDecoder | None = None) -> None:
        """Take a tower, and a decoder on the same device; both are frozen."""
        super().__init__(name, title, PIXEL_MEAN, PIXEL_STD)
        self.text_encoder: ClipTower = tower.eval().requires_grad_(False)
        self.divisor = SIZE_DIVISOR
        self.device = tower.clip_model.logit_scale.device
        self._tower = self.text_encoder
        self._decoder = None if pixel_decoder is None else pixel_decoder.eval().requires_grad_(False)
        self.layers = (*_tower_layers(tower), *_decoder_layers(self._decoder))

    def _read(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        # Contiguous, for accuracy: on a CPU channels-last 1x1 convolutions round several times more coarsely.
        maps = {name: stage.float().contiguous() for name, stage in self._tower.stages(image).items()}
        if self._decoder is not None and {*_DECODED, "mask-features"} & set(layers):
            decoded = self._decoder(maps)
            maps |= {**dict(zip(_DECODED, decoded.memory, strict=True)), "mask-features": decoded.mask_features}
        if "projected" in layers:
            maps["projected"] = self._project(maps["res5"])
        return {name: maps[name][0] for name in layers}

    def _project(self, dense: Tensor) -> Tensor:
        """(1, C, h, w) -> (1, D, h, w): the embedding of a mask of one cell, for each cell."""
        grid = dense.shape[-2:]
        masks = torch.eye(grid.numel(), device=dense.device).unflatten(1, grid)
        rows = [self._tower.embed_masks(dense, batch[None])[0] for batch in masks.split(_CELLS_A_BATCH)]
        projected: Tensor = torch.cat(rows).T.unflatten(1, tuple(grid))[None]
        return projected

    def _bytes(self, image: Size) -> int:
        # A ResNet's stem is twice as fine as res2, and its channels are half those of res2 or fewer.
        cells = image[0] * image[1] // 16
        finest = 4 * cells * max(self._tower.channels["res2"], 2 * self._tower.channels["stem"])
        decoder = 0 if self._decoder is None else 4 * cells * self._decoder.mask_features.out_channels
        return _STAGE_COPIES * finest + _DECODER_COPIES * decoder


def system_source(system: FCCLIP, name: str, title: str) -> ConvolutionalSource:
    """The tower and the pixel decoder of a loaded system; nothing is copied."""
    return ConvolutionalSource(name, title, system.network.backbone, system.network.sem_seg_head.pixel_decoder)


def _tower_layers(tower: ClipTower) -> list[Layer]:
    stages = [
        Layer(stage, f"{stage}, stride {_STRIDES[stage]}", _STRIDES[stage], tower.channels[stage])
        for stage in STAGES[1:]
    ]
    return [*stages, Layer("projected", "final map, among the words", SIZE_DIVISOR, tower.width, projected=True)]


def _decoder_layers(decoder: PixelDecoder | None) -> list[Layer]:
    if decoder is None:
        return []
    width = len(decoder.transformer.level_embed.T)
    levels = [
        Layer(name, f"pixel decoder, stride {stride}", stride, width)
        for name, stride in zip(_DECODED, (32, 16, 8), strict=True)
    ]
    return [*levels, Layer("mask-features", "mask features, stride 4", 4, decoder.mask_features.out_channels)]
