"""Hints on typed words, and the edits of the text that hints and switches ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from ovdemo.errors import UserError
from ovdemo.vocabulary import (
    Hint,
    Lint,
    LintRow,
    TextEmbeddings,
    Vocabulary,
    lint,
    load_preset,
    parse_classes,
    read_words,
    set_kind,
    take_hint,
)
from ovdemo.vocabulary.linting import _tokens
from ovdemo.vocabulary.parsing import add_classes, replace_name
from ovdemo.vocabulary.spelling import correction, singular

TRAINING = frozenset(load_preset("coco-panoptic").names)
GOOD = "cat, sofa, wall"  # nothing to say but the count

typed_texts = st.lists(
    st.sampled_from(["cat", "Cat", "kitten", "dog", "sky", ":stuff", ":thing", " : STUFF", "|", ",", ";", "\n", " "])
    | st.sampled_from(['"', '"a, b"', "“c|d”", '"x:stuff"', "\u200d", "e\u0301", '5" pipe', "ratio 4:3", "\u2028"]),
    max_size=14,
).map("".join)


def hints_of(text: str, severity: str, presets: tuple[str, ...] = ()) -> list[Hint]:
    return [hint for hint in lint(text, presets, training_names=TRAINING).hints if hint.severity == severity]


def embedder(vectors: dict[str, list[float]]):
    """Text embeddings that are looked up; a name that is not there points its own way."""

    def embed(vocabulary: Vocabulary) -> TextEmbeddings:
        names = vocabulary.names
        rows = torch.eye(len(names) + 2)[2:]
        for place, name in enumerate(names):
            if name in vectors:
                rows[place] = 0
                rows[place, :2] = torch.tensor(vectors[name])
        owner = [index for index, entry in enumerate(vocabulary.classes) for _ in entry.names]
        return TextEmbeddings(normalize(rows, dim=-1), torch.tensor(owner), len(vocabulary))

    return embed


# --- rows and errors ---


def test_rows_say_what_each_class_is() -> None:
    result = lint("kitten|cat, fog:stuff, flux capacitor, grass", training_names=TRAINING)
    assert result.rows == (
        LintRow("kitten", ("kitten", "cat"), "thing", guessed=True, seen=True),
        LintRow("fog", ("fog",), "stuff", guessed=False, seen=False),
        LintRow("flux capacitor", ("flux capacitor",), "thing", guessed=True, seen=False),
        LintRow("grass", ("grass",), "stuff", guessed=True, seen=True),
    )
    (count,) = result.hints
    assert count == Hint("note", "Of 4 classes, 2 share a name with the training words (seen) and 2 do not (unseen).")


@pytest.mark.parametrize("text", ["", "  \n", ", ;", '"cat', "x" * 81, "a," * 2001, "x" * 200_001])
def test_what_cannot_be_read_is_one_error(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_classes(text)
    assert lint(text, training_names=TRAINING) == Lint((), (Hint("error", str(caught.value)),))


def test_an_unknown_preset_is_an_error_and_presets_need_no_words() -> None:
    assert lint("cat", ["nowhere"], training_names=TRAINING).hints[0].severity == "error"
    result = lint(" ", ["cityscapes"], training_names=TRAINING)
    assert [row.label for row in result.rows] == [entry.label for entry in load_preset("cityscapes").classes]
    assert [hint.severity for hint in result.hints] == ["note"]


@given(typed_texts | st.text(max_size=60))
def test_any_text_is_looked_over_in_order(text: str) -> None:
    result = lint(text, training_names=TRAINING)
    severities = [hint.severity for hint in result.hints]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert bool(result.rows) != ("error" in severities)
    assert result == lint(text, training_names=TRAINING)


# --- hints ---


def test_good_words_have_no_warnings() -> None:
    assert hints_of(GOOD, "warning") == []
    assert len(hints_of(GOOD, "note")) == 1


def test_folding_is_told() -> None:
    (hint,) = hints_of(GOOD + ", Cat", "warning")
    assert hint == Hint("warning", 'Merged "Cat" into "cat".', ("cat",))
    notes = hints_of("road, cat, sofa", "note", ("cityscapes",))
    assert notes[0].text == "1 name of the presets came up before and counted once."


def test_hints_of_one_sort_are_few() -> None:
    assert len(hints_of(GOOD + ", cat" * 30, "warning")) == 5


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("girafe", "giraffe"),
        ("hot air baloon", "hot air balloon"),
        ("teddybear", "teddy bear"),
        ("tabel", "table"),
        ("bycicle", "bicycle"),
        ("cat", None),
        ("tennis racket", None),
        ("wooden tables", None),
        ("cloudy sky", None),
        ("qwrtzpsd", None),
        ("dgo", None),
        ("bmw320", None),
        ("猫咪咪咪", None),
    ],
)
def test_a_near_known_word_is_proposed(name: str, better: str | None) -> None:
    assert correction(name) == better


def test_a_misspelt_name_is_a_warning_with_a_remedy() -> None:
    text = f"{GOOD}, Girafe|mammal:thing"
    (hint,) = hints_of(text, "warning")
    assert (hint.words, hint.replacement) == (("girafe",), "giraffe")
    assert take_hint(text, hint) == f"{GOOD}, giraffe|mammal:thing"


@pytest.mark.parametrize(
    ("name", "base"),
    [("cats", "cat"), ("benches", "bench"), ("snowmen", "snowman"), ("glasses", None), ("bus", None), ("cat", None)],
)
def test_plurals_of_known_names(name: str, base: str | None) -> None:
    assert singular(name) == base


def test_a_plural_is_a_note() -> None:
    plural, _ = hints_of("cats, cat, wall", "note")
    assert plural == Hint("note", '"cats" is the same idea as "cat", which is there too.', ("cats",), "cat")
    assert len(parse_classes(take_hint("cats, cat, wall", plural))) == 2
    assert len(hints_of("cats|cat, sofa, wall", "note")) == 1


def test_a_name_of_too_many_tokens_is_a_warning() -> None:
    long, whole = "猫" * 60, "dog " * 20
    (hint,) = hints_of(f"{GOOD}, {long}, {whole}", "warning")
    assert hint.words == (long,)
    assert "77" in hint.text


def test_the_longest_prompt_counts() -> None:
    longest = _tokens("There is a medium cat in the scene.")
    assert [hint.words for hint in lint(GOOD, training_names=TRAINING, context_length=longest).hints] == [()]
    tight = lint(GOOD, training_names=TRAINING, context_length=longest - 1).hints
    assert [hint.words for hint in tight] == [("cat",), ("sofa",), ("wall",), ()]


def test_names_that_the_text_encoder_confuses() -> None:
    vectors = {"sofa": [1.0, 0.0], "couch": [1.0, 0.01], "settee": [1.0, 0.2], "cat": [0.0, 1.0], "kitten": [0.0, 1.0]}
    embed = embedder(vectors)
    result = lint("couch, cat|kitten, sofa|settee, wall", training_names=TRAINING, embed=embed)
    (hint,) = [hint for hint in result.hints if hint.severity == "warning"]
    assert hint.words == ("couch", "sofa")  # the nearest names of the two classes; none within a class
    assert "1.00" in hint.text
    assert lint("couch|sofa, cat", training_names=TRAINING, embed=embed).hints[0].words == ()


def test_presets_are_compared_with_typed_classes_only() -> None:
    embed = embedder({"road": [1.0, 0.0], "sidewalk": [1.0, 0.0], "lane": [1.0, 0.0]})
    alone = lint("", ["cityscapes"], training_names=TRAINING, embed=embed)
    assert [hint.severity for hint in alone.hints] == ["note"]
    beside = lint("lane", ["cityscapes"], training_names=TRAINING, embed=embed)
    assert [hint.words for hint in beside.hints if "hardly" in hint.text] == [("lane", "road"), ("lane", "sidewalk")]


def test_only_so_many_names_are_compared() -> None:
    sizes = []

    def embed(vocabulary: Vocabulary) -> TextEmbeddings:
        sizes.append(len(vocabulary.names))
        return embedder({})(vocabulary)

    lint("cat", ["imagenet-21k"], training_names=TRAINING, embed=embed)
    assert 900 < sizes[0] <= 1000


@pytest.mark.parametrize(
    ("text", "reason"),
    [("cat", "fewer than three"), ("cat, sky", "fewer than three"), ("cat, dog, sofa", "All classes are things")],
)
def test_words_without_contrast(text: str, reason: str) -> None:
    (hint,) = hints_of(text, "warning")
    assert reason in hint.text
    assert hint.words == ()
    better = take_hint(text, hint)
    assert better.startswith(f"{text}, wall, floor, ")
    assert hints_of(better, "warning") == []


def test_a_hint_without_remedy_changes_nothing() -> None:
    assert take_hint("cat,,", Hint("note", "Nothing.", ("cat",))) == "cat,,"


# --- edits of the text ---


@pytest.mark.parametrize(
    ("text", "label", "edited"),
    [
        ("cat", "cat", "cat:stuff"),
        ("dog,  Cat | kitty ;sky", "cat", "dog,  Cat | kitty:stuff ;sky"),
        ("cat : Thing , dog", "cat", "cat:stuff , dog"),
        ("cat:thing|, dog", "cat", "cat:stuff|, dog"),
        ("cat| :thing, dog", "cat", "cat|:stuff, dog"),
        ('dog\r\n"salt, pepper" , sky', "salt, pepper", 'dog\n"salt, pepper":stuff , sky'),
        ('"cat:thing"', "cat:thing", '"cat:thing":stuff'),
        ("cat, cat:thing", "cat", "cat:stuff, cat:thing"),
        ("cat, \n", "sky", "cat, sky:stuff"),
        ("", "sky", "sky:stuff"),
        ("cat", "a, b", 'cat, "a, b":stuff'),
    ],
)
def test_a_kind_is_written_where_the_class_is(text: str, label: str, edited: str) -> None:
    assert set_kind(text, label, "stuff") == edited


@given(typed_texts, st.sampled_from(["thing", "stuff"]), st.data())
@example("cat:stuff|:stuff", "thing", None)
def test_a_set_kind_comes_back_and_nothing_else_changes(text: str, kind: str, data: st.DataObject | None) -> None:
    try:
        before = parse_classes(text)
    except UserError:
        assume(False)
    index = 0 if data is None else data.draw(st.integers(0, len(before) - 1))
    entry = before.classes[index]
    edited = set_kind(text, entry.label, kind)
    after = parse_classes(edited)
    expected = list(before.classes)
    expected[index] = replace(entry, kind=kind)
    assert list(after.classes) == expected
    assert not after.classes[index].inferred
    assert after.notes == before.notes
    assert [c.inferred for c in after.classes[:index]] == [c.inferred for c in before.classes[:index]]
    assert set_kind(edited, entry.label, kind) == edited


def test_a_preset_class_takes_the_kind_that_is_set() -> None:
    (label, kind) = next((c.label, c.kind) for c in load_preset("cityscapes").classes if c.kind == "stuff")
    assert kind == "stuff"
    words = read_words(set_kind("cat", label, "thing"), ["cityscapes"])
    assert [entry.kind for entry in words.classes if entry.label == label] == ["thing"]
    assert len(words) == 1 + len(load_preset("cityscapes"))


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("Girafe:thing, cat|girafe ,dog", "giraffe:thing, cat|giraffe ,dog"),
        ('"girafe"\n girafes', "giraffe\n girafes"),
        ("cat", "cat"),
    ],
)
def test_a_name_is_replaced_wherever_it_stands(text: str, edited: str) -> None:
    assert replace_name(text, "girafe", "giraffe") == edited


@given(typed_texts, st.data())
def test_a_replaced_name_is_the_new_one(text: str, data: st.DataObject) -> None:
    try:
        before = parse_classes(text)
    except UserError:
        assume(False)
    name = data.draw(st.sampled_from(before.names))
    new = 'new, "name":thing'
    after = parse_classes(replace_name(text, name, new))
    assert list(after.names) == [new if other == name else other for other in before.names]
    assert [len(entry.names) for entry in after.classes] == [len(entry.names) for entry in before.classes]


def test_classes_are_added_after_the_last() -> None:
    assert add_classes("cat, ;\n", "dog") == "cat, dog"
    assert add_classes(" ", "dog") == "dog"
