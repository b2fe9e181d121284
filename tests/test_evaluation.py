"""Each measure against answers worked out by hand and against an independent reading of its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from ovdemo.evaluation import (
    InstancePrecision,
    LabelledSegment,
    MaskRecall,
    NamingAccuracy,
    PanopticQuality,
    PanopticResult,
    ScoredMask,
    SegmentMap,
    SemanticIoU,
    best_overlaps,
)
from ovdemo.evaluation.naming import mask_logits
from ovdemo.systems.base import Geometry, Proposals
from ovdemo.vocabulary import Kind

KINDS: tuple[Kind, ...] = ("thing", "stuff", "thing")
CAT, GRASS, DOG = range(3)

Classes = dict[int, int]


def segment_map(ids: object, classes: Classes, crowds: tuple[int, ...] = ()) -> SegmentMap:
    return SegmentMap(np.array(ids), tuple(LabelledSegment(i, c, i in crowds) for i, c in classes.items()))


def quality(*pairs: tuple[SegmentMap, SegmentMap]) -> PanopticResult:
    measure = PanopticQuality(KINDS)
    for truth, predicted in pairs:
        measure.update(truth, predicted)
    return measure.result()


# Panoptic quality


def test_panoptic_quality_of_a_perfect_answer() -> None:
    truth = segment_map([[1, 1], [2, 2]], {1: CAT, 2: GRASS})
    predicted = segment_map([[70_000, 70_000], [5, 5]], {5: GRASS, 70_000: CAT})
    result = quality((truth, predicted))
    for part, classes in ((result.all, 2), (result.things, 1), (result.stuff, 1)):
        assert part is not None
        assert (part.pq, part.sq, part.rq, part.classes) == (100, 100, 100, classes)
    assert result.pictures == 1


def test_a_missed_segment_halves_nothing_but_recognition() -> None:
    truth = segment_map([[1, 1], [2, 2]], {1: CAT, 2: CAT})
    (row,) = quality((truth, segment_map([[9, 9], [0, 0]], {9: CAT}))).per_class
    assert (row.true_positives, row.false_positives, row.false_negatives) == (1, 0, 1)
    assert row.sq == 100
    assert row.pq == row.rq == pytest.approx(100 / 1.5)


def test_merged_segments_match_the_larger_or_none() -> None:
    merged = segment_map(np.ones((4, 4), int), {1: CAT})
    larger = np.ones((4, 4), int)
    larger[3] = 2
    (row,) = quality((segment_map(larger, {1: CAT, 2: CAT}), merged)).per_class
    assert (row.true_positives, row.false_positives, row.false_negatives) == (1, 0, 1)
    assert (row.sq, row.pq) == (pytest.approx(75), pytest.approx(50))
    halves = np.repeat([[1], [1], [2], [2]], 4, axis=1)
    (row,) = quality((segment_map(halves, {1: CAT, 2: CAT}), merged)).per_class  # IoU 0.5 does not exceed 0.5
    assert (row.true_positives, row.false_positives, row.false_negatives) == (0, 1, 2)
    assert (row.pq, row.sq, row.rq) == (0, 0, 0)


def test_a_wrong_name_is_a_miss_and_a_false_alarm() -> None:
    ids = [[1, 1], [1, 1]]
    result = quality((segment_map(ids, {1: CAT}), segment_map(ids, {1: DOG})))
    counts = [(r.class_index, r.true_positives, r.false_positives, r.false_negatives) for r in result.per_class]
    assert counts == [(CAT, 0, 0, 1), (DOG, 0, 1, 0)]
    assert result.stuff is None


def test_void_leaves_the_union() -> None:
    truth = segment_map([[1, 1, 0, 0]], {1: CAT})
    (row,) = quality((truth, segment_map([[5, 5, 5, 5]], {5: CAT}))).per_class
    assert (row.pq, row.true_positives) == (100, 1)


@pytest.mark.parametrize(("void", "false_positives"), [(2, 1), (3, 0)], ids=["half on void", "mostly on void"])
def test_a_prediction_mostly_on_void_is_excused(void: int, false_positives: int) -> None:
    truth = segment_map([[0] * void + [1] * (10 - void)], {1: GRASS})
    predicted = segment_map([[5] * 4 + [0] * 6], {5: CAT})
    rows = {row.class_index: row for row in quality((truth, predicted)).per_class}
    assert rows[GRASS].false_negatives == 1
    assert (rows[CAT].false_positives if CAT in rows else 0) == false_positives


def test_crowds_excuse_their_own_class_and_are_never_missed() -> None:
    ids = [[1, 1], [2, 2]]
    truth = segment_map(ids, {1: CAT, 2: GRASS}, crowds=(1,))
    result = quality((truth, segment_map(ids, {1: CAT, 2: GRASS})))
    assert [row.class_index for row in result.per_class] == [GRASS]
    result = quality((truth, segment_map(ids, {1: DOG, 2: GRASS})))
    assert [(row.class_index, row.false_positives) for row in result.per_class] == [(GRASS, 0), (DOG, 1)]
    assert quality((truth, segment_map([[0, 0], [2, 2]], {2: GRASS}))).per_class[0].pq == 100


def test_ids_that_are_not_listed_are_nothing() -> None:
    truth = segment_map([[1, 1], [8, 8]], {1: CAT, 3: DOG})  # 8 is not listed, 3 has no pixels
    (row,) = quality((truth, segment_map([[1, 1], [2, 9]], {1: CAT, 2: GRASS}))).per_class
    assert (row.class_index, row.pq) == (CAT, 100)


def by_definition(pairs: list[tuple[SegmentMap, SegmentMap]]) -> dict[int, tuple[float, int, int, int]]:
    """Sum of IoU, TP, FP and FN by class: Kirillov et al., section 4.1, over every pair of pixel sets."""
    counts = {c: [0.0, 0, 0, 0] for c in range(len(KINDS))}
    for truth, predicted in pairs:
        pixels = [
            [(s, {p for p, i in enumerate(m.ids.ravel().tolist()) if i == s.id}) for s in m.segments]
            for m in (truth, predicted)
        ]
        true, found = ([(s, p) for s, p in entries if p] for entries in pixels)
        void = set(range(truth.ids.size)).difference(*(p for _, p in true))
        hits = [
            (t, f, len(t_pixels & f_pixels) / len(t_pixels | (f_pixels - void)))
            for t, t_pixels in true
            for f, f_pixels in found
            if t.class_index == f.class_index and not t.crowd
        ]
        hits = [hit for hit in hits if hit[2] > 0.5]
        for t, _, iou in hits:
            counts[t.class_index][0] += iou
            counts[t.class_index][1] += 1
        for f, f_pixels in found:
            crowds = set().union(*(p for t, p in true if t.crowd and t.class_index == f.class_index))
            if f not in [hit[1] for hit in hits] and len(f_pixels & (void | crowds)) <= len(f_pixels) / 2:
                counts[f.class_index][2] += 1
        for t, _ in true:
            if not t.crowd and t not in [hit[0] for hit in hits]:
                counts[t.class_index][3] += 1
    return {c: (iou, tp, fp, fn) for c, (iou, tp, fp, fn) in counts.items() if tp + fp + fn}


ids_of_pictures = st.lists(st.integers(0, 4), min_size=12, max_size=12).map(lambda ids: np.array(ids).reshape(3, 4))
classes_of_ids = st.lists(st.integers(0, 2), min_size=4, max_size=4).map(lambda c: dict(enumerate(c, start=1)))
true_maps = st.builds(segment_map, ids_of_pictures, classes_of_ids, st.sets(st.integers(1, 4)).map(tuple))
answers = st.builds(segment_map, ids_of_pictures, classes_of_ids)


@given(st.lists(st.tuples(true_maps, answers), min_size=1, max_size=3))
def test_panoptic_quality_is_its_definition(pairs: list[tuple[SegmentMap, SegmentMap]]) -> None:
    assert_as_defined(pairs)


@given(true_maps, st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4)), max_size=4))
def test_panoptic_quality_of_an_almost_right_answer(truth: SegmentMap, edits: list[tuple[int, int]]) -> None:
    """Random answers seldom match anything; these mostly do."""
    ids = truth.ids.copy()
    for place, value in edits:
        ids.flat[place] = value
    predicted = SegmentMap(ids, tuple(LabelledSegment(s.id, s.class_index) for s in truth.segments))
    assert_as_defined([(truth, predicted)])


def assert_as_defined(pairs: list[tuple[SegmentMap, SegmentMap]]) -> None:
    expected = by_definition(pairs)
    result = quality(*pairs)
    assert [row.class_index for row in result.per_class] == sorted(expected)
    for row in result.per_class:
        iou, tp, fp, fn = expected[row.class_index]
        assert (row.true_positives, row.false_positives, row.false_negatives) == (tp, fp, fn)
        assert row.pq == pytest.approx(100 * iou / (tp + fp / 2 + fn / 2))
        assert row.pq == pytest.approx(row.sq * row.rq / 100)
    if result.all is not None:
        assert result.all.pq == pytest.approx(np.mean([row.pq for row in result.per_class]))


# Mean IoU


def test_miou_by_hand() -> None:
    measure = SemanticIoU(3)
    measure.update(np.array([[0, 0], [1, -1]]), np.array([[0, 1], [1, 2]]))
    result = measure.result()
    assert [(row.class_index, row.iou, row.pixels) for row in result.per_class] == [(0, 50, 2), (1, 50, 1)]
    assert result.miou == 50


def test_miou_without_labels_is_unknown() -> None:
    measure = SemanticIoU(3)
    measure.update(np.full((2, 2), -1), np.zeros((2, 2), int))
    assert measure.result().miou is None


class_maps = st.lists(st.integers(-1, 3), min_size=12, max_size=12).map(np.array)


@given(st.lists(st.tuples(class_maps, class_maps), min_size=1, max_size=3))
def test_miou_agrees_with_scikit_learn(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    measure = SemanticIoU(4)
    for truth, predicted in pairs:
        measure.update(truth.reshape(3, 4), predicted.reshape(3, 4))
    truth, predicted = (np.concatenate(maps) for maps in zip(*pairs, strict=True))
    known = truth >= 0
    present = np.unique(truth[known])
    result = measure.result()
    assert [row.class_index for row in result.per_class] == present.tolist()
    if len(present):
        expected = jaccard_score(truth[known], predicted[known], labels=present, average=None, zero_division=0)
        assert [row.iou for row in result.per_class] == pytest.approx(100 * expected)
        assert result.miou == pytest.approx(100 * expected.mean())


# Instance AP


def halves() -> np.ndarray:
    return np.repeat([[1, 1, 2, 2]], 4, axis=0)


def test_ap_of_perfect_instances() -> None:
    truth = segment_map(halves(), {1: CAT, 2: DOG})
    measure = InstancePrecision(KINDS)
    measure.update(truth, [ScoredMask(s.class_index, 0.3, truth.ids == s.id) for s in truth.segments])
    result = measure.result()
    assert (result.ap, result.ap50, result.ap75) == pytest.approx((100, 100, 100))
    assert [row.class_index for row in result.per_class] == [CAT, DOG]
    assert (result.instances, result.pictures) == (2, 1)


def test_ap_of_one_instance_in_two() -> None:
    """Precision is 1 up to recall 0.5: 51 of COCO's 101 recall points."""
    truth = segment_map(halves(), {1: CAT, 2: CAT})
    measure = InstancePrecision(KINDS)
    measure.update(truth, [ScoredMask(CAT, 0.9, truth.ids == 1)])
    assert measure.result().ap == pytest.approx(100 * 51 / 101)


