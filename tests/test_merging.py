from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovdemo.fusion import Scores
from ovdemo.merging import Merging, merge
from ovdemo.systems.base import Proposals
from ovdemo.vocabulary import Vocabulary, VocabularyClass
from straightforward import panoptic, semantic, upsample
from test_upsampling import make_proposals

VOCABULARY = Vocabulary(
    (
        VocabularyClass(("cat",), "thing"),
        VocabularyClass(("dog",), "thing"),
        VocabularyClass(("sky",), "stuff"),
        VocabularyClass(("sea", "ocean"), "stuff"),
    )
)


def make_scores(count: int, seed: int, sharpness: float = 3.0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    tables = (sharpness * torch.randn(3, count, 4, generator=generator)).softmax(-1)
    void = torch.rand(count, generator=generator)
    return Scores(tables[0], tables[1], tables[2] * (1 - void)[:, None], void, torch.tensor([True, False, True, False]))


@st.composite
def questions(draw: st.DrawFn) -> tuple[Proposals, Scores]:
    """Proposals over a small picture, from smooth and far apart to noisy and close, and scores for them."""
    seed = draw(st.integers(0, 10_000))
    picture = (draw(st.integers(16, 90)), draw(st.integers(16, 90)))
    proposals = make_proposals(picture, draw(st.sampled_from([32, 64])), 8, seed, draw(st.sampled_from([0.5, 5.0])))
    if draw(st.booleans()):  # large coherent masks, as a trained model makes
        coarse = torch.nn.functional.avg_pool2d(proposals.mask_logits[None], 5, 1, 2)[0]
        proposals = Proposals(
            4 * coarse,
            proposals.class_embeddings,
            proposals.clip_embeddings,
            proposals.clip_supported,
            proposals.geometry,
        )
    return proposals, make_scores(8, seed + 1, draw(st.sampled_from([0.5, 3.0])))


@given(questions(), st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 0.5, 0.8]))
def test_panoptic_equals_the_published_loop(
    question: tuple[Proposals, Scores], object_threshold: float, overlap_threshold: float
) -> None:
    proposals, scores = question
    found = merge(proposals, scores, VOCABULARY, Merging("panoptic", object_threshold, overlap_threshold))
    id_map, segments = panoptic(proposals, scores, VOCABULARY, object_threshold, overlap_threshold)
    # Rounding may move a pixel that two masks share equally; nothing more.
    assert (found.id_map != id_map).mean() < 2e-3
    assert [(s.id, s.class_index) for s in found.segments] == segments


@given(questions())
def test_panoptic_invents_nothing(question: tuple[Proposals, Scores]) -> None:
    proposals, scores = question
    found = merge(proposals, scores, VOCABULARY, Merging(object_threshold=0.1, overlap_threshold=0.5))
    assert found.id_map.shape == proposals.geometry.picture
    assert found.id_map.dtype == np.int32
    ids = [segment.id for segment in found.segments]
    assert ids == list(range(1, len(ids) + 1))
    assert set(np.unique(found.id_map)) <= {0, *ids}
    assert sum(s.area for s in found.segments) == (found.id_map > 0).sum()
    stuff = [s.class_index for s in found.segments if s.kind == "stuff"]
    assert len(stuff) == len(set(stuff))
    inside = upsample(proposals) > -1e-3
    for segment in found.segments:
        mask = found.mask(segment)
        assert segment.area == mask.sum() > 0
        assert segment.score > 0.1
        assert VOCABULARY.classes[segment.class_index].kind == segment.kind
        # Every pixel lies inside the mask of one of the proposals that the segment was made from.
        assert inside[list(segment.queries)].any(0).numpy()[mask].all()
        x, y, width, height = segment.box
        assert mask[y : y + height, x : x + width].sum() == segment.area
        assert mask[y, x : x + width].any()
        assert mask[y : y + height, x].any()


@given(questions())
def test_semantic_equals_the_whole_sum(question: tuple[Proposals, Scores]) -> None:
    proposals, scores = question
    found = merge(proposals, scores, VOCABULARY, Merging("semantic"))
    assert (found.id_map - 1 != semantic(proposals, scores)).mean() < 2e-3
    assert sum(s.area for s in found.segments) == found.id_map.size
    for segment in found.segments:
        assert segment.id == segment.class_index + 1
        assert segment.area == (found.id_map == segment.id).sum()
        assert 0 <= segment.score <= 1


