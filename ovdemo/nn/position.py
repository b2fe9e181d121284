"""Sine position codes of DETR-style decoders."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Position code of a feature map, (H * W, channels), row-major; first half codes y, second half x.

    Coordinates count from 1 and are divided by ``length + 1e-6`` and multiplied by 2 pi; channel i of an axis is
    ``sin`` (even i) or ``cos`` (odd i) of the coordinate over ``10000 ** (2 * (i // 2) / (channels / 2))``
    (Carion et al. 2020, section A.4, in the normalised form of Mask2Former).
    """
    y = _axis_code(height, channels // 2, device)[:, None].expand(height, width, -1)
    x = _axis_code(width, channels // 2, device)[None].expand(height, width, -1)
    return torch.cat((y, x), dim=-1).flatten(0, 1)


def _axis_code(length: int, channels: int, device: torch.device) -> Tensor:
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * (2 * math.pi)
    exponent = torch.arange(channels, dtype=torch.float32, device=device).div(2, rounding_mode="floor") * 2 / channels
    angle = position[:, None] / 10000**exponent
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)
