from __future__ import annotations

import math

import open_clip
import pytest
import torch
from timm.layers import Mlp

import straightforward
from ovdemo.nn.clip import ClipConfig, ClipTower, clip_tower
from ovdemo.nn.deformable_attention import DeformableAttention
from ovdemo.nn.layers import Attention, GeluMLP, linear
from ovdemo.nn.mask_decoder import attention_mask
from ovdemo.nn.pooling import mask_pool
from ovdemo.nn.position import sine_position
from ovdemo.systems.base import Features, Geometry
from ovdemo.systems.fcclip import FCCLIP, FCCLIPNetwork
from ovdemo.vocabulary import VILD_14, EmbeddingCache, TextEmbedder, parse_classes
from tiny import tiny_config

SHAPES = ((3, 4), (6, 8), (12, 16))


@pytest.fixture(scope="module", params=[False, True], ids=["convnext", "resnet"])
def system(request: pytest.FixtureRequest) -> FCCLIP:
    torch.manual_seed(0)
    config = tiny_config(resnet=request.param)
    network = FCCLIPNetwork(config)
    for module in network.modules():  # attention that looks everywhere equally would hide mistakes
        if isinstance(module, DeformableAttention):
            torch.nn.init.normal_(module.sampling_offsets.weight, std=0.3)
            torch.nn.init.normal_(module.attention_weights.weight, std=0.3)
    return FCCLIP(network, config, frozenset())


def test_deformable_attention_equals_grid_sampling() -> None:
    module = DeformableAttention(32, 4, 3, 2)
    torch.nn.init.normal_(module.sampling_offsets.weight, std=1.0)  # many samples fall outside the maps
    torch.nn.init.normal_(module.attention_weights.weight, std=1.0)
    query, tokens = torch.randn(2, 2, sum(h * w for h, w in SHAPES), 32)
    expected = straightforward.deformable_attention(module, query, tokens, SHAPES)
    torch.testing.assert_close(module(query, tokens, SHAPES), expected, atol=1e-5, rtol=1e-4)


