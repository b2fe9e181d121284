from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import straightforward
from ovdemo.nn.deformable_attention import DeformableAttention
from ovdemo.systems.fcclip import FCCLIPNetwork
from ovdemo.training.concepts import NAMELESS
from ovdemo.training.losses import (
    bce_loss,
    class_logits,
    class_loss,
    dice_loss,
    lies_unlabelled,
    sample_labels,
    sample_logits,
    uncertain_points,
)
from ovdemo.training.matcher import assign, matching_cost
from ovdemo.training.scenes import Scene
from ovdemo.training.segmenter import SegmenterTrainer, collate, denied_words, owners
from ovdemo.training.words import WORDS, StepWords, Words
from tiny import tiny_config

SIDE = 64
COLOURS = ((220, 40, 40), (40, 200, 40), (40, 60, 220), (230, 220, 60))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A tiny network's steps are too short to share out: waiting for a busy core costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_attention_has_the_gradients_of_grid_sampling() -> None:
    shapes = ((3, 4), (6, 8), (12, 16))
    module = DeformableAttention(32, 4, 3, 2)
    torch.nn.init.normal_(module.sampling_offsets.weight, std=1.0)  # many samples fall outside the maps
    torch.nn.init.normal_(module.attention_weights.weight, std=1.0)
    query, tokens = torch.randn(2, 2, sum(h * w for h, w in shapes), 32)
    inputs = [query.requires_grad_(), tokens.requires_grad_(), *module.parameters()]
    wanted = torch.randn_like(query)
    ours = torch.autograd.grad((module(query, tokens, shapes) * wanted).sum(), inputs)
    theirs = straightforward.deformable_attention(module, query, tokens, shapes)
    for got, expected in zip(ours, torch.autograd.grad((theirs * wanted).sum(), inputs), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_matching_finds_the_known_permutation() -> None:
    labels = (torch.rand(3, 50) > 0.5).float()
    targets = torch.tensor([2, 0, NAMELESS])
    probabilities = torch.full((5, 4), 0.25)
    logits = torch.full((5, 50), -3.0)
    for query, region in ((4, 0), (1, 1), (2, 2)):
        logits[query] = 4 * labels[region] - 2
    queries, regions = assign(matching_cost(probabilities, logits, targets, labels))
    assert dict(zip(queries.tolist(), regions.tolist(), strict=True)) == {4: 0, 1: 1, 2: 2}


def test_names_decide_between_equal_masks_unless_the_region_has_none() -> None:
    labels = torch.ones(1, 8)
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1]])
    for target, expected in ((0, -1.4), (1, 1.2), (2, 0.2), (NAMELESS, 0.0)):
        cost = matching_cost(probabilities, torch.zeros(2, 8), torch.tensor([target]), labels)
        assert (cost[0] - cost[1]).item() == pytest.approx(expected, abs=1e-6)


def test_point_losses_equal_hand_numbers() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    sure = 50 * (2 * labels - 1)
    assert bce_loss(sure, labels).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(sure, labels).item() == pytest.approx(0, abs=1e-6)
    # All at one half: overlap 1, sizes 2 and 2: 1 - (2 + 1) / (4 + 1). Opposite: 1 - 1 / 5.
    assert dice_loss(torch.zeros(1, 4), labels).item() == pytest.approx(0.4)
    assert dice_loss(-sure, labels).item() == pytest.approx(0.8)
    assert bce_loss(torch.zeros(1, 4), labels).item() == pytest.approx(np.log(2))


def test_the_cost_of_masks_is_the_loss_of_masks() -> None:
    logits, labels = torch.randn(4, 30), (torch.rand(3, 30) > 0.5).float()
    cost = matching_cost(torch.rand(4, 2), logits, torch.full((3,), NAMELESS), labels)
    for query in range(4):
        expected = 5 * bce_loss(logits[[query] * 3], labels) + 5 * dice_loss(logits[[query] * 3], labels)
        torch.testing.assert_close(cost[query], expected)


