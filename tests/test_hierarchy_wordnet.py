"""Trees from WordNet: of words, of ImageNet-21K, and of all nouns under one."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovdemo.ensemble import Fusion
from ovdemo.errors import UserError
from ovdemo.hierarchy import (
    CategoryTree,
    Stopping,
    TreeSource,
    ambiguous,
    class_distribution,
    descend,
    imagenet21k_tree,
    kinds_of_person,
    nouns_under,
    roll_up,
    senses_of,
    top_classes,
    trace,
    tree_of,
    usual_sense,
    vocabulary_tree,
)
from ovdemo.systems.base import Classifiers, Geometry, Proposals
from ovdemo.vocabulary import (
    TextEmbeddings,
    Vocabulary,
    VocabularyClass,
    imagenet21k_synsets,
    load_preset,
    parse_classes,
)
from ovdemo.vocabulary.wordnet import WordNet, load_wordnet


@pytest.fixture(scope="module")
def nouns() -> WordNet:
    return load_wordnet()


@pytest.fixture(scope="module")
def concepts(nouns: WordNet) -> CategoryTree:
    return imagenet21k_tree(nouns)


def outline(tree: CategoryTree) -> dict[str, str | None]:
    """Label of every node's parent, by label."""
    return {node.label: tree.nodes[node.parent].label if node.parent >= 0 else None for node in tree.nodes}


def walk(tree: CategoryTree, synset: str) -> list[str | None]:
    """All synsets on the way to one, those that were folded included."""
    node = tree.find(synset)
    assert node is not None
    return [name for index in tree.lineage(node) for name in tree.nodes[index].stands_for]


# --- the words in use -------------------------------------------------------------------------------------------------


def test_hypernyms_that_separate_stay_and_chains_are_folded(nouns: WordNet) -> None:
    tree = vocabulary_tree(nouns, parse_classes("terrier, tabby, sofa|couch, poodle"))
    assert outline(tree) == {
        "object": None,
        "animal": "object",
        "sofa": "object",
        "dog": "animal",
        "tabby": "animal",
        "terrier": "dog",
        "poodle": "dog",
    }
    assert [entry.label for entry in tree.vocabulary.classes] == ["terrier", "tabby", "sofa", "poodle"]
    animal = tree.nodes[tree.find("animal.n.01")]
    assert animal.synset == "animal.n.01"  # the most frequent word of a chain that ends in carnivore
    assert animal.stands_for[-1] == "carnivore.n.01"
    assert animal.gloss.startswith("a living organism")
    assert "mammal.n.01" in walk(tree, "terrier.n.01")


def test_half_terrier_half_tabby_is_a_mammal(nouns: WordNet) -> None:
    tree = vocabulary_tree(nouns, parse_classes("terrier, tabby, sparrow, sofa, grass:stuff"))
    scores = roll_up(tree, torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.0]]))
    assert scores.probability[0, tree.find("mammal.n.01")] == 1.0
    (path,) = trace(scores)
    answer = tree.nodes[path.steps[path.sure(Stopping(0.75))].node]
    assert "mammal.n.01" in answer.stands_for
    assert "terrier.n.01" not in answer.stands_for


def test_classes_inside_the_tree_and_classes_of_one_meaning(nouns: WordNet) -> None:
    tree = vocabulary_tree(nouns, parse_classes("animal, dog, black dog, terrier"))
    root, animal, group = tree.nodes[:3]
    assert (root.label, root.class_index) == ("object", None)
    assert (animal.label, animal.class_index) == ("animal", 0)
    assert (group.synset, group.class_index) == ("dog.n.01", None)
    assert [tree.nodes[i].label for i in group.children] == ["dog", "black dog", "terrier"]


def test_words_that_wordnet_lacks_hang_under_the_root(nouns: WordNet) -> None:
    tree = vocabulary_tree(nouns, parse_classes("dog, blorp, cat"))
    assert outline(tree) == {"entity": None, "blorp": "entity", "animal": "entity", "dog": "animal", "cat": "animal"}
    assert tree.notes == ('WordNet does not know "blorp"; it hangs under the root',)
    assert tree.nodes[tree.class_nodes[1]].synset is None
    assert outline(vocabulary_tree(nouns, parse_classes("blorp"))) == {"entity": None, "blorp": "entity"}
    assert outline(vocabulary_tree(nouns, parse_classes("dog"))) == {"animal": None, "dog": "animal"}


