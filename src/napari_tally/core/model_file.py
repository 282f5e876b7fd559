"""A trained model and its file: weights and everything needed to use them, readable without us, never pickled.

The file is safetensors: a JSON header, then the tensors. Its metadata holds one entry,
``napari_tally``, with the settings and the training record as JSON. What a reader does, in this order::

    size of the header ─▶ JSON ─▶ brought to the format of today ─▶ every field checked ─▶ network without memory (device "meta")
    ─▶ name, shape and type of every tensor as in that network ─▶ only now memory, and the numbers
"""

import errno
import hashlib
import json
import math
import reprlib
import struct
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from napari_tally.core.architectures import build_network
from napari_tally.core.channels import ChannelChoice, parse_choice
from napari_tally.core.files import whole_file
from napari_tally.core.fold import folded
from napari_tally.core.pickled import looks_pickled, require_finite
from napari_tally.core.unet import UNet
from napari_tally.settings import CountingSettings, NetworkSettings, NormalisationSettings, from_dict, to_dict

FORMAT = 4
"""Of the header. 1: until 0.1.0, may lack fields that came later; 2: every field is there; 3: those of volumes too; 4: which channels."""
_SHIPPED = Path(__file__).parents[1] / "weights"
_KEY = "napari_tally"
_LARGEST_HEADER = 16 * 2**20
"""Bytes: as Python objects a header takes up to thirty times as much."""
_DTYPES = {"F32": torch.float32, "I64": torch.int64}
"""Type in a file -> type in memory."""


@dataclass
class Model:
    """A U-Net with what prediction must know about its training.

    Attributes
    ----------
    network : UNet
        Or one of its relatives, see :mod:`napari_tally.core.architectures`. On the CPU, in evaluation mode.
    settings : NetworkSettings
        The shape of the network.
    colour : bool
        Trained on RGB images.
    channels : ChannelChoice or None
        Which channels of the images the network looks at; None = all. :func:`napari_tally.core.predict.seen_by` picks them.
    scale : float
        Network pixels per image pixel; images are resampled by it before the network.
    z_scale : float
        The same across the slices of volumes: network voxels per slice.
    slice_distance : float
        How far the slices of the training volumes were apart, in widths of a pixel.
    diameter : float
        Median diameter of the training cells in image pixels; NaN if unknown.
    any_size : bool
        Not bound to images of one magnification: it estimates how large the cells of an image are. True of the shipped models.
    pixel_size : float or None
        Side of an image pixel in micrometres, where all training images said so. Those of an image of another pixel size are brought to it.
    normalisation : NormalisationSettings
    window : (C, 2) float32 array, or None
        Intensities that become 0 and 1, where the statistics are those of the whole experiment.
    counting : CountingSettings
        Thresholds that fit this model.
    record : dict
        How it was trained: JSON values.
    """

    network: UNet
    settings: NetworkSettings
    colour: bool = False
    scale: float = 1.0
    diameter: float = float("nan")
    any_size: bool = False
    pixel_size: float | None = None
    z_scale: float = 1.0
    slice_distance: float = 1.0
    channels: ChannelChoice | None = None
    window: NDArray[np.float32] | None = None
    normalisation: NormalisationSettings = field(default_factory=NormalisationSettings)
    counting: CountingSettings = field(default_factory=CountingSettings)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def aspect(self) -> float:
        """How many times as thick as wide a voxel of the network is; 1 of a model for planes."""
        return self.slice_distance * self.scale / self.z_scale if self.settings.dimensions == 3 else 1.0

    @property
    def fingerprint(self) -> str:
        """Tells models apart by what decides the labels they give: 16 hexadecimal digits."""
        network, *others = (to_dict(part) for part in (self.settings, self.normalisation, self.counting))
        if self.settings.dimensions == 2:  # as it was before there were volumes: old records know their model
            del network["dimensions"], network["flat"]
        settings = [network, *others]
        window = None if self.window is None else self.window.tolist()
        numbers = [self.scale, self.diameter, self.any_size, self.pixel_size, window]
        if self.settings.dimensions == 3:
            numbers += [self.z_scale, self.slice_distance]
        if self.channels:
            numbers.append(self.channels.as_dict())
        text = json.dumps([settings, self.colour, *numbers], sort_keys=True)
        digest = hashlib.sha256(text.encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def copy(self) -> "Model":
        """Give an independent copy: training one leaves the other as it is."""
        network = deepcopy(self.network).eval()  # building a new one would draw random numbers, and so disturb a training under way
        return replace(self, network=network, record=dict(self.record))

    def folded(self) -> "Model":
        """Give a model that says the same without batch normalisation: as a start it learns better, see :mod:`napari_tally.core.fold`.

        The model itself where there is none, and where it is another architecture than the U-Net.
        """
        if self.settings.architecture != "unet" or not self.settings.batch_norm:
            return self
        settings = replace(self.settings, batch_norm=False)
        return replace(self, settings=settings, network=folded(self.network), record=dict(self.record))


def save_model(model: Model, path: str | Path, half: bool = False) -> None:
    """Write a model file, whole or not at all.

    Parameters
    ----------
    model : Model
    path : str or Path
        Should end in ``.safetensors``. Folders on the way are made; an existing file is replaced.
    half : bool
        Write float32 weights in 16 bits: half the file. Weights from 6e-5 on are off by at most 1 in 2048, smaller ones by 3e-8 (IEEE 754
        binary16).

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If a weight is too large for 16 bits (65504).
    """
    header = header_of(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.dtype == torch.float32 else tensor for name, tensor in tensors.items()}
        if large := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise ValueError(f"{large[0]} has a weight beyond 65504, the largest in 16 bits. Write the model in 32.")
    try:
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata={_KEY: json.dumps(header)})
    except SafetensorError as error:  # how it says that the disk is full
        said = f"the model cannot be written here ({error}); make room there or choose another place"
        raise OSError(errno.EIO, said, str(path)) from error


