"""Tiles: every pixel is written once, what is read is on the grid, and what lies beyond the border is mirrored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tally.core.tiles import best_stride, grown, mirror, plan_tiles, reading

sides = st.integers(1, 80)


@given(sides, sides, st.integers(1, 40), st.integers(1, 40))
def test_every_pixel_is_written_by_exactly_one_tile(height, width, down, right):
    written = np.zeros((height, width), int)
    for tile in plan_tiles((height, width), (down, right)):
        written[tile] += 1
        assert written[tile].shape <= (down, right)
    assert (written == 1).all()


@given(sides, st.integers(0, 79), st.integers(1, 80), st.integers(0, 4), st.integers(0, 4))
def test_what_a_tile_reads(n, start, length, halo, border):
    step = 4
    halo, border, start = halo * step, border * step, min(start, n - 1)
    write = slice(start, min(n, start + length))
    first, last = reading(write, n, halo, step, border)
    assert first % step == last % step == 0
    assert first <= max(start - halo, -border)
    assert last >= min(write.stop + halo, n)
    assert first >= -border
    assert last <= n + step - 1 + border
    assert first <= write.start < write.stop <= last


@given(st.integers(1, 30000), st.integers(1, 30000), st.sampled_from([0, 32, 112, 320]), st.floats(1e4, 1e8))
def test_tiles_fit_the_memory(height, width, halo, pixels):
    down, across = best_stride((height, width), halo, pixels)
    counts = [-(-n // side) for side, n in zip((down, across), (height, width), strict=True)]
    reads = [side + halo * min(2, n - 1) for side, n in zip((down, across), counts, strict=True)]
    assert 1 <= down <= height
    assert 1 <= across <= width
    assert reads[0] * reads[1] <= pixels or max(down, across) <= max(1, 2 * halo)


def test_what_fits_is_one_tile():
    assert best_stride((3000, 2000), 112, 6e6) == (3000, 2000)
    assert sorted(best_stride((4096, 4096), 112, 9e6)) == [2048, 4096]  # two halves: half as much halo as four quarters


@given(sides, st.integers(0, 200), st.integers(0, 200))
def test_mirrored_like_numpy(n, before, behind):
    line = np.arange(n)
    np.testing.assert_array_equal(line[mirror(np.arange(-before, n + behind), n)], np.pad(line, (before, behind), mode="reflect"))


def test_mirror_is_a_zigzag():
    np.testing.assert_array_equal(mirror(np.arange(-4, 8), 3), [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1])
    np.testing.assert_array_equal(mirror(np.arange(-2, 3), 1), 0)


def test_a_region_grows_as_far_as_the_plane_goes():
    assert grown((slice(2, 5), slice(6, 9)), 3, (10, 10)) == (slice(0, 8), slice(3, 10))


def test_shapes_must_have_two_axes():
    with pytest.raises(ValueError, match="zip"):
        plan_tiles((5, 7, 9), (16, 16))
