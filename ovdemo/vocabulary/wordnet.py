"""WordNet's nouns: what a word may mean, and which kinds of thing it is one of.

The project ships WordNet 3.0 (Fellbaum, 1998; nouns only) as one archive, in the layout of NLTK's corpus. It is
unpacked once to the cache folder and read through NLTK. NLTK's reader shares one open file among all its synsets and
fills its tables without a lock, so that everything here takes turns; what comes out are plain values.
"""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovdemo import paths
from ovdemo.errors import UserError

ARCHIVE = paths.ASSETS / "wordnet" / "wordnet.zip"

_CORPUS = Path("corpora") / "wordnet"
_MAX_WORD_CHARACTERS = 80

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Synset:
    """One meaning: the words that share it, and its place among all meanings.

    Attributes:
        name: WordNet's name for people, its first word and the number of that word's sense, such as ``"dog.n.01"``.
        offset: place in the file of nouns; ImageNet's id is ``f"n{offset:08d}"``.
        words: its words in WordNet's order, blanks for underscores.
        gloss: the definition, without examples.
        lineage: names of the synsets from ``"entity.n.01"`` down to this one, both included. Where a noun is a kind of
            several things, each step up takes the one with the longest lineage, the lowest offset among equals.
    """

    name: str
    offset: int
    words: tuple[str, ...]
    gloss: str
    lineage: tuple[str, ...]


class WordNet:
    """The nouns, behind one lock. Safe to use from many threads."""

    def __init__(self, reader: Any) -> None:
        """Take NLTK's corpus reader."""
        self._reader = reader
        self._lock = threading.RLock()
        self._synsets: dict[int, Synset] = {}
        self._by_name: dict[str, Synset] = {}

    def senses(self, word: str) -> tuple[Synset, ...]:
        """What a word may mean as a noun, the most frequent first; empty where WordNet does not know it.

        Blanks and hyphens are interchangeable or left out (``"hot-dog"``, ``"hot dog"``, ``"hotdog"``), and inflected
        words lead to their base forms.
        """
        if len(word) > _MAX_WORD_CHARACTERS:
            return ()
        plain = " ".join(word.split())
        spellings = (plain, plain.replace("-", " "), plain.replace(" ", "-"), re.sub("[ -]", "", plain))
        with self._lock:
            for spelling in dict.fromkeys(text.replace(" ", "_") for text in spellings if text):
                found = dict.fromkeys(self._reader.synsets(spelling, pos="n"))
                if found:
                    return tuple(map(self._value, found))
        return ()

    def synset(self, name: str) -> Synset:
        """The synset of a name such as ``"dog.n.01"``.

        Raises:
            UserError: there is no noun of that name.
        """
        if re.fullmatch(r"[^ ]+\.n\.[0-9]{2}", name):
            with self._lock:
                if name not in self._by_name:  # its word's senses are what it may be
                    for found in self._reader.synsets(name.rsplit(".", 2)[0], pos="n"):
                        self._value(found)
                if name in self._by_name:
                    return self._by_name[name]
        raise UserError(f'WordNet has no noun "{name[:80]}"; name one by its first word and sense, such as "dog.n.01".')

    def at_offset(self, offset: int) -> Synset:
        """The synset at an offset that is known to be one, such as those of ImageNet's ids."""
        with self._lock:
            known = self._synsets.get(offset)
            return known or self._value(self._reader.synset_from_pos_and_offset("n", offset))

    def kinds_of(self, synset: Synset) -> tuple[Synset, ...]:
        """The kinds that WordNet lists directly under a synset, by offset; instances, such as cities, are none."""
        with self._lock:
            found = self._reader.synset_from_pos_and_offset("n", synset.offset).hyponyms()
            return tuple(sorted(map(self._value, found), key=lambda kind: kind.offset))

    def frequency(self, synset: Synset) -> int:
        """How often its words were met in this sense in WordNet's tagged texts."""
        with self._lock:
            lemmas = self._reader.synset_from_pos_and_offset("n", synset.offset).lemmas()
            return sum(lemma.count() for lemma in lemmas)

    def _value(self, found: Any) -> Synset:
        """NLTK's synset as a value; its hypernyms, at most twenty deep, become values first."""
        offset: int = found.offset()
        if offset not in self._synsets:
            above = [self._value(synset) for synset in found.hypernyms() or found.instance_hypernyms()]
            lineage = min(above, key=lambda up: (-len(up.lineage), up.offset)).lineage if above else ()
            words = tuple(word.replace("_", " ") for word in found.lemma_names())
            value = Synset(found.name(), offset, words, found.definition(), (*lineage, found.name()))
            self._synsets[offset] = self._by_name[value.name] = value
        return self._synsets[offset]


