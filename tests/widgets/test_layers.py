"""Layers as images for the core, and which belong to which."""

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.layers import Image
from napari.layers._source import layer_source
from napari_builtins.io import magic_imread

from napari_tally.core.image_files import read_image, stated_axes
from napari_tally.widgets import _geometry
from napari_tally.widgets._annotation import start_annotation
from napari_tally.widgets._geometry import axes_of, channels_to_front, label_shape, shown_plane
from napari_tally.widgets._layers import add_notes, cells_on, image_from_layer


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


@pytest.mark.parametrize("lazy", [False, True])
def test_channels_in_the_middle_move_to_the_front_so_that_labels_can_lie_on_the_image(lazy):
    viewer, pixels = ViewerModel(), np.arange(4 * 2 * 6 * 7).reshape(4, 2, 6, 7)
    place = {
        "axis_labels": ("z", "c", "y", "x"),
        "scale": (3, 1, 0.5, 0.25),
        "translate": (6, 0, 2, 3),
        "units": ("um", "pixel", "um", "um"),
    }
    layer = viewer.add_image(da.from_array(pixels) if lazy else pixels, name="well", **place)
    viewer.dims.set_point([0, 1], [6 + 3 * 2, 1])
    before = image_from_layer(layer)
    assert (before.channels, before.shape, label_shape(layer)) == (2, (4, 6, 7), (4, 6, 7))
    assert shown_plane(viewer, layer) == (2, 1)
    labels = start_annotation(viewer, layer)
    assert (layer.axis_labels, layer.data.shape, labels.data.shape) == (("c", "z", "y", "x"), (2, 4, 6, 7), (4, 6, 7))
    assert shown_plane(viewer, layer) == (1, 2)  # as before
    assert shown_plane(viewer, labels) == (2,)
    np.testing.assert_array_equal(labels.extent.world, layer.extent.world[:, 1:])
    assert (list(layer.scale), list(layer.translate)) == ([1, 3, 0.5, 0.25], [0, 6, 2, 3])
    assert [str(unit) for unit in layer.units] == ["pixel", "micrometer", "micrometer", "micrometer"]
    after = image_from_layer(layer)
    assert (after.fingerprint, after.is_lazy, after.axes, after.z_size) == (before.fingerprint, lazy, "Z", 3)
    if not lazy:
        assert np.shares_memory(layer.data, pixels)
    channels_to_front(viewer, layer)  # there they are
    assert layer.axis_labels == ("c", "z", "y", "x")


def test_a_pyramid_turns_whole():
    viewer = ViewerModel()
    levels = [np.zeros((3, 2, 32, 40)), np.zeros((3, 2, 16, 20))]
    layer = viewer.add_image(levels, multiscale=True, axis_labels=("t", "c", "y", "x"))
    channels_to_front(viewer, layer)
    assert [level.shape for level in layer.data] == [(2, 3, 32, 40), (2, 3, 16, 20)]
    assert label_shape(layer) == image_from_layer(layer).shape == (3, 32, 40)


def test_channels_of_a_layer_that_is_turned_are_refused_with_a_way_out():
    layer = Image(np.zeros((4, 2, 6, 7)), axis_labels=("z", "c", "y", "x"), name="well", shear=[0, 0, 0, 0, 0, 0.2])
    with pytest.raises(ValueError, match=r"^well: the axes are z, c, y, x; the channels must be the first one, .*sheared.*Split Stack"):
        start_annotation(ViewerModel(), layer)


def opened(path):
    """Open a file as napari does without a plugin: all that the layer has is pixels, and where they are from."""
    with layer_source(path=str(path)):
        return Image(magic_imread([str(path)]), name=path.stem)


FILES = {
    "imagej": ("CYX", "ZYX", "TYX", "ZCYX", "TCYX", "TZYX", "TZCYX"),
    "ome": ("CYX", "ZYX", "TYX", "ZCYX", "TCYX", "CZYX", "TZCYX", "YX"),
    "shaped": ("CYX", "TYX", "QYX", "YX"),
}


@pytest.mark.parametrize(("kind", "axes"), [(kind, axes) for kind, several in FILES.items() for axes in several])
def test_the_window_takes_an_image_as_the_command_line_does(tmp_path, kind, axes):
    path, pixels = written(tmp_path, kind, axes)
    layer = opened(path)
    assert layer.axis_labels == tuple(str(i) for i in range(-layer.ndim, 0))
    agrees(layer, read_image(path))
    assert stated_axes(path) == (axes, pixels.shape)
    viewer = ViewerModel()
    viewer.add_layer(layer)
    labels = start_annotation(viewer, layer)
    agrees(layer, read_image(path))
    assert labels.data.shape == read_image(path).shape
    np.testing.assert_array_equal(labels.extent.world, layer.extent.world[:, layer.ndim - labels.ndim :])


