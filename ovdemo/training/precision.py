"""Half precision where it is faster: on GPUs, and on processors that have instructions for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast, or nothing on a processor that would only emulate it, three times slower than float32."""
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        if not (can.get("avx512_bf16") or can.get("amx_bf16")):
            return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
