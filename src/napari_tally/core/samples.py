"""From annotated images to training patches: what the network sees and what it should answer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import Tensor

from napari_tally.core import augment
from napari_tally.core.annotations import NOT_ANNOTATED
from napari_tally.core.cell_types import typed, types_of_ids
from napari_tally.core.images import Image
from napari_tally.core.intensity import intensity_window, normalise
from napari_tally.core.outlines import cells_of
from napari_tally.core.rescale import read_scaled, rescale, scaled_shape
from napari_tally.core.weights import border_weights, class_weights
from napari_tally.settings import AugmentationSettings, NormalisationSettings

_FLAT = 2.0
"""Voxels so many times as thick as wide: a cell is a few slices thick, and none of them is rim for the background above it."""


@dataclass(frozen=True, eq=False)
class TrainingPair:
    """An image and what is known of it.

    Attributes
    ----------
    image : Image
    labels : int32 array of shape `image.shape`
        1.. = a cell, 0 = background, -1 = not annotated.
    """

    image: Image
    labels: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.labels.shape != self.image.shape:
            raise ValueError(f"{self.image.name}: labels of shape {self.labels.shape} on an image of shape {self.image.shape}.")


def data_fingerprint(pairs: Sequence[TrainingPair], images: Sequence[str] = ()) -> str:
    """Tell what is trained on apart, images and labels: 16 hexadecimal digits that depend on the pixels and their order alone.

    Parameters
    ----------
    pairs : sequence of TrainingPair
    images : sequence of str, optional
        The fingerprints of the images, where they are known.
    """
    whole = hashlib.sha256()
    for mark, pair in zip(images or [pair.image.fingerprint for pair in pairs], pairs, strict=True):
        whole.update(f"{mark} {pair.labels.shape} ".encode())
        whole.update(np.ascontiguousarray(pair.labels, np.int32).data)
    return whole.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Plane:
    """One annotated plane, or volume, in network pixels, ready to draw patches from.

    Attributes
    ----------
    image : int
        Which image it is a plane of: its place among those that were prepared. Names may be alike.
    name : str
    picture : (C, [Z,] Y, X) float32
        Normalised.
    labels : ([Z,] Y, X) int32
        1..n = cells, 0 = background, -1 = not annotated.
    border : ([Z,] Y, X) float32
        The border term of the weight map.
    types : (n + 1,) int, or None
        The kind of each cell, from 1 on, where there are several; see :mod:`napari_tally.core.cell_types`.
    aspect : float
        How many times as thick as wide a voxel is; 1 of a plane.
    """

    image: int
    name: str
    picture: NDArray[np.float32]
    labels: NDArray[np.int32]
    border: NDArray[np.float32]
    types: NDArray[np.int64] | None = None
    aspect: float = 1.0

    @property
    def is_flat(self) -> bool:
        """Whether it is a volume whose voxels are much thicker than wide."""
        return self.aspect >= _FLAT


def cell_diameter(pairs: Sequence[TrainingPair], scales: Sequence[float] = ()) -> float:
    """Give the median diameter in pixels of the circle that is as large as a drawn cell; NaN without cells.

    `scales` are what becomes of a pixel of each pair before it is measured; left out: it stays.
    """
    diameters = []
    for pair, scale in zip(pairs, scales or [1.0] * len(pairs), strict=True):
        for plane in pair.labels.reshape(-1, *pair.labels.shape[-2:]):
            diameters += [scale * cell.equivalent_diameter_area for _, cell in cells_of(plane)]
    return float(np.median(diameters)) if diameters else float("nan")


def body_diameter(pairs: Sequence[TrainingPair], slice_distances: Sequence[float], scales: Sequence[float] = ()) -> float:
    """Give the median diameter in pixels of the ball that is as large as a drawn cell of a volume; NaN without cells.

    `slice_distances` are how far the slices of each pair are apart, `scales` what becomes of a pixel of it, as in :func:`cell_diameter`;
    both in the pixels in which the diameter is given.
    """
    voxels: list[NDArray[np.floating]] = [np.empty(0)]
    for pair, distance, scale in zip(pairs, slice_distances, scales or [1.0] * len(pairs), strict=True):
        for volume in volumes_of(pair.labels, pair.image.slices):
            counts = np.unique(volume[volume > 0], return_counts=True)[1]  # not bincount, which has a place for every id
            voxels.append(counts * scale**2 * distance)
    return float(np.cbrt(6 / np.pi * np.median(sizes))) if (sizes := np.concatenate(voxels)).size else float("nan")


def volumes_of(labels: NDArray[Any], slices: int) -> NDArray[Any]:
    """Give (..., Y, X) as (volumes, slices, Y, X)."""
    return labels.reshape(-1, slices, *labels.shape[-2:])


def prepare_planes(
    pairs: Sequence[TrainingPair],
    channels: int,
    scale: float | Sequence[float],
    normalisation: NormalisationSettings,
    border_weight: float,
    border_width: float,
    window: NDArray[np.float32] | None = None,
    ids_per_type: int = 0,
) -> list[Plane]:
    """Normalise and scale the annotated planes and compute their border weights.

    Parameters
    ----------
    pairs : sequence of TrainingPair
    channels : int
        Channels of the network; grey images are repeated to fill three.
    scale : float or sequence of float
        Network pixels per image pixel; one for all, or one for each pair.
    normalisation : NormalisationSettings
    border_weight, border_width : float
        w0 and sigma of the weight map, in network pixels.
    window : (C, 2) float32, optional
        Intensities that become 0 and 1; left out, each image has its own.
    ids_per_type : int
        Where the numbers of the cells tell their kind, how many each kind has; 0 = all are of one.

    Returns
    -------
    list of Plane
        Planes where anything is annotated. Of a stack, planes without a drawn cell and without a
        marked region are left out.
    """
    planes = []
    scales = [scale] * len(pairs) if isinstance(scale, float) else scale
    for place, (pair, factor) in enumerate(zip(pairs, scales, strict=True)):
        own = intensity_window(pair.image, normalisation) if window is None else window[: pair.image.channels]
        stack = pair.labels.reshape(-1, *pair.labels.shape[-2:])
        unmarked = len(stack) > 1 and bool((pair.labels != NOT_ANNOTATED).all())  # then planes without a drawn cell are not annotated
        for i, labels in enumerate(stack):
            if not (labels != NOT_ANNOTATED).any() or (unmarked and not (labels > 0).any()):
                continue
            shape, whole = scaled_shape(labels.shape, factor), (slice(0, labels.shape[0]), slice(0, labels.shape[1]))
            picture = rescale(normalise(pair.image.read(i, whole), own), shape)
            picture = np.broadcast_to(picture, (channels, *shape)) if len(picture) == 1 else picture
            small = rescale_labels(_sequential(labels), shape)
            planes.append(
                Plane(
                    place,
                    pair.image.name + (f" plane {i}" if len(stack) > 1 else ""),
                    np.array(picture),  # a copy: a broadcast view cannot be written, and torch wants that
                    small,
                    border_weights(small, border_weight, border_width),
                    np.append(0, types_of_ids(np.unique(labels[labels > 0]), ids_per_type)) if ids_per_type else None,
                )
            )
    return planes


def prepare_volumes(
    pairs: Sequence[TrainingPair],
    channels: int,
    scales: Sequence[tuple[float, float]],
    aspect: float,
    normalisation: NormalisationSettings,
    border_weight: float,
    border_width: float,
    window: NDArray[np.float32] | None = None,
) -> list[Plane]:
    """Do with volumes what :func:`prepare_planes` does with planes.

    Parameters
    ----------
    pairs : sequence of TrainingPair
        Of z-stacks.
    scales : sequence of (float, float)
        For each pair, network voxels per slice, and per pixel.
    aspect : float
        How many times as thick as wide a voxel of the network is.
    channels, normalisation, border_weight, border_width, window
        As there.

    Returns
    -------
    list of Plane
        Volumes where anything is annotated. Where no region is marked, slices without a drawn cell are not.
    """
    volumes = []
    for place, (pair, (z_scale, scale)) in enumerate(zip(pairs, scales, strict=True)):
        own = intensity_window(pair.image, normalisation) if window is None else window[: pair.image.channels]
        stack = volumes_of(pair.labels, pair.image.slices)
        for i, labels in enumerate(stack):
            if (labels != NOT_ANNOTATED).all():  # no region is marked: slices without a drawn cell are not annotated, as in planes
                labels = np.where((labels > 0).any((1, 2), keepdims=True), labels, np.int32(NOT_ANNOTATED))
            if not (labels != NOT_ANNOTATED).any():
                continue
            grid = max(1, round(len(labels) * z_scale)), *scaled_shape(labels.shape, scale)
            picture = read_scaled(pair.image, i, own, labels.shape, grid, tuple(slice(0, n) for n in grid))
            small = rescale_labels(_sequential(labels), grid)
            volumes.append(
                Plane(
                    place,
                    pair.image.name + (f" volume {i}" if len(stack) > 1 else ""),
                    np.array(np.broadcast_to(picture, (channels, *grid)) if len(picture) == 1 else picture),
                    small,
                    border_weights(small, border_weight, border_width, aspect),
                    aspect=aspect,
                )
            )
    return volumes


def class_map(labels: NDArray[np.integer], classes: int, flat: bool = False) -> NDArray[np.int64]:
    """Turn cells into the classes that the network learns.

    Parameters
    ----------
    labels : ([Z,] Y, X) int
        1.. = cells, 0 = background, -1 = not annotated.
    classes : {2, 3}
        2: background and cell; where two cells touch, the touching pixels are background (the paper).
        3: background, inside of a cell, and rim: the pixels of a cell next to anything else that is known. Next to what is not annotated
        and to nothing else nobody knows whether the cell ends there or goes on: such pixels are not annotated either.
    flat : bool
        Of a volume with thick slices: a pixel is next to the background within its slice only, but next to cells in the slices above
        and below too. Else a cell of two slices would be nothing but rim. The same holds for what is not annotated.

    Returns
    -------
    ([Z,] Y, X) int64
        Class of each pixel, -1 = not known.

    Examples
    --------
    >>> class_map(np.array([[0, 1, 1, 2, 2, 0]]), 2)[0]
    array([0, 1, 0, 0, 1, 0])
    """
    cells = np.maximum(labels, 0)
    is_cell, unknown = labels > 0, labels < 0
    result = np.where(unknown, NOT_ANNOTATED, is_cell.astype(np.int64))
    other = ndi.maximum_filter(cells, 3, mode="nearest") != cells  # next to a cell of a higher number
    if classes == 2 or flat:
        top = cells.max(initial=0) + 1  # not the type's largest: the filter computes in float64
        other |= ndi.minimum_filter(np.where(is_cell, cells, top), 3, mode="nearest") != cells  # of a lower one
    if classes > 2:
        lowest = ndi.minimum_filter(labels, (1, 3, 3) if flat else 3, mode="nearest")
        cut = np.flatnonzero(is_cell & (lowest < 0) & ~other) if unknown.any() else np.empty(0, np.intp)  # where the cell may go on
        other |= lowest != cells  # or to the background
        if cut.size:
            known = _next_to_known(labels, cut, flat)
            other.flat[cut] = known
            result.flat[cut[~known]] = NOT_ANNOTATED
    result[is_cell & other] = 0 if classes == 2 else 2
    return result


def _next_to_known(labels: NDArray[np.integer], pixels: NDArray[np.intp], flat: bool) -> NDArray[np.bool_]:
    """Say for each of some pixels whether another cell or the background is next to it, in its slice if `flat`."""
    at = []
    for axis, place in enumerate(np.unravel_index(pixels, labels.shape)):
        steps = np.arange(-1, 2) if labels.ndim == 2 or axis or not flat else np.zeros(1, int)
        beside = np.clip(place + steps[:, None], 0, labels.shape[axis] - 1)  # (3, pixels)
        at.append(beside.reshape(*[-1 if a == axis else 1 for a in range(labels.ndim)], len(pixels)))
    around = labels[tuple(at)]  # (3, 3, pixels), with one more 3 in volumes
    return ((around >= 0) & (around != labels.flat[pixels])).any(tuple(range(labels.ndim)))


class PatchSampler:
    """Draws training patches where there are annotations.

    Parameters
    ----------
    planes : list of Plane
        At least one.
    classes : int
        Classes of the network: 2 or 3, and one more for each further kind of cells.
    balance : float
        Class balance, 0 to 1.
    augmentation : AugmentationSettings
    types : int
        Kinds of cells that are classes of their own.
    slices : int
        Slices of a patch of a volume; 0 = patches are planes.
    """

    def __init__(
        self,
        planes: Sequence[Plane],
        classes: int,
        balance: float,
        augmentation: AugmentationSettings,
        types: int = 1,
        slices: int = 0,
    ) -> None:
        self.classes, self.augmentation, self.types, self.slices = classes, augmentation, types, slices
        self._aspects, self._flat = [plane.aspect for plane in planes], [plane.is_flat for plane in planes]
        self._types = [plane.types for plane in planes]
        maps = [self._class_map(plane.labels, i) for i, plane in enumerate(planes)]
        self.class_weights = class_weights(np.concatenate([m.ravel() for m in maps]), classes, balance)  # (classes,)
        self._pictures = [torch.from_numpy(plane.picture) for plane in planes]
        # Labels and border weights travel as float planes through the same map; ids stay far below 2^24.
        self._labels = [torch.from_numpy(plane.labels[None].astype(np.float32)) for plane in planes]
        self._borders = [torch.from_numpy(plane.border[None]) for plane in planes]
        self._known = [np.flatnonzero(plane.labels != NOT_ANNOTATED) for plane in planes]
        self._cells = [np.flatnonzero(plane.labels > 0) for plane in planes]
        self._shapes = [plane.labels.shape for plane in planes]
        # Large planes come more often, but less than their area says: five small images must all be seen.
        share = np.sqrt([k.size for k in self._known])
        self._share = share / share.sum()

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one patch.

        Parameters
        ----------
        rng : numpy.random.Generator
            The only source of chance.
        size : int
            Side of the patch in network pixels.

        Returns
        -------
        picture : (C, [slices,] size, size) float32 tensor
        classes : ([slices,] size, size) int64 tensor
            -1 = not annotated.
        weights : ([slices,] size, size) float32 tensor
            w(x) = w_c(x) + border term.
        """
        i = rng.choice(len(self._share), p=self._share)
        candidates = self._cells[i] if self._cells[i].size and rng.random() < 0.7 else self._known[i]
        chosen = np.unravel_index(candidates[rng.integers(candidates.size)], self._shapes[i])
        sides = np.array([self.slices, size, size] if self.slices else [size, size])
        middle = np.array(chosen) + rng.uniform(-sides / 3, sides / 3)  # the cell need not sit in the centre
        where = augment.draw_map(rng, middle, sides.tolist(), self.augmentation, self._aspects[i])
        picture = augment.warp(self._pictures[i], where).numpy()
        picture = augment.vary_intensity(rng, picture, self.augmentation.intensity, self._aspects[i])
        labels = augment.warp(self._labels[i], where, nearest=True)[0].numpy().astype(np.int32)
        border = augment.warp(self._borders[i], where)[0]
        classes = torch.from_numpy(self._class_map(labels, i))
        weights = torch.from_numpy(self.class_weights)[classes.clamp_min(0)] + border
        return torch.from_numpy(picture), classes, weights

    def _class_map(self, labels: NDArray[np.int32], i: int) -> NDArray[np.int64]:
        """Give the classes of labels of plane `i`."""
        type_of = self._types[i]
        if self.types == 1 or type_of is None:
            return class_map(labels, self.classes, self._flat[i])
        return typed(class_map(labels, self.classes - self.types + 1), labels, type_of, self.types)


def _sequential(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Renumber cells to 1..n, keep 0 and -1: ids survive as float32."""
    ids, inverse = np.unique(labels, return_inverse=True)
    return (inverse.reshape(labels.shape) - int((ids <= 0).sum()) + 1).astype(np.int32) * (labels > 0) - (labels < 0)


def rescale_labels(labels: NDArray[np.int32], shape: Sequence[int]) -> NDArray[np.int32]:
    """Resample a label image ([Z,] Y, X) to `shape`, each pixel from the nearest one."""
    axes = (np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1) for n, m in zip(shape, labels.shape, strict=True))
    return labels[np.ix_(*axes)]
