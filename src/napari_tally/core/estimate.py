"""Which network a training asks for, and what it will take: arithmetic alone, so that a window can show it at once."""

from dataclasses import replace
from itertools import accumulate
from operator import mul

from napari_tally.settings import PAPER_NETWORK, NetworkSettings, TrainingSettings

PATCH = 160
"""Side of a training patch of planes in pixels, if nobody asks for another."""
_MAPS = 22.0
"""Maps that one level keeps for the backward pass, in units of its width (measured, see docs/benchmarks.md)."""
_RELATIVES = {
    "res-unet": (1.0, 1.05),
    "attention-unet": (1.0, 1.03),
    "unet++": (3.3, 1.18),
    "swin-unetr": (3.0, 3.2),
    "unet-bilinear": (1.0, 0.56),
}
"""Maps and weights of the relatives of the U-Net, relative to it (counted at base width 16)."""
_COPIES = 9
"""Copies of the weights: network, gradient, two moments of AdamW, running average, last good state, models of the folds."""
_PIXEL = 60
"""Bytes that a pixel of a training plane takes beside its channels: labels, border weights, places to draw from."""
_OF_AREAS = ("dice", "tversky")
_BASE = 500e6
"""Bytes that the libraries take when they are loaded."""


def network_for(settings: TrainingSettings, in_3d: bool = False) -> NetworkSettings:
    """Give the network that the wishes describe.

    Of planes the U-Net has no batch normalisation: from a handful of images it learns as well or better without (docs/benchmarks.md).
    Volumes, and several types of cells, are learned sooner with it; and losses that compare areas alone may not begin without it.
    """
    quick = settings.preset == "quick"
    preset = NetworkSettings() if quick else PAPER_NETWORK
    if in_3d:  # three axes see more with less; the paper's with the depth and width of Cicek et al. 2016
        preset = replace(preset, dimensions=3, depth=3, base_width=16 if quick else 32)
    if settings.architecture != "auto" and settings.architecture != "unet":
        preset = replace(preset, architecture=settings.architecture, padding="same")
    elif quick and not in_3d and settings.types <= 1 and settings.loss not in _OF_AREAS:
        preset = replace(preset, batch_norm=False)
    return replace(preset, depth=settings.depth or preset.depth, base_width=settings.base_width or preset.base_width)


def count_parameters(network: NetworkSettings) -> int:
    """Give the number of weights of a network; of the relatives of the U-Net roughly."""
    widths = [network.base_width * 2**level for level in range(network.depth + 1)]
    norm = 2 if network.batch_norm else 1  # scale and shift, or a bias

    def two(inputs: int, outputs: int) -> int:
        return 3**network.dimensions * outputs * (inputs + outputs) + 2 * norm * outputs

    down = sum(two(i, o) for i, o in zip([network.channels, *widths[:-1]], widths, strict=True))
    kernels = [n if network.upsampling == "transposed" else 1 for n in _halvings(network)]
    up = sum(kernel * 2 * w * w + w + two(2 * w, w) for kernel, w in zip(kernels, widths[:-1], strict=True))
    return round((down + up + (widths[0] + 1) * network.classes) * _RELATIVES.get(network.architecture, (1, 1))[1])


def _halvings(network: NetworkSettings) -> list[int]:
    """Give, for each pooling, the pixels that become one."""
    return [4 if network.dimensions == 2 or level < network.flat else 8 for level in range(network.depth)]


def training_memory(network: NetworkSettings, patch: int, batch: int, pixels: float, slices: int = 0) -> float:
    """Estimate the memory that training takes.

    Parameters
    ----------
    network : NetworkSettings
    patch, batch : int
        Side of a patch in network pixels, patches a step.
    pixels : float
        Pixels of all training planes, in network pixels.
    slices : int
        Of a patch of a volume; 0 = a plane.

    Returns
    -------
    float
        Bytes.
    """
    more = _RELATIVES.get(network.architecture, (1, 1))[0]
    levels = accumulate((2 / n for n in _halvings(network)), mul, initial=1.0)  # maps of each, in units of those at full resolution
    maps = 4 * _MAPS * more * batch * patch**2 * max(1, slices) * network.base_width * sum(levels)
    return _BASE + maps + 4 * _COPIES * count_parameters(network) + pixels * (4 * network.channels + _PIXEL)


def training_seconds(minutes: float, pixels: float) -> float:
    """Estimate the time from Start to the end: the budget, and beside it reading, choosing a start, weighing borders and judging."""
    return 60 * minutes + 6 + 4.8e-6 * pixels
