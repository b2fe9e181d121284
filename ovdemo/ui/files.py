"""Files for a page to download, in Gradio's own cache, which cleans up after itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from ovdemo.display import picture_jpeg
from ovdemo.images import Picture

_MAX_PHOTOGRAPHS = 1000
_photographs: dict[str, str] = {}  # digest -> path


def file_address(path: str) -> str:
    """Where a page or a client finds a file that :func:`saved` wrote, relative to the page."""
    return f"gradio_api/file={Path(path).as_posix()}"


def photograph_address(picture: Picture) -> str:
    """Where a page finds a photograph: written once for each picture, fetched once by each browser."""
    path = _photographs.get(picture.digest)
    if path is None or not Path(path).is_file():
        [path] = saved([("photograph.jpg", picture_jpeg(picture.pixels))])
        _photographs[picture.digest] = path
        while len(_photographs) > _MAX_PHOTOGRAPHS:
            _photographs.pop(next(iter(_photographs)), None)
    return file_address(path)


def saved(files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write (name, content) pairs, each to a folder named by its content; returns the paths."""
    return [save_bytes_to_cache(content, name, cache_dir=get_upload_folder()) for name, content in files]
