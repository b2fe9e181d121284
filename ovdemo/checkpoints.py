"""Files of weights: named on the Hub, read without running anything in them, matched against a model, and written.

Nothing here knows a system: it says which names and shapes it needs (:class:`Expected`), and gets the tensors under
its own names (:class:`MatchReport`) or one sentence. :mod:`ovdemo.hub` downloads the files.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovdemo.errors import UserError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system answers when a file does not fit: disk full, quota used up, larger than a file may be."""

_HEAD_BYTES = 512
_SAFETENSORS_HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_NESTED = ("model", "state_dict")
_SIGNS_OF_CODE = ("unsupported global", "unsupported class", "torchscript")  # in what torch.load answers
_MAX_WRAPPERS = 8  # of names like "model.module.…"; names come from strangers, so the search is bounded
_NAMED = 3  # names that an error spells out
_LONGEST_SHOWN = 80  # characters of an unexpected name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """One file on the Hugging Face Hub.

    Attributes:
        repo: ``owner/name``.
        filename: path inside the repository.
        revision: branch, tag or commit.
        size: bytes where known, for messages and for progress before the first byte.
        sha256: 64 hexadecimal digits, checked where known.
    """

    repo: str
    filename: str
    revision: str = "main"
    size: int | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}/{self.filename}"


@dataclass(frozen=True)
class Expected:
    """Names and shapes that a model takes from a file.

    Attributes:
        required: every one must be there with exactly its shape.
        optional: may be absent, wholly or in part; what is there must have its shape.
        ignored: glob patterns (``*`` and ``?``) of names that a file may hold and nobody needs.
    """

    required: Mapping[str, tuple[int, ...]]
    optional: Mapping[str, tuple[int, ...]]
    ignored: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class MatchReport:
    """What of a file fits a model.

    Attributes:
        tensors: by official name: all required and the optional ones found; finite, floating point as float32.
        prefix: stripped from the file's names, usually empty.
        missing_optional: official names that the file lacks.
        unexpected: names as the file has them that are neither expected nor ignored.
    """

    tensors: dict[str, Tensor]
    prefix: str
    missing_optional: tuple[str, ...]
    unexpected: tuple[str, ...]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or a torch pickle, told apart by content, on the CPU.

    A pickle is read with ``weights_only=True`` and memory-mapped where its format allows. The tensors are taken from
    under ``model`` or ``state_dict`` where there are any, else from the top level; all other entries are dropped.

    Raises:
        UserError: there is no such file, it is something else, it is damaged, or it holds code.
    """
    head = _read_head(path)
    if _is_safetensors(head):
        content: object = _load_safetensors(path)
    elif head.startswith((_ZIP, _PICKLE)):
        content = _load_pickle(path, zipped=head.startswith(_ZIP))
    else:
        raise UserError(_describe_stray(path, head))
    tensors = _find_tensors(content)
    if not tensors:
        raise UserError(
            f'{path} holds no tensors, neither at its top level nor under "model" or "state_dict": '
            "check that it is a checkpoint."
        )
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself, without reading its tensors; nothing for any other file.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    if not _is_safetensors(_read_head(path)):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged_safetensors(path) from error


def match(tensors: Mapping[str, Tensor], expected: Expected, source: str) -> MatchReport:
    """Bring a file's tensors to the names a model expects.

    Names may be the official ones, or all stand behind one common prefix such as ``module.`` or ``model.module.``;
    the shortest prefix that explains most required names is stripped. Unexpected names are logged, never an error.

    Args:
        tensors: by the file's names.
        expected: names and shapes.
        source: what the sentence of an error begins with: the file, and what it was taken for.

    Raises:
        UserError: a required tensor is missing, one has another shape, or one holds NaN or infinite values.
    """
    prefix = _common_prefix(tensors, expected.required)
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    _check_names_and_shapes(named, expected, source)
    known = {**expected.required, **expected.optional}
    used = {name: _as_float32(named[name]) for name in known if name in named}
    _check_finite(used, source)
    unexpected = tuple(name for name in tensors if not _is_known(name, prefix, known, expected.ignored))
    if unexpected:
        shown = _few([repr(name[:_LONGEST_SHOWN]) for name in unexpected])  # a stranger's words
        log.warning("%s holds %d tensors that nothing takes: %s", source, len(unexpected), shown)
    missing_optional = tuple(name for name in expected.optional if name not in named)
    return MatchReport(used, prefix, missing_optional, unexpected)


def save_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and text to a safetensors file: wholly or not at all, replacing what was there.

    Raises:
        UserError: the disk is full, or the folder is missing or not writable.
    """
    content = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        _write_and_replace(content, path, dict(metadata))
    except (OSError, SafetensorError) as error:
        code = _system_error(error)
        if code is None:
            raise
        size = sum(tensor.nbytes for tensor in content.values())
        raise UserError(_describe_write(path, code, size)) from error


def room_to_make(folder: Path, needed: int | None) -> str:
    """What to do where ``needed`` bytes do not fit into a folder, as a clause: "free at least 12 MB in FOLDER"."""
    if needed is not None and (short := needed - free_bytes(folder)) > 0:
        return f"free at least {math.ceil(short / 1e6)} MB in {folder}"
    return f"free some space in {folder}"


def free_bytes(folder: Path) -> int:
    """Bytes that a user may still write where the folder is, or will be once it is made."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}: check the path to the checkpoint.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: name the checkpoint file in it.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions and the disk.") from error


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of length, little-endian, then a JSON object of that length: https://github.com/huggingface/safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER_LIMIT


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged_safetensors(path) from error
    return tensors


