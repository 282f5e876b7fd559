"""A trained model and its file: weights and everything needed to use them, readable without us, never pickled.

The file is safetensors: a JSON header, then the tensors. Its metadata holds one entry,
``napari_tally``, with the settings and the training record as JSON.
"""

import hashlib
import json
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
from napari_tally.core.unet import UNet
from napari_tally.settings import CountingSettings, NetworkSettings, NormalisationSettings, check, from_dict, to_dict

FORMAT = 1
WELL_KNOWN = (0.65, 1.6)
"""Cells so many times as large as those that a model knows best need no scaling."""
_SHIPPED = Path(__file__).parents[1] / "weights"
_KEY = "napari_tally"
_DTYPES = {"F32": torch.float32, "I64": torch.int64}


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
    scale : float
        Network pixels per image pixel; images are resampled by it before the network.
    diameter : float
        Median diameter of the training cells in image pixels; NaN if unknown.
    any_size : bool
        Not bound to images of one magnification: it estimates how large the cells of an image are. True of the shipped models.
    pixel_size : float or None
        Side of a pixel of the training images in micrometres, where known and the same for all.
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
    window: NDArray[np.float32] | None = None
    normalisation: NormalisationSettings = field(default_factory=NormalisationSettings)
    counting: CountingSettings = field(default_factory=CountingSettings)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Tells models apart by what decides the labels they give: 16 hexadecimal digits."""
        settings = [to_dict(part) for part in (self.settings, self.normalisation, self.counting)]
        window = None if self.window is None else self.window.tolist()
        text = json.dumps([settings, self.colour, self.scale, self.diameter, self.any_size, self.pixel_size, window], sort_keys=True)
        digest = hashlib.sha256(text.encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def copy(self) -> "Model":
        """Give an independent copy: training one leaves the other as it is."""
        network = deepcopy(self.network).eval()  # building a new one would draw random numbers, and so disturb a training under way
        return replace(self, network=network, record=dict(self.record))


def save_model(model: Model, path: str | Path) -> None:
    """Write a model file, whole or not at all.

    Parameters
    ----------
    model : Model
    path : str or Path
        Should end in ``.safetensors``. Folders on the way are made; an existing file is replaced.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    for settings in (model.settings, model.normalisation, model.counting):
        check(settings)  # what is written can be read
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
        "network": to_dict(model.settings),
        "colour": model.colour,
        "scale": model.scale,
        "diameter": None if model.diameter != model.diameter else model.diameter,
        "any_size": model.any_size,
        "pixel_size": model.pixel_size,
        "window": None if model.window is None else model.window.tolist(),
        "normalisation": to_dict(model.normalisation),
        "counting": to_dict(model.counting),
        "record": model.record,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    partial = path.with_name(path.name + ".part")
    try:
        save_file(tensors, partial, metadata={_KEY: json.dumps(header)})
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path}: the model cannot be written here ({error}). Choose another place.") from error


def load_model(path: str | Path) -> Model:
    """Read a model file. Nothing in it is executed; every tensor is checked before it is read.

    Raises
    ------
    ValueError
        If the file is absent, no model of this program, of a newer format, or does not fit its own header.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such model file.")
    try:
        with safe_open(path, framework="pt") as file:
            header = _parse_header(path, file.metadata() or {})
            with torch.device("meta"):  # shapes without memory
                wanted = build_network(header["network"]).state_dict()
            names = set(file.keys())
            if names != set(wanted):
                raise ValueError(f"{path}: the tensors in the file are not those of the network that its header describes.")
            for name, tensor in wanted.items():
                part = file.get_slice(name)
                if tuple(part.get_shape()) != tuple(tensor.shape) or _DTYPES.get(part.get_dtype()) != tensor.dtype:
                    raise ValueError(f"{path}: {name} is {part.get_dtype()} {part.get_shape()}; {tuple(tensor.shape)} is wanted.")
            network = build_network(header["network"])
            network.load_state_dict({name: file.get_tensor(name) for name in names})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: this is not a model file of napari-tally ({error}).") from error
    return Model(
        network=network.eval(),
        settings=header["network"],
        colour=header["colour"],
        scale=header["scale"],
        diameter=float("nan") if header["diameter"] is None else header["diameter"],
        any_size=header["any_size"],
        pixel_size=header["pixel_size"],
        window=header["window"],
        normalisation=header["normalisation"],
        counting=header["counting"],
        record=header["record"],
    )


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
    if not Path(name).exists() and str(name) in shipped_models():
        return load_model(shipped_models()[str(name)])
    if not Path(name).exists():
        names = ", ".join(shipped_models()) or "none in this version"
        raise ValueError(f"{name}: there is no such model file, and no shipped model of that name (shipped: {names}).")
    return load_model(name)


def _parse_window(value: Any, channels: int) -> NDArray[np.float32] | None:
    if value is None:
        return None
    window = np.array(value, np.float32)
    if window.shape != (channels, 2) or not np.isfinite(window).all() or not (window[:, 1] > window[:, 0]).all():
        raise ValueError(f"an intensity window of {value}")
    return window


def _parse_header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Check the JSON header field by field."""
    if _KEY not in metadata:
        raise ValueError(f"{path}: this safetensors file is not a model of napari-tally (its metadata has no entry {_KEY!r}).")
    try:
        header = json.loads(metadata[_KEY])
        if not isinstance(header, dict) or not isinstance(header.get("format"), int):
            raise ValueError("no format number")
        if header["format"] > FORMAT:
            raise ValueError(f"it has format {header['format']}, this version reads up to {FORMAT}; update napari-tally")
        header["network"] = from_dict(NetworkSettings, header["network"])
        header["normalisation"] = from_dict(NormalisationSettings, header["normalisation"])
        header["counting"] = from_dict(CountingSettings, header["counting"])
        header["scale"], header["colour"] = float(header["scale"]), bool(header["colour"])
        if not 0.01 <= header["scale"] <= 100:
            raise ValueError(f"a scale of {header['scale']}")
        for name in ("diameter", "pixel_size"):
            header[name] = None if header.get(name) is None else float(header[name])
        header["any_size"] = bool(header.get("any_size", False))
        header["window"] = _parse_window(header.get("window"), header["network"].channels)
        if header["normalisation"].statistics == "experiment" and header["window"] is None:
            raise ValueError("no intensity window of the experiment")
        if not isinstance(header["record"], dict):
            raise ValueError("no record")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: the header of the model file is damaged ({error}).") from error
    return header