def header_of(model: Model) -> dict[str, Any]:
    """Describe everything of a model but its weights, as JSON values; :func:`parse_header` reads it.

    Raises
    ------
    ValueError
        If the settings or the record of the model could not be read again.
    """
    header = {
        "format": FORMAT,
        "network": to_dict(model.settings),
        "colour": model.colour,
        "scale": model.scale,
        "diameter": None if model.diameter != model.diameter else model.diameter,
        "any_size": model.any_size,
        "pixel_size": model.pixel_size,
        "z_scale": model.z_scale,
        "slice_distance": model.slice_distance,
        "channels": model.channels.as_dict() if model.channels else None,
        "window": None if model.window is None else model.window.tolist(),
        "normalisation": to_dict(model.normalisation),
        "counting": to_dict(model.counting),
        "record": model.record,
    }
    parse_header(json.loads(json.dumps(header)))  # what is written can be read
    return header


def load_model(path: str | Path) -> Model:
    """Read a model file. Nothing in it is executed; every tensor is checked before it is read.

    Raises
    ------
    ValueError
        If the file is absent, no model of this program, of a newer format, does not fit its own header, or has weights that are no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such model file.")
    try:
        if looks_pickled(path):
            raise ValueError(
                f"{path}: this is not a model file of napari-tally but a pickled file, as PyTorch writes them; "
                "such a file can run any program and is not opened as a model. Models of napari-tally end in .safetensors."
            )
        check_size(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ValueError(f"{path}: this safetensors file is not a model of napari-tally (its metadata has no entry {_KEY!r}).")
            try:
                described = parse_header(json.loads(metadata[_KEY]))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: the header of the model file is damaged ({shorten(error, 200)}).") from error
            with torch.device("meta"):  # shapes without memory
                wanted = build_network(described["settings"]).state_dict()
            check_tensors(path, file, wanted, dtypes=_DTYPES | {"F16": torch.float32})
            network = build_network(described["settings"])
            network.load_state_dict(require_finite(path, {name: file.get_tensor(name).to(like.dtype) for name, like in wanted.items()}))
    except SafetensorError as error:
        raise ValueError(f"{path}: this is not a model file of napari-tally ({error}).") from error
    except OSError as error:  # of the disk, a missing right or folder; the file may be all right
        raise ValueError(f"{path}: the model cannot be loaded here ({error.strerror or error}).") from error
    return Model(network.eval(), **described)


def check_size(path: Path) -> None:
    """Raise a ``ValueError`` if the header of a safetensors file is larger than any of ours."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) == 8 and struct.unpack("<Q", start)[0] > _LARGEST_HEADER:
        raise ValueError(f"{path}: this is not a model file of napari-tally (its header would be larger than 16 MB).")


