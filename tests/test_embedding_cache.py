"""Text embeddings: what is computed, and that nothing is computed twice."""

import hashlib
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovdemo.paths import cache_dir
from ovdemo.vocabulary import (
    BARE,
    VILD_14,
    EmbeddingCache,
    EmbeddingSpace,
    TemplateSet,
    TextEmbedder,
    TextEmbeddings,
    Vocabulary,
    VocabularyClass,
    embedding_cache,
    parse_classes,
)

WIDTH = 8
PETS = parse_classes("cat|kitten, dog, grass|lawn|turf:stuff")
SPACE = EmbeddingSpace("tower", "bare", "digest", WIDTH)


class CountingEncoder:
    """A text tower without weights: a fixed vector a prompt, and a record of what it was asked."""

    width = WIDTH

    def __init__(self, tag: str = "tower") -> None:
        self.tag = tag
        self.prompts: Counter[str] = Counter()
        self.batches: list[int] = []

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        self.prompts.update(prompts)
        self.batches.append(len(prompts))
        return torch.stack([self.vector(prompt) for prompt in prompts])

    def vector(self, prompt: str) -> Tensor:
        digest = hashlib.sha256(f"{self.tag}:{prompt}".encode()).digest()
        return torch.tensor([byte - 127.5 for byte in digest[:WIDTH]])


def embed(encoder: CountingEncoder, cache: EmbeddingCache, vocabulary: Vocabulary = PETS, **options) -> TextEmbeddings:
    return TextEmbedder(encoder, options.pop("templates", VILD_14), cache, **options).embed(vocabulary)


def unit(seed: int, width: int = WIDTH) -> np.ndarray:
    row = np.random.default_rng(seed).normal(size=width)
    return (row / np.linalg.norm(row)).astype(np.float32)


# --- what is computed ---


def test_rows_are_the_normalised_mean_of_normalised_prompts() -> None:
    encoder = CountingEncoder()
    embeddings = embed(encoder, EmbeddingCache(None), batch_names=2)
    assert embeddings.rows.dtype == torch.float32
    for name, row in zip(PETS.names, embeddings.rows, strict=True):
        prompts = [encoder.vector(prompt).numpy() for prompt in VILD_14.fill(name)]
        mean = np.mean([prompt / np.linalg.norm(prompt) for prompt in prompts], axis=0)
        np.testing.assert_allclose(row.numpy(), mean / np.linalg.norm(mean), atol=1e-6)


def test_rows_are_grouped_by_class() -> None:
    embeddings = embed(CountingEncoder(), EmbeddingCache(None))
    assert embeddings.owner.tolist() == [0, 0, 1, 2, 2, 2]
    assert embeddings.owner.dtype == torch.int64
    assert embeddings.num_classes == 3


def test_a_name_of_several_classes_is_encoded_once() -> None:
    classes = (VocabularyClass(("crane", "bird"), "thing"), VocabularyClass(("crane", "crane", "hoist"), "thing"))
    encoder = CountingEncoder()
    embeddings = embed(encoder, EmbeddingCache(None), Vocabulary(classes), templates=BARE)
    assert encoder.prompts == Counter(["crane", "bird", "hoist"])
    assert embeddings.owner.tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(embeddings.rows[0], embeddings.rows[2])
    assert torch.equal(embeddings.rows[0], embeddings.rows[3])


def test_rows_are_the_callers_own() -> None:
    cache = EmbeddingCache(None)
    first = embed(CountingEncoder(), cache)
    expected = first.rows.clone()
    first.rows.zero_()
    assert torch.equal(embed(CountingEncoder(), cache).rows, expected)


@st.composite
def owned_logits(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    values = st.floats(-100, 100, width=32)
    rows = draw(st.lists(st.lists(values, min_size=sum(sizes), max_size=sum(sizes)), min_size=0, max_size=4))
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), sum(sizes)), sizes


@settings(derandomize=True, deadline=None)
@given(owned_logits())
def test_max_over_names(case: tuple[Tensor, list[int]]) -> None:
    logits, sizes = case
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    best = TextEmbeddings(torch.zeros(sum(sizes), WIDTH), owner, len(sizes)).max_over_names(logits)
    assert best.shape == (len(logits), len(sizes))
    for row, logit_row in zip(best, logits, strict=True):
        groups = torch.split(logit_row, sizes)
        assert row.tolist() == [group.max().item() for group in groups]


def test_to_moves_every_tensor() -> None:
    moved = embed(CountingEncoder(), EmbeddingCache(None)).to("meta")
    assert moved.rows.device.type == moved.owner.device.type == "meta"
    assert moved.num_classes == 3


# --- nothing twice ---