def test_points_gather_where_a_mask_is_unsure() -> None:
    ramp = torch.linspace(-8, 8, 32).expand(1, 32, 32)  # sure at both sides, unsure in the middle
    points = uncertain_points(ramp, 400, torch.Generator().manual_seed(0))
    assert points.shape == (1, 400, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    near = (points[..., 0] - 0.5).abs() < 0.17
    assert near.float().mean() > 0.7


def test_points_read_the_same_place_of_logits_and_labels() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, 2, 5] = True
    centre = torch.tensor([[[5.5 / 8, 2.5 / 8], [2.5 / 8, 5.5 / 8], [1.0, 1.0]]])
    assert sample_labels(masks, torch.tensor([1]), centre).tolist() == [[1, 0, 0]]
    torch.testing.assert_close(sample_logits(masks[1:].float(), centre), torch.tensor([[1.0, 0, 0]]))


def test_masks_lie_unlabelled_where_most_of_them_does() -> None:
    labelled = torch.zeros(1, 4, 4)
    labelled[..., :2] = 1
    masks = torch.full((1, 4, 4, 4), -1.0)
    masks[0, 0, :, :2] = 1  # inside
    masks[0, 1, :, 2:] = 1  # outside
    masks[0, 2, :, 1:3] = 1  # half
    assert lies_unlabelled(masks, labelled).tolist() == [[False, True, False, False]]


def test_class_loss_weighs_and_leaves_out() -> None:
    logits = torch.randn(2, 3, 4, 5)
    targets = torch.randint(0, 5, (2, 3, 4))
    targets[0, 0] = NAMELESS
    weights = torch.rand(2, 3, 4)
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    loss = class_loss(logits, targets, weights, nothing)
    each = -logits.log_softmax(-1)[1, 0].gather(1, targets[1, 0, :, None])[:, 0]
    torch.testing.assert_close(loss[0], (each * weights[1, 0]).sum() / weights[1, 0].sum())
    assert class_loss(logits, torch.full_like(targets, NAMELESS), weights, nothing).tolist() == [0, 0, 0]


def test_a_query_without_a_name_learns_what_it_is_not() -> None:
    logits = torch.randn(1, 1, 2, 4)
    targets = torch.tensor([[[NAMELESS, 2]]])
    denied = torch.tensor([[True, True, False, False]])
    weights = torch.tensor([[[1.0, 3.0]]])
    inside = logits.softmax(-1)[0, 0]
    expected = -(inside[0, 2:].sum().log() + 3 * inside[1, 2].log()) / 4
    torch.testing.assert_close(class_loss(logits, targets, weights, denied)[0], expected)


def test_only_words_whose_concepts_are_marked_fully_are_denied() -> None:
    words = StepWords(torch.eye(2), torch.tensor([1, 2, NAMELESS, 0, NAMELESS]))  # 1 is void, 2 is no word
    denied = denied_words([frozenset({0, 1, 2}), frozenset()], words)
    assert denied.tolist() == [[False, True, False], [False, False, False]]


def test_points_belong_to_the_smallest_region() -> None:
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, :, :48] = True
    masks[1, :, 32:48] = True
    one = replace(SCENES[0], masks=masks, concepts=np.arange(2), is_thing=np.ones(2, bool))
    bare = replace(one, masks=masks[:0], concepts=np.zeros(0, np.int64), is_thing=np.zeros(0, bool))
    batch = collate([bare, one, one], torch.device("cpu"))
    points = torch.tensor([[0.1, 0.5], [0.6, 0.5], [0.9, 0.5]]).expand(3, -1, -1)
    assert owners(batch, points).tolist() == [[-1, -1, -1], [0, 1, -1], [2, 3, -1]]


def test_early_states_share_their_regions_and_later_ones_do_not() -> None:
    learner = trainer()
    batch, words = collate([SCENES[0]], torch.device("cpu")), everything_named()
    head = learner.network.sem_seg_head
    with torch.no_grad():
        pixels = head.pixel_decoder(learner.stages(batch.pixels))
        queries = torch.cat(head.predictor.decode(pixels), 1)
    probabilities = torch.full((1, queries.shape[1], 31), 1 / 31)
    matches = learner._match(
        probabilities, queries, pixels.mask_features, batch, words.target[torch.from_numpy(batch.concepts)]
    )
    a_state = queries.shape[1] // 4
    state = matches.query // a_state
    shared = min(12, a_state)
    assert torch.bincount(state).tolist() == [shared, shared, shared, 4]
    assert sorted(matches.region[state == 3].tolist()) == [0, 1, 2, 3]
    assert torch.bincount(matches.region[state == 0], minlength=4).max() <= 3
    assert len(set(matches.query.tolist())) == len(matches.query)