def test_ap_falls_with_the_mask() -> None:
    """IoU 0.75 passes six of the ten thresholds."""
    truth = segment_map([[1] * 4] * 4, {1: CAT})
    mask = np.ones((4, 4), bool)
    mask[3] = False
    measure = InstancePrecision(KINDS)
    measure.update(truth, [ScoredMask(CAT, 0.9, mask)])
    result = measure.result()
    assert (result.ap, result.ap50, result.ap75) == pytest.approx((60, 100, 100))


def test_ap_ignores_crowds_and_stuff() -> None:
    truth = segment_map(halves(), {1: CAT, 2: CAT}, crowds=(2,))
    measure = InstancePrecision(KINDS)
    measure.update(truth, [ScoredMask(CAT, 0.9, truth.ids == 2), ScoredMask(CAT, 0.5, truth.ids == 1)])
    assert measure.result().ap == pytest.approx(100)
    assert measure.result().instances == 1
    stuff = InstancePrecision(KINDS)
    stuff.update(segment_map(halves(), {1: GRASS}), [])
    assert stuff.result().ap is None


def test_ap_of_nothing_found() -> None:
    measure = InstancePrecision(KINDS)
    measure.update(segment_map(halves(), {1: CAT}), [])
    assert measure.result().ap == 0


# Recall


