from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from ovdemo.ensemble import Fusion
from ovdemo.fusion import class_logits, ensemble_weights, fuse, score
from ovdemo.systems.base import Classifiers, Geometry, Proposals
from ovdemo.vocabulary import TextEmbeddings

CLASSES, WIDTH = 5, 16


def make_question(seed: int, *, needs_support: bool = False) -> tuple[Proposals, TextEmbeddings, Classifiers]:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4])
    text = TextEmbeddings(normalize(torch.randn(8, WIDTH, generator=generator), dim=-1), owner, CLASSES)
    geometry = Geometry((32, 32), (32, 32), (32, 32))
    supported = torch.tensor([True, True, False])
    embeddings = torch.randn(2, 3, WIDTH, generator=generator)
    proposals = Proposals(torch.zeros(3, 8, 8), *embeddings, supported, geometry)
    void = normalize(torch.randn(WIDTH, generator=generator), dim=-1)
    return proposals, text, Classifiers(30.0, 100.0, void, needs_support)


def test_a_class_scores_its_best_name_and_void_comes_last() -> None:
    text = TextEmbeddings(torch.eye(4)[:3], torch.tensor([0, 0, 1]), 2)
    logits = class_logits(torch.tensor([[3.0, 4.0, 0.0, 0.0]]), text, torch.eye(4)[3], 10.0)
    torch.testing.assert_close(logits, torch.tensor([[8.0, 0.0, 0.0]]))


def test_what_is_not_given_stays() -> None:
    own = Fusion(alpha=0.3, rescue=0.5)
    assert own.but(kind=None, beta=0.0) == Fusion(alpha=0.3, beta=0.0, rescue=0.5)
    assert own.but(kind="arithmetic", alpha=None) == Fusion("arithmetic", 0.3, 0.8, 0.5)


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["geometric", "arithmetic"]))
def test_probabilities_sum_to_what_void_leaves(seed: int, alpha: float, beta: float, kind: str) -> None:
    seen = torch.tensor([True, False, True, False, False])
    scores = score(*make_question(seed)[:2], seen, make_question(seed)[2], Fusion(kind, alpha, beta))
    torch.testing.assert_close(scores.fused.sum(-1), 1 - scores.void)
    torch.testing.assert_close(scores.in_vocabulary.sum(-1), torch.ones(3))
    torch.testing.assert_close(scores.out_of_vocabulary.sum(-1), torch.ones(3))
    assert not scores.fused.isnan().any()


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_geometric_is_the_papers_equation_7(seed: int, alpha: float, beta: float) -> None:
    proposals, text, classifiers = make_question(seed)
    seen = torch.tensor([True, False, True, False, False])
    scores = score(proposals, text, seen, classifiers, Fusion("geometric", alpha, beta))
    weight = torch.where(seen, alpha, beta).double()
    in_vocabulary, out_of_vocabulary = (
        class_logits(embeddings, text, classifiers.void, scale)[:, :-1].double().softmax(-1)
        for embeddings, scale in (
            (proposals.class_embeddings, classifiers.in_scale),
            (proposals.clip_embeddings, classifiers.out_scale),
        )
    )
    product = in_vocabulary ** (1 - weight) * out_of_vocabulary**weight
    expected = product / product.sum(-1, keepdim=True) * (1 - scores.void.double())[:, None]
    torch.testing.assert_close(scores.fused.double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["geometric", "arithmetic"])
@pytest.mark.parametrize(("weight", "single"), [(0.0, "in-vocabulary"), (1.0, "out-of-vocabulary")])
def test_the_ends_of_the_scale_are_the_single_classifiers(kind: str, weight: float, single: str) -> None:
    proposals, text, classifiers = make_question(1)
    seen = torch.zeros(CLASSES, dtype=torch.bool)
    mixed = score(proposals, text, seen, classifiers, Fusion(kind, weight, weight))
    alone = score(proposals, text, seen, classifiers, Fusion(single, 0.3, 0.3))
    torch.testing.assert_close(mixed.fused, alone.fused)
    table = alone.in_vocabulary if single == "in-vocabulary" else alone.out_of_vocabulary
    torch.testing.assert_close(alone.fused, table * (1 - alone.void)[:, None])


