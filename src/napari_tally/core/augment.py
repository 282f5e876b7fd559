"""Variation of training patches: one smooth map moves image, labels and weights together.

A patch is read through a map from its pixels to pixels of the image::

    image coordinate = centre + A (pixel + displacement(pixel))

where A mirrors, rotates and scales, and the displacement is the elastic deformation of the U-Net
paper: random vectors on a coarse 3x3 grid, Gaussian with 10 px standard deviation, interpolated
bicubically. The image and the weights are read linearly, labels from the nearest pixel: ids are
never mixed. Beyond the border the image is mirrored. All chance comes from the one generator that
is passed in.

In a volume the same happens in three dimensions: a 3x3x3 grid, a rotation about z, flips along all
axes. All of it is measured in widths of a pixel, so that a voxel may be thicker than wide.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor
from torch.nn import functional as F

from napari_tally.settings import AugmentationSettings

_GRID = 3
"""Displacement vectors along each axis of the coarse grid (Ronneberger et al. 2015, section 3.1)."""


def draw_map(
    rng: np.random.Generator,
    centre: Sequence[float] | NDArray[np.floating],
    size: int | Sequence[int],
    settings: AugmentationSettings,
    aspect: float = 1.0,
) -> NDArray[np.float32]:
    """Draw the map of one patch.

    Parameters
    ----------
    rng : numpy.random.Generator
    centre : ([z,] y, x)
        Pixel of the image that the middle of the patch shows.
    size : int or ([Z,] Y, X)
        Side of the patch in pixels, or its size.
    settings : AugmentationSettings
    aspect : float
        How many times as thick as wide a voxel is.

    Returns
    -------
    (2, *size) or (3, *size) float32
        For each pixel of the patch the coordinates [z,] y and x in the image.
    """
    n = len(centre)
    sides = (size,) * n if isinstance(size, int) else size
    steps = np.array([aspect, 1.0, 1.0][-n:], np.float32)
    lines = (step * (np.arange(side, dtype=np.float32) - (side - 1) / 2) for side, step in zip(sides, steps, strict=True))
    pixel = np.stack(np.meshgrid(*lines, indexing="ij"))  # (n, *size), zero in the middle
    if settings.elastic_sd:
        coarse = torch.from_numpy(rng.normal(0, settings.elastic_sd, (1, n, *[_GRID] * n)).astype(np.float32))
        pixel = pixel + _finer(coarse, sides)[0].numpy()
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    zoom = settings.scale ** rng.uniform(-1, 1)
    mirror = rng.choice([-1.0, 1.0], n) if settings.flips else np.ones(n)
    turn = np.eye(n)
    turn[-2:, -2:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    a = (turn * mirror / zoom / steps[:, None]).astype(np.float32)  # (n, n); a zoom above 1 makes cells larger
    return np.einsum("ij,j...->i...", a, pixel) + np.array(centre, np.float32).reshape(n, *[1] * n)


def _finer(coarse: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate (1, n, *grid) bicubically to (1, n, *size); in a volume first along y and x, then along z."""
    if len(size) == 2:
        return F.interpolate(coarse, size=tuple(size), mode="bicubic", align_corners=True)
    planes = F.interpolate(coarse.flatten(0, 1), size=tuple(size[1:]), mode="bicubic", align_corners=True)  # (n, grid, Y, X)
    flat = planes.flatten(2)[None]  # (1, n, grid, Y * X): along the last axis nothing changes
    return F.interpolate(flat, size=(size[0], flat.shape[-1]), mode="bicubic", align_corners=True).reshape(*coarse.shape[:2], *size)


def warp(picture: Tensor, where: NDArray[np.float32], nearest: bool = False) -> Tensor:
    """Read `picture` at the coordinates of a map, mirrored beyond its border.

    Parameters
    ----------
    picture : (C, [Z,] Y, X) float tensor
        Image channels or weights; or labels (exact up to 2^24) with `nearest`.
    where : (2, H, W) or (3, D, H, W) float32
        From :func:`draw_map`.
    nearest : bool
        Take the nearest pixel instead of interpolating linearly: for labels.

    Returns
    -------
    (C, [D,] H, W) tensor
    """
    extent = torch.tensor([max(1, n - 1) for n in picture.shape[1:]], dtype=torch.float32)
    grid = torch.from_numpy(np.ascontiguousarray(np.moveaxis(where, 0, -1))) / extent * 2 - 1  # (H, W, 2) in -1..1
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(picture[None], grid.flip(-1)[None], mode=mode, padding_mode="reflection", align_corners=True)[0]


def vary_intensity(rng: np.random.Generator, patch: NDArray[np.float32], strength: float, aspect: float = 1.0) -> NDArray[np.float32]:
    """Change contrast, brightness, gamma, sharpness and noise of a normalised patch.

    Parameters
    ----------
    rng : numpy.random.Generator
    patch : (C, [Z,] Y, X) float32
        Normalised, 0 to 1 for the most part.
    strength : float, 0 to 1
        0 changes nothing.
    aspect : float
        How many times as thick as wide a voxel is.
    """
    if not strength:
        return patch
    n = (patch.shape[0], *[1] * (patch.ndim - 1))
    if rng.random() < 0.5:
        gamma = np.exp(rng.normal(0, 0.5 * strength))
        patch = np.sign(patch) * np.abs(patch) ** np.float32(gamma)
    contrast = np.exp(rng.normal(0, 0.5 * strength) + rng.normal(0, 0.1 * strength, n))
    brightness = rng.normal(0, 0.2 * strength) + rng.normal(0, 0.05 * strength, n)
    patch = (patch * contrast + brightness).astype(np.float32)
    if rng.random() < 0.25 * strength:
        sigma = rng.uniform(0.3, 1.5)
        patch = ndi.gaussian_filter(patch, (0, *[sigma / aspect, sigma, sigma][1 - patch.ndim :]))
    if rng.random() < 0.5:
        patch = patch + rng.normal(0, rng.uniform(0, 0.15 * strength), patch.shape).astype(np.float32)
    return patch
