"""The files that travel with the project: the weights in half precision, and the presets' text embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ovdemo.checkpoints import save_safetensors
from ovdemo.systems.base import System
from ovdemo.vocabulary import (
    VILD_14,
    EmbeddingCache,
    EmbeddingSpace,
    Progress,
    TextEmbedder,
    Vocabulary,
    VocabularyClass,
    load_preset,
    packed,
    preset_names,
)


def write_weights(
    network_tensors: Mapping[str, Tensor], training_names: Sequence[str], facts: Mapping[str, str], path: Path
) -> None:
    """Write all tensors of an embedded network, its frozen CLIP among them, as one safetensors file.

    Matrices and kernels are stored in half precision. Vectors and scalars stay in float32: together they weigh 0.2 MB,
    and among them are what half precision would hurt, ConvNeXt's layer scales (which start at 1e-6, below float16's
    normal numbers) and the logit scales (whose exponential multiplies every cosine).

    Args:
        network_tensors: the network's state dict.
        training_names: what the network was trained on, recorded in the file: these names count as seen.
        facts: anything else that the file should say of itself.
        path: where the file goes.

    Raises:
        UserError: the file cannot be written.
    """
    halved = {
        name: tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        for name, tensor in network_tensors.items()
    }
    save_safetensors(halved, path, {**facts, "training_names": json.dumps(list(training_names), ensure_ascii=False)})


def write_text(system: System, path: Path, progress: Progress | None = None) -> None:
    """Encode every name of every preset and write the rows in half precision (see :mod:`ovdemo.vocabulary.shipped`).

    Args:
        system: loaded from the weights that :func:`write_weights` wrote. Rounding changes a tower's tag, so rows made
            with the network as it was trained would belong to no tower and never be used.
        path: where the file goes.
        progress: called with names done and names in all.

    Raises:
        UserError: the file cannot be written.
    """
    names = sorted({name for preset in preset_names() for name in load_preset(preset).names})
    vocabulary = Vocabulary(tuple(VocabularyClass((name,), "thing") for name in names))
    encoder = system.text_encoder
    made = TextEmbedder(encoder, VILD_14, EmbeddingCache(None)).embed(vocabulary, progress)
    space = EmbeddingSpace(encoder.tag, VILD_14.name, VILD_14.digest, encoder.width)
    tensors, facts = packed(space, dict(zip(names, made.rows.numpy(), strict=True)))
    save_safetensors(tensors, path, facts)
