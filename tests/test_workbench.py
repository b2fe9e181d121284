from __future__ import annotations

import gc
import hashlib
import multiprocessing
import pickle
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import ovdemo
from ovdemo import Fusion, Merging, UserError
from ovdemo import workbench as workbench_module
from ovdemo.images import Picture, ResizeRule
from ovdemo.stopwatch import Stopwatch
from ovdemo.systems.base import Features
from ovdemo.systems.registry import Variant
from ovdemo.vocabulary import EmbeddingCache
from ovdemo.workbench import Analysis, Bounds, Workbench
from painted import PaintedSystem, painted_workbench, painting
from sentences import failure


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


def test_old_pictures_make_room_and_take_their_answers_along(tiny: Variant) -> None:
    system = ovdemo.load(tiny.name, device="cpu", random_weights=True).system
    one = Workbench(system, EmbeddingCache(None))
    one.analyse(photo())
    workbench = Workbench(system, EmbeddingCache(None), bounds=Bounds(picture_bytes=3 * one.remembered_bytes))
    calls = Calls().watch(workbench)
    first = workbench.analyse(photo(0))
    answer = weakref.ref(first.answer("cat"))
    for seed in (1, 2, 1, 0):
        workbench.analyse(photo(seed))
    assert calls["backbone"] == 3
    for seed in (3, 0, 1):  # the fourth picture takes the place of the third
        workbench.analyse(photo(seed))
    assert calls["backbone"] == 4
    assert answer() is not None
    workbench.analyse(photo(2))
    assert calls["backbone"] == 5
    for seed in (4, 5):
        workbench.analyse(photo(seed))
    gc.collect()
    assert answer() is None


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


# --- what is remembered ---


def cached(watch: Stopwatch) -> set[str]:
    return {step.name for step in watch.steps if step.cached}


def test_timings_say_what_was_cached() -> None:
    workbench = painted_workbench()
    watches = [Stopwatch() for _ in range(4)]
    analysis = workbench.analyse(painting("cat", "grass"), stopwatch=watches[0])
    analysis.answer("cat, grass", stopwatch=watches[0])
    assert cached(watches[0]) == {"draw"}
    again = workbench.analyse(painting("cat", "grass"), stopwatch=watches[1])
    again.answer("cat, grass", stopwatch=watches[1])
    assert cached(watches[1]) == {"encode", "propose", "text", "score", "merge", "draw"}
    again.answer("cat, grass", fusion=Fusion(alpha=0.1), stopwatch=watches[2])
    assert cached(watches[2]) == {"decode", "encode", "propose", "text", "draw"}
    again.answer("cat, dog", stopwatch=watches[3])
    assert cached(watches[3]) == {"decode", "encode", "propose", "draw"}


def test_an_answer_is_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    merge = workbench_module.merge
    monkeypatch.setattr(workbench_module, "merge", lambda *args: calls.append("merge") or merge(*args))
    workbench = painted_workbench()
    analysis = workbench.analyse(painting("cat", "grass"))
    case = analysis.answer("cat, grass")
    assert analysis.answer(" CAT,grass ") is case
    assert workbench.analyse(painting("cat", "grass")).answer("cat, grass", fusion=Fusion()) is case
    assert analysis.segment("cat, grass") is case.segmentation
    assert len(calls) == 1
    others = [
        analysis.answer("grass, cat"),
        analysis.answer("cat:stuff, grass"),
        analysis.answer("cat, grass", merging=Merging("semantic")),
        analysis.answer("cat, grass", fusion=Fusion(rescue=0.5)),
        workbench.analyse(painting("grass", "cat")).answer("cat, grass"),
    ]
    assert len(calls) == 6
    assert len({id(other) for other in (case, *others)}) == 6