def test_names_are_tried_in_order_and_last_words_come_last(nouns: WordNet) -> None:
    def best(*names: str) -> str:
        return senses_of(nouns, VocabularyClass(names, "thing"))[0].name

    assert best("blorp", "cell phone", "dog") == "cellular_telephone.n.01"
    assert best("sports ball") == "ball.n.01"
    assert best("blorp dog", "kitten") == "kitten.n.01"
    assert senses_of(nouns, VocabularyClass(("blorp", "blorp zarg"), "thing")) == ()


def test_senses_can_be_chosen(nouns: WordNet) -> None:
    words = parse_classes("mouse, keyboard, table")
    mice = senses_of(nouns, words.classes[0])
    assert mice[0].name == "mouse.n.01"
    assert all(sense.gloss for sense in mice)
    table = senses_of(nouns, words.classes[2])
    assert table[0].name == "table.n.01"  # of numbers
    assert usual_sense(table).name == "table.n.02"
    assert usual_sense(()) is None

    tree = vocabulary_tree(nouns, words, {"mouse": "mouse.n.04", "table": None})
    assert tree.nodes[tree.class_nodes[0]].synset == "mouse.n.04"
    assert tree.nodes[tree.class_nodes[0]].parent == tree.nodes[tree.class_nodes[1]].parent
    assert tree.nodes[tree.class_nodes[2]].parent == 0
    assert tree.notes == ()
    with pytest.raises(UserError, match='"cat", which is not a class'):
        vocabulary_tree(nouns, words, {"cat": "cat.n.01"})
    with pytest.raises(UserError, match="WordNet has no noun"):
        vocabulary_tree(nouns, words, {"mouse": "mouse.n.77"})


def test_words_with_several_senses() -> None:
    assert ambiguous(parse_classes("mouse, blorp, giraffe, table").classes) == ("mouse", "table")


def test_trees_of_words_follow_words_and_choices() -> None:
    words = parse_classes("mouse, sofa")
    source = TreeSource("words", choices=(("mouse", "mouse.n.04"), ("cat", "cat.n.01")))  # there was a cat before
    tree = tree_of(source, words)
    assert tree_of(source, words) is tree
    assert tree.nodes[tree.class_nodes[0]].synset == "mouse.n.04"
    assert tree_of(TreeSource(), words).nodes[1].synset != "mouse.n.04"
    assert len(tree_of(source, parse_classes("mouse, sofa, tree")).vocabulary) == 3


def test_an_empty_vocabulary_is_a_sentence(nouns: WordNet) -> None:
    with pytest.raises(UserError, match="empty"):
        vocabulary_tree(nouns, Vocabulary(()))


@pytest.mark.parametrize("preset", ["coco-panoptic", "ade20k-150", "cityscapes", "lvis-1203"])
def test_presets_become_trees(nouns: WordNet, preset: str) -> None:
    words = load_preset(preset)
    tree = vocabulary_tree(nouns, words)
    assert tree == vocabulary_tree(nouns, words)
    assert [tree.nodes[i].names for i in tree.class_nodes.tolist()] == [entry.names for entry in words.classes]
    assert all(len(node.children) != 1 or node.class_index is not None or node.parent < 0 for node in tree.nodes)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(imagenet21k_synsets()), min_size=1, max_size=25))
def test_random_synsets_become_trees(identifiers: list[str]) -> None:
    """Each class comes after all its ancestors that are classes, and every inner node separates."""
    nouns = load_wordnet()
    synsets = [nouns.at_offset(int(identifier[1:])) for identifier in identifiers]
    words = Vocabulary(tuple(VocabularyClass((f"word {i}",), "thing") for i in range(len(synsets))))
    tree = vocabulary_tree(nouns, words, {f"word {i}": synset.name for i, synset in enumerate(synsets)})
    assert len(tree) <= 3 * len(synsets) + 1
    for index, synset in enumerate(synsets):
        node = int(tree.class_nodes[index])
        assert tree.nodes[node].synset == synset.name
        names = [name for above in tree.lineage(node) for name in tree.nodes[above].stands_for]
        assert list(dict.fromkeys(names)) == list(synset.lineage)
    for node in tree.nodes[1:]:
        assert node.class_index is not None or len(node.children) > 1


# --- all nouns under one ----------------------------------------------------------------------------------------------


def test_nouns_under_a_word(nouns: WordNet) -> None:
    tree = nouns_under(nouns, "dog")
    assert tree.nodes[0].synset == "dog.n.01"
    assert len(tree) == len(tree.vocabulary) == 190
    parent = {node.synset: tree.nodes[node.parent].synset for node in tree.nodes[1:]}
    assert parent["toy_terrier.n.01"] in {"toy_dog.n.01", "terrier.n.01"}
    assert parent["scotch_terrier.n.01"] == "terrier.n.01"
    assert tree == nouns_under(nouns, "dog.n.01")
    path = walk(nouns_under(nouns, "organism"), "dog.n.01")
    assert path[0] == "organism.n.01"
    assert "animal.n.01" in path


