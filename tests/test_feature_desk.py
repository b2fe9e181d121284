"""Features are read once, lenses look at what was read, and memory is bounded."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ovdemo import Picture, load_picture
from ovdemo.features import FIGURES, ClusterMap, Contrast, PanelRecipe, cluster, roughness
from ovdemo.features import memory as memory_module
from ovdemo.nn.clip import ClipTower
from ovdemo.panels import LENSES, FeatureDesk, Heat, Lens, View, bounded, figure_grid, grid_of, look
from ovdemo.panels import desk as desk_module
from ovdemo.passes import ONE_PASS
from ovdemo.systems.registry import Variant
from ovdemo.workbench import Workbench, load
from sentences import failure

ROWS = ("res4", "res3", "projected")


@pytest.fixture
def workbench(tiny: Variant) -> Workbench:
    return load(tiny.name, device="cpu", random_weights=True)


@pytest.fixture
def desk(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> FeatureDesk:
    """The source ``embedded`` is of a tiny system; no other weights are here."""
    monkeypatch.setattr("ovdemo.features.catalogue.is_cached", lambda file: None)
    return FeatureDesk(lambda name: workbench, device="cpu")


def photo(seed: int = 0) -> Picture:
    return load_picture(np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8))


def passes(desk: FeatureDesk) -> Counter[str]:
    """Counts, from now on, the passes of the embedded source through its two towers."""
    counted: Counter[str] = Counter()
    tower = desk.source("embedded").text_encoder
    assert isinstance(tower, ClipTower)
    tower.clip_model.visual.trunk.stem.register_forward_hook(lambda *_: counted.update(["picture"]))
    tower.clip_model.transformer.register_forward_hook(lambda *_: counted.update(["words"]))
    return counted


# Reading


def test_layers_are_read_together_and_once(desk: FeatureDesk) -> None:
    counted = passes(desk)
    picture = photo()
    readings = desk.read(picture, "embedded", ROWS, 128)
    assert counted["picture"] == 1
    assert [reading.features.layer.name for reading in readings] == list(ROWS)
    assert all(reading.seconds > 0 for reading in readings)
    again = desk.read(picture, "embedded", (*ROWS, "res2"), 128)
    assert counted["picture"] == 2
    assert all(new is old for new, old in zip(again, readings, strict=False))
    desk.read(picture, "embedded", ROWS[:1], 96)
    desk.read(photo(1), "embedded", ROWS[:1], 128)
    assert counted["picture"] == 4


def test_what_was_read_is_what_the_source_reads(desk: FeatureDesk) -> None:
    [reading] = desk.read(photo(), "embedded", ("res4",), 128)
    expected = desk.source("embedded").features(photo(), 128, "res4")
    np.testing.assert_array_equal(reading.features.values, expected.values)
    assert reading.key == (photo().digest, "embedded", "res4", 128)


def test_one_pass_runs_at_a_time_and_what_is_remembered_waits_for_none(desk: FeatureDesk) -> None:
    alone: list[bool] = []
    tower = desk.source("embedded").text_encoder
    assert isinstance(tower, ClipTower)
    tower.clip_model.visual.trunk.stem.register_forward_hook(lambda *_: alone.append(ONE_PASS.locked()))
    first = desk.read(photo(), "embedded", ("res4",), 128)
    assert alone == [True]
    with ONE_PASS:
        assert desk.read(photo(), "embedded", ("res4",), 128) == first


def test_a_model_can_be_let_go_after_its_features_were_read(tiny: Variant) -> None:
    loaded = [load(tiny.name, device="cpu", random_weights=True)]
    desk = FeatureDesk(lambda name: loaded[0], device="cpu")
    look(desk, desk.read(photo(), "embedded", ("projected",), 128), Lens("word", words="cat"))
    assert desk.source("embedded") is desk.source("embedded")
    system = weakref.ref(loaded[0].system)
    network = weakref.ref(loaded[0].system.network)  # type: ignore[attr-defined]
    loaded.clear()
    gc.collect()
    assert system() is None
    assert network() is None
    assert desk.recall(photo().digest, "embedded", "projected", 128) is not None


def test_a_model_s_pixel_decoder_can_be_read_where_the_model_is(workbench: Workbench) -> None:
    asked: list[str] = []

    def get(name: str) -> Workbench:
        asked.append(name)
        return workbench

    nowhere, here = FeatureDesk(get), FeatureDesk(get, ready=lambda name: name == "fcclip-rn50")
    assert [desk.offers("fcclip-rn50") for desk in (nowhere, here)] == [False, True]
    assert here.offers("vit-b-16")
    failure(lambda: nowhere.read(photo(), "fcclip-rn50", ("decoder-8",), 128), "not on this machine", "the model")
    assert asked == []
    assert "decoder-8" in [layer.name for layer in here.layers("fcclip-rn50")]
    assert asked == []
    [reading] = here.read(photo(), "fcclip-rn50", ("decoder-8",), 128)
    assert asked == ["fcclip-rn50"]
    assert reading.features.space == ("fcclip-rn50", "decoder-8")


def test_a_picture_is_forgotten_alone(desk: FeatureDesk) -> None:
    counted = passes(desk)
    for seed in (0, 1):
        look(desk, desk.read(photo(seed), "embedded", ("res4",), 128), Lens(k=2))
    desk.forget(photo(0).digest)
    assert desk.recall(photo(0).digest, "embedded", "res4", 128) is None
    assert desk.recall(photo(1).digest, "embedded", "res4", 128) is not None
    desk.read(photo(0), "embedded", ("res4",), 128)
    assert counted["picture"] == 3


def test_old_maps_make_room(workbench: Workbench) -> None:
    [one] = FeatureDesk(lambda name: workbench).read(photo(), "embedded", ("res3",), 128)
    small = FeatureDesk(lambda name: workbench, map_bytes=2 * one.features.values.nbytes)
    for seed in (0, 1):
        small.read(photo(seed), "embedded", ("res3",), 128)
    assert small.recall(photo(0).digest, "embedded", "res3", 128) is None
    assert small.recall(photo(1).digest, "embedded", "res3", 128) is not None


def test_missing_weights_are_not_downloaded_unless_allowed(desk: FeatureDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "load_source", lambda *_, **__: pytest.fail("started a download"))
    failure(lambda: desk.read(photo(), "vit-l-14", ("block-1",), 224), "ViT-L/14", "1,710 MB", "allow the download")
    failure(lambda: desk.source("vit-l-15"), "vit-l-15", "embedded")


def test_an_allowed_download_is_told_how_and_where(desk: FeatureDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def fake(name: str, **settings: object) -> object:
        asked.update(settings, name=name)
        return desk.source("embedded")

    monkeypatch.setattr(desk_module, "load_source", fake)
    progress = lambda done, total: None  # noqa: E731
    assert desk.source("rn50", download=True, progress=progress) is desk.source("rn50")
    assert asked == {"name": "rn50", "device": "cpu", "progress": progress}


def test_too_little_memory_is_a_sentence_on_either_device(desk: FeatureDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    source = desk.source("embedded")
    with monkeypatch.context() as short:
        short.setattr(memory_module, "_machine_free", lambda: 0)
        failure(lambda: desk.read(photo(), "embedded", ("res5",), 448), "memory", "448 px")

    def explode(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(source, "_read", explode)
    failure(lambda: desk.read(photo(), "embedded", ("res5",), 128), "GPU", "128 px", "smaller")


def test_calls_that_need_a_gpu_can_be_wrapped(workbench: Workbench) -> None:
    wrapped: list[str] = []

    def accelerate(call: Callable[..., object]) -> Callable[..., object]:
        def lent(*args: object) -> object:
            wrapped.append(call.__name__)
            return call(*args)

        return lent

    FeatureDesk(lambda name: workbench, accelerate=accelerate).read(photo(), "embedded", ("res5",), 128)
    assert wrapped == ["encode"]


# Looking


def test_no_lens_reads_the_picture_again(desk: FeatureDesk) -> None:
    readings = desk.read(photo(), "embedded", ROWS, 256)
    counted = passes(desk)
    for kind in LENSES:
        for lens in (Lens(kind, words="cat, sky"), Lens(kind, k=3, median=True, joint=True, words="cat, sky")):
            look(desk, readings, lens)
    assert counted["picture"] == 0
    assert counted["words"] == 1


def test_clusters_are_made_once(desk: FeatureDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(maps: object, k: int, **settings: bool) -> object:
        made.append(k)
        return cluster(maps, k, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(desk_module, "cluster", counted)
    readings = desk.read(photo(), "embedded", ("res3",), 128)
    for k in (4, 5, 4):
        look(desk, readings, Lens(k=k))
    look(desk, readings, Lens(k=4, median=True))
    assert made == [4, 5, 4]


def labels(view: View | str) -> np.ndarray:
    assert isinstance(view, View)
    assert isinstance(view.content, ClusterMap)
    return view.content.labels


def test_k_means_panels_have_k_colours_and_their_roughness(desk: FeatureDesk) -> None:
    readings = desk.read(photo(), "embedded", ("res3", "res4"), 256)
    for k in (2, 7):
        views = look(desk, readings, Lens(k=k))
        assert [len(np.unique(labels(view))) for view in views] == [k, k]
        for view in views:
            assert isinstance(view, View)
            assert view.roughness == roughness(labels(view))
            assert view.agreement is None
            assert len(np.unique(view.draw((96, 128), "nearest").reshape(-1, 3), axis=0)) == k


def test_a_segmentation_along_the_clusters_agrees_with_them(desk: FeatureDesk) -> None:
    [reading] = desk.read(photo(), "embedded", ("res3",), 128)
    [view] = look(desk, [reading], Lens(k=3))
    id_map = np.kron(labels(view).astype(np.int32), np.ones((8, 8), np.int32))
    same, none = (look(desk, [reading], Lens(k=3), ids)[0] for ids in (id_map, np.zeros_like(id_map)))
    assert isinstance(same, View)
    assert isinstance(none, View)
    assert same.agreement == 1
    assert none.agreement is not None
    assert none.agreement < 0.5


def test_jointly_all_sizes_of_a_layer_share_their_centroids(desk: FeatureDesk) -> None:
    readings = [desk.read(photo(), "embedded", ("res3",), size)[0] for size in (128, 192)]
    apart, joint = (look(desk, readings, Lens(k=4, joint=joint)) for joint in (False, True))

    def centroids(view: View | str) -> np.ndarray:
        assert isinstance(view, View)
        assert isinstance(view.content, ClusterMap)
        return view.content.centroids

    np.testing.assert_array_equal(centroids(joint[0]), centroids(joint[1]))
    assert not np.array_equal(centroids(apart[0]), centroids(apart[1]))


def test_one_panel_that_cannot_be_clustered_leaves_the_others(desk: FeatureDesk) -> None:
    readings = desk.read(photo(), "embedded", ("res5", "res3"), 128)  # 12 and 192 cells
    refused, view = look(desk, readings, Lens(k=20))
    assert refused == failure(lambda: desk.clusters(readings[:1], 20), "20 clusters").args[0]
    assert len(np.unique(labels(view))) == 20


def test_words_look_at_final_maps_only(desk: FeatureDesk) -> None:
    readings = desk.read(photo(), "embedded", ("res5", "projected"), 128)
    refused, view = look(desk, readings, Lens("word", words="cat, sky"))
    assert isinstance(refused, str)
    assert "final map" in refused
    assert isinstance(view, View)
    assert isinstance(view.content, Heat)
    low, high = view.content.limits
    assert (low, high) == (view.cells.min(), view.cells.max())
    failure(lambda: look(desk, readings, Lens("word", words=" ")), "at least one class")


def test_only_words_that_count_are_encoded_and_not_many(desk: FeatureDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = desk.read(photo(), "embedded", ("projected",), 128)
    asked: list[tuple[str, ...]] = []
    embed = desk.embed
    monkeypatch.setattr(desk, "embed", lambda source, words: asked.append(words.names) or embed(source, words))
    many = ", ".join(f"strange word {number}" for number in range(101))
    [view] = look(desk, readings, Lens("word", words=f"cat|kitten, {many}"))
    assert isinstance(view, View)
    assert asked == [("cat", "kitten")]
    [sentence] = look(desk, readings, Lens("word", words=many, contrast="others"))
    assert isinstance(sentence, str)
    assert "101 of these names are new to CLIP ConvNeXt-Femto" in sentence
    [view] = look(desk, readings, Lens("word", words="cat, sky", contrast="others"))
    assert isinstance(view, View)
    assert asked[-1] == ("cat", "sky")


@pytest.mark.parametrize("contrast", ["others", "softmax"])
def test_one_word_has_no_contrast(desk: FeatureDesk, contrast: Contrast) -> None:
    [sentence] = look(
        desk, desk.read(photo(), "embedded", ("projected",), 128), Lens("word", words="cat", contrast=contrast)
    )
    assert isinstance(sentence, str)
    assert "second one" in sentence


def test_the_clicked_cell_is_most_like_itself(desk: FeatureDesk) -> None:
    readings = desk.read(photo(), "embedded", ("res3", "res4"), 128)
    for view in look(desk, readings, Lens("click", point=(127, 0))):
        assert isinstance(view, View)
        assert view.cells[0, -1] == pytest.approx(1, abs=1e-5)
        assert view.cells.max() <= 1 + 1e-5
    middle, explicit = (look(desk, readings, Lens("click", point=at))[0] for at in (None, (64, 48)))
    assert isinstance(middle, View)
    assert isinstance(explicit, View)
    np.testing.assert_array_equal(middle.cells, explicit.cells)


def test_components_are_colours(desk: FeatureDesk) -> None:
    for foreground in (False, True):
        [view] = look(desk, desk.read(photo(), "embedded", ("res3",), 128), Lens("PCA", foreground=foreground))
        assert isinstance(view, View)
        assert view.cells.shape[2] == 3
        assert view.draw((96, 128), "bilinear").shape == (96, 128, 3)
        assert (view.cells == 0).all(-1).any() == foreground


# Grids


def test_a_grid_reads_all_layers_of_a_source_at_a_size_in_one_pass(desk: FeatureDesk) -> None:
    grid = grid_of(desk, [("embedded", "res5"), ("embedded", "res3")], [128, 256])
    assert grid.columns == ("128 px", "256 px")
    assert [(step.size, step.layers) for step in grid.passes] == [(128, ("res5", "res3")), (256, ("res5", "res3"))]
    assert grid.panels[1] == PanelRecipe("embedded", "res5", 256)
    assert grid.rows[0][0] == "CLIP ConvNeXt-Femto (embedded): res5, stride 32"


def test_small_inputs_are_read_first_and_otherwise_row_by_row() -> None:
    passes = figure_grid(FIGURES["fcclip-1"]).passes
    assert [step.size for step in passes] == [size for size in (224, 448, 672, 896, 1120) for _ in range(3)]
    assert [step.source for step in passes[:3]] == ["vit-l-14", "convnext-large", "embedded"]


def test_figures_are_grids() -> None:
    for recipe in FIGURES.values():
        grid = figure_grid(recipe)
        assert {(s.source, s.size, layer) for s in grid.passes for layer in s.layers} == {
            (p.source, p.size, p.layer) for p in grid.panels
        }
        assert len({(step.source, step.size) for step in grid.passes}) == len(grid.passes)
        assert (grid.title, grid.caption) == (recipe.title, recipe.caption)


def test_cells_are_bounded_at_even_distances() -> None:
    cells = np.arange(200 * 50).reshape(200, 50)
    np.testing.assert_array_equal(bounded(cells, 250), cells)
    small = bounded(cells, 40)
    assert small.shape == (40, 40)
    assert set(np.diff(small[:, 0] // 50)) == {5}
