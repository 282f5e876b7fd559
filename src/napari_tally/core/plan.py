"""What training will do: the user's wishes and the data, resolved into one frozen plan before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from napari_tally.core.annotations import cells_go_through
from napari_tally.core.architectures import ARCHITECTURES, build_network
from napari_tally.core.cell_types import require_types
from napari_tally.core.channels import ChannelChoice, choose_channels, pick_channels
from napari_tally.core.devices import choose_device, describe_device, free_memory
from napari_tally.core.estimate import PATCH, network_for, training_memory
from napari_tally.core.images import Image, require_same_channels
from napari_tally.core.intensity import experiment_window
from napari_tally.core.model_file import Model
from napari_tally.core.samples import Plane, TrainingPair, prepare_planes, prepare_volumes, volumes_of
from napari_tally.core.sizes import resolve_sizes, smallest_body, z_scale_for
from napari_tally.core.unet import UNet
from napari_tally.core.words import number
from napari_tally.settings import (
    LARGEST_MIN_AREA,
    CountingSettings,
    Device,
    NetworkSettings,
    NormalisationSettings,
    TrainingSettings,
)

_ON_GPU = 4
"""Patches a step on a GPU, as in pretraining: one would leave most of it idle. Fewer where the memory is little."""
_PATCH_3D = 48
"""Side of a training patch of volumes in network pixels: three cells."""
_OF_FREE = 0.8
"""Part of the free memory that patches are made to fit."""


@dataclass(frozen=True)
class TrainingPlan:
    """What training will do: the settings of the user and the data, resolved. Pure and frozen.

    Attributes
    ----------
    network : NetworkSettings
    colour : bool
    scale : float
        Network pixels per image pixel; of images that state different pixel sizes, per pixel of `pixel_size`.
    diameter : float
        Median cell diameter in the same pixels.
    cells : tuple of int
        Cells that are drawn in each image.
    settings : TrainingSettings
        Without the zeros that mean "by preset".
    device : str
        Device for torch.
    device_name : str
        Device for people.
    scales : tuple of float
        The same for each image, per pixel of its own. They differ where `any_size`, and where the pixel sizes do.
    any_size : bool
        The cells differ so much in size from image to image that each image is brought to the size that the start knows; at
        prediction the model estimates it.
    pixel_size : float or None
        Side of a pixel in micrometres, where all images state one. Where they differ, the middle one; None for the paper preset
        and a start that knows any size.
    seen : tuple of int
        Places of the images that the start model was trained on: they cannot judge it.
    fingerprints : tuple of str
        Those of the images, taken once: the record needs them at every event.
    n_planes : int
        Planes of all images together.
    pixels : float
        Those of all images together, in network pixels.
    memory : float
        Estimated memory that training takes, in bytes.
    normalisation : NormalisationSettings
    window : (C, 2) float32 array, or None
        Intensities that become 0 and 1, where the statistics are those of the experiment.
    notes : tuple of str
        What the user should know before he starts, in plain words.
    z_scale : float
        Of volumes, network voxels per slice.
    slice_distance : float
        How far slices are apart, in widths of a pixel.
    slices : int
        Slices of a training patch in network voxels; 0 = patches are planes.
    channels : ChannelChoice or None
        Which channels of the images the network looks at; None = all.
    """

    network: NetworkSettings
    colour: bool
    scale: float
    diameter: float
    cells: tuple[int, ...]
    settings: TrainingSettings
    device: Device
    device_name: str
    scales: tuple[float, ...] = ()
    any_size: bool = False
    pixel_size: float | None = None
    seen: tuple[int, ...] = ()
    fingerprints: tuple[str, ...] = ()
    n_planes: int = 0
    pixels: float = 0.0
    memory: float = 0.0
    normalisation: NormalisationSettings = NormalisationSettings()
    window: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    z_scale: float = 1.0
    slice_distance: float = 1.0
    slices: int = 0
    channels: ChannelChoice | None = None

    @property
    def n_images(self) -> int:
        """How many images are annotated."""
        return len(self.cells)

    @property
    def n_cells(self) -> int:
        """How many cells are drawn in all of them."""
        return sum(self.cells)

    @property
    def aspect(self) -> float:
        """How many times as thick as wide a voxel of the network is; 1 of planes."""
        return self.slice_distance * self.scale / self.z_scale if self.network.dimensions == 3 else 1.0


def plan_training(
    pairs: Sequence[TrainingPair],
    settings: TrainingSettings,
    start: Model | None = None,
) -> TrainingPlan:
    """Resolve the wishes of the user and the data into one plan.

    Parameters
    ----------
    pairs : sequence of TrainingPair
    settings : TrainingSettings
        0 for patch, batch and learning rate means "by preset".
    start : Model, optional
        The model to go on from; it fixes the network. The scale follows the cells where they are of another size.

    Raises
    ------
    ValueError
        If there is nothing to learn from, the channels differ or are not there, or the device is not there.
    """
    if not pairs:
        raise ValueError("There is no annotated image to train on.")
    choice = choose_channels(settings.channels, [pair.image for pair in pairs], start.channels if start else None)
    looked_at = [pair.image for pair in as_seen(choice, pairs)]
    channels, colour = require_same_channels(looked_at)
    in_3d = dimensions_for(pairs, settings, start) == 3
    cells, notes = _drawn(pairs, in_3d)
    sizes = resolve_sizes(pairs, settings, start, in_3d)
    notes += sizes.notes
    if start is None:
        usual = network_for(settings, in_3d)
        network = replace(usual, channels=channels, flat=min(usual.depth, sizes.flat))
    else:
        _require_network(start, settings)
        are_colours = colour or bool(choice and choice.colour)
        fits = (start.settings.channels == channels and (are_colours or not start.colour)) or (start.colour and channels == 1)
        network = start.settings if fits else replace(start.settings, channels=channels)
        colour = start.colour if fits else colour
    network = _with_types(network, pairs, settings, in_3d)
    fingerprints = tuple(pair.image.fingerprint for pair in pairs)
    known = set(start.record.get("seen", ())) if start else set()
    seen = tuple(place for place, mark in enumerate(fingerprints) if mark in known)
    own = start.normalisation if start else NormalisationSettings()
    normalisation = own if settings.statistics == "auto" else replace(own, statistics=settings.statistics)
    if start is not None:
        notes += _changes_of(start, network, colour, choice, normalisation, len(seen))
    architecture = ARCHITECTURES[network.architecture]
    if not architecture.exact:
        notes.append(f"The {architecture.title} looks at all of a tile at once: large images are approximate, and blended, where two meet.")
    device = choose_device(settings.device)
    pixels = sum(pair.labels.size * own**2 * sizes.z_scale for pair, own in zip(pairs, sizes.scales, strict=True))
    most = max(1, round(sizes.z_scale * max(pair.image.slices for pair in pairs))) if in_3d else 0
    patches = _Patches(network, pixels, most, z_step=sizes.z_scale / sizes.slice_distance / sizes.scale)
    size, slices, batch, memory = patches.within(free := free_memory(device), settings, on_gpu=device.type == "cuda")
    if memory > free:
        takes = f"Training takes about {memory / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free."
        notes.append(f"{takes} Take smaller patches, fewer a step, or fewer images.")
    paper = settings.preset == "paper"
    rate = settings.learning_rate or (1e-4 if paper else 1e-3 if start and start.record else 2e-3)
    balance = 1.0 if paper else settings.class_balance
    return TrainingPlan(
        network=network,
        colour=colour,
        scale=sizes.scale,
        diameter=sizes.diameter,
        cells=cells,
        settings=replace(settings, patch=size, batch=batch, learning_rate=rate, class_balance=balance),
        device=cast(Device, device.type),
        device_name=describe_device(device),
        scales=sizes.scales,
        any_size=sizes.any_size,
        pixel_size=sizes.pixel_size,
        seen=seen,
        fingerprints=fingerprints,
        n_planes=sum(len(pair.image.planes) for pair in pairs),
        pixels=pixels,
        memory=memory,
        normalisation=normalisation,
        window=_window_of(looked_at, normalisation, network.channels) if normalisation.statistics == "experiment" else None,
        notes=tuple(notes),
        z_scale=sizes.z_scale,
        slice_distance=sizes.slice_distance,
        slices=slices,
        channels=choice,
    )


def _drawn(pairs: Sequence[TrainingPair], in_3d: bool) -> tuple[tuple[int, ...], list[str]]:
    """Count the cells of each image, with remarks on them; raise a ``ValueError`` if nothing can be learned from them."""
    parts = (volumes_of(pair.labels, pair.image.slices if in_3d else 1) for pair in pairs)
    cells = tuple(sum(len(np.unique(part[part > 0])) for part in own) for own in parts)
    if not any(cells):
        raise ValueError(f"No cell is drawn in {len(pairs)} image(s). Draw at least a handful of cells, then train.")
    notes = []
    if not any((pair.labels == 0).any() for pair in pairs):
        if not all(map(_fill_it, pairs)):
            raise ValueError("Every annotated pixel is a cell; the network must see background too. Mark a region around some cells.")
        notes.append("Cells fill all that is annotated, so no background is learned: where an image has some, cells may be found in it.")
    if sum(cells) < 20:
        notes.append(f"Only {number(sum(cells), 'cell')} drawn: from about 50 on the model becomes dependable.")
    return cells, notes


def _with_types(network: NetworkSettings, pairs: Sequence[TrainingPair], settings: TrainingSettings, in_3d: bool) -> NetworkSettings:
    """Give the network as many types of cells as are asked for; raise a ``ValueError`` if it cannot have them or they are not drawn."""
    types = settings.types or network.types
    if network.types not in (1, types):
        raise ValueError(f"The start model tells {network.types} types of cells apart and {types} are asked for; leave the types at 0.")
    if in_3d and types > 1:
        raise ValueError("Types of cells are told apart in planes only, not yet in volumes. Ask for 1 type, or for '2-D'.")
    if types > 1:
        require_types([pair.labels for pair in pairs], types, settings.ids_per_type)
    return replace(network, types=types, classes=network.classes + types - network.types)


def _changes_of(
    start: Model, network: NetworkSettings, colour: bool, choice: ChannelChoice | None, normalisation: NormalisationSettings, seen: int
) -> list[str]:
    """Say what becomes of the start model that the user may not expect."""
    notes = []
    if start.settings.channels != network.channels:
        notes.append(f"The start model knows {start.settings.channels} channel(s); its first layer is adapted to {network.channels}.")
    elif colour != start.colour:
        notes.append("The start model knows red, green and blue; it learns that these are three other channels.")
    if start.channels and choice != start.channels:
        now = str(choice) if choice else "all channels"
        notes.append(f"The start model has learned {start.channels}; from now on it looks at {now}.")
    if seen:
        notes.append(
            f"The start model has learned {seen} of these images already, so they cannot judge it. "
            "For numbers that hold, train from a model that has not seen them."
        )
    own = start.normalisation
    if normalisation != own:
        notes.append(f"The start model knows brightness by the {own.statistics}; from now on it is by the {normalisation.statistics}.")
    return notes


@dataclass(frozen=True)
class _Patches:
    """Which patches a network can be trained on.

    `pixels` are those of all images, in network pixels; `most` slices are there, 0 = of planes; patches of volumes have `z_step`
    slices per pixel of their side.
    """

    network: NetworkSettings
    pixels: float
    most: int
    z_step: float

    def within(self, free: float, settings: TrainingSettings, on_gpu: bool) -> tuple[int, int, int, float]:
        """Give side, slices and number of patches a step, and the memory of training: what is left to us shrinks to the free memory."""
        paper = settings.preset == "paper"
        usual = (132 if paper else _PATCH_3D) if self.most else 572 if paper else PATCH
        batch = settings.batch or (_ON_GPU if on_gpu and not paper else 1)
        size, slices, memory = self.at_least(settings.patch or usual, batch)
        while memory > _OF_FREE * free:
            if not settings.batch and batch > 1:
                batch //= 2
            elif settings.patch or self.at_least(size // 2, batch)[0] == size:
                break
            else:
                size //= 2
            size, slices, memory = self.at_least(size, batch)
        return size, slices, batch, memory

    def at_least(self, side: int, batch: int) -> tuple[int, int, float]:
        """Give the side and the slices of the smallest patch of at least `side` that the network takes, and the memory of training."""
        meta = build_meta_network(self.network)
        size = meta.input_size(max(side, 2 * meta.step), of_output=False)  # batch normalisation wants more than one pixel
        slices = meta.axes[0].input_size(max(2, min(self.most, round(side * self.z_step))), of_output=False) if self.most else 0
        return size, slices, training_memory(self.network, size, batch, self.pixels, slices)


def _window_of(images: Sequence[Image], normalisation: NormalisationSettings, channels: int) -> NDArray[np.float32]:
    """Give the window of the experiment for each channel of the network: grey images stand for all of a network for colour."""
    return np.array(np.broadcast_to(experiment_window(images, normalisation), (channels, 2)))


def dimensions_for(pairs: Sequence[TrainingPair], settings: TrainingSettings, start: Model | None = None) -> int:
    """Decide between planes and volumes: as the start, else as the user wishes, else volumes where cells go through the slices.

    Raises
    ------
    ValueError
        If the start is of the other kind than what is asked for, or there are no volumes.
    """
    wish = {"2-D": 2, "3-D": 3}.get(settings.dimensions, 0)
    if start is not None:
        own = start.settings.dimensions
        if wish not in (0, own):
            kinds = {2: "planes (2-D)", 3: "volumes (3-D)"}
            raise ValueError(
                f"The start model is one for {kinds[own]}, and {settings.dimensions} is asked for. Start from nothing (random weights)."
            )
        wish = own
    elif not wish:
        usual = settings.preset == "quick" and settings.architecture in ("auto", "unet") and settings.types <= 1
        volumes = usual and bool(pairs) and all(cells_go_through(pair.labels, pair.image.slices) for pair in pairs)
        wish = 3 if volumes else 2
    if wish == 3:
        for pair in pairs:
            if pair.image.slices < 2:
                raise ValueError(f"{pair.image.name} is no z-stack, and volumes are to be learned (3-D). Leave it out, or choose '2-D'.")
    return wish


def _fill_it(pair: TrainingPair) -> bool:
    """Whether cells end at other cells, as in a tissue without gaps, more than where nothing is known."""
    at_cells = at_unknown = 0
    for axis in (-2, -1):
        one, other = np.moveaxis(pair.labels, axis, 0)[:-1], np.moveaxis(pair.labels, axis, 0)[1:]
        at_cells += int(((one != other) & (one > 0) & (other > 0)).sum())
        at_unknown += int(((one > 0) != (other > 0)).sum())
    return at_cells > at_unknown


def _require_network(start: Model, settings: TrainingSettings) -> None:
    """Raise a ``ValueError`` if another network is asked for than that of the start."""
    for wish, name in ((settings.architecture, "architecture"), (settings.depth, "depth"), (settings.base_width, "base_width")):
        own = getattr(start.settings, name)
        if wish not in ("auto", 0, own):
            raise ValueError(
                f"The start model has the {name.replace('_', ' ')} {own} and {wish} is asked for. "
                "Start from nothing (random weights), or leave the network as it is."
            )


def prepare(plan: TrainingPlan, pairs: Sequence[TrainingPair], scales: Sequence[float] = ()) -> list[Plane]:
    """Bring images to what the network learns from: planes, or volumes where it is one for volumes.

    Parameters
    ----------
    plan : TrainingPlan
    pairs : sequence of TrainingPair
    scales : sequence of float, optional
        Network pixels per image pixel, for each pair. Left out: those of the plan, whose pairs these are then.

    Returns
    -------
    list of Plane
        Those where anything is annotated.
    """
    s, scales, pairs = plan.settings, scales or plan.scales, as_seen(plan.channels, pairs)
    how = plan.normalisation, s.border_weight, s.border_width, plan.window
    if plan.network.dimensions == 3:
        both = [(z_scale_for(plan, pair.image, scale, s.slice_distance), scale) for pair, scale in zip(pairs, scales, strict=True)]
        return prepare_volumes(pairs, plan.network.channels, both, plan.aspect, *how)
    return prepare_planes(pairs, plan.network.channels, scales, *how, s.ids_per_type if plan.network.types > 1 else 0)


def as_seen(choice: ChannelChoice | None, pairs: Sequence[TrainingPair]) -> list[TrainingPair]:
    """Give pairs with the channels alone that a network looks at."""
    return [replace(pair, image=pick_channels(choice, pair.image)) for pair in pairs]


def build_meta_network(settings: NetworkSettings) -> UNet:
    """Build a network without memory, to ask for sizes."""
    with torch.device("meta"):
        return build_network(settings)


def build_unseen(settings: NetworkSettings) -> UNet:
    """Build a network whose random weights will be replaced; no other chance is disturbed."""
    with torch.random.fork_rng(devices=()):
        return build_network(settings)


def new_model(plan: TrainingPlan, start: Model | None = None) -> Model:
    """Build the model to train: a copy of `start`, its first layer adapted to the channels, or random weights.

    The seed of the plan decides which random weights.
    """
    if start is not None:
        model = start.copy()
        if (plan.network, plan.colour) != (start.settings, start.colour):
            model.settings, model.colour = plan.network, plan.colour
            model.network = _adapted(start, plan.network)
        counting = counting_at(start.counting, start, plan)
        return replace(model, normalisation=plan.normalisation, window=plan.window, counting=counting, channels=plan.channels)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(plan.settings.seed)
        network = build_network(plan.network)
    usual = CountingSettings()
    counting = replace(usual, smoothing=usual.smoothing / plan.scale, min_area=usual.min_area / max(1.0, plan.scale) ** 2)
    if plan.network.dimensions == 3:
        counting = replace(counting, min_area=smallest_body(plan.scale, plan.z_scale))
    shape = plan.network, plan.colour, plan.scale, plan.diameter
    model = Model(network.eval(), *shape, normalisation=plan.normalisation, window=plan.window, counting=counting)
    return replace(model, z_scale=plan.z_scale, slice_distance=plan.slice_distance, channels=plan.channels)


def counting_at(counting: CountingSettings, of: Model | TrainingPlan, at: Model | TrainingPlan) -> CountingSettings:
    """Give thresholds for pixels of another size, so that they mean the same on the network's."""
    larger = of.scale / at.scale
    size = larger**2 * of.z_scale / at.z_scale
    return replace(counting, smoothing=counting.smoothing * larger, min_area=min(LARGEST_MIN_AREA, counting.min_area * size))


def _adapted(start: Model, settings: NetworkSettings) -> UNet:
    """Give the network for other channels or more types of cells, so that it says what it said.

    Each channel gets the mean of the old ones, so that grey gives the same. Each type gets the old class "inside" and an equal share of
    its probability.
    """
    network = build_unseen(settings)
    weights, wanted = start.network.state_dict(), network.state_dict()
    old, types = start.settings, settings.types
    for name, tensor in weights.items():
        if tensor.ndim > 1 and tensor.shape[1] != wanted[name].shape[1]:  # (maps, old channels, 3, 3)
            tensor = tensor.mean(1, keepdim=True).expand_as(wanted[name]) * old.channels / settings.channels
        if tensor.shape[:1] != wanted[name].shape[:1]:  # the last layer: (old classes, ...)
            tensor = tensor[[0, *[1] * types, *range(2, old.classes)]].clone()
            if tensor.ndim == 1:
                tensor[1 : types + 1] -= math.log(types)
        weights[name] = tensor
    network.load_state_dict(weights)
    return network.eval()
