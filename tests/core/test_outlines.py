"""Outlines run along pixel edges, and give the pixels back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import picture
from skimage.measure import grid_points_in_poly

from napari_tally.core.outlines import cell_outlines, outlines, pieces, signed_area


def fill(outer, holes, shape):
    """Fill rings by the rule of ImageJ: a pixel belongs where its centre lies inside."""
    mask = np.zeros(shape, bool)
    for ring in [*outer, *holes]:
        mask ^= grid_points_in_poly(shape, ring - 0.5)
    return mask


def test_an_ell_clockwise_along_its_edges():
    (ring,), holes = outlines(picture("1.\n11") > 0)
    assert holes == []
    start = [tuple(corner) for corner in ring].index((0, 0))
    assert np.roll(ring, -start, axis=0).tolist() == [[0, 0], [0, 1], [1, 1], [1, 2], [2, 2], [2, 0]]
    assert signed_area(ring) == 3


@pytest.mark.parametrize(
    ("drawing", "pieces", "holes"),
    [
        ("11\n11", 1, 0),
        ("111\n1.1\n111", 1, 1),
        ("1.\n.1", 2, 0),  # touching at a corner: two rings that are simple, which GeoJSON wants
        ("1111\n1.11\n11.1\n1111", 1, 2),
        ("111\n1.1\n.11", 1, 1),  # the hole reaches the outside at a corner only
        ("1.1\n...\n1.1", 4, 0),
    ],
)
def test_pieces_and_holes(drawing, pieces, holes):
    mask = picture(drawing) > 0
    outer, inner = outlines(mask)
    assert (len(outer), len(inner)) == (pieces, holes)
    np.testing.assert_array_equal(fill(outer, inner, mask.shape), mask)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_any_mask_comes_back_and_every_ring_is_simple(mask):
    outer, holes = outlines(mask)
    np.testing.assert_array_equal(fill(outer, holes, mask.shape), mask)
    assert sum(map(signed_area, [*outer, *holes])) == mask.sum()
    for ring in [*outer, *holes]:
        assert len({tuple(corner) for corner in ring}) == len(ring) >= 4


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_the_pieces_of_any_mask_are_apart_and_fill_it(mask):
    found = pieces(*outlines(mask))
    covered = sum((fill(piece, [], mask.shape).astype(int) for piece in found), np.zeros(mask.shape, int))
    np.testing.assert_array_equal(covered, mask)


def test_cells_lie_where_they_are():
    labels = picture("""
        ..9.
        ..95
        ???5
        """)
    found = {cell: (outer, holes) for cell, outer, holes in cell_outlines(labels)}
    assert sorted(found) == [5, 9]
    for cell, (outer, holes) in found.items():
        np.testing.assert_array_equal(fill(outer, holes, labels.shape), labels == cell)
    assert list(cell_outlines(np.zeros((3, 3), int))) == []
