"""Is the vocabulary really open? Three figures of the embedded model, from labelled photographs.

``PYTHONPATH=. python tests/open_vocabulary.py --data ../shared/data`` prints them:

- paraphrases: how much naming and mIoU lose when class names are replaced by near synonyms;
- held out: how often objects whose names training never met are named among 40 distractors;
- ensemble: how often proposals of seen and of held-out objects get the right name, for each way of fusion.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from ovdemo import Vocabulary, Workbench, load, load_picture
from ovdemo.evaluation import IndexSet, evaluate_set
from ovdemo.evaluation.naming import mask_logits, name_regions
from ovdemo.fusion import score
from ovdemo.images import Picture
from ovdemo.paths import CHECKPOINTS, cache_dir
from ovdemo.training.concepts import Concepts
from ovdemo.training.photos import PhotoStore
from ovdemo.vocabulary import VocabularyClass, seen_classes

PARAPHRASES: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "paraphrases.json").read_text("utf-8"))
DISTRACTORS = 40
FUSIONS = ("geometric", "in-vocabulary", "out-of-vocabulary")


@dataclass(frozen=True, eq=False)
class Object:
    """A photograph of one thing, the thing's automatic mask (H, W), and its name."""

    picture: Picture
    mask: np.ndarray
    name: str


@dataclass(frozen=True)
class Loss:
    """A figure in percent with the data's own names and with paraphrases."""

    own: float
    paraphrased: float

    @property
    def relative(self) -> float:
        """Percent of the figure that is lost."""
        return 100 * (1 - self.paraphrased / self.own)


def held_out_names() -> list[str]:
    """The concepts that the embedded weights were never shown a name for."""
    with safe_open(CHECKPOINTS / "fcclip-embedded.safetensors", framework="pt") as file:
        names: list[str] = json.loads(file.metadata()["held_out"])
    return names


def objects(data: Path, split: str, names: Sequence[str], each: int) -> Iterator[Object]:
    """The first ``each`` photographs with an automatic mask of every named concept."""
    concepts = Concepts.read(data)
    left = Counter(dict.fromkeys(names, each))
    for photo in PhotoStore.open(data, cache_dir() / "training", concepts, split).photos:
        name = concepts.entries[photo.concept].name
        mask = next((layer.ids for layer in photo.layers if layer.kind == "cutout"), None)
        if photo.concept >= 0 and mask is not None and left[name] > 0:
            left[name] -= 1
            yield Object(load_picture(np.array(photo.pixels), photo.id), mask == 1, name)


def things(names: Sequence[str]) -> Vocabulary:
    """One thing a name."""
    return Vocabulary(tuple(VocabularyClass((name,), "thing") for name in names))


def paraphrased(vocabulary: Vocabulary, words: Mapping[str, str]) -> Vocabulary:
    """The same classes, those with a paraphrase under it alone."""
    classes = [
        replace(entry, names=(words[entry.label],)) if entry.label in words else entry for entry in vocabulary.classes
    ]
    return Vocabulary(tuple(classes))


class Reworded:
    """Some pictures of a set, asked for by paraphrases or by its own names without their synonyms."""

    def __init__(self, data: IndexSet, words: Mapping[str, str]) -> None:
        own = Vocabulary(tuple(replace(entry, names=entry.names[:1]) for entry in data.vocabulary.classes))
        self.name, self.vocabulary = data.name, paraphrased(own, words)
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def load(self, index: int):
        """As the set itself."""
        return self._data.load(index)


def paraphrase_losses(workbench: Workbench, data: Path, folder: str, limit: int | None = None) -> dict[str, Loss]:
    """mIoU of camvid; of the other sets accuracy over the classes with a paraphrase, and over those with an unseen one.

    Training gives concepts some synonyms, so that part of the paraphrases counts as seen.
    """
    photos, words = IndexSet(data / folder, "val"), PARAPHRASES[folder]
    asked = [Reworded(photos, wording) for wording in ({}, words)]
    if folder == "camvid":
        own, other = (evaluate_set(workbench, one, limit=limit).semantic.miou for one in asked)
        return {"all": Loss(own, other)}
    unseen = {label for label, word in words.items() if word not in workbench.system.training_names}
    rights = [named_right(workbench, one, {*words}, photos.vocabulary, limit) for one in asked]
    return {
        kind: Loss(*(100 * float(np.mean([one for label in chosen for one in right[label]])) for right in rights))
        for kind, chosen in {"all": {*words}, "unseen": unseen}.items()
    }


