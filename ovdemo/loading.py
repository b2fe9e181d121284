"""From a variant's name to a system with its weights, ready on a device."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ovdemo import paths
from ovdemo.checkpoints import Expected, MatchReport, match, read_metadata, read_tensors
from ovdemo.default_model import chosen_model
from ovdemo.errors import UserError
from ovdemo.hub import fetch, fetch_first, is_cached
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
        name: of the variant, see :data:`ovdemo.systems.registry.VARIANTS`, or ``auto``, see
            :func:`ovdemo.default_model.chosen_model`.
        checkpoint: a local file instead of the variant's own: the authors' ``.pth`` or safetensors, with or without
            the frozen CLIP.
        device: ``auto``, ``cpu`` or ``cuda`` (optionally with an index).
        precision: of the image tower: ``float32``, ``bfloat16`` or ``float16``; the decoders always run in float32.
        random_weights: seeded random weights, for tests and timing only; nothing is read or downloaded.
        seed: of the random weights.
        progress: called with bytes done and bytes in all while downloading.

    Raises:
        UserError: unknown name, device or precision; weights that cannot be had or do not fit.
    """
    variant = find_variant(chosen_model(name))
    target = resolve_device(device)
    if precision not in _PRECISIONS:
        raise UserError(f'"{precision}" is not a precision; choose one of {", ".join(_PRECISIONS)}.')
    if random_weights:
        network = random_network(variant, seed)
        training_names = frozenset(load_preset(variant.training_vocabulary).names)
    else:
        network = empty_network(variant)
        tensors, training_names = _read_weights(variant, network, checkpoint, progress)
        install(network, tensors)
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


def expected_tensors(variant: Variant, network: FCCLIPNetwork) -> Expected:
    """Names and shapes that a checkpoint of the variant must and may hold: an embedded one must hold its CLIP too."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    clip = {name: shape for name, shape in shapes.items() if name.startswith(CLIP_PREFIX) and not _is_counter(name)}
    if variant.embedded is not None:
        return Expected(required=shapes, optional={}, ignored=_IGNORED)
    trained = {name: shape for name, shape in shapes.items() if not name.startswith(CLIP_PREFIX)}
    return Expected(required=trained, optional=clip, ignored=_IGNORED)


def read_checkpoint(variant: Variant, path: Path, network: FCCLIPNetwork | None = None) -> MatchReport:
    """Read a file and match it against the variant, whose network may be at hand: making one takes a while.

    Raises:
        UserError: unreadable, or not this variant's.
    """
    expected = expected_tensors(variant, network or empty_network(variant))
    return match(read_tensors(path), expected, f"{path} as {variant.name}")


def embedded_weights(variant: Variant) -> Path | None:
    """The file of an embedded variant's weights; None for a variant that is not embedded.

    Raises:
        UserError: the project lacks the file.
    """
    if variant.embedded is None:
        return None
    path = paths.CHECKPOINTS / variant.embedded.weights
    if not path.exists():
        raise UserError(f"The weights of {variant.name} are missing: {path} belongs to the project, get it again.")
    return path


def weights_file(variant: Variant, checkpoint: Path | None = None) -> Path | None:
    """The file that a variant's trained weights are read from, where it is on this machine; never uses the network."""
    path = checkpoint or embedded_weights(variant)
    return path if path or variant.trained is None else is_cached(variant.trained)


def training_names(variant: Variant, path: Path) -> frozenset[str]:
    """The names that a checkpoint of the variant was trained on: they count as seen.

    Embedded weights list them in their file, as JSON under ``training_names``; the published ones share a preset.

    Raises:
        UserError: an embedded variant's file does not list them.
    """
    if variant.embedded is None:
        return frozenset(load_preset(variant.training_vocabulary).names)
    try:
        names = json.loads(read_metadata(path).get("training_names", ""))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} does not say which names {variant.name} was trained on: get the file again.")
    return frozenset(names)


def _read_weights(
    variant: Variant, network: FCCLIPNetwork, checkpoint: Path | None, progress: Progress | None
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """All tensors and the training names, from a person's file or from the variant's own."""
    path = checkpoint or embedded_weights(variant) or _fetch_trained(variant, progress)
    try:
        return _gather_tensors(variant, network, path, progress), training_names(variant, path)
    except UserError as error:
        if checkpoint is not None or variant.embedded is None:
            raise
        # The causes tell a person to download a file, and there is no such download.
        raise UserError(
            f"The weights of {variant.name} are damaged: {path} belongs to the project, get it again."
        ) from error


def _fetch_trained(variant: Variant, progress: Progress | None) -> Path:
    if variant.trained is None:
        raise UserError(
            f"The weights of {variant.name} are not on the Hub: download the authors' file from "
            f"{variant.authors_link} and pass it with --checkpoint FILE."
        )
    return fetch(variant.trained, progress=progress)


def _gather_tensors(
    variant: Variant, network: FCCLIPNetwork, checkpoint: Path, progress: Progress | None
) -> dict[str, Tensor]:
    """All of a variant's tensors: the trained part from a file, what it lacks of CLIP from open_clip's repository."""
    report = read_checkpoint(variant, checkpoint, network)
    tensors = dict(report.tensors)
    if report.missing_optional:
        shapes = expected_tensors(variant, network).optional
        wanted = {name.removeprefix(CLIP_PREFIX): shapes[name] for name in report.missing_optional}
        tensors.update(_clip_tensors(variant, wanted, progress))
    return tensors


def _clip_tensors(
    variant: Variant, wanted: Mapping[str, tuple[int, ...]], progress: Progress | None
) -> dict[str, Tensor]:
    """Tensors of open_clip's file, by the network's names; wanted are shapes by open_clip's names."""
    path = fetch_first(variant.clip_files, progress=progress)
    log.info("filling %d tensors of the frozen CLIP from %s", len(wanted), path.name)
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