_loading = threading.Lock()
_loaded: list[WordNet] = []


def load_wordnet() -> WordNet:
    """The nouns, loaded at the first call (about two seconds, once a process); others wait for it meanwhile.

    Raises:
        UserError: the archive is missing or damaged, or cannot be unpacked; the next call tries again.
    """
    with _loading:
        if not _loaded:
            _loaded.append(WordNet(_reader(_unpacked(ARCHIVE))))
        return _loaded[0]


def nouns_file() -> Path:
    """WordNet's own file of nouns, one synset a line; its manual page wndb(5) describes it.

    Raises:
        UserError: as :func:`load_wordnet`.
    """
    return _unpacked(ARCHIVE) / _CORPUS / "data.noun"


def start_loading(then: Callable[[], object] | None = None) -> threading.Thread:
    """Load in the background, so that the first question need not wait; what goes wrong is logged.

    Args:
        then: called afterwards in the same thread, for what is built from the nouns.
    """

    def load() -> None:
        try:
            load_wordnet()
            if then is not None:
                then()
        except UserError as error:
            log.warning("%s", error)

    thread = threading.Thread(target=load, name="wordnet", daemon=True)
    thread.start()
    return thread


def _reader(root: Path) -> Any:
    """NLTK's reader of the folder that :func:`_unpacked` gives."""
    import nltk.data  # noqa: PLC0415 - NLTK takes a second to import, which belongs to the loading
    from nltk.corpus.reader.wordnet import WordNetCorpusReader, WordNetError  # noqa: PLC0415

    class Nouns(WordNetCorpusReader):
        """Without the map to WordNets of other languages, which NLTK would make at once, in three seconds."""

        def map_wn(self, version: str = "wordnet") -> None:
            """No map."""

    if str(root) not in nltk.data.path:
        nltk.data.path.append(str(root))  # NLTK opens no file elsewhere
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The multilingual functions")
            reader = Nouns(str(root / _CORPUS), None)
            reader.synset("entity.n.01")
    except (WordNetError, AssertionError, ValueError, LookupError, StopIteration, OSError) as error:
        raise UserError(
            f"WordNet's files in {root} cannot be read ({error}); delete that folder and start again."
        ) from error
    return reader


def _unpacked(archive: Path) -> Path:
    """The folder in the cache that holds the archive's files, below ``corpora``; unpacked unless it is whole already.

    Processes may do this at once: each unpacks beside the target and renames, and the first to rename wins.
    """
    try:
        root = paths.cache_dir() / f"wordnet-{hashlib.sha256(archive.read_bytes()).hexdigest()[:16]}"
        with zipfile.ZipFile(archive) as packed:
            if not _is_whole(root, packed):
                _unpack(packed, root)
        return root
    except FileNotFoundError as error:
        raise UserError(f"WordNet is missing ({archive} is not there); get the project's files again.") from error
    except (zipfile.BadZipFile, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise UserError(f"{archive} is damaged ({error}); get the project's files again.") from error
    except OSError as error:
        folder = paths.cache_dir()
        raise UserError(
            f"WordNet cannot be unpacked to {folder} ({error.strerror or error}); "
            "name a folder that can be written in OVDEMO_CACHE."
        ) from error


def _is_whole(root: Path, packed: zipfile.ZipFile) -> bool:
    """Whether every file of the archive is there in its length."""
    files = ((root / "corpora" / entry.filename, entry.file_size) for entry in packed.infolist())
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


def _unpack(packed: zipfile.ZipFile, root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="wordnet-", dir=root.parent))
    try:
        packed.extractall(made / "new" / "corpora")
        for path in (made / "new").rglob("*"):  # NLTK refuses files that others may write, whatever the umask
            path.chmod(0o755 if path.is_dir() else 0o644)
        (made / "new").chmod(0o755)
        while not _is_whole(root, packed):
            if root.exists():
                os.rename(root, made / f"damaged-{time.monotonic_ns()}")
            try:
                os.rename(made / "new", root)
            except OSError:
                if not root.exists():
                    raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