def test_recall_and_forget() -> None:
    workbench = painted_workbench()
    first, second = (workbench.analyse(painting(*names)) for names in (("cat",), ("dog",)))
    case, other = first.answer("cat"), second.answer("cat")
    assert workbench.recall(first.picture.digest) is first
    assert workbench.recall(first.picture.digest, 64) is None
    assert workbench.remembered_bytes > first.picture.pixels.nbytes
    workbench.forget(first.picture.digest)
    assert workbench.recall(first.picture.digest) is None
    assert workbench.recall(second.picture.digest) is second
    assert first.answer("cat") is not case
    assert second.answer("cat") is other
    workbench.forget()
    assert workbench.recall(second.picture.digest) is None
    assert second.answer("cat") is not other


def test_weights_are_named_by_their_content(tmp_path: Path, tiny: Variant) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"some tensors")
    workbench = Workbench(PaintedSystem(), EmbeddingCache(None), weights_file=file)
    assert workbench.weights == hashlib.sha256(b"some tensors").hexdigest()[:16]
    assert painted_workbench().weights is None
    assert ovdemo.load(tiny.name, device="cpu", random_weights=True).weights is None


# --- too little GPU memory ---


class Crowded(PaintedSystem):
    """A system whose GPU is too small for so many first tries."""

    resize_rule = ResizeRule(100, 200)

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.rules: list[ResizeRule] = []

    def encode(self, picture: Picture, rule: ResizeRule) -> Features:
        self.rules.append(rule)
        if len(self.rules) <= self.failures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(picture, self.resize_rule)


def test_out_of_memory_forgets_and_tries_a_smaller_input() -> None:
    system = Crowded(0)
    workbench = Workbench(system, EmbeddingCache(None))
    before = workbench.analyse(painting("dog"))
    assert not before.reduced
    system.failures = len(system.rules) + 1
    analysis = workbench.analyse(painting("cat", "grass"))
    assert system.rules[1:] == [ResizeRule(100, 200), ResizeRule(70, 140)]
    assert analysis.reduced
    assert {segment.label for segment in analysis.segment("cat, grass, dog").segments} == {"cat", "grass"}
    assert workbench.recall(before.picture.digest) is None
    assert workbench.recall(analysis.picture.digest) is analysis
    assert workbench.analyse(painting("cat", "grass")) is analysis


def test_another_short_side_keeps_the_shape_of_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crowded, "resize_rule", ResizeRule(96, 192, enlarge=1, least=64, multiple=32))
    workbench = Workbench(Crowded(0), EmbeddingCache(None))
    assert workbench.resize_rule() is Crowded.resize_rule
    assert workbench.resize_rule(128) == ResizeRule(128, 256, multiple=32)


def test_out_of_memory_twice_is_a_sentence() -> None:
    system = Crowded(2)
    workbench = Workbench(system, EmbeddingCache(None))
    failure(lambda: workbench.analyse(painting("cat")), "too little memory", "smaller short side")
    assert not workbench.analyse(painting("cat")).reduced


# --- a GPU that is lent call by call ---


def lent(call: Callable[..., object]) -> Callable[..., object]:
    """Runs each call in a forked process, arguments and result through pickle, as ZeroGPU does."""

    def run(*args: object) -> object:
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        packed = pickle.dumps(args)

        def child() -> None:
            torch.set_num_threads(1)  # threads do not survive a fork
            sender.send_bytes(pickle.dumps(call(*pickle.loads(packed))))

        process = context.Process(target=child)
        process.start()
        sender.close()
        try:
            return pickle.loads(receiver.recv_bytes())
        finally:
            process.join()

    return run