def test_class_logits_are_scaled_cosines_with_void_last() -> None:
    logits = class_logits(torch.tensor([3.0, 0.0]), torch.eye(2), torch.tensor([-2.0, 0.0]), torch.tensor(10.0))
    torch.testing.assert_close(logits, torch.tensor([10.0, 0.0, -10.0]))


def test_words_keep_most_drop_some_and_avoid_synonyms() -> None:
    text = F.normalize(torch.randn(400, 2, 64), dim=-1)
    text[1] = text[0]  # 1 is another name of 0, and absent
    text[3] = text[2]  # both present
    trained = np.ones(400, dtype=bool)
    trained[390:] = False
    words, rng = Words(text, trained, text[:, 0] @ text[:, 0].T > 0.99), np.random.default_rng(0)
    dropped, counts = 0, []
    for _ in range(200):
        drawn = words.draw(np.array([0, 2, 3, NAMELESS, 2, 7]), rng)
        target = drawn.target
        count = len(drawn.rows)
        counts.append(count)
        assert target[NAMELESS] == NAMELESS
        assert target[1] == NAMELESS
        assert (target[390:] == NAMELESS).all()
        assert (target[[0, 7]] != NAMELESS).all()
        named = target[target != NAMELESS]
        assert sorted(named[named < count].tolist()) == list(range(count))
        assert {target[2].item(), target[3].item()} != {count, NAMELESS}
        assert count not in {target[2].item(), target[3].item()} or target[2] == target[3]
        dropped += int(target[0] == count) + int(target[7] == count)
        for concept in (0, 2, 3, 7):
            if 0 <= target[concept] < count:
                distances = (drawn.rows[target[concept]] - text[concept]).abs().sum(-1)
                assert distances.min() == 0
    assert dropped / 400 == pytest.approx(0.15, abs=0.06)
    assert WORDS[0] <= min(counts) < 8
    assert WORDS[1] / 2 < max(counts) <= WORDS[1]
    assert np.median(counts) == pytest.approx(np.sqrt(WORDS[0] * WORDS[1]), rel=0.3)  # evenly by ratio