def _damaged_safetensors(path: Path) -> UserError:
    return UserError(f"{path} is a damaged or truncated safetensors file: delete it and download it again.")


def _load_pickle(path: Path, zipped: bool) -> object:
    # Only a zip can be mapped, and only by name; given a name, torch.load takes this suffix at its word.
    mapped = zipped and not path.name.endswith(".safetensors")
    try:
        with path.open("rb") as stream:
            source = path if mapped else stream
            content: object = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a pickle cut at any byte can raise anything
        if any(sign in str(error).lower() for sign in _SIGNS_OF_CODE):
            raise UserError(
                f"{path} is a pickle with more than tensors in it, which could run code and is therefore not loaded: "
                "download it again as safetensors, or have it saved anew as a plain dict of tensors."
            ) from error
        raise UserError(f"{path} is a damaged or truncated torch file: delete it and download it again.") from error
    return content


def _describe_stray(path: Path, head: bytes) -> str:
    """The sentence for a file that is neither safetensors nor a torch pickle, by what its first bytes look like."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return f"{path} is empty: delete it and download it again."
    if text.startswith(b"version https://git-lfs"):
        return f"{path} is a git-lfs pointer and not the file itself: run git lfs pull, or download the file by itself."
    if text.startswith((b"<!doctype html", b"<html")):
        return (
            f"{path} is an HTML page that was saved in place of the checkpoint: "
            "open the download link in a browser and save the file itself."
        )
    return (
        f"{path} is neither a safetensors file nor a torch checkpoint, or it is damaged: "
        "check that it is the right file, else delete it and download it again."
    )


def _find_tensors(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for part in (*(content.get(name) for name in _NESTED), content):
        if isinstance(part, Mapping) and (found := {k: v for k, v in part.items() if _is_named_tensor(k, v)}):
            return found
    return {}


def _is_named_tensor(name: object, value: object) -> bool:
    if not (isinstance(name, str) and isinstance(value, Tensor)):
        return False
    return value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized


def _common_prefix(names: Mapping[str, Any], required: Mapping[str, Any]) -> str:
    hits = Counter(
        prefix for name in names for prefix in _possible_prefixes(name) if name.removeprefix(prefix) in required
    )
    return min(hits, key=lambda prefix: (-hits[prefix], len(prefix), prefix), default="")


def _possible_prefixes(name: str) -> Iterator[str]:
    """``a.b.c`` may stand behind nothing, ``a.`` or ``a.b.``."""
    parts = name.split(".", _MAX_WRAPPERS)[:-1]
    return accumulate((part + "." for part in parts), initial="")


def _is_known(name: str, prefix: str, known: Mapping[str, Any], ignored: Sequence[str]) -> bool:
    official = name.removeprefix(prefix)
    if name.startswith(prefix) and official in known:
        return True
    return any(fnmatchcase(official, pattern) for pattern in ignored)


def _check_names_and_shapes(named: Mapping[str, Tensor], expected: Expected, source: str) -> None:
    known = {**expected.optional, **expected.required}
    missing = [name for name in expected.required if name not in named]
    misshaped = [name for name, shape in known.items() if name in named and tuple(named[name].shape) != shape]
    if not missing and not misshaped:
        return
    fitting = len(expected.required) - len(missing) - sum(name in expected.required for name in misshaped)
    faults = [f"missing: {_few(missing)}"] if missing else []
    if misshaped:
        shapes = [f"{name} is {_shape(named[name].shape)} instead of {_shape(known[name])}" for name in misshaped]
        faults.append(f"wrong shape: {_few(shapes)}")
    raise UserError(
        f"{source} holds {fitting} of the {len(expected.required)} tensors that are needed ({'; '.join(faults)}): "
        "check that it is not the file of another variant."
    )


def _check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    broken = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if broken:
        raise UserError(
            f"{source} is damaged, with NaN or infinite values in {len(broken)} of its tensors ({_few(broken)}): "
            "delete it and download it again."
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # NaN passes through both extremes; unlike isfinite over everything this needs no memory and little time.
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def _as_float32(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.float() if tensor.is_floating_point() else tensor


def _few(items: Sequence[str]) -> str:
    rest = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "a scalar"


def _write_and_replace(content: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        safetensors.torch.save_file(content, part, metadata=metadata)
        part.chmod(mode)  # safetensors makes files that only their owner can read
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _system_error(error: Exception) -> int | None:
    """The errno behind an error; safetensors keeps it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _describe_write(path: Path, code: int, size: int) -> str:
    if code in NO_ROOM:
        return f"{path} does not fit on the disk: {room_to_make(path.parent, size)} and try again."
    if code == errno.ENOENT:
        return f"{path} cannot be written because there is no folder {path.parent}: make it first."
    return f"{path} cannot be written ({os.strerror(code)}): check what is there and the permissions of {path.parent}."
