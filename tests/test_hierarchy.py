"""Category trees: text and back, roll-up, greedy descent, paths, depths, colours and the drawing."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import Tensor

from ovdemo.ensemble import Fusion
from ovdemo.errors import UserError
from ovdemo.fusion import class_logits, score
from ovdemo.hierarchy import (
    MAX_NODES,
    TREE_PRESETS,
    CategoryTree,
    Draft,
    Stopping,
    TreePath,
    TreeSource,
    class_distribution,
    depth_view,
    descend,
    draw_path,
    format_tree,
    grow,
    inner_means,
    of_segments,
    parse_tree,
    path_record,
    refined_colors,
    roll_up,
    sibling_log_probabilities,
    top_classes,
    trace,
    tree_bytes,
    tree_document,
    tree_of,
    tree_preset,
)
from ovdemo.segmentation import Evidence, Segment
from ovdemo.systems.base import Classifiers, Geometry, Proposals
from ovdemo.vocabulary import TextEmbeddings, Vocabulary, VocabularyClass

PETS = """\
animal
  mammal
    dog
      terrier
      poodle
    cat
      tabby
  bird
"""


def labels(tree: CategoryTree) -> list[str]:
    return [node.label for node in tree.nodes]


def vocabulary(count: int) -> Vocabulary:
    return Vocabulary(tuple(VocabularyClass((f"class {index}",), "thing") for index in range(count)))


def distribution(tree: CategoryTree, **shares: float) -> Tensor:
    return torch.tensor([[shares.get(entry.label, 0.0) for entry in tree.vocabulary.classes]])


@st.composite
def trees(draw: st.DrawFn) -> CategoryTree:
    """Any tree of 2 to 30 nodes; every leaf answers a class, and so may inner nodes."""
    parents = [None, *(draw(st.integers(0, index)) for index in range(draw(st.integers(1, 29))))]
    inner = set(parents)
    answers = [index not in inner or draw(st.booleans()) for index in range(len(parents))]
    places = draw(st.permutations(range(sum(answers))))
    indices = [places[sum(answers[:index])] if answer else None for index, answer in enumerate(answers)]
    drafts = [Draft((f"node {i}",), parent, indices[i]) for i, parent in enumerate(parents)]
    return grow(drafts, vocabulary(sum(answers)))


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)


# --- building ---------------------------------------------------------------------------------------------------------


def test_text_becomes_a_tree_in_breadth_first_order() -> None:
    tree = parse_tree(PETS)
    assert labels(tree) == ["animal", "mammal", "bird", "dog", "cat", "terrier", "poodle", "tabby"]
    assert [node.parent for node in tree.nodes] == [-1, 0, 0, 1, 1, 3, 3, 4]
    assert [node.depth for node in tree.nodes] == [0, 1, 1, 2, 2, 3, 3, 3]
    assert tree.nodes[1].children == range(3, 5)
    assert [entry.label for entry in tree.vocabulary.classes] == ["terrier", "poodle", "tabby", "bird"]
    assert tree.class_nodes.tolist() == [5, 6, 7, 2]
    assert tree.lineage(5) == (0, 1, 3, 5)
    assert tree.levels == (slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 8))
    assert tree.depth == 3


def test_several_lines_at_the_top_hang_under_a_root() -> None:
    tree = parse_tree("thing\n\tdog|Hound\n\n\tcat\nstuff\n\tsky  \n")
    assert labels(tree) == ["anything", "thing", "stuff", "dog", "cat", "sky"]
    assert tree.nodes[3].names == ("dog", "hound")
    assert [entry.kind for entry in tree.vocabulary.classes] == ["thing", "thing", "stuff"]
    assert labels(parse_tree("dog")) == ["anything", "dog"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "empty"),
        (" \n | \n", "empty"),
        ("animal\n  dog\n    animal", 'Line 3: "animal" is its own ancestor'),
        ("a\n  b\n    c|A", 'Line 3: "a" is its own ancestor'),
        ("bird\n  crane\nmachine\n  Crane", 'Line 4: "crane" is there already \\(line 2\\)'),
        ("a\n    b\n  c", "Line 3: the indentation"),
        ("  a\n  b\nc", "Line 3: the indentation"),
        ("x" * 81, "Line 1: the name"),
        ("|".join(f"n{i}" for i in range(201)), "Line 1: 201 names"),
        ("\n".join(f"n{i}" for i in range(MAX_NODES + 1)), "passes 25,000"),
        ("\n".join(" " * i + f"n{i}" for i in range(102)), "101 levels deep"),
        ("x" * 2_000_001, "2,000,001 characters"),
    ],
)
def test_text_that_is_no_tree_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_tree(text)


def test_drafts_that_are_no_tree() -> None:
    def draft(name: str, parent: int | None, index: int | None = None) -> Draft:
        return Draft((name,), parent, index)

    with pytest.raises(UserError, match=r'"[bc]" is its own ancestor'):
        grow([draft("a", None, 0), draft("b", 2), draft("c", 1), draft("d", 2, 1)], vocabulary(2))
    with pytest.raises(UserError, match="empty"):
        grow([draft("a", None, 0)], vocabulary(1))
    with pytest.raises(UserError, match="25,001 nodes"):
        grow([draft("a", None), *(draft("b", 0, i) for i in range(MAX_NODES))], vocabulary(MAX_NODES))
    with pytest.raises(ValueError, match="one root"):
        grow([draft("a", None, 0), draft("b", None, 1)], vocabulary(2))
    with pytest.raises(ValueError, match="every leaf"):
        grow([draft("a", None, 0), draft("b", 0)], vocabulary(1))
    with pytest.raises(ValueError, match="every class"):
        grow([draft("a", None), draft("b", 0, 0), draft("c", 0, 0)], vocabulary(2))


@pytest.mark.parametrize("name", TREE_PRESETS)
def test_presets_are_trees_and_their_text_comes_back(name: str) -> None:
    tree = parse_tree(tree_preset(name))
    assert 40 <= len(tree.vocabulary) <= 100
    assert tree.depth >= 3
    assert format_tree(tree) == TREE_PRESETS[name].rstrip()


def test_an_unknown_preset_is_a_sentence() -> None:
    with pytest.raises(UserError, match="the nearest is animals"):
        tree_preset("animal")


@given(st.lists(st.tuples(st.integers(0, 4), st.lists(NAMES, min_size=1, max_size=3)), min_size=1, max_size=12))
def test_text_round_trip(lines: list[tuple[int, list[str]]]) -> None:
    text, depth = "", -1
    for number, (wanted, names) in enumerate(lines):
        depth = min(wanted, depth + 1) if number else 0
        text += "  " * depth + "|".join(f"{name}{number}" for name in names) + "\n"
    try:
        tree = parse_tree(text)
    except UserError:
        reject()
    again = parse_tree(format_tree(tree))
    assert again == tree
    assert format_tree(again) == format_tree(tree)


@given(trees())
def test_a_tree_of_drafts_round_trips_but_for_inner_classes(tree: CategoryTree) -> None:
    assert labels(parse_tree(format_tree(tree)))[-len(tree) :] == labels(tree)


@given(trees())
def test_breadth_first_order_holds(tree: CategoryTree) -> None:
    assert [child for node in tree.nodes for child in node.children] == list(range(1, len(tree)))
    assert all(tree.nodes[child].parent == index for index, node in enumerate(tree.nodes) for child in node.children)
    assert [tree.nodes[i].class_index for i in tree.class_nodes.tolist()] == list(range(len(tree.vocabulary)))


def test_words_of_inner_nodes_have_the_first_phrase_of_their_gloss() -> None:
    gloss = "any of a great many living things (see there) that move; they eat"
    long = "a thing " + "very " * 20 + "long"
    drafts = [
        Draft(("animal", "beast"), None, gloss=gloss),
        Draft(("dog",), 0, 0, gloss="it barks"),
        Draft(("cat",), 0, gloss=long),
        Draft(("tabby",), 2, 1),
    ]
    tree = grow(drafts, vocabulary(2))
    words = tree.words()
    assert words.classes[0].names == ("animal", "beast", "any of a great many living things")
    assert [entry.names for entry in words.classes[1::2]] == [("dog",), ("tabby",)]
    assert len(words.classes[2].names[1]) <= 80
    assert words.classes[2].names[1].endswith("very")
    assert tree.words(glosses=False).classes[0].names == ("animal", "beast")


def test_trees_of_texts_are_made_once_and_weighed() -> None:
    source = TreeSource("text", PETS)
    tree = tree_of(source, vocabulary(1))
    assert tree_of(TreeSource("text", str(PETS)), vocabulary(2)) is tree  # whatever the words
    assert tree_of(TreeSource("text", PETS + "  fish"), vocabulary(1)) is not tree
    assert len(PETS) < tree_bytes(tree) < 10_000
    long = TreeSource("text", "x" * 1_000_000)
    assert len(repr(long.key)) < 200
    assert long.key != TreeSource("text", "x" * 999_999).key
    with pytest.raises(UserError, match="no kind of tree"):
        tree_of(TreeSource("branches"), vocabulary(1))  # type: ignore[arg-type]


# --- roll-up ----------------------------------------------------------------------------------------------------------


def test_roll_up_of_known_probabilities() -> None:
    tree = parse_tree(PETS)
    scores = roll_up(tree, distribution(tree, terrier=0.5, poodle=0.125, tabby=0.25, bird=0.125))
    found = dict(zip(labels(tree), scores.probability[0].tolist(), strict=True))
    assert found == {
        **{"animal": 1.0, "mammal": 0.875, "bird": 0.125, "dog": 0.625, "cat": 0.25},
        **{"terrier": 0.5, "poodle": 0.125, "tabby": 0.25},
    }


def test_half_terrier_half_tabby_is_a_mammal_for_sure_and_no_more() -> None:
    tree = parse_tree(PETS)
    (path,) = trace(roll_up(tree, distribution(tree, terrier=0.5, tabby=0.5)))
    sure = path.steps[path.sure(Stopping(0.75))]
    assert (labels(tree)[sure.node], sure.probability) == ("mammal", 1.0)
    assert path.steps[2].probability == 0.5
    assert path.steps[2].margin == 0.0
    assert path.sure(Stopping(0.5)) == 3  # "above" includes the threshold itself
    assert path.sure(Stopping(0.5, margin=0.1)) == 1


def test_a_class_inside_the_tree_competes_with_its_kinds() -> None:
    drafts = [Draft(("thing",), None), Draft(("dog",), 0, 0), Draft(("terrier",), 1, 1), Draft(("sky",), 0, 2)]
    tree = grow(drafts, vocabulary(3))
    scores = roll_up(tree, torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))
    general, special = trace(scores)
    assert [labels(tree)[step.node] for step in general.steps] == ["thing", "dog"]
    assert [labels(tree)[step.node] for step in special.steps] == ["thing", "dog", "terrier"]
    assert scores.own[0].tolist() == [0, 0.5, 0.25, 0.25]
    last = special.steps[-1]
    assert (last.probability, last.share, last.margin) == pytest.approx((0.5, 2 / 3, 1 / 3))


@given(trees(), st.integers(0, 2**31))
def test_roll_up_is_monotone_and_adds_up(tree: CategoryTree, seed: int) -> None:
    logits = 8 * torch.randn(3, len(tree.vocabulary), generator=torch.Generator().manual_seed(seed))
    scores = roll_up(tree, logits.softmax(-1))
    probability, own = scores.probability, scores.own
    assert (probability[:, tree.parents] >= probability).all()  # exactly: no rounding may break it
    assert (own[:, tree.class_nodes] == logits.softmax(-1)).all()
    for index, node in enumerate(tree.nodes):
        below = probability[:, list(node.children)].sum(-1)
        torch.testing.assert_close(below + own[:, index], probability[:, index])
    torch.testing.assert_close(probability[:, 0], torch.ones(3))


# --- greedy descent ---------------------------------------------------------------------------------------------------


def proposals(class_embeddings: Tensor, clip_embeddings: Tensor, supported: Tensor | None = None) -> Proposals:
    count = len(class_embeddings)
    supported = torch.ones(count, dtype=torch.bool) if supported is None else supported
    return Proposals(
        torch.zeros(count, 2, 2), class_embeddings, clip_embeddings, supported, Geometry((8, 8), (8, 8), (8, 8))
    )


def text(sizes: list[int], width: int = 12) -> TextEmbeddings:
    rows = torch.nn.functional.normalize(torch.randn(sum(sizes), width), dim=-1)
    return TextEmbeddings(rows, torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)), len(sizes))


def part(embeddings: TextEmbeddings, nodes: range) -> TextEmbeddings:
    keep = (embeddings.owner >= nodes.start) & (embeddings.owner < nodes.stop)
    return TextEmbeddings(embeddings.rows[keep], embeddings.owner[keep] - nodes.start, len(nodes))


@pytest.mark.parametrize("kind", ["geometric", "arithmetic", "in-vocabulary", "out-of-vocabulary"])
@pytest.mark.parametrize("needs_support", [False, True])
def test_siblings_are_classified_by_the_projects_fusion(kind: str, needs_support: bool) -> None:
    """The children of every node, scored as a vocabulary of their own."""
    tree = parse_tree(PETS)
    embeddings = text([2, 1, 3, 1, 2, 1, 1, 2])
    given_proposals = proposals(torch.randn(4, 12), torch.randn(4, 12), torch.tensor([True, False, True, True]))
    classifiers = Classifiers(20.0, 30.0, torch.eye(12)[0], needs_support)
    seen = torch.arange(8) % 3 == 0
    fusion = Fusion(kind, alpha=0.3, beta=0.7)  # type: ignore[arg-type]
    settings = {"seen": seen, "classifiers": classifiers, "fusion": fusion}
    logs = sibling_log_probabilities(tree, given_proposals, embeddings, **settings)
    scores = descend(tree, given_proposals, embeddings, **settings)
    for index, node in enumerate(tree.nodes):
        if node.children:
            one = slice(node.children.start, node.children.stop)
            words = part(embeddings, node.children)
            alone = score(given_proposals, words, seen[one], classifiers, fusion).fused
            expected = alone / alone.sum(-1, keepdim=True)
            settings["seen"] = seen[one]
            torch.testing.assert_close(class_distribution(given_proposals, words, **settings), expected)
            torch.testing.assert_close(logs[:, one].exp(), expected)
            torch.testing.assert_close(scores.probability[:, one], expected * scores.probability[:, index, None])
    assert torch.equal(scores.probability[:, 0], torch.ones(4))
    torch.testing.assert_close(scores.own.sum(-1), torch.ones(4))


def test_greedy_stops_by_the_share_and_roll_up_by_the_probability() -> None:
    """Two settings of one picture: 0.6 of 0.6 of 0.6 is sure at each step, and not at all in the end."""
    tree = parse_tree("x\n  a\n    c\n      e\n      f\n    d\n  b")
    log = torch.zeros(1, 7)
    log[0, 1:] = torch.tensor([0.6, 0.4, 0.6, 0.4, 0.6, 0.4]).log()
    # Orthonormal words, and a proposal whose cosines are the log-probabilities, up to the scale.
    size = log.norm()
    embeddings = TextEmbeddings(torch.eye(7), torch.arange(7), 7)
    classifiers = Classifiers(float(size), float(size), torch.zeros(7), needs_clip_support=False)
    seen = torch.zeros(7, dtype=torch.bool)
    scores = descend(tree, proposals(log, log), embeddings, seen=seen, classifiers=classifiers, fusion=Fusion())
    (greedy,) = trace(scores)
    assert [step.share for step in greedy.steps] == pytest.approx([1, 0.6, 0.6, 0.6])
    assert [step.probability for step in greedy.steps] == pytest.approx([1, 0.6, 0.36, 0.216])
    assert greedy.sure(Stopping(0.5)) == 3
    assert greedy.sure(Stopping(0.7)) == 0
    assert greedy.sure(Stopping(0.5, margin=0.3)) == 0

    # The same leaves, rolled up, claim the same probability of every node.
    again = roll_up(tree, scores.probability[:, tree.class_nodes])
    torch.testing.assert_close(again.probability, scores.probability)
    (rolled,) = trace(again)
    assert [step.node for step in rolled.steps] == [step.node for step in greedy.steps]
    assert rolled.sure(Stopping(0.5)) == 1


@given(trees(), st.integers(0, 2**31))
def test_both_modes_claim_the_same_of_the_same_leaves(tree: CategoryTree, seed: int) -> None:
    """Greedy descent gives a distribution over the leaves; rolled up, it is what greedy descent said of every node."""
    torch.manual_seed(seed)
    classifiers = Classifiers(9.0, 9.0, torch.eye(12)[0], needs_clip_support=False)
    scores = descend(
        tree,
        proposals(torch.randn(2, 12), torch.randn(2, 12)),
        text([1] * len(tree)),
        seen=torch.zeros(len(tree), dtype=torch.bool),
        classifiers=classifiers,
        fusion=Fusion(),
    )
    leaves = scores.own[:, tree.class_nodes]
    torch.testing.assert_close(roll_up(tree, leaves).probability, scores.probability)
    assert (scores.probability[:, tree.parents] >= scores.probability).all()


def test_inner_means_are_the_mean_direction_of_children() -> None:
    tree = parse_tree("x\n  a\n    c\n    d\n  b")
    assert labels(tree) == ["x", "a", "b", "c", "d"]
    c, d, *b = rows = torch.eye(4)  # the classes in their order; b has two names
    means = inner_means(tree, TextEmbeddings(rows, torch.tensor([0, 1, 2, 2]), 3))
    assert means.owner.tolist() == [0, 1, 2, 2, 3, 4]
    torch.testing.assert_close(means.rows[2:], torch.stack((*b, c, d)))
    half = 0.5**0.5
    torch.testing.assert_close(means.rows[1], half * (c + d))
    torch.testing.assert_close(means.rows[0], half * (half * sum(b) + means.rows[1]))


def test_inner_means_leave_out_what_inner_nodes_are_called_themselves() -> None:
    drafts = [Draft(("thing",), None), Draft(("dog",), 0, 0), Draft(("terrier",), 1, 1), Draft(("sky",), 0, 2)]
    tree = grow(drafts, vocabulary(3))
    assert labels(tree) == ["thing", "dog", "sky", "terrier"]
    means = inner_means(tree, TextEmbeddings(torch.eye(3), torch.arange(3), 3))
    assert torch.equal(means.rows[1:], torch.eye(3)[[1, 2, 1]])


@given(trees(), st.integers(0, 2**31))
def test_inner_means_keep_leaves_and_are_unit_vectors(tree: CategoryTree, seed: int) -> None:
    torch.manual_seed(seed)
    embeddings = text([1 + index % 2 for index in range(len(tree.vocabulary))], width=64)
    means = inner_means(tree, embeddings)
    assert (means.num_classes, set(means.owner.tolist())) == (len(tree), set(range(len(tree))))
    torch.testing.assert_close(means.rows.norm(dim=-1), torch.ones(len(means.rows)))
    assert (means.owner.diff() >= 0).all()
    query = torch.randn(2, 64)
    before, after = (class_logits(query, rows, torch.zeros(64), 1.0)[:, :-1] for rows in (embeddings, means))
    leaves = [index for index in tree.class_nodes.tolist() if tree.is_leaf[index]]
    classes = [tree.nodes[index].class_index for index in leaves]
    torch.testing.assert_close(after[:, leaves], before[:, classes])


def test_proposals_of_segments_and_their_top_classes() -> None:
    embeddings = torch.eye(12)[:4]
    nothing = Evidence((), (), (), 0.0)
    segments = [
        Segment(i, 0, "x", "thing", 1.0, 1, (0, 0, 1, 1), False, nothing, q) for i, q in ((1, (2, 0)), (2, (1,)))
    ]
    chosen = of_segments(proposals(embeddings, 2 * embeddings, torch.tensor([True, False, True, True])), segments)
    assert torch.equal(chosen.class_embeddings, embeddings[[2, 1]])
    assert torch.equal(chosen.clip_embeddings, 2 * embeddings[[2, 1]])
    assert chosen.clip_supported.tolist() == [True, False]
    assert len(of_segments(chosen, ())) == 0

    words = vocabulary(3)
    names = TextEmbeddings(embeddings[[0, 2, 1]], torch.arange(3), 3)
    classifiers = Classifiers(10.0, 10.0, torch.eye(12)[11], needs_clip_support=False)
    settings = {"seen": torch.zeros(3, dtype=torch.bool), "classifiers": classifiers, "fusion": Fusion()}
    best = top_classes(class_distribution(chosen, names, **settings), words, 2)
    assert [row[0].label for row in best] == ["class 1", "class 2"]
    likely = math.exp(10) / (math.exp(10) + 2)
    assert [[entry.probability for entry in row] for row in best] == [pytest.approx([likely, (1 - likely) / 2])] * 2


def test_words_that_are_certainly_not_there_still_have_a_distribution() -> None:
    """Where p(void) is 1 to the last digit, the fused probabilities are all 0; their proportion must not be lost."""
    void = torch.eye(12)[11]
    segment = proposals(void[None] + 0.01 * torch.eye(12)[:1], void[None])
    words = TextEmbeddings(torch.eye(12)[:2], torch.arange(2), 2)
    seen, classifiers = torch.zeros(2, dtype=torch.bool), Classifiers(100.0, 100.0, void, needs_clip_support=False)
    assert score(segment, words, seen, classifiers, Fusion()).fused.sum() == 0
    chances = class_distribution(segment, words, seen=seen, classifiers=classifiers, fusion=Fusion(alpha=0, beta=0))
    likely = 1 / (1 + math.exp(-1))  # a hundred times a cosine of 0.01
    torch.testing.assert_close(chances, torch.tensor([[likely, 1 - likely]]), atol=1e-4, rtol=0)
    (path,) = trace(roll_up(parse_tree("x\n  a\n  b"), chances))
    assert path.tree.nodes[path.steps[-1].node].label == "a"


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_class_and_a_picture_without_segments(count: int) -> None:
    tree = parse_tree("dog")
    classifiers = Classifiers(100.0, 100.0, torch.eye(12)[11], needs_clip_support=False)
    few = proposals(torch.randn(count, 12), torch.randn(count, 12))
    settings = {"classifiers": classifiers, "fusion": Fusion()}
    names = text([2])
    chances = class_distribution(few, names, seen=torch.ones(1, dtype=torch.bool), **settings)
    assert chances.tolist() == [[1.0]] * count
    both = torch.zeros(2, dtype=torch.bool)
    for scores in (roll_up(tree, chances), descend(tree, few, inner_means(tree, names), seen=both, **settings)):
        paths = trace(scores)
        assert [[step.node for step in path.steps] for path in paths] == [[0, 1]] * count
        assert [path.steps[-1].probability for path in paths] == [1.0] * count
        assert [shown.label for shown in depth_view(paths, 8)] == ["dog"] * count
        assert tree_document(tree, (), paths[count:], Stopping())["segments"] == []
    assert [[best.label for best in row] for row in top_classes(chances, tree.vocabulary)] == [["dog"]] * count


# --- depths, colours, drawing, export ---------------------------------------------------------------------------------


def random_paths(tree: CategoryTree, seed: int, count: int = 12) -> tuple[TreePath, ...]:
    logits = 3 * torch.randn(count, len(tree.vocabulary), generator=torch.Generator().manual_seed(seed))
    return trace(roll_up(tree, logits.softmax(-1)))


@given(trees(), st.integers(0, 2**31), st.none() | st.floats(0, 1))
def test_labels_never_get_fewer_with_depth(tree: CategoryTree, seed: int, threshold: float | None) -> None:
    paths = random_paths(tree, seed)
    stopping = None if threshold is None else Stopping(threshold)
    views = [depth_view(paths, depth, stopping) for depth in range(tree.depth + 2)]
    counts = [len({shown.node for shown in view}) for view in views]
    assert counts == sorted(counts)
    assert counts[0] == 1
    for view, deeper in pairwise(views):
        for shown, below in zip(view, deeper, strict=True):
            assert shown.node in tree.lineage(below.node)
            assert shown.probability >= below.probability
            assert shown.color == below.color or shown.node != below.node


@given(trees(), st.integers(0, 2**31))
def test_a_surer_path_is_a_shorter_one(tree: CategoryTree, seed: int) -> None:
    for path in random_paths(tree, seed, 3):
        cuts = [path.sure(Stopping(threshold / 10)) for threshold in range(11)]
        assert cuts == sorted(cuts, reverse=True)
        assert cuts[0] == len(path.steps) - 1


def hue(color: tuple[int, int, int]) -> float:
    import colorsys

    return 360 * colorsys.rgb_to_hsv(*(x / 255 for x in color))[0]


def test_colours_refine() -> None:
    tree = parse_tree(PETS)
    leaves = tree.class_nodes.tolist()
    colors = refined_colors(tree, leaves)
    assert set(colors) == set(range(len(tree)))
    assert colors == refined_colors(tree, reversed(leaves))
    assert len(set(colors.values())) == len(tree)
    root = colors[0]
    assert max(root) - min(root) <= 1  # grey

    def apart(first: int, second: int) -> float:
        return abs((hue(colors[first]) - hue(colors[second]) + 180) % 360 - 180)

    dog, cat, bird, terrier, poodle = (labels(tree).index(n) for n in ("dog", "cat", "bird", "terrier", "poodle"))
    assert max(apart(terrier, dog), apart(poodle, dog)) < min(apart(dog, bird), apart(terrier, cat), apart(poodle, cat))


def test_a_path_as_json() -> None:
    tree = parse_tree(PETS)
    (path,) = trace(roll_up(tree, distribution(tree, terrier=0.5, tabby=0.5)))
    record = json.loads(json.dumps(path_record(path, Stopping(0.75))))
    assert record["answer"] == "mammal"
    assert (record["mode"], record["threshold"], record["margin"]) == ("roll-up", 0.75, 0.0)
    assert [level["label"] for level in record["levels"]] == ["animal", "mammal", "dog", "terrier"]
    assert [level["probability"] for level in record["levels"]] == [1, 1, 0.5, 0.5]
    assert [level["sure"] for level in record["levels"]] == [True, True, False, False]


def svg_of(tree: CategoryTree, chances: Tensor, stopping: Stopping) -> ElementTree.Element:
    scores = roll_up(tree, chances)
    return ElementTree.fromstring(draw_path(scores, 0, trace(scores)[0], stopping))


def texts(svg: ElementTree.Element, **attributes: str) -> list[str]:
    return [
        element.text or ""
        for element in svg.iter("{http://www.w3.org/2000/svg}text")
        if all(element.get(key.replace("_", "-")) == value for key, value in attributes.items())
    ]


def test_the_drawing_shows_the_path_its_rivals_and_the_cut() -> None:
    tree = parse_tree(PETS)
    chances = distribution(tree, terrier=0.5, poodle=0.125, tabby=0.25, bird=0.125)
    svg = svg_of(tree, chances, Stopping(0.55))
    bold = texts(svg, font_weight="700")
    assert [words for words in bold if not words.endswith("%")] == ["animal", "mammal", "dog", "terrier"]
    assert [words for words in bold if words.endswith("%")] == ["88 %", "71 %", "80 %"]
    assert {"bird", "cat", "poodle", "p = 62 %"} <= set(texts(svg))
    assert "unsure from here" in texts(svg)
    assert "unsure from here" not in texts(svg_of(tree, chances, Stopping(0.5)))
    assert svg.get("aria-label") == "animal > mammal > dog > terrier"
    assert svg.get("fill") == "currentColor"


def test_of_equals_the_first_is_on_the_path_and_in_the_drawing() -> None:
    tree = parse_tree("\n".join(f"n{i}" for i in range(40)))
    (path,) = trace(roll_up(tree, torch.full((1, 40), 1 / 40)))
    assert [tree.nodes[step.node].label for step in path.steps] == ["anything", "n0"]
    assert path.steps[-1].margin == 0
    assert path.sure(Stopping(0.0)) == 1
    assert path.sure(Stopping(0.0, margin=0.01)) == 0
    svg = svg_of(tree, torch.full((1, 40), 1 / 40), Stopping(0.0))
    assert [words for words in texts(svg, font_weight="700") if not words.endswith("%")] == ["anything", "n0"]


def test_the_drawing_is_bounded_and_markup_is_text() -> None:
    names = ["<script>alert(1)</script>", 'a & "b"', "bell\x07", "x" * 80, *(f"n{i}" for i in range(500))]
    tree = grow(
        [Draft(("root]]>",), None), *(Draft((name,), 0, index) for index, name in enumerate(names))],
        vocabulary(len(names)),
    )
    chances = torch.arange(len(names), 0, -1.0)[None] / sum(range(len(names) + 1))
    svg = svg_of(tree, chances, Stopping(0.0))
    shown = texts(svg)
    assert "… 496 more" in shown
    assert sum(words in {f"n{i}" for i in range(500)} for words in shown) == 4
    assert {"bell", 'a & "b"', "x" * 18 + "…", "<script>alert(1)</…"} <= set(shown)
    assert not list(svg.iter("{http://www.w3.org/2000/svg}script"))
    assert float(svg.get("height", "inf")) < 400


def test_a_class_that_beats_its_kinds_is_drawn_as_itself() -> None:
    drafts = [Draft(("thing",), None), Draft(("dog",), 0, 0), Draft(("terrier",), 1, 1), Draft(("sky",), 0, 2)]
    svg = svg_of(grow(drafts, vocabulary(3)), torch.tensor([[0.5, 0.25, 0.25]]), Stopping())
    bold = [words for words in texts(svg, font_weight="700") if not words.endswith("%")]
    assert bold == ["thing", "dog", "dog itself"]
