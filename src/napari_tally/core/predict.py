"""The one way from an image and a model to probabilities.

Window, command line, Python API, training preview and benchmarks all come here, most of them through core/find.py, which knows how large
the cells of an image are and makes labels of the probabilities.

::

    image pixels      a tile to write, and the ring that telling cells apart asks for
         │            the piece of the image that this needs
         ▼
    network pixels    rescaled so that cells have the size the network knows; mirrored beyond the plane;
         │            the halo that the network looks at
         ▼            strips.py
    probabilities     rescaled back

A network for volumes does the same with one axis more: what is called a plane here is a volume then, and a pixel a voxel.
"""

import gc
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_tally.core.blend import blended
from napari_tally.core.channels import ChannelChoice, choose_channels, parse_order, pick_channels
from napari_tally.core.devices import choose_device, free_memory
from napari_tally.core.events import is_out_of_memory, mapped, paced, part_of, run_to_end
from napari_tally.core.fold import folded
from napari_tally.core.images import Image, describe_channels
from napari_tally.core.intensity import measuring_window
from napari_tally.core.model_file import Model
from napari_tally.core.rescale import needed, read_scaled, rescale_piece, scaled_shape
from napari_tally.core.sizes import LARGEST_SCALE, working_scale, z_scale_for
from napari_tally.core.strips import bytes_per_pixel, classify
from napari_tally.core.tiles import Region, best_stride, halved, longest, mirror, plan_tiles, reading
from napari_tally.core.unet import UNet
from napari_tally.core.words import number
from napari_tally.settings import PredictionSettings

Result = TypeVar("Result")

_BORDER = 32
"""Mirrored pixels around the image. More cost time and bring nothing: training patches have borders too."""
_BORDER_3D = 8
_MEMORY = 1.2e9
"""Bytes that a tile may take, at most; more would not make the halo much cheaper."""
_LEAST = 256
"""Pixels along the longer side of a piece that is still halved where the memory is short: below, there is hardly anything to gain."""
_VIEWS = 8


@dataclass(frozen=True)
class TileDone:
    """News: `done` of `total` tiles of the image are computed; a part of a tile is a fraction. `doing` = what else is done now."""

    done: float
    total: int
    doing: str = ""


def predict(model: Model, image: Image, settings: PredictionSettings | None = None) -> Generator[TileDone, None, NDArray[np.float32]]:
    """Compute the probability maps of an image at the scale of the model, tile by tile.

    How large the cells of this image are is not found out here: :func:`napari_tally.core.find.find_cells` does that first.

    Parameters
    ----------
    model : Model
    image : Image
    settings : PredictionSettings, optional
        Cell diameter, tile size and device. The tile size does not change the result.

    Yields
    ------
    TileDone
        At most about ten a second. Walking away after any of them is safe.

    Returns
    -------
    (P, classes, Y, X) float32
        Probabilities of each class, in the pixels of the image; they sum to 1 over the classes.

    Raises
    ------
    ValueError
        If the model was trained on other channels, or a tile does not fit the network.
    MemoryError
        If the memory does not suffice even for small tiles.

    References
    ----------
    Ronneberger et al., MICCAI 2015, figure 2 (overlap-tile, missing context mirrored).
    """
    model = looking_at(model, image, settings)
    window = yield from looking(model, image)
    predictor = Predictor(model, image, settings or PredictionSettings(), window)
    tiles = predictor.tiles()
    planes = predictor.planes
    result = np.empty((planes, model.settings.classes, *predictor.shape), np.float32)
    for n in range(planes * len(tiles)):
        p, tile = n // len(tiles), tiles[n % len(tiles)]
        result[p][:, *tile] = yield from mapped(predictor.tile(p, tile), partial(part_done, n, planes * len(tiles)))
        yield TileDone(n + 1, planes * len(tiles))
    return result if model.settings.dimensions == 2 else result.swapaxes(1, 2).reshape(-1, result.shape[1], *result.shape[-2:])


