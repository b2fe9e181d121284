from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovdemo.ensemble import Fusion
from ovdemo.errors import UserError
from ovdemo.fusion import score
from ovdemo.inspection import Case, Contender, Inspection, inspect, prompt_rows, winning_prompt
from ovdemo.merging import Merging, merge
from ovdemo.systems.base import Classifiers, Geometry, Proposals
from ovdemo.vocabulary import VILD_14, TextEmbeddings, Vocabulary, VocabularyClass
from straightforward import upsample
from test_upsampling import make_proposals

SCALE = 100.0
SIDE = 64
VOCABULARY = Vocabulary(
    (
        VocabularyClass(("cat", "kitten"), "thing"),
        VocabularyClass(("dog",), "thing"),
        VocabularyClass(("sky",), "stuff"),
    )
)
TEXT = TextEmbeddings(torch.eye(6)[:4], torch.tensor([0, 0, 1, 2]), 3)
VOID = torch.eye(6)[4]
SEEN = torch.tensor([True, False, False])
WHOLE, LOW, HIGH = slice(0, 16), slice(0, 8), slice(8, 16)


def embedding(**probabilities: float) -> torch.Tensor:
    """A vector whose scaled cosines to the names and to "no object" have these probabilities; 1e-6 where none is given.

    The sixth axis, which nothing else has, takes what is left of its length.
    """
    names = (*VOCABULARY.names, "void")
    cosines = torch.tensor([probabilities.get(name, 1e-6) for name in names], dtype=torch.float64).log() / SCALE
    return 3 * torch.cat((cosines, (1 - cosines.square().sum()).sqrt()[None])).float()


def paint(*masks: tuple[slice, slice] | None) -> torch.Tensor:
    """(N, 16, 16) mask logits over a 64 x 64 picture: 9 in the (rows, columns) given, else -9."""
    logits = torch.full((len(masks), 16, 16), -9.0)
    for query, mask in enumerate(masks):
        if mask is not None:
            logits[query, mask[0], mask[1]] = 9.0
    return logits


def make_case(
    logits: torch.Tensor,
    trained: list[torch.Tensor],
    clip: list[torch.Tensor],
    *,
    fusion: Fusion | None = None,
    merging: Merging | None = None,
    unsupported: tuple[int, ...] = (),
) -> Case:
    fusion, merging = fusion or Fusion(), merging or Merging()
    supported = torch.tensor([query not in unsupported for query in range(len(logits))], dtype=torch.bool)
    geometry = Geometry((SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE))
    embeddings = [torch.stack(rows) if rows else torch.zeros(0, 6) for rows in (trained, clip)]
    proposals = Proposals(logits, *embeddings, supported, geometry)
    classifiers = Classifiers(SCALE, SCALE, VOID, needs_clip_support=True)
    scores = score(proposals, TEXT, SEEN, classifiers, fusion)
    segmentation = merge(proposals, scores, VOCABULARY, merging)
    return Case(proposals, TEXT, VOCABULARY, classifiers, fusion, merging, scores, segmentation)


CAT = embedding(cat=0.6, dog=0.2, sky=0.1, void=0.1)
DOG = embedding(cat=0.1, dog=0.7, sky=0.1, void=0.1)
SKY = embedding(cat=0.1, dog=0.1, sky=0.7, void=0.1)
WEAK_DOG = embedding(cat=0.1, dog=0.5, sky=0.1, void=0.3)
NOTHING = embedding(cat=0.1, dog=0.1, sky=0.1, void=0.7)
CLIP = embedding(cat=0.1, kitten=0.3, dog=0.5, sky=0.2)


def one_cat(**settings: object) -> Case:
    return make_case(paint((WHOLE, WHOLE)), [CAT], [CLIP], **settings)


