"""Seen or unseen: does a class share a name with the words that a system was trained on?"""

from __future__ import annotations

import numpy as np

from ovdemo.vocabulary.classes import Vocabulary


def seen_classes(vocabulary: Vocabulary, training_names: frozenset[str]) -> np.ndarray:
    """(C,) bool: whether at least one name of the class equals, character for character, a training name.

    FC-CLIP's geometric ensemble weighs the two apart; how it tells them is in its published code only. ``Person`` is
    unseen where the training vocabulary says ``person``.
    For the systems trained on COCO panoptic the training names are ``frozenset(load_preset("coco-panoptic").names)``.
    """
    return np.array([not training_names.isdisjoint(entry.names) for entry in vocabulary.classes], dtype=bool)
