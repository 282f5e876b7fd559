"""Layers as images for the core, and which belong to which."""

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image
from napari.layers._source import layer_source

from napari_tally.core.images import read_image
from napari_tally.widgets._annotation import start_annotation
from napari_tally.widgets._geometry import label_shape
from napari_tally.widgets._layers import image_from_layer


@pytest.mark.parametrize(
    ("layer", "planes", "leading", "colour"),
    [
        (Image(np.zeros((6, 7))), (1, 1, 6, 7), (), False),
        (Image(np.arange(126, dtype=np.uint8).reshape(6, 7, 3), rgb=True), (1, 3, 6, 7), (), True),
        (Image(np.arange(168.0).reshape(6, 7, 4) / 168, rgb=True), (1, 3, 6, 7), (), True),
        (Image(np.zeros((3, 6, 7), np.uint8), rgb=False), (3, 1, 6, 7), (3,), False),
        (Image(np.zeros((8, 9, 3), np.uint8), rgb=False), (8, 1, 9, 3), (8,), False),
        (Image(np.zeros((2, 6, 7)), axis_labels=("c", "y", "x")), (1, 2, 6, 7), (), False),
        (Image(np.zeros((2, 5, 6, 7)), axis_labels=("Channel", "z", "y", "x")), (5, 2, 6, 7), (5,), False),
        (Image(np.zeros((1, 6, 7))), (1, 1, 6, 7), (), False),
        (Image([np.zeros((8, 8)), np.zeros((4, 4))], multiscale=True), (1, 1, 8, 8), (), False),
    ],
)
def test_every_kind_of_image_layer_becomes_planes(layer, planes, leading, colour):
    image = image_from_layer(layer)
    assert (image.planes.shape, image.leading, image.colour) == (planes, leading, colour)
    assert image.shape == label_shape(layer)


@pytest.mark.parametrize(
    ("labels", "axes", "slices"),
    [
        (("t", "y", "x"), "T", 1),
        (("z", "y", "x"), "Z", 3),
        (("Time", "z", "y", "x"), "TZ", 3),
        (("z", "t", "y", "x"), "ZT", 1),
        (("a", "z", "y", "x"), "", 3),
    ],
)
def test_the_labels_of_the_axes_say_what_is_time(labels, axes, slices):
    image = image_from_layer(Image(np.zeros((2, 3, 6, 7)[4 - len(labels) :]), axis_labels=labels))
    assert (image.axes, image.slices) == (axes, slices)


def test_channels_in_the_middle_are_refused_with_a_way_out():
    layer = Image(np.zeros((4, 2, 6, 7)), axis_labels=("z", "c", "y", "x"), name="well")
    with pytest.raises(ValueError, match=r"^well: the axes are z, c, y, x; the channels must be the first one\..*Split Stack"):
        image_from_layer(layer)
    with pytest.raises(ValueError, match="^well"):
        start_annotation(ViewerModel(), layer)


def test_the_pixel_size_needs_units_of_length():
    pixels = np.zeros((6, 7))
    assert image_from_layer(Image(pixels, scale=(0.5, 0.25))).pixel_size is None
    assert image_from_layer(Image(pixels, scale=(500, 250), units="nm")).pixel_size == pytest.approx((0.5, 0.25))
    assert image_from_layer(Image(np.zeros((3, 6, 7)), scale=(9, 2, 3), units=("s", "um", "um"))).pixel_size == pytest.approx((2, 3))


def test_a_layer_without_units_has_the_pixel_size_that_its_file_states(tmp_path):
    pixels = np.arange(3 * 30 * 40, dtype=np.uint16).reshape(3, 30, 40)
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, resolution=(4, 2), metadata={"unit": "um", "spacing": 1.5, "axes": "ZYX"})
    with layer_source(path=str(tmp_path / "a.tif")):  # as napari opens it
        opened = Image(pixels)
    image, known = image_from_layer(opened), read_image(tmp_path / "a.tif")
    assert (image.pixel_size, image.z_size) == (known.pixel_size, known.z_size) == ((0.5, 0.25), 1.5)
    opened.scale = (1, 2, 2)  # the user has other plans
    assert image_from_layer(opened).pixel_size is None
    opened.scale, opened.data = (1, 1, 1), pixels[:, ::2, ::2]
    assert image_from_layer(opened).pixel_size is None
