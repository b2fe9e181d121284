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


def test_nothing_kept_is_an_empty_answer() -> None:
    proposals = make_proposals((40, 40), 32, 3)
    fused = torch.zeros(3, 4)
    scores = Scores(fused, fused, fused, torch.ones(3), torch.zeros(4, dtype=torch.bool))
    for mode in ("panoptic", "instance"):
        found = merge(proposals, scores, VOCABULARY, Merging(mode))
        assert found.segments == ()
        assert (found.id_map == 0).all()
