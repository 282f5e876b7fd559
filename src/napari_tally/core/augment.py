"""Variation of training patches: one smooth map moves image, labels and weights together.

A patch is read through a map from its pixels to pixels of the image::

    image coordinate = centre + A (pixel + displacement(pixel))

where A mirrors, rotates and scales, and the displacement is the elastic deformation of the U-Net
paper: random vectors on a coarse 3x3 grid, Gaussian with 10 px standard deviation, interpolated
bicubically. The image and the weights are read linearly, labels from the nearest pixel: ids are
never mixed. Beyond the border the image is mirrored. All chance comes from the one generator that
is passed in.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor
from torch.nn import functional as F

from napari_tally.settings import AugmentationSettings

_GRID = 3
"""Displacement vectors along each axis of the coarse grid (Ronneberger et al. 2015, section 3.1)."""


def draw_map(rng: np.random.Generator, centre: tuple[float, float], size: int, settings: AugmentationSettings) -> NDArray[np.float32]:
    """Draw the map of one patch.

    Parameters
    ----------
    rng : numpy.random.Generator
    centre : (y, x)
        Pixel of the image that the middle of the patch shows.
    size : int
        Side of the patch in pixels.
    settings : AugmentationSettings

    Returns
    -------
    (2, size, size) float32
        For each pixel of the patch the coordinates y and x in the image.
    """
    line = np.arange(size, dtype=np.float32) - (size - 1) / 2
    pixel = np.stack(np.meshgrid(line, line, indexing="ij"))  # (2, size, size), zero in the middle
    if settings.elastic_sd:
        coarse = torch.from_numpy(rng.normal(0, settings.elastic_sd, (1, 2, _GRID, _GRID)).astype(np.float32))
        pixel = pixel + F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)[0].numpy()
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    zoom = settings.scale ** rng.uniform(-1, 1)
    mirror = rng.choice([-1.0, 1.0], 2) if settings.flips else np.ones(2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    a = (turn * mirror / zoom).astype(np.float32)  # (2, 2); a zoom above 1 makes cells larger
    return np.einsum("ij,jyx->iyx", a, pixel) + np.array(centre, np.float32)[:, None, None]


def warp(picture: Tensor, where: NDArray[np.float32], nearest: bool = False) -> Tensor:
    """Read `picture` at the coordinates of a map, mirrored beyond its border.

    Parameters
    ----------
    picture : (C, Y, X) float tensor
        Image channels or weights; or labels (exact up to 2^24) with `nearest`.
    where : (2, H, W) float32
        From :func:`draw_map`.
    nearest : bool
        Take the nearest pixel instead of interpolating linearly: for labels.

    Returns
    -------
    (C, H, W) tensor
    """
    extent = torch.tensor([max(1, n - 1) for n in picture.shape[1:]], dtype=torch.float32)
    grid = torch.from_numpy(np.ascontiguousarray(where.transpose(1, 2, 0))) / extent * 2 - 1  # (H, W, 2) in -1..1
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(picture[None], grid.flip(-1)[None], mode=mode, padding_mode="reflection", align_corners=True)[0]


def vary_intensity(rng: np.random.Generator, patch: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Change contrast, brightness, gamma, sharpness and noise of a normalised patch.

    Parameters
    ----------
    rng : numpy.random.Generator
    patch : (C, Y, X) float32
        Normalised, 0 to 1 for the most part.
    strength : float, 0 to 1
        0 changes nothing.
    """
    if not strength:
        return patch
    n = (patch.shape[0], 1, 1)
    if rng.random() < 0.5:
        gamma = np.exp(rng.normal(0, 0.5 * strength))
        patch = np.sign(patch) * np.abs(patch) ** np.float32(gamma)
    contrast = np.exp(rng.normal(0, 0.5 * strength) + rng.normal(0, 0.1 * strength, n))
    brightness = rng.normal(0, 0.2 * strength) + rng.normal(0, 0.05 * strength, n)
    patch = (patch * contrast + brightness).astype(np.float32)
    if rng.random() < 0.25 * strength:
        sigma = rng.uniform(0.3, 1.5)
        patch = ndi.gaussian_filter(patch, (0, sigma, sigma))
    if rng.random() < 0.5:
        patch = patch + rng.normal(0, rng.uniform(0, 0.15 * strength), patch.shape).astype(np.float32)
    return patch
