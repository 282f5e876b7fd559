"""Augmentation: one map moves everything, labels keep their ids, one seed repeats."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import discs

from napari_tally.core.augment import draw_map, vary_intensity, warp
from napari_tally.settings import AugmentationSettings

STILL = AugmentationSettings(flips=False, rotation=0, scale=1, elastic_sd=0, intensity=0)


def test_nothing_asked_nothing_moved(rng):
    where = draw_map(rng, (15.5, 15.5), 32, STILL)
    np.testing.assert_allclose(where, np.indices((32, 32)), atol=1e-5)
    image = torch.rand(2, 32, 32)
    torch.testing.assert_close(warp(image, where), image, atol=1e-4, rtol=0)
    patch = rng.random((1, 8, 8)).astype(np.float32)
    assert vary_intensity(rng, patch, 0) is patch


@given(st.integers(0, 2**32 - 1))
def test_image_labels_and_weights_move_together(seed):
    """An image made of the labels, warped, is the warped labels: away from edges, where linear and nearest agree."""
    labels = torch.from_numpy(discs((96, 96), (30, 30, 14), (40, 66, 12), (70, 45, 16)).astype(np.float32))[None]
    where = draw_map(np.random.default_rng(seed), (50, 45), 64, AugmentationSettings())
    image, moved = warp(labels, where), warp(labels, where, nearest=True)
    flat = image == image.round()
    assert flat.float().mean() > 0.5
    torch.testing.assert_close(image[flat], moved[flat])
    assert set(moved.unique().tolist()) <= {0, 1, 2, 3}


def test_labels_take_no_new_ids(rng):
    labels = torch.from_numpy(rng.choice([-1, 0, 7, 2**24 - 1], (1, 50, 70)).astype(np.float32))
    for _ in range(20):
        moved = warp(labels, draw_map(rng, (25, 35), 64, AugmentationSettings()), nearest=True)
        assert set(moved.unique().tolist()) <= {-1, 0, 7, 2**24 - 1}


def test_one_seed_repeats():
    image = torch.rand(1, 40, 40)

    def patch(seed):
        rng = np.random.default_rng(seed)
        return vary_intensity(rng, warp(image, draw_map(rng, (20, 20), 32, AugmentationSettings())).numpy(), 0.5)

    np.testing.assert_array_equal(patch(3), patch(3))
    assert not np.array_equal(patch(3), patch(4))


def test_elastic_deformation_has_ten_pixels(rng):
    """The paper: vectors on a 3x3 grid, Gaussian, standard deviation 10 px; between them smooth."""
    settings = replace(STILL, elastic_sd=10)
    moves = np.stack([draw_map(rng, (50, 50), 101, settings) for _ in range(200)]) - np.indices((101, 101))
    grid = moves[:, :, [[0], [50], [100]], [0, 50, 100]]
    assert grid.std(axis=0) == pytest.approx(10, rel=0.2)
    assert grid.std() == pytest.approx(10, rel=0.03)
    assert abs(grid.mean()) < 0.5
    assert np.abs(np.diff(moves, n=2, axis=-1)).max() < 0.3


def test_zoom_turn_and_mirror_keep_their_bounds(rng):
    settings = AugmentationSettings(elastic_sd=0, scale=1.5, rotation=30)
    areas, angles, signs = [], [], set()
    for _ in range(300):
        where = draw_map(rng, (0, 0), 3, settings)
        a = np.stack([where[:, 2, 1] - where[:, 1, 1], where[:, 1, 2] - where[:, 1, 1]], axis=1)  # the linear part
        determinant = np.linalg.det(a)
        areas.append(abs(determinant) ** 0.5)
        signs.add(np.sign(determinant))
        angles.append(np.rad2deg(np.arctan(a[1, 0] / a[0, 0])))
        np.testing.assert_allclose(a.T @ a, np.eye(2) * abs(determinant), atol=1e-5)  # no shear
    assert 1 / 1.5 <= min(areas) < 0.7
    assert 1.4 < max(areas) <= 1.5
    assert 28 < np.abs(angles).max() <= 30
    assert signs == {-1, 1}


def test_beyond_the_border_the_image_is_mirrored():
    image = torch.arange(12.0).reshape(1, 3, 4)
    where = np.stack(np.meshgrid(np.arange(-2, 5), np.arange(-3, 7), indexing="ij")).astype(np.float32)
    expected = np.pad(image[0], ((2, 2), (3, 3)), mode="reflect")
    np.testing.assert_allclose(warp(image, where)[0], expected, atol=1e-4)
    np.testing.assert_array_equal(warp(image, where, nearest=True)[0], expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_images_one_pixel_thin(rng, shape):
    moved = warp(torch.full((1, *shape), 3.0), draw_map(rng, (0, 0), 16, AugmentationSettings()))
    torch.testing.assert_close(moved, torch.full((1, 16, 16), 3.0))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_intensity_stays_finite(seed, strength):
    rng = np.random.default_rng(seed)
    patch = vary_intensity(rng, rng.uniform(-1, 4, (3, 16, 16)).astype(np.float32), strength)
    assert patch.dtype == np.float32
    assert np.isfinite(patch).all()
