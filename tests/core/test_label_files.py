"""Label images on disk."""

import numpy as np
import pytest

from napari_tally.core.images import read_image
from napari_tally.core.label_files import read_labels, write_labels


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