def test_nouns_under_nothing_are_sentences(nouns: WordNet) -> None:
    with pytest.raises(UserError, match="does not know the noun"):
        nouns_under(nouns, "blorp")
    with pytest.raises(UserError, match="has no noun"):
        nouns_under(nouns, "dog.n.99")
    with pytest.raises(UserError, match="type one"):
        tree_of(TreeSource("nouns under", "  "), parse_classes("dog"))
    with pytest.raises(UserError, match="no kinds"):
        nouns_under(nouns, "pug.n.01")
    with pytest.raises(UserError, match="more than 25,000"):
        nouns_under(nouns, "entity")


# --- ImageNet-21K -----------------------------------------------------------------------------------------------------


def test_imagenet_is_one_tree(nouns: WordNet, concepts: CategoryTree) -> None:
    persons = kinds_of_person(nouns)
    assert len(persons) == 2_836
    names = {imagenet21k_synsets()[i] for i in persons}
    ids = {
        name: f"n{nouns.synset(name).offset:08d}" for name in ("commoner.n.01", "homo.n.02", "person.n.01", "dog.n.01")
    }
    assert [ids[name] in names for name in ids] == [True, True, False, False]
    assert len(concepts.vocabulary) == 21_841 - len(persons)
    assert len(concepts) <= 25_000
    offsets = [nouns.synset(concepts.nodes[i].synset).offset for i in concepts.class_nodes.tolist()]
    kept = [synset for i, synset in enumerate(imagenet21k_synsets()) if i not in set(persons)]
    assert [f"n{offset:08d}" for offset in offsets] == kept
    assert not concepts.nodes[concepts.find("person.n.01")].children
    dog = [concepts.nodes[i].synset for i in concepts.lineage(concepts.find("dog.n.01"))]
    assert [s for s in dog if s in {"animal.n.01", "mammal.n.01", "carnivore.n.01"}] == [
        "animal.n.01",
        "mammal.n.01",
        "carnivore.n.01",
    ]
    assert imagenet21k_tree(nouns) is concepts


def random_case(tree: CategoryTree, count: int) -> tuple[Proposals, TextEmbeddings, TextEmbeddings, Classifiers]:
    """Proposals, embeddings of nodes and of classes, at the width of a large CLIP."""

    def rows(words: Vocabulary) -> TextEmbeddings:
        sizes = torch.tensor([len(entry.names) for entry in words.classes])
        unit = torch.nn.functional.normalize(torch.randn(len(words.names), 768), dim=-1)
        return TextEmbeddings(unit, torch.repeat_interleave(torch.arange(len(words)), sizes), len(words))

    proposals = Proposals(
        torch.zeros(count, 2, 2),
        torch.randn(count, 768),
        torch.randn(count, 768),
        torch.ones(count, dtype=torch.bool),
        Geometry((8, 8), (8, 8), (8, 8)),
    )
    classifiers = Classifiers(100.0, 100.0, torch.nn.functional.normalize(torch.randn(768), dim=0), False)
    return proposals, rows(tree.words()), rows(tree.vocabulary), classifiers


@pytest.mark.parametrize(("preset", "seconds"), [("coco-panoptic", 0.3), ("imagenet-21k", 1.5)])
def test_a_tree_answers_at_once_from_cached_proposals(
    nouns: WordNet, concepts: CategoryTree, preset: str, seconds: float
) -> None:
    """Scores, roll-up, paths and top five of 64 proposals; and greedy descent. Processor time, as others compute."""
    tree = concepts if preset == "imagenet-21k" else vocabulary_tree(nouns, load_preset(preset))
    proposals, of_nodes, of_classes, classifiers = random_case(tree, 64)
    unseen = [torch.zeros(count, dtype=torch.bool) for count in (len(tree), len(tree.vocabulary))]

    def rolled() -> None:
        chances = class_distribution(proposals, of_classes, seen=unseen[1], classifiers=classifiers, fusion=Fusion())
        assert len(trace(roll_up(tree, chances))) == 64
        assert len(top_classes(chances, tree.vocabulary)[0]) == 5

    def greedy() -> None:
        settings = {"seen": unseen[0], "classifiers": classifiers, "fusion": Fusion()}
        assert len(trace(descend(tree, proposals, of_nodes, **settings))) == 64

    for answer in (rolled, greedy):
        durations = []
        for _ in range(3):
            start = time.process_time()
            answer()
            durations.append(time.process_time() - start)
        assert min(durations) < seconds