class Predictor:
    """A model at work on an image.

    Parameters
    ----------
    model : Model
        A copy of its network is used; it may be trained meanwhile.
    image : Image
    settings : PredictionSettings
    window : (C, 2) float32
        Intensities that become 0 and 1; see :func:`window_for`.

    Attributes
    ----------
    planes : int
        Planes of the image, or volumes where the model is one for volumes.
    shape : (Y, X) or (Z, Y, X)
        Of each, in pixels of the image.
    grid : tuple of int
        The same in network pixels.
    scale : float
        Network pixels per pixel.
    """

    def __init__(self, model: Model, image: Image, settings: PredictionSettings, window: NDArray[np.float32]) -> None:
        self.window = window
        image = seen_by(model, image)
        self.image, self.settings, self.model_scale = image, settings, model.scale
        self._device = choose_device(settings.device)
        self._network = folded(model.network).to(self._device)
        self._channels, self.types = model.settings.channels, model.settings.types
        if settings.diameter and not model.diameter > 0:
            raise ValueError(
                "This model does not know how large cells were in its training, so a cell diameter tells it nothing. Leave it at 0."
            )
        self.scale = working_scale(model, image, settings)
        if self.scale > LARGEST_SCALE:
            raise ValueError(
                f"{image.name}: it would be enlarged {self.scale:.0f} times a side, and {LARGEST_SCALE} times is the most. "
                "State the diameter of its cells in pixels, or choose another model."
            )
        self.planes, self.shape = len(image.planes), image.shape[-2:]
        self.grid: tuple[int, ...] = scaled_shape(self.shape, self.scale)
        if model.settings.dimensions == 3:
            require_volumes(image)
            self.planes, self.shape = self.planes // image.slices, image.shape[-3:]
            self.grid = max(1, round(image.slices * z_scale_for(model, image, self.scale, settings.slice_distance))), *self.grid
        self._factors = [m / n for m, n in zip(self.grid, self.shape, strict=True)]

    def tiles(self) -> list[Region]:
        """Give the tiles of a plane, in pixels of the image."""
        stride: tuple[int, ...] = (self.settings.tile,) * len(self.shape)
        if not self.settings.tile:
            halos = [round(halo / self.scale) for halo in _halos(self._network)]
            if len(halos) == 3:
                halos[0] = round(_halos(self._network)[0] / self._factors[0])
            pixels = _affordable(self._device) / bytes_per_pixel(self._network) / prod([self.scale, self.scale, *self._factors[:-2]])
            stride = best_stride(self.shape, halos, pixels)
        return plan_tiles(self.shape, stride)

    def network_tiles(self) -> list[Region]:
        """Give the tiles of a plane in network pixels."""
        stride = tuple(max(1, round(self.settings.tile * factor)) for factor in self._factors)
        if not self.settings.tile:
            stride = best_stride(self.grid, _halos(self._network), _affordable(self._device) / bytes_per_pixel(self._network))
        return plan_tiles(self.grid, stride)

    def tile(self, plane: int, region: Region) -> Generator[float, None, NDArray[np.float32]]:
        """Compute the probabilities of a region of a plane.

        Parameters
        ----------
        plane : int
        region : (slice, slice)
            Rows and columns in pixels of the image; of a volume slices before them.

        Yields
        ------
        float
            The fraction that is done.

        Returns
        -------
        (classes, *size of region) float32

        Raises
        ------
        MemoryError
            If the memory does not suffice even for a small piece.
        """
        return (yield from self._in_halves(partial(self._whole, plane), region))

    def network_tile(self, plane: int, region: Region) -> Generator[float, None, NDArray[np.float32]]:
        """Compute the same in network pixels, as :meth:`tile`."""
        return (yield from self._in_halves(partial(self._seen, plane), region))

    def _in_halves(
        self, compute: Callable[[Region], Generator[float, None, NDArray[np.float32]]], region: Region
    ) -> Generator[float, None, NDArray[np.float32]]:
        """Compute a region; where the memory does not suffice its halves, which are what the tile would have been."""
        axis = longest(region)
        try:
            return (yield from compute(region))
        except (MemoryError, RuntimeError) as error:
            least = _LEAST if len(region) == 2 else 2 * self._network.step
            if not is_out_of_memory(error) or region[axis].stop - region[axis].start < least:
                raise
        gc.collect()  # the pieces of the attempt hang on its traceback, in cycles
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        halves = []
        for n, half in enumerate(halved(region)):
            halves.append((yield from mapped(self._in_halves(compute, half), part_of(2, n))))
        return np.concatenate(halves, axis=1 + axis)

    def _whole(self, plane: int, region: Region) -> Generator[float, None, NDArray[np.float32]]:
        probabilities = yield from self._seen(plane, needed(self.grid, self.shape, region))
        return rescale_piece(probabilities, self.grid, self.shape, region)

    def _seen(self, plane: int, region: Region) -> Generator[float, None, NDArray[np.float32]]:
        """Give the probabilities of a region in network pixels."""
        return (yield from _classify(self._network, self.grid, region, partial(self._read, plane), self.settings.average))

    def _read(self, plane: int, piece: Region) -> NDArray[np.float32]:
        """Give a piece of a plane as the network sees it: (C, *size of piece) in network pixels."""
        seen = read_scaled(self.image, plane, self.window, self.shape, self.grid, piece)
        return to_channels(seen, self._channels)