def scene(seed: int) -> Scene:
    """A grey ground (concept 4) with three rectangles of three colours (concepts 0..3)."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
    masks = np.zeros((4, SIDE, SIDE), bool)
    concepts = np.append(rng.permutation(4)[:3], 4)
    for place, concept in enumerate(concepts[:3]):
        top, left = rng.integers(0, 20, 2) + 32 * np.array(divmod(place, 2))
        masks[place, top : top + 12, left : left + 12] = True
        pixels[masks[place]] = COLOURS[concept]
    masks[3] = ~masks[:3].any(0)
    return Scene(pixels, masks, concepts, concepts < 4, np.ones((SIDE, SIDE), bool))


SCENES = [scene(seed) for seed in range(2)]


def draw(rng: np.random.Generator) -> Scene:
    return SCENES[rng.integers(len(SCENES))]


def draw_thing(rng: np.random.Generator) -> Scene:
    """One colour that fills a picture but for its border."""
    concept = int(rng.integers(4))
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 4:-4, 4:-4] = True
    pixels = np.where(mask[0][..., None], np.uint8(COLOURS[concept]), np.uint8(128))
    return Scene(pixels, mask, np.array([concept]), np.ones(1, bool), mask[0])


def trainer() -> SegmenterTrainer:
    torch.manual_seed(0)
    text = F.normalize(torch.randn(30, 2, 32), dim=-1)
    words = Words(text, np.ones(30, bool), torch.zeros(30, 30, dtype=torch.bool))
    return SegmenterTrainer(FCCLIPNetwork(tiny_config()), words, draw, draw_thing, batch=2, seed=1)


def everything_named(count: int = 30) -> StepWords:
    return StepWords(F.normalize(torch.randn(count, 32), dim=-1), torch.tensor([*range(count), NAMELESS]))


def losses(one: Scene, words: StepWords) -> dict[str, Tensor]:
    return trainer().losses(collate([one], torch.device("cpu")), words)


def test_a_nameless_scene_without_full_labels_teaches_masks_only() -> None:
    unsure = replace(SCENES[0], concepts=np.full(4, NAMELESS), labelled=np.zeros((SIDE, SIDE), bool))
    got = losses(unsure, everything_named())
    assert (got["bce"] > 0).all()
    assert not got["class"].any()
    assert not got["points"].any()
    named = losses(replace(unsure, concepts=SCENES[0].concepts), everything_named())
    assert (named["class"] > 0).all()
    assert not torch.equal(named["class"], got["class"])


def test_a_dropped_concept_makes_its_query_void() -> None:
    words = everything_named()
    words.target[SCENES[0].concepts] = 30
    void = trainer()
    with torch.no_grad():  # every query sides with void, so nothing is left to learn
        last = void.network.sem_seg_head.predictor.class_embed.layers[-1]
        last.weight.zero_()
        last.bias.copy_(void.network.void_embedding.weight[0])
        void.network.sem_seg_head.predictor.logit_scale.fill_(np.log(100))
    got = void.losses(collate([SCENES[0]], torch.device("cpu")), words)
    assert got["class"].max() < 0.1
    got = void.losses(collate([SCENES[0]], torch.device("cpu")), everything_named())
    assert got["class"].min() > 1


def test_things_that_nobody_can_name_teach_nothing() -> None:
    rng = np.random.default_rng(0)
    shown = collate([draw_thing(rng) for _ in range(3)], torch.device("cpu"))
    nobody_knows = StepWords(torch.eye(4, 32), torch.full((31,), NAMELESS))
    named, nameless = (trainer()._things_losses(shown, words, rng) for words in (everything_named(), nobody_knows))
    assert named["things"].item() > 0
    assert nameless["things"].item() == 0
    assert nameless["things distilled"].item() > 0  # CLIP still has something to say


def test_distance_to_clip_is_that_of_its_own_embedding_of_the_true_mask() -> None:
    learner = trainer()
    batch = collate(SCENES, torch.device("cpu"))
    dense = learner.stages(batch.pixels)["res5"]
    logits = F.avg_pool2d(batch.masks[:, None].float(), 32)[:, 0]
    logits = logits - 0.5 * logits.amax((-2, -1), keepdim=True)
    known = [learner.network.backbone.embed_masks(dense[i : i + 1], logits[None, 4 * i : 4 * i + 4])[0] for i in (0, 1)]
    region = torch.tensor([6, 1, 6])
    same = learner._clip_distance(3 * torch.cat(known)[region], dense, batch, region)
    torch.testing.assert_close(same, torch.zeros(3), atol=1e-6, rtol=0)
    opposite = learner._clip_distance(-torch.cat(known)[region], dense, batch, region)
    torch.testing.assert_close(opposite, torch.full((3,), 2.0))


def test_a_scene_without_regions_has_finite_losses() -> None:
    bare = replace(
        SCENES[0], masks=np.zeros((0, SIDE, SIDE), bool), concepts=np.zeros(0, np.int64), is_thing=np.zeros(0, bool)
    )
    got = losses(bare, everything_named())
    assert got["bce"].tolist() == got["dice"].tolist() == got["distilled"].tolist() == [0, 0, 0, 0]
    assert got["class"].isfinite().all()


def test_overfits_two_scenes() -> None:
    learner = trainer()
    frozen = {name: x.clone() for name, x in learner.network.backbone.named_parameters()}
    first = learner.step(0.5)
    curve = [learner.step(0.1) for _ in range(120)]
    assert np.mean([losses["total"] for losses in curve[-10:]]) < 0.5 * first["total"]
    assert np.mean([losses["dice"] for losses in curve[-10:]]) < 0.5 * first["dice"]
    assert np.mean([losses["things"] for losses in curve[-10:]]) < 0.5 * first["things"]
    assert np.mean([losses["distilled"] for losses in curve[-10:]]) < first["distilled"]
    assert all(torch.equal(x, frozen[name]) for name, x in learner.network.backbone.named_parameters())


def test_restored_training_goes_on_bitwise() -> None:
    learner, other = trainer(), trainer()
    learner.step(0.1)
    kept = io.BytesIO()
    torch.save(learner.state(), kept)
    expected = [learner.step(0.2), learner.step(0.3)]
    other.step(0.4)
    other.restore(torch.load(io.BytesIO(kept.getvalue()), weights_only=True))
    assert [other.step(0.2), other.step(0.3)] == expected
    ours, theirs = learner.result(), other.result()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_result_holds_what_the_tower_does_not() -> None:
    learner = trainer()
    names = {name for name in learner.network.state_dict() if not name.startswith("backbone.")}
    assert learner.result().keys() == names
