from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import torch

import ovdemo
from ovdemo import Fusion, Merging, UserError
from ovdemo.systems.registry import Variant


@pytest.fixture
def workbench(tiny: Variant) -> ovdemo.Workbench:
    return ovdemo.load(tiny.name, device="cpu", random_weights=True)


def photo(seed: int = 0, height: int = 80, width: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Calls(Counter):
    """Counts the forward passes of a workbench's heavy parts and of its text tower."""

    def watch(self, workbench: ovdemo.Workbench) -> Calls:
        network = workbench.system.network
        parts = {
            "backbone": network.backbone.clip_model.visual.trunk.stem,
            "pixel decoder": network.sem_seg_head.pixel_decoder.mask_features,
            "mask decoder": network.sem_seg_head.predictor.transformer_ffn_layers[0],
            "text": network.backbone.clip_model.transformer,
        }
        for name, module in parts.items():
            module.register_forward_hook(lambda *_, name=name: self.update([name]))
        return self


HEAVY = ("backbone", "pixel decoder", "mask decoder")


def test_new_words_and_settings_never_touch_backbone_or_decoders(workbench: ovdemo.Workbench) -> None:
    calls = Calls().watch(workbench)
    analysis = workbench.analyse(photo())
    assert [calls[part] for part in HEAVY] == [1, 1, 1]
    analysis.segment("cat, sky:stuff")
    assert calls["text"] == 1
    analysis.segment("cat, sky:stuff", fusion=Fusion(alpha=0.1, beta=0.9))
    analysis.segment("cat, sky:stuff", fusion=Fusion("arithmetic"))
    analysis.segment("sky, cat", merging=Merging("semantic"))
    analysis.segment("cat|sky", merging=Merging("instance", object_threshold=0.3, overlap_threshold=0.1))
    assert calls["text"] == 1
    analysis.segment("cat, sky, zebra")
    assert calls["text"] == 2
    workbench.analyse(photo()).segment("zebra")
    assert [calls[part] for part in HEAVY] == [1, 1, 1]
    assert calls["text"] == 2
    workbench.analyse(photo(1))
    workbench.analyse(photo(), short_side=64)
    assert [calls[part] for part in HEAVY] == [3, 3, 3]


def test_two_threads_share_one_heavy_pass(workbench: ovdemo.Workbench) -> None:
    calls = Calls().watch(workbench)
    threads = [threading.Thread(target=workbench.analyse, args=(photo(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls["backbone"] == 1


def test_a_failed_pass_is_tried_again(workbench: ovdemo.Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(workbench.system, "propose", lambda features: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workbench.analyse(photo())
    assert len(workbench.analyse(photo()).proposals) == 12


def test_old_pictures_make_room(workbench: ovdemo.Workbench) -> None:
    calls = Calls().watch(workbench)
    for seed in (0, 1, 2, 3, 4, 0):
        workbench.analyse(photo(seed))
    assert calls["backbone"] == 6


def test_the_answer_has_the_pictures_size_and_five_reasons(workbench: ovdemo.Workbench) -> None:
    analysis = workbench.analyse(photo(0, 61, 97))
    found = analysis.segment("a, b, c, d, e, f, person", merging=Merging("semantic"))
    assert found.id_map.shape == (61, 97)
    for segment in found.segments:
        evidence = segment.evidence
        for top in (evidence.in_vocabulary, evidence.out_of_vocabulary, evidence.fused):
            assert len(top) == 5
            assert [c.probability for c in top] == sorted((c.probability for c in top), reverse=True)
        assert segment.seen == (segment.label == "person")


def test_random_weights_are_seeded(tiny: Variant) -> None:
    def logits(seed: int) -> torch.Tensor:
        bench = ovdemo.load(tiny.name, device="cpu", random_weights=True, seed=seed)
        return bench.analyse(photo()).proposals.mask_logits

    assert torch.equal(logits(3), logits(3))
    assert not torch.equal(logits(3), logits(4))


@pytest.mark.parametrize("short_side", [0, 63, 2049])
def test_a_short_side_out_of_range_is_refused(workbench: ovdemo.Workbench, short_side: int) -> None:
    with pytest.raises(UserError, match="between 64 and 2048"):
        workbench.analyse(photo(), short_side=short_side)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "fcclip-convnet-large"}, 'did you mean "fcclip-convnext-large"'),
        ({"device": "tpu"}, "choose auto, cpu or cuda"),
        ({"device": "cuda:99"}, "--device cpu"),
        ({"precision": "int8"}, "float32, bfloat16, float16"),
    ],
)
def test_settings_that_cannot_be_met(tiny: Variant, settings: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ovdemo.load(**{"name": tiny.name, "random_weights": True, **settings})


def test_every_public_name_is_there() -> None:
    for name in ovdemo.__all__:
        assert getattr(ovdemo, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = ovdemo.nothing


def test_half_precision_changes_little(tiny: Variant) -> None:
    full, half = (
        ovdemo.load(tiny.name, device="cpu", random_weights=True, precision=precision).analyse(photo()).proposals
        for precision in ("float32", "bfloat16")
    )
    assert half.mask_logits.dtype == torch.float32
    assert 0 < (full.clip_embeddings - half.clip_embeddings).abs().max() < 0.5
