"""A picture under construction: crops laid down, cut-outs pasted over them, and the regions that stay visible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ovdemo.training.photos import Box
from ovdemo.training.scenes import Scene

_TWINS = 0.9  # intersection over union
_LUMA = np.array([0.299, 0.587, 0.114])
_ACROSS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # turns colours about the grey axis


@dataclass(frozen=True, eq=False)
class Region:
    """A mask on a canvas, (H, W) bool; ``whole`` is how many pixels it had before anything was pasted over it."""

    mask: np.ndarray
    concept: int
    is_thing: bool
    whole: int


@dataclass(frozen=True, eq=False)
class Sprite:
    """An object without its surroundings: (h, w, 3) uint8 pixels, (h, w) uint8 opacity, and what it is."""

    pixels: np.ndarray
    opacity: np.ndarray
    concept: int
    is_thing: bool


class Canvas:
    """Pixels, (H, W, 3) uint8, that belong to the canvas, the regions on them, and the concepts that are marked
    wherever they occur.
    """

    def __init__(self, pixels: np.ndarray, complete: frozenset[int] = frozenset()) -> None:
        self.pixels = pixels
        self.complete = complete
        self.regions: list[Region] = []

    def add(self, mask: np.ndarray, concept: int, is_thing: bool) -> None:
        """Mark a region that is in the pixels already; one without a pixel is left out."""
        area = cv2.countNonZero(mask.view(np.uint8))
        if area:
            self.regions.append(Region(mask, concept, is_thing, area))

    def paste(self, sprite: Sprite, left: int, top: int) -> None:
        """Lay an object over the canvas, with soft edges; what sticks out is cut off, what lies below loses pixels."""
        height, width = self.pixels.shape[:2]
        x, y = max(left, 0), max(top, 0)
        right, bottom = min(left + sprite.opacity.shape[1], width), min(top + sprite.opacity.shape[0], height)
        if x >= right or y >= bottom:
            return
        source = slice(y - top, bottom - top), slice(x - left, right - left)
        place = slice(y, bottom), slice(x, right)
        alpha = (sprite.opacity[source].astype(np.float32) / 255)[..., None]
        below = self.pixels[place]
        self.pixels[place] = (below + alpha * (sprite.pixels[source].astype(np.float32) - below)).round()
        covered = sprite.opacity[source] > 127
        for region in self.regions:
            region.mask[place] &= ~covered
        mask = np.zeros((height, width), bool)
        mask[place] = covered
        self.add(mask, sprite.concept, sprite.is_thing)

    def embed(self, other: Canvas, left: int, top: int) -> None:
        """Lay a smaller canvas with all of its regions into an empty part of this one; what is marked wherever it
        occurs is left to the caller.
        """
        height, width = other.pixels.shape[:2]
        place = slice(top, top + height), slice(left, left + width)
        self.pixels[place] = other.pixels
        for region in other.regions:
            mask = np.zeros(self.pixels.shape[:2], bool)
            mask[place] = region.mask
            self.regions.append(replace(region, mask=mask))

    def drop_twins(self) -> None:
        """Of regions with almost the same pixels keep the first, such as a bag that is marked as a purse too."""
        kept: list[Region] = []
        for region in self.regions:
            if not any(_are_twins(region, other) for other in kept):
                kept.append(region)
        self.regions = kept

    def scene(self, min_area: int, min_share: float, *, named_only: bool) -> Scene:
        """What is left to see.

        Args:
            min_area: regions of fewer visible pixels are left out, and their pixels are not labelled.
            min_share: likewise those of which less than this share is visible.
            named_only: leave out regions without a concept too.
        """
        kept: list[Region] = []
        lost: list[Region] = []
        for region in self.regions:
            area = cv2.countNonZero(region.mask.view(np.uint8))
            visible = area >= max(min_area, min_share * region.whole)
            (kept if visible and (region.concept >= 0 or not named_only) else lost).append(region)
        shape = self.pixels.shape[:2]
        masks = np.stack([region.mask for region in kept]) if kept else np.zeros((0, *shape), bool)
        labelled = np.zeros(shape, bool)
        for region in kept:
            labelled |= region.mask
        for region in lost:
            labelled &= ~region.mask
        concepts = np.array([region.concept for region in kept], np.int64)
        is_thing = np.array([region.is_thing for region in kept], bool)
        complete = self.complete - {region.concept for region in lost}
        return Scene(self.pixels, masks, concepts, is_thing, labelled, complete)


def _are_twins(one: Region, other: Region) -> bool:
    if min(one.whole, other.whole) < _TWINS * max(one.whole, other.whole):
        return False
    common = np.count_nonzero(one.mask & other.mask)
    return bool(common >= _TWINS * (one.whole + other.whole - common))


def cut(pixels: np.ndarray, window: Box, size: tuple[int, int], *, flip: bool) -> np.ndarray:
    """The (x, y, width, height) ``window`` of uint8 pixels or opacities, resized to ``size``, (width, height)."""
    shrinks = size[0] < window[2] or size[1] < window[3]
    return _cut(pixels, window, size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR, flip)


def cut_ids(ids: np.ndarray, window: Box, size: tuple[int, int], *, flip: bool) -> np.ndarray:
    """Likewise of a map of uint8 ids, each pixel the nearest one."""
    return _cut(ids, window, size, cv2.INTER_NEAREST, flip)


def _cut(values: np.ndarray, window: Box, size: tuple[int, int], interpolation: int, flip: bool) -> np.ndarray:
    x, y, width, height = window
    resized = cv2.resize(values[y : y + height, x : x + width], size, interpolation=interpolation)
    return np.asarray(cv2.flip(resized, 1) if flip else resized)


def turn(values: np.ndarray, degrees: float) -> np.ndarray:
    """uint8 pixels or a map of them, (H, W, ...), turned about the centre; the corners are filled by reflection."""
    if not degrees:
        return values
    height, width = values.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(values, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101))


def jitter_colours(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and, mildly, hue; one picture in twenty turns grey, one in ten soft."""
    brightness, contrast, saturation = rng.uniform(0.75, 1.25), rng.uniform(0.75, 1.25), rng.uniform(0.6, 1.4)
    if rng.random() < 0.05:
        saturation = 0.0
    angle = rng.uniform(-0.2, 0.2)  # radians
    turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * _ACROSS
    mix = saturation * np.eye(3) + (1 - saturation) * _LUMA
    offset = brightness * (1 - contrast) * float(np.mean(cv2.mean(pixels)[:3]))
    matrix = np.column_stack([brightness * contrast * mix @ turn, np.full(3, offset)])
    changed = cv2.transform(pixels, matrix.astype(np.float32))
    if rng.random() < 0.1:
        changed = cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.5, 1.5))
    return np.asarray(changed)
