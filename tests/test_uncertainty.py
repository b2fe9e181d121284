from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovdemo import uncertainty as module
from ovdemo.fusion import Scores
from ovdemo.merging import Merging, merge
from ovdemo.segmentation import Segmentation
from ovdemo.systems.base import Geometry, Proposals
from ovdemo.uncertainty import uncertainty
from straightforward import upsample
from test_merging import VOCABULARY, make_scores, questions


def flat(*probabilities: float, picture: tuple[int, int] = (20, 24)) -> Proposals:
    """One proposal a probability, which its mask has everywhere."""
    logits = torch.tensor(probabilities, dtype=torch.float64).logit().float()[:, None, None].expand(-1, 8, 8)
    none = torch.zeros(len(probabilities), 4)
    supported = torch.ones(len(probabilities), dtype=torch.bool)
    return Proposals(logits, none, none, supported, Geometry(picture, (20, 24), (32, 32)))


def scores_of(*rows: tuple[float, ...]) -> Scores:
    """Fused probabilities, one row a proposal; void is what is left to one."""
    fused = torch.tensor(rows).view(len(rows), -1)
    return Scores(fused, fused, fused, 1 - fused.sum(-1), torch.ones(fused.shape[1], dtype=torch.bool))


def empty(picture: tuple[int, int] = (20, 24)) -> Segmentation:
    return Segmentation("panoptic", np.zeros(picture, np.int32), (), (), ())


def test_two_proposals_by_hand() -> None:
    maps = uncertainty(flat(0.9, 0.5), scores_of((0.6, 0.2), (0.0, 0.4)), empty())
    first, second = 0.9 * 0.6, 0.9 * 0.2 + 0.5 * 0.4
    p, q = first / (first + second), second / (first + second)
    assert maps.void == pytest.approx(1 - 0.9 * 0.8, abs=1e-5)
    assert maps.margin == pytest.approx(p - q, abs=1e-5)
    assert maps.entropy == pytest.approx(-(p * math.log(p) + q * math.log(q)) / math.log(2), abs=1e-5)
    assert maps.void.shape == maps.entropy.shape == maps.margin.shape == maps.unlabelled.shape == (20, 24)
    assert maps.unlabelled.all()


def test_void_proposals_do_not_make_a_sure_segment_doubtful() -> None:
    maps = uncertainty(flat(*[0.99] * 9), scores_of((0.9, 0.01), *[(0.01, 0.01)] * 8), empty())
    assert maps.void == pytest.approx(1 - 0.99 * 0.91, abs=1e-5)
    assert maps.margin.min() > 0.7


def test_a_single_class_and_no_class_and_no_proposal() -> None:
    single = uncertainty(flat(0.9), scores_of((0.7,)), empty())
    assert (single.entropy == 0).all()
    assert (single.margin == 1).all()
    nothing = uncertainty(flat(0.9), scores_of((0.0, 0.0, 0.0)), empty())
    for maps in (nothing, uncertainty(flat(), none_of(3), empty())):
        assert maps.void == pytest.approx(1)
        assert maps.entropy == pytest.approx(1)
        assert maps.margin == pytest.approx(0)


def none_of(classes: int) -> Scores:
    table = torch.zeros(0, classes)
    return Scores(table, table, table, torch.zeros(0), torch.ones(classes, dtype=torch.bool))


@settings(max_examples=30)
@given(questions(), st.sampled_from([40, 400, 10_000]))
def test_maps_are_in_range_at_the_pictures_size_whatever_the_chunks(
    question: tuple[Proposals, Scores], chunk: int
) -> None:
    proposals, scores = question
    segmentation = merge(proposals, scores, VOCABULARY, Merging())
    whole = uncertainty(proposals, scores, segmentation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        maps = uncertainty(proposals, scores, segmentation)
    for name in ("void", "entropy", "margin"):
        found = getattr(maps, name)
        assert found.shape == proposals.geometry.picture
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1
        np.testing.assert_allclose(found, getattr(whole, name), atol=1e-5)
    np.testing.assert_array_equal(maps.unlabelled, segmentation.id_map == 0)


@settings(max_examples=30)
@given(questions())
def test_void_is_interpolated_as_masks_are(question: tuple[Proposals, Scores]) -> None:
    proposals, scores = question
    maps = uncertainty(proposals, scores, merge(proposals, scores, VOCABULARY, Merging()))
    claims = proposals.mask_logits.sigmoid() * (1 - scores.void)[:, None, None]
    void = dataclasses.replace(proposals, mask_logits=1 - claims.amax(0, keepdim=True))
    np.testing.assert_allclose(maps.void, upsample(void)[0], atol=1e-4)


def test_margin_tells_which_pixels_semantic_inference_decides_narrowly() -> None:
    """Two half-planes, sure of different classes: doubt is greatest where they meet."""
    proposals = flat(0.5, 0.5, picture=(32, 32))
    slope = torch.linspace(-6, 6, 8).expand(8, 8)
    proposals = dataclasses.replace(
        proposals, mask_logits=torch.stack((slope, -slope)), geometry=Geometry((32, 32), (32, 32), (32, 32))
    )
    scores = make_scores(2, 0)
    scores = dataclasses.replace(
        scores, fused=torch.tensor([[0.9, 0.0, 0, 0], [0.0, 0.9, 0, 0]]), void=torch.full((2,), 0.1)
    )
    maps = uncertainty(proposals, scores, empty((32, 32)))
    middle = slice(14, 18)  # between the centres of the two cells beside the border all is alike
    assert maps.margin[16, middle] == pytest.approx(maps.margin[16].min(), abs=1e-5)
    assert maps.entropy[16, middle] == pytest.approx(maps.entropy[16].max(), abs=1e-5)
    assert maps.margin[16, 13] > maps.margin[16, 14] + 0.01
    assert maps.margin[16, 0] > 0.9