def check_tensors(
    path: Path, file: Any, wanted: Mapping[str, torch.Tensor], prefix: str = "", dtypes: Mapping[str, torch.dtype] = _DTYPES
) -> None:
    """Raise a ``ValueError`` unless an open safetensors file holds these tensors, by name, shape and type; none is read.

    With a `prefix` only the tensors whose names begin with it count, and their names go on as those wanted. `dtypes` are the types in
    the file that become those wanted.
    """
    names = {name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)}
    if names != set(wanted):
        raise ValueError(f"{path}: the tensors in the file are not those of the network that its header describes.")
    for name, tensor in wanted.items():
        part = file.get_slice(prefix + name)
        if tuple(part.get_shape()) != tuple(tensor.shape) or dtypes.get(part.get_dtype()) != tensor.dtype:
            raise ValueError(f"{path}: {name} is {part.get_dtype()} {part.get_shape()}; {tuple(tensor.shape)} is wanted.")


def shipped_models() -> dict[str, Path]:
    """Find the models inside the package, name -> path."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.safetensors"))}


def find_model(name: str | Path) -> Model:
    """Load a model file, or a shipped model by its name.

    Raises
    ------
    ValueError
        If there is neither; the message lists the shipped names.
    """
    if not Path(name).is_file() and str(name) in shipped_models():  # a folder may well be called nuclei
        return load_model(shipped_models()[str(name)])
    if not Path(name).exists():
        names = ", ".join(shipped_models()) or "none in this version"
        raise ValueError(f"{name}: there is no such model file, and no shipped model of that name (shipped: {names}).")
    return load_model(name)


# ------------------------------------------------------------------ the header


def _from_1(header: dict[str, Any]) -> dict[str, Any]:
    """Format 1 grew: its first files know nothing of pixel sizes, images of any magnification, and windows of an experiment."""
    return {"any_size": False, "pixel_size": None, "window": None} | header


def _from_2(header: dict[str, Any]) -> dict[str, Any]:
    """Format 2 knows planes only."""
    return {"z_scale": 1.0, "slice_distance": 1.0} | header


def _from_3(header: dict[str, Any]) -> dict[str, Any]:
    """Format 3 knows models that look at all channels only."""
    return {"channels": None} | header


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2, 3: _from_3}
"""Format -> what brings a header to the next one. A change of the format adds a step here and leaves the others alone."""


def migrate(header: dict[str, Any]) -> dict[str, Any]:
    """Bring a header of an older format to that of today, one format after the other.

    Raises
    ------
    ValueError
        If it states no format, or one of a newer version of napari-tally.
    """
    known = header.get("format") if isinstance(header, dict) else None
    if not isinstance(known, int) or isinstance(known, bool) or known < 1:
        raise ValueError("no format number")
    if known > FORMAT:
        raise ValueError(f"it has format {known}, this version reads up to {FORMAT}; update napari-tally")
    for number in range(known, FORMAT):
        header = _MIGRATIONS[number](header) | {"format": number + 1}
    return header


def parse_header(header: Any) -> dict[str, Any]:
    """Check a header field by field; give the arguments of :class:`Model` that follow the network.

    Raises
    ------
    ValueError
        Names the first field that is absent, or of the wrong type or range.
    """
    header = migrate(header)
    try:
        settings = from_dict(NetworkSettings, _a(dict, "network", header["network"]))
        normalisation = from_dict(NormalisationSettings, _a(dict, "normalisation", header["normalisation"]))
        window = _parse_window(header["window"], settings.channels)
        if normalisation.statistics == "experiment" and window is None:
            raise ValueError("no intensity window of the experiment")
        channels = parse_choice(header["channels"])
        if channels and len(channels.order) not in (settings.channels, 1 if header["colour"] else settings.channels):
            raise ValueError(f"{channels} for a network of {settings.channels}")
        diameter = _number("a diameter", header["diameter"], 1e-3, 1e6, may_lack=True)
        return {
            "settings": settings,
            "colour": _a(bool, "colour", header["colour"]),
            "scale": _number("a scale", header["scale"], 0.01, 100),
            "diameter": math.nan if diameter is None else diameter,
            "any_size": _a(bool, "any_size", header["any_size"]),
            "pixel_size": _number("a pixel size", header["pixel_size"], 1e-6, 1e6, may_lack=True),
            "z_scale": _number("a scale across slices", header["z_scale"], 0.01, 100),
            "slice_distance": _number("a distance of slices", header["slice_distance"], 0.01, 1000),
            "channels": channels,
            "window": window,
            "normalisation": normalisation,
            "counting": from_dict(CountingSettings, _a(dict, "counting", header["counting"])),
            "record": _check_record(header["record"]),
        }
    except KeyError as error:
        raise ValueError(f"no {error.args[0]}") from error


def _a(kind: type, name: str, value: Any) -> Any:
    """Give `value` if it is of this type."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {_short(value)}, no {_NAMES[kind]}")
    return value


