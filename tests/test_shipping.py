"""The files that travel with the project: how they are written, found, read and refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import ovdemo
from ovdemo import UserError, paths
from ovdemo.__main__ import _parser, main
from ovdemo.checkpoints import read_metadata, read_tensors, save_safetensors
from ovdemo.default_model import EMBEDDED_MODEL, chosen_model
from ovdemo.loading import load_system, random_network
from ovdemo.systems import registry
from ovdemo.systems.registry import EMBEDDED, VARIANTS, EmbeddedFiles, Variant
from ovdemo.training import shipping
from ovdemo.training.shipping import write_text, write_weights
from ovdemo.vocabulary import (
    BARE,
    VILD_14,
    EmbeddingCache,
    EmbeddingSpace,
    ShippedRows,
    TextEmbedder,
    Vocabulary,
    VocabularyClass,
    load_preset,
    packed,
    parse_classes,
    preset_names,
)
from test_embedding_cache import SPACE, WIDTH, CountingEncoder, unit
from tiny import tiny_variant

NAMES = ["cat", "chaise longue", "città"]
MEGABYTES = 80  # for all embedded files together


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the project's checkpoints."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr(paths, "CHECKPOINTS", folder)
    return folder


@pytest.fixture
def embedded(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Variant:
    """A tiny variant in the place of the embedded one, its weights shipped."""
    files = EmbeddedFiles("tiny.safetensors", "tiny-text.safetensors")
    variant = dataclasses.replace(tiny_variant(), name=EMBEDDED_MODEL, trained=None, authors_link=None, embedded=files)
    monkeypatch.setitem(registry.VARIANTS, variant.name, variant)
    write_weights(random_network(variant, 7).state_dict(), NAMES, {"made": "today"}, shelf / files.weights)
    return variant


# --- the choice of a model ---


def test_auto_is_the_embedded_model_unless_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVDEMO_MODEL", raising=False)
    assert chosen_model("auto") == EMBEDDED_MODEL
    assert chosen_model("fcclip-rn50") == "fcclip-rn50"
    monkeypatch.setenv("OVDEMO_MODEL", "fcclip-rn101")
    assert chosen_model("auto") == "fcclip-rn101"
    assert chosen_model("fcclip-rn50") == "fcclip-rn50"
    assert _parser().parse_args(["bench"]).model == "fcclip-rn101"
    with pytest.raises(UserError, match=r"fcclip-rn101 are not on the Hub"):
        ovdemo.load(device="cpu")
    for nothing in ("", " ", "auto"):
        monkeypatch.setenv("OVDEMO_MODEL", nothing)
        assert chosen_model("auto") == EMBEDDED_MODEL
    for command in (["segment", "x.jpg"], ["bench"], ["evaluate", "--data", "x"], ["bench", "--model", "auto"]):
        assert _parser().parse_args(command).model == EMBEDDED_MODEL


# --- weights ---


def test_matrices_are_halved_and_vectors_kept(embedded: Variant, shelf: Path) -> None:
    tensors = random_network(embedded, 7).state_dict()
    stored = read_tensors(shelf / "tiny.safetensors")
    assert stored.keys() == tensors.keys()
    for name, tensor in stored.items():
        assert tensor.dtype == (torch.float16 if tensor.ndim > 1 else torch.float32)
        torch.testing.assert_close(tensor.float(), tensors[name], atol=1e-6, rtol=1e-3)
    assert stored["backbone.clip_model.logit_scale"] == tensors["backbone.clip_model.logit_scale"]
    facts = read_metadata(shelf / "tiny.safetensors")
    assert json.loads(facts.pop("training_names")) == NAMES
    assert facts == {"made": "today"}


def test_the_embedded_model_loads_by_default(embedded: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("OVDEMO_MODEL", raising=False)
    system = load_system("auto", device="cpu")
    assert system.training_names == frozenset(NAMES)
    expected = random_network(embedded, 7).state_dict()
    for name, tensor in system.network.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-3)
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ovdemo.load(device="cpu").analyse(photo).segment("cat, dog")


def test_weights_from_another_place(embedded: Variant, shelf: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.safetensors"
    write_weights(random_network(embedded, 8).state_dict(), ["zebra"], {}, other)
    assert load_system(EMBEDDED_MODEL, checkpoint=other, device="cpu").training_names == {"zebra"}
    torch.save(random_network(embedded, 8).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"mine\.pth does not say which names"):
        load_system(EMBEDDED_MODEL, checkpoint=tmp_path / "mine.pth", device="cpu")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (Path.unlink, "are missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "are damaged"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "are damaged"),
        (lambda path: save_file({"void_embedding.weight": torch.zeros(1, 32)}, path), "are damaged"),
        (lambda path: save_safetensors(read_tensors(path), path, {}), "are damaged"),
        (lambda path: save_safetensors(read_tensors(path), path, {"training_names": "[1]"}), "are damaged"),
        (lambda path: save_safetensors(read_tensors(path), path, {"training_names": "[" * 9999}), "are damaged"),
    ],
)
def test_weights_that_cannot_be_used_are_one_sentence(embedded: Variant, shelf: Path, damage, sentence: str) -> None:
    path = shelf / "tiny.safetensors"
    damage(path)
    with pytest.raises(UserError, match=f"{sentence}.* belongs to the project, get it again") as error:
        load_system(EMBEDDED_MODEL, device="cpu")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_checkpoints_commands(
    embedded: Variant, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints", "list"]) == 0
    assert f"{EMBEDDED_MODEL}: A tiny FC-CLIP for tests, embedded" in capsys.readouterr().out
    assert main(["checkpoints", "fetch", EMBEDDED_MODEL]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
    target = tmp_path / "full.safetensors"
    assert (
        main(["checkpoints", "convert", str(shelf / "tiny.safetensors"), "--as", EMBEDDED_MODEL, "--to", str(target)])
        == 0
    )
    capsys.readouterr()
    assert main(["checkpoints", "verify", str(target), "--as", EMBEDDED_MODEL]) == 0
    assert "3 names are seen" in capsys.readouterr().out
    assert load_system(EMBEDDED_MODEL, checkpoint=target, device="cpu").training_names == frozenset(NAMES)
    (shelf / "tiny.safetensors").unlink()
    assert main(["checkpoints", "list", "--json"]) == 0
    (row,) = (row for row in json.loads(capsys.readouterr().out) if row["name"] == EMBEDDED_MODEL)
    assert row["state"] == "missing: git checkout -- checkpoints/tiny.safetensors"
    assert main(["checkpoints", "fetch", EMBEDDED_MODEL]) == 2
    assert "are missing" in capsys.readouterr().err


# --- text embeddings ---


def ship(path: Path, space: EmbeddingSpace, rows: dict[str, np.ndarray]) -> ShippedRows:
    tensors, facts = packed(space, rows)
    save_safetensors(tensors, path, facts)
    return ShippedRows(path)


def test_shipped_rows_are_found_by_their_exact_names(tmp_path: Path) -> None:
    rows = {name: unit(seed) for seed, name in enumerate(["b", "bb", "a b", "città", "猫", "~"])}
    shipped = ship(tmp_path / "text.safetensors", SPACE, rows)
    found = shipped.load(
        SPACE, ["猫", "B", "bb", "", "a", "zzz", "b", "~~", "città", "a b", "~", "much longer than any"]
    )
    assert found.keys() == rows.keys()
    for name, row in found.items():
        np.testing.assert_allclose(row, rows[name], atol=1e-3)
        assert row.dtype == np.float32
        assert abs(np.linalg.norm(row) - 1) < 1e-6
    with pytest.raises(ValueError, match="read-only"):
        found["b"][0] = 0
    assert shipped.load(SPACE, ["nothing"]) == {}


@pytest.mark.parametrize("change", [{"tag": "other"}, {"digest": "other"}, {"template_set": "other"}, {"width": 9}])
def test_rows_of_another_space_are_not_used(tmp_path: Path, change: dict) -> None:
    shipped = ship(tmp_path / "text.safetensors", SPACE, {"a": unit(1)})
    assert shipped.load(dataclasses.replace(SPACE, **change), ["a"]) == {}


def test_rows_that_are_no_unit_vectors_are_not_used(tmp_path: Path) -> None:
    rows = {"a": unit(1), "b": np.zeros(WIDTH), "c": np.full(WIDTH, np.nan), "d": 2 * unit(2)}
    assert ship(tmp_path / "text.safetensors", SPACE, rows).load(SPACE, list(rows)).keys() == {"a"}


FACTS = {"tag": SPACE.tag, "template_set": SPACE.template_set, "digest": SPACE.digest}
LETTERS, ROWS = torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, WIDTH)


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({"names": LETTERS, "rows": ROWS}, {}),
        ({"rows": ROWS}, FACTS),
        ({"names": LETTERS, "rows": ROWS[:1]}, FACTS),
        ({"names": LETTERS[0], "rows": ROWS}, FACTS),
        ({"names": LETTERS.float(), "rows": ROWS}, FACTS),
        (None, {}),
    ],
)
def test_a_file_that_cannot_be_used_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tensors: dict | None, facts: dict
) -> None:
    path = tmp_path / "text.safetensors"
    if tensors is not None:
        save_file(tensors, path, facts)
    shipped = ShippedRows(path)
    with caplog.at_level(logging.WARNING):
        assert shipped.load(SPACE, ["a"]) == shipped.load(SPACE, ["b"]) == {}
    assert len(caplog.records) == 1
    assert "computed again" in caplog.text


def test_only_names_that_were_not_shipped_are_encoded(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    preset = load_preset("coco-panoptic")
    made = TextEmbedder(encoder, VILD_14, EmbeddingCache(None)).embed(preset)
    space = EmbeddingSpace(encoder.tag, VILD_14.name, VILD_14.digest, WIDTH)
    shipped = ship(tmp_path / "text.safetensors", space, dict(zip(preset.names, made.rows.numpy(), strict=True)))
    folder = tmp_path / "cache"

    def embed(words, templates=VILD_14):
        again = CountingEncoder()
        found = TextEmbedder(again, templates, EmbeddingCache(folder, shipped=shipped)).embed(words)
        return found, again.prompts.total()

    found, prompts = embed(preset)
    assert prompts == 0
    assert (found.rows - made.rows).abs().max() < 1e-3
    words = parse_classes("person, gazebo|pavilion, sky")
    assert embed(words)[1] == 2 * len(VILD_14.templates)
    assert embed(words)[1] == 0  # the two are on disk now
    assert embed(words, BARE)[1] == 4


def test_the_presets_are_shipped_for_the_weights_that_are_loaded(
    embedded: Variant, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("cityscapes", "pascal-voc-20")
    monkeypatch.setattr(shipping, "preset_names", lambda: small)
    steps: list[tuple[int, int]] = []
    write_text(load_system("auto", device="cpu"), shelf / "tiny-text.safetensors", lambda *step: steps.append(step))
    assert steps[-1] == (len({name for preset in small for name in load_preset(preset).names}),) * 2

    def embed(words: str) -> tuple[torch.Tensor, int]:
        workbench = ovdemo.load(device="cpu")
        calls: list[int] = []
        tower = workbench.system.text_encoder
        tower.clip_model.transformer.register_forward_hook(lambda *_: calls.append(1))
        shipped = workbench.embed(load_preset(words) if words in small else parse_classes(words)).rows
        return shipped, len(calls)

    for preset in small:
        rows, calls = embed(preset)
        assert calls == 0
        encoder = load_system("auto", device="cpu").text_encoder
        encoded = TextEmbedder(encoder, VILD_14, EmbeddingCache(None)).embed(load_preset(preset)).rows
        assert (rows - encoded).abs().max() < 1e-3
    assert embed("road, zebra, car")[1] == 1
    write_weights(random_network(embedded, 8).state_dict(), NAMES, {}, shelf / "tiny.safetensors")
    assert embed("cityscapes")[1] > 0  # another tower


# --- the real configuration ---


def test_the_embedded_files_are_small_and_load_fast(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes depend on shapes only, so random numbers weigh what trained ones do."""
    variant = VARIANTS[EMBEDDED_MODEL]
    assert variant.embedded is not None
    network = random_network(variant, 0)
    write_weights(network.state_dict(), NAMES, {}, shelf / variant.embedded.weights)
    names = {name for preset in preset_names() for name in load_preset(preset).names}
    rows = np.random.default_rng(0).normal(size=(len(names), network.backbone.width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    tag = network.backbone.tag
    monkeypatch.setattr(type(network.backbone), "tag", tag)
    space = EmbeddingSpace(tag, VILD_14.name, VILD_14.digest, network.backbone.width)
    ship(shelf / variant.embedded.text, space, dict(zip(names, rows, strict=True)))
    sizes = {path.name: path.stat().st_size / 1e6 for path in shelf.iterdir()}
    assert sum(sizes.values()) < MEGABYTES
    assert variant.trained_megabytes + variant.clip_megabytes == pytest.approx(sizes[variant.embedded.weights], abs=0.2)

    start = time.perf_counter()
    workbench = ovdemo.load(device="cpu")
    loaded = time.perf_counter()
    workbench.embed(parse_classes("person, sky"))
    asked = time.perf_counter()
    workbench.embed(load_preset("imagenet-21k"))
    done = time.perf_counter()
    print(f"{sizes} MB; load {loaded - start:.2f} s, two words {asked - loaded:.3f} s, all {done - asked:.2f} s")
    assert loaded - start < 10  # the aim is 2 s on an idle machine; tests share theirs
    assert asked - loaded < 1


def test_what_is_in_the_project_fits_together() -> None:
    files = VARIANTS[EMBEDDED_MODEL].embedded
    assert files is not None
    weights, text = paths.CHECKPOINTS / files.weights, paths.CHECKPOINTS / files.text
    if not weights.exists():
        pytest.skip("the embedded weights are not in this checkout")
    assert sum(path.stat().st_size for path in (weights, text)) < MEGABYTES * 1e6
    system = load_system(EMBEDDED_MODEL, device="cpu")
    assert system.config is EMBEDDED
    assert system.training_names
    with safe_open(text, framework="pt") as file:
        facts = file.metadata()
    assert (facts["tag"], facts["digest"]) == (system.text_encoder.tag, VILD_14.digest)
    names = load_preset("ade20k-847").names[::50]
    space = EmbeddingSpace(system.text_encoder.tag, VILD_14.name, VILD_14.digest, system.text_encoder.width)
    rows = ShippedRows(text).load(space, names)
    words = Vocabulary(tuple(VocabularyClass((name,), "thing") for name in names))
    encoded = TextEmbedder(system.text_encoder, VILD_14, EmbeddingCache(None)).embed(words).rows
    np.testing.assert_allclose(np.stack([rows[name] for name in names]), encoded.numpy(), atol=1e-3)
