"""Prompts as a tree of tokens, so that a causal text tower reads what they begin with in common only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PromptTree:
    """N different beginnings of P prompts: in a causal tower a token's state depends on nothing but those before it.

    Attributes:
        tokens: (N,) int64, the last token of each beginning; parents come before their children.
        depths: (N,) int64, how many tokens come before it, which is its position.
        hidden: (N, N) bool, what a token must not see: everything but its own beginning and itself.
        ends: (P,) int64, the beginning that is the whole of each prompt.
    """

    tokens: Tensor
    depths: Tensor
    hidden: Tensor
    ends: Tensor


def prompt_tree(prompts: Sequence[Sequence[int]]) -> PromptTree:
    """The tree of prompts, each a sequence of at least one token."""
    places: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    lines: list[list[int]] = []  # every node's ancestors and itself
    tokens: list[int] = []
    ends = []
    for prompt in prompts:
        node = -1
        for token in prompt:
            parent, node = node, places.setdefault((node, token), len(tokens))
            if node == len(tokens):
                tokens.append(token)
                lines.append([*(lines[parent] if parent >= 0 else ()), node])
        ends.append(node)
    hidden = torch.ones(len(tokens), len(tokens), dtype=torch.bool)
    for node, line in enumerate(lines):
        hidden[node, line] = False
    depths = torch.tensor([len(line) - 1 for line in lines])
    return PromptTree(torch.tensor(tokens), depths, hidden, torch.tensor(ends))
