"""Typed words to a vocabulary: the grammar, folding, combining, seen classes and prompts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovdemo.errors import UserError
from ovdemo.vocabulary import (
    BARE,
    VILD_14,
    TemplateSet,
    Vocabulary,
    VocabularyClass,
    combine,
    format_classes,
    infer_kind,
    load_preset,
    parse_classes,
    read_vocabulary_file,
    seen_classes,
)
from ovdemo.vocabulary.names import clean_text, name_key, normalise_name

PARITY = Path(__file__).resolve().parents[2] / "shared" / "parity"


def thing(*names: str) -> VocabularyClass:
    return VocabularyClass(names, "thing")


def stuff(*names: str) -> VocabularyClass:
    return VocabularyClass(names, "stuff")


# --- the grammar ---


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("cat", [thing("cat")]),
        ("cat, dog; sofa\nzebra", [thing("cat"), thing("dog"), thing("sofa"), thing("zebra")]),
        ("cat\r\ndog\u2028sofa", [thing("cat"), thing("dog"), thing("sofa")]),
        ("cat|kitten | kitty", [thing("cat", "kitten", "kitty")]),
        ("  Hot   Air\tBalloon ", [thing("hot air balloon")]),
        (", ,;cat||kitten|,\n\n", [thing("cat", "kitten")]),
        ("robot:stuff", [stuff("robot")]),
        ("robot : STUFF , sky: Thing", [stuff("robot"), thing("sky")]),
        ("robot|droid:stuff", [stuff("robot", "droid")]),
        ("robot|:stuff, :thing", [stuff("robot")]),
        ('"salt, pepper"|cruet:thing', [thing("salt, pepper", "cruet")]),
        ("“salt; pepper”, „a|b“:stuff", [thing("salt; pepper"), stuff("a|b")]),
        ('"robot:stuff"', [thing("robot:stuff")]),
        ('"the ""big"" one"', [thing('the "big" one')]),
        ("“the ””big”” one”", [thing("the ”big” one")]),
        ('the "big, red" dog', [thing("the big, red dog")]),
        ('5" pipe, 6" pipe:stuff', [thing('5" pipe'), stuff('6" pipe')]),
        ("driver's seat", [thing("driver's seat")]),
        ("cafe\u0301", [thing("caf\u00e9")]),
        ("ca\u0000t\u200b, \u202edog", [thing("cat"), thing("dog")]),
        ("می\u200cخواهم", [thing("می\u200cخواهم")]),
        ("猫|ネコ, ÉTÉ", [thing("猫", "ネコ"), thing("été")]),
    ],
)
def test_grammar(text: str, classes: list[VocabularyClass]) -> None:
    vocabulary = parse_classes(text)
    assert list(vocabulary.classes) == classes
    assert vocabulary.notes == ()


@pytest.mark.parametrize("text", ["cat:animal", "ratio 4:3", "cat:", "cat:things", "cat:stuff|kitty", '"a":b'])
def test_other_colons_stay_in_the_name_with_a_note(text: str) -> None:
    vocabulary = parse_classes(text)
    name = text.replace('"', "").split("|")[0]
    assert vocabulary.classes[0].label == name
    assert vocabulary.notes == (f'kept the colon of "{name}": only :thing or :stuff at the end of a class sets a kind',)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("dog", "thing"),
        ("sky", "stuff"),
        ("Clouds", "stuff"),  # a synonym of COCO's sky
        ("river", "stuff"),
        ("escalator", "stuff"),  # ADE20K only
        ("gadget|sky", "stuff"),  # the label is unknown, its synonym is not
        ("dog|sky", "thing"),  # the label comes first
        ("curtain", "stuff"),  # COCO says stuff, ADE20K thing: COCO wins
        ("flux capacitor", "thing"),  # nobody knows it
    ],
)
def test_kind_is_inferred(text: str, kind: str) -> None:
    (entry,) = parse_classes(text).classes
    assert entry.kind == kind
    assert entry.inferred


def test_set_kind_is_not_inferred() -> None:
    (entry,) = parse_classes("sky:thing").classes
    assert entry.kind == "thing"
    assert not entry.inferred


# --- folding ---


@pytest.mark.parametrize(
    ("text", "classes", "notes"),
    [
        ("cat, Cat", [thing("cat")], ['merged "Cat" into "cat"']),
        ("cat|kitten, kitten|kit", [thing("cat", "kitten", "kit")], ['merged "kitten" into "cat"']),
        (
            "cat, CAT|kitten, kitten",
            [thing("cat", "kitten")],
            ['merged "CAT" into "cat"', 'merged "kitten" into "cat"'],
        ),
        (
            "cat, lion|Cat|simba",
            [thing("cat"), thing("lion", "simba")],
            ['dropped "Cat" from "lion", as "cat" has it already'],
        ),
        (
            "cat, dog, cat|dog|kitten",
            [thing("cat", "kitten"), thing("dog")],
            ['merged "cat" into "cat"', 'dropped "dog" from "cat", as "dog" has it already'],
        ),
        ("cat|CAT|kitten", [thing("cat", "kitten")], ['dropped "CAT" from "cat", which has it already']),
        ("straße, STRASSE", [thing("straße")], ['merged "STRASSE" into "straße"']),
        ("ﬁr tree, fir  tree", [thing("ﬁr tree")], ['merged "fir tree" into "ﬁr tree"']),
        (
            "robot, Robot:stuff, robot:thing",
            [stuff("robot")],
            ['merged "Robot" into "robot"', 'merged "robot" into "robot"'],
        ),
        ("robot:thing, robot:stuff", [thing("robot")], ['merged "robot" into "robot"']),
        ("gadget|gizmo, gizmo|sky", [stuff("gadget", "gizmo", "sky")], ['merged "gizmo" into "gadget"']),
    ],
)
def test_folding(text: str, classes: list[VocabularyClass], notes: list[str]) -> None:
    vocabulary = parse_classes(text)
    assert list(vocabulary.classes) == classes
    assert list(vocabulary.notes) == notes


# --- errors and limits ---


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "type at least one class, for example: cat|kitten, dog, grass:stuff"),
        (" ,;|\n:stuff\u200b", "type at least one class"),
        ('cat, "salt, pepper', 'The quote at character 6 ("salt, pepper) is never closed'),
        ('cat\n dog, "salt\npepper"', 'Line 2: the quote at character 7 ("salt) is never closed'),
        ('"a"", b', "The quote at character 1 "),
        ("“a", "The quote at character 1 (“a) is never closed"),
        ("cat\n" + "x" * 81, 'Line 2: the name "xxxxxxxxxxxxxxxxxxxx…" has 81 characters, and 80 are possible'),
        ("|".join(f"n{i}" for i in range(201)), 'The class "n0" has 201 names, and 200 are possible'),
        ("\n".join(f"n{i}" for i in range(2001)), "Line 2001: here the vocabulary passes 2,000 classes"),
        ("cat," * 2001, "passes 2,000 classes"),
        ("x" * 200_001, "has 200,001 characters, and 200,000 can be typed"),
        (
            ",".join("|".join(["a", *(f"n{i}" for i in range(start, start + 150))]) for start in (0, 150)),
            'Merging gave the class "a" more than 200 names',
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        parse_classes(text)
    assert "\n" not in str(caught.value)


def test_largest_allowed_vocabulary() -> None:
    text = ",".join([*(f"n{i}" for i in range(1999)), "x" * 80])
    assert len(parse_classes(text)) == 2000


def test_long_runs_of_combining_marks_are_cut() -> None:
    # Normalising such a run takes minutes, so an unbounded one would hang this test.
    (entry,) = parse_classes("a" + "\u0316\u0301" * 99_000).classes
    assert len(entry.label) <= 31


# --- files ---


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes('\ufeff# pets, mostly\ncat|kitten, dog\n\n  # more\r\n"#1 fan"; Grass:stuff'.encode())
    assert read_vocabulary_file(path).classes == (thing("cat", "kitten"), thing("dog"), thing("#1 fan"), stuff("grass"))


def test_file_may_hold_more_classes_than_can_be_typed(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(f"n{i}" for i in range(25_000)))
    assert len(read_vocabulary_file(path)) == 25_000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"# nothing", "words.txt holds no class"),
        (b"cat\n\xff\xfe", "words.txt, line 2: this is not UTF-8"),
        (b'# a comment\ncat\n"dog', "words.txt, line 3: the quote at character 1"),
        (b"x" * (2 * 2**20 + 1), "words.txt is larger than 2 MiB"),
        (
            b"\n".join(b"n%d" % i for i in range(25_001)),
            "words.txt, line 25001: here the vocabulary passes 25,000 classes",
        ),
    ],
)
def test_file_errors_name_the_file_and_the_line(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_vocabulary_file(path)


@pytest.mark.parametrize("name", ["absent.txt", ".", "nul\0.txt"])
def test_unreadable_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_vocabulary_file(tmp_path / name)


# --- combining ---


def test_a_single_part_comes_back_verbatim() -> None:
    preset = load_preset("pascal-voc-21")
    assert len(set(preset.names)) < len(preset.names)
    assert combine(preset) is preset
    assert combine(Vocabulary(()), preset) is preset


def test_later_parts_fold_into_earlier_ones() -> None:
    typed = parse_classes("kitten|Cat, sky")
    preset = Vocabulary((thing("cat", "cats"), thing("dog", "kitten"), stuff("sky"), thing("Band Aid")))
    combined = combine(typed, preset)
    assert combined.classes == (thing("kitten", "cat", "cats"), stuff("sky"), thing("dog"), thing("Band Aid"))
    assert combined.notes == (
        'merged "cat" into "kitten"',
        'dropped "kitten" from "dog", as "kitten" has it already',
        'merged "sky" into "sky"',
    )


def test_repeats_within_a_part_stay() -> None:
    preset = Vocabulary((thing("crane", "bird", "bird"), thing("crane", "hoist"), thing("heron", "bird")))
    assert combine(parse_classes("dog"), preset).classes == (thing("dog"), *preset.classes)


def test_repeats_within_a_part_reach_a_merged_class_once() -> None:
    preset = Vocabulary((thing("kit"), thing("cat", "kit", "kit"), thing("cat", "kit")))
    assert combine(parse_classes("cat"), preset).classes == (thing("cat", "kit"), thing("kit"))


@pytest.mark.parametrize(
    ("typed", "kind"), [("curb", "stuff"), ("curb:thing", "thing"), ("curb:stuff", "stuff"), ("gutter|curb", "stuff")]
)
def test_a_preset_kind_gives_way_only_to_a_typed_one(typed: str, kind: str) -> None:
    assert infer_kind(["curb"]) == "thing"
    combined = combine(parse_classes(typed), load_preset("mapillary-vistas"))
    assert combined.classes[0].kind == kind


def test_combine_keeps_earlier_notes_first() -> None:
    combined = combine(parse_classes("cat, CAT"), parse_classes("cat, dog, DOG"))
    assert combined.notes == ('merged "CAT" into "cat"', 'merged "DOG" into "dog"', 'merged "cat" into "cat"')


def test_combine_needs_a_class() -> None:
    with pytest.raises(UserError, match="empty"):
        combine()
    with pytest.raises(UserError, match="empty"):
        combine(Vocabulary(()))


def test_combine_is_limited() -> None:
    half = Vocabulary(tuple(thing(f"a{i}") for i in range(12_500)))
    other = Vocabulary(tuple(thing(f"b{i}") for i in range(12_500)))
    assert len(combine(half, other, half)) == 25_000
    with pytest.raises(UserError, match="25,001 classes"):
        combine(half, other, parse_classes("cat"))


# --- properties ---

REPEATABLE = settings(derandomize=True, deadline=None)

PUNCTUATION = st.text(st.sampled_from(' ,;|:"“”„#\n\r\t\0\u0301\u200d\ufeff\ud800aAßİΣ') | st.characters(), max_size=80)
SYNTAX = st.lists(
    st.sampled_from(["cat", "Cat", "dog", "sky", "|", ",", ";", "\n", ":thing", ":stuff", ":", '"', "“", "”", " "]),
    max_size=25,
).map("".join)


def parse_or_none(text: str) -> Vocabulary | None:
    try:
        return parse_classes(text)
    except UserError:
        return None


@REPEATABLE
@given(PUNCTUATION | SYNTAX)
@example("a\u037eb, ;`\u1fef")  # composition turns a Greek question mark into a separator
@example("İ" + "\u0316" * 40)  # lower case adds a mark to a run that was just cut
def test_any_text_is_read_or_refused(text: str) -> None:
    vocabulary = parse_or_none(text)
    if vocabulary is None:
        return
    assert vocabulary.classes
    for entry in vocabulary.classes:
        assert 1 <= len(entry.names) <= 200
        for name in entry.names:
            assert 1 <= len(name) <= 80
            assert name == normalise_name(clean_text(name))
    keys = [name_key(name) for name in vocabulary.names]
    assert len(keys) == len(set(keys))


@REPEATABLE
@given(PUNCTUATION | SYNTAX)
@example('a"b, "c, d":stuff, “#”, e:thing|f')
def test_reading_what_was_read_changes_nothing(text: str) -> None:
    vocabulary = parse_or_none(text)
    if vocabulary is not None:
        assert parse_classes(format_classes(vocabulary)) == Vocabulary(vocabulary.classes)


def clean_names() -> st.SearchStrategy[str]:
    raw = st.text(st.characters(codec="utf-8") | st.sampled_from(' ,;|:"“”„#'), min_size=1, max_size=30)
    return raw.map(lambda name: normalise_name(clean_text(name))).filter(lambda name: bool(name_key(name)))


@st.composite
def clean_vocabularies(draw: st.DrawFn) -> Vocabulary:
    names = draw(st.lists(clean_names(), min_size=1, max_size=12, unique_by=name_key))
    cuts = [*sorted(draw(st.sets(st.integers(1, len(names)), max_size=len(names)))), len(names)]
    groups = [tuple(names[start:stop]) for start, stop in zip([0, *cuts], cuts, strict=False) if start < stop]
    kinds = st.sampled_from(["thing", "stuff"])
    return Vocabulary(tuple(VocabularyClass(group, draw(kinds)) for group in groups))


@REPEATABLE
@given(clean_vocabularies())
def test_format_is_undone_by_parse(vocabulary: Vocabulary) -> None:
    assert parse_classes(format_classes(vocabulary)) == vocabulary


@REPEATABLE
@given(clean_vocabularies(), clean_vocabularies())
def test_combining_clean_parts_repeats_no_name(first: Vocabulary, second: Vocabulary) -> None:
    combined = combine(first, second)
    keys = [name_key(name) for name in combined.names]
    assert len(keys) == len(set(keys))
    assert set(keys) == {name_key(name) for name in first.names + second.names}
    for own, merged in zip(first.classes, combined.classes, strict=False):
        assert merged.names[: len(own.names)] == own.names
        assert merged.kind == own.kind


# --- seen classes ---


def test_seen_is_an_exact_comparison() -> None:
    vocabulary = Vocabulary((thing("puppy", "dog"), thing("Dog"), thing(" dog"), stuff("stone wall")))
    seen = seen_classes(vocabulary, frozenset({"dog", "wall"}))
    assert seen.dtype == np.bool_
    assert seen.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("coco-panoptic", 133),
        ("ade20k-150", 64),
        ("ade20k-847", 101),
        ("cityscapes", 17),
        ("mapillary-vistas", 26),
        ("pascal-context-59", 51),
        ("pascal-context-459", 85),
        ("pascal-voc-21", 21),
        ("lvis-1203", 80),
    ],
)
def test_seen_counts_of_the_benchmarks(preset: str, count: int) -> None:
    training = frozenset(load_preset("coco-panoptic").names)
    assert len(training) == 254
    assert seen_classes(load_preset(preset), training).sum() == count


# --- prompts ---


def test_fill_keeps_the_order_and_the_full_stops() -> None:
    prompts = VILD_14.fill("dog")
    assert len(prompts) == 14
    assert prompts[0] == "a photo of a dog."
    assert prompts[3] == "There is the dog in the scene"
    assert prompts[13] == "There is a large dog in the scene."
    assert BARE.fill("dog") == ["dog"]


@pytest.mark.parametrize("name", ["{}", "{0}", "{dog", "}{", "{{}}", "%s", "\\1"])
def test_braces_in_a_name_are_ordinary(name: str) -> None:
    assert TemplateSet("two", ("a {}.", "{}")).fill(name) == [f"a {name}.", name]


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{}", "{0}")])
def test_templates_need_a_gap(templates: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="template set"):
        TemplateSet("broken", templates)


def test_digest_follows_the_content() -> None:
    digests = {TemplateSet("same", templates).digest for templates in [("{}", "a {}"), ("a {}", "{}"), ("{}a {}",)]}
    assert len(digests) == 3
    assert TemplateSet("other", BARE.templates).digest == BARE.digest


def test_prompts_of_the_reference() -> None:
    path = PARITY / "fcclip" / "case_1.json"
    if not path.exists():
        pytest.skip("the folder shared/parity is not beside this checkout")
    case = json.loads(path.read_text())
    name = case["classes"][0].split(",")[0]
    assert VILD_14.fill(name)[: len(case["first_prompts"])] == case["first_prompts"]
    vocabulary = Vocabulary(tuple(thing(*names.split(",")) for names in case["classes"]))
    training = frozenset(load_preset("coco-panoptic").names)
    assert seen_classes(vocabulary, training).tolist() == case["seen"]
