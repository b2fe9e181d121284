"""``python -m ovdemo checkpoints``: what weights there are, and whether they are here and whole."""

from __future__ import annotations

import argparse
import dataclasses
import json

from ovdemo.checkpoints import read_metadata, save_safetensors
from ovdemo.commands.progress import download_bar
from ovdemo.errors import UserError
from ovdemo.hub import fetch, fetch_first
from ovdemo.loading import embedded_weights, read_checkpoint, training_names
from ovdemo.models import model_state
from ovdemo.systems.registry import VARIANTS, Variant, find_variant


def run_list(options: argparse.Namespace) -> int:
    """Print every variant and the state of its weights."""
    rows = [_describe(variant) for variant in VARIANTS.values()]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['name']}: {row['title']}, {row['state']}")
        print(f"    {row['size']}; ADE20K {row['published']}; {row['licence']}")
    return 0


def _describe(variant: Variant) -> dict[str, object]:
    published = dataclasses.asdict(variant.published)
    numbers = ", ".join(f"{key.upper()} {value}" for key, value in published.items() if value is not None)
    return {
        "name": variant.name,
        "title": variant.title,
        "state": _state(variant),
        "size": f"{variant.trained_megabytes:.0f} MB trained part, {variant.clip_megabytes:.0f} MB frozen CLIP",
        "published": numbers or "not reported",
        "licence": variant.licence,
        "authors_link": variant.authors_link,
    }


def _state(variant: Variant) -> str:
    state = model_state(variant)
    if state.kind == "needs the authors' file":
        return f"{state.kind} ({variant.authors_link}) with --checkpoint"
    return f"{state.kind}: {state.remedy}" if state.remedy else state.kind


def run_fetch(options: argparse.Namespace) -> int:
    """Download the trained part, where the Hub has it, and the frozen CLIP; nothing for an embedded variant."""
    variant = find_variant(options.name)
    if embedded_weights(variant) is not None:
        print(f"{variant.name} is in the project: there is nothing to fetch.")
        return 0
    with download_bar() as progress:
        print(fetch_first(variant.clip_files, progress=progress))
        if variant.trained is None:
            raise UserError(
                f"The frozen CLIP of {variant.name} is here, but its trained part is not on the Hub: download the "
                f"authors' file from {variant.authors_link} and pass it with --checkpoint FILE."
            )
        path = fetch(variant.trained, progress=progress)
    read_checkpoint(variant, path)
    print(path)
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Say whether a file holds a variant's weights, and what it leaves to open_clip."""
    variant = find_variant(options.name)
    report = read_checkpoint(variant, options.file)
    names = training_names(variant, options.file)
    print(f"{options.file} holds {variant.name}: {len(report.tensors)} tensors fit, {len(names)} names are seen.")
    if report.prefix:
        print(f'Their names begin with "{report.prefix}".')
    if report.missing_optional:
        print(f"{len(report.missing_optional)} tensors of the frozen CLIP are absent and come from open_clip.")
    if report.unexpected:
        print(f"{len(report.unexpected)} tensors are not used, {report.unexpected[0]} among them.")
    return 0


def run_convert(options: argparse.Namespace) -> int:
    """Write a file's tensors, official names and float32, as safetensors; what the file says of itself is kept."""
    variant = find_variant(options.name)
    if options.to.exists() and options.to.samefile(options.file):
        raise UserError(f"{options.to} is the file to convert; choose another name for --to.")
    report = read_checkpoint(variant, options.file)
    facts = read_metadata(options.file) | {"variant": variant.name, "source": options.file.name}
    save_safetensors(report.tensors, options.to, facts)
    print(f"{options.to}: {len(report.tensors)} tensors.")
    return 0
