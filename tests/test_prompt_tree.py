from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ovdemo.loading import load_system
from ovdemo.nn.prompt_tree import prompt_tree
from ovdemo.systems.registry import Variant
from ovdemo.vocabulary import VILD_14


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12))
def test_every_prompt_sees_itself_and_no_other(prompts: list[list[int]]) -> None:
    tree = prompt_tree(prompts)
    beginnings = {tuple(prompt[: end + 1]) for prompt in prompts for end in range(len(prompt))}
    assert len(tree.tokens) == len(beginnings)  # each once
    for prompt, end in zip(prompts, tree.ends.tolist(), strict=True):
        seen = (~tree.hidden[end]).nonzero()[:, 0]
        assert tree.tokens[seen].tolist() == prompt
        assert tree.depths[seen].tolist() == list(range(len(prompt)))


def test_the_tower_says_the_same_of_a_tree(tiny: Variant) -> None:
    tower = load_system(tiny.name, device="cpu", random_weights=True).text_encoder
    prompts = [prompt for name in ("cat", "traffic light", "cat") for prompt in VILD_14.fill(name)]
    with torch.inference_mode():
        alone = tower.embed_prompts(prompts)  # type: ignore[attr-defined]
    torch.testing.assert_close(tower.encode_prompts(prompts), alone, rtol=1e-4, atol=1e-5)
