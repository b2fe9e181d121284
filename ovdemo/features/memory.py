"""How much memory there is, so that what would not fit is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import torch

_SHARE = 0.7  # of what is free; the rest is for everybody else, and for what an estimate misses
_UNKNOWN = 4 * 2**30  # bytes, where the system does not say


def memory_budget(device: torch.device) -> int:
    """Bytes that one computation may take on a device: a share of what is free there now.

    On a CPU that is the least of what Linux reports as available and what the control group, such as a container's,
    has left; systems that report neither are taken to have 4 GiB.
    """
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[0])
    known = [found for found in (_machine_free(), _group_free()) if found is not None]
    return int(_SHARE * min(known, default=_UNKNOWN))


def _machine_free() -> int | None:
    """``MemAvailable`` of https://man7.org/linux/man-pages/man5/proc_meminfo.5.html."""
    fields = _fields(Path("/proc/meminfo"))
    return fields["MemAvailable:"] * 1024 if "MemAvailable:" in fields else None


def _group_free(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of the control group (version 2) leaves; files in the page cache do not count as used."""
    try:
        limit = int((root / "memory.max").read_text())
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or the limit reads "max"
        return None
    return max(0, limit - used + _fields(root / "memory.stat").get("inactive_file", 0))


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of lines ``name value …``; empty where there is no such file."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) >= 2 and line[1].isdigit()}
