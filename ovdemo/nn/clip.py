"""Frozen convolutional CLIP towers from open_clip, as multi-stage feature extractors and mask classifiers.

The tower keeps open_clip's own module, under ``clip_model``, so that its tensors keep open_clip's names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdemo.nn.layers import GeluMLP
from ovdemo.nn.pooling import mask_pool, resize_features
from ovdemo.nn.prompt_tree import prompt_tree

STAGES = ("stem", "res2", "res3", "res4", "res5")
_PROMPTS_A_BATCH = 128


@dataclass(frozen=True)
class ClipConfig:
    """One CLIP: open_clip's model name, its pretrained tag, and whether it was trained with QuickGELU.

    ``architecture`` overrides open_clip's own configuration of that name, for towers that open_clip does not list.
    """

    name: str
    pretrained: str
    quick_gelu: bool = False
    architecture: dict[str, Any] | None = None

    def build(self) -> open_clip.CLIP:
        """The open_clip module, with whatever initialisation the current device context gives."""
        architecture = self.architecture or open_clip.get_model_config(self.name)
        return open_clip.CLIP(**architecture, quick_gelu=self.quick_gelu)


class ClipTower(nn.Module):
    """Image stages, mask-pooled embeddings and text embeddings of one frozen CLIP."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.clip_model = config.build()
        self.tokenizer = open_clip.SimpleTokenizer(context_length=self.clip_model.context_length)

    @property
    def width(self) -> int:
        """Size D of the joint embedding space."""
        return int(self.clip_model.text_projection.shape[1])

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each stage of :data:`STAGES`."""
        raise NotImplementedError

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """Raw stage outputs of a normalised image (B, 3, H, W); res2..res5 at strides 4, 8, 16, 32."""
        raise NotImplementedError

    def embed_masks(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """CLIP embedding of each mask, not normalised.

        Args:
            dense: (B, C, h, w) the last stage, res5.
            mask_logits: (B, Q, h, w) at the same size; a cell belongs to a mask where its logit is positive.

        Returns:
            (B, Q, D).
        """
        raise NotImplementedError

    @cached_property
    def tag(self) -> str:
        """Identifies the tower's weights: open_clip's name and tag, and a hash that no other weights share."""
        clip = self.clip_model
        digest = hashlib.sha256()
        for tensor in (clip.positional_embedding, clip.text_projection, clip.ln_final.weight, clip.ln_final.bias):
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return f"{self.config.name}/{self.config.pretrained}@{digest.hexdigest()[:12]}"

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """CLIP's text embeddings of whole prompts: (len(prompts), D) float32 on the CPU, not normalised.

        Prompts longer than the context are truncated, as CLIP's tokenizer does.
        """
        rows = [self._encode_tree(prompts[i : i + _PROMPTS_A_BATCH]) for i in range(0, len(prompts), _PROMPTS_A_BATCH)]
        return torch.cat(rows).float().cpu() if rows else torch.zeros(0, self.width)

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """One batch of :meth:`encode_prompts` on the tower's device, with gradients where those are recorded."""
        clip = self.clip_model
        tokens, end = self._tokens(prompts)
        # The tower is causal: nothing after the longest prompt's end token can reach any end token.
        length = int(end.max()) + 1
        x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
        x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
        out: Tensor = clip.ln_final(x[torch.arange(len(x), device=x.device), end]) @ clip.text_projection
        return out

    def _encode_tree(self, prompts: Sequence[str]) -> Tensor:
        """:meth:`embed_prompts` for many templates of few names, where prompts begin alike: about half of the work."""
        clip = self.clip_model
        tokens, ends = self._tokens(prompts)
        tree = prompt_tree([row[: end + 1] for row, end in zip(tokens.tolist(), ends.tolist(), strict=True)])
        device = clip.text_projection.device
        x = clip.token_embedding(tree.tokens.to(device)) + clip.positional_embedding[tree.depths.to(device)]
        mask = torch.zeros_like(tree.hidden, dtype=x.dtype).masked_fill_(tree.hidden, -torch.inf)
        x = clip.transformer(x[None], attn_mask=mask.to(device))[0]
        out: Tensor = clip.ln_final(x[tree.ends.to(device)]) @ clip.text_projection
        return out

    def _tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (P, context) on the tower's device, and the place of each end token (P,), the greatest of all."""
        tokens = self.tokenizer(list(prompts)).to(self.clip_model.text_projection.device)
        return tokens, tokens.argmax(-1)


