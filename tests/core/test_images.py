"""Arrays and their axes."""

import numpy as np
import pytest

from napari_tally.core.images import Image, as_image, require_same_channels


@pytest.mark.parametrize("array", [np.zeros(5), np.float64(3), np.zeros((0, 4)), np.zeros((3, 0, 4))])
def test_no_image_at_all(array):
    with pytest.raises(ValueError, match="an image with at least a height and a width is wanted"):
        as_image(array)


@pytest.mark.parametrize("array", [np.array([["a", "b"]]), np.array([[None, 1]])])
def test_no_numbers(array):
    with pytest.raises(ValueError, match="integers or real numbers are wanted"):
        as_image(array)


def test_axes_of_arrays():
    assert as_image(np.zeros((7, 20, 30))).leading == (7,)
    assert as_image(np.zeros((1, 1, 20, 30))).leading == ()
    assert as_image(np.zeros((2, 1, 20, 30))).leading == (2, 1)
    assert as_image(np.zeros((20, 30, 3), np.uint8) + np.arange(3, dtype=np.uint8)).colour
    assert as_image(np.zeros((20, 30, 3), np.uint8) + np.arange(3, dtype=np.uint8), rgb=False).shape == (20, 30, 3)
    assert as_image(np.zeros((20, 30, 3)) + np.arange(3)).channels == 3
    assert as_image(np.zeros((20, 4, 3)) + np.arange(3)).shape == (20, 4, 3)  # too narrow for a picture: a thin stack
    assert as_image(np.zeros((5, 20, 30, 4), np.uint8) + np.arange(4, dtype=np.uint8)).leading == (5,)
    assert as_image(np.ones((6, 5), bool)).planes.dtype == np.uint8
    assert as_image([[1, 2], [3, 4]]).shape == (2, 2)
    with pytest.raises(ValueError, match=r"the axes 'YX' do not fit an array of shape \(2, 3, 4\)"):
        as_image(np.zeros((2, 3, 4)), axes="YX")


def test_channels_must_agree():
    grey = Image(np.zeros((1, 1, 4, 4)), "grey")
    two = Image(np.zeros((1, 2, 4, 4)), "two")
    colour = Image(np.zeros((1, 3, 4, 4)), "colour", colour=True)
    assert require_same_channels([grey, grey]) == (1, False)
    assert require_same_channels([grey, colour, grey]) == (3, True)  # grey may join colour
    with pytest.raises(ValueError, match="two has 2 channels and grey has 1 channel; the images that train one model"):
        require_same_channels([grey, two])
    with pytest.raises(ValueError, match=r"two has 2 channels and colour has 3 channels \(RGB colour\)"):
        require_same_channels([two, colour])


def test_values_that_are_too_large_are_called_so():
    with pytest.raises(ValueError, match=r"1 of 4 values are beyond 3.4e38, too large"):
        as_image(np.array([[1, 1e300], [2, 3]]))


@pytest.mark.parametrize(
    ("axes", "names"), [("TZYX", "t 1, z 2"), ("TYX", "t 1"), ("QYX", "plane 1"), ("QQYX", "plane 1/2"), ("YX", "plane 0")]
)
def test_planes_are_called_as_the_sliders_count(axes, names):
    shape = {"T": 2, "Z": 3, "Q": 3, "Y": 4, "X": 5}
    image = as_image(np.zeros([shape[axis] for axis in axes], np.uint8), axes=axes)
    index = [int(part) for part in names.replace("/", " ").replace(",", "").split() if part.isdigit()]
    assert image.plane_name(int(np.ravel_multi_index(index, image.leading)) if image.leading else 0) == names