def test_a_word_is_encoded_once_ever(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    cache = EmbeddingCache(tmp_path)
    first = embed(encoder, cache)
    assert encoder.prompts == Counter(prompt for name in PETS.names for prompt in VILD_14.fill(name))

    again = CountingEncoder()
    assert torch.equal(embed(again, cache).rows, first.rows)
    assert torch.equal(embed(again, EmbeddingCache(tmp_path)).rows, first.rows)
    assert not again.prompts


def test_only_new_names_are_encoded() -> None:
    cache = EmbeddingCache(None)
    embed(CountingEncoder(), cache, templates=BARE)
    encoder = CountingEncoder()
    embeddings = embed(encoder, cache, parse_classes("turf|moss, zebra, cat"), templates=BARE)
    assert encoder.prompts == Counter(["moss", "zebra"])
    expected = embed(CountingEncoder(), EmbeddingCache(None), parse_classes("turf|moss, zebra, cat"), templates=BARE)
    assert torch.equal(embeddings.rows, expected.rows)


@pytest.mark.parametrize("on_disk", [True, False])
def test_towers_and_template_sets_do_not_mix(tmp_path: Path, on_disk: bool) -> None:
    shared = EmbeddingCache(None)

    def cache() -> EmbeddingCache:
        return EmbeddingCache(tmp_path) if on_disk else shared

    cases = [
        ("tower", VILD_14),
        ("Tower", VILD_14),  # another tag whose readable file name is the same
        ("tower", BARE),
        ("tower", TemplateSet("bare", ("a {}",))),  # same name, other content
    ]
    for tag, templates in cases:
        encoder = CountingEncoder(tag)
        found = embed(encoder, cache(), templates=templates)
        assert encoder.prompts.total() == len(PETS.names) * len(templates.templates)
        assert torch.equal(found.rows, embed(CountingEncoder(tag), EmbeddingCache(None), templates=templates).rows)
    assert len(list(tmp_path.glob("*.sqlite"))) == (len(cases) if on_disk else 0)


def test_batches_and_progress() -> None:
    vocabulary = parse_classes(", ".join(f"n{i}" for i in range(20)))
    encoder = CountingEncoder()
    cache = EmbeddingCache(None)
    steps: list[tuple[int, int]] = []
    embedder = TextEmbedder(encoder, VILD_14, cache)
    embedder.embed(vocabulary, lambda done, total: steps.append((done, total)))
    assert encoder.batches == [126, 126, 28]  # nine names of fourteen prompts fill a batch of 128
    assert steps == [(9, 20), (18, 20), (20, 20)]
    embedder.embed(vocabulary, lambda done, total: steps.append((done, total)))
    assert len(steps) == 3


def test_an_interrupted_run_keeps_what_it_made(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TextEmbedder(CountingEncoder(), BARE, EmbeddingCache(tmp_path), batch_names=4).embed(PETS, stop)
    encoder = CountingEncoder()
    embed(encoder, EmbeddingCache(tmp_path), templates=BARE)
    assert encoder.prompts == Counter(PETS.names[4:])


def test_memory_is_bounded_by_rows() -> None:
    cache = EmbeddingCache(None, memory_rows=2)
    cache.put(SPACE, {"a": unit(1), "b": unit(2)})
    cache.get(SPACE, ["a"])  # now b is the least recently used
    cache.put(SPACE, {"c": unit(3)})
    assert set(cache.get(SPACE, ["a", "b", "c"])) == {"a", "c"}


def test_a_vocabulary_larger_than_the_memory_is_embedded() -> None:
    cache = EmbeddingCache(None, memory_rows=1)
    expected = embed(CountingEncoder(), EmbeddingCache(None))
    assert torch.equal(embed(CountingEncoder(), cache, batch_names=2).rows, expected.rows)


def test_more_names_than_one_query_takes(tmp_path: Path) -> None:
    rows = {f"n{i}": unit(i) for i in range(1201)}
    EmbeddingCache(tmp_path).put(SPACE, rows)
    found = EmbeddingCache(tmp_path).get(SPACE, [*rows, "absent"])
    assert found.keys() == rows.keys()
    assert all(np.array_equal(found[name], rows[name]) for name in rows)


def test_two_threads_encode_each_word_once(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    embedder = TextEmbedder(encoder, BARE, EmbeddingCache(tmp_path), batch_names=5)
    vocabulary = parse_classes(", ".join(f"n{i}" for i in range(60)))
    start = threading.Barrier(2)

    def run() -> Tensor:
        start.wait()
        return embedder.embed(vocabulary).rows

    with ThreadPoolExecutor(2) as pool:
        first, second = (future.result() for future in [pool.submit(run), pool.submit(run)])
    assert torch.equal(first, second)
    assert encoder.prompts == Counter(vocabulary.names)


def test_two_caches_write_to_one_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {f"n{i}": unit(i) for i in range(40)}
    start = threading.Barrier(2)

    def write(names: list[str]) -> None:
        cache = EmbeddingCache(tmp_path)
        start.wait()
        for name in names:
            cache.put(SPACE, {name: rows[name]})

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(write, list(rows)[:25]), pool.submit(write, list(rows)[15:])]:
            future.result()
    found = EmbeddingCache(tmp_path).get(SPACE, rows)
    assert all(np.array_equal(found[name], rows[name]) for name in rows)
    assert not caplog.records


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVDEMO_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("OVDEMO_CACHE")
    assert cache_dir().name == "ovdemo"


# --- a disk that fails ---


def damage_with_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(4096))


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def damage_by_another_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE embeddings")
        connection.execute("CREATE TABLE embeddings (word TEXT)")
    connection.close()


@pytest.mark.parametrize("damage", [damage_with_noise, damage_by_cutting, damage_by_another_table])
def test_a_damaged_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage) -> None:
    rows = {f"n{i}": unit(i) for i in range(200)}
    EmbeddingCache(tmp_path).put(SPACE, rows)
    damage(tmp_path / f"{SPACE.slug}.sqlite")

    cache = EmbeddingCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert cache.get(SPACE, rows) == {}
    assert [record.message.split(" (")[0].endswith("are damaged") for record in caplog.records] == [True]

    cache.put(SPACE, rows)
    assert EmbeddingCache(tmp_path).get(SPACE, rows).keys() == rows.keys()
    assert len(caplog.records) == 1


