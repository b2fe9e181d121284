"""FC-CLIP written the obvious way, to check the fast way against and to time it against.

Deformable attention by ``grid_sample``, attention masks from masks predicted at stride 4 and resized in every layer,
class embeddings and logits at every layer, every mask upsampled whole, one Python loop over the proposals.

``python tests/straightforward.py --size 640x853`` times both ways on this machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovdemo.fusion import Scores, class_logits
from ovdemo.nn import layers
from ovdemo.nn.deformable_attention import DeformableAttention, Shapes
from ovdemo.nn.pooling import resize_features
from ovdemo.systems.base import Proposals
from ovdemo.systems.fcclip import FCCLIP
from ovdemo.vocabulary import TextEmbeddings, Vocabulary


def deformable_attention(module: DeformableAttention, query: Tensor, tokens: Tensor, shapes: Shapes) -> Tensor:
    """One ``grid_sample`` a level, then the weighted sum over levels and points: (B, T, C) -> (B, T, C)."""
    batch, count, width = tokens.shape
    heads, levels, points = module.heads, module.levels, module.points
    value = module.value_proj(tokens).view(batch, count, heads, width // heads)
    offsets = module.sampling_offsets(query).view(batch, count, heads, levels, points, 2)
    weights = module.attention_weights(query).view(batch, count, heads, levels * points).softmax(-1)
    centres = torch.cat(
        [
            torch.stack(
                torch.meshgrid((torch.arange(w) + 0.5) / w, (torch.arange(h) + 0.5) / h, indexing="xy"), -1
            ).flatten(0, 1)
            for h, w in shapes
        ]
    )
    sizes = torch.tensor([(w, h) for h, w in shapes])
    places = 2 * (centres[:, None, None, None] + offsets / sizes[:, None]) - 1
    samples = []
    for level, (values, (h, w)) in enumerate(zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)):
        table = values.permute(0, 2, 3, 1).reshape(batch * heads, -1, h, w)
        grid = places[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(table, grid, align_corners=False))
    stacked = torch.stack(samples, -2).flatten(-2)
    out = (stacked * weights.transpose(1, 2).reshape(batch * heads, 1, count, -1)).sum(-1)
    return module.output_proj(out.view(batch, width, count).transpose(1, 2))


@contextmanager
def plain_kernels() -> Iterator[None]:
    """The network's modules as anyone would write them: PyTorch's own linear layers, sampling by ``grid_sample``."""
    with patch.object(layers, "_ONE_PASS", False), patch.object(DeformableAttention, "forward", deformable_attention):
        yield


@torch.inference_mode()
@plain_kernels()
def propose(system: FCCLIP, stages: dict[str, Tensor], text: TextEmbeddings) -> tuple[Tensor, Tensor, Tensor]:
    """Mask logits, class embeddings and CLIP embeddings, computing at every layer all that training would."""
    head = system.network.sem_seg_head
    predictor = head.predictor
    pixels = head.pixel_decoder(stages)
    memory, positions = predictor._memory(pixels)
    query, query_position = predictor.query_feat.weight[None], predictor.query_embed.weight
    for layer in range(len(predictor.transformer_ffn_layers) + 1):
        state = predictor.decoder_norm(query)
        masks = predictor.predict_masks(state, pixels.mask_features)
        embeddings = predictor.embed_classes(state, pixels.mask_features, masks)
        class_logits(embeddings[0], text, system.classifiers.void, system.classifiers.in_scale)
        if layer == len(predictor.transformer_ffn_layers):
            break
        level = layer % 3
        blocked = resize_features(masks, pixels.memory[level].shape[-2:]).sigmoid().flatten(2) < 0.5
        blocked[blocked.all(-1)] = False
        query = predictor.transformer_cross_attention_layers[layer](
            query, query_position, memory[level], positions[level], ~blocked
        )
        query = predictor.transformer_self_attention_layers[layer](query, query_position)
        query = predictor.transformer_ffn_layers[layer](query)
    dense = stages["res5"]
    clip = system.network.backbone.embed_masks(dense, resize_features(masks, dense.shape[-2:]))
    return masks[0], embeddings[0], clip[0]


def upsample(proposals: Proposals) -> Tensor:
    """Every mask's logits at the picture's size, (N, H, W): two whole resizes with the crop between them."""
    geometry = proposals.geometry
    logits = resize_features(proposals.mask_logits[None], geometry.padded)
    return resize_features(logits[..., : geometry.resized[0], : geometry.resized[1]], geometry.picture)[0]


def panoptic(
    proposals: Proposals, scores: Scores, vocabulary: Vocabulary, object_threshold: float, overlap_threshold: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The published merge: the id map and (id, class) of each segment."""
    best, label = torch.cat((scores.fused, scores.void[:, None]), -1).max(-1)
    kept = ((label != len(vocabulary)) & (best > object_threshold)).nonzero().flatten()
    probability = upsample(proposals)[kept].sigmoid()
    id_map = np.zeros(proposals.geometry.picture, np.int32)
    segments: list[tuple[int, int]] = []
    stuff: dict[int, int] = {}
    if len(kept) == 0:
        return id_map, segments
    winner = (best[kept, None, None] * probability).argmax(0)
    for position, query in enumerate(kept.tolist()):
        class_index = int(label[query])
        won = winner == position
        own = probability[position] >= 0.5
        mask = won & own
        if won.sum() == 0 or own.sum() == 0 or mask.sum() == 0 or won.sum() / own.sum() < overlap_threshold:
            continue
        is_stuff = vocabulary.classes[class_index].kind == "stuff"
        if is_stuff and class_index in stuff:
            id_map[mask.numpy()] = stuff[class_index]
            continue
        segments.append((len(segments) + 1, class_index))
        id_map[mask.numpy()] = len(segments)
        if is_stuff:
            stuff[class_index] = len(segments)
    return id_map, segments


def semantic(proposals: Proposals, scores: Scores) -> np.ndarray:
    """Arg-max over classes of the summed ``p(class) * sigmoid(mask)``, (H, W)."""
    return torch.einsum("qk,qhw->khw", scores.fused, upsample(proposals).sigmoid()).argmax(0).numpy()


def _median(work: Callable[[], object], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> None:
    """Time encode + propose both ways."""
    from ovdemo.bench import made_up_picture, random_text
    from ovdemo.loading import load_system
    from ovdemo.vocabulary import load_preset

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--size", default="640x853")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    picture = made_up_picture(height, width)
    system = load_system("fcclip-convnext-large", random_weights=True, device="cpu")
    text = random_text(system, load_preset("coco-panoptic"))
    features = system.encode(picture, system.resize_rule)
    with plain_kernels():
        plain_encode = _median(lambda: system.encode(picture, system.resize_rule), options.repeats)
    plain_propose = _median(lambda: propose(system, dict(features.stages), text), options.repeats)
    fast_encode = _median(lambda: system.encode(picture, system.resize_rule), options.repeats)
    fast_propose = _median(lambda: system.propose(features), options.repeats)
    print(f"straightforward: encode {plain_encode:.2f} s, propose {plain_propose:.2f} s")
    print(f"this project:    encode {fast_encode:.2f} s, propose {fast_propose:.2f} s")
    print(f"ratio of encode + propose: {(fast_encode + fast_propose) / (plain_encode + plain_propose):.2f}")


if __name__ == "__main__":
    main()