def test_every_number_of_a_pixel_by_hand() -> None:
    found = inspect(one_cat(), 5, 7)
    # Trained head without void: cat 2/3, dog 2/9, sky 1/9. CLIP: cat 0.3 by "kitten", dog 0.5, sky 0.2.
    mixed = [(2 / 3) ** 0.6 * 0.3**0.4, (2 / 9) ** 0.2 * 0.5**0.8, (1 / 9) ** 0.2 * 0.2**0.8]
    total = sum(mixed)
    cat, dog, sky = found.classes
    assert (cat.label, cat.class_index, cat.seen, cat.name) == ("cat", 0, True, "kitten")
    assert (dog.label, dog.class_index, dog.seen, dog.name) == ("dog", 1, False, "dog")
    assert [c.in_vocabulary for c in found.classes] == pytest.approx([2 / 3, 2 / 9, 1 / 9], abs=1e-3)
    assert [c.out_of_vocabulary for c in found.classes] == pytest.approx([0.3, 0.5, 0.2], abs=1e-3)
    assert [c.fused for c in found.classes] == pytest.approx([0.9 * m / total for m in mixed], abs=1e-3)
    assert [c.exponent for c in found.classes] == pytest.approx([0.4, 0.8, 0.8])
    assert (found.void, found.raw_void) == pytest.approx((0.1, 0.1), abs=1e-3)
    formula = found.formula
    assert (formula.kind, formula.label, formula.exponent) == ("geometric", "cat", pytest.approx(0.4))
    assert (formula.mixed, formula.total) == pytest.approx((mixed[0], total), abs=1e-3)
    assert sky.seen is False


@given(
    st.sampled_from(["geometric", "arithmetic", "in-vocabulary", "out-of-vocabulary"]),
    st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.sampled_from([(), (0,)]),
)  # fmt: skip
def test_the_line_of_maths_adds_up(
    kind: str, alpha: float, beta: float, rescue: float, unsupported: tuple[int, ...]
) -> None:
    found = inspect(one_cat(fusion=Fusion(kind, alpha, beta, rescue), unsupported=unsupported), 5, 7)
    f = found.formula
    assert f.class_index == found.classes[0].class_index
    exponent = 0.0 if unsupported else {"in-vocabulary": 0.0, "out-of-vocabulary": 1.0}.get(kind)
    if exponent is None:
        exponent = alpha if f.class_index == 0 else beta
    assert f.exponent == pytest.approx(exponent, abs=1e-6)
    assert f.exponent == pytest.approx(found.classes[0].exponent)
    if kind == "arithmetic":
        mixed = (1 - f.exponent) * f.in_vocabulary + f.exponent * f.out_of_vocabulary
    else:
        mixed = f.in_vocabulary ** (1 - f.exponent) * f.out_of_vocabulary**f.exponent
    assert f.mixed == pytest.approx(mixed, abs=1e-6)
    assert f.clip_peak == pytest.approx(0.0 if unsupported else 0.5, abs=1e-3)
    assert f.void == pytest.approx(f.raw_void * (1 - rescue * f.clip_peak), abs=1e-5)
    assert f.fused == pytest.approx(f.mixed / f.total * (1 - f.void), abs=1e-5)
    assert f.fused == found.classes[0].fused
    assert (found.void, found.raw_void) == pytest.approx((f.void, f.raw_void), abs=1e-6)


def test_rescue_is_shown_before_and_after() -> None:
    case = make_case(paint((WHOLE, WHOLE)), [NOTHING], [CLIP], fusion=Fusion(rescue=0.8))
    found = inspect(case, 0, 0)
    assert found.raw_void == pytest.approx(0.7, abs=1e-3)
    assert found.void == pytest.approx(0.7 * (1 - 0.8 * 0.5), abs=1e-3)


def test_without_clip_support_the_exponent_is_zero() -> None:
    found = inspect(one_cat(unsupported=(0,)), 5, 7)
    assert [c.exponent for c in found.classes] == [0, 0, 0]
    assert [c.fused for c in found.classes] == pytest.approx([0.6, 0.2, 0.1], abs=1e-3)


def test_mask_numbers_are_those_of_whole_masks() -> None:
    proposals = make_proposals((50, 70), 32, 6)
    case = dataclasses.replace(one_cat(), proposals=dataclasses.replace(
        proposals, class_embeddings=torch.stack([DOG] * 6), clip_embeddings=torch.stack([DOG] * 6)
    ))  # fmt: skip
    scores = score(case.proposals, TEXT, SEEN, case.classifiers, case.fusion)
    merging = Merging(overlap_threshold=0.0)
    segmentation = merge(case.proposals, scores, VOCABULARY, merging)
    case = dataclasses.replace(case, scores=scores, segmentation=segmentation, merging=merging)
    whole = upsample(proposals).sigmoid()
    for x, y in ((0, 0), (69, 49), (33, 20), (12, 41)):
        found = inspect(case, x, y)
        here = whole[:, y, x]
        assert found.explained.proposal == int(here.argmax())  # all score alike
        assert [c.proposal for c in found.runners_up] == here.argsort(descending=True)[1:].tolist()
        for contender in (found.explained, *found.runners_up):
            mask = whole[contender.proposal]
            assert contender.mask_probability == pytest.approx(float(mask[y, x]), abs=1e-4)
            assert contender.mask_confidence == pytest.approx(float(mask[mask > 0.5].mean()), abs=1e-3)


