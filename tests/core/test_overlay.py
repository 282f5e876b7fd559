"""The pictures that people look at: outlines where they belong."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import tifffile
from pictures import discs, picture

from napari_tally.core.images import as_image
from napari_tally.core.overlay import contact_sheet, overlay

MAGENTA, GREEN = (255, 80, 220), (70, 230, 90)


def drawn_in(shown, colour):
    return (shown == colour).all(axis=-1)


def test_outlines_of_both():
    predicted = picture("........\n.111....\n.111....\n.111....\n........")
    truth = picture("........\n....222.\n....222.\n....222.\n........")
    shown = overlay(as_image(np.zeros((5, 8))), predicted, truth)
    ring = picture("........\n.111....\n.1.1....\n.111....\n........")
    np.testing.assert_array_equal(drawn_in(shown, MAGENTA), ring > 0)
    np.testing.assert_array_equal(drawn_in(shown, GREEN), np.roll(ring, 3, axis=1) > 0)


@pytest.mark.parametrize(
    "pixels", [np.full((9, 9), 7, np.uint16), np.zeros((9, 9, 3), np.uint8) + np.arange(3, dtype=np.uint8), np.ones((2, 3, 9, 9))]
)
def test_any_image_can_be_shown(pixels):
    image = as_image(pixels)
    shown = overlay(image, np.zeros(image.shape, np.int32))
    assert (shown.shape, shown.dtype) == ((9, 9, 3), np.uint8)
    assert overlay(replace(image, planes=image.planes + 1), np.ones(image.shape, np.int32)).shape == (9, 9, 3)


def test_a_sheet_of_nine(tmp_path):
    labels = discs((30, 50), (10, 10, 6), (20, 35, 6))
    tifffile.imwrite(tmp_path / "a.tif", (labels * 50).astype(np.uint8))
    contact_sheet([(tmp_path / "a.tif", labels, labels)] * 20, tmp_path / "sheet.png")
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 400
        assert sheet.height > 3 * 400
    contact_sheet([(tmp_path / "a.tif", labels, labels)], tmp_path / "one.png")
    with PIL.Image.open(tmp_path / "one.png") as sheet:
        assert sheet.width < 500
        assert drawn_in(np.asarray(sheet), MAGENTA).any()
