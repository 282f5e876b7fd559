"""The one function that turns an image and a model into probabilities.

Window, command line, Python API, training preview and benchmarks all come here.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_tally.core.devices import choose_device
from napari_tally.core.events import mapped
from napari_tally.core.images import Image, describe_channels, intensity_window, normalise, rescale
from napari_tally.core.model_file import Model
from napari_tally.core.samples import scaled_shape
from napari_tally.core.tiles import plan_tiles, read_mirrored
from napari_tally.core.unet import UNet
from napari_tally.settings import PredictionSettings

_STRIDE = {"cpu": 512}
"""Default stride in pixels (elsewhere 1024): large, so that the halo costs little; small, to cancel within a second."""
_BORDER = 32
"""Mirrored pixels around the image. More cost time and bring nothing: training patches have borders too."""


@dataclass(frozen=True)
class TileDone:
    """News: `done` of `total` tiles of the image are computed."""

    done: int
    total: int


def predict(model: Model, image: Image, settings: PredictionSettings | None = None) -> Generator[TileDone, None, NDArray[np.float32]]:
    """Compute the probability maps of an image, tile by tile.

    Parameters
    ----------
    model : Model
        Its network must not be trained meanwhile.
    image : Image
    settings : PredictionSettings, optional
        Cell diameter, tile size and device. The tile size does not change the result.

    Yields
    ------
    TileDone
        After each tile. Walking away after any of them is safe.

    Returns
    -------
    (P, classes, Y, X) float32
        Probabilities of each class, in the pixels of the image; they sum to 1 over the classes.

    Raises
    ------
    ValueError
        If the model was trained on other channels, or a tile does not fit the network.

    References
    ----------
    Ronneberger et al., MICCAI 2015, figure 2 (overlap-tile, missing context mirrored).
    """
    settings = settings or PredictionSettings()
    require_channels(model, image)
    device = choose_device(settings.device)
    network = model.network.to(device).eval()
    window = window_for(model, image)
    shape = scaled_shape(image.shape, working_scale(model, image, settings))
    planes = len(image.planes)
    result = np.empty((planes, model.settings.classes, *image.planes.shape[2:]), np.float32)
    try:
        for p, plane in enumerate(image.planes):
            picture = to_network(model, normalise(plane, window), shape)
            tiles = predict_plane(network, picture, settings.tile)
            probabilities = yield from mapped(tiles, partial(_of_all, p, planes))
            result[p] = rescale(probabilities, plane.shape[1:])
    finally:
        model.network.to("cpu")
    return result


def window_for(model: Model, image: Image) -> NDArray[np.float32]:
    """Give the intensities that become 0 and 1, (C, 2): those of the experiment where the model has them, else those of the image."""
    return intensity_window(image, model.normalisation) if model.window is None else model.window[: image.channels]


def to_network(model: Model, plane: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a normalised plane (C, Y, X) to `shape` network pixels and the channels of the model; grey is repeated."""
    picture = rescale(plane, shape)
    return np.repeat(picture, model.settings.channels, axis=0) if len(picture) < model.settings.channels else picture


def working_scale(model: Model, image: Image, settings: PredictionSettings | None = None) -> float:
    """Give the network pixels per pixel of this image.

    The cell diameter that the user states decides; else the pixel sizes of the image and of the training
    images, where both are known; else the image is taken as the training images were.
    """
    if settings and settings.diameter and model.diameter > 0:
        return model.scale * model.diameter / settings.diameter
    if image.pixel_size and model.pixel_size:
        ratio = float(np.sqrt(np.prod(image.pixel_size))) / model.pixel_size
        if 0.95 <= ratio <= 1.05:
            return model.scale  # rounded metadata must not move pixels
        if 0.1 <= ratio <= 10:  # beyond that, somebody's metadata are wrong
            return model.scale * ratio
    return model.scale


def predict_plane(network: UNet, picture: NDArray[np.float32], stride: int = 0) -> Generator[TileDone, None, NDArray[np.float32]]:
    """Run the network over one normalised plane in network pixels, by overlap-tile.

    Parameters
    ----------
    network : UNet
        In evaluation mode, on the device that shall compute.
    picture : (C, Y, X) float32
    stride : int
        Side of what a tile writes in pixels, rounded up to the grid of the network; 0 = chosen by the device.

    Returns
    -------
    (classes, Y, X) float32
        What the network gives for the whole plane with its mirrored border, whatever the stride.
    """
    device = next(network.parameters()).device
    step, lost = network.step, network.lost
    halo = _up_to(network.margin, step)
    border = min(halo, _up_to(_BORDER, step)) if network.padding == "same" else None  # "valid" needs all that it eats
    wish = _up_to(stride or _STRIDE.get(device.type, 1024), step)
    height, width = picture.shape[1:]
    strides = min(wish, _up_to(height, step)), min(wish, _up_to(width, step))  # a small image is one tile
    sides = network.input_size(strides[0] + 2 * (halo - lost)), network.input_size(strides[1] + 2 * (halo - lost))
    plan = plan_tiles((height, width), strides, halo, sides, border, step)
    result = np.empty((network.classes, *picture.shape[1:]), np.float32)
    for done, tile in enumerate(plan, start=1):
        patch = torch.from_numpy(read_mirrored(picture, tile))[None].to(device)  # (1, C, as the tile reads)
        rows, columns = (
            slice(write.start - read[0] - lost, write.stop - read[0] - lost) for write, read in zip(tile.write, tile.read, strict=True)
        )
        result[:, *tile.write] = _probabilities(network, patch)[0, :, rows, columns].cpu().numpy()
        yield TileDone(done, len(plan))
    return result


def _of_all(plane: int, planes: int, tile: TileDone) -> TileDone:
    """Turn news of one plane into news of all planes."""
    return TileDone(plane * tile.total + tile.done, planes * tile.total)


def _probabilities(network: UNet, patch: Tensor) -> Tensor:
    """Give (N, classes, ...) for (N, C, ...). Inference mode must not stay on across a yield, so it is entered here."""
    with torch.inference_mode():
        return network(patch).float().softmax(dim=1)


def _up_to(n: int, step: int) -> int:
    """Round up to a multiple of `step`."""
    return -(-n // step) * step


def require_channels(model: Model, image: Image) -> None:
    """Raise a ``ValueError`` if the model cannot take the channels of the image."""
    if image.channels == model.settings.channels or (model.colour and image.channels == 1):
        return
    wanted = "3 channels (RGB colour)" if model.colour else f"{model.settings.channels} channel{'s' * (model.settings.channels != 1)}"
    raise ValueError(
        f"{image.name} has {describe_channels(image)}, but this model was trained on images with {wanted}. "
        "Choose a model for such images, or convert the image."
    )
