"""WordNet's nouns as the project ships them."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from ovdemo.errors import UserError
from ovdemo.paths import ASSETS, cache_dir
from ovdemo.vocabulary import wordnet as module
from ovdemo.vocabulary.wordnet import ARCHIVE, WordNet, load_wordnet, start_loading


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the start of the program: nothing loaded, nothing unpacked."""
    monkeypatch.setattr(module, "_loaded", [])


@pytest.fixture
def small(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An archive of one file, in the place of the project's."""
    path = tmp_path / "wordnet.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("wordnet/lexnames", "00\tadj.all\t3\n")
    monkeypatch.setattr(module, "ARCHIVE", path)
    return path


@pytest.fixture(scope="module")
def nouns() -> WordNet:
    return load_wordnet()


def test_a_dog_is_an_animal(nouns: WordNet) -> None:
    dog = nouns.synset("dog.n.01")
    assert dog.offset == 2084071
    assert nouns.at_offset(2084071) is dog
    assert dog.words == ("dog", "domestic dog", "Canis familiaris")
    assert dog.gloss.startswith("a member of the genus Canis")
    assert dog.lineage[0] == "entity.n.01"
    assert dog.lineage[-1] == "dog.n.01"
    # WordNet lists dogs under domestic animals too; the longer lineage is through the canines.
    assert [name for name in dog.lineage if name in {"animal.n.01", "mammal.n.01", "canine.n.02"}] == [
        "animal.n.01",
        "mammal.n.01",
        "canine.n.02",
    ]
    assert all(nouns.synset(name).lineage == dog.lineage[: i + 1] for i, name in enumerate(dog.lineage))


def test_senses_are_the_most_frequent_first_and_forms_of_a_word_are_found(nouns: WordNet) -> None:
    mouse = [sense.name for sense in nouns.senses("mouse")]
    assert mouse[0] == "mouse.n.01"
    assert "mouse.n.04" in mouse  # the one with a button
    assert nouns.senses("mice")[0].name == "mouse.n.01"
    assert nouns.senses("Cell  Phone")[0].name == "cellular_telephone.n.01"
    assert nouns.senses("washing-machine") == nouns.senses("washing machine") != ()
    assert nouns.senses("blorp") == nouns.senses("") == nouns.senses("  ") == nouns.senses("x" * 10_000) == ()
    assert nouns.frequency(nouns.synset("animal.n.01")) > nouns.frequency(nouns.synset("chordate.n.01")) == 0


def test_kinds_are_listed_and_instances_are_not(nouns: WordNet) -> None:
    kinds = [kind.name for kind in nouns.kinds_of(nouns.synset("dog.n.01"))]
    assert {"puppy.n.01", "poodle.n.01", "hunting_dog.n.01"} <= set(kinds)
    paris = nouns.senses("paris")[0]
    assert paris.lineage[:-1] == nouns.synset("national_capital.n.01").lineage
    assert "paris.n.01" not in {kind.name for kind in nouns.kinds_of(nouns.synset("national_capital.n.01"))}


@pytest.mark.parametrize("name", ["", "dog", "dog.n.99", "dog.n.00", "run.v.01", "dog.n.1", "../dog.n.01", "dogs.n.01"])
def test_a_synset_that_does_not_exist_is_a_sentence(nouns: WordNet, name: str) -> None:
    with pytest.raises(UserError, match="WordNet has no noun"):
        nouns.synset(name)


def test_two_threads_load_once_and_read_the_same(fresh: None) -> None:
    """Both begin before anything is unpacked, and then read different words through the one open file."""
    barrier = threading.Barrier(2)
    words = ["dog", "cat", "horse", "table", "chair", "car", "tree", "house", "river", "cloud"] * 3
    seen: list[tuple[int, list[str]]] = []

    def ask(order: int) -> None:
        barrier.wait()
        nouns = load_wordnet()
        found = {word: nouns.senses(word)[0].name for word in words[::order]}
        seen.append((id(nouns), [found[word] for word in sorted(found)]))

    threads = [threading.Thread(target=ask, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_it_loads_in_the_background_and_what_follows_runs_there(fresh: None) -> None:
    threads: list[threading.Thread] = []
    thread = start_loading(lambda: threads.append(threading.current_thread()))
    thread.join()
    assert threads == [thread]
    assert len(module._loaded) == 1


def test_a_missing_archive_is_a_sentence_and_does_not_stop_the_start(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ARCHIVE", tmp_path / "nowhere.zip")
    with pytest.raises(UserError, match="WordNet is missing"):
        load_wordnet()
    start_loading().join()
    assert "WordNet is missing" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", None])
def test_a_damaged_archive_is_a_sentence(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: bytes | None
) -> None:
    path = tmp_path / "wordnet.zip"
    data = bytearray(ARCHIVE.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(bytes(data) if damage is None else damage)
    monkeypatch.setattr(module, "ARCHIVE", path)
    with pytest.raises(UserError, match="is damaged"):
        load_wordnet()
    assert not [path for path in cache_dir().glob("*") if path.is_dir()]


def test_files_that_nltk_cannot_read_are_a_sentence(small: Path) -> None:
    with pytest.raises(UserError, match="delete that folder"):
        load_wordnet()


def test_an_incomplete_folder_is_unpacked_again(small: Path) -> None:
    root = module._unpacked(small)
    file = root / "corpora" / "wordnet" / "lexnames"
    whole = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o644
    file.write_bytes(b"")
    assert module._unpacked(small) == root
    assert file.read_bytes() == whole
    file.unlink()
    module._unpacked(small)
    assert file.read_bytes() == whole
    assert list(cache_dir().iterdir()) == [root]


def test_a_cache_that_cannot_be_written_is_a_sentence(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("OVDEMO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="OVDEMO_CACHE"):
        load_wordnet()


def test_processes_may_unpack_at_once(small: Path) -> None:
    context = multiprocessing.get_context("fork")  # a fresh interpreter would spend its time on imports
    together = context.Barrier(4)
    roots = context.Queue()

    def unpack() -> None:
        together.wait()
        roots.put(module._unpacked(small))

    processes = [context.Process(target=unpack) for _ in range(4)]
    for process in processes:
        process.start()
    found = {roots.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == set(cache_dir().iterdir())
    assert len(found) == 1


def test_the_archive_keeps_the_licence_and_nltks_layout() -> None:
    notice = (ASSETS / "wordnet" / "LICENSE").read_text(encoding="ascii")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in notice
    with zipfile.ZipFile(ARCHIVE) as archive:
        assert archive.read("wordnet/LICENSE").decode() == notice
        names = set(archive.namelist())
        kinds = ("noun", "verb", "adj", "adv")
        assert {f"wordnet/{file}.{kind}" for file in ("data", "index") for kind in kinds} <= names
        assert {"wordnet/lexnames", "wordnet/index.sense", "wordnet/cntlist.rev"} <= names
        assert all(entry.date_time == (1980, 1, 1, 0, 0, 0) for entry in archive.infolist())


def test_the_archive_is_rebuilt_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its own files as the source: what the build script keeps, it keeps again."""
    source = tmp_path / "dict"
    with zipfile.ZipFile(ARCHIVE) as archive:
        for name in ("data.noun", "index.noun", "noun.exc", "index.sense", "cntlist.rev"):
            source.mkdir(exist_ok=True)
            (source / name).write_bytes(archive.read(f"wordnet/{name}"))
        first = {entry.filename: entry.CRC for entry in archive.infolist()}
    monkeypatch.setattr(sys, "argv", ["build.py", str(source)])
    scope: dict[str, object] = {"__name__": "build", "__file__": str(tmp_path / "build.py")}
    exec(compile((ASSETS / "wordnet" / "build.py").read_text(encoding="utf-8"), "build.py", "exec"), scope)
    scope["COMPRESSION"] = zipfile.ZIP_STORED  # packing well takes half a minute and proves nothing
    scope["main"]()  # type: ignore[operator]
    with zipfile.ZipFile(tmp_path / "wordnet.zip") as archive:
        assert {entry.filename: entry.CRC for entry in archive.infolist()} == first
