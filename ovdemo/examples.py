"""Photographs to start with: they travel with installed packages, so the project ships none of them itself."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ovdemo.errors import UserError


@dataclass(frozen=True)
class Example:
    """A photograph of an installed package, and words that suit it.

    Attributes:
        name: in recipes and addresses.
        title: for people.
        package: whose file it is.
        file: its path within the package.
        words: in the syntax of :func:`ovdemo.vocabulary.parse_classes`.
        credit: who made it and on what terms, as the package states it.
    """

    name: str
    title: str
    package: str
    file: str
    words: str
    credit: str

    def path(self) -> Path | None:
        """The photograph, or None where the package or its file is missing. Nothing is imported."""
        spec = find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(spec.submodule_search_locations[0]) / self.file
        return path if path.is_file() else None


EXAMPLES = (
    Example(
        "china",
        "Temple by a lake",
        "sklearn",
        "datasets/images/china.jpg",
        "temple|pagoda, tree, sky, lake|water:stuff, person, car",
        "danielbuechele, CC BY 2.0, from scikit-learn",
    ),
    Example(
        "astronaut",
        "Astronaut",
        "skimage",
        "data/astronaut.png",
        "person|astronaut, flag, helmet, rocket|space shuttle, wall:stuff",
        "NASA, public domain, from scikit-image",
    ),
    Example(
        "motorcycle",
        "Motorcycle",
        "skimage",
        "data/motorcycle_left.png",
        "motorcycle|motorbike, bench, shelf, box, wheel, wall:stuff, floor:stuff",
        "Nera Nesic and others, Middlebury stereo 2014, licence not stated, from scikit-image",
    ),
    Example(
        "cat",
        "Cat",
        "skimage",
        "data/chelsea.png",
        "cat|kitten, dog, pillow, blanket:stuff, wall:stuff",
        "Stefan van der Walt, CC0, from scikit-image",
    ),
    Example(
        "coffee",
        "Coffee",
        "skimage",
        "data/coffee.png",
        "cup|mug, saucer, spoon, coffee:stuff, table:stuff",
        "Rachel Michetti, CC0, from scikit-image",
    ),
    Example(
        "rocket",
        "Rocket",
        "skimage",
        "data/rocket.jpg",
        "rocket, tower, light, sky, ground:stuff",
        "SpaceX, public domain, from scikit-image",
    ),
    Example(
        "flower",
        "Flower",
        "sklearn",
        "datasets/images/flower.jpg",
        "flower|dahlia, leaf:stuff, tree, sky, bird",
        "flickr.com/photos/vultilion (named danielbuechele), CC BY 2.0, from scikit-learn",
    ),
    Example(
        "cheetah",
        "Cheetah",
        "gradio",
        "media_assets/images/cheetah1.jpg",
        "cheetah|leopard, lion, dog, grass:stuff, rock:stuff",
        "photographer and licence not stated, from Gradio",
    ),
    Example(
        "lion",
        "Lion",
        "gradio",
        "media_assets/images/lion.jpg",
        "lion, dog, rock:stuff, grass:stuff, tree",
        "photographer and licence not stated, from Gradio",
    ),
    Example(
        "tower",
        "Tower",
        "gradio",
        "media_assets/images/tower.jpg",
        "tower|eiffel tower, sky, tree, building, bird",
        "photographer and licence not stated, from Gradio",
    ),
    Example(
        "admiral",
        "Admiral",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "person|woman, hat, tie, shirt, flag, wall:stuff, sky",
        "photographer and licence not stated, from matplotlib",
    ),
)


def find_example(name: str) -> Example:
    """The example of a name.

    Raises:
        UserError: there is none, or its package is not installed.
    """
    example = next((example for example in EXAMPLES if example.name == name), None)
    if example is None:
        raise UserError(f'There is no example "{name[:40]}"; choose one of {", ".join(e.name for e in EXAMPLES)}.')
    if example.path() is None:
        raise UserError(
            f'The example "{name}" comes with the package {example.package}: install it, or upload a picture.'
        )
    return example
