"""Sentences around a name, because CLIP was trained on captions rather than on words."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

_GAP = "{}"


@dataclass(frozen=True)
class TemplateSet:
    """Prompt templates, each with one or more ``{}`` where the name goes.

    Raises:
        ValueError: no template, or one without ``{}``.
    """

    name: str
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.templates or any(_GAP not in template for template in self.templates):
            raise ValueError(f"the template set {self.name!r} needs templates, each with a {_GAP} for the name")

    def fill(self, name: str) -> list[str]:
        """One prompt a template, in order. Braces in the name are ordinary characters."""
        return [template.replace(_GAP, name) for template in self.templates]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the templates in order, in hexadecimal: two sets of one name and different content differ."""
        return hashlib.sha256(json.dumps(self.templates).encode()).hexdigest()


# ViLD's prompts as FC-CLIP's published code uses them; which of them end in a full stop is part of the contract.
VILD_14 = TemplateSet(
    "vild-14",
    (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a small {}.",
        "This is a photo of a medium {}.",
        "This is a photo of a large {}.",
        "There is a small {} in the scene.",
        "There is a medium {} in the scene.",
        "There is a large {} in the scene.",
    ),
)

BARE = TemplateSet("bare", ("{}",))
