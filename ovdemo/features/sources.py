"""A frozen network whose layers can be read: what all feature sources share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ovdemo.errors import UserError
from ovdemo.features.maps import SIZES, FeatureMap, Layer, Size, input_size
from ovdemo.features.memory import memory_budget
from ovdemo.images import Picture, resize
from ovdemo.vocabulary import TextEncoder

_SIZE_STEP = 32  # pixels between the sizes that a refusal tries


class FeatureSource:
    """A network with its weights on a device. A subclass names its layers and reads them.

    Attributes:
        name: short and unique.
        title: for people.
        layers: where features can be read, from the picture onwards.
        divisor: input sides are multiples of it.
        text_encoder: the text tower that shares the space of the projected layer; None where there is no such layer.
        device: of the weights.
    """

    name: str
    title: str
    layers: tuple[Layer, ...]
    divisor: int
    text_encoder: TextEncoder | None
    device: torch.device

    def __init__(self, name: str, title: str, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the names, and the mean and deviation of the network's input on 0..255."""
        self.name, self.title = name, title
        self._mean, self._std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            UserError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise UserError(f'{self.title} has no layer "{name}"; choose one of {names}.')

    def features(self, picture: Picture, size: int, layer: str, *, budget: int | None = None) -> FeatureMap:
        """One layer of :meth:`encode`."""
        return self.encode(picture, size, (layer,), budget=budget)[0]

    @torch.inference_mode()
    def encode(
        self, picture: Picture, size: int, layers: Sequence[str], *, budget: int | None = None
    ) -> tuple[FeatureMap, ...]:
        """Read layers of the network in one pass, in float32.

        Args:
            picture: resized as :func:`~ovdemo.features.maps.input_size` says, with Pillow's bilinear filter.
            size: side in pixels of the square that has as many pixels as the input.
            layers: names, in any order.
            budget: bytes that the pass may take; None is what the device has to give.

        Raises:
            UserError: no such layer, a size out of range, or a pass that takes more memory than the budget.
        """
        wanted = [self.layer(name) for name in layers]
        pixels = (picture.height, picture.width)
        self._check_memory(pixels, size, memory_budget(self.device) if budget is None else budget)
        tensors = self._read(self._image(picture, input_size(pixels, size, self.divisor)), layers)
        return tuple(FeatureMap(_to_numpy(tensors[layer.name]), self.name, layer, size, pixels) for layer in wanted)

    def bytes_needed(self, picture: Size, size: int) -> int:
        """An upper estimate of what :meth:`encode` of a picture of this height and width takes beyond the weights."""
        return self._bytes(input_size(picture, size, self.divisor))

    def largest_size(self, picture: Size, budget: int, *, below: int = SIZES[1]) -> int | None:
        """The largest multiple of 32 up to ``below`` at which a picture fits into a budget of bytes, if any does."""
        sizes = range(SIZES[0], below + 1, _SIZE_STEP)
        return next((size for size in reversed(sizes) if self.bytes_needed(picture, size) <= budget), None)

    def _check_memory(self, picture: Size, size: int, budget: int) -> None:
        needed = self.bytes_needed(picture, size)
        if needed <= budget:
            return
        fitting = self.largest_size(picture, budget, below=size)
        remedy = "close other programs" if fitting is None else f"choose {fitting} px or less"
        raise UserError(
            f"{self.title} at {size} px needs about {needed / 1e9:.1f} GB of memory "
            f"and only {budget / 1e9:.1f} GB may be used: {remedy}."
        )

    def _image(self, picture: Picture, size: Size) -> Tensor:
        """(1, 3, H, W) normalised, on the device."""
        pixels = np.array(resize(picture.pixels, size))  # a copy: torch wants it writable
        image = torch.from_numpy(pixels).permute(2, 0, 1).float()
        return ((image - self._mean) / self._std)[None].to(self.device)

    def _read(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """At least these layers of (1, 3, H, W), each (C, h, w)."""
        raise NotImplementedError

    def _bytes(self, image: Size) -> int:
        """An upper estimate of the memory that :meth:`_read` of an input of this height and width takes."""
        raise NotImplementedError


def _to_numpy(features: Tensor) -> np.ndarray:
    """(C, h, w) -> (h, w, C) float32, read-only."""
    values = features.permute(1, 2, 0).float().contiguous().cpu().numpy()
    values.setflags(write=False)
    return values
