"""Muon for matrices and kernels, AdamW for the rest: on a short schedule, a third fewer steps than AdamW alone."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor, nn

from ovdemo.training.precision import has_bfloat16

_NEWTON_STEPS = 4  # towards the orthogonal factor; on a CPU each costs as much as a small batch
_NEWTON = (3.4445, -4.775, 2.0315)  # Jordan et al. 2024
_MOMENTUM = 0.9


class MatrixOptimiser:
    """Steps along orthogonalised momentum where a weight is a matrix (Jordan et al. 2024, Muon), else AdamW's.

    A convolution's kernel counts as the matrix from everything it sees to its outputs; depthwise kernels, tables of
    embeddings and the first layer's few inputs are no such matrices.

    PyTorch's own and timm's Muon orthogonalise in bfloat16, which many CPUs can only imitate: there that alone took
    seven times as long as all the rest of a step. On these it is float32 here; matrices of a shape are turned at once.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        tables = {table.weight for table in module.modules() if isinstance(table, nn.Embedding)}
        self._kernels = [parameter for parameter in trained if _is_matrix(parameter) and parameter not in tables]
        self._momenta = [torch.zeros_like(_as_matrix(kernel.data, kernel)) for kernel in self._kernels]
        self._alike: defaultdict[torch.Size, list[int]] = defaultdict(list)
        for place, momentum in enumerate(self._momenta):
            self._alike[momentum.shape].append(place)
        kernels = set(self._kernels)
        rest = [parameter for parameter in trained if parameter not in kernels]
        self._adam = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self._trained, self._decay = trained, decay

    def step(self, loss: Tensor, rate: float) -> None:
        """Differentiate a loss and move all weights at a learning rate.

        Gradients are clipped to a norm of 1: neither optimiser sees a constant factor, so this only evens steps out.
        """
        for parameter in self._trained:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        for places in self._alike.values():
            self._turn(places, rate)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()

    @torch.no_grad()
    def _turn(self, places: list[int], rate: float) -> None:
        """Move the matrices of one shape: momentum (Nesterov's), orthogonalised, as long as AdamW's steps are."""
        updates = []
        for place in places:
            gradient = self._kernels[place].grad
            assert gradient is not None
            matrix = _as_matrix(gradient, self._kernels[place])
            self._momenta[place].lerp_(matrix, 1 - _MOMENTUM)
            updates.append(matrix.lerp(self._momenta[place], _MOMENTUM))
        stacked = torch.stack(updates)
        dtype = torch.bfloat16 if has_bfloat16(stacked.device) else torch.float32
        turned = zeropower_via_newtonschulz(stacked, _NEWTON_STEPS, [_NEWTON], dtype=dtype)
        length = rate * get_lr_scale(turned.shape[1:], "match_rms_adamw")
        for place, direction in zip(places, turned, strict=True):
            matrix = _as_matrix(self._kernels[place].data, self._kernels[place])  # a view: a step on it is one on both
            matrix.mul_(1 - rate * self._decay).add_(direction, alpha=-length)

    def state(self) -> dict[str, Any]:
        """Moments of both, for ``torch.save``."""
        return {"momenta": self._momenta, "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for momentum, saved in zip(self._momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        self._adam.load_state_dict(state["adam"])


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim in (2, 4) and parameter[0].numel() >= 48 and parameter.shape[1] > 1


def _as_matrix(values: Tensor, kernel: Tensor) -> Tensor:
    """(out, in) or (out, in, h, w) -> (out, inputs), in the order in which the kernel lies in memory."""
    if kernel.ndim == 4 and kernel.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(len(values), -1)
