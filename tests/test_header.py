"""The model picker: what it says of each model, and downloading one from a Hub, with progress and a way back."""

from __future__ import annotations

import threading

import gradio as gr
import pytest
from safetensors.torch import save

from hub_server import HubServer
from ovdemo.default_model import EMBEDDED_MODEL
from ovdemo.models import Models
from ovdemo.systems.registry import VARIANTS, Variant
from ovdemo.ui.desk import Desk
from ovdemo.ui.header import Header, _choices, model_card
from test_cli import CLIP_REPOSITORY
from test_loading import clip_part, published, trained_part

__all__ = ["published"]  # the fixture


@pytest.fixture
def desk() -> Desk:
    return Desk(Models(device="cpu"))


@pytest.fixture
def header(tiny: Variant, desk: Desk) -> Header:
    with gr.Blocks():
        return Header.build(desk)


def stock(hub: HubServer, tensors: dict) -> None:
    hub.add("someone/tiny", "model.safetensors", save(trained_part(tensors)))
    hub.add(CLIP_REPOSITORY, "open_clip_model.safetensors", save(clip_part(tensors)))


def test_every_card_says_what_the_model_is_and_where_its_weights_are(hub: HubServer, desk: Desk) -> None:
    for name, variant in VARIANTS.items():
        card, state = model_card(name, desk), desk.models.state(name)
        assert variant.title in card
        assert state.kind.replace("'", "&#x27;") in card
        assert ("Not here yet" in card) == (not state.ready)
        if variant.published.pq is not None:
            assert f"PQ {variant.published.pq}" in card


def test_a_model_that_is_not_here_is_offered_and_the_embedded_one_is_not(
    header: Header, desk: Desk, hub: HubServer, tiny: Variant
) -> None:
    asked = header.choose(desk, tiny.name)
    assert asked[header.offer]["visible"]
    assert "Download 0.0 GB" in asked[header.question]
    assert not header.choose(desk, EMBEDDED_MODEL)[header.offer]["visible"]
    assert not header.choose(desk, "fcclip-rn50")[header.offer]["visible"]  # only its authors have it


def test_a_download_shows_its_progress_and_ends_with_the_model_loaded(
    header: Header, desk: Desk, hub: HubServer, tiny: Variant, published: dict
) -> None:
    stock(hub, published)
    updates = list(header.fetch(desk, tiny.name))
    progress = [update[header.status] for update in updates if isinstance(update[header.status], str)]
    assert any("MB" in line for line in progress)
    assert not updates[-1][header.offer]["visible"]
    assert "downloaded" in updates[-1][header.card]
    assert desk.models.loaded(tiny.name) is not None


def test_a_download_that_is_cancelled_falls_back(
    header: Header, desk: Desk, hub: HubServer, tiny: Variant, published: dict
) -> None:
    stock(hub, published)
    updates = header.fetch(desk, tiny.name)
    next(updates)
    updates.close()
    for thread in threading.enumerate():
        if thread.name == "job":
            thread.join()  # a thread in the middle of PyTorch must not outlive the process
    back = header.fall_back(desk, "Nothing was downloaded")
    assert back[header.model] == EMBEDDED_MODEL
    assert not back[header.offer]["visible"]
    assert "embedded" in back[header.card]


def test_a_download_that_fails_falls_back_with_its_reason(
    header: Header, desk: Desk, hub: HubServer, tiny: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("ovdemo.ui.header.gr.Info", said.append)
    *_, back = header.fetch(desk, tiny.name)
    assert back[header.model] == EMBEDDED_MODEL
    assert not back[header.offer]["visible"]
    (sentence,) = said
    assert "answers again" in sentence
    assert "someone/tiny" in sentence


def test_a_downloaded_model_is_no_longer_listed_as_missing(
    header: Header, desk: Desk, hub: HubServer, tiny: Variant, published: dict
) -> None:
    stock(hub, published)
    names = dict(_choices(desk))
    assert names["A tiny FC-CLIP for tests (to download)"] == tiny.name
    *_, last = header.fetch(desk, tiny.name)
    assert ("A tiny FC-CLIP for tests", tiny.name) in last[header.model]["choices"]