def test_deformable_attention_learns_where_to_look() -> None:
    module = DeformableAttention(32, 4, 3, 2)
    tokens = torch.randn(1, sum(h * w for h, w in SHAPES), 32)
    module(tokens, tokens, SHAPES).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_attention_equals_torchs_own() -> None:
    ours, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    allowed = torch.rand(2, 5, 7) > 0.3
    allowed[..., 0] = True
    expected, _ = theirs(query, key, key, attn_mask=~allowed.repeat_interleave(4, 0))
    torch.testing.assert_close(ours(query, key, key, allowed), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_one_pass_linear_equals_the_plain_one(activation: str) -> None:
    layer, x = torch.nn.Linear(16, 24), torch.randn(2, 5, 16)
    plain = linear(layer, x, activation)
    assert plain.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(linear(layer, x, activation), plain.detach(), atol=1e-6, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(layer, x, activation).dtype == torch.bfloat16


def test_gelu_mlp_equals_timms() -> None:
    theirs, x = Mlp(8, 32), torch.randn(2, 3, 4, 8)
    ours = GeluMLP(theirs.fc1, theirs.fc2)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


def test_sine_position_by_hand() -> None:
    code = sine_position(2, 3, 8, torch.device("cpu")).view(2, 3, 8)
    y = 2 / (2 + 1e-6) * 2 * math.pi
    x = 3 / (3 + 1e-6) * 2 * math.pi
    expected = [math.sin(y), math.cos(y), math.sin(y / 100), math.cos(y / 100)]
    expected += [math.sin(x), math.cos(x), math.sin(x / 100), math.cos(x / 100)]
    torch.testing.assert_close(code[1, 2], torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_mask_pool_averages_inside_and_is_zero_for_nothing() -> None:
    features = torch.arange(8.0).view(1, 2, 2, 2)
    logits = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    torch.testing.assert_close(mask_pool(features, logits), torch.tensor([[[1.0, 5.0], [0.0, 0.0]]]))


def test_an_empty_mask_looks_everywhere() -> None:
    logits = torch.tensor([[[[1.0, -1.0]], [[-1.0, -1.0]]]])
    assert attention_mask(logits).tolist() == [[[True, False], [True, True]]]


def test_proposals_equal_the_straightforward_port(system: FCCLIP) -> None:
    """Skipping the earlier heads and resizing features instead of masks changes nothing but rounding."""
    height, width = 96, 128
    image = torch.randn(1, 3, height, width)
    text = TextEmbedder(system.text_encoder, VILD_14, EmbeddingCache(None)).embed(parse_classes("cat, sky, sea"))
    with torch.inference_mode():
        stages = {k: v.contiguous() for k, v in system.network.backbone.stages(image).items()}
    geometry = Geometry((height, width), (height, width), (height, width))
    masks, classes, clip = straightforward.propose(system, stages, text)
    proposals = system.propose(Features(stages, geometry))
    torch.testing.assert_close(proposals.mask_logits, masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(proposals.class_embeddings, classes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(proposals.clip_embeddings, clip, atol=1e-4, rtol=1e-4)


def test_text_cut_after_its_end_token_equals_open_clips_own(system: FCCLIP) -> None:
    prompts = ["a photo of a cat.", "x", "a very long sentence about " + "words and " * 60, ""]
    clip = system.network.backbone.clip_model
    with torch.inference_mode():
        expected = clip.encode_text(system.network.backbone.tokenizer(prompts))
    torch.testing.assert_close(system.text_encoder.encode_prompts(prompts), expected, atol=1e-5, rtol=1e-4)


def test_stages_end_where_open_clips_own_image_features_begin(system: FCCLIP) -> None:
    """The whole picture as one mask gives CLIP's own global pooling for a ConvNeXt."""
    tower = system.network.backbone
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        stages = tower.stages(image)
        assert {name: x.shape[1] for name, x in stages.items()} == tower.channels
        assert [224 // stages[f"res{i}"].shape[-1] for i in (2, 3, 4, 5)] == [4, 8, 16, 32]
        if not system.config.ensemble_on_valid_mask:
            whole = tower.embed_masks(stages["res5"], torch.ones(1, 1, 7, 7))[:, 0]
            torch.testing.assert_close(whole, tower.clip_model.encode_image(image), atol=1e-5, rtol=1e-4)


def test_resnet_pooling_equals_clips_own_without_the_mean_token() -> None:
    """CLIP's attention pooling, with every position allowed and the mean taken out of its keys by hand."""
    tower = clip_tower(tiny_config(resnet=True).clip).eval()
    dense = torch.randn(1, 512, 7, 7)
    pool = tower.clip_model.visual.attnpool
    with torch.inference_mode():
        found = tower.embed_masks(dense, torch.ones(1, 1, 7, 7))[0, 0]
        tokens = dense.flatten(2).permute(2, 0, 1)
        keys = tokens + pool.positional_embedding[1:, None]
        query = tokens.mean(0, keepdim=True) + pool.positional_embedding[:1, None]
        expected, _ = torch.nn.functional.multi_head_attention_forward(
            query, keys, keys, 512, pool.num_heads, None,
            torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0,
            pool.c_proj.weight, pool.c_proj.bias, training=False, need_weights=False, use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
        )  # fmt: skip
    torch.testing.assert_close(found, expected[0, 0], atol=1e-5, rtol=1e-4)


def test_an_empty_mask_gets_the_resnets_output_bias() -> None:
    tower = clip_tower(tiny_config(resnet=True).clip).eval()
    with torch.inference_mode():
        found = tower.embed_masks(
            torch.randn(1, 512, 3, 3), torch.tensor([-1.0, 1.0])[None, :, None, None].expand(1, 2, 3, 3)
        )
    torch.testing.assert_close(found[0, 0], tower.clip_model.visual.attnpool.c_proj.bias)
    assert not found.isnan().any()


def test_the_tag_tells_weights_apart() -> None:
    def tower(seed: int) -> ClipTower:
        torch.manual_seed(seed)
        return clip_tower(tiny_config().clip)

    assert tower(0).tag == tower(0).tag != tower(1).tag


@pytest.mark.parametrize("name", ["convnext_large_d_320", "RN50x64"])
def test_open_clip_still_names_the_towers(name: str) -> None:
    assert open_clip.get_model_config(name) is not None
    with torch.device("meta"):
        assert clip_tower(ClipConfig(name, "any")).width in (768, 1024)
