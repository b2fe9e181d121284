"""Feature sources that are vision transformers: CLIP's from open_clip, DINOv2's and SAM's from timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from ovdemo.features.maps import Layer, Size
from ovdemo.features.sources import FeatureSource
from ovdemo.nn.clip import ClipTower
from ovdemo.systems.fcclip import PIXEL_MEAN, PIXEL_STD

_TOKEN_COPIES = 20  # tokens as wide as the model that are alive at once, the hidden layer of the MLP among them
_BIAS_COPIES = 2  # attention maps of one block that are alive at once, where attention has a bias


class TransformerSource(FeatureSource):
    """Blocks ``block-1`` .. ``block-n`` of a transformer: the tokens of the patches after each."""

    def _set_layers(self, depth: int, patch: int, width: int, *more: Layer) -> None:
        blocks = [Layer(f"block-{n}", f"block {n} of {depth}", patch, width) for n in range(1, depth + 1)]
        self.layers, self.divisor = (*blocks, *more), patch
        self._depth, self._width = depth, width

    def _bytes(self, image: Size) -> int:
        tokens = image[0] * image[1] // self.divisor**2 + 1
        # All blocks may be asked for at once; each keeps its tokens.
        return 4 * tokens * self._width * (_TOKEN_COPIES + 2 * self._depth) + self._attention_bytes(tokens)

    def _attention_bytes(self, tokens: int) -> int:
        """Nothing where attention is fused, which never holds a map of all pairs of tokens."""
        return 0


class ClipTransformerSource(TransformerSource):
    """A ViT CLIP of open_clip, and the layer ``projected``: its last patch tokens, through CLIP's norm and projection.

    The positional embeddings are resized to the input's grid as open_clip does when it loads a checkpoint for another
    input size: bicubic, with antialiasing. At the native size the features are bit by bit open_clip's own.
    """

    def __init__(self, name: str, title: str, tower: ClipTower) -> None:
        """Take a CLIP whose image tower is open_clip's ``VisionTransformer``; it is frozen."""
        super().__init__(name, title, PIXEL_MEAN, PIXEL_STD)
        self.text_encoder = tower.eval().requires_grad_(False)
        self.device = tower.clip_model.logit_scale.device
        self._visual = cast(Any, tower.clip_model.visual)
        for block in self._visual.transformer.resblocks:
            # In evaluation PyTorch's module takes a path that holds every pair of tokens at once: 1.2 GB instead of
            # 0.1 GB at 1120 px, and twice the time. In training, here without dropout, it takes the fused one.
            block.attn.train()
        depth, patch = len(self._visual.transformer.resblocks), self._visual.patch_size[0]
        projected = Layer("projected", "final map, among the words", patch, tower.width, projected=True)
        self._set_layers(depth, patch, self._visual.class_embedding.numel(), projected)

    def _read(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        visual = self._visual
        patches = visual.conv1(image)
        grid = patches.shape[-2:]
        tokens = torch.cat((visual.class_embedding[None, None], patches.flatten(2).transpose(1, 2)), 1)
        # timm's function and not open_clip's, which leaves the grid alone wherever the number of cells is the same.
        tokens = visual.ln_pre(tokens + resample_abs_pos_embed(visual.positional_embedding[None], list(grid)))
        indices = [self._depth - 1 if name == "projected" else _index(name) for name in layers]
        _, blocks = visual.transformer.forward_intermediates(tokens, indices=sorted(set(indices)), stop_early=True)
        found = dict(zip(sorted(set(indices)), (block[0, 1:] for block in blocks), strict=True))
        maps = {name: found[index] for name, index in zip(layers, indices, strict=True)}
        if "projected" in maps:
            maps["projected"] = visual.ln_post(maps["projected"]) @ visual.proj
        return {name: tokens.T.unflatten(1, grid) for name, tokens in maps.items()}


class TimmSource(TransformerSource):
    """A plain transformer of timm. Position is resized to the input's grid as timm does, bicubic with antialiasing."""

    text_encoder = None

    def __init__(self, name: str, title: str, model: nn.Module) -> None:
        """Take a model that can take inputs of any size; it is frozen."""
        self._model = cast(Any, model.eval().requires_grad_(False))
        mean, std = ([255 * value for value in self._model.pretrained_cfg[key]] for key in ("mean", "std"))
        super().__init__(name, title, mean, std)
        self.device = next(model.parameters()).device
        patch = self._model.patch_embed.patch_size[0]
        self._set_layers(len(self._model.blocks), patch, self._model.embed_dim)

    def _read(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        indices = sorted({_index(name) for name in layers})
        blocks = self._model.forward_intermediates(image, indices=indices, stop_early=True, intermediates_only=True)
        return {f"block-{index + 1}": block[0] for index, block in zip(indices, blocks, strict=True)}

    def _attention_bytes(self, tokens: int) -> int:
        """Relative positions (SAM) are a bias on every pair of tokens in the blocks without windows."""
        attention = self._model.blocks[0].attn
        if not getattr(attention, "use_rel_pos", False):
            return 0
        return int(_BIAS_COPIES * 4 * attention.num_heads * tokens**2)


def _index(layer: str) -> int:
    return int(layer.removeprefix("block-")) - 1
