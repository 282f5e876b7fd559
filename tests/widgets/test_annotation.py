"""Annotations in a viewer: regions on pixels, planes that are marked, and cells that are filled in without loss."""

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Shapes
from napari.layers._layer_actions import _duplicate_layer

from napari_tally.widgets._annotation import fill_in, mark_plane, next_cell, region_mask, rewrite, start_annotation
from napari_tally.widgets._geometry import shown_plane
from napari_tally.widgets._layers import annotation_of, belong, image_from_layer, image_of, labels_for_image, region_of


def test_the_region_is_the_union_of_shapes_in_the_pixels_of_the_labels():
    labels = Labels(np.zeros((6, 8), int), scale=(0.5, 0.5), translate=(10, 20), units="um")
    corners = np.array([[1, 1], [1, 3], [3, 3], [3, 1]])
    region = Shapes(
        [corners * 500 + [10_000, 20_000], (corners + [1, 4]) * 500 + [10_000, 20_000], [[0, 0], [20_000, 20_000]]],
        shape_type=["rectangle", "polygon", "line"],
        units="nm",
    )
    wanted = np.zeros((6, 8), bool)
    wanted[1:4, 1:4] = wanted[2:5, 5:8] = True
    np.testing.assert_array_equal(region_mask(region, labels), wanted)
    assert not region_mask(Shapes(ndim=2), labels).any()


def test_an_ellipse_is_smaller_than_its_box():
    labels = Labels(np.zeros((41, 61), int))
    ellipse = Shapes([[[0, 0], [0, 60], [40, 60], [40, 0]]], shape_type="ellipse")
    assert region_mask(ellipse, labels).sum() == pytest.approx(np.pi * 20 * 30, rel=0.01)
    assert not region_mask(ellipse, labels)[0, 0]


def test_a_shape_marks_its_plane_and_a_flat_one_every_plane():
    stack = Labels(np.zeros((2, 3, 5, 5), int), scale=(1, 4, 1, 1))
    square = [[1, 1], [1, 3], [3, 3], [3, 1]]
    on_one = Shapes([[[1, 2, *corner] for corner in square]], scale=(1, 4, 1, 1))
    marked = region_mask(on_one, stack)
    assert marked[1, 2, 1:4, 1:4].all()
    assert marked.sum() == 9
    assert region_mask(Shapes([square]), stack).sum() == 6 * 9
    beyond = Shapes([[[0, 7, *corner] for corner in square]], scale=(1, 4, 1, 1))
    assert not region_mask(beyond, stack).any()


def test_an_annotation_lies_on_its_image_and_is_found_after_renaming():
    viewer = ViewerModel()
    image = viewer.add_image(
        np.zeros((2, 4, 60, 70)), axis_labels=("c", "z", "y", "x"), scale=(1, 3, 0.5, 0.5), translate=(0, 1, 2, 3), units="um", name="a"
    )
    labels = start_annotation(viewer, image)
    region = region_of(viewer, labels)
    assert (labels.name, region.name) == ("a cells", "a region")
    assert labels.data.shape == image_from_layer(image).shape
    np.testing.assert_array_equal(labels.extent.world, image.extent.world[:, 1:])
    for layer in (labels, region):
        np.testing.assert_array_equal(layer.scale, [3, 0.5, 0.5])
        assert (layer.ndim, layer.units, layer.axis_labels) == (3, image.units[1:], ("z", "y", "x"))
    assert (viewer.layers.selection.active, labels.mode, labels.selected_label) == (labels, "paint", 1)
    image.name, labels.name, region.name = "b", "c", "d"
    assert annotation_of(viewer, image) is labels
    assert start_annotation(viewer, image, labels) is labels
    assert image_of(viewer, labels) is image
    assert len(viewer.layers) == 3
    viewer.layers.remove(region)
    assert region_of(viewer, labels) is None
    viewer.layers.remove(image)
    assert image_of(viewer, labels) is None


def test_an_image_that_is_rotated_keeps_its_labels_on_it():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((20, 30)), rotate=30, shear=[0.2], scale=(2, 3), affine=np.array([[0, 1, 5], [1, 0, 6], [0, 0, 1]]))
    labels = start_annotation(viewer, image)
    for point in ((0, 0), (3, 0), (0, 4)):
        np.testing.assert_allclose(labels.data_to_world(point), image.data_to_world(point))
    region = region_of(viewer, labels)
    region.add_rectangles([[1.5, 2.5], [5.5, 9.5]])
    assert region_mask(region, labels)[2:6, 3:10].all()
    assert region_mask(region, labels).sum() == 4 * 7


