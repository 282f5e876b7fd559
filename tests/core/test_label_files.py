"""Label images on disk."""

import numpy as np
import pytest
import zarr

from napari_tally.core.events import run_to_end
from napari_tally.core.image_files import read_image
from napari_tally.core.label_files import read_labels, write_labels
from napari_tally.core.lazy import write_tiff_in_pieces


@pytest.mark.parametrize("largest", [3, 70000])
def test_labels_are_written_whole_and_read_back(tmp_path, largest):
    labels = np.zeros((20, 30), np.int32)
    labels[2:5, 3:9] = largest
    write_labels(tmp_path / "a.tif", labels, pixel_size=(0.5, 0.25))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), labels)
    assert read_labels(tmp_path / "a.tif").dtype == (np.uint16 if largest < 65536 else np.uint32)
    assert read_image(tmp_path / "a.tif").pixel_size == pytest.approx((0.5, 0.25))


def test_label_stacks_are_written_as_stacks(tmp_path):
    for shape in ((3, 8, 9), (4, 8, 9), (2, 3, 8, 9)):
        write_labels(tmp_path / "a.tif", np.ones(shape, np.int32))
        assert read_labels(tmp_path / "a.tif").shape == shape


@pytest.mark.parametrize("number", [2**32, 2**32 + 1, 2**63])
def test_an_id_that_does_not_fit_is_not_taken_for_another(tmp_path, number):
    """2^32 + 1 would become cell 1."""
    labels = np.zeros((1, 20, 30), np.uint64)
    labels[0, 1, 1], labels[0, 5, 5] = 1, number
    says = rf"a.tif: the labels hold the id {number}, and ids up to 4294967295 fit into the file. Number them anew"
    with pytest.raises(ValueError, match=says):
        write_labels(tmp_path / "a.tif", labels)
    with pytest.raises(ValueError, match=says):
        run_to_end(write_tiff_in_pieces(tmp_path / "a.tif", labels, labels.shape, "uint32"))
    assert not list(tmp_path.iterdir())


def test_what_is_not_annotated_is_no_cell_in_a_file(tmp_path):
    write_labels(tmp_path / "a.tif", np.array([[-1, 0, 7], [-5, 2, 2]]))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), [[0, 0, 7], [0, 2, 2]])


@pytest.mark.parametrize("axes", ["tczyx", "zyx", "cyx"])
def test_labels_in_ome_zarr_have_the_axes_of_their_image(tmp_path, axes):
    labels = np.arange(20, dtype=np.uint16).reshape(4, 5)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", data=labels.reshape(*[1] * (len(axes) - 2), 4, 5))
    group.attrs["multiscales"] = [{"axes": [{"name": axis} for axis in axes], "datasets": [{"path": "0"}]}]
    np.testing.assert_array_equal(read_labels(tmp_path / "a.zarr"), labels)
    assert read_image(tmp_path / "a.zarr").shape == (4, 5)
