"""Half precision where it is faster: on GPUs, and on processors that have instructions for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16; a processor that only emulates it takes three times as long as with float32."""
    can = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return device.type != "cpu" or bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where the device has bfloat16, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if has_bfloat16(device) else nullcontext()