def test_a_file_damaged_between_reading_and_writing_loses_no_batch(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.put(SPACE, {"a": unit(1)})
    damage_with_noise(tmp_path / f"{SPACE.slug}.sqlite")
    cache.put(SPACE, {"b": unit(2)})
    assert EmbeddingCache(tmp_path).get(SPACE, ["a", "b"]).keys() == {"b"}


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        unit(1).tobytes()[:-1],
        unit(1, WIDTH * 2).tobytes(),
        np.full(WIDTH, np.nan, np.float32).tobytes(),
        np.full(WIDTH, np.inf, np.float32).tobytes(),
        np.zeros(WIDTH, np.float32).tobytes(),
        "text",
        7,
    ],
)
def test_a_damaged_row_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, blob: object) -> None:
    expected = embed(CountingEncoder(), EmbeddingCache(tmp_path), templates=BARE)
    (path,) = tmp_path.glob("*.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE embeddings SET row = ? WHERE name IN ('dog', 'cat')", (blob,))
    connection.close()

    encoder = CountingEncoder()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(embed(encoder, EmbeddingCache(tmp_path), templates=BARE).rows, expected.rows)
    assert encoder.prompts == Counter(["cat", "dog"])
    assert len(caplog.records) == 1

    again = CountingEncoder()
    embed(again, EmbeddingCache(tmp_path), templates=BARE)
    assert not again.prompts


def test_an_unusable_folder_only_ends_the_use_of_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    cache = EmbeddingCache(blocker / "folder")
    encoder = CountingEncoder()
    with caplog.at_level(logging.WARNING):
        embed(encoder, cache, batch_names=1)
        embed(encoder, cache)
    assert set(encoder.prompts.values()) == {1}
    assert len(caplog.records) == 1
    assert "no longer kept" in caplog.text


def test_a_read_only_file_only_ends_the_use_of_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    EmbeddingCache(tmp_path).put(SPACE, {"a": unit(1)})
    connect = sqlite3.connect

    def connect_read_only(path: Path, **options) -> sqlite3.Connection:
        # File permissions do not bind every user that runs tests.
        return connect(f"{path.as_uri()}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", connect_read_only)
    cache = EmbeddingCache(tmp_path)
    assert cache.get(SPACE, ["a"]).keys() == {"a"}
    cache.put(SPACE, {"b": unit(2)})
    cache.put(SPACE, {"c": unit(3)})
    assert cache.get(SPACE, ["a", "b", "c"]).keys() == {"a", "b", "c"}
    assert len(caplog.records) == 1


def test_a_locked_file_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "_LOCK_TIMEOUT_S", 0.01)
    EmbeddingCache(tmp_path).put(SPACE, {"a": unit(1)})
    cache = EmbeddingCache(tmp_path)
    other = sqlite3.connect(tmp_path / f"{SPACE.slug}.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert cache.get(SPACE, ["a"]) == {}
    cache.put(SPACE, {"b": unit(2)})
    other.execute("ROLLBACK")
    other.close()
    assert cache.get(SPACE, ["a"]).keys() == {"a"}
    assert not caplog.records


def test_a_file_stops_growing_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EmbeddingCache(tmp_path).put(SPACE, {"a": unit(1)})
    monkeypatch.setattr(embedding_cache, "MAX_FILE_BYTES", 4096)
    EmbeddingCache(tmp_path).put(SPACE, {"b": unit(2)})
    assert EmbeddingCache(tmp_path).get(SPACE, ["a", "b"]).keys() == {"a"}


@pytest.mark.parametrize("row", [np.zeros(WIDTH), np.full(WIDTH, np.nan), unit(1, WIDTH + 1)])
def test_only_unit_rows_are_kept(tmp_path: Path, row: np.ndarray) -> None:
    cache = EmbeddingCache(tmp_path)
    with pytest.raises(ValueError, match="not unit vectors of width 8"):
        cache.put(SPACE, {"good": unit(1), "bad": row})
    assert cache.get(SPACE, ["good", "bad"]) == {}


def test_cached_rows_cannot_be_changed() -> None:
    cache = EmbeddingCache(None)
    cache.put(SPACE, {"a": unit(1)})
    with pytest.raises(ValueError, match="read-only"):
        cache.get(SPACE, ["a"])["a"][0] = 0
