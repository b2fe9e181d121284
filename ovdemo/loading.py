"""From a variant's name to a system with its weights, ready on a device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ovdemo.checkpoints import Expected, MatchReport, match, read_tensors
from ovdemo.errors import UserError
from ovdemo.hub import fetch, fetch_first
from ovdemo.systems.fcclip import FCCLIP, FCCLIPNetwork
from ovdemo.systems.registry import CLIP_PREFIX, Variant, find_variant
from ovdemo.vocabulary import load_preset

Progress = Callable[[int, int | None], None]

# Tensors that files may hold and inference does not use, or that code derives.
_IGNORED = (
    "criterion.*",
    "pixel_mean",
    "pixel_std",
    CLIP_PREFIX + "attn_mask",
    "*.num_batches_tracked",
)
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

log = logging.getLogger(__name__)


def load_system(
    name: str,
    *,
    checkpoint: Path | None = None,
    device: str = "auto",
    precision: str = "float32",
    random_weights: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> FCCLIP:
    """Build a variant and give it weights.

    Args:
        name: of the variant, see :data:`ovdemo.systems.registry.VARIANTS`.
        checkpoint: a local file instead of the Hub's: the authors' ``.pth`` or safetensors, with or without the
            frozen CLIP.
        device: ``auto``, ``cpu`` or ``cuda`` (optionally with an index).
        precision: of the image tower: ``float32``, ``bfloat16`` or ``float16``; the decoders always run in float32.
        random_weights: seeded random weights, for tests and timing only; nothing is read or downloaded.
        seed: of the random weights.
        progress: called with bytes done and bytes in all while downloading.

    Raises:
        UserError: unknown name, device or precision; weights that cannot be had or do not fit.
    """
    variant = find_variant(name)
    target = resolve_device(device)
    if precision not in _PRECISIONS:
        raise UserError(f'"{precision}" is not a precision; choose one of {", ".join(_PRECISIONS)}.')
    if random_weights:
        network = random_network(variant, seed)
    else:
        network = empty_network(variant)
        install(network, gather_tensors(variant, checkpoint, progress))
    preset = load_preset(variant.training_vocabulary)
    training_names = frozenset(name for entry in preset.classes for name in entry.names)
    return FCCLIP(network.to(target), variant.config, training_names, _PRECISIONS[precision])


def resolve_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one. Raises a UserError for a device this machine does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UserError(f'"{device}" is not a device; choose auto, cpu or cuda.') from error
    if target.type not in ("cpu", "cuda"):
        raise UserError(f'"{device}" is not a device ovdemo runs on; choose auto, cpu or cuda.')
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise UserError(f'This machine has no GPU "{device}" that PyTorch can use; run with --device cpu.')
    return target


def empty_network(variant: Variant) -> FCCLIPNetwork:
    """The variant's modules without memory behind their tensors: names and shapes only."""
    with torch.device("meta"):
        return FCCLIPNetwork(variant.config)


def random_network(variant: Variant, seed: int) -> FCCLIPNetwork:
    """The variant's modules with PyTorch's default initialisation from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FCCLIPNetwork(variant.config)


def expected_tensors(variant: Variant) -> Expected:
    """Names and shapes that a checkpoint of the variant must and may hold."""
    shapes = {name: tuple(tensor.shape) for name, tensor in empty_network(variant).state_dict().items()}
    clip = {name: shape for name, shape in shapes.items() if name.startswith(CLIP_PREFIX) and not _is_counter(name)}
    trained = {name: shape for name, shape in shapes.items() if not name.startswith(CLIP_PREFIX)}
    return Expected(required=trained, optional=clip, ignored=_IGNORED)


def read_checkpoint(variant: Variant, path: Path) -> MatchReport:
    """Read a file and match it against the variant.

    Raises:
        UserError: unreadable, or not this variant's.
    """
    return match(read_tensors(path), expected_tensors(variant), f"{path} as {variant.name}")


def gather_tensors(
    variant: Variant, checkpoint: Path | None = None, progress: Progress | None = None
) -> dict[str, Tensor]:
    """All of a variant's tensors: the trained part from a file, what it lacks of CLIP from open_clip's repository."""
    if checkpoint is None:
        if variant.trained is None:
            raise UserError(
                f"The weights of {variant.name} are not on the Hub: download the authors' file from "
                f"{variant.authors_link} and pass it with --checkpoint FILE."
            )
        checkpoint = fetch(variant.trained, progress=progress)
    report = read_checkpoint(variant, checkpoint)
    tensors = dict(report.tensors)
    if report.missing_optional:
        tensors.update(_clip_tensors(variant, report.missing_optional, progress))
    return tensors


def _clip_tensors(variant: Variant, names: tuple[str, ...], progress: Progress | None) -> dict[str, Tensor]:
    path = fetch_first(variant.clip_files, progress=progress)
    shapes = expected_tensors(variant).optional
    wanted = {name.removeprefix(CLIP_PREFIX): shapes[name] for name in names}
    log.info("filling %d tensors of the frozen CLIP from %s", len(names), path.name)
    report = match(read_tensors(path), Expected(required=wanted, optional={}, ignored=("*",)), f"{path} as CLIP")
    return {CLIP_PREFIX + name: tensor for name, tensor in report.tensors.items() if name in wanted}


def install(network: FCCLIPNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Give every module its tensor (``strict=True``), and build what no file holds: counters and the causal mask."""
    counters = {name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if _is_counter(name)}
    network.load_state_dict({**counters, **tensors}, strict=True, assign=True)
    clip = network.backbone.clip_model
    clip.attn_mask = torch.full((clip.context_length, clip.context_length), float("-inf")).triu(1)


def _is_counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")
