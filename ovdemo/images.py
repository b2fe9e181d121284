"""Untrusted bytes in, a checked RGB picture out; and the size a network wants to see it at.

The size limits are checked on a file's header, before a single pixel is decoded, and of an animated or paged file
only the first frame is ever decoded.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from ovdemo.errors import UserError

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
MIN_SIDE = 16
MAX_ASPECT = 20

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_FORMATS_TEXT = "JPEG, PNG, WebP, BMP, GIF or TIFF"
_DEFAULT_NAME = "picture"

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow only warns of a picture between one and two times its own limit; our limit is lower than both.
warnings.simplefilter("error", Image.DecompressionBombWarning)

PictureSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, read-only, upright.
        name: what it was called when it came in, without folders; for display only, never a path.
        digest: SHA-256 over the size and the pixels, in hexadecimal; equal pictures share it.
    """

    pixels: np.ndarray
    name: str
    digest: str

    @property
    def height(self) -> int:
        """Rows of :attr:`pixels`."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns of :attr:`pixels`."""
        return int(self.pixels.shape[1])

    @property
    def stem(self) -> str:
        """The name without its extension, safe as the beginning of a file name."""
        return file_slug(Path(self.name).stem, default=_DEFAULT_NAME)


@dataclass(frozen=True)
class ResizeRule:
    """Shorter side to ``short_side`` unless that takes the longer one above ``long_side``; both in pixels.

    Nothing is enlarged by more than ``enlarge``: to a network, a blown-up thumbnail is unlike any photograph. Only a
    shorter side under ``least`` pixels is enlarged to that all the same: stride 32 would leave too few cells.

    Last, both sides are rounded to multiples of ``multiple``. With a network's stride nothing is padded, which a small
    network that never met padding takes badly, at the price of a slight stretch.
    """

    short_side: int
    long_side: int
    enlarge: float = math.inf
    least: int = 0
    multiple: int = 1

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that a picture of this height and width is resized to, halves rounded up."""
        scale = self.short_side / min(height, width)
        new_height = float(self.short_side) if height <= width else scale * height
        new_width = float(self.short_side) if width <= height else scale * width
        enlarge = max(self.enlarge, self.least / min(height, width))
        shrink = min(1.0, self.long_side / max(new_height, new_width), enlarge / scale)
        if shrink < 1:
            new_height *= shrink
            new_width *= shrink
        return self._rounded(new_height), self._rounded(new_width)

    def _rounded(self, side: float) -> int:
        return max(1, int(side / self.multiple + 0.5)) * self.multiple


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 pixels to ``size``, (height, width): Pillow's bilinear filter, antialiased when shrinking.

    The work is done on 8-bit values, as the published systems do. Returns the same array when the size is unchanged.
    """
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def load_picture(source: PictureSource, name: str | None = None) -> Picture:
    """Decode a picture from a stranger.

    Args:
        source: a path, a file's bytes, an open binary file, a Pillow image, or uint8 pixels of shape (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4). Files may be JPEG, PNG, WebP, BMP, GIF or TIFF; of an animated or
            paged file the first frame is taken.
        name: what to call the picture; by default the file's own name.

    The EXIF orientation is applied, transparency is laid on white, and grey levels deeper than 8 bits are scaled to
    8: 0..65535 to 0..255, or from darkest to brightest where the values are floats or exceed 16 bits.

    Raises:
        UserError: there is no such file, it is not a picture of these formats, it is damaged, or it is over 20 MB,
            over 40 megapixels, under 16 pixels a side or longer than 20 times its shorter side.
    """
    name = _display_name(name or _own_name(source))
    if isinstance(source, np.ndarray):
        return _decode(_from_array(source, name), name)
    if isinstance(source, Image.Image):
        return _decode(source, name)
    data = _read(source, name)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(name) from None
    except Exception as error:  # Pillow's parsers raise whatever they trip over in a hostile header
        raise UserError(
            f"{name} is not a picture that can be read here; save it as {_FORMATS_TEXT} and try again."
        ) from error
    with image:
        return _decode(image, name)


