"""What training will do: the user's wishes and the data, resolved into one frozen plan before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from napari_tally.core.devices import choose_device, describe_device
from napari_tally.core.images import require_same_channels
from napari_tally.core.model_file import Model, build_network
from napari_tally.core.samples import TrainingPair, cell_diameter
from napari_tally.core.unet import UNet
from napari_tally.settings import PAPER_NETWORK, NetworkSettings, TrainingSettings


@dataclass(frozen=True)
class TrainingPlan:
    """What training will do: the settings of the user and the data, resolved. Pure and frozen.

    Attributes
    ----------
    network : NetworkSettings
    colour : bool
    scale : float
        Network pixels per image pixel.
    diameter : float
        Median cell diameter in image pixels.
    n_images, n_cells : int
        What is annotated.
    settings : TrainingSettings
        Without the zeros that mean "by preset".
    device : str
        Device for torch.
    device_name : str
        Device for people.
    notes : tuple of str
        What the user should know before he starts, in plain words.
    """

    network: NetworkSettings
    colour: bool
    scale: float
    diameter: float
    n_images: int
    n_cells: int
    settings: TrainingSettings
    device: str
    device_name: str
    notes: tuple[str, ...] = ()


def plan_training(pairs: Sequence[TrainingPair], settings: TrainingSettings, start: Model | None = None) -> TrainingPlan:
    """Resolve the wishes of the user and the data into one plan.

    Parameters
    ----------
    pairs : sequence of TrainingPair
    settings : TrainingSettings
        0 for patch, batch and learning rate means "by preset".
    start : Model, optional
        The model to go on from; it fixes the network, the channels and the scale.

    Raises
    ------
    ValueError
        If there is nothing to learn from, the channels differ, or the device is not there.
    """
    if not pairs:
        raise ValueError("There is no annotated image to train on.")
    channels, colour = require_same_channels([pair.image for pair in pairs])
    n_cells = sum(len(np.unique(p[p > 0])) for pair in pairs for p in pair.labels.reshape(-1, *pair.labels.shape[-2:]))
    if not n_cells:
        raise ValueError(f"No cell is drawn in {len(pairs)} image(s). Draw at least a handful of cells, then train.")
    if not any((pair.labels == 0).any() for pair in pairs):
        raise ValueError("Every annotated pixel is a cell; the network must see background too. Mark a region around some cells.")
    diameter = cell_diameter(pairs)
    notes = []
    if n_cells < 20:
        notes.append(f"Only {n_cells} cells are drawn; from about 50 on the model becomes dependable.")
    paper = settings.preset == "paper"
    if start is not None:
        if start.settings.channels != channels and not (start.colour and channels == 1):
            raise ValueError(
                f"The model to start from takes {start.settings.channels} channel(s) and the images have {channels}. "
                "Start from another model, or from none."
            )
        network, scale, colour = start.settings, start.scale, start.colour
    else:
        network = replace(PAPER_NETWORK if paper else NetworkSettings(), channels=channels)
        scale = 1.0 if paper else _working_scale(diameter)
    device = choose_device(settings.device)
    chosen = replace(
        settings,
        patch=settings.patch or (572 if paper else 160),
        batch=settings.batch or 1,
        learning_rate=settings.learning_rate or (1e-4 if paper else 2e-3),
        class_balance=1.0 if paper else settings.class_balance,
    )
    meta = build_meta_network(network)
    size = meta.input_size(max(chosen.patch, 2 * meta.step), of_output=False)  # batch normalisation wants more than one pixel
    return TrainingPlan(
        network=network,
        colour=colour,
        scale=scale,
        diameter=diameter,
        n_images=len(pairs),
        n_cells=n_cells,
        settings=replace(chosen, patch=size),
        device=device.type,
        device_name=describe_device(device),
        notes=tuple(notes),
    )


def _working_scale(diameter: float) -> float:
    """Shrink images of large cells to cells of 24 px: the network sees more of their surroundings, for less work."""
    return max(0.02, 24 / diameter) if diameter > 30 else 1.0


def build_meta_network(settings: NetworkSettings) -> UNet:
    """Build a network without memory, to ask for sizes."""
    with torch.device("meta"):
        return build_network(settings)


def new_model(plan: TrainingPlan) -> Model:
    """Build a model with random weights; the seed of the plan decides which."""
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(plan.settings.seed)
    network = build_network(plan.network)
    torch.random.set_rng_state(generator_state)
    return Model(network.eval(), plan.network, plan.colour, plan.scale, plan.diameter)