def verdicts(found: Inspection) -> dict[int, str]:
    contenders: tuple[Contender, ...] = (found.explained, *found.runners_up)
    return {contender.proposal: contender.verdict for contender in contenders}


def test_a_pixel_names_its_segment_and_why_each_other_proposal_was_dropped() -> None:
    logits = paint((WHOLE, LOW), (WHOLE, WHOLE), (LOW, LOW), (WHOLE, WHOLE), None, (LOW, HIGH))
    logits[4] = -1.0
    case = make_case(
        logits,
        [CAT, WEAK_DOG, embedding(cat=0.5, dog=0.3, sky=0.1, void=0.1), NOTHING, DOG, SKY],
        [CLIP] * 6,
        fusion=Fusion("in-vocabulary"),
    )
    left = inspect(case, 8, 8)
    assert left.segment is not None
    assert (left.segment.label, left.segment.id) == ("cat", int(case.segmentation.id_map[8, 8]))
    assert left.explained.proposal == 0
    assert {c.proposal for c in left.runners_up} == {1, 2, 3, 4, 5}
    told = verdicts(left)
    assert told[0] == "kept: this segment is made from it"
    won = int(SIDE**2 / 4 + 100)  # the lower right quarter, and a little where masks blend
    share = case.segmentation.fates[1].share
    assert share is not None
    assert SIDE**2 / 4 / SIDE**2 <= share <= won / SIDE**2
    assert told[1] == f"dropped: it kept {math.floor(1000 * share) / 10:g}% of its own mask, 80% are needed"
    assert told[2] == "dropped: others won every pixel of its mask"
    assert told[3] == "dropped: 'no object' at 0.70 beat its best class at 0.10"
    assert told[4] == "dropped: its mask has no pixel"
    assert told[5] == "kept: it is in segment 2, and this pixel lies outside its mask"
    assert left.runners_up[0].mask_probability > 0.99
    assert left.runners_up[-1].fate == case.segmentation.fates[left.runners_up[-1].proposal]


def test_an_unlabelled_pixel_explains_the_strongest_proposal_there() -> None:
    case = make_case(
        paint((LOW, LOW), (WHOLE, WHOLE), (WHOLE, HIGH), (LOW, WHOLE)),
        [CAT, NOTHING, DOG, WEAK_DOG],
        [CLIP] * 4,
        fusion=Fusion("in-vocabulary"),
        merging=Merging(object_threshold=0.65),
    )
    found = inspect(case, 8, 8)
    assert case.segmentation.id_map[8, 8] == 0
    assert found.segment is None
    assert found.explained.proposal == 0
    assert found.explained.verdict == "dropped: its score of 0.60 is not above the threshold of 0.65"
    assert found.formula.label == found.classes[0].label == "cat"
    assert [c.proposal for c in found.runners_up][:2] == [1, 3]
    assert inspect(case, 60, 8).segment is not None


def test_stuff_from_several_proposals_explains_the_one_that_won_the_pixel() -> None:
    clearer = embedding(cat=0.02, dog=0.02, sky=0.9, void=0.06)
    case = make_case(paint((LOW, WHOLE), (HIGH, WHOLE)), [SKY, clearer], [SKY, clearer])
    (segment,) = case.segmentation.segments
    assert segment.queries == (1, 0)
    for y, proposal in ((5, 0), (60, 1)):
        found = inspect(case, 30, y)
        assert found.segment == segment
        assert found.explained.proposal == proposal
        assert verdicts(found)[1 - proposal] == "kept: this segment is made from it"
        assert found.classes[0].fused == pytest.approx(float(case.scores.fused[proposal, 2]))