class ConvNeXtTower(ClipTower):
    """A CLIP whose image tower is a timm ConvNeXt."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config)
        for stage in self.clip_model.visual.trunk.stages:
            for block in stage.blocks:
                block.mlp = _one_pass(block.mlp)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each stage."""
        trunk = self.clip_model.visual.trunk
        widths = [info["num_chs"] for info in trunk.feature_info]
        return dict(zip(STAGES, (widths[0], *widths), strict=True))

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """The stem (stride 4, before the first block) and the four stages' outputs, with no extra norm."""
        trunk = self.clip_model.visual.trunk
        x = trunk.stem(image)
        outputs = {"stem": x}
        for name, stage in zip(STAGES[1:], trunk.stages, strict=True):
            x = outputs[name] = stage(x)
        return outputs

    def embed_masks(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Mean of res5 under each mask, through CLIP's own head (FC-CLIP, section 3.3).

        An empty mask pools to zero and so gets one fixed embedding.
        """
        visual = self.clip_model.visual
        pooled = mask_pool(dense, mask_logits)
        norm = visual.trunk.head.norm
        normed = F.layer_norm(pooled, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        out: Tensor = visual.head(normed)
        return out


def _one_pass(mlp: nn.Module) -> nn.Module:
    """The same network in a faster form, where it is the plain one of linear layers and an exact GELU.

    Small ConvNeXts have 1x1 convolutions in its place, newer ones a normalisation; those stay as they are.
    """
    children = dict(mlp.named_children())
    first, last = children.pop("fc1"), children.pop("fc2")
    inert = all(isinstance(child, (nn.GELU, timm.layers.GELU, nn.Dropout, nn.Identity)) for child in children.values())
    exact = getattr(children["act"], "approximate", "none") == "none"
    if inert and exact and isinstance(first, nn.Linear) and isinstance(last, nn.Linear):
        return GeluMLP(first, last)
    return mlp


class ResNetTower(ClipTower):
    """A CLIP whose image tower is OpenAI's modified ResNet with attention pooling."""

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each stage."""
        width = self.clip_model.visual.bn3.num_features
        return dict(zip(STAGES, (width, *(4 * width * 2**i for i in range(4))), strict=True))

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """The stem (stride 2, before its average pool) and the four layers' outputs."""
        visual = self.clip_model.visual
        x = visual.act1(visual.bn1(visual.conv1(image)))
        x = visual.act2(visual.bn2(visual.conv2(x)))
        x = visual.act3(visual.bn3(visual.conv3(x)))
        outputs = {"stem": x}
        x = visual.avgpool(x)
        for name, layer in zip(STAGES[1:], (visual.layer1, visual.layer2, visual.layer3, visual.layer4), strict=True):
            x = outputs[name] = layer(x)
        return outputs

    def embed_masks(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """CLIP's attention pooling with one query a mask, which sees only the mask's positions.

        Keys and values are res5 plus position codes resized to its size; the query is the mean of all of res5 plus
        the first code, the same for every mask. Unlike CLIP's own pooling the mean is not among the keys. A mask
        without a positive position attends to nothing and gets the output projection's bias.
        """
        pool = self.clip_model.visual.attnpool
        tokens = dense.flatten(2).transpose(1, 2)  # (B, hw, C)
        mean = tokens.mean(1, keepdim=True) + pool.positional_embedding[0]
        tokens = tokens + self._position_codes(dense.shape[-2:])
        inside = (mask_logits > 0).flatten(2).unsqueeze(1)  # (B, 1, Q, hw)
        query = pool.q_proj(mean).expand(-1, inside.shape[2], -1)
        q, k, v = (
            x.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for x in (query, pool.k_proj(tokens), pool.v_proj(tokens))
        )
        allowed = inside | ~inside.any(-1, keepdim=True)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        attended = attended * inside.any(-1, keepdim=True)
        out: Tensor = pool.c_proj(attended.transpose(1, 2).flatten(2))
        return out

    def _position_codes(self, size: torch.Size) -> Tensor:
        codes = self.clip_model.visual.attnpool.positional_embedding[1:]
        side = int(len(codes) ** 0.5)
        grid = codes.T.unflatten(-1, (side, side))[None]
        return resize_features(grid, size).flatten(2).transpose(1, 2)


def clip_tower(config: ClipConfig) -> ClipTower:
    """The tower class that fits a configuration."""
    architecture = config.architecture or open_clip.get_model_config(config.name)
    family = ConvNeXtTower if "timm_model_name" in architecture["vision_cfg"] else ResNetTower
    return family(config)
