"""The pictures that people look at: outlines where they belong."""

from dataclasses import dataclass, field, replace

import numpy as np
import PIL.Image
import pytest
import tifffile
from pictures import discs, picture

from napari_tally.core.audit import Window
from napari_tally.core.images import Image, as_image
from napari_tally.core.overlay import contact_sheet, frame_picture, overlay

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


def test_a_large_image_is_shown_small():
    labels = np.zeros((2000, 4000), np.int32)
    labels[500:1500, 1000:3000] = 7
    shown = overlay(as_image((labels > 0).astype(np.uint8)), labels, labels)
    assert shown.shape == (667, 1334, 3)
    assert drawn_in(shown, MAGENTA).sum() == pytest.approx(2 * (333 + 667), abs=8)


@dataclass(frozen=True, eq=False)
class Watched(Image):
    """An image that says it stays in its file, and notes what is read of it."""

    reads: list = field(default_factory=list)
    is_lazy = True

    def read(self, plane, region):
        self.reads.append((plane, region))
        return super().read(plane, region)


def test_a_window_is_read_not_the_plane(rng):
    planes = rng.integers(10, 200, (2, 3, 3000, 3000)).astype(np.uint8)
    window = Window(0, "a", 1, 100, 2900, 200, 3000)
    watched = Watched(planes, colour=True)
    shown = frame_picture(watched, window)
    np.testing.assert_array_equal(shown, frame_picture(Image(planes, colour=True), window))  # of so even an image any sample will do
    assert watched.reads[0] == (1, (slice(74, 226), slice(2874, 3000)))
    assert all(plane == 1 for plane, _ in watched.reads)
    pixels = sum((rows.stop - rows.start) * (columns.stop - columns.start) for _, (rows, columns) in watched.reads)
    assert pixels < 0.15 * 3000 * 3000


@pytest.mark.parametrize("colour", [False, True])
def test_a_window_looks_as_in_the_whole_image(rng, colour):
    image = as_image(rng.integers(0, 255, (90, 120, 3)[: 3 if colour else 2]).astype(np.uint8))
    shown = frame_picture(image, Window(0, "a", 0, 20, 30, 60, 70))
    factor = -(-420 // 62)
    whole = overlay(image, np.zeros((90, 120), np.int32))
    np.testing.assert_array_equal(shown[factor // 2 :: factor, factor // 2 :: factor][:8], whole[9:17, 19:81])  # above its edges
    assert drawn_in(shown, (60, 220, 90)).any()
    assert drawn_in(shown, (255, 70, 60)).any()


@pytest.mark.parametrize("shape", [(40, 50), (40, 3000)])
def test_a_plane_in_its_file_may_be_smaller_than_the_pieces_of_it_that_are_looked_at(shape):
    watched = Watched(np.arange(shape[0] * shape[1]).reshape(1, 1, *shape))
    assert frame_picture(watched, Window(0, "a", 0, 5, 5, 25, 25)).shape == (14 * 31, 14 * 31, 3)


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
