"""Resampling: a piece is the piece of the whole, a constant stays, and the middle of things stays where it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tally.core.rescale import needed, rescale, rescale_piece

sides = st.integers(1, 60)


def test_the_same_size_is_the_same_array():
    plane = np.zeros((2, 4, 6), np.float32)
    np.testing.assert_array_equal(rescale(plane, (4, 6)), plane)


def test_growing_is_linear_interpolation():
    np.testing.assert_allclose(rescale(np.array([[[0.0, 1.0]]]), (1, 4)), [[[0, 0.25, 0.75, 1]]])


def test_shrinking_averages():
    """Half the size: a triangle over four pixels, 1 3 3 1."""
    line = np.zeros((1, 1, 8), np.float32)
    line[..., 3] = 8
    np.testing.assert_allclose(rescale(line, (1, 4)), [[[0, 3, 1, 0]]])


@given(sides, sides, sides, sides)
def test_constants_stay_and_the_shape_is_as_asked(h, w, height, width):
    grown = rescale(np.full((2, h, w), 3, np.uint8), (height, width))
    assert grown.dtype == np.float32
    assert grown.shape == (2, height, width)
    np.testing.assert_allclose(grown, 3, rtol=1e-6)


@given(sides, sides, sides, sides, st.data())
def test_a_piece_is_the_piece_of_the_whole_to_the_bit(h, w, height, width, data):
    plane = np.random.default_rng(0).normal(size=(1, h, w)).astype(np.float32)
    starts = [data.draw(st.integers(0, n - 1)) for n in (height, width)]
    piece = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, (height, width), strict=True))
    known = needed((h, w), (height, width), piece)
    np.testing.assert_array_equal(
        rescale_piece(plane[:, *known], (h, w), (height, width), piece), rescale(plane, (height, width))[:, *piece]
    )


@pytest.mark.parametrize("factor", [0.4, 0.5, 1.7, 3])
def test_things_stay_in_place(factor):
    y, x = np.mgrid[:60, :80]
    blob = np.exp(-((y - 20) ** 2 + (x - 50) ** 2) / 60)[None]
    small = rescale(blob, (round(60 * factor), round(80 * factor)))[0]
    middle = [(np.arange(n) * small.sum(axis=1 - axis)).sum() / small.sum() for axis, n in enumerate(small.shape)]
    np.testing.assert_allclose([(m + 0.5) / factor - 0.5 for m in middle], [20, 50], atol=0.15)
