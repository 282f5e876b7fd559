"""The window of intensities: robust, the same for crops and for channels by themselves, and never noise for cells."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_tally.core.images import as_image
from napari_tally.core.intensity import experiment_window, intensity_window, normalise
from napari_tally.sample_data import simulate_nuclei
from napari_tally.settings import NormalisationSettings

SETTINGS = NormalisationSettings()


def noisy(rng, low=100, high=1000, sd=5):
    values = rng.normal(low, sd, (128, 128))
    values[40:80, 40:80] += high - low
    return values


def test_the_window_is_what_is_there(rng):
    ((low, high),) = intensity_window(as_image(noisy(rng)), SETTINGS)
    assert low == pytest.approx(100, abs=15)
    assert high == pytest.approx(1000, abs=25)


def test_hot_pixels_do_not_set_the_window(rng):
    values = noisy(rng)
    hot = values.copy()
    hot[::37, ::41] = 60000  # 16 of them
    np.testing.assert_allclose(intensity_window(as_image(hot), SETTINGS), intensity_window(as_image(values), SETTINGS), atol=8)


def test_a_crop_is_normalised_as_the_slide_it_comes_from():
    """Where cells are everywhere, the windows differ by at most a tenth of their width, and so do normalised intensities."""
    slide = as_image(np.tile(simulate_nuclei(seed=3, n=60)[0], (3, 3)))
    (low, high) = intensity_window(slide, NormalisationSettings())[0]
    side = slide.shape[0]
    for y, x in ((0, 0), (side // 4, side // 2), (side // 3, side // 5)):
        crop = as_image(slide.planes[0, 0, y : y + side // 3, x : x + side // 3])
        np.testing.assert_allclose(intensity_window(crop, NormalisationSettings())[0], (low, high), atol=0.1 * (high - low))


def test_hot_pixels_do_not_move_the_window(rng):
    picture = simulate_nuclei(seed=3, n=60)[0]
    window = intensity_window(as_image(picture), NormalisationSettings())
    hot = picture.copy()
    hot[tuple(rng.integers(0, picture.shape[0], (2, 20)))] = 65535
    np.testing.assert_allclose(intensity_window(as_image(hot), NormalisationSettings()), window, atol=0.02 * np.ptp(window))


def test_one_window_for_an_experiment_is_the_median_of_all():
    images = [as_image(np.linspace(0, top, 400).reshape(20, 20), name=str(top)) for top in (100, 200, 900)]
    settings = NormalisationSettings(noise=0)
    np.testing.assert_array_equal(experiment_window(images, settings), intensity_window(images[1], settings))


def test_noise_is_not_stretched_into_cells(rng):
    """The window of an empty image spans ten standard deviations of its noise, not one or two."""
    image = as_image(rng.normal(100, 5, (200, 200)))
    ((low, high),) = intensity_window(image, SETTINGS)
    assert high - low == pytest.approx(50, rel=0.1)
    ((low, high),) = intensity_window(image, NormalisationSettings(noise=0))
    assert high - low < 30


@pytest.mark.parametrize("value", [0, 7, 65535, -1e-9, 1e30, 10**8, 2**31])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32, np.float64])
def test_constant_images_are_nothing(value, dtype):
    if np.issubdtype(dtype, np.floating) or 0 <= value <= np.iinfo(dtype).max:
        image = as_image(np.full((20, 20), value, dtype))
        window = intensity_window(image, SETTINGS)
        assert (window[:, 1] > window[:, 0]).all()
        assert not normalise(image.planes, window).any()


@given(st.sampled_from(["u1", "u2", "i4", "f4", "f8"]), st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
def test_any_image_becomes_finite_numbers(dtype, seed, height, width):
    rng = np.random.default_rng(seed)
    values = rng.lognormal(0, rng.uniform(0, 8), (height, width)).clip(0, 2e9).astype(dtype)
    image = as_image(values)
    window = intensity_window(image, SETTINGS)
    assert (window[:, 1] > window[:, 0]).all()
    normal = normalise(image.planes, window)
    assert normal.dtype == np.float32
    assert -1 <= normal.min() <= normal.max() <= 4


def test_brightness_and_gain_do_not_matter(rng):
    values = noisy(rng)
    one, other = (as_image(a) for a in (values, 300 + 7 * values))
    np.testing.assert_allclose(
        normalise(one.planes, intensity_window(one, SETTINGS)), normalise(other.planes, intensity_window(other, SETTINGS)), atol=1e-4
    )


def test_channels_have_windows_of_their_own(rng):
    image = as_image(np.stack([noisy(rng), noisy(rng, 1000, 30000)]), axes="CYX")
    window = intensity_window(image, SETTINGS)
    assert window[0, 1] == pytest.approx(1000, abs=25)
    assert window[1, 1] == pytest.approx(30000, rel=0.01)


def test_large_images_are_sampled(rng):
    small = noisy(rng)
    large = np.tile(small, (20, 20))
    np.testing.assert_allclose(intensity_window(as_image(large), SETTINGS), intensity_window(as_image(small), SETTINGS), rtol=0.05)


def test_faint_floats_are_stretched_like_others():
    bright = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    bright[10:20, 10:20] += 50
    for factor in (1.0, 1e-9):
        image = as_image(bright * np.float32(factor))
        np.testing.assert_allclose(normalise(image.planes, intensity_window(image, NormalisationSettings())).max(), 1.0, rtol=0.05)
