from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovdemo.images import ResizeRule
from ovdemo.systems.base import Geometry, Proposals
from ovdemo.upsampling import cells_to_picture, logits_at, picture_to_cells, tiles
from straightforward import upsample


def make_proposals(
    picture: tuple[int, int], short_side: int, count: int = 5, seed: int = 0, spread: float = 5.0
) -> Proposals:
    """Random mask logits over a picture's padded input."""
    generator = torch.Generator().manual_seed(seed)
    resized = ResizeRule(short_side, 4 * short_side).size(*picture)
    padded = tuple(-(-side // 32) * 32 for side in resized)
    logits = spread * torch.randn(count, padded[0] // 4, padded[1] // 4, generator=generator)
    embeddings = torch.randn(2, count, 8, generator=generator)
    return Proposals(logits, *embeddings, torch.ones(count, dtype=torch.bool), Geometry(picture, resized, padded))


@given(st.integers(16, 200), st.integers(16, 200), st.sampled_from([32, 50, 64, 96]))
def test_tiles_equal_whole_masks_and_keep_their_bounds(height: int, width: int, short_side: int) -> None:
    proposals = make_proposals((height, width), short_side)
    whole = upsample(proposals)
    covered = torch.zeros(height, width)
    for tile in tiles(proposals):
        logits = tile.logits(torch.arange(len(proposals))).permute(2, 0, 1)
        torch.testing.assert_close(logits, whole[:, tile.rows, tile.columns], atol=1e-4, rtol=1e-4)
        assert (logits >= tile.low[:, None, None] - 1e-4).all()
        assert (logits <= tile.high[:, None, None] + 1e-4).all()
        covered[tile.rows, tile.columns] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("chosen", [[], [3], [4, 0]])
def test_only_the_chosen_proposals_are_upsampled_in_their_order(chosen: list[int]) -> None:
    proposals = make_proposals((40, 60), 32)
    tile = next(iter(tiles(proposals)))
    everything = tile.logits(torch.arange(5))
    torch.testing.assert_close(tile.logits(torch.tensor(chosen, dtype=torch.int64)), everything[..., chosen])


@given(st.integers(16, 200), st.integers(16, 200), st.sampled_from([32, 50, 96]), st.data())
def test_logits_at_a_pixel_are_those_of_whole_masks(
    height: int, width: int, short_side: int, data: st.DataObject
) -> None:
    proposals = make_proposals((height, width), short_side)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    torch.testing.assert_close(logits_at(proposals, x, y), upsample(proposals)[:, y, x], atol=1e-4, rtol=1e-4)


@given(st.integers(16, 120), st.integers(16, 120), st.sampled_from([32, 50, 96]))
def test_any_map_goes_the_way_of_masks_and_pixels_back(height: int, width: int, short_side: int) -> None:
    proposals = make_proposals((height, width), short_side)
    cells, geometry = proposals.mask_logits, proposals.geometry
    whole = cells_to_picture(cells, geometry)
    torch.testing.assert_close(whole, upsample(proposals), atol=1e-4, rtol=1e-4)
    pixels = torch.rand(height, width)
    shared = picture_to_cells(pixels, (cells.shape[1], cells.shape[2]), geometry)
    torch.testing.assert_close(shared.sum(), pixels.sum())
    torch.testing.assert_close((cells * shared).sum((1, 2)), (whole * pixels).sum((1, 2)), atol=1e-2, rtol=1e-4)
