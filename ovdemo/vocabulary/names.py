"""The one spelling a typed name is kept in, and the key that decides whether two names are the same."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")

# Persian, Indic scripts and emoji need the joiners inside a word; at its ends they are invisible.
_JOINERS = "\u200c\u200d"
_INVISIBLE = {"Cc", "Cf", "Cs"}


def clean_text(text: str) -> str:
    """The text in Unicode NFC without control and invisible format characters; white space and line breaks stay."""
    removed = {ord(character): None for character in set(text) if not _is_kept(character)}
    return _compose(text.translate(removed))


def normalise_name(name: str) -> str:
    """A name as it is kept: lower case, trimmed, inner white space collapsed, NFC; ``""`` where nothing is left.

    Expects text that :func:`clean_text` has been through. Applying it twice changes nothing.
    """
    lowered = _limit_marks(_compose(name.lower()))
    return " ".join(lowered.split()).strip(" " + _JOINERS)


@lru_cache(maxsize=2**16)  # all names of the presets, which are folded anew at every word that is typed beside them
def name_key(name: str) -> str:
    """What two names share when they are one: the case-folded NFKC form with white space collapsed."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _compose(text: str) -> str:
    return unicodedata.normalize("NFC", _limit_marks(text))


def _limit_marks(text: str) -> str:
    """Cut every run of combining marks after thirty, the limit of UAX #15's stream-safe text.

    Normalising takes time quadratic in the length of a run, which a stranger could use to stall the program.
    """
    marks = "".join(character for character in set(text) if unicodedata.combining(character))
    return re.sub(f"([{marks}]{{30}})[{marks}]+", r"\1", text) if marks else text


def _is_kept(character: str) -> bool:
    return character.isspace() or character in _JOINERS or unicodedata.category(character) not in _INVISIBLE
