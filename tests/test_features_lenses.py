"""Known features in, known clusters, colours, similarities and numbers out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovdemo.features import (
    CLUSTERS,
    FIGURES,
    SIZES,
    SOURCES,
    ClusterMap,
    FeatureMap,
    Layer,
    boundary_agreement,
    click_map,
    cluster,
    match_colours,
    principal_colours,
    roughness,
    shared_range,
    word_map,
)
from ovdemo.features.maps import joint_rows, resize_cells, sample_rows
from ovdemo.vocabulary import TextEmbeddings
from sentences import failure


def feature_map(
    values: np.ndarray, *, source: str = "a", layer: str = "last", projected: bool = False, picture: tuple = (64, 96)
) -> FeatureMap:
    return FeatureMap(
        values.astype(np.float32), source, Layer(layer, layer, 16, values.shape[2], projected), 224, picture
    )


def quilt(height: int, width: int, k: int) -> np.ndarray:
    """(height, width) labels: k vertical bands."""
    return np.tile(np.arange(width) * k // width, (height, 1))


def clustered(labels: np.ndarray, *, channels: int = 16, seed: int = 0, **names: str) -> FeatureMap:
    """Features around one direction a label, of any length, with a little noise."""
    random = np.random.default_rng(seed)
    centres = np.linalg.qr(np.random.default_rng(7).normal(size=(channels, channels)))[0]
    values = centres[labels] + random.normal(scale=0.02, size=(*labels.shape, channels))
    return feature_map(values * random.uniform(0.1, 10, size=(*labels.shape, 1)), **names)


def same_partition(labels: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two label maps are equal up to the names of the labels."""
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


# k-means


@pytest.mark.parametrize("k", [2, 5, 8])
def test_known_clusters_are_recovered_whatever_the_length_of_features(k: int) -> None:
    expected = quilt(12, 40, k)
    [found] = cluster([clustered(expected)], k)
    assert same_partition(found.labels, expected)
    assert (found.labels.shape, found.labels.dtype, found.centroids.shape) == ((12, 40), np.uint8, (k, 16))


def test_clusters_of_more_cells_than_are_fitted_are_recovered_too() -> None:
    expected = quilt(80, 100, 6)
    assert same_partition(cluster([clustered(expected)], 6)[0].labels, expected)