def written(folder, kind, axes):
    sizes = {"T": 4, "Z": 3, "C": 2, "Q": 5, "Y": 30, "X": 40}
    pixels = np.random.default_rng(0).integers(0, 200, [sizes[axis] for axis in axes]).astype(np.uint16)
    path = folder / ("a.ome.tif" if kind == "ome" else "a.tif")
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": axes}, **({} if kind == "shaped" else {kind: True}))
    return path, pixels


def agrees(layer, known):
    image = image_from_layer(layer)
    np.testing.assert_array_equal(image.planes, known.planes)
    for what in ("leading", "axes", "colour", "steps", "pixel_size", "slices", "shape"):
        assert getattr(image, what) == getattr(known, what), what
    assert label_shape(layer) == known.shape


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((30, 40, 3), {"photometric": "rgb"}),
        ((3, 30, 40), {"photometric": "rgb", "planarconfig": "separate"}),
        ((30, 40, 2), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((30, 40, 5), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((4, 30, 40, 3), {"photometric": "rgb", "imagej": True, "metadata": {"axes": "TYXS"}}),
    ],
)
def test_samples_are_colours_or_channels_as_on_the_command_line(tmp_path, shape, how):
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8), **how)
    layer, known = opened(tmp_path / "a.tif"), read_image(tmp_path / "a.tif")
    agrees(layer, known)
    viewer = ViewerModel()
    viewer.add_layer(layer)
    assert start_annotation(viewer, layer).data.shape == known.shape
    agrees(layer, known)


@pytest.mark.parametrize("axes", ["czyx", "tcyx", "tyx"])
def test_an_ome_zarr_says_its_axes_too(tmp_path, axes):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w")
    pixels = np.random.default_rng(0).integers(0, 200, [3, 2, 30, 40][4 - len(axes) :]).astype(np.uint8)
    group.create_array("0", shape=pixels.shape, dtype=pixels.dtype)[:] = pixels
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * len(axes)}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": [{"name": axis} for axis in axes], "datasets": datasets}]}
    agrees(opened(path), read_image(path))
    assert stated_axes(path) == (axes.upper(), pixels.shape)


def test_labels_that_somebody_has_set_go_before_what_the_file_says(tmp_path):
    path, _ = written(tmp_path, "imagej", "CYX")
    layer = opened(path)
    assert axes_of(layer) == "CYX"
    layer.axis_labels = ("z", "y", "x")
    assert (axes_of(layer), label_shape(layer)) == ("ZYX", (2, 30, 40))


def test_pixels_of_another_shape_are_not_those_of_the_file(tmp_path):
    path, pixels = written(tmp_path, "ome", "TCYX")
    layer = opened(path)
    layer.data = pixels[:, 0]
    assert axes_of(layer) == "QYX"
    layer.data = pixels[:, :, ::2]
    assert (axes_of(layer), label_shape(layer)) == ("QQYX", (4, 2, 15, 40))


def test_a_file_is_asked_once(tmp_path, monkeypatch):
    path, _ = written(tmp_path, "imagej", "CYX")
    layer, asked = opened(path), []
    monkeypatch.setattr(_geometry, "stated_axes", lambda path: asked.append(path) or stated_axes(path))
    for _ in range(3):
        assert label_shape(layer) == (30, 40)
    assert asked == [str(path)]
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)  # no pixel is read
    assert stated_axes(path) == ("CYX", (2, 30, 40))


@pytest.mark.parametrize("content", [None, b"", b"II*\0", b"no tiff at all", "cut"])
def test_what_cannot_be_read_says_nothing_and_raises_nothing(tmp_path, content):
    path, pixels = written(tmp_path, "ome", "TCYX")
    layer = opened(path)
    if content is None:
        path.unlink()
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.write_bytes(content)
    assert stated_axes(path) == (("YX", (30, 40)) if content == "cut" else ("", ()))  # one page is there, but not those of the layer
    assert (axes_of(layer), label_shape(layer)) == ("QQYX", pixels.shape)
    image_from_layer(layer)
    for odd in ("https://nowhere.example/a.tif", tmp_path, tmp_path / "a.png", tmp_path / "absent.zarr", "", "\0"):
        assert stated_axes(odd) == ("", ())
    (tmp_path / "empty.zarr").mkdir()
    assert stated_axes(tmp_path / "empty.zarr") == ("", ())


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


def test_labels_of_another_program_stay_so_when_they_are_mended():
    model = ViewerModel()
    image, labels = model.add_image(np.zeros((6, 7))), model.add_labels(np.ones((6, 7), int))
    assert cells_on(model, image) is labels
    add_notes(labels, corrected=1)
    assert cells_on(model, image) is labels
