"""The text tower: it learns the geometry of a sentence encoder over nouns, glosses, class names and captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovdemo.nn.clip import ClipTower
from ovdemo.training.loop import adamw, learning_rate, set_learning_rate
from ovdemo.training.meanings import gather, plural
from ovdemo.training.phrases import Phrases
from ovdemo.training.precision import mixed_precision
from ovdemo.training.teacher import Projection, teach
from ovdemo.vocabulary import VILD_14
from ovdemo.vocabulary.wordnet import WordNet

PEAK_RATE = 1e-3  # from fresh weights
_DECAY = 0.01
# Texts of each kind in a step. Nouns most of all: there are fifty thousand, and what a rare one means is said nowhere
# else, while sentences are mostly made of words that were seen before.
_BATCH = {"nouns": 288, "classes": 48, "glosses": 24, "captions": 24}
_NAMES = ("nouns", "classes")
_TEMPLATED = 0.4  # of the names; the others stay bare: a third as long, so that a step shows more
_PLURAL = 0.1  # of the names: people ask for "cats" too
_TOKEN_LENGTH = 0.5  # of a token's first vector, about as long as CLIP's own random ones
_END = "</w>"  # how the tokenizer marks a token that ends a word
_PREFIXES = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")

Progress = Callable[[int, int], None]


class TextTrainee:
    """Distils the teacher into a CLIP's text tower (:class:`~ovdemo.training.loop.Trainee`).

    The loss is one minus the cosine between the tower's embedding of a text and the teacher's projected one, names
    moved towards others of their meaning (:func:`~ovdemo.training.meanings.gather`). A name within a prompt template,
    or its plural, has the target of the bare name, so that neither moves it.
    """

    def __init__(
        self,
        tower: ClipTower,
        phrases: Phrases,
        wordnet: WordNet,
        *,
        cache: Path,
        seed: int,
        progress: Progress,
        fresh: bool = True,
        peak_rate: float = PEAK_RATE,
    ) -> None:
        """Take the tower and ask the teacher for all targets.

        Args:
            tower: its text part fresh or trained before.
            phrases: what to learn from.
            wordnet: tells which names mean the same.
            cache: folder of the teacher's answers.
            seed: of the batches.
            progress: called with texts that the teacher has done, and texts in all.
            fresh: start the tokens anew, at the teacher's vectors of whole words.
            peak_rate: greatest learning rate.

        Raises:
            UserError: the teacher is not installed.
        """
        self._tower, self._peak_rate = tower, peak_rate
        self._random = np.random.default_rng(seed)
        self._texts = phrases.all
        place = {text: i for i, text in enumerate(self._texts)}
        self._members = {kind: np.array([place[text] for text in getattr(phrases, kind)]) for kind in _BATCH}
        rows = teach(self._texts, cache, progress)
        project = Projection.fit(rows[np.concatenate([self._members[kind] for kind in _NAMES])], tower.width)
        names = dict.fromkeys((*phrases.nouns, *phrases.classes))
        self._targets = gather(project(rows), self._texts, names, wordnet).to(tower.clip_model.text_projection.device)
        if fresh:
            self._start_tokens(project, cache, progress)
        for name, parameter in tower.clip_model.named_parameters():
            parameter.requires_grad_(name.startswith(_PREFIXES))
        self._optimiser = adamw(tower.clip_model, _DECAY)

    def _start_tokens(self, project: Projection, cache: Path, progress: Progress) -> None:
        """Start each token that is a whole word at the teacher's vector of that word: most nouns are one or two tokens,
        and those that training texts seldom hold are then not left random.
        """
        tokenizer, weight = self._tower.tokenizer, self._tower.clip_model.token_embedding.weight
        words = {token: text.removesuffix(_END) for text, token in tokenizer.encoder.items() if text.endswith(_END)}
        words = {token: word for token, word in words.items() if word.isalpha() and word.isascii()}
        vectors = project(teach(tuple(words.values()), cache, progress))
        width = min(vectors.shape[1], weight.shape[1])
        weight.data[list(words), :width] = _TOKEN_LENGTH * vectors[:, :width].to(weight)

    def step(self, share: float) -> dict[str, float]:
        """One batch of texts of all kinds."""
        prompts, targets = self._draw()
        set_learning_rate(self._optimiser, learning_rate(self._peak_rate, share))
        # Plain attention: the fused kernel's backward is slow on a CPU for sequences of ten tokens.
        with mixed_precision(targets.device), sdpa_kernel(SDPBackend.MATH):
            # Kind by kind: names are a quarter as long as sentences, and a batch is as long as its longest text.
            made = torch.cat([self._tower.embed_prompts(texts) for texts in prompts])
        loss = 1 - F.cosine_similarity(made.float(), targets).mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        trained = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self._optimiser.step()
        return {"one minus cosine": loss.item()}

    def _draw(self) -> tuple[list[list[str]], Tensor]:
        """Texts by kind, and the targets (n, D) of all of them."""
        places: list[np.ndarray] = []
        prompts: list[list[str]] = []
        for kind, count in _BATCH.items():
            chosen = self._random.choice(self._members[kind], count)
            places.append(chosen)
            prompts.append([])
            for i in chosen:
                text = self._texts[i]
                prompts[-1].append(self._reworded(text) if kind in _NAMES else text)
        return prompts, self._targets[torch.from_numpy(np.concatenate(places)).to(self._targets.device)]

    def _reworded(self, name: str) -> str:
        """A name, or its plural, in a prompt template or bare."""
        name = plural(name) if self._random.random() < _PLURAL else name
        template = self._random.choice(VILD_14.templates) if self._random.random() < _TEMPLATED else "{}"
        return str(template).replace("{}", name)

    def state(self) -> dict[str, Any]:
        """See :class:`~ovdemo.training.loop.Trainee`."""
        return {
            "tensors": self.result(),
            "optimiser": self._optimiser.state_dict(),
            "random": self._random.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """See :class:`~ovdemo.training.loop.Trainee`."""
        install_text(self._tower, state["tensors"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._random.bit_generator.state = state["random"]

    def result(self) -> dict[str, Tensor]:
        """The text tower's tensors under open_clip's names."""
        return text_tensors(self._tower)


def text_tensors(tower: ClipTower) -> dict[str, Tensor]:
    """A CLIP's text tower under open_clip's names."""
    tensors = tower.clip_model.state_dict()
    return {name: tensor.detach().cpu() for name, tensor in tensors.items() if name.startswith(_PREFIXES)}


def install_text(tower: ClipTower, tensors: dict[str, Tensor]) -> None:
    """Put a trained text tower into a CLIP, leaving its image tower as it is."""
    unexpected = tower.clip_model.load_state_dict(tensors, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"not a text tower of this size: {unexpected[0]}")
