from __future__ import annotations

import dataclasses

import pytest
import torch

from ovdemo.inspection import Case
from ovdemo.suggestions import suggest
from ovdemo.vocabulary import TextEmbeddings, Vocabulary, VocabularyClass
from test_inspection import HIGH, LOW, NOTHING, WHOLE, embedding, make_case, paint

NOUNS = Vocabulary(
    tuple(
        VocabularyClass(names, "thing")
        for names in (("Cat", "mouser"), ("lamp",), ("crane", "wader"), ("crane", "derrick"), ("shelf",))
    )
)


def nouns_on_axes(*axes: int) -> TextEmbeddings:
    """One axis a class of ``NOUNS``; a class's names share it."""
    owner = torch.tensor([0, 0, 1, 2, 2, 3, 3, 4])
    return TextEmbeddings(torch.eye(6)[torch.tensor(axes)[owner]], owner, len(NOUNS))


def looks_like(**weights: float) -> torch.Tensor:
    """A CLIP embedding with these cosines to the nouns, whose axes are 0 to 4."""
    axes = {"Cat": 0, "lamp": 1, "wader": 2, "derrick": 3, "shelf": 4}
    vector = torch.zeros(6)
    for name, weight in weights.items():
        vector[axes[name]] = weight
    vector[5] = (1 - vector.square().sum()).clamp(min=0).sqrt()
    return 2 * vector


SURE = embedding(cat=0.97, void=0.01)
TEXT = nouns_on_axes(0, 1, 2, 3, 4)


def case_of(clip: list[torch.Tensor], unsupported: tuple[int, ...] = ()) -> Case:
    """The left half is a sure cat; of the right half's two quarters the trained head knows nothing."""
    logits = paint((WHOLE, LOW), (LOW, HIGH), (HIGH, HIGH))
    case = make_case(logits, [SURE, NOTHING, NOTHING], [SURE] * 3, unsupported=unsupported)
    assert [segment.label for segment in case.segmentation.segments] == ["cat"]
    return dataclasses.replace(case, proposals=dataclasses.replace(case.proposals, clip_embeddings=torch.stack(clip)))


def test_unlabelled_quarters_get_their_nouns_and_the_sure_half_gets_none() -> None:
    case = case_of([looks_like(shelf=0.9), looks_like(lamp=0.5, shelf=0.48), looks_like(wader=0.6)])
    found = suggest(case, NOUNS, TEXT)
    assert [(one.word, one.class_index, one.proposal) for one in found[:3]] == [
        ("crane", 2, 2),
        ("lamp", 1, 1),
        ("shelf", 4, 1),
    ]
    assert found[0].share == pytest.approx(0.25, abs=0.02)
    share = 1 / (1 + torch.tensor(-2.0).exp())  # the cosines differ by 0.02, and are scaled by 100
    assert found[1].probability == pytest.approx(float(share), abs=1e-3)
    assert all(one.proposal != 0 for one in found)


def test_words_in_use_and_second_senses_of_a_word_are_left_out() -> None:
    case = case_of([SURE, looks_like(Cat=0.7, derrick=0.69), looks_like(wader=0.6, derrick=0.59)])
    words = [(one.word, one.class_index) for one in suggest(case, NOUNS, TEXT)]
    assert all(index != 0 for _, index in words)  # "Cat" is "cat"
    assert sum(word == "crane" for word, _ in words) == 1
    assert len(words) == len(set(words))


def test_a_caller_can_leave_classes_out() -> None:
    case = case_of([SURE, looks_like(lamp=0.7), looks_like(lamp=0.7)])
    assert suggest(case, NOUNS, TEXT)[0].word == "lamp"
    assert all(one.word != "lamp" for one in suggest(case, NOUNS, TEXT, leave_out=lambda index: index == 1))


def test_the_picture_takes_turns() -> None:
    """One quarter looks a little more like two nouns than the other like its own, which still comes second."""
    case = case_of([SURE, looks_like(lamp=0.7, shelf=0.7), looks_like(wader=0.7, derrick=0.691)])
    assert [one.proposal for one in suggest(case, NOUNS, TEXT)[:2]] == [2, 1]


def test_proposals_without_clip_support_are_not_named_and_no_doubt_needs_no_word() -> None:
    case = case_of([SURE, looks_like(lamp=0.7), looks_like(shelf=0.7)], unsupported=(1,))
    assert {one.proposal for one in suggest(case, NOUNS, TEXT)} == {2}
    sure = make_case(paint((WHOLE, WHOLE)), [SURE], [SURE])
    assert suggest(sure, NOUNS, TEXT) == ()
    assert suggest(make_case(paint(), [], []), NOUNS, TEXT) == ()
