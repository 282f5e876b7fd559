"""A model for planes becomes the beginning of one for volumes, so that a few minutes of training are enough.

::

    3x3 kernel  ─▶  3x3x3: zeros, the kernel, zeros       every slice is seen as before, and what lies above and below
    2x2 up      ─▶  2x2x2: the same twice                 is learned from there on

References
----------
J. Carreira, A. Zisserman, CVPR 2017, section 2.4 (inflating networks; they spread the kernel over all slices).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from napari_tally.core.model_file import Model
from napari_tally.core.plan import build_unseen
from napari_tally.core.samples import TrainingPair
from napari_tally.core.sizes import resolve_sizes, smallest_body
from napari_tally.settings import TrainingSettings


def inflated(model: Model, pairs: Sequence[TrainingPair], settings: TrainingSettings) -> Model:
    """Make a model for volumes like these of one for planes.

    Parameters
    ----------
    model : Model
        Its network is a U-Net that keeps the size of the image; it stays as it is.
    pairs : sequence of TrainingPair
        Of z-stacks; they decide the size of the voxels.
    settings : TrainingSettings

    Raises
    ------
    ValueError
        If the model has another network.
    """
    if model.settings.architecture != "unet" or model.settings.padding != "same":
        raise ValueError("Only a U-Net with the padding 'same' can become a model for volumes. Start from nothing (random weights).")
    sizes = resolve_sizes(pairs, replace(settings, preset="quick"), None, in_3d=True)  # it is not the paper's network
    new = replace(model.settings, dimensions=3, flat=min(model.settings.depth, sizes.flat))
    network = build_unseen(new)
    wanted = network.state_dict()
    network.load_state_dict({name: _thicker(tensor, wanted[name]) for name, tensor in model.network.state_dict().items()})
    smallest = smallest_body(sizes.scale, sizes.z_scale)
    counting = replace(model.counting, smoothing=round(model.counting.smoothing * model.scale / sizes.scale, 2), min_area=smallest)
    record = {key: value for key, value in model.record.items() if key in ("seen", "licence")}
    name = model.record.get("name") or model.record.get("trained") or "a model"
    return Model(
        network.eval(),
        new,
        model.colour,
        sizes.scale,
        sizes.diameter if math.isfinite(sizes.diameter) else model.diameter,
        z_scale=sizes.z_scale,
        slice_distance=sizes.slice_distance,
        channels=model.channels,
        normalisation=model.normalisation,
        window=model.window,
        counting=counting,
        record=record | {"name": f"{name}, for volumes"},
    )


def _thicker(tensor: Tensor, wanted: Tensor) -> Tensor:
    """Give a kernel for planes the shape of one for volumes; anything else as it is."""
    if tensor.ndim == wanted.ndim:
        return tensor
    if wanted.shape[2] == 3:
        thick = torch.zeros_like(wanted)
        thick[:, :, 1] = tensor
        return thick
    return tensor[:, :, None].expand_as(wanted).clone()
