"""The application's core: one loaded system, and everything it has already worked out.

The interface, the command line and the API call this and nothing below it::

    workbench = ovdemo.load()
    photo = workbench.analyse("photo.jpg")           # heavy, once a picture
    result = photo.segment("cat|kitten, sofa, wall:stuff")   # at once, as often as you like
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ovdemo import paths
from ovdemo.caching import BoundedCache
from ovdemo.default_model import DEFAULT_MODEL, chosen_model
from ovdemo.ensemble import Fusion
from ovdemo.errors import UserError
from ovdemo.fusion import Scores, score
from ovdemo.hierarchy import (
    TreeMode,
    TreeScores,
    TreeSource,
    class_distribution,
    descend,
    inner_means,
    kinds_of_person,
    of_segments,
    roll_up,
    top_classes,
    tree_of,
)
from ovdemo.images import Picture, PictureSource, ResizeRule, load_picture
from ovdemo.inspection import Case, Inspection, inspect, prompt_rows, winning_prompt
from ovdemo.loading import Progress, load_system, weights_file
from ovdemo.merging import Merging, merge
from ovdemo.passes import ONE_PASS
from ovdemo.recipes import SHORT_SIDES
from ovdemo.segmentation import ClassProbability, Segmentation
from ovdemo.sensitivity import Sensitivity, sensitivity
from ovdemo.stopwatch import Stopwatch
from ovdemo.suggestions import Suggestion, suggest
from ovdemo.systems.base import Proposals, System
from ovdemo.systems.registry import find_variant
from ovdemo.uncertainty import Uncertainty, uncertainty
from ovdemo.vocabulary import (
    VILD_14,
    EmbeddingCache,
    ShippedRows,
    TextEmbedder,
    TextEmbeddings,
    TextEncoder,
    Vocabulary,
    load_preset,
    parse_classes,
    seen_classes,
)
from ovdemo.vocabulary.wordnet import load_wordnet

_SMALLER = 0.7  # of the short side, where a GPU's memory was too small for the first try

Accelerate = Callable[[Callable[..., object]], Callable[..., object]]
"""Wraps the calls that need a GPU, where a GPU is lent call by call: arguments and results go through pickle."""

_OfNodes = tuple[Tensor, Tensor]  # TreeScores without their tree

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """How much a workbench remembers.

    Attributes:
        picture_bytes: of pictures and their proposals. One picture takes about 3 MB with the embedded model and 60 MB
            with FC-CLIP at 800 x 1088.
        answer_bytes: of scores and segmentations.
        text_bytes: of the text embeddings of whole vocabularies. ImageNet-21K takes 111 MB with FC-CLIP's largest CLIP.
        age: seconds after which what nobody asked for is forgotten.
    """

    picture_bytes: int = 256 * 2**20
    answer_bytes: int = 64 * 2**20
    text_bytes: int = 192 * 2**20
    age: float = 3600.0


class Workbench:
    """A system with its caches: proposals per picture, text embeddings per word. Safe to use from many threads."""

    def __init__(
        self,
        system: System,
        cache: EmbeddingCache,
        *,
        name: str = "",
        weights_file: Path | None = None,
        bounds: Bounds | None = None,
        accelerate: Accelerate | None = None,
    ) -> None:
        """Take a loaded system.

        Args:
            system: with its weights.
            cache: of the text embeddings of names.
            name: of the variant.
            weights_file: what the trained weights were read from.
            bounds: of what is remembered.
            accelerate: see :data:`Accelerate`; proposals then live on the CPU, where everything else is done.
        """
        self.system, self.name = system, name
        self._weights_file = weights_file
        bounds = bounds or Bounds()
        encoder = system.text_encoder
        self._propose: Callable[..., object] = self._propose_here
        if accelerate is not None:
            self._propose = accelerate(self._propose_and_fetch)
            encoder = _Accelerated(encoder, accelerate)
        self._device = system.device if accelerate is None else torch.device("cpu")
        self._encoder = encoder
        self._embedder = TextEmbedder(encoder, VILD_14, cache)
        self._analyses: BoundedCache[Analysis] = BoundedCache(bounds.picture_bytes, _bytes_of, max_age=bounds.age)
        self._answers: BoundedCache[Case] = BoundedCache(bounds.answer_bytes, _answer_bytes, max_age=bounds.age)
        self._trees: BoundedCache[_OfNodes] = BoundedCache(bounds.answer_bytes, _tree_bytes, max_age=bounds.age)
        self._prompts: BoundedCache[Tensor] = BoundedCache(bounds.text_bytes, _bytes_of, max_age=bounds.age)
        self._embeddings: BoundedCache[TextEmbeddings] = BoundedCache(bounds.text_bytes, _bytes_of, max_age=bounds.age)

    def analyse(
        self,
        source: PictureSource | Picture,
        *,
        name: str | None = None,
        short_side: int | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> Analysis:
        """Decode a picture and run the backbone and the decoders on it, unless that was done before.

        Where a GPU's memory is too small, everything remembered is forgotten and a smaller input is tried.

        Args:
            source: a path, bytes, an open file, a PIL picture, an (H, W, 3) array or a decoded picture.
            name: display name where the source has none.
            short_side: of the network's input in pixels, 64 to 2048; None is the system's own rule.
            stopwatch: told the steps ``decode``, ``encode`` and ``propose``.

        Raises:
            UserError: the picture cannot be used, the short side is out of range, or the GPU's memory is too small.
        """
        stopwatch = stopwatch or Stopwatch()
        if isinstance(source, Picture):
            picture = source
        else:
            with stopwatch.step("decode"):
                picture = load_picture(source, name)
        rule = self.resize_rule(short_side)
        analysis = self._analyses.get(
            (picture.digest, short_side), lambda: self._analyse(picture, rule, short_side, stopwatch)
        )
        # An answer holds its picture's proposals, so it goes with them.
        self._answers.forget(lambda key: isinstance(key, tuple) and key[:2] not in self._analyses)
        return analysis.named(picture.name)

    def recall(self, digest: str, short_side: int | None = None) -> Analysis | None:
        """The analysis of a picture by its digest, where it is still remembered."""
        return self._analyses.peek((digest, short_side))

    def forget(self, digest: str | None = None) -> None:
        """Forget one picture with its answers, or all pictures and words."""
        for cache in (self._analyses, self._answers, self._trees):
            cache.forget(lambda key: digest is None or (isinstance(key, tuple) and key[0] == digest))
        if digest is None:
            for words in (self._prompts, self._embeddings):
                words.forget(lambda key: True)

    @cached_property
    def weights(self) -> str | None:
        """Revision of the weights: the beginning of their file's SHA-256; None for random ones."""
        if self._weights_file is None:
            return None
        with self._weights_file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @property
    def remembered_bytes(self) -> int:
        """Of pictures, proposals, answers and text embeddings."""
        return sum(cache.bytes for cache in (self._analyses, self._answers, self._trees, self._embeddings))

    def embed(
        self,
        vocabulary: Vocabulary,
        progress: Callable[[int, int], None] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> TextEmbeddings:
        """Text embeddings of every name, where scores are computed; only names never met before are encoded.

        ``progress`` is called with names done and names in all; what it raises stops the encoding.
        """
        watch = stopwatch or Stopwatch()

        def make() -> TextEmbeddings:
            with watch.step("text"):
                return self._embedder.embed(vocabulary, progress).to(self._device)

        return self._embeddings.get(vocabulary.classes, make)

    def names_to_encode(self, vocabulary: Vocabulary) -> int:
        """How many of a vocabulary's names no answer has needed yet; encoding one takes 14 prompts."""
        if self._embeddings.peek(vocabulary.classes) is not None:
            return 0
        return self._embedder.names_to_encode(vocabulary)

    def resize_rule(self, short_side: int | None = None) -> ResizeRule:
        """The system's own resize rule, or the same shape of rule for another short side in pixels.

        Raises:
            UserError: the short side is out of range.
        """
        rule = self.system.resize_rule
        if short_side is None:
            return rule
        low, high = SHORT_SIDES
        if not low <= short_side <= high:
            raise UserError(f"The short side must lie between {low} and {high} pixels; {short_side} does not.")
        long_side = round(short_side * rule.long_side / rule.short_side)
        return ResizeRule(short_side, long_side, multiple=rule.multiple)

    def _prompt_rows(self, name: str) -> Tensor:
        return self._prompts.get(name, lambda: prompt_rows(name, VILD_14, self._encoder))

    def _analyse(self, picture: Picture, rule: ResizeRule, short_side: int | None, stopwatch: Stopwatch) -> Analysis:
        try:
            return self._propose_timed(picture, rule, short_side, stopwatch)
        except torch.OutOfMemoryError:
            log.warning("out of GPU memory at %s; trying a smaller input", rule)
        self.forget()
        torch.cuda.empty_cache()
        smaller = replace(
            rule, short_side=round(_SMALLER * rule.short_side), long_side=round(_SMALLER * rule.long_side)
        )
        try:
            return self._propose_timed(picture, smaller, short_side, stopwatch)
        except torch.OutOfMemoryError:
            raise UserError(
                "The GPU has too little memory free for this picture: choose a smaller short side, or try again later."
            ) from None

    def _propose_timed(
        self, picture: Picture, rule: ResizeRule, short_side: int | None, stopwatch: Stopwatch
    ) -> Analysis:
        with ONE_PASS:
            if self._propose == self._propose_here:
                with stopwatch.step("encode"):
                    features = self.system.encode(picture, rule)
                    self._wait()
                with stopwatch.step("propose"):
                    proposals = self.system.propose(features)
                    self._wait()
            else:
                with stopwatch.step("propose"):
                    proposals = cast(Proposals, self._propose(picture, rule))
        return Analysis(self, picture, proposals, rule, short_side)

    def _propose_here(self, picture: Picture, rule: ResizeRule) -> Proposals:
        return self.system.propose(self.system.encode(picture, rule))

    def _propose_and_fetch(self, picture: Picture, rule: ResizeRule) -> Proposals:
        """Where a GPU is lent call by call, nothing may stay on it."""
        return self._propose_here(picture, rule).to("cpu")

    def _wait(self) -> None:
        if self.system.device.type == "cuda":
            torch.cuda.synchronize(self.system.device)


class _Accelerated:
    """A text tower whose calls are wrapped."""

    def __init__(self, encoder: TextEncoder, accelerate: Accelerate) -> None:
        self.tag, self.width = encoder.tag, encoder.width
        self._encode = accelerate(encoder.encode_prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        rows = self._encode(list(prompts))
        assert isinstance(rows, Tensor)
        return rows


@dataclass(frozen=True, eq=False)
class Analysis:
    """A picture that has been through the heavy pass. Every question below costs a matrix product and a merge.

    Attributes:
        workbench: whose system it was.
        picture: what was analysed.
        proposals: what the heavy pass gave.
        rule: by which the network's input was resized; a smaller one than asked for where memory was short.
        short_side: that was asked for; None is the system's own rule.
    """

    workbench: Workbench
    picture: Picture
    proposals: Proposals
    rule: ResizeRule
    short_side: int | None

    def named(self, name: str) -> Analysis:
        """The same under another name of its picture: the one who asks may not be the one who brought it first."""
        if name == self.picture.name:
            return self
        return replace(self, picture=replace(self.picture, name=name))

    @property
    def reduced(self) -> bool:
        """Whether a GPU's memory was too small for the input that was asked for."""
        return self.rule != self.workbench.resize_rule(self.short_side)

    @property
    def _own(self) -> Fusion:
        return self.workbench.system.fusion

    def score(self, words: str | Vocabulary, fusion: Fusion | None = None) -> Scores:
        """Class probabilities of every proposal for the words."""
        vocabulary = as_vocabulary(words)
        return self._score(vocabulary, self.workbench.embed(vocabulary), fusion or self._own)

    def segment(
        self, words: str | Vocabulary, *, fusion: Fusion | None = None, merging: Merging | None = None
    ) -> Segmentation:
        """Cut the picture into segments labelled with the words.

        Args:
            words: ``"cat|kitten, sofa, wall:stuff"`` or a vocabulary.
            fusion: how the two classifiers are combined; default the system's own :class:`~ovdemo.ensemble.Fusion`.
            merging: panoptic, semantic or instance, and thresholds; default panoptic.

        Raises:
            UserError: the words hold no class, or too many.
        """
        return self.answer(words, fusion=fusion, merging=merging).segmentation

    def answer(
        self,
        words: str | Vocabulary,
        *,
        fusion: Fusion | None = None,
        merging: Merging | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> Case:
        """:meth:`segment` with the scores it came from, remembered for the next question about it.

        ``stopwatch`` is told the steps ``text``, ``score`` and ``merge``.
        """
        vocabulary = as_vocabulary(words)
        fusion, merging, watch = fusion or self._own, merging or Merging(), stopwatch or Stopwatch()

        def make() -> Case:
            text = self.workbench.embed(vocabulary, stopwatch=watch)
            with watch.step("score"):
                scores = self._score(vocabulary, text, fusion)
            with watch.step("merge"):
                segmentation = merge(self.proposals, scores, vocabulary, merging)
            classifiers = self.workbench.system.classifiers
            return Case(self.proposals, text, vocabulary, classifiers, fusion, merging, scores, segmentation)

        key = (self.picture.digest, self.short_side, self.rule, vocabulary.classes, fusion, merging)
        case = self.workbench._answers.get(key, make)
        # The same classes may have been typed in another way, which the notes on them tell.
        return case if case.vocabulary == vocabulary else replace(case, vocabulary=vocabulary)

    def inspect(self, case: Case, x: int, y: int) -> tuple[Inspection, str]:
        """Why a pixel of the picture is labelled as it is, and the prompt of the winning name that is nearest to it.

        Raises:
            UserError: the pixel lies outside the picture.
        """
        found = inspect(case, x, y)
        embedding = self.proposals.clip_embeddings[found.explained.proposal]
        name = found.classes[0].name
        return found, winning_prompt(name, VILD_14, self.workbench._prompt_rows(name), embedding)

    def uncertainty(self, case: Case) -> Uncertainty:
        """Where the answer should be doubted, as maps of the picture's size."""
        return uncertainty(case.proposals, case.scores, case.segmentation)

    def sensitivity(self, case: Case, x: int | None = None, y: int | None = None) -> Sensitivity:
        """What 121 settings of alpha and beta would change, and what wins the segment at a pixel, or the picture."""
        chosen = None
        if x is not None and y is not None and (number := int(case.segmentation.id_map[y, x])):
            chosen = case.segmentation.id_map == number
        return sensitivity(
            case.proposals,
            case.text,
            case.scores.seen,
            case.classifiers,
            fusion=case.fusion,
            merging=case.merging,
            chosen=chosen,
            reference=self._own,
        )

    def tree_words(
        self, case: Case, source: TreeSource, mode: TreeMode = "roll-up", *, mean_inner: bool = False
    ) -> Vocabulary:
        """The words whose text embeddings :meth:`tree_scores` needs: of inner nodes only where it knows them by these.

        Raises:
            UserError: the tree cannot be had.
        """
        tree = tree_of(source, case.vocabulary)
        return tree.words() if mode == "greedy" and not mean_inner else tree.vocabulary

    def tree_scores(
        self,
        case: Case,
        source: TreeSource,
        mode: TreeMode = "roll-up",
        *,
        mean_inner: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> TreeScores:
        """Probabilities of every segment, in the answer's order, over the nodes of a category tree.

        Args:
            case: the answer.
            source: of the tree.
            mode: roll-up of a distribution over the leaves, or greedy descent.
            mean_inner: whether greedy descent knows inner nodes by the mean of what is below them, and not by their
                own words.
            progress: told how many text embeddings are there, where they are not yet.

        Raises:
            UserError: the tree cannot be had.
        """

        tree = tree_of(source, case.vocabulary)

        def make() -> _OfNodes:
            words = self.tree_words(case, source, mode, mean_inner=mean_inner)
            text = self.workbench.embed(words, progress)
            if mode == "roll-up":
                scores = roll_up(tree, self._distribution(case, words, text))
            else:
                scores = descend(
                    tree,
                    of_segments(self.proposals, case.segmentation.segments),
                    inner_means(tree, text) if mean_inner else text,
                    seen=self._seen(tree.words()),
                    classifiers=self.workbench.system.classifiers,
                    fusion=case.fusion,
                )
            return scores.probability, scores.own

        key = (self.picture.digest, self.short_side, self.rule, case.vocabulary, case.fusion, case.merging)
        return TreeScores(tree, mode, *self.workbench._trees.get((*key, source.key, mode, mean_inner), make))

    def top_nouns(
        self, case: Case, progress: Callable[[int, int], None] | None = None
    ) -> tuple[tuple[ClassProbability, ...], ...]:
        """The five best of ImageNet-21K's nouns for every segment, in the answer's order (OPSNet, Figure 3).

        Kinds of person are left out of the five, though not out of the 21,841 that probabilities are shared among: see
        :func:`ovdemo.hierarchy.kinds_of_person`.

        Raises:
            UserError: WordNet, which tells kinds of person, is missing.
        """
        nouns = load_preset("imagenet-21k")
        distribution = self._distribution(case, nouns, self.workbench.embed(nouns, progress))
        persons = torch.tensor(kinds_of_person(load_wordnet()), device=distribution.device)
        return top_classes(distribution.index_fill(1, persons, 0), nouns)

    def suggest(self, case: Case, progress: Callable[[int, int], None] | None = None) -> tuple[Suggestion, ...]:
        """Nouns of ImageNet-21K for what is unlabelled or doubtful.

        ``progress`` is told how many of the 21,841 embeddings are there, where they are not yet.
        """
        nouns = load_preset("imagenet-21k")
        text = self.workbench.embed(nouns, progress)
        return suggest(case, nouns, text, leave_out=frozenset(kinds_of_person(load_wordnet())).__contains__)

    def _distribution(self, case: Case, vocabulary: Vocabulary, text: TextEmbeddings) -> Tensor:
        """Probabilities of any classes for every segment of an answer, (N, C), each row sums to one."""
        return class_distribution(
            of_segments(self.proposals, case.segmentation.segments),
            text,
            seen=self._seen(vocabulary),
            classifiers=self.workbench.system.classifiers,
            fusion=case.fusion,
        )

    def _score(self, vocabulary: Vocabulary, text: TextEmbeddings, fusion: Fusion) -> Scores:
        classifiers = self.workbench.system.classifiers
        with torch.inference_mode():
            return score(self.proposals, text, self._seen(vocabulary), classifiers, fusion)

    def _seen(self, vocabulary: Vocabulary) -> Tensor:
        return torch.from_numpy(seen_classes(vocabulary, self.workbench.system.training_names))


def load(
    name: str = DEFAULT_MODEL,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    random_weights: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    accelerate: Accelerate | None = None,
) -> Workbench:
    """Load a variant by name, downloading its weights if need be; see :func:`ovdemo.loading.load_system`.

    The default is the model that ``OVDEMO_MODEL`` names, else the one that is embedded in the project. Text embeddings
    are cached in :func:`ovdemo.paths.cache_dir`, those of random weights in memory only.
    """
    checkpoint = None if checkpoint is None else Path(checkpoint)
    system = load_system(
        name,
        checkpoint=checkpoint,
        device=device,
        precision=precision,
        random_weights=random_weights,
        seed=seed,
        progress=progress,
    )
    cache = EmbeddingCache(None if random_weights else paths.cache_dir() / "text", shipped=shipped_rows(name))
    file = None if random_weights else weights_file(find_variant(chosen_model(name)), checkpoint)
    return Workbench(system, cache, name=chosen_model(name), weights_file=file, accelerate=accelerate)


def shipped_rows(name: str) -> ShippedRows | None:
    """The text embeddings of all presets that come with the project, for an embedded variant."""
    embedded = find_variant(chosen_model(name)).embedded
    return None if embedded is None else ShippedRows(paths.CHECKPOINTS / embedded.text)


def as_vocabulary(words: str | Vocabulary) -> Vocabulary:
    """Words as typed, or a vocabulary as it is."""
    return parse_classes(words) if isinstance(words, str) else words


def _bytes_of(value: object) -> int:
    """Bytes of all tensors and arrays in a value and in the values that it holds."""
    if isinstance(value, Tensor | np.ndarray):
        return int(value.nbytes)
    if isinstance(value, Analysis | Picture | Proposals | Scores | Segmentation | TextEmbeddings):
        return sum(_bytes_of(getattr(value, field.name)) for field in fields(value))
    return 0


def _tree_bytes(scores: _OfNodes) -> int:
    """Without the tree: it is kept apart, under a bound of its own."""
    return sum(int(tensor.nbytes) for tensor in scores)


def _answer_bytes(case: Case) -> int:
    """Without the proposals and the text embeddings: they belong to the analysis and to their own cache."""
    return _bytes_of(case.scores) + _bytes_of(case.segmentation)
