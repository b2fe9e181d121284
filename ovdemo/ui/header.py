"""The top of the page: which model answers, what it is, and how to get one that is not here yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import torch
from gradio.blocks import Block
from gradio.events import Dependency

from ovdemo.default_model import DEFAULT_MODEL, chosen_model
from ovdemo.errors import UserError
from ovdemo.loading import resolve_device
from ovdemo.models import ModelState
from ovdemo.systems.registry import VARIANTS, Variant, find_variant
from ovdemo.ui import html, jobs
from ovdemo.ui.desk import Desk, sentences
from ovdemo.ui.events import OURS
from ovdemo.ui.widgets import page_text

Update = dict[Any, Any]  # by component


@dataclass(frozen=True)
class Header:
    """The components of the header."""

    model: gr.Dropdown
    card: gr.HTML
    offer: gr.Group
    question: gr.Markdown
    download: gr.Button
    refuse: gr.Button
    status: gr.HTML

    @classmethod
    def build(cls, desk: Desk) -> Header:
        """Lay the header out here."""
        gr.HTML(page_text("title"))
        with gr.Row(equal_height=False):
            model = gr.Dropdown(
                _choices(desk),
                value=chosen_model(DEFAULT_MODEL),
                label="Model",
                scale=3,
                min_width=300,
                elem_id="model",
            )
            with gr.Column(scale=5, min_width=320):
                card = gr.HTML(model_card(chosen_model(DEFAULT_MODEL), desk), elem_id="model-card")
        with gr.Group(visible=False, elem_id="offer") as offer:
            question = gr.Markdown()
            with gr.Row():
                download = gr.Button("Download", variant="primary", elem_id="download")
                refuse = gr.Button("Cancel", elem_id="refuse")
            status = gr.HTML()
        return cls(model, card, offer, question, download, refuse, status)

    def wire(self, desk: Desk) -> tuple[Dependency, ...]:
        """Connect the events that concern the header alone; returns those after which another model answers."""
        chosen = self.model.input(sentences(partial(self.choose, desk)), self.model, self.shown, **OURS)
        everything = [self.model, *self.shown]
        fetching = self.download.click(
            sentences(partial(self.fetch, desk)),
            self.model,
            everything,
            concurrency_id="download",
            concurrency_limit=2,
            **OURS,
        )
        refused = self.refuse.click(
            sentences(partial(self.fall_back, desk, "Nothing was downloaded")),
            None,
            everything,
            cancels=[fetching],
            **OURS,
        )
        return chosen, fetching, refused

    @property
    def shown(self) -> list[Block]:
        """What :meth:`choose` changes."""
        return [self.card, self.offer, self.question, self.status]

    def choose(self, desk: Desk, name: str) -> Update:
        """Show what a model is; where its weights can be downloaded, ask whether to."""
        ask = desk.models.state(name).kind == "to download"
        return {
            self.card: model_card(name, desk),
            self.offer: gr.update(visible=ask),
            self.question: _question(find_variant(name)) if ask else "",
            self.status: "",
        }

    def fetch(self, desk: Desk, name: str) -> Iterator[Update]:
        """Download and load a model, step by step; closing the iterator stops the download."""

        def load(report: jobs.Report) -> None:
            desk.models.get(name, lambda done, total: report("Downloading", done, total))

        try:
            for news in jobs.run(load):
                if isinstance(news, jobs.Done):
                    yield {self.model: gr.update(choices=_choices(desk)), **self.choose(desk, name)}
                else:
                    yield {self.status: gr.skip() if news is None else _downloaded(news)}
        except UserError as error:
            yield self.fall_back(desk, str(error).rstrip("."))

    def fall_back(self, desk: Desk, reason: str) -> Update:
        """Back to the default model, with a sentence."""
        name = chosen_model(DEFAULT_MODEL)
        gr.Info(escape(f"{reason}; {find_variant(name).title} answers again.", quote=False))
        return {self.model: name, **self.choose(desk, name)}


def model_card(name: str, desk: Desk) -> str:
    """What a model is, what its authors measured, its licence, its size, its state and the device."""
    variant, state = find_variant(name), desk.models.state(name)
    published = variant.published
    numbers = [
        f"{key} {value}"
        for key, value in (("PQ", published.pq), ("AP", published.ap), ("mIoU", published.miou))
        if value is not None
    ]
    facts = [
        f"<b>{escape(variant.title)}</b>",
        f'<span class="ov-badge {"ov-good" if state.ready else "ov-wait"}">{escape(state.kind)}</span>',
        escape(variant.about),
        f"ADE20K as published: {', '.join(numbers)}" if numbers else "no published numbers",
        f"{variant.trained_megabytes + variant.clip_megabytes:,.0f} MB",
        escape(variant.licence),
        f"runs on <b>{escape(_device(desk))}</b>",
    ]
    text = " · ".join(facts)
    if not state.ready and state.remedy:
        text += f"<br>{_remedy(variant, state)}"
    return f'<div class="ov-card" data-state="{escape(state.kind)}">{text}</div>'


def _remedy(variant: Variant, state: ModelState) -> str:
    link = ""
    if variant.authors_link and state.kind == "needs the authors' file":
        link = f' Get it from <a href="{escape(variant.authors_link)}" target="_blank" rel="noopener">the authors</a>.'
    return f"Not here yet: <code>{escape(state.remedy)}</code>.{link}"


def _choices(desk: Desk) -> list[tuple[str, str]]:
    """(Words, name) of every model, with what is in the way of its use."""
    states = {name: desk.models.state(name) for name in VARIANTS}
    return [
        (variant.title if states[name].ready else f"{variant.title} ({states[name].kind})", name)
        for name, variant in VARIANTS.items()
    ]


def _device(desk: Desk) -> str:
    device = resolve_device(desk.models.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "the CPU"


def _question(variant: Variant) -> str:
    size = (variant.trained_megabytes + variant.clip_megabytes) / 1000
    return f"**{variant.title}** is not on this machine. Download {size:.1f} GB from the Hugging Face Hub?"


def _downloaded(news: jobs.Progress) -> str:
    return html.progress(replace(news, text="Downloading, MB:", done=news.done // 10**6, total=_megabytes(news.total)))


def _megabytes(number: int | None) -> int | None:
    return None if number is None else number // 10**6