def test_a_proposal_that_clip_saw_nothing_of_is_left_to_the_trained_head() -> None:
    proposals, text, classifiers = make_question(2, needs_support=True)
    scores = score(proposals, text, torch.zeros(CLASSES, dtype=torch.bool), classifiers, Fusion())
    expected = scores.in_vocabulary * (1 - scores.void)[:, None]
    torch.testing.assert_close(scores.fused[2], expected[2])
    assert not torch.allclose(scores.fused[0], expected[0])


def spread(*probabilities: float, scale: float) -> torch.Tensor:
    """A unit vector whose scaled cosines to the axes have this softmax; one more axis takes the rest of the length."""
    cosines = torch.tensor(probabilities).log() / scale
    return torch.cat((cosines, (1 - cosines.square().sum()).sqrt()[None]))


def test_rescue_lowers_void_by_hand() -> None:
    # Trained head: cat 0.2, dog 0.1, void 0.7. CLIP: cat 0.25, dog 0.75, and it does not see the second proposal.
    text = TextEmbeddings(torch.eye(4)[:2], torch.tensor([0, 1]), 2)
    trained = spread(0.2, 0.1, 0.7, scale=100.0).expand(2, -1)
    clip = spread(0.25, 0.75, 1.0, scale=100.0).expand(2, -1)
    geometry = Geometry((32, 32), (32, 32), (32, 32))
    proposals = Proposals(torch.zeros(2, 8, 8), trained, clip, torch.tensor([True, False]), geometry)
    seen = torch.tensor([True, False])

    def void(rescue: float, *, needs_support: bool = False) -> list[float]:
        classifiers = Classifiers(100.0, 100.0, torch.eye(4)[2], needs_support)
        scores = score(proposals, text, seen, classifiers, Fusion(rescue=rescue))
        torch.testing.assert_close(scores.fused.sum(-1), 1 - scores.void)
        return scores.void.tolist()

    assert void(0.0) == pytest.approx([0.7, 0.7], abs=1e-4)
    assert void(0.4) == pytest.approx([0.7 * (1 - 0.4 * 0.75)] * 2, abs=1e-4)
    assert void(1.0) == pytest.approx([0.7 * 0.25] * 2, abs=1e-4)
    assert void(1.0, needs_support=True) == pytest.approx([0.7 * 0.25, 0.7], abs=1e-4)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_rescue_raises_every_class_alike(seed: int, rescue: float) -> None:
    proposals, text, classifiers = make_question(seed)
    seen = torch.tensor([True, False, True, False, False])
    before = score(proposals, text, seen, classifiers, Fusion())
    after = score(proposals, text, seen, classifiers, Fusion(rescue=rescue))
    assert (after.void <= before.void).all()
    assert (after.void >= 0).all()
    ratio = (1 - after.void) / (1 - before.void)
    torch.testing.assert_close(after.fused, before.fused * ratio[:, None])


def test_the_weights_used_are_those_of_the_class_and_none_without_clip_support() -> None:
    seen = torch.tensor([True, False, True, False, False])
    row, nothing = [0.1, 0.9, 0.1, 0.9, 0.9], [0.0] * 5
    for needs_support, last in ((False, row), (True, nothing)):
        proposals, _, classifiers = make_question(0, needs_support=needs_support)
        weights = ensemble_weights(proposals, seen, classifiers, Fusion(alpha=0.1, beta=0.9))
        torch.testing.assert_close(weights, torch.tensor([row, row, last]))


def test_a_vanishing_probability_stays_finite() -> None:
    log = torch.tensor([[0.0, -400.0]])
    assert fuse(log, log.flip(-1), torch.full((1, 2), 0.4), "geometric").isfinite().all()
    assert fuse(log, log.flip(-1), torch.tensor([[0.0, 1.0]]), "arithmetic").isfinite().all()