def named_right(
    workbench: Workbench, asked: Reworded, scored: set[str], own: Vocabulary, limit: int | None
) -> dict[str, list[bool]]:
    """Which whole pictures of each scored class the frozen CLIP names right among all classes."""
    text, right = workbench.embed(asked.vocabulary), {label: [] for label in scored}
    for index in range(len(asked)):
        picture, truth = asked.load(index)
        region = next(region for region in truth.named if region.source == "whole pictures")
        label = own.classes[region.class_index].label
        if label in scored and (limit is None or sum(map(len, right.values())) < limit):
            features = workbench.system.encode(picture, workbench.resize_rule())
            [named] = name_regions(workbench.system, features, [region.mask()], text)
            right[label].append(named == region.class_index)
    return right


def held_out_accuracy(workbench: Workbench, data: Path, each: int) -> tuple[float, float, int]:
    """Percent of held-out objects named right by the frozen CLIP, percent by chance, and how many objects."""
    held_out = held_out_names()
    names = [*held_out, *distractors(data)]
    text, system = workbench.embed(things(names)), workbench.system
    right = [
        names[name_regions(system, system.encode(shown.picture, workbench.resize_rule()), [shown.mask], text)[0]]
        == shown.name
        for shown in objects(data, "train", held_out, each)
    ]
    return 100 * float(np.mean(right)), 100 / len(names), len(right)


def distractors(data: Path) -> list[str]:
    """Names that training met, drawn once and for all from those that whole photographs show."""
    return [str(name) for name in np.random.default_rng(0).choice(shown_names(data), DISTRACTORS, replace=False)]


def shown_names(data: Path) -> list[str]:
    """Names that training met on whole photographs, in order."""
    concepts = Concepts.read(data)
    shown = {
        concepts.find(folder, name) for folder, name in concepts.places if folder in ("caltech101", "tinyimagenet")
    }
    return sorted({concepts.entries[index].name for index in shown} - set(held_out_names()))


def ensemble_accuracy(workbench: Workbench, data: Path, each: int) -> dict[str, tuple[float, float, float]]:
    """Percent of objects whose best proposal gets the right name, by fusion: (seen, held out, mean of the two).

    Half of the words are held out, half seen; no photograph was in training under its name. All seen names have their
    turn, but for a last few: as many vocabularies as they fill, each asked of all objects with a name in it.
    """
    held_out = held_out_names()
    seen = shown_names(data)
    best = []
    for shown in (*objects(data, "val", seen, each), *objects(data, "train", held_out, each)):
        made = workbench.analyse(shown.picture).proposals
        best.append((made.choose([best_proposal(made, shown.mask)]), shown.name))
    order = np.random.default_rng(0).permutation(seen).tolist()
    size, training_names = len(held_out), workbench.system.training_names
    right: dict[str, tuple[list[bool], list[bool]]] = {fusion: ([], []) for fusion in FUSIONS}
    for first in range(0, len(order) - size + 1, size):
        words = [*held_out, *order[first : first + size]]
        vocabulary = things(words)
        text, known = workbench.embed(vocabulary), torch.from_numpy(seen_classes(vocabulary, training_names))
        for one, name in best:
            if name in words:
                for fusion in FUSIONS:
                    asked = workbench.system.fusion.but(kind=fusion)
                    fused = score(one, text, known, workbench.system.classifiers, asked).fused
                    right[fusion][name in held_out].append(words[int(fused.argmax())] == name)
    return {
        fusion: (100 * float(np.mean(a)), 100 * float(np.mean(b)), 50 * float(np.mean(a) + np.mean(b)))
        for fusion, (a, b) in right.items()
    }


def best_proposal(proposals, mask: np.ndarray) -> int:
    """The proposal that overlaps a mask (H, W) most, at the size of the proposals."""
    wanted = (mask_logits(mask, proposals.geometry) > 0).flatten()
    made = (proposals.mask_logits > 0).flatten(1)
    overlap = (made & wanted).sum(1) / (made | wanted).sum(1).clamp(min=1)
    return int(overlap.argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--each", type=int, default=30, help="photographs of each held-out concept (default 30)")
    options = parser.parse_args()
    torch.manual_seed(0)
    workbench = load()
    for folder in PARAPHRASES:
        for kind, loss in paraphrase_losses(workbench, options.data, folder).items():
            print(
                f"{kind} paraphrases, {folder}: {loss.own:.1f} with its own names, {loss.paraphrased:.1f} with "
                f"paraphrases: {loss.relative:.0f}% lost",
                flush=True,
            )
    accuracy, chance, count = held_out_accuracy(workbench, options.data, options.each)
    print(f"held out: {accuracy:.1f}% of {count} named right, by chance {chance:.1f}%: {accuracy / chance:.1f} times")
    for fusion, (seen, held_out, both) in ensemble_accuracy(workbench, options.data, options.each).items():
        print(f"ensemble, {fusion}: seen {seen:.1f}%, held out {held_out:.1f}%, mean {both:.1f}%")


if __name__ == "__main__":
    main()
