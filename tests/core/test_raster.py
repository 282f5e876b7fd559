"""Polygons on pixels: pictures, and agreement with the rule that asks every pixel."""

import numpy as np
import pytest
from pictures import picture
from skimage.draw import polygon

from napari_tally.core.raster import polygon_pixels


def filled(shape, corners):
    rows, columns, inside = polygon_pixels(np.array(corners, float), shape)
    mask = np.zeros(shape, bool)
    mask[rows, columns] = inside
    return mask


@pytest.mark.parametrize(
    ("corners", "drawing"),
    [
        ([(1, 1), (1, 4), (3, 4), (3, 1)], "...... .1111. .1111. .1111. ......"),  # a box, edges and all
        ([(0.5, 2.5), (0.5, 9), (9, 9), (9, 2.5)], "...... ...111 ...111 ...111 ...111"),  # beyond the picture
        ([(0, 2), (2, 0), (4, 2), (2, 4)], "..1... .111.. 11111. .111.. ..1..."),  # corners on pixels
        ([(1, 1), (1, 4), (3, 1), (3, 4)], "...... .1111. ...... .1111. ......"),  # it crosses itself
        ([(0, 0), (4, 0), (4, 5), (2, 5), (2, 2), (0, 2)], "111... 111... 111111 111111 111111"),
        ([(-5, -5), (-5, -2), (-2, -2), (-2, -5)], "...... ...... ...... ...... ......"),
        ([(0.2, 0.2), (0.2, 0.8), (0.8, 0.8), (0.8, 0.2)], "...... ...... ...... ...... ......"),  # between the centres
    ],
)
def test_a_pixel_is_in_where_its_centre_is_in_or_on_the_edge(corners, drawing):
    np.testing.assert_array_equal(filled((5, 6), corners), picture(drawing) > 0)


@pytest.mark.parametrize("whole", [False, True])
def test_it_is_the_rule_that_asks_every_pixel(rng, whole):
    for n in range(3, 23):
        corners = rng.uniform(-5, 35, (n, 2))
        corners = np.round(corners) if whole else corners
        wanted = np.zeros((25, 30), bool)
        wanted[polygon(*corners.T, wanted.shape)] = True
        found = filled(wanted.shape, corners)
        if whole:  # where a centre lies on a slanted edge, rounding decides
            assert (found != wanted).mean() < 0.01
        else:
            np.testing.assert_array_equal(found, wanted)
