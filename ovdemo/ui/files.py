"""Files for a page to download, in Gradio's own cache, which cleans up after itself."""

from __future__ import annotations

from collections.abc import Iterable

from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder


def saved(files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write (name, content) pairs, each to a folder named by its content; returns the paths."""
    return [save_bytes_to_cache(content, name, cache_dir=get_upload_folder()) for name, content in files]
