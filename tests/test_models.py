from __future__ import annotations

import dataclasses
import shlex
import threading
from pathlib import Path

import pytest

from hub_server import HubServer
from ovdemo import models as models_module
from ovdemo import paths
from ovdemo.__main__ import _parser
from ovdemo.checkpoints import save_safetensors
from ovdemo.errors import UserError
from ovdemo.hub import fetch
from ovdemo.loading import random_network
from ovdemo.models import Models, ModelState, model_state
from ovdemo.systems import registry
from ovdemo.systems.registry import CLIP_PREFIX, VARIANTS, EmbeddedFiles, Variant
from painted import painted_workbench
from sentences import failure
from tiny import tiny_variant


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Variant:
    """A variant whose weights belong into the project."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr(paths, "CHECKPOINTS", folder)
    files = EmbeddedFiles("tiny.safetensors", "tiny-text.safetensors")
    variant = dataclasses.replace(tiny_variant(), name="tiny-embedded", trained=None, embedded=files)
    monkeypatch.setitem(registry.VARIANTS, variant.name, variant)
    return variant


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Variant:
    """A variant whose trained part only the authors' page has."""
    variant = dataclasses.replace(tiny_variant(), name="tiny-by-hand", trained=None)
    monkeypatch.setitem(registry.VARIANTS, variant.name, variant)
    return variant


def serve(hub: HubServer, variant: Variant) -> None:
    """Put files of the right names on the Hub."""
    for file in (variant.trained, variant.clip_files[0]):
        if file is not None:
            hub.add(file.repo, file.filename, b"weights of " + file.filename.encode())


def test_embedded_weights_are_there_or_missing(embedded: Variant) -> None:
    state = model_state(embedded)
    assert (state.kind, state.ready) == ("missing", False)
    assert state.remedy == "git checkout -- checkpoints/tiny.safetensors"
    (paths.CHECKPOINTS / "tiny.safetensors").touch()
    assert model_state(embedded) == ModelState("embedded", "")
    assert model_state(embedded).ready


def test_weights_of_the_hub_are_downloaded_when_both_parts_are(hub: HubServer, tiny: Variant) -> None:
    serve(hub, tiny)
    waiting = ModelState("to download", "python -m ovdemo checkpoints fetch tiny")
    assert model_state(tiny) == waiting
    assert not waiting.ready
    assert tiny.trained is not None
    fetch(tiny.trained)
    assert model_state(tiny) == waiting
    fetch(tiny.clip_files[0])
    asked = len(hub.requests)
    assert model_state(tiny) == ModelState("downloaded", "")
    assert len(hub.requests) == asked


def test_the_authors_file_is_needed_until_it_is_named(
    hub: HubServer, by_hand: Variant, embedded: Variant, tmp_path: Path
) -> None:
    serve(hub, by_hand)
    file = tmp_path / "authors.pth"
    file.touch()
    assert Models().state(by_hand.name) == ModelState(
        "needs the authors' file", "python app.py --checkpoint tiny-by-hand=FILE"
    )
    models = Models(checkpoints={by_hand.name: file, embedded.name: file})
    assert models.state(by_hand.name).kind == "to download"  # its frozen CLIP
    fetch(by_hand.clip_files[0])
    assert models.state(by_hand.name) == ModelState("downloaded", "")
    assert Models().state(by_hand.name).kind == "needs the authors' file"
    assert models.state(embedded.name).ready
    assert Models().state(embedded.name).kind == "missing"


def test_every_remedy_is_a_command_that_exists(hub: HubServer) -> None:
    for variant in VARIANTS.values():
        state = model_state(variant)
        words = shlex.split(state.remedy.replace("git checkout -- ", ""))
        if state.remedy.startswith("python -m ovdemo"):
            _parser().parse_args(words[3:])
        elif state.remedy.startswith("python app.py"):
            from ovdemo.ui.launch import _parser as app_parser

            assert app_parser().parse_args(words[2:]).checkpoint == [f"{variant.name}=FILE"]


def test_a_file_of_a_persons_own_is_loaded(hub: HubServer, by_hand: Variant, tmp_path: Path) -> None:
    """One that holds its CLIP needs no download, which shows once it is loaded."""
    network = random_network(by_hand, 3)
    tensors = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert any(name.startswith(CLIP_PREFIX) for name in tensors)
    file = tmp_path / "mine.safetensors"
    save_safetensors(tensors, file, {})
    models = Models(device="cpu", checkpoints={by_hand.name: file})
    assert not models.state(by_hand.name).ready
    workbench = models.get(by_hand.name)
    assert workbench.name == by_hand.name
    assert workbench.weights is not None
    assert models.state(by_hand.name) == ModelState("downloaded", "")
    assert not hub.seen("GET")


def test_what_cannot_be_loaded_is_a_sentence_each_time(by_hand: Variant) -> None:
    models = Models(device="cpu")
    for _ in range(2):
        failure(lambda: models.get(by_hand.name), "are not on the Hub", "--checkpoint")
    with pytest.raises(UserError, match='no model named "nothing"'):
        models.get("nothing")
    with pytest.raises(UserError, match='no model named "nothing"'):
        models.state("nothing")
    assert models.loaded(by_hand.name) is None


def test_threads_share_one_load(tiny: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go = threading.Event(), threading.Event()
    loads: list[tuple[str, dict]] = []

    def load(name: str, **settings: object) -> object:
        loads.append((name, settings))
        began.set()
        assert go.wait(10)
        workbench = painted_workbench()
        workbench.name = name
        return workbench

    monkeypatch.setattr(models_module, "load", load)
    models = Models(device="cpu", precision="bfloat16", checkpoints={tiny.name: Path("mine")})
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(models.get(tiny.name)), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    assert models.loaded(tiny.name) is None
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(found) == 4
    assert len(set(map(id, found))) == 1
    ((name, settings),) = loads
    assert name == "tiny"
    assert (settings["device"], settings["precision"], settings["checkpoint"]) == ("cpu", "bfloat16", Path("mine"))
    assert models.loaded(tiny.name) is found[0]


def test_only_so_many_bytes_of_models_stay_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [dataclasses.replace(tiny_variant(), name=f"tiny-{i}") for i in range(3)]
    for variant in variants:
        monkeypatch.setitem(registry.VARIANTS, variant.name, variant)

    def load(name: str, **_: object) -> object:
        workbench = painted_workbench()
        workbench.name = name
        return workbench

    monkeypatch.setattr(models_module, "load", load)
    models = Models(max_bytes=25_000_000)  # a tiny one takes 11 MB
    for variant in variants:
        models.get(variant.name)
    assert [models.loaded(variant.name) is not None for variant in variants] == [False, True, True]


def test_the_default_is_the_chosen_model(monkeypatch: pytest.MonkeyPatch, embedded: Variant) -> None:
    monkeypatch.setenv("OVDEMO_MODEL", embedded.name)
    assert Models().state("auto").kind == "missing"
    with pytest.raises(UserError, match="are missing"):
        Models(device="cpu").get()