def file_slug(text: str, *, default: str, max_length: int = 60) -> str:
    """Any text as a piece of a file name: ASCII letters, digits, ``.``, ``_`` and ``-``, no dot at either end.

    Accents are dropped and every other run of characters becomes one hyphen. ``default`` is the answer where
    nothing is left.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", ascii_text)
    slug = re.sub(r"\.{2,}", ".", slug).strip(".-")[:max_length].strip(".-")
    return slug or default


def _own_name(source: PictureSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    own = getattr(source, "filename", "") or getattr(source, "name", "")
    return own if isinstance(own, str) else ""


def _display_name(text: str) -> str:
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return "".join(filter(str.isprintable, last)).strip()[:200] or _DEFAULT_NAME


def _read(source: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> bytes:
    """At most the allowed bytes of a file; one byte more than allowed is enough to refuse it."""
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (str, os.PathLike)):
        data = _read_path(source, name)
    else:
        data = source.read(MAX_BYTES + 1)
    if not data:
        raise UserError(f"{name} is empty; choose a picture file.")
    if len(data) > MAX_BYTES:
        raise UserError(
            f"{name} is larger than {MAX_BYTES // 2**20} MB; shrink the picture or save it as a JPEG and try again."
        )
    return data


def _read_path(source: str | os.PathLike[str], name: str) -> bytes:
    try:
        path = Path(source)
        if path.is_dir():
            raise UserError(f"{name} is a folder; choose a picture file in it.")
        # A device or a pipe could block or never end.
        if path.exists() and not path.is_file():
            raise UserError(f"{name} is not an ordinary file; choose a picture file.")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{name} was not found; check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise UserError(f"{name} could not be opened; check the path and that you may read it.") from error


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))) or not pixels.size:
        raise UserError(
            f"{name} is an array of shape {pixels.shape} and type {pixels.dtype}; "
            "give uint8 pixels of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."
        )
    return Image.fromarray(pixels.reshape(pixels.shape[:2]) if grey else pixels)


def _decode(image: Image.Image, name: str) -> Picture:
    _check_size(*image.size, name)
    try:
        image.load()
        orientation = _orientation(image)
        image = _to_rgb(image)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        pixels = np.array(image)
    except Exception as error:  # as in load_picture
        raise UserError(
            f"{name} is damaged or incomplete and cannot be decoded; open it in a picture editor and save it again."
        ) from error
    pixels.setflags(write=False)
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode())
    digest.update(pixels.data)
    return Picture(pixels, name, digest.hexdigest())


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name)
    if min(width, height) < MIN_SIDE:
        raise UserError(
            f"{name} is {width} x {height} pixels; choose a picture of at least {MIN_SIDE} pixels on each side."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(
            f"{name} is {width} x {height} pixels; "
            f"crop it until the longer side is at most {MAX_ASPECT} times the shorter."
        )


def _too_many_pixels(name: str) -> UserError:
    return UserError(f"{name} has more than {MAX_PIXELS // 10**6} megapixels; shrink it and try again.")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; a picture whose EXIF block is broken is still a picture, so that counts as upright."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_deep_to_8_bit(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _deep_to_8_bit(values: np.ndarray) -> np.ndarray:
    """(H, W) grey levels of 16 or 32 bits as uint8, rounded; see :func:`load_picture` for the scale."""
    floats = np.nan_to_num(values.astype(np.float32))
    low, high = 0.0, 65535.0
    if values.dtype.kind == "f" or floats.min() < low or floats.max() > high:
        low, high = float(floats.min()), float(floats.max())
    # Halves keep the difference finite where the values span all of float32.
    span = high / 2 - low / 2
    scaled = (floats / 2 - low / 2) / span if span > 0 else np.zeros_like(floats)
    return np.asarray((scaled * 255 + 0.5).astype(np.uint8))
