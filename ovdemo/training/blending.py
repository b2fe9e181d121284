"""Two photographs in one, with both names in proportion: few photographs are so less easily learned by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovdemo.training.scenes import Scene


@dataclass(frozen=True, eq=False)
class Blended:
    """A photograph of one thing that may have some of another in it.

    Attributes:
        scene: of a single region; all of the picture where it is blended.
        other: concept of the other photograph; the scene's own where there is none.
        share: (0..1) of the picture that is the scene's own; 1 where it is not blended.
    """

    scene: Scene
    other: int
    share: float


def blend(scenes: Sequence[Scene], chance: float, random: np.random.Generator) -> list[Blended]:
    """Put some of the next photograph into each of some photographs of one thing.

    Half of the time a rectangle of it (CutMix; Yun et al. 2019, section 3.1), else it shines through everywhere (mixup;
    Zhang et al. 2018, equation 1). The share is uniform, as Beta(1, 1) is in both.

    Args:
        scenes: of a region each and all of one size.
        chance: (0..1) that a photograph is blended.
        random: where all draws come from.
    """
    blended = []
    for scene, other in zip(scenes, [*scenes[1:], *scenes[:1]], strict=True):
        own = int(scene.concepts[0])
        if random.random() < chance:
            mix = _cut_in if random.random() < 0.5 else _shine_through
            pixels, share = mix(scene.pixels, other.pixels, random.random(), random)
            whole = np.ones_like(scene.masks)
            blended.append(Blended(replace(scene, pixels=pixels, masks=whole), int(other.concepts[0]), share))
        else:
            blended.append(Blended(scene, own, 1.0))
    return blended


def _cut_in(own: np.ndarray, other: np.ndarray, share: float, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """A rectangle of the picture's shape at a random place, cut off at the borders."""
    half = own.shape[0] * (1 - share) ** 0.5 / 2
    ranges = []
    for length in own.shape[:2]:
        centre = random.uniform(0, length)
        ranges.append(slice(max(0, round(centre - half)), min(length, round(centre + half))))
    rows, columns = ranges
    pixels = own.copy()
    pixels[rows, columns] = other[rows, columns]
    hidden = (rows.stop - rows.start) * (columns.stop - columns.start)
    return pixels, 1 - hidden / (own.shape[0] * own.shape[1])


def _shine_through(
    own: np.ndarray, other: np.ndarray, share: float, random: np.random.Generator
) -> tuple[np.ndarray, float]:
    return (share * own + (1 - share) * other).round().astype(np.uint8), share
