"""Training of the small CLIP: the text tower follows its teacher, the image tower follows the text tower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from torch.nn import functional

from ovdemo.nn.clip import ClipTower, clip_tower
from ovdemo.training import alignment, teacher, text, whitening, wording
from ovdemo.training.alignment import PEAK_RATE, ImageTrainee
from ovdemo.training.blending import blend
from ovdemo.training.concepts import Concept, Concepts
from ovdemo.training.meanings import gather, plural, shown_meaning
from ovdemo.training.phrases import Phrases, read_phrases
from ovdemo.training.scenes import Scene
from ovdemo.training.teacher import Projection, teach
from ovdemo.training.text import TextTrainee, install_text
from ovdemo.training.whitening import whiten
from ovdemo.training.wording import WORDINGS, may_mean_the_same, other_nouns, paraphrase_shifts, word_concepts
from ovdemo.vocabulary import Vocabulary, VocabularyClass
from ovdemo.vocabulary.wordnet import load_wordnet
from tiny import tiny_config

PHRASES = Phrases(
    nouns=("cat", "kitten", "red car", "house"),
    glosses=("a small animal", "what people live in"),
    classes=("cat", "street"),
    captions=("A cat sits in a house .",),
)
COLOURS = {"ruby": (220, 30, 30), "emerald": (30, 200, 40), "sapphire": (30, 40, 220), "coal": (20, 20, 20)}


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small lose more by sharing their work than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fake_teach(texts, cache, progress=None) -> torch.Tensor:
    """A unit vector a text, from the letters alone."""
    rows = [np.random.default_rng(list(words.encode())).normal(size=48) for words in texts]
    return functional.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)


def make_tower(seed: int = 0) -> ClipTower:
    """With a linear head, as the embedded model has."""
    torch.manual_seed(seed)
    clip = tiny_config().clip
    architecture = clip.architecture | {"vision_cfg": clip.architecture["vision_cfg"] | {"timm_proj": "linear"}}
    return clip_tower(replace(clip, architecture=architecture))


def make_text_trainee(tower: ClipTower, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TextTrainee:
    monkeypatch.setattr(text, "teach", fake_teach)
    monkeypatch.setattr(text, "_BATCH", {"nouns": 6, "classes": 4, "glosses": 2, "captions": 2})
    return TextTrainee(tower, PHRASES, load_wordnet(), cache=tmp_path, seed=0, progress=lambda done, total: None)


def test_the_text_tower_learns_and_leaves_the_image_tower_alone(monkeypatch, tmp_path) -> None:
    tower = make_tower()
    before = {name: x.clone() for name, x in tower.clip_model.state_dict().items()}
    trainee = make_text_trainee(tower, monkeypatch, tmp_path)
    losses = [trainee.step(0.3)["one minus cosine"] for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    trained = trainee.result()
    assert not any(name.startswith("visual.") for name in trained)
    after = tower.clip_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("visual."))
    fresh = make_tower(seed=5)
    install_text(fresh, trained)
    words = ["a photo of a cat.", "street"]
    assert torch.equal(fresh.encode_prompts(words), tower.encode_prompts(words))


def test_the_text_tower_goes_on_as_if_it_had_not_stopped(monkeypatch, tmp_path) -> None:
    first = make_text_trainee(make_tower(), monkeypatch, tmp_path)
    first.step(0.1)
    torch.save(first.state(), tmp_path / "state.pt")
    wanted = [first.step(0.2), first.step(0.3)]
    second = make_text_trainee(make_tower(seed=1), monkeypatch, tmp_path)
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [second.step(0.2), second.step(0.3)] == wanted


def test_the_projection_keeps_what_tells_texts_apart() -> None:
    random = torch.Generator().manual_seed(0)
    plane = torch.randn(200, 3, generator=random) @ torch.randn(3, 20, generator=random)
    shared = torch.randn(20, generator=random) * 9
    project = Projection.fit(plane + shared, 3)
    centred = plane - plane.mean(0)
    wanted = functional.normalize(centred, dim=-1)
    made = project(plane + shared)
    torch.testing.assert_close(made @ made.T, wanted @ wanted.T, atol=1e-4, rtol=0)


def test_the_teacher_is_asked_once(monkeypatch, tmp_path) -> None:
    asked = []

    def encode(texts, progress):
        asked.append(texts)
        return np.ones((len(texts), 4), np.float16)

    monkeypatch.setattr(teacher, "_encode", encode)
    assert teach(["a", "b"], tmp_path).shape == (2, 4)
    assert teach(["a", "b"], tmp_path).dtype == torch.float32
    teach(["a", "c"], tmp_path)
    assert asked == [["a", "b"], ["a", "c"]]


def test_phrases_come_from_wordnet_captions_and_class_names(tmp_path) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 a licence\n"
        '00001740 05 n 02 tabby_cat 0 Felis_catus 0 000 | a striped cat; "the tabby slept"  \n'
        "00001741 09 n 01 thought 0 000 | not to be seen  \n"
    )
    (tmp_path / "set").mkdir()
    (tmp_path / "set/index.jsonl").write_text(
        '{"split": "train", "captions": ["A dog ."]}\n{"split": "val", "captions": ["A secret ."]}\n'
    )
    (tmp_path / "set/captions_text.txt").write_text("A bird .\nA dog .\n")
    concepts = Concepts([Concept(("ruby", "red stone"), True)], {})
    phrases = read_phrases(tmp_path, tmp_path / "data.noun", concepts)
    assert phrases.nouns == ("tabby cat",)
    assert phrases.glosses == ("a striped cat",)
    assert phrases.captions == ("A dog .", "A bird .")
    assert {"ruby", "red stone", "person"} <= set(phrases.classes)
    assert len(set(phrases.all)) == len(phrases.all)


def test_words_of_one_meaning_come_together() -> None:
    texts = ("rucksack", "backpack", "knapsack", "bag", "hog", "street food")
    rows = functional.normalize(torch.randn(len(texts), 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    moved = gather(rows, texts, texts[:2] + texts[3:], load_wordnet())
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(len(texts)))
    before, after = rows @ rows.T, moved @ moved.T
    assert after[0, 1] > 0.45 > before[0, 1] + 0.3
    assert after[0, 3] > before[0, 3] + 0.1, "a backpack is a bag"
    assert torch.equal(moved[2], rows[2]), "only what is asked for moves"
    assert torch.equal(moved[5], rows[5]), "WordNet does not know it"


def test_definitions_count_where_they_are_texts() -> None:
    rucksack = shown_meaning("rucksack", load_wordnet())
    assert rucksack is not None
    texts = ("rucksack", rucksack.gloss, "hog")
    rows = torch.eye(3, 8)
    assert gather(rows, texts, texts[:1], load_wordnet())[0] == pytest.approx(
        [0.894, 0.447, 0, 0, 0, 0, 0, 0], abs=1e-3
    )


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("crane", "crane.n.04"),
        ("trees", "tree.n.01"),
        ("freedom", "freedom.n.01"),
        ("american alligator", "american_alligator.n.01"),
        ("xyzzy", None),
    ],
)
def test_a_meaning_that_can_be_shown_comes_first(name: str, meaning: str | None) -> None:
    found = shown_meaning(name, load_wordnet())
    assert (found and found.name) == meaning


@pytest.mark.parametrize(
    ("name", "plurals"),
    [("red car", "red cars"), ("bus", "buses"), ("bench", "benches"), ("sky", "skies"), ("toy", "toys")],
)
def test_plurals(name: str, plurals: str) -> None:
    assert plural(name) == plurals


def test_related_words_are_synonyms_then_nouns_above_or_below(monkeypatch) -> None:
    concepts = Concepts([Concept((name,), isthing=True) for name in ("car", "rooster", "coal")], {})
    near = {
        "motorcar": (0.5, 0, 0), "automobile": (0.7, 0, 0), "auto": (0.3, 0, 0), "machine": (0.5, 0, 0.6),
        "convertible": (0.8, 0, 0), "Coupe": (0.9, 0, 0), "cock": (0, 0.9, 0), "hen": (0, 0.9, 0),
        "anthracite": (0, 0, 0.7), "lignite": (0, 0, 0.5), "charcoal": (0, 0, 0.9), "coal": (0, 0, 1),
    }  # fmt: skip

    def encode(prompts):
        rows = torch.tensor([near[prompt] for prompt in prompts], dtype=torch.float32)
        return torch.cat([rows, (1 - rows.square().sum(-1, keepdim=True)).sqrt()], -1)

    nouns = [*near, "Coal"]
    kinds = Vocabulary(tuple(VocabularyClass((name,), "thing") for name in nouns if name not in ("auto", "machine")))
    monkeypatch.setattr(wording, "load_preset", lambda name: kinds)
    tower = make_tower()
    monkeypatch.setattr(tower, "encode_prompts", encode)
    found = wording._related_words(tower, concepts, load_wordnet(), torch.eye(3, 4))
    # "auto" is too far from car, "machine" nearer to coal; hens are no roosters, charcoal is no coal, "coal" is a name.
    assert found == [["automobile", "motorcar", "Coupe", "convertible"], ["cock"], ["anthracite"]]


def test_other_nouns_are_wrong_but_for_what_they_mean(monkeypatch) -> None:
    concepts = Concepts([Concept((name,), isthing=True) for name in ("car", "dog", "cup")], {}, ["cup"])
    near = {
        "convertible": (0.1, 0, 0), "vehicle": (0.1, 0, 0), "poodle": (0, 0.1, 0), "kennel": (0, 0.6, 0),
        "sky": (0, 0, 0), "mug": (0, 0, 0.6),
    }  # fmt: skip

    def encode(prompts):
        rows = torch.tensor([near[prompt] for prompt in prompts], dtype=torch.float32)
        return torch.cat([rows, (1 - rows.square().sum(-1, keepdim=True)).sqrt()], -1)

    kinds = Vocabulary(tuple(VocabularyClass((name,), "thing") for name in near))
    monkeypatch.setattr(wording, "load_preset", lambda name: kinds)
    tower = make_tower()
    monkeypatch.setattr(tower, "encode_prompts", encode)
    rows, fitting = other_nouns(tower, concepts, load_wordnet(), torch.eye(3, 4))
    assert rows.shape == (5, 4)  # a mug is too near to what is held out
    # A car may be called a convertible (below it) and a vehicle (above), a dog a poodle, and what is near its name.
    assert fitting[:2].tolist() == [[True, True, False, False, False], [False, False, True, True, False]]


def make_concepts(held_out=()) -> Concepts:
    entries = [Concept((name,), isthing=True) for name in COLOURS]
    places = {("stones", "ruby"): 0, ("stones", "emerald"): 1, ("others", "sapphire"): 2, ("others", "coal"): 3}
    return Concepts(entries, places, held_out)


class Patches:
    """Draws pictures of two coloured halves, and captions that name the colour of the whole."""

    def region_scene(self, random: np.random.Generator) -> Scene:
        left, right = random.choice(3, 2, replace=False)
        pixels = np.zeros((64, 64, 3), np.uint8)
        masks = np.zeros((2, 64, 64), bool)
        for mask, concept, place in zip(masks, (left, right), (np.s_[:, :32], np.s_[:, 32:]), strict=True):
            pixels[place] = list(COLOURS.values())[concept]
            mask[place] = True
        return Scene(pixels, masks, np.array([left, right]), np.ones(2, bool), np.ones((64, 64), bool))

    def object_scene(self, side: int, random: np.random.Generator) -> Scene:
        concept = random.integers(3)
        whole = np.ones((side, side), bool)
        pixels = np.broadcast_to(np.uint8(list(COLOURS.values())[concept]), (side, side, 3))
        return Scene(pixels, whole[None], np.array([concept]), np.ones(1, bool), whole)

    def caption_scene(self, random: np.random.Generator) -> tuple[np.ndarray, str]:
        name = random.choice(list(COLOURS))
        return np.full((64, 64, 3), COLOURS[name], np.uint8), f"all {name}"


NOUNS = torch.eye(32)[10:16], torch.zeros(4, 6, dtype=torch.bool)
SHIFTS = 0.7 * torch.eye(32)[20:]  # away from all names


def make_image_trainee(held_out: tuple[str, ...] = (), seed: int = 0, peak_rate: float = PEAK_RATE) -> ImageTrainee:
    tower, concepts = make_tower(seed), make_concepts(held_out)
    rows = torch.eye(4, 32)
    return ImageTrainee(
        tower,
        Patches(),  # type: ignore[arg-type]
        wordings=rows[:, None].expand(-1, 2, -1),
        shifts=SHIFTS,
        alike=torch.zeros(4, 4, dtype=torch.bool),
        nouns=NOUNS,
        held_out=concepts.held_out,
        captions={f"all {name}": row for name, row in zip(COLOURS, rows, strict=True)},
        seed=0,
        peak_rate=peak_rate,
    )


@pytest.mark.slow
def test_the_image_tower_learns_to_name_regions() -> None:
    trainee = make_image_trainee()
    right = [trainee.step(0.05)["things named right"] for _ in range(25)]
    assert np.mean(right[-4:]) > 0.9
    tensors = trainee.result()
    assert "attn_mask" not in tensors
    assert set(tensors) == set(make_tower().clip_model.state_dict()) - {"attn_mask"}
    # What is kept is the average, and it has forgotten what it began with.
    kept = make_image_trainee(seed=1)
    kept._tower.clip_model.load_state_dict(tensors, strict=False)
    assert kept.step(0.0)["things named right"] > 0.8


def draw_stone(random: np.random.Generator) -> Scene:
    """A grainy photograph of one colour, lighter or darker than the last."""
    scene = Patches().object_scene(64, random)
    grain = random.normal(0, 20, scene.pixels.shape) + random.normal(0, 40)
    return replace(scene, pixels=np.clip(scene.pixels + grain, 0, 255).astype(np.uint8))


@torch.no_grad()
def embed_stones(tower: ClipTower) -> tuple[torch.Tensor, np.ndarray]:
    """The very photographs that :func:`whiten` sees from the same seed."""
    rows, concepts = whitening._photographs(tower, draw_stone, np.random.default_rng(0))
    return rows.double(), concepts.numpy()


def test_whitening_evens_out_in_what_photographs_of_one_thing_differ(monkeypatch) -> None:
    monkeypatch.setattr(whitening, "_PHOTOGRAPHS", 256)
    monkeypatch.setattr(whitening, "_SHRINKAGE", 0.05)
    tower = make_tower()
    names = functional.normalize(tower.encode_prompts(list(COLOURS)), dim=-1)
    before, concepts = embed_stones(tower)
    scale = tower.clip_model.logit_scale.item()
    whiten(tower, draw_stone, names, np.random.default_rng(0))
    after, _ = embed_stones(tower)

    centred = before - before.mean(0)
    unit = functional.normalize(centred, dim=-1).numpy()
    residuals = np.concatenate([unit[concepts == c] - unit[concepts == c].mean(0) for c in np.unique(concepts)])
    within = residuals.T @ residuals / np.trace(residuals.T @ residuals) * unit.shape[1]
    shrunk = (within + 0.05 * np.eye(len(within))) / 1.05
    wanted = centred @ torch.from_numpy(fractional_matrix_power(shrunk, -0.25))
    torch.testing.assert_close(after, wanted, atol=2e-3 * float(after.std()), rtol=1e-3)
    # Logits vary as much as they did.
    scales = np.exp([scale, tower.clip_model.logit_scale.item()])
    spreads = [float((functional.normalize(rows, dim=-1) @ names.double().T).std()) for rows in (centred, after)]
    assert scales[1] * spreads[1] == pytest.approx(scales[0] * spreads[0], rel=1e-3)


def test_a_blended_photograph_has_both_names_in_proportion() -> None:
    whole, part = np.ones((1, 32, 32), bool), np.zeros((1, 32, 32), bool)
    part[0, :8] = True
    white, black = (np.full((32, 32, 3), value, np.uint8) for value in (255, 0))
    scenes = [
        Scene(pixels, mask, np.array([concept]), np.ones(1, bool), whole[0])
        for pixels, mask, concept in ((white, part, 3), (black, whole, 5))
    ]
    random = np.random.default_rng(0)
    single = blend(scenes, 0.0, random)
    assert [(one.scene, one.other, one.share) for one in single] == [(scenes[0], 3, 1.0), (scenes[1], 5, 1.0)]
    rectangles = 0
    for _ in range(40):
        light, dark = blend(scenes, 1.0, random)
        assert (light.other, dark.other) == (5, 3)
        assert light.scene.masks.all()
        assert light.share == pytest.approx(light.scene.pixels.mean() / 255, abs=0.01)
        assert dark.share == pytest.approx(1 - dark.scene.pixels.mean() / 255, abs=0.01)
        rectangles += set(np.unique(light.scene.pixels)) <= {0, 255}
    assert 10 < rectangles < 30
    assert white.min() == 255
    assert not scenes[0].masks.all()


def test_other_nouns_join_the_concepts_as_answers() -> None:
    trainee = make_image_trainee()
    answers = trainee._answers(np.random.default_rng(0))
    assert answers.rows.shape == (10, 32)
    assert {int(place) for place in answers.rows[4:].argmax(1)} == set(range(10, 16))
    assert not answers.ignored.any()


def test_a_blended_photograph_is_no_wrong_answer_to_either_name() -> None:
    trainee = make_image_trainee()
    trainee._ignored[2, 3] = trainee._ignored[3, 2] = True  # one might say either
    rows = torch.eye(4, 32)
    answers = alignment._Answers(rows, trainee._ignored)
    near_coal = functional.normalize(rows[:1] + 2 * rows[3:], dim=-1)
    # Shown are 0 and 2: coal, 3, which is nearest, is not wrong for 2, so it is not for the picture.
    loss, right = trainee._naming_losses(near_coal, torch.tensor([0]), torch.tensor([2]), answers)
    single, wrong = trainee._naming_losses(near_coal, torch.tensor([0]), torch.tensor([0]), answers)
    assert (right.tolist(), wrong.tolist()) == ([True], [False])
    assert loss < single
    # A name is never left out of its own answers, even if the picture's other name might be said for it.
    loss, _ = trainee._naming_losses(near_coal, torch.tensor([3]), torch.tensor([2]), answers)
    assert torch.isfinite(loss).all()


def test_a_gentle_rate_changes_less() -> None:
    def moved(**options: float) -> float:
        trainee = make_image_trainee(**options)
        before = [x.detach().clone() for x in trainee._tower.clip_model.visual.parameters()]
        trainee.step(0.05)
        after = trainee._tower.clip_model.visual.parameters()
        return sum(float((x.detach() - y).abs().sum()) for x, y in zip(after, before, strict=True))

    assert moved(peak_rate=PEAK_RATE / 10) < 0.5 * moved()


def test_the_image_tower_goes_on_as_if_it_had_not_stopped(tmp_path) -> None:
    first = make_image_trainee()
    first.step(0.1)
    torch.save(first.state(), tmp_path / "state.pt")
    wanted = first.step(0.2)
    second = make_image_trainee(seed=1)
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.step(0.2) == pytest.approx(wanted, rel=1e-4)


def test_what_is_held_out_or_means_the_same_is_never_a_wrong_answer() -> None:
    trainee = make_image_trainee(held_out=("coal",))
    assert trainee._ignored[:, 3].all()
    assert not trainee._ignored[:, :3].any()
    rows = functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0.9, 0.1], [0, 1]]), dim=-1)
    pairs = may_mean_the_same(make_concepts(), rows)
    # ruby and emerald are near each other, but one set tells them apart; sapphire is of another set.
    assert pairs.nonzero().tolist() == [[0, 2], [1, 2], [2, 0], [2, 1]]


def test_wordings_start_with_what_inference_uses() -> None:
    tower = make_tower()
    concepts = Concepts([Concept(("cat", "Felis catus", "kitty"), isthing=True)], {})
    wordings = word_concepts(tower, concepts, load_wordnet(), seed=0)
    rows = wordings.rows
    assert rows.shape == (1, WORDINGS, 32)
    assert wordings.names([0]) == list(wordings.words[0])
    assert {"cat", "cats", "kitty"} <= set(wordings.words[0])
    assert "Felis catus" not in wordings.words[0]
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(1, WORDINGS))
    assert concepts.entries[0].spoken == ("cat", "kitty")
    again = word_concepts(tower, replace_names(concepts, ("cat",)), load_wordnet(), seed=0)
    torch.testing.assert_close(rows[:, 0], again.rows[:, 0])


def test_shifts_lead_from_one_synonym_to_another() -> None:
    tower = make_tower()
    shifts = paraphrase_shifts(tower, load_wordnet(), seed=0)
    assert shifts.shape == (wording._SHIFTS, 32)
    assert shifts.norm(dim=-1).max() <= 2
    assert shifts.norm(dim=-1).min() > 0
    torch.testing.assert_close(shifts, paraphrase_shifts(tower, load_wordnet(), seed=0))
    assert not torch.equal(shifts, paraphrase_shifts(tower, load_wordnet(), seed=1))


def test_half_of_the_concepts_are_moved_a_part_of_a_shift() -> None:
    trainee = make_image_trainee()
    rows = torch.cat([trainee._classes(np.random.default_rng(n)) for n in range(50)])
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(200))
    moved = rows[:, 20:].norm(dim=-1) / rows[:, :4].norm(dim=-1)
    assert moved.max() <= 0.7
    assert 60 < int((moved > 0).sum()) < 140


def replace_names(concepts: Concepts, names: tuple[str, ...]) -> Concepts:
    return Concepts([replace(concepts.entries[0], names=names)], {})
