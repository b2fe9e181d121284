"""Everything that determines a result, as a value that can be kept, sent and asked again."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn, cast, get_args

from ovdemo.ensemble import Fusion, FusionKind
from ovdemo.errors import UserError
from ovdemo.merging import Merging
from ovdemo.segmentation import Mode
from ovdemo.vocabulary import Vocabulary, preset_names, read_words

SCHEMA = 1
MAX_BYTES = 64 * 2**10
SHORT_SIDES = (64, 2048)  # pixels; below, features vanish; above, memory does

_MAX_MODEL_CHARACTERS = 80
_MAX_NAME_CHARACTERS = 200
_EXAMPLE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINK = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class ExamplePicture:
    """A picture of the example gallery by its name there: lower-case letters, digits, ``-`` and ``_``.

    Raises:
        UserError: the name is anything else.
    """

    example: str

    def __post_init__(self) -> None:
        if not (isinstance(self.example, str) and _EXAMPLE.fullmatch(self.example)):
            raise _must("example", "be the short name of an example picture")


@dataclass(frozen=True)
class OwnPicture:
    """A picture that a person brought: :attr:`ovdemo.images.Picture.digest`, and its name, for display only.

    Raises:
        UserError: the digest is not a SHA-256 in lower-case hexadecimal, or the name is not 1 to 200 printable
            characters.
    """

    digest: str
    name: str

    def __post_init__(self) -> None:
        if not (isinstance(self.digest, str) and _DIGEST.fullmatch(self.digest)):
            raise _must("digest", "be a SHA-256 of 64 hexadecimal digits")
        _check_line("name", self.name, _MAX_NAME_CHARACTERS)


@dataclass(frozen=True)
class Recipe:
    """A picture, words and settings. The same recipe gives the same bytes.

    Attributes:
        model: variant that made the result, by its own name, never ``"auto"``.
        weights: revision of its weights; ``None`` where nobody knows it.
        picture: what was segmented.
        words: as typed.
        presets: names of the presets chosen beside the words, in order.
        mode, object_threshold, overlap_threshold: as :class:`ovdemo.merging.Merging` has them.
        fusion_kind, alpha, beta, rescue: as :class:`ovdemo.ensemble.Fusion` has them.
        short_side: of the network's input, 64 to 2048 pixels; ``None`` is the system's own rule.
        opacity, outlines, labels: of the overlay, as :func:`ovdemo.rendering.overlay` takes them.

    Raises:
        UserError: a value is of another type or out of its range, or the recipe is larger than 64 KiB as JSON.
    """

    model: str
    picture: ExamplePicture | OwnPicture
    words: str
    weights: str | None = None
    presets: tuple[str, ...] = ()
    mode: Mode = "panoptic"
    object_threshold: float = 0.0
    overlap_threshold: float = 0.8
    fusion_kind: FusionKind = "geometric"
    alpha: float = 0.4
    beta: float = 0.8
    rescue: float = 0.0
    short_side: int | None = None
    opacity: float = 0.55
    outlines: bool = True
    labels: bool = True

    def __post_init__(self) -> None:
        _check_line("model", self.model, _MAX_MODEL_CHARACTERS)
        if self.weights is not None:
            _check_line("weights", self.weights, _MAX_NAME_CHARACTERS)
        if not isinstance(self.picture, (ExamplePicture, OwnPicture)):
            raise _must("picture", "name an example, or give a digest and a name")
        if not isinstance(self.words, str) or not _is_text(self.words):
            raise _must("words", "be text")
        _check_presets(self.presets)
        _check_choice("mode", self.mode, get_args(Mode))
        _check_choice("fusion_kind", self.fusion_kind, get_args(FusionKind))
        for key in ("object_threshold", "overlap_threshold", "alpha", "beta", "rescue", "opacity"):
            object.__setattr__(self, key, _share(key, getattr(self, key)))
        _check_short_side(self.short_side)
        for key in ("outlines", "labels"):
            if not isinstance(getattr(self, key), bool):
                raise _must(key, "be true or false")
        if len(self.to_json()) > MAX_BYTES:
            raise UserError(f"These words are too long together, more than {MAX_BYTES // 2**10} KiB; use fewer words.")

    @property
    def fusion(self) -> Fusion:
        """How the two classifiers are combined."""
        return Fusion(self.fusion_kind, self.alpha, self.beta, self.rescue)

    @property
    def merging(self) -> Merging:
        """Which inference, and its thresholds."""
        return Merging(self.mode, self.object_threshold, self.overlap_threshold)

    @property
    def drawing(self) -> dict[str, Any]:
        """What :func:`ovdemo.rendering.overlay` takes beside the answer."""
        return {"opacity": self.opacity, "outlines": self.outlines, "labels": self.labels}

    @property
    def vocabulary(self) -> Vocabulary:
        """The words and presets, combined.

        Raises:
            UserError: as :func:`ovdemo.vocabulary.read_words`.
        """
        return read_words(self.words, self.presets)

    def to_json(self) -> str:
        """One line of ASCII, the same for equal recipes."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """Read what :meth:`to_json` wrote, in any order and layout; bytes are UTF-8.

        Raises:
            UserError: it is too large, not such JSON, of another version, or a key is missing, unknown, twice there
                or has a value that :class:`Recipe` does not take.
        """
        content = _read_json(text)
        schema = content.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise UserError(f"This recipe is not of version {SCHEMA}, the one read here; make it again.")
        _check_keys("The recipe", content, ["schema", *(entry.name for entry in fields(cls))])
        values = {key: value for key, value in content.items() if key != "schema"}
        if isinstance(values["presets"], list):
            values["presets"] = tuple(values["presets"])
        return cls(**{**values, "picture": _read_picture(values["picture"])})

    def to_link(self) -> str:
        """The recipe in letters, digits, ``-`` and ``_``, as a value for an address: JSON, zlib, base64url."""
        return base64.urlsafe_b64encode(zlib.compress(self.to_json().encode("ascii"), 9)).decode("ascii").rstrip("=")

    @classmethod
    def from_link(cls, link: str) -> Recipe:
        """Read what :meth:`to_link` wrote. Never unpacks more than a recipe may hold.

        Raises:
            UserError: the link is damaged, or as :meth:`from_json`.
        """
        damaged = UserError("The recipe in this address is damaged or cut off; copy the whole address again.")
        if len(link) > 2 * MAX_BYTES or not _LINK.fullmatch(link):
            raise damaged
        unpacker = zlib.decompressobj()
        try:
            packed = base64.urlsafe_b64decode(link + "=" * (-len(link) % 4))
            data = unpacker.decompress(packed, MAX_BYTES + 1)
        except (binascii.Error, zlib.error) as error:
            raise damaged from error
        if len(data) <= MAX_BYTES and not (unpacker.eof and not unpacker.unused_data):
            raise damaged
        return cls.from_json(data)


def _read_json(text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_BYTES:
        raise UserError(f"This is no recipe: it is larger than {MAX_BYTES // 2**10} KiB; choose another file.")
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = json.loads(decoded, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError("This is no recipe, since it is not plain JSON; choose a file that was saved here.") from error
    if not isinstance(content, dict):
        raise UserError("This is no recipe, since it is not a JSON object; choose a file that was saved here.")
    return content


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_picture(content: object) -> ExamplePicture | OwnPicture:
    if not isinstance(content, dict):
        raise _must("picture", "name an example, or give a digest and a name")
    make: Callable[..., ExamplePicture | OwnPicture] = ExamplePicture if "example" in content else OwnPicture
    _check_keys("The recipe's picture", content, [entry.name for entry in fields(cast(Any, make))])
    return make(**content)


def _check_keys(owner: str, content: Mapping[str, object], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in content]
    if missing:
        raise UserError(f'{owner} has no "{missing[0]}"; make the recipe again.')
    unknown = [key for key in content if key not in keys]
    if unknown:
        shown = "".join(filter(str.isprintable, unknown[0]))[:40]
        raise UserError(f'{owner} has an unknown key, "{shown}"; make the recipe again.')


def _check_line(key: str, value: object, longest: int) -> None:
    # Printable text has no surrogates, line breaks or control characters.
    if not (isinstance(value, str) and 0 < len(value) <= longest and value.isprintable()):
        raise _must(key, f"be 1 to {longest} printable characters")


def _check_presets(presets: object) -> None:
    known = preset_names()
    if not isinstance(presets, tuple) or any(preset not in known for preset in presets):
        raise _must("presets", f"be a list of these: {', '.join(known)}")
    if len(set(presets)) < len(presets):
        raise _must("presets", "name each preset once")


def _check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise _must(key, f"be one of {', '.join(choices)}")


def _share(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # NaN compares false
        raise _must(key, "be a number from 0 to 1")
    return math.fabs(value)  # a float, and no negative zero


def _check_short_side(value: object) -> None:
    low, high = SHORT_SIDES
    if value is not None and (type(value) is not int or not low <= value <= high):
        raise _must("short_side", f"be a whole number from {low} to {high}, or null")


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: lone surrogates would not come back from JSON as they went in."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _must(key: str, rule: str) -> UserError:
    return UserError(f'The recipe\'s "{key}" must {rule}; change it or make the recipe again.')
