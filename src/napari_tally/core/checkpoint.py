"""An unfinished training in a file: all that is needed to go on after a crash as if nothing had happened.

::

    train(...)  ──▶ Step, Step, Checkpoint, Step ...        save_checkpoint(news, path)        at least every 15 s
                                                                 │
    kill -9, power cut, full disk                                ▼
                                                            load_checkpoint(path)
    train(..., resume=checkpoint)  ◀─────────────────────────────┘            the same batches, the same schedule, the same bits

The file is like a model file: safetensors with a JSON header, whole or not at all, nothing pickled, checked before it is read.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor

from napari_tally.core.channels import parse_choice
from napari_tally.core.devices import choose_device, describe_device
from napari_tally.core.files import require_file, whole_file
from napari_tally.core.images import Image
from napari_tally.core.judge import Comparison, Score
from napari_tally.core.metrics import Mistakes
from napari_tally.core.model_file import Model, build_network, check_size, check_tensors, header_of, parse_header, shorten
from napari_tally.core.plan import TrainingPlan, new_model
from napari_tally.core.samples import TrainingPair
from napari_tally.settings import (
    AugmentationSettings,
    CountingSettings,
    Device,
    NetworkSettings,
    NormalisationSettings,
    TrainingSettings,
    from_dict,
    to_dict,
)

EVERY = 10.0
"""Seconds of training between two checkpoints: with the step and the writing it stays below 15."""
_FORMAT = 2
_KEY = "napari_tally_training"


@dataclass
class Place:
    """Where a training stands: numbers that the loop needs to go on, JSON values all.

    Attributes
    ----------
    phase, step : int
        Phase that is under way (its number) and steps done.
    pace : float
        Share of its time that the last phase needed.
    began, next_validation : float
        Shares of the budget: when the phase began, when it is judged next.
    next_preview, active, skipped : float
        Seconds of work; the share of the budget that was given up.
    flat : tuple
        Of the held-out score: since which step it is watched, at which it was best, and how good.
    learner_steps, bad : int
    gentleness : float
        Steps since the weights were taken; losses that were no number; factor of the learning rate.
    batch, patch : int
        What memory allowed.
    half : bool
        Whether 16-bit arithmetic is used.
    random : dict
        State of the generator that draws the patches, before the next batch.
    resumed : list of int
        Steps at which the training was taken up again.
    last, comparison : dict or None
        The last validation and the comparison with the start.
    """

    phase: int = 0
    step: int = 0
    pace: float = 1.0
    began: float = 0.0
    next_validation: float = 0.0
    next_preview: float = 0.0
    active: float = 0.0
    skipped: float = 0.0
    flat: tuple[int, int, float] = (0, 0, -1.0)
    learner_steps: int = 0
    bad: int = 0
    gentleness: float = 1.0
    batch: int = 0
    patch: int = 0
    half: bool = False
    random: dict[str, Any] = field(default_factory=dict)
    resumed: list[int] = field(default_factory=list)
    last: dict[str, Any] | None = None
    comparison: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """News: the training as it is at this moment.

    Attributes
    ----------
    step : int
    plan : TrainingPlan
    augmentation : AugmentationSettings
    data : str
        Fingerprint of images and labels.
    start : Model or None
        What it began with; None = random weights.
    counting : CountingSettings
        Thresholds as they are now.
    place : Place
    tensors : dict of str to Tensor
        Changed by nobody: ``network.*``, ``average.*``, ``learned.N.*`` (what each fold has learned), ``optimiser.N.*`` (values
        of weight N) and ``random.*`` (states of torch's generators).
    """

    step: int
    plan: TrainingPlan
    augmentation: AugmentationSettings
    data: str
    start: Model | None
    counting: CountingSettings
    place: Place
    tensors: dict[str, Tensor]

    @property
    def fraction(self) -> float:
        """Share of the budget that is used, 0 to 1."""
        s = self.plan.settings
        return min(1.0, self.place.skipped + (self.step / s.steps if s.steps else self.place.active / (60 * s.minutes)))

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Give the tensors whose names begin with `prefix`, without it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def plan_here(self) -> TrainingPlan:
        """Give the plan; on the best device here where its own is not available."""
        try:
            choose_device(self.plan.device)
        except ValueError:
            device = choose_device("auto")
            return dataclasses.replace(self.plan, device=cast(Device, device.type), device_name=describe_device(device))
        return self.plan

    @property
    def learned(self) -> list[dict[str, Tensor]]:
        """Give the weights of the folds that are through."""
        found: list[dict[str, Tensor]] = []
        while weights := self.group(f"learned.{len(found)}."):
            found.append(weights)
        return found

    def model(self) -> Model:
        """Give the model to go on with, as it is now."""
        model = new_model(self.plan, self.start) if self.start is None else self.start.copy()
        model.network.load_state_dict(self.group("average."))
        model.counting = self.counting
        return model


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a checkpoint, whole or not at all; the one before is replaced.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    c = checkpoint
    plan = {f.name: getattr(c.plan, f.name) for f in dataclasses.fields(c.plan)}
    for name in ("network", "settings", "normalisation"):
        plan[name] = to_dict(plan[name])
    plan["channels"] = c.plan.channels.as_dict() if c.plan.channels else None
    plan["window"] = None if c.plan.window is None else c.plan.window.tolist()
    for name in ("diameter", "scale", "memory"):
        plan[name] = None if math.isnan(plan[name]) else float(plan[name])
    header = {
        "format": _FORMAT,
        "plan": plan,
        "augmentation": to_dict(c.augmentation),
        "data": c.data,
        "start": header_of(c.start) if c.start else None,
        "counting": to_dict(c.counting),
        "place": dataclasses.asdict(c.place),
    }
    tensors = dict(c.tensors)
    if c.start:
        tensors |= {f"start.{name}": tensor for name, tensor in c.start.network.state_dict().items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata={_KEY: json.dumps(header)})
    except SafetensorError as error:
        raise OSError(f"{path}: the training cannot be saved here ({error}).") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint. Nothing in it is executed; what it claims is checked before it is read.

    Raises
    ------
    ValueError
        If the file is absent, no unfinished training of this program, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no unfinished training.")
    try:
        check_size(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ValueError("it holds none")
            return _read(path, file, json.loads(metadata[_KEY]))
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: no unfinished training can be read from this file ({shorten(error, 200)}).") from error


def save_pairs(pairs: Sequence[TrainingPair], path: str | Path) -> None:
    """Write images and labels, so that a training can go on without them being opened again; whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    tensors: dict[str, NDArray[Any]] = {}
    about = []
    for i, pair in enumerate(pairs):
        image = pair.image
        tensors |= {f"{i}.planes": np.ascontiguousarray(image.planes), f"{i}.labels": np.ascontiguousarray(pair.labels)}
        size = list(image.pixel_size) if image.pixel_size else None
        voxel = {"pixel_size": size, "axes": image.axes, "steps": image.steps}
        about.append({"name": image.name, "leading": list(image.leading), "colour": image.colour, **voxel})
    try:
        with whole_file(path) as partial:
            save_arrays(tensors, partial, metadata={_KEY: json.dumps(about)})
    except SafetensorError as error:
        raise OSError(f"{path}: the images cannot be kept here ({error}).") from error


def load_pairs(path: str | Path) -> list[TrainingPair]:
    """Read what :func:`save_pairs` wrote.

    Raises
    ------
    ValueError
        If the file is absent or damaged.
    """
    path = Path(path)
    try:
        require_file(path)
        check_size(path)
        with safe_open(path, framework="numpy") as file:
            return [_pair(file, i, one) for i, one in enumerate(json.loads((file.metadata() or {})[_KEY]))]
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: no images of an unfinished training can be read ({shorten(error, 200)}).") from error


def _pair(file: Any, i: int, about: dict[str, Any]) -> TrainingPair:
    planes, labels = file.get_tensor(f"{i}.planes"), file.get_tensor(f"{i}.labels")
    height, width = about["pixel_size"] or (math.nan, math.nan)
    size = (float(height), float(width)) if about["pixel_size"] else None
    if planes.ndim != 4 or planes.dtype.kind not in "uif" or labels.dtype != np.int32 or not planes.size:
        raise ValueError(f"an image of shape {planes.shape}")
    leading = tuple(int(n) for n in about["leading"])
    if math.prod(leading) != len(planes):
        raise ValueError(f"{len(planes)} planes")
    steps = {str(axis): float(step) for axis, step in about.get("steps", {}).items()}
    image = Image(planes, str(about["name"]), leading, about["colour"] is True, size, str(about.get("axes", "")), steps)
    return TrainingPair(image, labels)


def _read(path: Path, file: Any, header: dict[str, Any]) -> Checkpoint:
    if header["format"] != _FORMAT:
        raise ValueError(f"it has format {shorten(header['format'], 20)}, this version reads {_FORMAT}")
    stated = header["plan"]
    window = stated["window"]
    plan = TrainingPlan(
        **stated
        | {
            "network": from_dict(NetworkSettings, stated["network"]),
            "settings": from_dict(TrainingSettings, stated["settings"]),
            "normalisation": from_dict(NormalisationSettings, stated["normalisation"]),
            "channels": parse_choice(stated.get("channels")),
            "window": None if window is None else np.array(window, np.float32).reshape(-1, 2),
            "diameter": _or_nan(stated["diameter"]),
            "scale": float(stated["scale"]),
            "memory": float(stated["memory"]),
            **{name: tuple(stated[name]) for name in ("scales", "seen", "fingerprints", "notes", "cells")},
        }
    )
    if plan.device not in ("cpu", "cuda", "mps"):
        raise ValueError(f"the device {shorten(plan.device, 20)}")
    place = Place(**header["place"])
    _check_place(place)
    with torch.device("meta"):
        network = build_network(plan.network)
    weights = network.state_dict()
    folds = max((int(name.split(".")[1]) + 1 for name in file.keys() if name.startswith("learned.")), default=0)
    for prefix in ("network.", "average.", *(f"learned.{i}." for i in range(min(folds, 2)))):
        check_tensors(path, file, weights, prefix)
    shapes = [tuple(p.shape) for p in network.parameters()]
    for name in file.keys():
        kind, number, *_ = name.split(".")
        part = file.get_slice(name)
        shape = tuple(part.get_shape())
        if kind == "optimiser" and (part.get_dtype() != "F32" or shape not in ((), shapes[int(number)])):
            raise ValueError(f"{name} has the shape {shape}")
        if kind == "random" and (part.get_dtype() != "U8" or len(shape) != 1 or shape[0] > 10_000):
            raise ValueError(f"{name} has the shape {shape}")
        if kind not in ("network", "average", "learned", "start", "optimiser", "random"):
            raise ValueError(f"it holds {shorten(name, 60)}")
    start = None
    if header["start"] is not None:
        described = parse_header(header["start"])
        if described["settings"] != plan.network:
            raise ValueError("the start is another network")
        check_tensors(path, file, weights, "start.")
        start = Model(build_network(plan.network).eval(), **described)
        start.network.load_state_dict({name: file.get_tensor(f"start.{name}") for name in weights})
    return Checkpoint(
        step=place.step,
        plan=plan,
        augmentation=from_dict(AugmentationSettings, header["augmentation"]),
        data=str(header["data"]),
        start=start,
        counting=from_dict(CountingSettings, header["counting"]),
        place=place,
        tensors={name: file.get_tensor(name) for name in file.keys() if not name.startswith("start.")},
    )


def _check_place(place: Place) -> None:
    """Raise an error where the numbers are not of their type, or cannot be."""
    for name in ("phase", "step", "learner_steps", "bad", "batch", "patch"):
        if type(getattr(place, name)) is not int or not 0 <= getattr(place, name) < 2**53:
            raise ValueError(f"{name} is {shorten(getattr(place, name), 40)}")
    for name in ("pace", "began", "next_validation", "next_preview", "active", "skipped", "gentleness"):
        setattr(place, name, float(getattr(place, name)))
        if not 0 <= getattr(place, name) < 1e12:
            raise ValueError(f"{name} is {getattr(place, name)}")
    if not (1 <= place.batch <= 64 and 1 <= place.patch <= 4096 and isinstance(place.half, bool)):
        raise ValueError(f"{place.batch} patches of {place.patch} px")
    began, at, best = place.flat
    place.flat = int(began), int(at), float(best)
    place.resumed = [int(step) for step in place.resumed]
    np.random.default_rng().bit_generator.state = place.random
    for stated in (place.last, place.comparison):
        if stated is not None:
            (to_comparison if "before" in stated else to_score)(stated)


def to_score(stated: dict[str, Any]) -> Score:
    """Build a score from JSON values."""
    values = dict(stated) | {"ap": tuple(float(v) for v in stated["ap"]), "mistakes": Mistakes(**stated["mistakes"])}
    return Score(**{f.name: values[f.name] for f in dataclasses.fields(Score)})


def to_comparison(stated: dict[str, Any]) -> Comparison:
    """Build a comparison from JSON values."""
    return Comparison(int(stated["step"]), to_score(stated["before"]), to_score(stated["after"]), bool(stated.get("is_broad")))


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)
