"""Hints on typed words while they are being typed: what will be folded, confused, cut off or misspelt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

import open_clip
import torch

from ovdemo.errors import UserError
from ovdemo.vocabulary.classes import Kind, Vocabulary
from ovdemo.vocabulary.embeddings import TextEmbeddings
from ovdemo.vocabulary.names import name_key
from ovdemo.vocabulary.overlap import seen_classes
from ovdemo.vocabulary.parsing import add_classes, parse_classes, replace_name
from ovdemo.vocabulary.presets import read_words
from ovdemo.vocabulary.prompts import VILD_14
from ovdemo.vocabulary.spelling import correction, singular

Severity = Literal["error", "warning", "note"]
Embed = Callable[[Vocabulary], TextEmbeddings | None]

CONTEXT_LENGTH = 77  # tokens of a prompt, start and end among them; every published CLIP has it
COLLISION = 0.95  # cosine above which the text tower hardly tells two names apart

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_SHOWN = 5  # hints of one sort
_NAMES_CHECKED = 1_000  # a name at a time, and in pairs; beyond, typing would wait
_FEW_CLASSES = 3
_CONTRASTS = ("wall", "floor", "sky", "grass", "road", "tree")
_CONTRASTS_SHOWN = 3


@dataclass(frozen=True)
class Hint:
    """One thing to know about the words.

    Attributes:
        severity: ``error``: nothing can be asked; ``warning``: the answer will probably surprise; ``note``: good to
            know.
        text: one sentence.
        words: names of the vocabulary that it is about.
        replacement: where there is a remedy to offer: what to write in the place of ``words[0]``, or, where there
            are no words, the classes to add. :func:`take_hint` does it.
    """

    severity: Severity
    text: str
    words: tuple[str, ...] = ()
    replacement: str | None = None


@dataclass(frozen=True)
class LintRow:
    """One class of the vocabulary.

    Attributes:
        label: its first name.
        names: all its names, the label first.
        kind: ``thing`` or ``stuff``.
        guessed: whether the kind was inferred; else a person or a data set says so.
        seen: whether the class shares a name with the training vocabulary.
    """

    label: str
    names: tuple[str, ...]
    kind: Kind
    guessed: bool
    seen: bool


@dataclass(frozen=True)
class Lint:
    """The classes in order, none where there is an error; and hints, errors first, then warnings, then notes."""

    rows: tuple[LintRow, ...]
    hints: tuple[Hint, ...]


def lint(
    text: str,
    presets: Sequence[str] = (),
    *,
    training_names: frozenset[str] | None = None,
    embed: Embed | None = None,
    context_length: int = CONTEXT_LENGTH,
) -> Lint:
    """Look over the words as they stand. It never raises because of them.

    Hints on single names are about typed words only: presets are published lists, and repeat themselves on purpose.
    Thirty words take a few milliseconds; the first call reads all presets, about a second. At most 1,000 typed names
    are looked at one by one or compared, and at most five hints of one sort are given.

    Args:
        text: as typed.
        presets: names of the presets chosen beside it.
        training_names: of the system; they tell seen classes from unseen ones. Without them, nothing is said of that,
            and all rows count as unseen.
        embed: gives text embeddings of any vocabulary, such as :meth:`ovdemo.workbench.Workbench.embed`, or None where
            that would take long. Without them, names are not compared.
        context_length: the most tokens of a prompt that the text tower reads.
    """
    try:
        vocabulary = read_words(text, presets)
    except UserError as error:
        return Lint((), (Hint("error", str(error)),))
    typed = parse_classes(text) if text.strip() else Vocabulary(())
    checked = list(dict.fromkeys(typed.names))[:_NAMES_CHECKED]
    hints = [
        *_few(_folded(typed)),
        *_few(_misspelt(checked)),
        *_few(_too_long(checked, context_length)),
        *(() if embed is None else _few(_colliding(vocabulary, len(typed), embed))),
        *_without_contrast(vocabulary),
        *_few(_plurals(typed)),
        *_in_presets(vocabulary, typed),
    ]
    seen = seen_classes(vocabulary, training_names or frozenset()).tolist()
    if training_names is not None:
        hints.append(_seen_count(seen))
    rows = tuple(
        LintRow(entry.label, entry.names, entry.kind, entry.inferred, known)
        for entry, known in zip(vocabulary.classes, seen, strict=True)
    )
    return Lint(rows, tuple(sorted(hints, key=lambda hint: _SEVERITIES.index(hint.severity))))


def take_hint(text: str, hint: Hint) -> str:
    """The typed text with a hint's remedy: its first word replaced wherever it stands, or its classes added.

    The text may have changed since; one that no longer has the word stays as it is, as for a hint without a remedy.

    Raises:
        UserError: the text breaks the grammar.
    """
    if hint.replacement is None:
        return text
    return replace_name(text, hint.words[0], hint.replacement) if hint.words else add_classes(text, hint.replacement)


def _few(hints: Iterator[Hint]) -> Iterator[Hint]:
    """The first hints of a sort, so that no list fills the page; the rest is not even looked for."""
    return islice(hints, _SHOWN)


def _folded(typed: Vocabulary) -> Iterator[Hint]:
    for note in typed.notes:
        words = tuple(name for name in typed.names if f'"{name}"' in note)
        yield Hint("warning", f"{note[0].upper()}{note[1:]}.", words)


def _misspelt(names: Sequence[str]) -> Iterator[Hint]:
    for name in names:
        better = correction(name)
        if better is not None:
            yield Hint("warning", f'No list here has "{name}"; did you mean "{better}"?', (name,), better)


def _too_long(names: Sequence[str], context_length: int) -> Iterator[Hint]:
    for name in names:
        tokens = max(map(_tokens, VILD_14.fill(name))) if _may_be_too_long(name, context_length) else 0
        if tokens > context_length:
            yield Hint(
                "warning",
                f'"{name}" makes a prompt of {tokens} tokens, and the text encoder reads the first {context_length}; '
                "shorten it.",
                (name,),
            )


def _may_be_too_long(name: str, context_length: int) -> bool:
    """A token is at least one byte of UTF-8, so that ordinary names need no tokenizer."""
    return max(len(prompt.encode()) for prompt in VILD_14.fill(name)) + 2 > context_length


def _tokens(prompt: str) -> int:
    """Tokens of a prompt, with those of its start and its end."""
    return len(_tokenizer().encode(prompt)) + 2


@cache
def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


def _colliding(vocabulary: Vocabulary, typed: int, embed: Embed) -> Iterator[Hint]:
    """Pairs of a typed class (the first ``typed`` ones) and another one, the nearest pair first."""
    vocabulary = _head(vocabulary)
    if len(vocabulary) < 2 or typed == 0:
        return
    text = embed(vocabulary)
    if text is None:
        return
    owner, names = text.owner.cpu(), vocabulary.names
    ours = int((owner < typed).sum())
    cosines = (text.rows[:ours] @ text.rows.T).cpu()
    cosines[owner[:ours, None] >= owner] = -1  # each pair once, and no class with itself
    first, second = (cosines > COLLISION).nonzero(as_tuple=True)
    order = cosines[first, second].argsort(descending=True, stable=True)
    met = set()
    for one, other in torch.stack((first, second), -1)[order].tolist():
        pair = (int(owner[one]), int(owner[other]))
        if pair not in met:
            met.add(pair)
            yield Hint(
                "warning",
                f'The text encoder hardly tells "{names[one]}" from "{names[other]}" '
                f"(cosine {float(cosines[one, other]):.2f}); make them one class, separated by a bar.",
                (names[one], names[other]),
            )


def _head(vocabulary: Vocabulary) -> Vocabulary:
    """The first classes, as far as all their names can be compared; the whole vocabulary where that is all."""
    total = 0
    for index, entry in enumerate(vocabulary.classes):
        total += len(entry.names)
        if total > _NAMES_CHECKED:
            return Vocabulary(vocabulary.classes[:index])
    return vocabulary


def _without_contrast(vocabulary: Vocabulary) -> Iterator[Hint]:
    few = len(vocabulary) < _FEW_CLASSES
    if not few and any(entry.kind == "stuff" for entry in vocabulary.classes):
        return
    keys = set(map(name_key, vocabulary.names))
    contrasts = [word for word in _CONTRASTS if word not in keys][:_CONTRASTS_SHOWN]
    reason = "There are fewer than three classes" if few else "All classes are things, none is a background"
    listed = ", ".join(contrasts)
    yield Hint(
        "warning",
        f"{reason}, and every pixel goes to the nearest of the given words; add contrast words such as {listed}.",
        replacement=listed,
    )


def _plurals(typed: Vocabulary) -> Iterator[Hint]:
    keys = set(map(name_key, typed.names))
    for entry in typed.classes:
        base = singular(entry.label) if entry.kind == "thing" else None
        if base is not None and base not in map(name_key, entry.names):
            again = ", which is there too" if base in keys else ""
            yield Hint("note", f'"{entry.label}" is the same idea as "{base}"{again}.', (entry.label,), base)


def _in_presets(vocabulary: Vocabulary, typed: Vocabulary) -> Iterator[Hint]:
    folded = len(vocabulary.notes) - len(typed.notes)
    if folded:
        yield Hint("note", f"{_counted(folded, 'name')} of the presets came up before and counted once.")


def _seen_count(seen: Sequence[bool]) -> Hint:
    counts = Counter(seen)
    return Hint(
        "note",
        f"Of {_counted(len(seen), 'class', 'classes')}, {counts[True]:,} share a name with the training words (seen) "
        f"and {counts[False]:,} do not (unseen).",
    )


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
