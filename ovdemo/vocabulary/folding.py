"""One class a concept: what happens when a name comes up twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ovdemo.errors import UserError
from ovdemo.vocabulary.classes import Kind, Vocabulary, VocabularyClass
from ovdemo.vocabulary.kinds import infer_kind
from ovdemo.vocabulary.names import name_key

MAX_CLASSES = 25_000
MAX_NAMES_PER_CLASS = 200


@dataclass(frozen=True)
class DraftName:
    """A name as it is kept, and as its author spelt it, which is what the notes quote."""

    text: str
    spelling: str

    @property
    def key(self) -> str:
        """What it shares with every other spelling of the same name."""
        return name_key(self.text)


@dataclass(frozen=True)
class Draft:
    """A class before folding: at least one name, and its kind if somebody set it."""

    names: tuple[DraftName, ...]
    kind: Kind | None


def combine(*vocabularies: Vocabulary) -> Vocabulary:
    """One vocabulary from several, the earlier ones first: pass typed classes before presets.

    A name belongs to the first class that has it. A class of a later part whose label is taken is merged into that
    class: its new names become synonyms there, and a kind that was set wins over an inferred one (the first set one
    wins). Otherwise it only loses the synonyms that are taken. There is one note for each. What repeats *within* a
    part stays as it is: typed parts are folded already, and the class lists of benchmarks repeat names on purpose. So
    a preset alone comes back verbatim.

    Raises:
        UserError: no class at all, more than 25,000 of them, or more than 200 names in a merged class.
    """
    parts = [vocabulary for vocabulary in vocabularies if vocabulary.classes]
    if not parts:
        raise UserError("The vocabulary is empty; type at least one class or choose a preset.")
    if len(parts) == 1:
        return parts[0]
    folded = fold([_drafts(part) for part in parts])
    if len(folded) > MAX_CLASSES:
        raise UserError(
            f"Together these are {len(folded):,} classes, and {MAX_CLASSES:,} are possible; leave out a preset."
        )
    earlier_notes = tuple(note for part in parts for note in part.notes)
    return Vocabulary(folded.classes, earlier_notes + folded.notes)


def fold(parts: Iterable[Sequence[Draft]]) -> Vocabulary:
    """Put parts together, folding each into the ones before it by the rule of :func:`combine`.

    Raises:
        UserError: merging gave a class more than 200 names.
    """
    folding = _Folding()
    for part in parts:
        folding.add(part)
    return Vocabulary(tuple(map(_finished, folding.classes)), tuple(folding.notes))


@dataclass
class _OpenClass:
    """A class that later parts may still add names to, and the keys of the names it has."""

    names: list[str]
    keys: set[str]
    kind: Kind | None


class _Folding:
    """The classes so far, and which of them owns a name.

    The names of the part that is being added come into force when it is complete, so that they never fold each other.
    """

    def __init__(self) -> None:
        self.classes: list[_OpenClass] = []
        self.notes: list[str] = []
        self._owners: dict[str, int] = {}
        self._new_owners: dict[str, int] = {}

    def add(self, part: Sequence[Draft]) -> None:
        for draft in part:
            owner = self._owners.get(draft.names[0].key)
            if owner is None:
                self._append(draft)
            else:
                self._merge(draft, owner)
        self._owners.update(self._new_owners)
        self._new_owners.clear()

    def _append(self, draft: Draft) -> None:
        index = len(self.classes)
        names = [name for name in draft.names if not self._is_taken(name, draft)]
        self.classes.append(_OpenClass([name.text for name in names], {name.key for name in names}, draft.kind))
        for name in names:
            self._new_owners.setdefault(name.key, index)

    def _merge(self, draft: Draft, owner: int) -> None:
        target = self.classes[owner]
        self.notes.append(f'merged "{draft.names[0].spelling}" into "{target.names[0]}"')
        target.kind = target.kind or draft.kind
        for name in draft.names:
            if name.key not in target.keys and not self._is_taken(name, draft):
                target.names.append(name.text)
                target.keys.add(name.key)
                self._new_owners.setdefault(name.key, owner)
        if len(target.names) > MAX_NAMES_PER_CLASS:
            label = target.names[0]
            raise UserError(
                f'Merging gave the class "{label}" more than {MAX_NAMES_PER_CLASS} names; leave some of them out.'
            )

    def _is_taken(self, name: DraftName, draft: Draft) -> bool:
        owner = self._owners.get(name.key)
        if owner is None:
            return False
        holder = self.classes[owner].names[0]
        self.notes.append(f'dropped "{name.spelling}" from "{draft.names[0].text}", as "{holder}" has it already')
        return True


def _drafts(part: Vocabulary) -> list[Draft]:
    return [
        Draft(tuple(DraftName(name, name) for name in entry.names), None if entry.inferred else entry.kind)
        for entry in part.classes
    ]


def _finished(entry: _OpenClass) -> VocabularyClass:
    return VocabularyClass(tuple(entry.names), entry.kind or infer_kind(entry.names), inferred=entry.kind is None)