def test_a_lent_gpu_gives_the_same_answers() -> None:
    calls: list[str] = []

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        far = lent(call)

        def run(*args: object) -> object:
            calls.append(call.__name__)
            return far(*args)

        return run

    plain = painted_workbench().analyse(painting("cat", "grass"))
    workbench = Workbench(PaintedSystem(), EmbeddingCache(None), accelerate=counted)
    analysis = workbench.analyse(painting("cat", "grass"))
    assert torch.equal(analysis.proposals.mask_logits, plain.proposals.mask_logits)
    assert torch.equal(analysis.proposals.clip_embeddings, plain.proposals.clip_embeddings)
    expected, found = (one.answer("cat|kitten, grass:stuff") for one in (plain, analysis))
    assert np.array_equal(found.segmentation.id_map, expected.segmentation.id_map)
    assert found.segmentation.segments == expected.segmentation.segments
    assert torch.equal(found.scores.fused, expected.scores.fused)
    assert analysis.inspect(found, 3, 3) == plain.inspect(expected, 3, 3)
    heavy = [name for name in calls if name != "encode_prompts"]
    assert len(heavy) == 1
    count = len(calls)
    analysis.answer("grass, cat|kitten")
    workbench.analyse(painting("cat", "grass"))
    assert len(calls) == count


# --- questions about an answer ---


@pytest.fixture
def asked() -> tuple[Analysis, ovdemo.workbench.Case]:
    analysis = painted_workbench().analyse(painting("cat", "grass", "dog"))
    return analysis, analysis.answer("cat|kitten, grass:stuff")


def test_inspect_names_the_prompt(asked: tuple) -> None:
    found, prompt = asked[0].inspect(asked[1], 2, 5)
    assert found.segment is not None
    assert (found.segment.label, found.classes[0].label) == ("cat", "cat")
    assert "cat" in prompt
    unlabelled, _ = asked[0].inspect(asked[1], 31, 5)
    assert unlabelled.segment is None
    failure(lambda: asked[0].inspect(asked[1], 32, 5), "outside the picture")


def test_uncertainty_is_high_where_no_word_fits(asked: tuple) -> None:
    maps = asked[0].uncertainty(asked[1])
    assert maps.unlabelled.shape == (32, 32)
    assert maps.unlabelled[:, 23:].all()
    assert not maps.unlabelled[:, :20].any()
    assert maps.void[5, 28] > maps.void[5, 3]


def test_without_a_fusion_the_systems_own_answers() -> None:
    class Rescuing(PaintedSystem):
        fusion = Fusion(alpha=0.2, rescue=0.9)

    analysis = Workbench(Rescuing(), EmbeddingCache(None)).analyse(painting("cat", "grass"))
    case = analysis.answer("cat, grass")
    assert case.fusion == Rescuing.fusion
    assert torch.equal(analysis.score("cat, grass").fused, case.scores.fused)
    assert analysis.segment("cat, grass") is case.segmentation


def test_sensitivity_of_a_segment(asked: tuple) -> None:
    analysis, case = asked
    grid = analysis.sensitivity(case, 2, 5)
    assert grid.changed.shape == grid.winner.shape == (11, 11)
    assert (grid.winner == 0).all()
    assert not grid.changed.any()
    grass = analysis.sensitivity(case, 15, 5)
    assert (grass.winner == 1).all()


def test_suggestions_name_what_has_no_word(asked: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    nouns = ovdemo.parse_classes("cat, grass, dog, lamp")
    monkeypatch.setattr(workbench_module, "load_preset", lambda name: nouns)
    monkeypatch.setattr(workbench_module, "load_wordnet", lambda: None)
    monkeypatch.setattr(workbench_module, "kinds_of_person", lambda wordnet: [nouns.names.index("lamp")])
    steps: list[tuple[int, int]] = []
    found = asked[0].suggest(asked[1], lambda done, total: steps.append((done, total)))
    assert [one.word for one in found] == ["dog"]
    assert 0.25 < found[0].share < 0.4
    assert steps[-1][0] == steps[-1][1]


def test_notes_are_those_of_whoever_asks() -> None:
    analysis = painted_workbench().analyse(painting("cat", "grass"))
    first, second = analysis.answer("cat, grass"), analysis.answer("cat, grass, cat")
    assert second.segmentation is first.segmentation
    assert not first.vocabulary.notes
    assert "cat" in " ".join(second.vocabulary.notes)
    assert not analysis.answer("cat, grass").vocabulary.notes