def predict_plane(network: UNet, picture: NDArray[np.float32], stride: int = 0) -> Generator[TileDone, None, NDArray[np.float32]]:
    """Run the network over one normalised plane, or volume, in network pixels, by overlap-tile.

    Parameters
    ----------
    network : UNet
        On the device that shall compute.
    picture : (C, [Z,] Y, X) float32
    stride : int
        Side of what a tile writes in pixels; 0 = chosen.

    Returns
    -------
    (classes, [Z,] Y, X) float32
        What the network gives for the whole plane with its mirrored border, whatever the stride.
    """
    shape = picture.shape[1:]
    network, device = folded(network), next(network.parameters()).device
    chosen: tuple[int, ...] = (stride,) * len(shape)
    if not stride:
        chosen = best_stride(shape, _halos(network), _affordable(device) / bytes_per_pixel(network))
    tiles = plan_tiles(shape, chosen)
    result = np.empty((network.classes, *shape), np.float32)
    for n, tile in enumerate(tiles):
        work = _classify(network, shape, tile, lambda piece: picture[:, *piece])
        result[:, *tile] = yield from mapped(work, partial(part_done, n, len(tiles)))
        yield TileDone(n + 1, len(tiles))
    return result


def _classify(
    network: UNet, shape: tuple[int, ...], region: Region, read: Callable[[Region], NDArray[np.float32]], average: bool = False
) -> Generator[float, None, NDArray[np.float32]]:
    """Give the probabilities (classes, *size of region) of a region of a plane of `shape` network pixels."""
    look = partial(_classify_at_once, network, shape, read, average)
    return (yield from look(region) if network.exact else blended((shape[0], shape[1]), region, look))


def _classify_at_once(
    network: UNet, shape: tuple[int, ...], read: Callable[[Region], NDArray[np.float32]], average: bool, region: Region
) -> Generator[float, None, NDArray[np.float32]]:
    spans, inner, border = [], [], _BORDER if len(shape) == 2 else _BORDER_3D
    for part, n, axis in zip(region, shape, network.axes, strict=True):
        step, halo, lost = axis.step, _up_to(axis.margin, axis.step), axis.lost
        if network.padding == "same":
            first, last = reading(part, n, halo, step, min(halo, _up_to(border, step)))
        else:  # it needs all the border that it eats, and takes certain sizes only
            first = part.start // step * step - halo
            last = first + axis.input_size(part.stop - first - halo + 2 * (halo - lost))
        spans.append(mirror(np.arange(first, last), n))
        inner.append(slice(part.start - first - lost, part.stop - first - lost))
    piece = tuple(slice(int(span.min()), int(span.max()) + 1) for span in spans)
    inside: Any = np.ix_(*(span - part.start for span, part in zip(spans, piece, strict=True)))
    picture = read(piece)[(slice(None), *inside)]
    seen = torch.from_numpy(picture)[None].to(next(network.parameters()).device)  # (1, C, as the spans say)
    return (yield from paced(_averaged(network, seen, inner, _VIEWS if average else 1))).cpu().numpy()


def _averaged(network: UNet, seen: Tensor, inner: Sequence[slice], views: int) -> Generator[float, None, Tensor]:
    """Average the probabilities of the inner part over so many views of it: (classes, *size of the part)."""
    total: Any = 0.0
    for view in range(views):
        found = yield from mapped(classify(network, _turned(seen, view) if view else seen), part_of(views, view))
        total = total + _turned_back(found, view)[:, *inner]
    return total / views


def _turned(picture: Tensor, view: int) -> Tensor:
    """Give one of the 8 views of a square: turned by quarters, the last four mirrored too."""
    return torch.rot90(picture.flip(-1) if view >= 4 else picture, view % 4, (-2, -1)).contiguous()


def _turned_back(picture: Tensor, view: int) -> Tensor:
    back = torch.rot90(picture, -(view % 4), (-2, -1))
    return back.flip(-1) if view >= 4 else back


def _affordable(device: torch.device) -> float:
    """Give the bytes that a tile may take."""
    return min(_MEMORY, free_memory(device) / 4)


def part_done(tiles: int, total: int, fraction: float | TileDone) -> TileDone:
    """Turn news of a tile, or of the tiles of one plane or volume, into news of all."""
    return TileDone(tiles + (fraction.done / fraction.total if isinstance(fraction, TileDone) else fraction), total)


