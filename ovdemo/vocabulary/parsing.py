"""Free text to a vocabulary, and back.

    classes   cat, dog; grass               commas, semicolons and new lines separate classes
    synonyms  cat|kitten|kitty              the first name is the label
    kinds     grass:stuff, bush : thing     at the end of a class; otherwise inferred from the names
    quotes    "salt, pepper"|cruet:thing    protect separators, bars and colons; "" inside stands for one quote

A quote opens where a word begins, so the inches in ``5" pipe`` are ordinary characters, and closes on its own line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ovdemo.errors import UserError
from ovdemo.vocabulary.classes import Kind, Vocabulary, VocabularyClass
from ovdemo.vocabulary.folding import MAX_CLASSES, MAX_NAMES_PER_CLASS, Draft, DraftName, fold
from ovdemo.vocabulary.names import LINE_BREAK, clean_text, name_key, normalise_name

MAX_NAME_CHARACTERS = 80
MAX_TYPED_CLASSES = 2_000
MAX_TYPED_CHARACTERS = 200_000
MAX_FILE_BYTES = 2 * 2**20

_EXAMPLE = "for example: cat|kitten, dog, grass:stuff"
_KIND = re.compile(r":\s*(thing|stuff)\s*\Z", re.IGNORECASE)
_NEEDS_QUOTES = re.compile(r'[,;|:"“”„]|\A#')
# The quantifiers are possessive: a doubled quote must never be taken apart to close an unclosed name.
_TOKEN = re.compile(
    r"""
    (?P<separator> [,;] ) | (?P<bar> \| )
    | (?<! [^\s,;|] ) (?: " (?P<straight> (?: [^"] | "" )*+ ) " | [“”„] (?P<curly> (?: [^“”] | [“”]{2} )*+ ) [“”] )
    | (?<! [^\s,;|] ) (?P<unclosed> ["“”„] )
    | (?P<plain> [^,;|"“”„]+ | ["“”„] )
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Piece:
    """A stretch of a name, whether quotes protected it, and where in its line it stands, quotes included."""

    text: str
    quoted: bool
    start: int
    end: int


@dataclass(frozen=True)
class _Line:
    """A line of cleaned text and what a message about it begins with."""

    text: str
    place: str

    def error(self, sentence: str) -> UserError:
        return UserError(f"{self.place}: {sentence}" if self.place else sentence[0].upper() + sentence[1:])


def parse_classes(text: str) -> Vocabulary:
    """Read what a person typed; the grammar is at the top of this module.

    Names come out in Unicode NFC, lower case, trimmed, with single blanks and without control characters; empty ones
    are dropped. A name that comes up twice is folded as :func:`ovdemo.vocabulary.folding.combine` says, every class
    being a part of its own, and leaves a note; so does a colon that does not set a kind.

    Raises:
        UserError: no class, a quote that is never closed, a name of more than 80 characters, more than 200 names in a
            class, more than 2,000 classes, or more than 200,000 characters in all.
    """
    vocabulary = _parse(_typed_lines(text), MAX_TYPED_CLASSES)
    if not vocabulary.classes:
        raise UserError(f"The vocabulary is empty; type at least one class, {_EXAMPLE}.")
    return vocabulary


def read_vocabulary_file(path: Path) -> Vocabulary:
    """Read a UTF-8 text file of classes: the syntax of :func:`parse_classes`, and lines that begin with ``#`` skipped.

    Raises:
        UserError: the file cannot be read, is larger than 2 MiB or not UTF-8, holds no class or more than 25,000, or
            breaks the grammar; the sentence names the file and, where one is to blame, the line.
    """
    lines = LINE_BREAK.split(clean_text(_read_text(path)))
    numbered = (_Line(line, f"{path.name}, line {number}") for number, line in enumerate(lines, start=1))
    vocabulary = _parse((line for line in numbered if not line.text.lstrip().startswith("#")), MAX_CLASSES)
    if not vocabulary.classes:
        raise UserError(f"{path.name} holds no class; write one or several a line, {_EXAMPLE}.")
    return vocabulary


def format_classes(vocabulary: Vocabulary) -> str:
    """The text that :func:`parse_classes` reads as the same classes, every kind written out.

    The same means equal for names in the spelling that :func:`parse_classes` keeps, no two of them alike; the verbatim
    names of presets come back in lower case and folded. Notes are left out.
    """
    return ", ".join(_format_class(entry) for entry in vocabulary.classes)


def set_kind(text: str, label: str, kind: Kind) -> str:
    """The typed text with ``:thing`` or ``:stuff`` at the class of that label, and all else as it stands.

    A label that the text does not have, such as a preset's, is added at the end: combined with the preset, the typed
    class sets the kind. Line breaks come back as ``\\n``, and invisible characters do not come back.

    Raises:
        UserError: the text up to that class breaks the grammar.
    """
    key = name_key(label)
    lines = _typed_lines(text)
    edited = [line.text for line in lines]
    for number, line in enumerate(lines):
        for typed in _split_line(line):
            names, _ = _split_class(typed)
            # The first class that holds the name owns it (see folding), and the first kind that is set wins.
            if any(_read_name(pieces, line).key == key for pieces in names):
                _, end = _span(line, names[-1])
                old_end = len(line.text[: list(filter(_is_filled, typed))[-1][-1].end].rstrip())
                edited[number] = f"{line.text[:end]}:{kind}{line.text[old_end:]}"
                return "\n".join(edited)
    return add_classes(text, f"{_quoted(label)}:{kind}")


def replace_name(text: str, name: str, replacement: str) -> str:
    """The typed text with another name wherever it has that one, whatever its case; kinds and all else stay.

    Line breaks come back as ``\\n``, and invisible characters do not come back.

    Raises:
        UserError: the text breaks the grammar.
    """
    key = name_key(name)
    edited = []
    for line in _typed_lines(text):
        written = [pieces for typed in _split_line(line) for pieces in _split_class(typed)[0]]
        spans = [_span(line, pieces) for pieces in written if _read_name(pieces, line).key == key]
        result = line.text
        for start, end in reversed(spans):
            result = f"{result[:start]}{_quoted(replacement)}{result[end:]}"
        edited.append(result)
    return "\n".join(edited)


def add_classes(text: str, addition: str) -> str:
    """The typed text with more classes after it."""
    before = text.rstrip(" \t\r\n,;")
    return f"{before}, {addition}" if before else addition


def _typed_lines(text: str) -> list[_Line]:
    if len(text) > MAX_TYPED_CHARACTERS:
        raise UserError(
            f"The vocabulary has {len(text):,} characters, and {MAX_TYPED_CHARACTERS:,} can be typed; shorten it."
        )
    lines = LINE_BREAK.split(clean_text(text))
    return [_Line(line, f"Line {number}" if len(lines) > 1 else "") for number, line in enumerate(lines, start=1)]


def _format_class(entry: VocabularyClass) -> str:
    return f"{'|'.join(map(_quoted, entry.names))}:{entry.kind}"


def _quoted(name: str) -> str:
    if not _NEEDS_QUOTES.search(name):
        return name
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path.name} cannot be read ({reason}); check the path.") from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{path.name} is larger than {MAX_FILE_BYTES // 2**20} MiB; leave out some classes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path.name}, line {line}: this is not UTF-8 text; save the file as UTF-8.") from error


