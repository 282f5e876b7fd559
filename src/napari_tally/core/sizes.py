"""How large images are shown to a network, in training and at prediction.

::

    drawn cells, the start, the wishes ──▶ Sizes        what one plan, and later its model, knows
                                             │
    an image with its pixel size ────────────┼─▶ working_scale     network pixels per pixel of this image
    an image with its distance of slices ────┴─▶ z_scale_for       network voxels per slice: a voxel keeps its shape
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from napari_tally.core.images import Image
from napari_tally.core.model_file import Model
from napari_tally.core.samples import TrainingPair, body_diameter, cell_diameter
from napari_tally.core.words import number
from napari_tally.settings import LARGEST_MIN_AREA, PredictionSettings, TrainingSettings

_FINE = 0.7
"""Slices nearer to each other than so many network pixels are resampled."""
_SMALLEST_BODY = 64
"""Voxels of the network that a cell has at least, before there is anything to measure."""
_TINY, _ENOUGH = 8, 12
"""Cells below so many network pixels have next to no inside that survives the smoothing; images are enlarged until they have so many."""
_MUCH_LARGER = 1.8
"""Ratio of the median diameters of two images from which on each is scaled by itself."""
_AS_KNOWN = 1.25
"""Cells up to so many times larger or smaller than those that the start knows best need no scaling."""
LARGEST_SCALE = 16
"""Network pixels per pixel of the image: cells that would need more are hardly a pixel wide."""
_ROUNDED = 0.05
"""Metadata that differ by less are the same, rounded: they must not move pixels."""


class _Sized(Protocol):
    """A model, a plan or sizes: what is asked of them here."""

    @property
    def scale(self) -> float: ...
    @property
    def diameter(self) -> float: ...
    @property
    def pixel_size(self) -> float | None: ...
    @property
    def z_scale(self) -> float: ...
    @property
    def slice_distance(self) -> float: ...


@dataclass(frozen=True)
class Sizes:
    """How training images are brought to what a network sees.

    Attributes
    ----------
    diameter, scale, scales, any_size, pixel_size, z_scale, slice_distance
        As in :class:`napari_tally.core.plan.TrainingPlan`.
    flat : int
        Of volumes, poolings that leave z alone.
    notes : tuple of str
        What the user should know of it, in plain words.
    """

    diameter: float
    scale: float
    scales: tuple[float, ...]
    any_size: bool = False
    pixel_size: float | None = None
    z_scale: float = 1.0
    slice_distance: float = 1.0
    flat: int = 0
    notes: tuple[str, ...] = ()


def resolve_sizes(pairs: Sequence[TrainingPair], settings: TrainingSettings, start: Model | None, in_3d: bool) -> Sizes:
    """Decide how large these images are shown to the network: by the drawn cells, and by what the start knows.

    Parameters
    ----------
    pairs : sequence of TrainingPair
        With drawn cells.
    settings : TrainingSettings
    start : Model or None
    in_3d : bool
        The network is one for volumes.
    """
    return _of_volumes(pairs, settings, start) if in_3d else _of_planes(pairs, settings, start)


def _of_planes(pairs: Sequence[TrainingPair], settings: TrainingSettings, start: Model | None) -> Sizes:
    """Choose the scale of each image.

    Cells that differ much in size from image to image tell it, where the start knows one size best and estimates that of any image. Else
    there is one scale, for pixels of the middle size: where the files state several, each image is brought to that, as at prediction.
    """
    if start is not None and start.any_size and _differ(pairs):
        note = "The cells differ in size from image to image; each image is brought to the size that the network knows."
        return Sizes(start.diameter, start.scale, tuple(own_scale(start, pair) for pair in pairs), any_size=True, notes=(note,))
    images, notes = [pair.image for pair in pairs], []
    as_they_are = start.any_size if start else settings.preset == "paper"
    pixel_size = _pixel_size(images, several=not as_they_are)
    diameter = cell_diameter(pairs, [_times(image, pixel_size) for image in images])
    if start is not None:
        scale = _scale_for(start, diameter)
    else:
        scale = 1.0 if settings.preset == "paper" else _scale_from_nothing(diameter)
        notes += [_on_tiny(diameter, scale)] * (diameter < _TINY)
    return _each_scaled(Sizes(diameter, scale, (), pixel_size=pixel_size, notes=tuple(notes)), images, as_they_are)


def _of_volumes(pairs: Sequence[TrainingPair], settings: TrainingSettings, start: Model | None) -> Sizes:
    """Choose the voxels of a network.

    How far slices are apart the user states, or the files, or the start knows it. Cells become 16 network pixels wide where they are
    larger, and 12 where they are tiny. Slices that are nearer to each other than those pixels are resampled; others stay, for what was not
    seen cannot be made up.
    """
    images, notes = [pair.image for pair in pairs], []
    as_they_are = start is None and settings.preset == "paper"
    pixel_size = _pixel_size(images, several=not as_they_are)
    times = [_times(image, pixel_size) for image in images]
    stated = [image.slice_distance * own for image, own in zip(images, times, strict=True) if image.slice_distance]
    known = float(np.median(stated)) if stated else start.slice_distance if start else 1.0
    distance = settings.slice_distance or known  # in pixels of the middle size, as all that follows
    distances = [(settings.slice_distance or image.slice_distance) * own or known for image, own in zip(images, times, strict=True)]
    diameter = body_diameter(pairs, distances, times)
    if start is not None:
        scale, flat = _scale_for(start, diameter), start.settings.flat
        z_scale = distance * scale / start.aspect
    else:
        scale = 1.0 if as_they_are else _scale_from_nothing(diameter, in_3d=True)
        thickness = distance * scale
        z_scale = max(0.02, thickness) if thickness < _FINE and not as_they_are else 1.0
        flat = max(0, round(math.log2(thickness / z_scale)))  # until a voxel is about a cube
    notes += [_on_tiny(diameter, scale)] * (diameter < _TINY and (start is None or scale > 1))
    if not settings.slice_distance and len(stated) < len(images):
        notes.append(f"The files do not say how far slices are apart; they are taken to be {pixels_apart(distance)}. State it if not.")
    return _each_scaled(Sizes(diameter, scale, (), False, pixel_size, z_scale, distance, flat, tuple(notes)), images, as_they_are)


def _each_scaled(sizes: Sizes, images: Sequence[Image], as_they_are: bool) -> Sizes:
    """Give each image its scale, and say where they differ."""
    scales, notes = tuple(working_scale(sizes, image) for image in images), list(sizes.notes)
    sides = [side for image in images if (side := _side(image)) == side]
    stated = f"The images have pixels of {min(sides):.3g} to {max(sides):.3g} µm" if sides else ""
    if sizes.pixel_size and len(set(scales)) > 1:
        if max(scales) > LARGEST_SCALE:
            name = images[int(np.argmax(scales))].name
            raise ValueError(
                f"{stated}, so {name} would be enlarged {max(scales):.0f} times to be like the others; at most {LARGEST_SCALE} times is "
                "possible. Leave it out, or correct its pixel size."
            )
        notes.append(f"{stated}; each is brought to {sizes.pixel_size / sizes.scale:.3g} µm.")
    elif sides and not sizes.pixel_size and not as_they_are and max(sides) > (1 + _ROUNDED) * min(sides):
        notes.append(f"{stated}, but not all state one that can be believed; they are taken as they are.")
    return replace(sizes, scales=scales, notes=tuple(notes))


def smallest_body(scale: float, z_scale: float) -> float:
    """Give the voxels of an image that the smallest cell of a volume has, at first."""
    return min(LARGEST_MIN_AREA, float(round(_SMALLEST_BODY / scale**2 / z_scale)))


def own_scale(model: Model, pair: TrainingPair) -> float:
    """Give the scale at which a model is to see an annotated image.

    That of prediction; where a model would estimate there how large the cells are, those drawn tell: they are brought to the size that it
    knows best, and those nearly so stay as they are.
    """
    return _scale_for(model, cell_diameter([pair])) if model.any_size else working_scale(model, pair.image)


def working_scale(model: _Sized, image: Image, settings: PredictionSettings | None = None) -> float:
    """Give the network pixels per pixel of this image.

    The cell diameter that the user states decides; else the pixel sizes of the image and of the training
    images, where both are known; else the image is taken as the training images were.
    """
    if settings and settings.diameter and model.diameter > 0:
        return model.scale * model.diameter / settings.diameter
    return model.scale * _times(image, model.pixel_size)


def z_scale_for(model: _Sized, image: Image, scale: float, slice_distance: float = 0.0) -> float:
    """Give the network voxels per slice of this image, for a model for volumes: a voxel of the network keeps its shape.

    Parameters
    ----------
    model : Model, TrainingPlan or Sizes
    image : Image
    scale : float
        Network pixels per pixel.
    slice_distance : float
        How far slices are apart, in widths of a pixel. 0 = as the file says, else as in the training images.
    """
    distance = slice_distance or image.slice_distance or model.slice_distance
    if abs(distance / model.slice_distance - 1) <= _ROUNDED:
        distance = model.slice_distance
    return model.z_scale * scale / model.scale * distance / model.slice_distance


def pixels_apart(distance: float) -> str:
    """Say how far slices are apart."""
    return f"{number(f'{distance:.3g}', 'pixel')} apart"


def _scale_from_nothing(diameter: float, in_3d: bool = False) -> float:
    """Shrink images of large cells to cells of 24 px, 16 in volumes: the network sees more of their surroundings, for less work.

    Enlarge those of tiny ones: a disc of 4 px is nothing but rim, one of 5.5 px has an inside that the usual smoothing takes away, and
    from 8 px on three quarters of its height are left, where a cell wants 0.4. Of a ball of 7 px a third is left, of 8 px a half.
    """
    wanted = 16 if in_3d else 24
    if diameter < _TINY:
        return min(8.0, _ENOUGH / diameter)
    return max(0.02, wanted / diameter) if diameter > 1.25 * wanted else 1.0


def _on_tiny(diameter: float, scale: float) -> str:
    """Say what is done about cells that are too small for a network."""
    tiny = f"The typical cell is only {diameter:.1f} pixels across, too small to have an inside and a rim."
    if scale == 1:
        return f"{tiny} The paper's settings take images as they are, so such cells may not be found; the quick preset enlarges them."
    work = f"Images are enlarged {scale:.1f} times, which takes {scale**2:.0f} times the work"
    return f"{tiny} {work}. Images of higher magnification say more."


def _scale_for(start: Model, diameter: float) -> float:
    """Keep the scale of the start where the cells are about as large as those it knows; else bring them to that size."""
    known = start.diameter * start.scale  # in network pixels
    if not (known > 0 and diameter > 0) or 1 / _AS_KNOWN <= diameter * start.scale / known <= _AS_KNOWN:
        return start.scale
    return float(np.clip(known / diameter, 0.02, 8))


def _differ(pairs: Sequence[TrainingPair]) -> bool:
    """Whether the typical cell of one image is much larger than that of another."""
    diameters = [d for pair in pairs if (d := cell_diameter([pair])) > 0]
    return max(diameters) > _MUCH_LARGER * min(diameters)


def _pixel_size(images: Sequence[Image], several: bool) -> float | None:
    """Give the side of a pixel in micrometres, if all images state one: the middle one of `several`, else one that suits all."""
    sides = sorted(_side(image) for image in images)
    middle = math.sqrt(sides[(len(sides) - 1) // 2] * sides[len(sides) // 2])  # of two in the middle what is as many times off both
    if not all(_can_be(side / middle) for side in sides):
        return None
    return middle if several or all(_times(image, middle) == 1 for image in images) else None


def _times(image: Image, pixel_size: float | None) -> float:
    """Say how many times as wide the pixels of an image are; 1 where that is not known, or not to be believed."""
    ratio = _side(image) / pixel_size if pixel_size else 1.0
    return ratio if _can_be(ratio) and not 1 - _ROUNDED <= ratio <= 1 + _ROUNDED else 1.0


def _can_be(ratio: float) -> bool:
    """Whether pixels are so many times as wide as others; beyond that somebody's metadata are wrong, and NaN is not known."""
    return 0.1 <= ratio <= 10


def _side(image: Image) -> float:
    """Give the side of a pixel in micrometres, of one that is not square that of a square as large; NaN = the file does not say."""
    area = math.prod(image.pixel_size) if image.pixel_size else 0.0
    return math.sqrt(area) if area > 0 else math.nan
