"""The weights that the project ships: what they must still be able to do, offline, on labelled photographs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import open_vocabulary as figures
import ovdemo
from conftest import HERE
from ovdemo.evaluation import IndexSet, evaluate_set
from ovdemo.training.concepts import Concepts

DATA = Path(os.environ.get("OVDEMO_DATA_DIR", HERE.parents[1] / "shared" / "data"))
WORDS = 93  # of caltech101

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no labelled photographs at {DATA}")


@pytest.fixture(scope="module")
def workbench() -> ovdemo.Workbench:
    return ovdemo.load()


def test_streets_are_cut_into_their_areas(workbench: ovdemo.Workbench) -> None:
    report = evaluate_set(workbench, IndexSet(DATA / "camvid", "val"), limit=6)
    iou = {report.labels[row.class_index]: row.iou for row in report.semantic.per_class}
    assert min(iou[name] for name in ("road", "sky")) > 80
    assert min(iou[name] for name in ("building", "pavement", "tree")) > 45


def test_whole_photographs_are_named_far_better_than_by_chance(workbench: ovdemo.Workbench) -> None:
    report = evaluate_set(workbench, IndexSet(DATA / "caltech101", "val"), limit=93)
    assert report.naming["whole pictures"].top1 > 15 * 100 / WORDS


def test_things_whose_names_training_never_met_are_named_better_than_by_chance(workbench: ovdemo.Workbench) -> None:
    accuracy, chance, count = figures.held_out_accuracy(workbench, DATA, each=4)
    assert count > 60
    assert accuracy > 2.5 * chance


def test_the_ensemble_names_more_than_either_classifier_alone(workbench: ovdemo.Workbench) -> None:
    accuracy = {fusion: both for fusion, (_, _, both) in figures.ensemble_accuracy(workbench, DATA, each=2).items()}
    assert accuracy["geometric"] > max(accuracy["in-vocabulary"], accuracy["out-of-vocabulary"])


def test_names_that_training_never_met_are_not_seen(workbench: ovdemo.Workbench) -> None:
    assert workbench.system.training_names
    assert not workbench.system.training_names & set(figures.held_out_names())


def test_every_paraphrase_is_of_a_class_and_no_class_itself() -> None:
    for folder, words in figures.PARAPHRASES.items():
        labels = {entry.label for entry in IndexSet(DATA / folder, "val").vocabulary.classes}
        assert set(words) <= labels
        assert not labels & set(words.values())


def test_what_is_held_out_is_a_concept_of_the_data() -> None:
    names = (HERE.parent / "checkpoints" / "held-out.txt").read_text().splitlines()
    assert names == list(dict.fromkeys(names))
    assert len(Concepts.read(DATA, names).held_out) == 20
    assert sorted(names) == sorted(figures.held_out_names())
