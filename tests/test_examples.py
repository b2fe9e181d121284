from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from pathlib import Path

import pytest

from ovdemo import examples
from ovdemo.examples import EXAMPLES, Example, find_example
from ovdemo.images import MIN_SIDE, load_picture
from ovdemo.recipes import ExamplePicture
from ovdemo.vocabulary import parse_classes
from sentences import failure

REQUIREMENTS = (Path(__file__).parents[1] / "requirements.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_every_example_can_be_used(example: Example) -> None:
    path = example.path()
    assert path is not None
    picture = load_picture(path)
    assert min(picture.height, picture.width) > 10 * MIN_SIDE
    assert 3 <= len(parse_classes(example.words)) <= 12
    assert not parse_classes(example.words).notes
    assert ExamplePicture(example.name).example == example.name
    assert find_example(example.name) is example
    assert example.title
    assert example.credit


def test_names_are_unique_and_their_packages_required() -> None:
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)
    owners = importlib.metadata.packages_distributions()
    for package in {example.package for example in EXAMPLES}:
        pins = [re.search(rf"^{owner}(\[\w+\])?==", REQUIREMENTS, re.MULTILINE) for owner in owners[package]]
        assert any(pins), package


def test_credits_name_the_package_that_carries_them() -> None:
    titles = {"sklearn": "scikit-learn", "skimage": "scikit-image", "gradio": "Gradio", "matplotlib": "matplotlib"}
    for example in EXAMPLES:
        assert example.credit.endswith(f"from {titles[example.package]}")


def test_no_such_example() -> None:
    failure(lambda: find_example("unicorn" * 30), 'no example "unicorn', "china, astronaut")


def test_a_package_or_file_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = dataclasses.replace(EXAMPLES[0], name="gone", package="no_such_package")
    moved = dataclasses.replace(EXAMPLES[0], name="moved", file="datasets/images/nothing.jpg")
    monkeypatch.setattr(examples, "EXAMPLES", (gone, moved))
    assert gone.path() is None
    assert moved.path() is None
    failure(lambda: find_example("gone"), "package no_such_package", "upload a picture")