def to_channels(picture: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Give (C, Y, X) as many channels as the network takes: grey is repeated."""
    return np.repeat(picture, channels, axis=0) if len(picture) < channels else picture


def window_for(model: Model, image: Image) -> NDArray[np.float32]:
    """Give the intensities that become 0 and 1, (C, 2): those of the experiment where the model has them, else those of the image."""
    return run_to_end(looking(model, image))


def looking(model: Model, image: Image) -> Generator[TileDone, None, NDArray[np.float32]]:
    """Find :func:`window_for` an image; of a large one its pixels are read once for that."""
    image = seen_by(model, image)
    if model.window is not None:
        return model.window[: image.channels]
    return (yield from aside(0, "looking at the brightness", measuring_window(image, model.normalisation)))


def aside(done: float, doing: str, work: Generator[float | None, None, Result]) -> Generator[TileDone, None, Result]:
    """Tell of work that is no tile, before (0) or after (1) the tiles: what it is, and how far; give its result."""
    return mapped(paced(work), partial(_tell, done, doing))


def _tell(done: float, doing: str, fraction: float | None) -> TileDone:
    return TileDone(done, 1, doing if fraction is None else f"{doing}, {100 * fraction:.0f} %")


def _halos(network: UNet) -> list[int]:
    return [_up_to(axis.margin, axis.step) for axis in network.axes]


def _up_to(n: int, step: int) -> int:
    """Round up to a multiple of `step`."""
    return -(-n // step) * step


def require_volumes(image: Image) -> None:
    """Raise a ``ValueError`` if the image is no z-stack."""
    if image.slices < 2:
        if "Z" in image.axes:
            raise ValueError(
                f"{image.name} has the axes {', '.join(image.axes)}, Y, X, so its slices are apart in time. Put time first and the slices "
                "before Y and X: in Fiji, Image > Hyperstacks > Re-order Hyperstack."
            )
        what = "a time series of planes" if image.is_series else "a single plane"
        raise ValueError(
            f"{image.name} is {what}, but this model was trained on volumes (z-stacks). Choose a model for planes, or open the whole stack."
        )


def require_channels(model: Model, image: Image) -> None:
    """Raise a ``ValueError`` if the model cannot take the channels of the image."""
    seen_by(model, image)


def looking_at(model: Model, image: Image, settings: PredictionSettings | None) -> Model:
    """Give the model as it is to look at an image: at the channels that the settings name, else at those that it has learned.

    Raises
    ------
    ValueError
        If the image has no such channels, or the model takes another number of them.
    """
    if settings is None or not settings.channels:
        return model
    order, n = parse_order(settings.channels), model.settings.channels
    if len(order) != n and not (model.colour and len(order) == 1):
        takes = "1 channel, or 3 for red, green and blue" if model.colour else number(n, "channel")
        raise ValueError(f"The channels {settings.channels!r} are asked for, and this model takes {takes}. Name as many.")
    choice = choose_channels(settings.channels, [image])
    return replace(model, channels=choice or ChannelChoice(order, image.channels, image.colour))  # all of them, but by somebody's word


def seen_by(model: Model, image: Image) -> Image:
    """Give the image with the channels that a model looks at: whatever a model is asked about an image goes through here, once.

    Raises
    ------
    ValueError
        If the model cannot take the channels of the image.
    """
    choice, n = model.channels, model.settings.channels
    if choice is None or choice.takes(image):
        seen = pick_channels(choice, image)
        are_colours = seen.colour or choice is not None or not model.colour  # three stains are not red, green and blue
        if (seen.channels == n and are_colours) or (model.colour and seen.channels == 1):
            return seen
    if model.colour and image.channels == n and not choice:
        raise ValueError(
            f"{image.name} has {n} channels of which nobody says that they are red, green and blue, and this model wants RGB colour. "
            "Say which channel shows the cells, or 1 2 3 if they are colours (Expert options › Channels in 3 Predict and count, --channels "
            "on the command line)."
        )
    if choice:
        wanted = f"{choice.of} channels, of which it looks at {choice} (an image that has just as many as these is taken as it is)"
    else:
        wanted = "3 channels (RGB colour)" if model.colour else number(n, "channel")
    which = "Say which channel shows the cells (Expert options › Channels in the window, --channels on the command line), or choose"
    raise ValueError(
        f"{image.name} has {describe_channels(image)}, but this model was trained on images with {wanted}. "
        f"{which if (n == 1 or model.colour) and image.channels > 1 else 'Choose'} a model for such images."
    )
