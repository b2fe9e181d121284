"""Write the nouns of this folder: ``python assets/wordnet/build.py WORDNET_DIR``.

The argument is a folder with the database files of WordNet 3.0, for example what Debian's packages wordnet-base and
wordnet-sense-index install: ``data.noun``, ``index.noun``, ``noun.exc``, ``index.sense`` and ``cntlist.rev``. The
output is ``wordnet.zip`` in the layout of NLTK's corpus of that name, and ``LICENSE``, the notice that WordNet's own
files begin with. The other parts of speech, which NLTK's reader opens too, are there without entries. The output is
the same, byte for byte, for the same input.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
OTHER_PARTS = ("adj", "adv", "verb")
COMPRESSION = zipfile.ZIP_LZMA
EPOCH = (1980, 1, 1, 0, 0, 0)

# lexnames(5WN), which the database files leave out: file number, lexicographer file, part of speech.
LEXICOGRAPHER_FILES = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute"),
    *("noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group"),
    *("noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant"),
    *("noun.possession", "noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state"),
    *("noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition", "verb.communication"),
    *("verb.competition", "verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion"),
    *("verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl"),
)
PARTS_OF_SPEECH = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def lexnames() -> str:
    """The table of lexicographer files as ``lexnames`` holds it."""
    rows = (
        f"{number:02d}\t{name}\t{PARTS_OF_SPEECH[name.partition('.')[0]]}\n"
        for number, name in enumerate(LEXICOGRAPHER_FILES)
    )
    return "".join(rows)


def header(database_file: str) -> str:
    """The numbered lines, each beginning with a blank, that open every database file: the licence."""
    return "".join(line for line in database_file.splitlines(keepends=True) if line.startswith("  "))


def notice(database_file: str) -> str:
    """The licence without its line numbers."""
    return "".join(
        re.sub(r"^ *\d+ ?", "", line).rstrip() + "\n" for line in header(database_file).splitlines(keepends=True)
    )


def nouns(sense_keys: str) -> str:
    """The lines of a file of sense keys, such as ``dog%1:05:00::``, that are nouns'."""
    return "".join(line for line in sense_keys.splitlines(keepends=True) if re.match(r"[^ %]+%1:", line))


def main() -> None:
    """Read the database files, write the archive and the notice."""
    parser = argparse.ArgumentParser(description="Build the WordNet files of this folder.")
    parser.add_argument("wordnet_dir", type=Path, help="folder with WordNet 3.0's data.noun and its companions")
    source = parser.parse_args().wordnet_dir
    names = ("data.noun", "index.noun", "noun.exc", "index.sense", "cntlist.rev")
    texts = {name: (source / name).read_bytes().decode("ascii") for name in names}
    files = {name: nouns(text) if "%" in text[:200] else text for name, text in texts.items()}
    empty = header(texts["data.noun"])
    files |= {f"{kind}.{part}": empty for kind in ("data", "index") for part in OTHER_PARTS}
    files |= {f"{part}.exc": "" for part in OTHER_PARTS}
    files |= {"lexnames": lexnames(), "LICENSE": notice(texts["data.noun"])}

    with zipfile.ZipFile(FOLDER / "wordnet.zip", "w", COMPRESSION) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"wordnet/{name}", EPOCH)
            entry.compress_type = COMPRESSION
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name].encode("ascii"))
    (FOLDER / "LICENSE").write_text(files["LICENSE"], encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
