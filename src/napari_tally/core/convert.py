"""Weights from elsewhere: the state dict of the widespread PyTorch port of the U-Net (github.com/milesial/Pytorch-UNet), as a model.

Its layers and ours::

    inc, down1.maxpool_conv.1, down2...    .double_conv.0 .1 .3 .4    ->  down.0, down.1, ...      .0 .1 .3 .4
    up1, up2, ... (from the coarsest)      .conv.double_conv.0 ...    ->  merge.3, merge.2, ...    .0 ...
    up1, up2, ... (up-convolutions only)   .up                        ->  up.3, up.2, ...
    outc.conv                                                         ->  head

Without up-convolutions it interpolates, and its lowest levels are narrower: that is the architecture ``unet-bilinear``.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from napari_tally.core import pickled
from napari_tally.core.architectures import build_network
from napari_tally.core.model_file import Model
from napari_tally.settings import NetworkSettings, NormalisationSettings, check


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch file, or of one in safetensors.

    Nothing in it is executed: files that need more than tensors and plain values are refused.

    Returns
    -------
    dict
        Name -> tensor, without a wrapper around them (``state_dict``, ...) and without ``module.`` before the names.

    Raises
    ------
    ValueError
        If the file is absent, damaged, would run code, or holds no tensors.
    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors":
        try:
            weights = pickled.require_finite(path, load_file(path))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: the file cannot be read as safetensors ({error}).") from error
    else:
        weights = pickled.read_state_dict(path)
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def from_milesial(tensors: dict[str, Tensor], low: float = 0.0, high: float = 255.0, scale: float = 1.0) -> Model:
    """Build a model that gives what the port gives with these weights.

    Parameters
    ----------
    tensors : dict
        Its state dict, with transposed or bilinear upsampling, any depth and width. With one output map (a sigmoid) there are two
        classes here, background and cell, with the same probabilities.
    low, high : float
        Intensities that its training took for 0 and 1; the port divides by 255.
    scale : float
        Network pixels per image pixel (the port's ``--scale``, 0.5 by default there).

    Raises
    ------
    ValueError
        If these are other weights; the message names the first tensor that does not fit.
    """
    depth = sum(f"down{n}.maxpool_conv.1.double_conv.0.weight" in tensors for n in range(1, 10))
    first, head = tensors.get("inc.double_conv.0.weight"), tensors.get("outc.conv.weight")
    if not depth or first is None or head is None or first.ndim != 4 or head.ndim != 4:
        names = ", ".join(list(tensors)[:3])
        raise ValueError(f"These are no weights of the PyTorch U-Net port (inc, down1, ..., up1, ..., outc); they begin with {names}.")
    transposed = "up1.up.weight" in tensors
    settings = NetworkSettings(
        architecture="unet" if transposed else "unet-bilinear",
        channels=first.shape[1],
        classes=max(2, head.shape[0]),
        depth=depth,
        base_width=first.shape[0],
    )
    check(settings)  # before anything is built: a small file can claim huge tensors
    network = build_network(settings)
    ours: dict[str, Tensor] = {}
    for level in range(depth + 1):
        theirs = f"down{level}.maxpool_conv.1" if level else "inc"
        ours |= _two_convolutions(tensors, f"{theirs}.double_conv", f"down.{level}")
    for level in range(depth):
        theirs = f"up{depth - level}"
        ours |= _two_convolutions(tensors, f"{theirs}.conv.double_conv", f"merge.{level}")
        if transposed:
            ours |= {f"up.{level}.{part}": _get(tensors, f"{theirs}.up.{part}") for part in ("weight", "bias")}
    ours |= {f"head.{part}": _get(tensors, f"outc.conv.{part}") for part in ("weight", "bias")}
    if head.shape[0] == 1:  # sigmoid(l) is the softmax of (0, l)
        ours |= {name: torch.cat([torch.zeros_like(ours[name]), ours[name]]) for name in ("head.weight", "head.bias")}
    for name, wanted in network.state_dict().items():
        if ours[name].shape != wanted.shape:
            raise ValueError(f"{name} has the shape {tuple(ours[name].shape)}, and {tuple(wanted.shape)} is wanted in such a U-Net.")
    network.load_state_dict(ours)
    return Model(
        network.eval(),
        settings,
        colour=settings.channels == 3,
        scale=scale,
        normalisation=NormalisationSettings(statistics="experiment"),
        window=np.tile(np.array([[low, high]], np.float32), (settings.channels, 1)),
        record={"name": "weights of the PyTorch U-Net port"},
    )


def _two_convolutions(tensors: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """Rename two convolutions with batch normalisation; a bias that old versions have goes into the running mean."""
    renamed = {}
    for convolution, norm in ((0, 1), (3, 4)):
        renamed[f"{ours}.{convolution}.weight"] = _get(tensors, f"{theirs}.{convolution}.weight")
        for part in ("weight", "bias", "running_mean", "running_var"):
            renamed[f"{ours}.{norm}.{part}"] = _get(tensors, f"{theirs}.{norm}.{part}")
        if (bias := tensors.get(f"{theirs}.{convolution}.bias")) is not None:
            renamed[f"{ours}.{norm}.running_mean"] = renamed[f"{ours}.{norm}.running_mean"] - bias
        counted = tensors.get(f"{theirs}.{norm}.num_batches_tracked")
        renamed[f"{ours}.{norm}.num_batches_tracked"] = torch.tensor(0) if counted is None else counted
    return renamed


def _get(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"The weights lack {name}, so they are not those of the PyTorch U-Net port with batch normalisation.")
    return tensors[name]