def proposals_of(masks: np.ndarray) -> Proposals:
    size = masks.shape[-2:]
    none = torch.zeros(len(masks), 4)
    logits = torch.from_numpy(masks).float() * 2 - 1
    return Proposals(logits, none, none, torch.ones(len(masks), dtype=torch.bool), Geometry(size, size, size))


def test_best_overlaps_by_hand() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :, :2] = True  # region 3 exactly
    masks[1, :, 2:] = True  # region 7 and as much again
    best = best_overlaps(proposals_of(masks), np.array([[3, 3, 7, 0]] * 4))
    assert best.tolist() == [1, 0.5]


@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_best_overlaps_are_greatest_ious(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    masks = generator.random((count, 150, 20)) > 0.4  # several tiles
    ids = generator.integers(0, 4, (150, 20))
    expected = [
        max([(m & (ids == i)).sum() / (m | (ids == i)).sum() for m in masks], default=0) for i in np.unique(ids) if i
    ]
    np.testing.assert_allclose(best_overlaps(proposals_of(masks), ids), expected)


def test_recall_counts_regions() -> None:
    measure = MaskRecall()
    assert measure.result().at_50 is None
    measure.update(np.array([1, 0.5, 0.49]))
    measure.update(np.array([0.7]))
    result = measure.result()
    assert (result.at_50, result.regions, result.pictures) == (75, 4, 2)
    assert result.mean == pytest.approx(100 * (10 + 1 + 0 + 5) / 40)


# Naming


def test_naming_counts_small_regions_apart() -> None:
    measure = NamingAccuracy()
    assert measure.result().top1 is None
    measure.update(np.array([0, 1, 2]), np.array([0, 2, -1]))
    measure.update(np.array([1, 1]), np.array([1, 0]))
    result = measure.result()
    assert (result.top1, result.regions, result.too_small, result.pictures) == (50, 4, 1, 2)


def test_true_masks_take_the_way_of_proposals() -> None:
    """A 20 x 30 picture, doubled, padded to 64: the padding is outside, the mask's share of a cell is its logit."""
    mask = np.zeros((20, 30), bool)
    mask[:10] = True
    logits = mask_logits(mask, Geometry((20, 30), (40, 60), (64, 64)))
    assert logits.shape == (1, 16, 16)
    assert (logits[0, :5, :15] == 1).all()
    assert (logits[0, 5:] == -1).all()
    assert (logits[0, :, 15:] == -1).all()
    mask[0, 0] = False
    assert mask_logits(mask, Geometry((20, 30), (40, 60), (64, 64)))[0, 0, 0] == pytest.approx(0.5)
