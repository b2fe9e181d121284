"""What sources read is what the networks themselves compute, at any size, within memory, with published weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import resize_pos_embed
from safetensors.torch import save
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from hub_server import HubServer
from ovdemo import paths
from ovdemo.features import SIZES, SOURCES, FeatureSource, find_source, input_size, load_source, system_source
from ovdemo.features import catalogue as catalogue_module
from ovdemo.features import memory as memory_module
from ovdemo.features.catalogue import SourceCard, TimmConfig, VariantConfig
from ovdemo.features.convolutional import ConvolutionalSource
from ovdemo.features.memory import memory_budget
from ovdemo.features.transformers import ClipTransformerSource, TimmSource
from ovdemo.images import Picture, load_picture
from ovdemo.loading import load_system
from ovdemo.nn.clip import ClipConfig, ClipTower, ConvNeXtTower, clip_tower
from ovdemo.systems.fcclip import FCCLIP
from ovdemo.systems.registry import VARIANTS, Variant
from sentences import failure
from tiny import tiny_config

CPU = torch.device("cpu")
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TINY_VIT = ClipConfig(
    "ViT-B-16",
    "openai",
    quick_gelu=True,
    architecture={
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": TEXT,
    },
)
TINY_DINO = TimmConfig(
    "vit_base_patch14_dinov2",
    {"dynamic_img_size": True, "img_size": 70, "embed_dim": 32, "depth": 3, "num_heads": 2},
)
TINY_SAM = TimmConfig(
    "samvit_base_patch16",
    {"img_size": 128, "embed_dim": 32, "depth": 3, "num_heads": 2, "window_size": 2, "neck_chans": 8},
)


def noise(height: int, width: int) -> Picture:
    return load_picture(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def tiny_vit() -> ClipTransformerSource:
    return ClipTransformerSource("vit", "Tiny ViT", ClipTower(TINY_VIT))


def tiny_cnn(*, resnet: bool = False) -> ConvolutionalSource:
    return ConvolutionalSource("cnn", "Tiny CNN", clip_tower(tiny_config(resnet=resnet).clip))


def tiny_timm(config: TimmConfig) -> TimmSource:
    return TimmSource("timm", "Tiny transformer", timm.create_model(config.name, **config.overrides))


def card(config: ClipConfig | TimmConfig) -> SourceCard:
    return SourceCard("tiny", "Tiny", "ViT", 1, "none", config)


# The size of the input


@given(
    height=st.integers(16, 4000),
    width=st.integers(16, 4000),
    size=st.integers(*SIZES),
    divisor=st.sampled_from([14, 32]),
)
def test_inputs_keep_area_and_shape(height: int, width: int, size: int, divisor: int) -> None:
    rows, columns = input_size((height, width), size, divisor)
    assert rows % divisor == columns % divisor == 0
    assert min(rows, columns) >= divisor
    exact = size * (height / width) ** 0.5, size * (width / height) ** 0.5
    for side, ideal in zip((rows, columns), exact, strict=True):
        assert abs(side - ideal) <= divisor / 2 + 1e-6 or (side == divisor and ideal < divisor)


def test_a_square_is_as_large_as_asked_for() -> None:
    assert input_size((300, 300), 224, 14) == (224, 224)


@pytest.mark.parametrize("size", [0, 63, 1121, 10**9])
def test_sizes_are_bounded(size: int) -> None:
    failure(lambda: tiny_cnn().features(noise(64, 64), size, "res2"), "64", "1120", str(size))


# Convolutional towers


@pytest.mark.parametrize("resnet", [False, True])
def test_stages_are_the_tower_s_own(resnet: bool) -> None:
    source = tiny_cnn(resnet=resnet)
    picture = noise(96, 192)
    maps = source.encode(picture, 128, [layer.name for layer in source.layers])
    height, width = input_size((96, 192), 128, 32)
    for layer, found in zip(source.layers, maps, strict=True):
        assert found.grid == (height // layer.stride, width // layer.stride)
        assert found.values.shape[2] == layer.channels
        assert (found.values.dtype, found.source, found.size, found.picture) == (np.float32, "cnn", 128, (96, 192))
        assert found.layer is layer
    with torch.inference_mode():
        stages = source.text_encoder.stages(source._image(picture, (height, width)))
    for found in maps[:4]:
        np.testing.assert_array_equal(found.values, stages[found.layer.name][0].permute(1, 2, 0).numpy())


def test_the_projected_map_of_a_convnext_is_its_head_at_every_cell() -> None:
    source = tiny_cnn()
    tower = source.text_encoder
    assert isinstance(tower, ConvNeXtTower)
    dense, projected = source.encode(noise(128, 160), 160, ("res5", "projected"))
    visual = tower.clip_model.visual
    cells = torch.tensor(dense.values).flatten(0, 1)
    with torch.inference_mode():
        expected = visual.head(visual.trunk.head.norm(cells[:, :, None, None]).flatten(1))
    np.testing.assert_allclose(projected.values.reshape(len(cells), -1), expected.numpy(), atol=1e-5)
    assert projected.layer.projected
    assert not dense.layer.projected


def test_the_projected_map_of_a_resnet_embeds_masks_of_one_cell() -> None:
    source = tiny_cnn(resnet=True)
    dense, projected = source.encode(noise(128, 160), 160, ("res5", "projected"))
    mask = torch.full(dense.grid, -1.0)
    mask[1, 2] = 1
    with torch.inference_mode():
        features = torch.tensor(dense.values).permute(2, 0, 1)[None]
        expected = source.text_encoder.embed_masks(features, mask[None, None])[0, 0]
    np.testing.assert_allclose(projected.values[1, 2], expected.numpy(), atol=1e-5)


def test_a_system_s_source_has_its_pixel_decoder(tiny: Variant) -> None:
    system = load_system(tiny.name, device="cpu", random_weights=True)
    assert isinstance(system, FCCLIP)
    source = system_source(system, "mine", "Mine")
    names = ("decoder-32", "decoder-16", "decoder-8", "mask-features")
    picture = noise(128, 128)
    maps = source.encode(picture, 128, names)
    with torch.inference_mode():
        stages = source.text_encoder.stages(source._image(picture, (128, 128)))
        pixels = system.network.sem_seg_head.pixel_decoder({n: s.contiguous() for n, s in stages.items()})
    for found, expected in zip(maps, (*pixels.memory, pixels.mask_features), strict=True):
        np.testing.assert_array_equal(found.values, expected[0].permute(1, 2, 0).numpy())
        assert found.grid == (128 // found.layer.stride,) * 2


# Vision transformers


def test_at_the_native_size_a_vit_is_bit_by_bit_open_clip_s() -> None:
    source = tiny_vit()
    visual = source._visual
    picture = noise(80, 80)
    maps = source.encode(picture, 64, ["projected", "block-3", "block-1"])
    visual.output_tokens = True
    with torch.inference_mode():
        image = source._image(picture, (64, 64))
        blocks = visual.forward_intermediates(image)["image_intermediates"]
        _, tokens = visual(image)
    for found, expected in ((maps[1], blocks[2]), (maps[2], blocks[0])):
        np.testing.assert_array_equal(found.values, expected[0].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(maps[0].values.reshape(16, -1), (tokens @ visual.proj)[0].detach().numpy())


@pytest.mark.parametrize(("size", "grid"), [(64, (4, 4)), (96, (4, 9)), (160, (7, 14)), (128, (11, 6))])
def test_positions_at_other_sizes_are_open_clip_s(size: int, grid: tuple[int, int]) -> None:
    """open_clip itself builds a model for the grid, and resizes the positions when it loads the weights."""
    source = tiny_vit()
    height, width = 16 * grid[0], 16 * grid[1]
    picture = noise(height, width)
    asked = round((height * width) ** 0.5)
    [found] = source.encode(picture, asked, ["block-2"])
    assert found.grid == grid
    assert TINY_VIT.architecture is not None
    vision = {**TINY_VIT.architecture["vision_cfg"], "image_size": (height, width)}
    other = open_clip.CLIP(**{**TINY_VIT.architecture, "vision_cfg": vision}, quick_gelu=True).eval()
    weights = dict(source.text_encoder.clip_model.state_dict())
    resize_pos_embed(weights, other)
    other.load_state_dict(weights)
    with torch.inference_mode():
        image = source._image(picture, (height, width))
        expected = other.visual.forward_intermediates(image, indices=[1])["image_intermediates"][0]
    np.testing.assert_allclose(found.values, expected[0].permute(1, 2, 0).numpy(), atol=2e-6)


@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (3, 9), (20, 2)])
def test_interpolated_positions_are_bit_by_bit_open_clip_s(grid: tuple[int, int]) -> None:
    table = tiny_vit()._visual.positional_embedding.detach()
    weights = {"visual.positional_embedding": table}
    resize_pos_embed(weights, SimpleNamespace(visual=SimpleNamespace(grid_size=grid)))
    assert torch.equal(resample_abs_pos_embed(table[None], list(grid))[0], weights["visual.positional_embedding"])


def test_attention_is_fused_so_that_no_map_of_all_pairs_of_tokens_is_held() -> None:
    source = tiny_vit()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        source.features(noise(64, 64), 64, "projected")
    called = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in called
    assert "aten::_native_multi_head_attention" not in called


def test_a_long_picture_with_the_native_number_of_cells_has_its_positions_resized() -> None:
    source = tiny_vit()
    table = source._visual.positional_embedding
    with torch.no_grad():
        table[1:] = (torch.arange(16)[:, None] // 4) * torch.randn(32)  # rows of the native grid differ, columns do not
    [resized] = source.encode(load_picture(np.zeros((32, 128, 3), np.uint8)), 64, ["block-1"])
    assert resized.grid == (2, 8)
    assert np.ptp(resized.values[0], axis=0).max() < 1e-5
    assert np.abs(resized.values[0] - resized.values[1]).max() > 1e-3


@pytest.mark.parametrize(("config", "size"), [(TINY_DINO, 70), (TINY_SAM, 128)])
def test_at_the_native_size_timm_s_blocks_are_its_own(config: TimmConfig, size: int) -> None:
    source = tiny_timm(config)
    picture = noise(size, size)
    last, first = source.encode(picture, size, ("block-3", "block-1"))
    with torch.inference_mode():
        _, blocks = source._model.forward_intermediates(source._image(picture, (size, size)))
    for found, expected in ((last, blocks[2]), (first, blocks[0])):
        np.testing.assert_array_equal(found.values, expected[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("config", [TINY_DINO, TINY_SAM])
def test_timm_s_transformers_take_any_size_and_shape(config: TimmConfig) -> None:
    source = tiny_timm(config)
    wide = source.features(noise(64, 160), 112, "block-2")
    assert wide.grid == tuple(side // source.divisor for side in input_size((64, 160), 112, source.divisor))
    assert np.isfinite(wide.values).all()


def test_pixels_are_normalised_as_the_network_was_trained() -> None:
    white = load_picture(np.full((70, 70, 3), 255, np.uint8))
    image = tiny_timm(TINY_DINO)._image(white, (70, 70))
    expected = [(1 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    torch.testing.assert_close(image[0, :, 0, 0], torch.tensor(expected), atol=1e-5, rtol=1e-5)


# Words, layers and memory


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_words_and_projected_features_share_a_space(make: Callable[[], FeatureSource]) -> None:
    source = make()
    projected = next(layer for layer in source.layers if layer.projected)
    assert source.text_encoder is not None
    assert source.text_encoder.width == projected.channels == source.text_encoder.encode_prompts(["a cat"]).shape[1]


def test_a_source_without_words_has_no_projected_layer() -> None:
    source = tiny_timm(TINY_DINO)
    assert source.text_encoder is None
    assert not any(layer.projected for layer in source.layers)


def test_a_layer_that_is_not_there() -> None:
    failure(lambda: tiny_vit().features(noise(64, 64), 64, "block-4"), "Tiny ViT", "block-4", "block-3", "projected")


def test_what_does_not_fit_into_memory_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_vit()
    picture = noise(64, 64)
    monkeypatch.setattr(source, "_read", lambda *_: pytest.fail("started"))
    budget = source.bytes_needed((64, 64), 448)
    failure(lambda: source.features(picture, 1120, "block-1", budget=budget), "1120 px", "choose 448 px or less")
    failure(lambda: source.features(picture, 64, "block-1", budget=0), "0.0 GB", "close other programs")
    monkeypatch.setattr("ovdemo.features.sources.memory_budget", lambda device: budget)
    failure(lambda: source.features(picture, 1120, "block-1"), "choose 448 px or less")


@pytest.mark.parametrize(
    "make",
    [tiny_cnn, lambda: tiny_cnn(resnet=True), tiny_vit, lambda: tiny_timm(TINY_DINO), lambda: tiny_timm(TINY_SAM)],
)
def test_the_estimate_grows_with_the_size_and_covers_what_is_kept(make: Callable[[], FeatureSource]) -> None:
    source = make()
    sizes = [source.bytes_needed((480, 640), size) for size in range(64, 1121, 32)]
    assert sizes == sorted(sizes)
    maps = source.encode(noise(480, 640), 224, [layer.name for layer in source.layers])
    assert source.bytes_needed((480, 640), 224) > sum(found.values.nbytes for found in maps)
    assert source.largest_size((480, 640), sizes[5]) == 64 + 5 * 32
    assert source.largest_size((480, 640), 0) is None


def test_relative_positions_cost_the_square_of_the_tokens() -> None:
    sam, dino = tiny_timm(TINY_SAM), tiny_timm(TINY_DINO)
    tokens = 70 * 70 + 1
    assert sam.bytes_needed((100, 100), 1120) > 4 * 2 * tokens**2
    assert dino.bytes_needed((100, 100), 1120) < tokens**2


def test_the_budget_is_what_the_container_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "group"
    root.mkdir()
    (root / "memory.max").write_text("1000000\n")
    (root / "memory.current").write_text("600000\n")
    (root / "memory.stat").write_text("anon 350000\ninactive_file 250000\n")
    assert memory_module._group_free(root) == 650000
    (root / "memory.max").write_text("max\n")
    assert memory_module._group_free(root) is None
    assert memory_module._group_free(root / "nowhere") is None
    monkeypatch.setattr(memory_module, "_machine_free", lambda: None)
    monkeypatch.setattr(memory_module, "_group_free", lambda: None)
    assert memory_budget(CPU) == int(0.7 * 4 * 2**30)
    monkeypatch.setattr(memory_module, "_group_free", lambda: 1000)
    assert memory_budget(CPU) == 700


# Weights


def test_the_embedded_source_needs_no_network(hub: HubServer) -> None:
    if not (paths.CHECKPOINTS / "fcclip-embedded.safetensors").exists():
        pytest.skip("the embedded weights are not in this checkout")
    hub.close()
    assert find_source("embedded").availability == "embedded"
    source = load_source("embedded", device="cpu")
    assert source.layers == find_source("embedded").layers
    assert source.features(noise(64, 64), 64, "projected").values.shape == (2, 2, source.text_encoder.width)


@pytest.mark.parametrize("config", [TINY_VIT, tiny_config(resnet=True).clip, tiny_config().clip, TINY_DINO, TINY_SAM])
def test_weights_come_from_the_hub_once(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, config: ClipConfig | TimmConfig
) -> None:
    monkeypatch.setattr(catalogue_module, "SOURCES", {"tiny": card(config)})
    published: nn.Module
    if isinstance(config, TimmConfig):
        published = timm.create_model(config.name, **config.overrides)
        for parameter in published.parameters():
            nn.init.normal_(parameter, std=0.1)
    else:
        published = config.build()
    tensors = {name: tensor.contiguous() for name, tensor in published.state_dict().items()}
    file = card(config).files[0]
    hub.add(file.repo, file.filename, save(tensors))
    assert card(config).availability == "to download"
    seen: list[int] = []
    source = load_source("tiny", device="cpu", progress=lambda done, total: seen.append(done))
    assert card(config).availability == "downloaded"
    assert seen[-1] == len(save(tensors))
    hub.close()
    again = load_source("tiny", device="cpu")
    if isinstance(config, TimmConfig):
        expected: FeatureSource = TimmSource("tiny", "Tiny", published)
    elif config is TINY_VIT:
        expected = catalogue_module._as_source(card(config), _with_weights(ClipTower(config), published))
    else:
        expected = catalogue_module._as_source(card(config), _with_weights(clip_tower(config), published))
    names = [layer.name for layer in expected.layers]
    maps = [each.encode(noise(96, 96), 112, names) for each in (expected, source, again)]
    for reference, *others in zip(*maps, strict=True):
        for other in others:
            np.testing.assert_allclose(other.values, reference.values, atol=1e-5)
    if source.text_encoder is not None and expected.text_encoder is not None:
        prompts = ["a photo of a cat."]
        torch.testing.assert_close(
            source.text_encoder.encode_prompts(prompts), expected.text_encoder.encode_prompts(prompts)
        )


def _with_weights(tower: ClipTower, published: nn.Module) -> ClipTower:
    tower.clip_model.load_state_dict(published.state_dict())
    return tower


def test_a_missing_network_is_a_sentence(hub: HubServer) -> None:
    hub.close()
    for name in ("vit-b-16", "dinov2-b-14", "rn50"):
        failure(lambda name=name: load_source(name, device="cpu"), "check the network")


def test_a_wrong_file_is_a_sentence(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "SOURCES", {"tiny": card(TINY_DINO)})
    file = card(TINY_DINO).files[0]
    hub.add(file.repo, file.filename, save({"norm.weight": torch.zeros(3)}))
    failure(lambda: load_source("tiny", device="cpu"), "as Tiny", "check that it is not the file of another variant")


def test_too_little_memory_to_load_is_a_sentence(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "memory_budget", lambda device: 10**9)
    failure(lambda: load_source("vit-l-14", device="cpu"), "3.4 GB", "1.0 GB")
    assert not hub.requests


def test_names_nobody_knows_are_a_sentence() -> None:
    failure(lambda: load_source("vgg"), '"vgg"', "vit-b-16")


def test_there_is_a_source_for_every_tower_and_decoder_of_a_variant() -> None:
    configs = [known.config for known in SOURCES.values()]
    for variant in VARIANTS.values():
        assert VariantConfig(variant.name) in configs
        assert variant.embedded is not None or variant.config.clip in configs


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_is_what_its_card_says(name: str) -> None:
    known = SOURCES[name]
    assert known.layers
    assert len({layer.name for layer in known.layers}) == len(known.layers)
    if isinstance(known.config, VariantConfig):
        variant = VARIANTS[known.config.variant]
        assert not known.files
        assert known.availability == ("with its model" if variant.embedded is None else "embedded")
        channels = {layer.name: layer.channels for layer in known.layers}
        with torch.device("meta"):
            assert channels["res5"] == clip_tower(variant.config.clip).channels["res5"]
        assert channels["mask-features"] == variant.config.pixel_decoder.mask_width
        return
    network = catalogue_module._empty(known.config)
    bytes_held = sum(4 * tensor.numel() for tensor in network.parameters())
    assert bytes_held / 1e6 == pytest.approx(known.megabytes, rel=0.005)
    assert known.files[0].filename.endswith(".safetensors")
    assert (known.family == "ViT") == any(layer.name == "block-12" for layer in known.layers)