def test_equal_seeds_give_equal_clusters() -> None:
    panel = feature_map(np.random.default_rng(0).normal(size=(80, 80, 8)))
    first, second = (cluster([panel], 7, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.centroids, second.centroids)
    assert not np.array_equal(cluster([panel], 7, seed=4)[0].labels, first.labels)


def test_sizes_are_fitted_jointly() -> None:
    labels = [quilt(6, 12, 4), quilt(24, 48, 4)]
    maps = cluster([clustered(each, seed=n) for n, each in enumerate(labels)], 4)
    np.testing.assert_array_equal(maps[0].centroids, maps[1].centroids)
    np.testing.assert_array_equal(resize_cells(maps[0].labels, (24, 48)), maps[1].labels)


def test_a_median_removes_single_cells() -> None:
    expected = quilt(15, 30, 3)
    noisy = expected.copy()
    noisy[7, 5], noisy[3, 15], noisy[10, 25] = 2, 0, 1
    panel = clustered(noisy)
    assert same_partition(cluster([panel], 3)[0].labels, noisy)
    assert same_partition(cluster([panel], 3, median=True)[0].labels, expected)


@pytest.mark.parametrize("k", [CLUSTERS[0] - 1, CLUSTERS[1] + 1])
def test_the_number_of_clusters_is_bounded(k: int) -> None:
    failure(lambda: cluster([clustered(quilt(9, 9, 2))], k), "2 and 20", str(k))


def test_fewer_cells_than_clusters_is_a_sentence() -> None:
    failure(lambda: cluster([clustered(quilt(2, 3, 3))], 8), "8 clusters", "6 cells")


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_flat_picture_has_one_cluster() -> None:
    assert roughness(cluster([feature_map(np.ones((5, 5, 4)))], 3)[0].labels) == 0


@pytest.mark.parametrize("other", [{"source": "b"}, {"layer": "first"}])
def test_maps_of_different_spaces_are_not_fitted_together(other: dict[str, str]) -> None:
    panels = [clustered(quilt(6, 6, 3)), clustered(quilt(6, 6, 3), **other)]
    for lens in (lambda: cluster(panels, 3), lambda: principal_colours(panels), lambda: cluster([], 3)):
        with pytest.raises(ValueError, match="one layer of one source"):
            lens()


# Colours that stay


def permuted(panel: ClusterMap, order: np.ndarray, **change: tuple[str, str]) -> ClusterMap:
    """The same clusters under other numbers."""
    labels = np.argsort(order).astype(np.uint8)[panel.labels]
    return ClusterMap(labels, panel.centroids[order], change.get("space", panel.space))


@given(order=st.permutations(range(6)))
def test_colours_are_matched_across_a_permutation_by_centroids(order: list[int]) -> None:
    random = np.random.default_rng(0)
    reference = ClusterMap(quilt(8, 24, 6).astype(np.uint8), random.normal(size=(6, 16)), ("a", "last"))
    _, matched = match_colours([reference, permuted(reference, np.array(order))])
    np.testing.assert_array_equal(matched.labels, reference.labels)
    np.testing.assert_array_equal(matched.centroids, reference.centroids)


@given(order=st.permutations(range(6)))
def test_colours_are_matched_across_towers_by_overlap(order: list[int]) -> None:
    reference = ClusterMap(quilt(8, 24, 6).astype(np.uint8), np.zeros((6, 4), np.float32), ("a", "last"))
    finer = ClusterMap(quilt(20, 60, 6).astype(np.uint8), np.arange(6.0)[:, None], ("b", "last"))
    _, matched = match_colours([reference, permuted(finer, np.array(order))])
    np.testing.assert_array_equal(matched.labels, finer.labels)
    np.testing.assert_array_equal(matched.centroids, finer.centroids)


def test_the_matching_is_the_best_in_all_and_not_one_by_one() -> None:
    """Each takes its nearest: 0 -> 0.4 first would leave 1 -> 5; in all, 0 -> -3 and 1 -> 0.4 is cheaper."""
    labels = np.array([[0, 1]], np.uint8)
    reference = ClusterMap(labels, np.array([[0.0], [1.0]]), ("a", "last"))
    _, matched = match_colours([reference, ClusterMap(labels, np.array([[0.4], [-3.0]]), ("a", "last"))])
    np.testing.assert_array_equal(matched.centroids, [[-3.0], [0.4]])
    np.testing.assert_array_equal(matched.labels, [[1, 0]])


def test_a_panel_follows_its_own_tower_and_never_a_later_panel() -> None:
    base = cluster([clustered(quilt(8, 24, 4))], 4)[0]
    panels = [
        base,
        permuted(base, np.array([1, 2, 3, 0]), space=("b", "last")),
        permuted(base, np.array([3, 1, 0, 2]), space=("b", "last")),
        permuted(base, np.array([2, 0, 1, 3])),
    ]
    matched = match_colours(panels)
    for panel in matched:
        np.testing.assert_array_equal(panel.labels, base.labels)
    for n in range(1, 5):
        for early, late in zip(match_colours(panels[:n]), matched, strict=False):
            np.testing.assert_array_equal(early.labels, late.labels)
    assert match_colours([]) == ()


def test_panels_of_different_k_are_not_matched() -> None:
    panels = [cluster([clustered(quilt(8, 24, 4))], k)[0] for k in (3, 4)]
    with pytest.raises(ValueError, match="same number"):
        match_colours(panels)


# PCA


def test_components_come_in_order_and_fill_the_range() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(-1, 1, size=(40, 50, 3)) * (0.3, 0.2, 0.1)
    values = np.concatenate([np.full((40, 50, 1), 10.0), scores, np.zeros((40, 50, 4))], 2)
    [colours] = principal_colours([feature_map(values)])
    assert (colours.shape, colours.dtype) == ((40, 50, 3), np.float32)
    assert (colours.min(), colours.max()) == (0, 1)
    for channel in range(3):
        # Positive along the axis: the sign is that of the largest loading, which is made positive.
        assert np.corrcoef(colours[..., channel].ravel(), scores[..., channel].ravel())[0, 1] > 0.99
        assert 0.005 < (colours[..., channel] == 1).mean() < 0.02  # a percentile's cells, and no more, are clipped


def test_the_sign_does_not_follow_the_order_of_cells() -> None:
    values = np.random.default_rng(1).normal(size=(20, 30, 12)) + 3
    [first] = principal_colours([feature_map(values)])
    [turned] = principal_colours([feature_map(values[::-1, ::-1])])
    np.testing.assert_allclose(turned[::-1, ::-1], first, atol=1e-3)


def test_one_outlier_does_not_take_the_colours() -> None:
    values = np.concatenate([np.full((20, 20, 1), 10.0), np.random.default_rng(2).normal(size=(20, 20, 3))], 2)
    values[0, 0, 1] = 1000
    [colours] = principal_colours([feature_map(values)])
    assert np.ptp(colours[1:, 1:, 0]) == 1


def test_several_sizes_share_their_components() -> None:
    labels = [quilt(6, 12, 4), quilt(12, 24, 4)]
    small, large = principal_colours([clustered(each, seed=n) for n, each in enumerate(labels)])
    np.testing.assert_allclose(resize_cells(small, (12, 24)), large, atol=0.2)


def test_a_flat_picture_is_grey() -> None:
    for channels in (1, 2, 8):
        [colours] = principal_colours([feature_map(np.ones((4, 5, channels)))])
        np.testing.assert_array_equal(colours, np.full((4, 5, 3), 0.5))
    [one] = principal_colours([feature_map(np.ones((1, 1, 3)))])
    assert one.shape == (1, 1, 3)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_the_side_away_from_the_border(sign: int) -> None:
    values = np.random.default_rng(3).normal(scale=0.05, size=(20, 20, 6)) + np.eye(6)[5]
    inside = np.zeros((20, 20), bool)
    inside[5:15, 6:14] = True
    values[..., 0] += np.where(inside, sign, -sign)
    [colours] = principal_colours([feature_map(values)], foreground=True)
    np.testing.assert_array_equal(colours[~inside], 0)
    assert np.all(np.ptp(colours[inside], axis=0) == 1)


def test_a_flat_picture_is_all_foreground() -> None:
    [colours] = principal_colours([feature_map(np.ones((6, 6, 4)))], foreground=True)
    np.testing.assert_array_equal(colours, np.full((6, 6, 3), 0.5))


# Words and clicks


def words(*rows: list[float], owner: list[int] | None = None) -> TextEmbeddings:
    owners = torch.tensor(owner or list(range(len(rows))))
    return TextEmbeddings(torch.tensor(rows), owners, int(owners.max()) + 1)


def test_a_word_map_is_the_cosine_it_was_built_with() -> None:
    cosines = np.linspace(-1, 1, 12).reshape(3, 4)
    values = np.stack([cosines, np.sqrt(1 - cosines**2)], 2) * np.arange(1, 13).reshape(3, 4, 1)
    found = word_map(feature_map(values, projected=True), words([1.0, 0.0]), 0)
    np.testing.assert_allclose(found, cosines, atol=1e-6)
    assert found.dtype == np.float32


def test_a_class_scores_its_best_name() -> None:
    values = np.array([[[1.0, 0.0], [0.6, 0.8]]])
    text = words([0.0, 1.0], [1.0, 0.0], [0.0, -1.0], owner=[0, 0, 1])
    np.testing.assert_allclose(word_map(feature_map(values, projected=True), text, 0), [[1.0, 0.8]], atol=1e-6)


def test_contrasts() -> None:
    panel = feature_map(np.array([[[0.6, 0.8, 0.0], [0.0, 0.0, 2.0]]]), projected=True)
    text = words([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(word_map(panel, text, 1, "others"), [[0.8 - 0.3, 0 - 0.5]], atol=1e-6)
    near = feature_map(np.array([[[1.0, 0.99, 0.0]]]), projected=True)
    odds = np.exp(100 * 0.01 / np.hypot(1, 0.99))
    np.testing.assert_allclose(word_map(near, text, 0, "softmax"), [[odds / (1 + odds)]], atol=1e-4)
    total = sum(word_map(near, text, word, "softmax") for word in range(3))
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_words_need_projected_features_and_contrast_needs_words() -> None:
    values = np.ones((2, 2, 2))
    failure(lambda: word_map(feature_map(values, layer="block 6"), words([1.0, 0.0]), 0), "block 6", "projected")
    for contrast in ("others", "softmax"):
        action = lambda c=contrast: word_map(feature_map(values, projected=True), words([1.0, 0.0]), 0, c)  # noqa: E731
        failure(action, "second one")
    with pytest.raises(ValueError, match="width"):
        word_map(feature_map(values, projected=True), words([1.0, 0.0, 0.0]), 0)


def test_a_click_compares_with_the_cell_under_it() -> None:
    values = np.array([[[1.0, 0.0], [0.0, 3.0]], [[-2.0, 0.0], [1.0, 1.0]]])
    panel = feature_map(values, picture=(64, 96))
    np.testing.assert_allclose(click_map(panel, 0, 0), [[1, 0], [-1, 0.5**0.5]], atol=1e-6)
    np.testing.assert_allclose(click_map(panel, 95.9, 31.9), [[0, 1], [0, 0.5**0.5]], atol=1e-6)
    np.testing.assert_allclose(click_map(panel, 47, 32)[1, 0], 1, atol=1e-6)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (96, 0), (0, 64), (float("nan"), 0)])
def test_a_click_outside_is_a_sentence(x: float, y: float) -> None:
    failure(lambda: click_map(feature_map(np.ones((2, 2, 2))), x, y), "96 x 64", "click inside")


def test_panels_share_their_scale() -> None:
    assert shared_range([np.array([[0.1, 0.5]]), np.array([[-0.2]])]) == (-0.2, 0.5)


def test_a_zero_feature_is_like_nothing() -> None:
    panel = feature_map(np.zeros((2, 2, 3)), projected=True)
    np.testing.assert_array_equal(panel.unit, 0)
    np.testing.assert_array_equal(word_map(panel, words([1.0, 0.0, 0.0]), 0), 0)


# Smoothness


def test_roughness_counts_pairs_of_neighbours() -> None:
    assert roughness(np.array([[0, 0, 1], [0, 0, 1]])) == pytest.approx(2 / 7)
    assert roughness(np.indices((4, 4)).sum(0) % 2) == 1
    assert roughness(np.zeros((1, 1))) == 0


def test_clusters_that_end_where_segments_do_agree() -> None:
    labels = quilt(10, 12, 3)
    agreement = boundary_agreement(labels, resize_cells(labels, (100, 120)) + 1)
    assert (agreement.precision, agreement.recall, agreement.f1) == (1, 1, 1)


def test_boundaries_agree_within_the_tolerance_only() -> None:
    labels, ids = quilt(10, 16, 2), np.zeros((10, 16), int)
    ids[:, 10:] = 1  # the boundary is two cells further right
    shifted = boundary_agreement(labels, ids)
    assert (shifted.precision, shifted.recall, shifted.f1) == (0.5, 0.5, 0.5)
    assert boundary_agreement(labels, ids, tolerance=0).f1 == 0
    assert boundary_agreement(labels, ids, tolerance=2).f1 == 1


def test_boundaries_that_are_not_there() -> None:
    flat, halves = np.zeros((6, 6), int), quilt(6, 6, 2)
    assert boundary_agreement(flat, flat).f1 == 1
    missed = boundary_agreement(flat, halves)
    assert (missed.precision, missed.recall, missed.f1) == (1, 0, 0)


# Helpers and recipes


@given(height=st.integers(1, 9), width=st.integers(1, 9), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_a_resized_cell_is_the_one_under_its_centre(height: int, width: int, rows: int, columns: int) -> None:
    cells = np.arange(height * width).reshape(height, width)
    resized = resize_cells(cells, (rows, columns))
    assert resized.shape == (rows, columns)
    assert resized[rows - 1, 0] == cells[int((rows - 0.5) * height / rows), int(0.5 * width / columns)]
    np.testing.assert_array_equal(resize_cells(cells, (height, width)), cells)


def test_a_sample_is_drawn_from_the_rows_once_each() -> None:
    rows = joint_rows([clustered(quilt(10, 10, 3)), clustered(quilt(5, 10, 3))])
    assert len(rows) == 150
    sample = sample_rows(rows, 40, seed=1)
    known = {row.tobytes() for row in rows}
    assert len({row.tobytes() for row in sample} & known) == len(sample) == 40
    assert sample_rows(rows, 150) is rows


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_recipes_name_sources_layers_and_sizes_that_exist(name: str) -> None:
    recipe = FIGURES[name]
    assert CLUSTERS[0] <= recipe.clusters <= CLUSTERS[1]
    for _, panels in recipe.rows:
        assert len(panels) == len(recipe.columns)
        for panel in panels:
            assert SIZES[0] <= panel.size <= SIZES[1]
            assert panel.layer in {layer.name for layer in SOURCES[panel.source].layers}


def test_eov_seg_s_figure_has_its_three_blocks_of_each_network() -> None:
    panels = [panel for _, row in FIGURES["eovseg-3"].rows for panel in row]
    assert [panel.layer for panel in panels] == ["block-1", "block-6", "block-12"] * 3
    assert {panel.source for panel in panels} == {"dinov2-b-14", "sam-b-16", "vit-b-16"}