_NAMES = {dict: "group of settings", bool: "true or false"}


def _number(name: str, value: Any, low: float, high: float, may_lack: bool = False) -> float | None:
    """Give a number in a range as float; None, where that may be, as None."""
    if value is None and may_lack:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # also refuses NaN
        raise ValueError(f"{name} of {_short(value)}")
    return float(value)


def _parse_window(value: Any, channels: int) -> NDArray[np.float32] | None:
    if value is None:
        return None
    rows: list[Any] = value if isinstance(value, list) else []
    if len(rows) != channels or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise ValueError(f"an intensity window of {_short(value)}")
    window = np.array([[_number("an intensity", v, -1e30, 1e30) for v in row] for row in rows], np.float32)
    if not (window[:, 1] > window[:, 0]).all():
        raise ValueError(f"an intensity window of {_short(value)}")
    return window


_RECORD: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "trained": (str,),
    "start": (str,),
    "licence": (str,),
    "device": (str,),
    "data": (str,),
    "cells": (int,),
    "steps": (int,),
    "seconds": (int, float),
    "images": (list,),
    "seen": (list,),
    "annotated": (list,),
    "plan": (list,),
    "versions": (dict,),
    "training": (dict,),
    "augmentation": (dict,),
    "validation": (dict, type(None)),
    "comparison": (dict, type(None)),
}
"""What is known of the training record. Any of it may be absent, and more may be there."""


def _check_record(record: Any) -> dict[str, Any]:
    """Give the training record if what is known of it has the right types: others read it without looking."""
    if not isinstance(record, dict):
        raise ValueError("no record")
    for name, kinds in _RECORD.items():
        if name not in record:
            continue
        value: Any = record[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"the record says {_short(value)} for {name}")
        parts = list(value.values()) if isinstance(value, dict) and name == "versions" else value if isinstance(value, list) else []
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(f"the record says {_short(value)} for {name}")
    return record


def _short(value: Any) -> str:
    return shorten(reprlib.repr(value), 60)  # repr() would first write out all of it


def shorten(text: object, most: int) -> str:
    """Cut a text from a file to what fits into a sentence."""
    text = str(text)
    return text if len(text) <= most else text[: most - 3] + "..."
