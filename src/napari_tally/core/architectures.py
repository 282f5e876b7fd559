"""The registry of the U-Net family: name -> what it is, and the one place where networks are built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from napari_tally.core import variants
from napari_tally.core.unet import UNet
from napari_tally.settings import NetworkSettings, to_dict


@dataclass(frozen=True)
class Architecture:
    """A member of the family.

    Attributes
    ----------
    title : str
        As papers call it.
    source : str
    build : callable
        Takes the fields of :class:`NetworkSettings` (but not the architecture; padding and dimensions only where it is the U-Net).
    exact : bool
        Whether tiles are exact: an output pixel depends on what lies within the margin, and on nothing else. Else they are
        blended, see :mod:`napari_tally.core.blend`.
    """

    title: str
    source: str
    build: Callable[..., Any]
    exact: bool = True


ARCHITECTURES = {
    "unet": Architecture("U-Net", "Ronneberger et al. 2015", UNet),
    "res-unet": Architecture("ResU-Net", "Zhang et al. 2018", variants.ResUNet),
    "attention-unet": Architecture("Attention U-Net", "Oktay et al. 2018", variants.AttentionUNet),
    "nnu-net": Architecture("nnU-Net's U-Net", "Isensee et al. 2021", variants.NNUNet, exact=False),
    "unet++": Architecture("U-Net++", "Zhou et al. 2018", variants.UNetPlusPlus),
    "swin-unetr": Architecture("Swin U-Net (Swin UNETR)", "Hatamizadeh et al. 2021", variants.SwinUNETR, exact=False),
    "unet-bilinear": Architecture("U-Net, bilinear port", "github.com/milesial/Pytorch-UNet", variants.BilinearUNet, exact=False),
}
"""By the names of :attr:`napari_tally.settings.NetworkSettings.architecture`."""


def build_network(settings: NetworkSettings) -> UNet:
    """Build a network with random weights; ``torch.manual_seed`` decides which.

    Returns
    -------
    UNet
        Or one of its relatives, which have the same attributes and sizes: see :class:`napari_tally.core.variants.SameSize`.

    Raises
    ------
    ValueError
        If the architecture does not know these settings, or the package it comes from is not installed.
    """
    wishes = to_dict(settings)
    architecture, types = ARCHITECTURES[wishes.pop("architecture")], wishes.pop("types")
    if settings.classes - types not in (1, 2):
        raise ValueError(f"{types} cell type(s) make {types + 1} classes, or {types + 2} with the rim, not {settings.classes}.")
    if settings.dimensions == 3 and settings.flat > settings.depth:
        raise ValueError(f"{settings.flat} poolings shall leave z alone, and there are {settings.depth}.")
    if architecture.build is not UNet:
        if wishes.pop("padding") != "same":
            raise ValueError(f"{architecture.title} keeps the size of the image; choose the padding 'same'.")
        if wishes.pop("dimensions") != 2:
            raise ValueError(f"{architecture.title} is there for images only; for volumes choose the architecture 'unet'.")
        del wishes["flat"]
    network = cast(UNet, architecture.build(**wishes))
    network.types = types
    return network