def test_semantic_mode_explains_the_mixture_that_decided() -> None:
    case = make_case(
        paint((WHOLE, LOW), (WHOLE, WHOLE)), [CAT, SKY], [CLIP, SKY], merging=Merging("semantic"), unsupported=(1,)
    )
    found = inspect(case, 8, 8)
    assert found.segment is not None
    share = torch.sigmoid(torch.tensor([9.0, 9.0]))
    mixture = (share / share.sum()) @ case.scores.fused
    assert [c.fused for c in found.classes] == pytest.approx(mixture.sort(descending=True).values.tolist(), abs=1e-5)
    assert found.classes[0].class_index == found.segment.class_index
    assert {c.label: c.exponent for c in found.classes} == pytest.approx({"cat": 0.2, "dog": 0.4, "sky": 0.4})
    assert found.void == pytest.approx(float(case.scores.void.mean()), abs=1e-5)
    assert found.explained.fate is None
    assert found.explained.verdict.startswith("counted: ")
    contribution = share * case.scores.fused[:, found.segment.class_index]
    assert found.explained.proposal == int(contribution.argmax())
    assert found.formula.label == found.segment.label
    assert found.formula.fused == float(case.scores.fused[found.explained.proposal, found.segment.class_index])


@given(st.integers(0, 1000), st.integers(0, SIDE - 1), st.integers(0, SIDE - 1))
def test_semantic_classes_begin_with_the_label_of_the_pixel(seed: int, x: int, y: int) -> None:
    logits = 5 * torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed))
    case = make_case(logits, [CAT, DOG, SKY, NOTHING], [CAT, SKY, DOG, CLIP], merging=Merging("semantic"))
    found = inspect(case, x, y)
    assert found.segment is not None
    leader = found.classes[0].fused
    chosen = next(c for c in found.classes if c.class_index == found.segment.class_index)
    assert chosen.fused == pytest.approx(leader, abs=1e-5)  # equal but for ties


def test_instance_mode_explains_the_instance_and_what_was_left_out() -> None:
    case = make_case(
        paint((WHOLE, WHOLE), (LOW, WHOLE), (WHOLE, LOW), (WHOLE, WHOLE)),
        [CAT, SKY, WEAK_DOG, embedding(cat=0.1, dog=0.2, sky=0.2, void=0.5)],
        [CLIP] * 4,
        fusion=Fusion("in-vocabulary"),
        merging=Merging("instance", object_threshold=0.55, instances=3),
    )
    found = inspect(case, 8, 8)
    assert found.segment is not None
    assert (found.segment.label, found.explained.proposal, found.formula.label) == ("cat", 0, "cat")
    assert verdicts(found) == {
        0: "kept: this segment is made from it",
        1: "left out: its best classes are stuff, and instances are things",
        2: "dropped: the score of its best instance is not above the threshold of 0.55",
        3: "left out: none of its classes is among the 3 best pairs of proposal and class",
    }


def test_probabilities_that_vanish_still_give_a_formula() -> None:
    certain = [torch.eye(6)[row] for row in (0, 2)]  # cosines of 1 and 0: e^-100 apart
    case = make_case(paint((WHOLE, WHOLE)), [certain[0]], [certain[1]], fusion=Fusion(alpha=0.5, beta=0.5))
    formula = inspect(case, 3, 3).formula
    assert 0 < formula.mixed <= formula.total
    assert formula.fused == pytest.approx(formula.mixed / formula.total * (1 - formula.void), abs=1e-5)


@pytest.mark.parametrize("pixel", [(-1, 0), (0, -1), (SIDE, 0), (0, SIDE)])
def test_a_pixel_outside_the_picture_is_refused(pixel: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"outside the picture of 64 x 64 pixels; choose one inside\.$"):
        inspect(one_cat(), *pixel)


def test_a_picture_without_proposals_is_refused() -> None:
    with pytest.raises(UserError, match="nothing can be explained"):
        inspect(make_case(paint(), [], []), 0, 0)


class Sized:
    """Each prompt is an axis by its size word; every other prompt shares the last."""

    tag, width = "sized", 4

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        sizes = ("small", "medium", "large")
        axes = [next((i for i, size in enumerate(sizes) if size in prompt), 3) for prompt in prompts]
        return 7 * torch.eye(4)[axes] + 0.01 * torch.arange(len(prompts))[:, None]


def test_the_winning_prompt_is_the_nearest_by_cosine() -> None:
    rows = prompt_rows("cat", VILD_14, Sized())
    assert rows.shape == (14, 4)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(14))
    assert winning_prompt("cat", VILD_14, rows, torch.tensor([0.0, 5.0, 0.0, 0.0])) == "a photo of a medium cat."
    assert winning_prompt("cat", VILD_14, rows, torch.tensor([0.0, 0.0, 0.2, 0.0])) == "a photo of a large cat."
    assert winning_prompt("cat", VILD_14, rows, torch.tensor([0.0, 0.0, 0.0, 1.0])) == "a photo of a cat."
