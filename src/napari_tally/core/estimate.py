"""What a training will take, before it starts: arithmetic alone, so that a window can show it at once."""

from napari_tally.settings import NetworkSettings

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
_BASE = 500e6
"""Bytes that the libraries take when they are loaded."""


def count_parameters(network: NetworkSettings) -> int:
    """Give the number of weights of a network; of the relatives of the U-Net roughly."""
    widths = [network.base_width * 2**level for level in range(network.depth + 1)]
    norm = 2 if network.batch_norm else 1  # scale and shift, or a bias

    def two(inputs: int, outputs: int) -> int:
        return 9 * outputs * (inputs + outputs) + 2 * norm * outputs

    down = sum(two(i, o) for i, o in zip([network.channels, *widths[:-1]], widths, strict=True))
    kernel = 4 if network.upsampling == "transposed" else 1
    up = sum(kernel * 2 * w * w + w + two(2 * w, w) for w in widths[:-1])
    return round((down + up + (widths[0] + 1) * network.classes) * _RELATIVES.get(network.architecture, (1, 1))[1])


def training_memory(network: NetworkSettings, patch: int, batch: int, pixels: float) -> float:
    """Estimate the memory that training takes.

    Parameters
    ----------
    network : NetworkSettings
    patch, batch : int
        Side of a patch in network pixels, patches a step.
    pixels : float
        Pixels of all training planes, in network pixels.

    Returns
    -------
    float
        Bytes.
    """
    more = _RELATIVES.get(network.architecture, (1, 1))[0]
    maps = 4 * _MAPS * more * batch * patch**2 * sum(network.base_width * 0.5**level for level in range(network.depth + 1))
    return _BASE + maps + 4 * _COPIES * count_parameters(network) + pixels * (4 * network.channels + _PIXEL)


def training_seconds(minutes: float, pixels: float) -> float:
    """Estimate the time from Start to the end: the budget, and beside it reading, choosing a start, weighing borders and judging."""
    return 60 * minutes + 6 + 4.8e-6 * pixels
