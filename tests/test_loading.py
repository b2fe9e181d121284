"""From a name to a system, with weights from the Hub's stand-in and from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from hub_server import HubServer
from ovdemo import Fusion, UserError, load_picture
from ovdemo.loading import CLIP_PREFIX, empty_network, expected_tensors, load_system, random_network
from ovdemo.systems.registry import VARIANTS, Variant, find_variant

Tensors = dict[str, torch.Tensor]
CLIP_REPOSITORY = "timm/resnet50_clip.openai"


@pytest.fixture
def published(tiny: Variant) -> Tensors:
    """All of a tiny model's tensors, as the authors' training code would save them."""
    return {name: tensor.clone() for name, tensor in random_network(tiny, seed=7).state_dict().items()}


def trained_part(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(CLIP_PREFIX)}


def clip_part(tensors: Tensors) -> Tensors:
    return {n.removeprefix(CLIP_PREFIX): tensor for n, tensor in tensors.items() if n.startswith(CLIP_PREFIX)}


def assert_same_answer(variant: Variant, **how: object) -> None:
    """The loaded system proposes what a network of seed 7 proposes."""
    picture = load_picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    expected = load_system(variant.name, device="cpu", random_weights=True, seed=7)
    found = load_system(variant.name, device="cpu", **how)
    rule = found.resize_rule
    a, b = (system.propose(system.encode(picture, rule)) for system in (expected, found))
    torch.testing.assert_close(b.mask_logits, a.mask_logits)
    torch.testing.assert_close(b.clip_embeddings, a.clip_embeddings)
    prompts = ["a photo of a cat."]
    torch.testing.assert_close(
        found.text_encoder.encode_prompts(prompts), expected.text_encoder.encode_prompts(prompts)
    )


@pytest.mark.parametrize("clip_file", ["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"])
def test_trained_part_and_clip_come_from_their_repositories(
    tiny: Variant,
    published: Tensors,
    hub: HubServer,
    clip_file: str,
) -> None:
    hub.add("someone/tiny", "model.safetensors", save(trained_part(published)))
    hub.add(CLIP_REPOSITORY, clip_file, save(clip_part(published)))
    seen: list[int] = []
    assert_same_answer(tiny, progress=lambda done, total: seen.append(done))
    assert seen[-1] > 0
    hub.close()
    assert_same_answer(tiny)  # from the cache alone


def test_a_file_with_everything_needs_no_network(
    tiny: Variant,
    published: Tensors,
    hub: HubServer,
    tmp_path: Path,
) -> None:
    extra = {"criterion.empty_weight": torch.ones(134), "pixel_mean": torch.zeros(3, 1, 1)}
    renamed = {f"module.{name}": tensor for name, tensor in (published | extra).items()}
    torch.save({"model": renamed, "iteration": 5}, tmp_path / "authors.pth")
    assert_same_answer(tiny, checkpoint=tmp_path / "authors.pth")
    assert not hub.seen("GET")


def test_a_file_with_part_of_clip_is_filled_up(
    tiny: Variant,
    published: Tensors,
    hub: HubServer,
    tmp_path: Path,
) -> None:
    part = {n: t for n, t in published.items() if not n.startswith(CLIP_PREFIX + "transformer.")}
    save_file(part, tmp_path / "part.safetensors")
    hub.add(CLIP_REPOSITORY, "open_clip_model.safetensors", save(clip_part(published)))
    assert_same_answer(tiny, checkpoint=tmp_path / "part.safetensors")


def test_a_wrong_file_from_the_hub_is_one_sentence(tiny: Variant, published: Tensors, hub: HubServer) -> None:
    trained = trained_part(published)
    del trained["void_embedding.weight"]
    trained["sem_seg_head.predictor.query_feat.weight"] = torch.zeros(3, 3)
    hub.add("someone/tiny", "model.safetensors", save(trained))
    with pytest.raises(UserError, match=r"void_embedding\.weight") as error:
        load_system(tiny.name, device="cpu")
    assert "\n" not in str(error.value)


def test_a_variant_without_a_repository_asks_for_the_authors_file() -> None:
    with pytest.raises(UserError, match=r"drive\.google\.com.* --checkpoint"):
        load_system("fcclip-rn50", device="cpu")


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_is_what_its_card_says(name: str) -> None:
    variant = VARIANTS[name]
    expected = expected_tensors(variant, empty_network(variant))
    shapes = {**expected.required, **expected.optional}
    bytes_a_number = 4 if variant.embedded is None else 2

    def megabytes(clip: bool) -> float:
        chosen = [shape for name, shape in shapes.items() if name.startswith(CLIP_PREFIX) == clip]
        return sum(int(np.prod(shape)) for shape in chosen) * bytes_a_number / 1e6

    assert megabytes(clip=False) == pytest.approx(variant.trained_megabytes, abs=0.1)
    assert megabytes(clip=True) == pytest.approx(variant.clip_megabytes, rel=0.005)
    assert bool(expected.optional) == bool(variant.authors_link) == (variant.embedded is None)
    assert len(variant.clip_files) == (3 if variant.embedded is None else 0)
    assert all(file.filename.endswith(".safetensors") for file in variant.clip_files[:1])


def test_published_weights_start_with_the_papers_ensemble() -> None:
    published = [variant.config.fusion for variant in VARIANTS.values() if variant.embedded is None]
    assert set(published) == {Fusion("geometric", 0.4, 0.8, 0.0)}  # the best of its Table 8
    system = load_system("fcclip-embedded", device="cpu", random_weights=True)
    assert system.fusion == find_variant("fcclip-embedded").config.fusion


@pytest.mark.parametrize(("name", "keys"), [("fcclip-convnext-large", "convnext_large"), ("fcclip-rn50", "rn50")])
def test_names_and_shapes_are_the_published_ones(name: str, keys: str) -> None:
    from conftest import HERE, PARITY
    from parity import read_keys

    folder = next(
        (f for f in (PARITY / "fcclip", HERE / "parity_case" / "fcclip") if (f / f"keys_{keys}.tsv").exists()), None
    )
    if folder is None:
        pytest.skip(f"no list of {keys}'s tensor names on this machine")
    rows = [row for file in (f"keys_{keys}.tsv", f"keys_{keys}_clip.tsv") for row in read_keys(folder / file)]
    published = {row: shape for row, shape in rows if not row.startswith("criterion.")}
    ours = {row: tuple(tensor.shape) for row, tensor in empty_network(VARIANTS[name]).state_dict().items()}
    assert ours == published
