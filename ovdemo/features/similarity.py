"""How close every location's feature is to a word, or to the feature at a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy.special import softmax

from ovdemo.errors import UserError
from ovdemo.features.maps import FeatureMap
from ovdemo.vocabulary import TextEmbeddings

Contrast = Literal["none", "others", "softmax"]

_LOGIT_SCALE = 100  # the largest that CLIP's training allows, and what its towers end up with


def word_map(features: FeatureMap, text: TextEmbeddings, word: int, contrast: Contrast = "none") -> np.ndarray:
    """How well a word fits at each cell, from the cosine of the cell's feature to each class of a vocabulary.

    A class's cosine is the largest over its names. Then, for the class ``word``:

    * ``none``: its cosine, -1..1.
    * ``others``: its cosine minus the mean cosine of the other classes, -2..2. What all words share cancels.
    * ``softmax``: its share of ``softmax(100 cosine)`` over all classes, 0..1, as CLIP classifies.

    Args:
        features: of a projected layer.
        text: embeddings by the source's own text tower.
        word: index of a class.
        contrast: see above.

    Returns:
        (h, w) float32.

    Raises:
        UserError: the layer does not lie in the space of words, or there is nothing to contrast the word with.
        ValueError: the embeddings are of another width.
    """
    if not features.layer.projected:
        raise UserError(
            f"Features of {features.layer.title} cannot be compared with words: choose the final projected map of a "
            "CLIP."
        )
    if contrast != "none" and text.num_classes < 2:
        raise UserError("One word alone has no contrast: type a second one, or choose its plain cosine.")
    if text.rows.shape[1] != features.layer.channels:
        raise ValueError(f"words of width {text.rows.shape[1]} and features of width {features.layer.channels}")
    cosines = text.max_over_names(torch.from_numpy(features.unit) @ text.rows.cpu().T).numpy()
    return np.asarray(_contrasted(cosines, word, contrast).reshape(features.grid), np.float32)


def click_map(features: FeatureMap, x: float, y: float) -> np.ndarray:
    """Cosine of every cell's feature to that of the cell under a pixel.

    Args:
        features: of any layer.
        x, y: position in the picture, in pixels from the upper left corner.

    Returns:
        (h, w) float32 in -1..1, one at the cell itself.

    Raises:
        UserError: the position is outside the picture.
    """
    height, width = features.picture
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"Pixel ({x:g}, {y:g}) is outside the picture of {width} x {height}: click inside it.")
    rows, columns = features.grid
    clicked = int(y * rows / height) * columns + int(x * columns / width)
    return np.asarray((features.unit @ features.unit[clicked]).reshape(features.grid))


def shared_range(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """(low, high) over the cells of all maps, so that one colour means one value in every panel."""
    return min(float(cells.min()) for cells in maps), max(float(cells.max()) for cells in maps)


def _contrasted(cosines: np.ndarray, word: int, contrast: Contrast) -> np.ndarray:
    """(n,) from (n, classes)."""
    if contrast == "none":
        return np.asarray(cosines[:, word])
    if contrast == "others":
        return np.asarray(cosines[:, word] - np.delete(cosines, word, axis=1).mean(1))
    return np.asarray(softmax(_LOGIT_SCALE * cosines, axis=1)[:, word])