@given(questions(), st.integers(1, 40))
def test_instances_are_the_best_pairs_that_are_things(question: tuple[Proposals, Scores], count: int) -> None:
    proposals, scores = question
    found = merge(proposals, scores, VOCABULARY, Merging("instance", instances=count))
    assert found.masks is not None
    whole = upsample(proposals)
    considered = scores.fused.flatten().sort(descending=True).values[:count]
    assert [s.score for s in found.segments] == sorted((s.score for s in found.segments), reverse=True)
    for segment, mask in zip(found.segments, found.masks, strict=True):
        query = segment.queries[0]
        expected = whole[query] > 0
        assert (mask != expected.numpy()).mean() < 2e-3
        probability = scores.fused[query, segment.class_index]
        assert probability >= considered[-1]
        confidence = whole[query].sigmoid()[expected].mean()
        assert segment.score == pytest.approx(float(probability * confidence), abs=1e-3)
        assert segment.kind == "thing"
        assert segment.area == mask.sum()


def test_a_void_proposal_wins_nothing() -> None:
    proposals = make_proposals((40, 40), 32, 2)
    proposals.mask_logits[:] = 9.0
    fused = torch.tensor([[0.3, 0.0, 0.0, 0.0], [0.0, 0.2, 0.0, 0.0]])
    scores = Scores(fused, fused, fused, torch.tensor([0.7, 0.1]), torch.zeros(4, dtype=torch.bool))
    found = merge(proposals, scores, VOCABULARY, Merging())
    assert [(s.label, s.area) for s in found.segments] == [("dog", 1600)]


def test_stuff_of_one_class_is_one_segment_and_things_stay_apart() -> None:
    proposals = make_proposals((64, 64), 64, 4)
    proposals.mask_logits[:] = -9.0
    for query, (rows, columns) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
        proposals.mask_logits[query, rows : rows + 8, columns : columns + 8] = 9.0
    fused = torch.zeros(4, 4)
    fused[[0, 1], 0] = torch.tensor([0.9, 0.8])
    fused[[2, 3], 2] = torch.tensor([0.7, 0.95])
    scores = Scores(fused, fused, fused, torch.full((4,), 0.05), torch.zeros(4, dtype=torch.bool))
    found = merge(proposals, scores, VOCABULARY, Merging())
    assert [(s.label, s.queries) for s in found.segments] == [("cat", (0,)), ("cat", (1,)), ("sky", (3, 2))]
    assert found.segments[2].score == pytest.approx(0.95)
    assert found.segments[2].evidence.fused[0].label == "sky"


def blocks(count: int, *painted: tuple[int, slice, slice]) -> Proposals:
    """Proposals over a 64 x 64 picture, mask logits 16 x 16: 9 in the (proposal, rows, columns) given, else -9."""
    proposals = make_proposals((64, 64), 64, count)
    proposals.mask_logits[:] = -9.0
    for query, rows, columns in painted:
        proposals.mask_logits[query, rows, columns] = 9.0
    return proposals


def sure(*rows: tuple[int, float, float]) -> Scores:
    """Scores from (class, its fused probability, void) of each proposal."""
    fused = torch.zeros(len(rows), 4)
    for query, (index, probability, _) in enumerate(rows):
        fused[query, index] = probability
    void = torch.tensor([row[2] for row in rows])
    return Scores(fused, fused, fused, void, torch.zeros(4, dtype=torch.bool))


