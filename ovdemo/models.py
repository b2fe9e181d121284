"""The models that can be chosen, what state their weights are in, and those that are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovdemo import paths
from ovdemo.caching import BoundedCache
from ovdemo.default_model import DEFAULT_MODEL, chosen_model
from ovdemo.hub import is_cached
from ovdemo.loading import Progress
from ovdemo.systems.registry import Variant, find_variant
from ovdemo.workbench import Accelerate, Workbench, load

StateKind = Literal["embedded", "downloaded", "to download", "needs the authors' file", "missing"]


@dataclass(frozen=True)
class ModelState:
    """Where a variant's weights are.

    Attributes:
        kind: in a word.
        remedy: the command that brings what is missing; empty where nothing is.
    """

    kind: StateKind
    remedy: str

    @property
    def ready(self) -> bool:
        """Whether the variant loads without a network."""
        return self.kind in ("embedded", "downloaded")


def model_state(variant: Variant, checkpoint: Path | None = None) -> ModelState:
    """Look for a variant's weights on this machine, or in a person's own file; never uses the network."""
    clip = variant.embedded is not None or any(is_cached(file) for file in variant.clip_files)
    fetch = f"python -m ovdemo checkpoints fetch {variant.name}"
    if checkpoint is not None:
        return ModelState("downloaded", "") if clip else ModelState("to download", fetch)
    if variant.embedded is not None:
        if (paths.CHECKPOINTS / variant.embedded.weights).exists():
            return ModelState("embedded", "")
        return ModelState("missing", f"git checkout -- checkpoints/{variant.embedded.weights}")
    if variant.trained is None:
        return ModelState(
            "needs the authors' file",
            f"python app.py --checkpoint {variant.name}=FILE",
        )
    if clip and is_cached(variant.trained):
        return ModelState("downloaded", "")
    return ModelState("to download", fetch)


class Models:
    """Loaded workbenches by name, the last ones kept. Safe to use from many threads.

    Threads that ask for one model share its loading.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        precision: str = "float32",
        checkpoints: Mapping[str, Path] | None = None,
        accelerate: Accelerate | None = None,
        max_bytes: int = 4 * 2**30,
    ) -> None:
        """Say how models are loaded, from which files of a person's own, and how many bytes may stay in memory."""
        self.device, self.accelerate, self._precision = device, accelerate, precision
        self._checkpoints = dict(checkpoints or {})
        self._loaded: BoundedCache[Workbench] = BoundedCache(max_bytes, _weight_bytes)

    def get(self, name: str = DEFAULT_MODEL, progress: Progress | None = None) -> Workbench:
        """The workbench of a model, loaded, and its weights downloaded, unless it is there.

        Raises:
            UserError: unknown name; weights that cannot be had or do not fit.
        """
        name = chosen_model(name)
        return self._loaded.get(name, lambda: self._load(name, progress))

    def loaded(self, name: str = DEFAULT_MODEL) -> Workbench | None:
        """The workbench of a model where it is in memory."""
        return self._loaded.peek(chosen_model(name))

    def forget(self, digest: str) -> None:
        """Forget what the loaded models worked out about a picture."""
        for workbench in self._loaded.values():
            workbench.forget(digest)

    def state(self, name: str) -> ModelState:
        """Where a model's weights are.

        Raises:
            UserError: unknown name.
        """
        variant = find_variant(chosen_model(name))
        state = model_state(variant, self._checkpoints.get(variant.name))
        if not state.ready and self._loaded.peek(variant.name) is not None:  # a person's file may hold CLIP too
            return ModelState("downloaded", "")
        return state

    def _load(self, name: str, progress: Progress | None) -> Workbench:
        return load(
            name,
            checkpoint=self._checkpoints.get(name),
            device=self.device,
            precision=self._precision,
            progress=progress,
            accelerate=self.accelerate,
        )


def _weight_bytes(workbench: Workbench) -> int:
    variant = find_variant(workbench.name)
    return int(1e6 * (variant.trained_megabytes + variant.clip_megabytes))
