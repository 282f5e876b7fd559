"""Networks whose weights are set by hand, so that what they find is known, and images for them."""

from typing import Any

import numpy as np
import torch

import napari_tally as nt
from napari_tally.core.model_file import build_network
from napari_tally.settings import CountingSettings, NetworkSettings


def bright_is_cell(channels: int = 1, diameter: float = float("nan")) -> nt.Model:
    """A real U-Net whose weights pass the first channel on: the probability of a cell is sigmoid(20 * (brightness - 0.5))."""
    settings = NetworkSettings(channels=channels, depth=1, base_width=2, batch_norm=False)
    network = build_network(settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for convolution in (network.down[0][0], network.down[0][2], network.merge[0][0], network.merge[0][2]):
            convolution.weight[0, 0, 1, 1] = 1
        network.head.weight[1, 0] = 20
        network.head.bias[:] = torch.tensor([0.0, -10.0, -30.0])
    return nt.Model(network, settings, diameter=diameter, counting=CountingSettings(seed_threshold=0.6, edge_threshold=0.4))


def bright_is_cell_in_3d(**kwargs: Any) -> nt.Model:
    """The same for volumes; its arguments go on to the model."""
    settings = NetworkSettings(depth=1, base_width=2, batch_norm=False, dimensions=3)
    network = build_network(settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for convolution in (network.down[0][0], network.down[0][2], network.merge[0][0], network.merge[0][2]):
            convolution.weight[0, 0, 1, 1, 1] = 1
        network.head.weight[1, 0] = 20
        network.head.bias[:] = torch.tensor([0.0, -10.0, -30.0])
    counting = CountingSettings(seed_threshold=0.6, edge_threshold=0.4, smoothing=1, min_area=20)
    return nt.Model(network, settings, counting=counting, **kwargs)


def nine_discs(side: int = 64, radius: int = 6) -> np.ndarray:
    """Draw nine discs, the later the brighter, on a noisy ground; three of them lie on the upper border."""
    y, x = np.mgrid[:side, :side]
    image = np.random.default_rng(0).normal(20, 2, (side, side))
    for n, (i, j) in enumerate((i, j) for i in (0.05, 0.5, 0.84) for j in (0.16, 0.5, 0.84)):
        image[np.hypot(y - i * side, x - j * side) < radius] += 120 + 10 * n
    return image.clip(0).astype(np.uint8)