def test_labels_that_were_there_already_come_to_lie_on_the_image():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((10, 20)), scale=(0.5, 0.5), translate=(3, 4), units="um")
    labels = viewer.add_labels(np.ones((10, 20), int))
    start_annotation(viewer, image, labels)
    region = region_of(viewer, labels)
    for layer in (labels, region):
        np.testing.assert_array_equal((layer.scale, layer.translate), (image.scale, image.translate))
        assert layer.units == image.units
    region.scale = (1, 1)
    start_annotation(viewer, image, labels)
    mark_plane(viewer, region, labels)
    assert region_mask(region, labels).all()


def test_a_duplicate_of_an_annotation_is_a_layer_of_the_user():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((10, 20)), name="a")
    labels = start_annotation(viewer, image)
    viewer.layers.selection = {labels}
    _duplicate_layer(viewer.layers)
    copy = viewer.layers["a cells copy"]
    assert annotation_of(viewer, image) is labels
    assert (image_of(viewer, copy), region_of(viewer, copy)) == (None, None)
    assert labels_for_image(viewer, image) == [labels, copy]
    start_annotation(viewer, image, copy)  # who goes on with the copy has two
    assert region_of(viewer, copy) is not region_of(viewer, labels)
    assert image_of(viewer, labels) is image


def test_labels_that_do_not_fit_are_refused_and_small_types_get_room():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((8, 9)), name="a")
    wrong = viewer.add_labels(np.zeros((9, 8), int), name="other")
    small = viewer.add_labels(np.full((8, 9), 255, np.uint8))
    with pytest.raises(ValueError, match=r"^other has the shape \(9, 8\) and a needs \(8, 9\)\. Choose 'New layer'"):
        start_annotation(viewer, image, wrong)
    assert labels_for_image(viewer, image) == [small]
    start_annotation(viewer, image, small)
    assert small.selected_label == 256
    found = viewer.add_labels(np.zeros((8, 9), int))
    belong(found, "prediction", image)
    loaded = viewer.add_labels(np.zeros((8, 9), int))
    assert labels_for_image(viewer, image) == [small, loaded, found]
    assert labels_for_image(viewer, viewer.add_image(np.zeros((8, 9)))) == [loaded]


def test_the_plane_that_is_shown_is_marked_whatever_the_units():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((3, 4, 6, 7)), scale=(2, 500, 1, 1), units=("s", "nm", "um", "um"))
    labels = start_annotation(viewer, image)
    viewer.add_image(np.zeros((6, 7)), units="nm")
    viewer.dims.current_step = (1, 2, 0, 0)
    assert shown_plane(viewer, labels) == (1, 2)
    region = region_of(viewer, labels)
    mark_plane(viewer, region, labels)
    marked = region_mask(region, labels)
    assert marked[1, 2].all()
    assert marked.sum() == 6 * 7


def test_n_is_the_key_for_the_next_cell():
    viewer = ViewerModel()
    labels = start_annotation(viewer, viewer.add_image(np.zeros((20, 20))))
    labels.paint((5, 5), 4)
    labels.mode = "erase"
    key = next(iter(labels.keymap))
    assert str(key).lower() == "n"
    labels.keymap[key](labels)
    assert (labels.selected_label, labels.mode) == (5, "paint")
    next_cell(labels)
    assert labels.selected_label == 5


def rows(*text: str) -> np.ndarray:
    return np.array([[int(c) if c.isdigit() else -1 for c in row] for row in text])


def test_without_a_region_every_drawn_cell_stays_and_the_rest_is_filled_in():
    drawn = rows("5500000", "5500000", "0000000")
    found = rows("0110220", "0110220", "3110000")
    np.testing.assert_array_equal(fill_in(drawn, found), rows("5560770", "5560770", "8660000"))


def test_inside_the_region_nothing_changes_and_outside_everything_is_replaced():
    drawn = rows("1100220", "1100220", "0000000")
    found = rows("0110330", "0110330", "4400033")
    region = rows("1110000", "1110000", "1110000") == 1
    np.testing.assert_array_equal(fill_in(drawn, found, region), rows("1100220", "1100220", "0000022"))


def test_not_annotated_pixels_and_huge_ids_are_kept_apart():
    drawn = rows("-00", "-00")
    found = np.where(rows("110", "000") == 1, 2**31 - 1, 0).astype(np.int32)
    np.testing.assert_array_equal(fill_in(drawn, found), rows("110", "-00"))
    np.testing.assert_array_equal(fill_in(drawn * 0, found), rows("110", "000"))


def test_rewriting_is_one_step_that_undo_takes_back():
    viewer = ViewerModel()
    before = np.zeros((3, 6, 6), np.uint8)
    before[0, :2], before[1, 3] = 1, 2
    labels = viewer.add_labels(before.copy())
    wanted = np.arange(108, dtype=np.int32).reshape(3, 6, 6) * 9
    rewrite(labels, wanted)
    np.testing.assert_array_equal(labels.data, wanted)
    labels.undo()
    np.testing.assert_array_equal(labels.data, before)
    rewrite(labels, labels.data.copy())