def test_every_panoptic_outcome_is_told() -> None:
    whole, left, right = slice(0, 16), slice(0, 8), slice(8, 16)
    proposals = blocks(
        7, (0, whole, left), (1, whole, whole), (2, left, left), (3, whole, right), (4, whole, whole), (6, right, right)
    )
    scores = sure(
        (0, 0.9, 0.05),  # wins the left half
        (1, 0.5, 0.2),  # covers everything and is left with the top of the right half
        (1, 0.4, 0.1),  # lies under the first
        (2, 0.3, 0.6),  # "no object"
        (2, 0.1, 0.05),  # too weak
        (3, 0.6, 0.05),  # has no mask
        (2, 0.8, 0.05),  # wins the lower right quarter
    )
    found = merge(proposals, scores, VOCABULARY, Merging(object_threshold=0.2))
    assert [(s.id, s.label, s.queries) for s in found.segments] == [(1, "cat", (0,)), (2, "sky", (6,))]
    outcomes = [fate.outcome for fate in found.fates]
    expected = ["segment", "overlapped", "outshone", "void", "below threshold", "outshone", "segment"]
    assert outcomes == expected
    assert [fate.segment for fate in found.fates] == [1, None, None, None, None, None, 2]
    assert [fate.label for fate in found.fates] == ["cat", "dog", "dog", "sky", "sky", "sea", "sky"]
    assert [fate.class_index for fate in found.fates] == [0, 1, 1, 2, 2, 3, 2]
    assert [fate.score for fate in found.fates] == pytest.approx([0.9, 0.5, 0.4, 0.3, 0.1, 0.6, 0.8])
    assert [fate.void for fate in found.fates] == pytest.approx([0.05, 0.2, 0.1, 0.6, 0.05, 0.05, 0.05])
    assert [fate.share is not None for fate in found.fates] == [True, True, False, False, False, False, True]
    assert found.fates[1].share == pytest.approx(0.25, abs=0.05)
    kept = merge(proposals, scores, VOCABULARY, Merging(object_threshold=0.2, overlap_threshold=0.2))
    assert kept.fates[1].outcome == "segment"


@given(questions(), st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 0.5, 0.8]))
def test_panoptic_fates_are_what_the_merge_did(
    question: tuple[Proposals, Scores], object_threshold: float, overlap_threshold: float
) -> None:
    proposals, scores = question
    found = merge(proposals, scores, VOCABULARY, Merging("panoptic", object_threshold, overlap_threshold))
    assert len(found.fates) == len(proposals)
    kept = {query: segment.id for segment in found.segments for query in segment.queries}
    probability = scores.fused.amax(-1)
    for query, fate in enumerate(found.fates):
        assert (fate.score, fate.void) == (float(probability[query]), float(scores.void[query]))
        assert fate.segment == kept.get(query)
        assert (fate.outcome == "segment") == (query in kept)
        assert (fate.outcome == "void") == (fate.score < fate.void)
        if fate.outcome == "below threshold":
            assert fate.score <= object_threshold + 1e-6
        if fate.outcome == "overlapped":
            assert fate.share is not None
            assert fate.share < overlap_threshold
        if fate.outcome == "segment":
            assert fate.share is not None
            assert fate.share >= overlap_threshold


def test_every_instance_outcome_is_told_and_semantic_mode_has_none() -> None:
    whole, top = slice(0, 16), slice(0, 8)
    proposals = blocks(4, (0, top, whole), (1, whole, whole), (2, whole, whole))
    scores = sure((0, 0.9, 0.05), (2, 0.8, 0.05), (1, 0.2, 0.05), (1, 0.1, 0.05))
    scores.fused[0, 1] = 0.4
    found = merge(proposals, scores, VOCABULARY, Merging("instance", object_threshold=0.3, instances=4))
    assert [(s.id, s.label, s.queries) for s in found.segments] == [(1, "cat", (0,)), (2, "dog", (0,))]
    assert [(f.outcome, f.segment) for f in found.fates] == [
        ("segment", 1), ("stuff", None), ("below threshold", None), ("outranked", None)
    ]  # fmt: skip
    assert all(fate.share is None for fate in found.fates)
    assert merge(proposals, scores, VOCABULARY, Merging("semantic")).fates == ()


def test_nothing_kept_is_an_empty_answer() -> None:
    proposals = make_proposals((40, 40), 32, 3)
    fused = torch.zeros(3, 4)
    scores = Scores(fused, fused, fused, torch.ones(3), torch.zeros(4, dtype=torch.bool))
    for mode in ("panoptic", "instance"):
        found = merge(proposals, scores, VOCABULARY, Merging(mode))
        assert found.segments == ()
        assert (found.id_map == 0).all()
