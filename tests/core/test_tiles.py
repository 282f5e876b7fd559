"""Tiles: every pixel is written once, and what lies beyond the border is mirrored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tally.core.tiles import Tile, mirror, plan_tiles, read_mirrored

sides = st.integers(1, 80)


@given(sides, sides, st.integers(1, 40), st.integers(1, 40), st.integers(0, 30))
def test_every_pixel_is_written_by_exactly_one_tile(height, width, down, right, halo):
    tiles = plan_tiles((height, width), (down, right), halo, (down + 2 * halo, right + 2 * halo))
    written = np.zeros((height, width), int)
    for tile in tiles:
        written[tile.write] += 1
        for (start, stop), write, stride in zip(tile.read, tile.write, (down, right), strict=True):
            assert start == write.start - halo
            assert stop - start == stride + 2 * halo
            assert write.stop + halo <= stop
    assert (written == 1).all()


@given(sides, st.integers(1, 40), st.integers(0, 4), st.integers(0, 4))
def test_no_tile_reads_farther_beyond_the_image_than_its_border(height, stride, halo, border):
    step = 4
    stride, halo, border = stride * step, halo * step, border * step
    side = stride + 2 * halo
    for tile in plan_tiles((height, 8), (stride, stride), halo, (side, side), border, step):
        (first, stop), write = tile.read[0], tile.write[0]
        assert first == max(write.start - halo, -border)
        assert stop == min(write.start + stride + halo, -(-height // step) * step + border)
        assert first % step == stop % step == 0


@given(sides, sides, st.integers(0, 200), st.integers(0, 200))
def test_mirrored_like_numpy(height, width, above, left):
    plane = np.arange(2 * height * width).reshape(2, height, width)
    tile = Tile(((-above, height + left), (-left, width + above)), (slice(0, height), slice(0, width)))
    expected = np.pad(plane, ((0, 0), (above, left), (left, above)), mode="reflect")
    np.testing.assert_array_equal(read_mirrored(plane, tile), expected)


def test_mirror_is_a_zigzag():
    np.testing.assert_array_equal(mirror(np.arange(-4, 8), 3), [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1])
    np.testing.assert_array_equal(mirror(np.arange(-2, 3), 1), 0)


def test_a_small_image_is_one_tile():
    (tile,) = plan_tiles((5, 7), (16, 16), 8, (32, 32))
    assert tile == Tile(((-8, 24), (-8, 24)), (slice(0, 5), slice(0, 7)))


def test_shapes_must_have_two_axes():
    with pytest.raises(ValueError, match="zip"):
        plan_tiles((5, 7, 9), (16, 16), 8, (32, 32))
