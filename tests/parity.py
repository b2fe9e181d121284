"""Compare one system, stage by stage, with golden numbers of the published code.

A case is a JSON file (settings, words, tolerances) with an ``.npz`` of arrays beside it; the network is filled with
seeded weights, so no checkpoint is needed. Stages come in the order of computation: the first that differs is at fault.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovdemo.ensemble import Fusion
from ovdemo.fusion import Scores, class_logits, fuse, score
from ovdemo.images import ResizeRule, load_picture
from ovdemo.loading import empty_network, install
from ovdemo.merging import Merging, merge
from ovdemo.nn.pooling import mask_pool, resize_features
from ovdemo.segmentation import Segmentation
from ovdemo.systems.base import Proposals, network_input
from ovdemo.systems.fcclip import FCCLIP
from ovdemo.systems.registry import find_variant
from ovdemo.upsampling import tiles
from ovdemo.vocabulary import (
    VILD_14,
    EmbeddingCache,
    TextEmbedder,
    Vocabulary,
    VocabularyClass,
    load_preset,
    seen_classes,
)

Stages = Iterator[tuple[str, np.ndarray]]

# Rows are queries; a query with a mask logit next to zero may flip a cell and move its whole row.
_BY_QUERY = {
    "mask_pooled", "class_embed", "pred_logits", "mask_positive_count", "clip_mask", "clip_pooled", "clip_embedding",
    "clip_logits", "in_vocab_probs", "out_vocab_probs", "ensemble_log", "final_probs", "mask_cls",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """One golden case: its description and its arrays."""

    path: Path
    about: dict
    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: Path) -> Case:
        with np.load(path.with_suffix(".npz")) as arrays:
            return cls(path, json.loads(path.read_text()), dict(arrays))

    def vocabulary(self) -> Vocabulary:
        """The class strings, split as the published code splits them: no trimming, no folding."""
        return Vocabulary(
            tuple(
                VocabularyClass(tuple(text.replace(", ", ",").split(",")), "thing" if isthing else "stuff")
                for text, isthing in zip(self.about["classes"], self.about["isthing"], strict=True)
            )
        )

    def system(self, keys_folder: Path) -> FCCLIP:
        """The variant, filled with the case's seeded weights."""
        variant = find_variant("fcclip-" + self.about["variant"].replace("_", "-"))
        network = empty_network(variant)
        keys = [row for name in self.about["keys"] for row in read_keys(keys_folder / name)]
        tensors = {
            name: torch.from_numpy(self._seeded(name, shape))
            for name, shape in keys
            if not name.startswith("criterion.")
        }
        install(network, tensors)
        return FCCLIP(network, variant.config, frozenset())

    def _seeded(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name in self.about["overrides"]:
            return np.full(shape, self.about["overrides"][name], np.float32)
        prefix = max((p for p in self.about["gains"] if name.startswith(p)), key=len, default=None)
        return seeded_array(name, shape, self.about["seed"], 1.0 if prefix is None else self.about["gains"][prefix])


def read_keys(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """``name<TAB>64,3,7,7`` a line; an empty shape is a scalar."""
    with path.open(newline="") as handle:
        return [
            (name, tuple(int(n) for n in shape.split(",") if n)) for name, shape in csv.reader(handle, delimiter="\t")
        ]


def seeded_array(name: str, shape: tuple[int, ...], seed: int, gain: float) -> np.ndarray:
    """The values that stand for a tensor; they follow from its name, shape and seed alone."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if not shape:
        return np.asarray(0.5, np.float32)
    z = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode())).standard_normal(shape)
    if leaf == "running_var":
        z = 1 + 0.1 * np.abs(z)
    elif leaf == "running_mean":
        z = 0.1 * z
    elif len(shape) == 1:
        z = 1 + 0.1 * z if leaf == "weight" else 0.02 * z
    else:
        z = gain * z / np.sqrt(float(np.prod(shape[1:])))
    return np.ascontiguousarray(z, np.float32)


@torch.inference_mode()
def stages(case: Case, system: FCCLIP) -> Stages:
    """Every array of a case as this project computes it, in the order of computation."""
    about = case.about
    picture = load_picture(case.path.parent / about["picture"])
    short, limit = about["resize_short_edge"], about["resize_max_size"]
    side = min(about["picture_size_hw"])
    rule = ResizeRule(short or side, limit or 100_000)
    image, _ = network_input(picture, rule, system._mean, system._std, 32)
    yield "image_crop", image[0, :, :40, :40].numpy()
    yield "image_last", image[0, :, -40:, -40:].numpy()

    features = system.encode(picture, rule)
    for name, stage in features.stages.items():
        yield f"feat_{name}", stage[0, :8].numpy()
    dense = features.stages["res5"]
    yield "feat_res5_pixel", dense[0, :, 2, 3].numpy()

    proposals = yield from _decoder_stages(case, system, features.stages)
    yield from _scoring_stages(case, system, proposals, dense, system.propose(features))


def _decoder_stages(case: Case, system: FCCLIP, features: dict[str, Tensor]) -> Iterator:
    head, predictor = system.network.sem_seg_head, system.network.sem_seg_head.predictor
    layers: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, out: layers.append(out))
        for layer in head.pixel_decoder.transformer.encoder.layers
    ]
    pixels = head.pixel_decoder(features)
    for hook in hooks:
        hook.remove()
    count = layers[0].shape[1]
    step = max(1, count // case.arrays["encoder_tokens"].shape[1])
    tokens = torch.stack(layers)[:, 0, ::step, :16]
    yield "encoder_tokens", tokens[:, : case.arrays["encoder_tokens"].shape[1]].numpy()
    for level, memory in enumerate(pixels.memory):
        yield f"multi_scale_{level}", memory[0, :8].numpy()
    yield "mask_features", pixels.mask_features[0, :8].numpy()
    yield "mask_features_row", pixels.mask_features[0, :, 5].numpy()

    text = TextEmbedder(system.text_encoder, VILD_14, EmbeddingCache(None)).embed(case.vocabulary())
    yield "text_classifier", torch.cat((text.rows, system.classifiers.void[None])).numpy()
    yield "num_synonyms", text.owner.bincount().numpy()

    states = predictor.decode(pixels)
    yield "decoder_norm_out", torch.cat(states)[:, :8].numpy()
    guides = [resize_features(pixels.mask_features, x.shape[-2:]) for x in pixels.memory]
    logits = [predictor.predict_masks(state, guides[i % 3]) for i, state in enumerate(states)]
    yield "attn_blocked_count", torch.cat([(x.sigmoid() < 0.5).sum((2, 3)) for x in logits]).numpy()
    masks = predictor.predict_masks(states[-1], pixels.mask_features)
    yield "mask_pooled", mask_pool(pixels.mask_features, masks)[0, :, :16].numpy()
    return text, masks


def _scoring_stages(case: Case, system: FCCLIP, decoded: tuple, dense: Tensor, proposals: Proposals) -> Stages:
    text, masks = decoded
    classifiers, settings = system.classifiers, case.about["settings"]
    yield "class_embed", proposals.class_embeddings[:, :16].numpy()
    in_logits = class_logits(proposals.class_embeddings, text, classifiers.void, classifiers.in_scale)
    yield "pred_logits", in_logits.numpy()
    yield "pred_masks", proposals.mask_logits[torch.from_numpy(case.arrays["mask_queries"]).long()].numpy()
    yield "mask_positive_count", (proposals.mask_logits > 0).sum((1, 2)).numpy()
    clip_mask = resize_features(masks, dense.shape[-2:])
    yield "clip_mask", (clip_mask[0] > 0).numpy()
    yield "clip_pooled", mask_pool(dense, clip_mask)[0, :, :16].numpy()
    yield "clip_embedding", proposals.clip_embeddings[:, :32].numpy()
    out_logits = class_logits(proposals.clip_embeddings, text, classifiers.void, classifiers.out_scale)
    yield "clip_logits", out_logits.numpy()

    vocabulary = case.vocabulary()
    training_names = frozenset(load_preset("coco-panoptic").names)
    seen = torch.from_numpy(seen_classes(vocabulary, training_names))
    yield "seen", seen.numpy()
    fusion = Fusion("geometric", settings["alpha"], settings["beta"])
    scores = score(proposals, text, seen, classifiers, fusion)
    yield "in_vocab_probs", scores.in_vocabulary.numpy()
    yield "out_vocab_probs", scores.out_of_vocabulary.numpy()
    weights = fusion.weights(seen).expand_as(scores.fused)
    if classifiers.needs_clip_support:
        weights = weights * proposals.clip_supported[:, None]
    in_log, out_log = in_logits[:, :-1].log_softmax(-1), out_logits[:, :-1].log_softmax(-1)
    yield "ensemble_log", fuse(in_log, out_log, weights, "geometric").numpy()
    final = torch.cat((scores.fused, scores.void[:, None]), -1)
    yield "final_probs", final.numpy()
    yield "mask_cls", (final + 1e-8).log().numpy()
    yield from _merging_stages(case, proposals, _settle_fragile(case, scores), vocabulary)


def _settle_fragile(case: Case, scores: Scores) -> Scores:
    """Fragile queries take the case's own probabilities, so that merging is compared on equal terms."""
    fragile = case.about["fragile_queries"]
    final = torch.from_numpy(case.arrays["final_probs"])
    fused, void = scores.fused.clone(), scores.void.clone()
    fused[fragile], void[fragile] = final[fragile, :-1], final[fragile, -1]
    return replace(scores, fused=fused, void=void)


def _merging_stages(case: Case, proposals: Proposals, scores: Scores, vocabulary: Vocabulary) -> Stages:
    settings = case.about["settings"]
    full = torch.zeros(len(proposals), *proposals.geometry.picture)
    for tile in tiles(proposals):
        full[:, tile.rows, tile.columns] = tile.logits(torch.arange(len(proposals))).permute(2, 0, 1)
    yield "mask_full", full[torch.from_numpy(case.arrays["mask_queries"][:3]).long()].numpy()

    def merged(mode: str) -> Segmentation:
        merging = Merging(
            mode, settings["object_mask_threshold"], settings["overlap_threshold"], settings["instances_per_image"]
        )
        return merge(proposals, scores, vocabulary, merging)

    panoptic = merged("panoptic")
    yield "panoptic", panoptic.id_map
    yield "segments_info", np.array([[s.id, s.kind == "thing", s.class_index, s.area] for s in panoptic.segments])
    yield "semantic", merged("semantic").id_map - 1
    yield "semantic_scores", torch.einsum("qk,qhw->khw", scores.fused, full.sigmoid())[:, ::16, ::16].numpy()
    instances = merged("instance").segments
    yield "instance_scores", np.array([s.score for s in instances])
    yield "instance_classes", np.array([s.class_index for s in instances])
    yield "instance_areas", np.array([s.area for s in instances])


def difference(case: Case, name: str, found: np.ndarray) -> str | None:
    """What is wrong with one stage, or None."""
    if name == "seen":
        return None if found.tolist() == case.about["seen"] else f"{found.tolist()}, expected {case.about['seen']}"
    if name == "segments_info":
        expected = [[s["id"], s["isthing"], s["category_id"], s["area"]] for s in case.about["segments_info"]]
        return _segments_difference(np.array(expected, int).reshape(-1, 4), found.reshape(-1, 4))
    expected = case.arrays[name]
    if name.startswith("instance_"):
        return _instance_difference(case, name, found)
    if expected.shape != found.shape:
        return f"shape {found.shape}, expected {expected.shape}"
    tolerance = case.about["tolerance"].get(name, {"max_abs": 0.0})
    keep = _comparable_rows(case, name, expected)
    if "differing" in tolerance:
        wrong = int((expected[keep] != found[keep]).sum())
        allowed = tolerance["differing"] + max(2, round(2e-4 * expected.size))
        return None if wrong <= allowed else f"{wrong} of {expected.size} entries differ, at most {allowed} may"
    return _float_difference(case, name, tolerance, expected[keep].astype(np.float64), found[keep].astype(np.float64))


def _comparable_rows(case: Case, name: str, expected: np.ndarray) -> np.ndarray:
    """Everything, but for queries without any CLIP cell where the reference's value is arbitrary (ResNet towers)."""
    keep = np.ones(len(expected), bool)
    if (
        name in ("clip_embedding", "clip_logits", "out_vocab_probs")
        and case.about["settings"]["ensemble_on_valid_mask"]
    ):
        keep = case.arrays["clip_mask"].any((1, 2))
    if name in _BY_QUERY:
        keep[case.about["fragile_queries"]] = False
    return keep


def _float_difference(case: Case, name: str, tolerance: dict, expected: np.ndarray, found: np.ndarray) -> str | None:
    scale = max(1.0, tolerance.get("scale_std", 1.0))
    limit = max(10 * tolerance.get("max_abs_without_fragile", tolerance["max_abs"]), 1e-4 * scale)
    if name in ("in_vocab_probs", "out_vocab_probs", "final_probs", "text_classifier"):
        limit = 1e-4
    error = np.abs(expected - found)
    if case.arrays[name].dtype == np.float16:
        error = error - 1e-3 * np.abs(expected)
    worst = float(error.max(initial=0.0))
    return None if worst <= limit else f"differs by {worst:.3g}, at most {limit:.3g} is allowed"


def _instance_difference(case: Case, name: str, found: np.ndarray) -> str | None:
    """Candidates compared as a set: near-equal scores may swap places, also across the hundredth."""
    expected = case.arrays[name][case.arrays["instance_areas"] > 0]  # empty masks are dropped here
    if abs(len(expected) - len(found)) > 2:
        return f"{len(found)} candidates, expected {len(expected)}"
    if name == "instance_classes":
        count = max(expected.max(initial=0), found.max(initial=0)) + 1
        moved = np.abs(np.bincount(expected, minlength=count) - np.bincount(found, minlength=count)).sum()
        return None if moved <= 4 else f"classes {found.tolist()}, expected {expected.tolist()}"
    common = min(len(expected), len(found))
    ours, theirs = (np.sort(x)[::-1][:common].astype(float) for x in (found, expected))
    if name == "instance_scores":
        worst = float(np.abs(ours - theirs).max(initial=0))
        return None if worst <= 1e-4 else f"differs by {worst:.3g}, at most 0.0001 is allowed"
    wrong = int((np.abs(ours - theirs) > 4).sum())
    return None if wrong <= 2 else f"{wrong} areas differ by more than 4 pixels"


def _segments_difference(expected: np.ndarray, found: np.ndarray) -> str | None:
    if expected.shape != found.shape or (expected[:, :3] != found[:, :3]).any():
        return f"segments {found.tolist()}, expected {expected.tolist()}"
    moved = int(np.abs(expected[:, 3] - found[:, 3]).max(initial=0))
    return None if moved <= 4 else f"a segment's area differs by {moved} pixels"