def _parse(lines: Iterable[_Line], limit: int) -> Vocabulary:
    """The folded vocabulary, with the notes of reading before those of folding."""
    notes: list[str] = []
    drafts: list[Draft] = []
    for line in lines:
        for names in _split_line(line):
            draft = _read_class(names, line, notes)
            if draft is not None:
                drafts.append(draft)
            if len(drafts) > limit:
                raise line.error(
                    f"here the vocabulary passes {limit:,} classes, the most there can be; leave some out."
                )
    folded = fold([draft] for draft in drafts)
    return Vocabulary(folded.classes, tuple(notes) + folded.notes)


def _split_line(line: _Line) -> Iterator[list[list[_Piece]]]:
    """Cut a line into classes, each a list of names in pieces; empty ones are still there."""
    names: list[list[_Piece]] = [[]]
    for token in _TOKEN.finditer(line.text):
        match token.lastgroup:
            case "separator":
                yield names
                names = [[]]
            case "bar":
                names.append([])
            case "straight":
                names[-1].append(_Piece(token["straight"].replace('""', '"'), True, *token.span()))
            case "curly":
                names[-1].append(_Piece(re.sub("([“”])[“”]", r"\1", token["curly"]), True, *token.span()))
            case "plain":
                names[-1].append(_Piece(token["plain"], False, *token.span()))
            case _:
                raise line.error(
                    f"the quote at character {token.start() + 1} ({line.text[token.start() :][:20]}) "
                    "is never closed; close it on the same line or take it away."
                )
    yield names


def _read_class(names: list[list[_Piece]], line: _Line, notes: list[str]) -> Draft | None:
    """One class from its names in pieces, or ``None`` where no name is left."""
    names, kind = _split_class(names)
    kept: dict[str, DraftName] = {}
    for pieces in names:
        name = _read_name(pieces, line)
        if not name.text:
            continue
        if any(":" in piece.text for piece in pieces if not piece.quoted):
            notes.append(f'kept the colon of "{name.text}": only :thing or :stuff at the end of a class sets a kind')
        if kept.setdefault(name.key, name) is not name:
            notes.append(f'dropped "{name.spelling}" from "{next(iter(kept.values())).text}", which has it already')
    if len(kept) > MAX_NAMES_PER_CLASS:
        label = next(iter(kept.values())).text
        raise line.error(
            f'the class "{label}" has {len(kept)} names, and {MAX_NAMES_PER_CLASS} are possible; leave some out.'
        )
    return Draft(tuple(kept.values()), kind) if kept else None


def _split_class(names: list[list[_Piece]]) -> tuple[list[list[_Piece]], Kind | None]:
    """The names of a class that are not blank, the last one without the kind, and the kind."""
    filled = list(filter(_is_filled, names))
    if not filled:
        return [], None
    last, kind = _split_kind(filled[-1])
    return [*filled[:-1], last], kind


def _is_filled(pieces: list[_Piece]) -> bool:
    return any(piece.text.strip() for piece in pieces)


def _span(line: _Line, pieces: list[_Piece]) -> tuple[int, int]:
    """Where a name begins and ends in its line, without the white space around it."""
    start, end = pieces[0].start, pieces[-1].end
    written = line.text[start:end]
    return end - len(written.lstrip()), start + len(written.rstrip())


def _split_kind(pieces: list[_Piece]) -> tuple[list[_Piece], Kind | None]:
    """Take ``:thing`` or ``:stuff`` off the end of a class's last name."""
    last = pieces[-1]
    found = None if last.quoted else _KIND.search(last.text)
    if found is None:
        return pieces, None
    rest = _Piece(last.text[: found.start()], False, last.start, last.start + found.start())
    return [*pieces[:-1], rest], cast(Kind, found[1].lower())


def _read_name(pieces: list[_Piece], line: _Line) -> DraftName:
    spelling = " ".join("".join(piece.text for piece in pieces).split())
    text = normalise_name(spelling)
    if len(text) > MAX_NAME_CHARACTERS:
        raise line.error(
            f'the name "{text[:20]}…" has {len(text)} characters, and {MAX_NAME_CHARACTERS} are possible; shorten it.'
        )
    return DraftName(text, spelling)
