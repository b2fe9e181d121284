"""All settings at once against the published merge, one setting at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovdemo.ensemble import Fusion
from ovdemo.fusion import score
from ovdemo.merging import Merging
from ovdemo.sensitivity import UNLABELLED, WEIGHTS, sensitivity
from ovdemo.systems.base import Classifiers, Geometry, Proposals
from ovdemo.vocabulary import TextEmbeddings
from straightforward import panoptic
from test_merging import VOCABULARY
from test_upsampling import make_proposals

TEXT = TextEmbeddings(F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(3)), dim=-1),
                      torch.tensor([0, 1, 2, 3, 3]), 4)  # fmt: skip
VOID = F.normalize(torch.randn(8, generator=torch.Generator().manual_seed(4)), dim=0)
MIXED = torch.tensor([True, False, True, False])


@st.composite
def pictures(draw: st.DrawFn) -> Proposals:
    """Mask logits that need no interpolation, so that the full-size merge is the merge on the grid."""
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.nn.functional.avg_pool2d(20 * torch.randn(1, 7, 19, 23, generator=generator), 5, 1, 2)[0]
    size = (19, 23)
    supported = torch.rand(7, generator=generator) > 0.3
    return Proposals(logits, *torch.randn(2, 7, 8, generator=generator), supported, Geometry(size, size, size))


def plain_labels(
    proposals: Proposals, seen: torch.Tensor, classifiers: Classifiers, fusion: Fusion, merging: Merging
) -> np.ndarray:
    """(H, W) classes by the published loop."""
    scores = score(proposals, TEXT, seen, classifiers, fusion)
    id_map, segments = panoptic(proposals, scores, VOCABULARY, merging.object_threshold, merging.overlap_threshold)
    table = np.full(len(segments) + 1, UNLABELLED)
    for number, class_index in segments:
        table[number] = class_index
    return table[id_map]


@settings(max_examples=30)
@given(pictures(), st.data())
def test_every_setting_equals_the_published_loop(proposals: Proposals, data: st.DataObject) -> None:
    fusion = Fusion(
        data.draw(st.sampled_from(["geometric", "arithmetic", "in-vocabulary"])),
        rescue=data.draw(st.sampled_from([0, 0.7])),
    )
    seen = data.draw(st.sampled_from([MIXED, ~MIXED, MIXED | True, MIXED & False]))
    classifiers = Classifiers(5.0, 8.0, VOID, data.draw(st.booleans()))
    merging = Merging(
        object_threshold=data.draw(st.sampled_from([0.0, 0.3])),
        overlap_threshold=data.draw(st.sampled_from([0.0, 0.8])),
    )
    chosen = np.zeros((19, 23), bool)
    chosen[3:12, 5:20] = True
    found = sensitivity(
        proposals, TEXT, seen, classifiers, fusion=fusion, merging=merging, chosen=chosen, reference=Fusion()
    )
    reference = plain_labels(proposals, seen, classifiers, Fusion(), merging)
    for number in range(data.draw(st.integers(0, 12)), len(WEIGHTS) ** 2, 13):
        i, j = divmod(number, len(WEIGHTS))
        setting = dataclasses.replace(fusion, alpha=WEIGHTS[i], beta=WEIGHTS[j])
        labels = plain_labels(proposals, seen, classifiers, setting, merging)
        assert found.changed[i, j] == pytest.approx((labels != reference).mean(), abs=1e-5)
        classes, counts = np.unique(labels[chosen], return_counts=True)
        votes = dict(zip(classes.tolist(), (counts / chosen.sum()).tolist(), strict=True))
        assert found.winner_share[i, j] == pytest.approx(max(votes.values()), abs=1e-5)
        assert votes[int(found.winner[i, j])] == pytest.approx(max(votes.values()), abs=1e-5)


def two_halves() -> Proposals:
    """Left: the trained head says class 0, CLIP class 1. Right: both say class 2. Interpolated, with padding."""
    left = torch.full((24, 24), -12.0)
    left[:, :8] = 12.0
    geometry = Geometry((40, 64), (60, 96), (96, 96))
    trained, clip = TEXT.rows[[0, 2]], TEXT.rows[[1, 2]]
    return Proposals(torch.stack((left, -left)), trained, clip, torch.ones(2, dtype=torch.bool), geometry)


def test_where_the_trained_head_and_clip_disagree_beta_decides() -> None:
    classifiers = Classifiers(100.0, 100.0, -TEXT.rows.sum(0), False)
    chosen = np.zeros((40, 64), bool)
    chosen[:, :18] = True
    found = sensitivity(
        two_halves(), TEXT, torch.tensor([True, False, True, False]), classifiers,
        fusion=Fusion(), merging=Merging(), chosen=chosen, reference=Fusion(alpha=0.0, beta=0.0),
    )  # fmt: skip
    assert found.winner[0, 0] == 0
    assert found.winner[10, 10] == 1
    assert found.changed[0, 0] == 0
    assert found.changed[10, 10] == pytest.approx(1 / 3, abs=0.03)  # the left third, and none of the padding
    assert (found.winner_share > 0.95).all()
    assert ((found.changed > 0.3) == (found.winner != 0)).all()
    assert (found.winner[:, 0][:5] == 0).all()
    assert (found.winner[10, 6:] == 1).all()


def test_without_any_label_nothing_changes() -> None:
    classifiers = Classifiers(100.0, 100.0, TEXT.rows[0], False)
    proposals = make_proposals((40, 50), 32, 3)
    settings = {"fusion": Fusion(), "reference": Fusion(), "merging": Merging(object_threshold=1.0)}
    found = sensitivity(proposals, TEXT, MIXED, classifiers, **settings)
    assert (found.changed == 0).all()
    assert (found.winner == UNLABELLED).all()
    assert found.winner_share == pytest.approx(1)
