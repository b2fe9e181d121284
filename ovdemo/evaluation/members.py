"""Files of a data set by their member path, from a zip archive or a plain folder, neither of them trusted."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ovdemo.errors import UserError
from ovdemo.images import MAX_BYTES

_MAX_DOCUMENT_BYTES = 2**30  # COCO's largest panoptic annotations take a quarter


class Members(Protocol):
    """Something to read files from."""

    def read(self, path: str) -> bytes:
        """The content of one file of at most 20 MB.

        Raises:
            UserError: it is absent, too large or damaged.
        """


class ZipMembers:
    """The members of a zip archive, which stays open: its index is long."""

    def __init__(self, path: Path) -> None:
        """Open the archive.

        Raises:
            UserError: it is not a zip archive, or cannot be read.
        """
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path.name} cannot be read as a zip archive; copy it again.") from error
        self._name = path.name

    def read(self, path: str) -> bytes:
        """One member, see :meth:`Members.read`."""
        try:
            info = self._archive.getinfo(path)
        except KeyError:
            raise UserError(f"{path} is not in {self._name}; check the index of the data set.") from None
        if info.file_size > MAX_BYTES:
            raise _too_large(path)
        try:
            return self._archive.read(info)
        # RuntimeError: encrypted; NotImplementedError: a compression that Python lacks
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise UserError(f"{path} in {self._name} is damaged; copy the archive again.") from error


class FolderMembers:
    """The files under a folder, and none outside of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def read(self, path: str) -> bytes:
        """One file, see :meth:`Members.read`."""
        try:
            file = (self._folder / path).resolve()
            if not file.is_relative_to(self._folder) or not file.is_file():
                raise UserError(f"{path} is not in {self._folder.name}; check the index of the data set.")
            with file.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            raise UserError(f"{path} cannot be read; check that you may read it.") from error
        if len(data) > MAX_BYTES:
            raise _too_large(path)
        return data


def read_json(path: Path) -> Any:
    """A JSON document of at most 1 GiB.

    Raises:
        UserError: it cannot be read or is not JSON.
    """
    return _parse_json(_read_document(path), path.name)


def read_json_lines(path: Path) -> list[Any]:
    """One JSON value a line, empty lines skipped.

    Raises:
        UserError: the file cannot be read, or a line is not JSON.
    """
    lines = _read_document(path).splitlines()
    return [_parse_json(line, f"{path.name}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]


def read_label_map(data: bytes, size: tuple[int, int], name: str) -> np.ndarray:
    """A PNG of ids as an (H, W) int32 map: grey and palette values as they are, RGB as ``R + 256 G + 65536 B``.

    Args:
        data: the file.
        size: (H, W) of the picture it belongs to; checked on the header, before a pixel is decoded.
        name: for messages.

    Raises:
        UserError: it is no such PNG, or of another size.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != size[::-1]:
                raise UserError(f"{name} is {image.width} x {image.height}, and its picture {size[1]} x {size[0]}.")
            if image.mode not in {"L", "P", "I", "I;16", "RGB"}:
                raise UserError(f"{name} is a PNG of mode {image.mode}; labels are grey, palette or RGB.")
            values = np.asarray(image).astype(np.int32)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name} is not a PNG that can be read; copy it again.") from error
    return values @ np.array([1, 256, 65536], np.int32) if values.ndim == 3 else values


def _read_document(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_DOCUMENT_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read in {path.parent}; check the path.") from error
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise UserError(f"{path.name} is larger than {_MAX_DOCUMENT_BYTES // 2**20} MiB; split it.")
    return text


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: this is not JSON; copy the file again.") from error


def _too_large(path: str) -> UserError:
    return UserError(f"{path} is larger than {MAX_BYTES // 2**20} MB; shrink it.")
