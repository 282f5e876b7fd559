"""Packages of the BioImage Model Zoo (format 0.5), out and in.

::

    raw image ─▶ scale_range (our percentiles) ─▶ clip -1..4 ─▶ U-Net ─▶ softmax ─▶ probabilities, cut by the halo
                 or scale_linear (one window for the experiment)

What the format cannot say, and the README of the package does: the floor under the range of an empty image (its noise is not
stretched into cells), the resampling to the size of cells that the network knows, and how probabilities become cells. All of it
stands under ``config: napari_tally`` too, so that a package that comes back is the same model.

A foreign package is read without running anything in it: its text is YAML that builds no objects, its weights are a pickle that
:mod:`napari_tally.core.pickled` reads or refuses, and its Python file is never opened.
"""

import hashlib
import json
import math
import re
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

import napari_tally
from napari_tally.core import unet, variants
from napari_tally.core.export.onnx import OPSET, export_onnx, require_planes, require_zoo
from napari_tally.core.files import whole_file
from napari_tally.core.images import Image
from napari_tally.core.model_file import Model, build_network, header_of, parse_header, shorten
from napari_tally.core.pickled import read_state_dict
from napari_tally.core.predict import seen_by
from napari_tally.core.rescale import rescale, scaled_shape
from napari_tally.settings import NetworkSettings, from_dict, to_dict

_FROM_MONAI = ("nnu-net", "unet++", "swin-unetr")
_EPS = 1e-6
_LARGEST_TEXT = 2**20
"""Bytes of the text of a package; most have 10 kB."""
_DEEPEST = 100
_LARGEST_WEIGHTS = 2**31
_SMALL, _PACKED = 2**26, 50
"""What unfolds to so many bytes, and so many times what lies in the zip, is no file of weights: those hardly pack at all."""


@dataclass(frozen=True)
class Description:
    """What a zoo wants to know of a model.

    Attributes
    ----------
    name, text : str
        Title (5 to 64 characters) and a sentence.
    authors : tuple of str
    licence : str
        SPDX identifier of the licence of the weights, for example ``CC-BY-4.0``.
    """

    name: str = "Cells by napari-tally"
    text: str = "A U-Net that finds cells in microscope images: background, inside of a cell, rim of a cell."
    authors: tuple[str, ...] = ("not stated",)
    licence: str = "CC-BY-4.0"


# ------------------------------------------------------------------ out


def export_package(model: Model, path: str | Path, image: Image, about: Description | None = None) -> None:
    """Write a package for the BioImage Model Zoo: a zip with state dict, ONNX, and an input with its output to test by.

    Parameters
    ----------
    model : Model
    path : str or Path
        Should end in ``.zip``.
    image : Image
        An image like those that the model is for; a part of it goes into the package.
    about : Description, optional

    Raises
    ------
    ValueError
        If the extra ``[zoo]`` is not installed, the image has other channels than the model, or the description does not do.
    OSError
        If the file cannot be written.
    """
    require_planes(model)
    require_zoo()
    import yaml

    about = about or Description()
    if model.settings.architecture in _FROM_MONAI:
        raise ValueError("This network needs the package monai, which the programs that read packages do not have; export it as ONNX.")
    if not 5 <= len(about.name) <= 64:
        raise ValueError(f"The title {shorten(about.name, 80)!r} has {len(about.name)} characters; the zoo wants 5 to 64.")
    if not re.fullmatch(r"[A-Za-z0-9.+-]+", about.licence) or not any(c in about.licence for c in "-0123456789") and about.licence != "MIT":
        raise ValueError(
            f"The licence {shorten(about.licence, 40)!r} is no SPDX identifier, such as CC-BY-4.0, CC0-1.0, MIT or BSD-3-Clause."
        )
    raw = _test_input(model, image)
    with tempfile.TemporaryDirectory() as name, whole_file(path) as partial:
        folder = Path(name)
        np.save(folder / "test_input.npy", raw)
        np.save(folder / "test_output.npy", _through(model, raw))
        torch.save(model.network.state_dict(), folder / "weights.pt")
        export_onnx(model, folder / "weights.onnx", softmax=False)
        (folder / "unet.py").write_text(_source(model), encoding="utf-8")
        (folder / "README.md").write_text(_readme(model, about), encoding="utf-8")
        _cover(raw, folder / "cover.png")
        text = yaml.safe_dump(_describe(model, about, folder), sort_keys=False, allow_unicode=True)
        (folder / "rdf.yaml").write_text(text, encoding="utf-8")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as package:
            for file in sorted(folder.iterdir()):
                package.write(file, file.name)


def _test_input(model: Model, image: Image) -> NDArray[np.float32]:
    """Cut the middle out of an image at the scale of the network: (1, C, Y, X), raw intensities."""
    if image.channels > 1:
        image = seen_by(model, image)
    plane = rescale(image.planes[len(image.planes) // 2].astype(np.float32), scaled_shape(image.planes.shape, model.scale))
    plane = np.broadcast_to(plane, (model.settings.channels, *plane.shape[1:]))
    side = _sizes(model)[0]
    missing = [max(0, side - n) for n in plane.shape[1:]]
    plane = np.pad(plane, ((0, 0), *((0, n) for n in missing)), mode="symmetric")
    y, x = ((n - side) // 2 for n in plane.shape[1:])
    return np.ascontiguousarray(plane[None, :, y : y + side, x : x + side], np.float32)


def _source(model: Model) -> str:
    """Give the network as one file that imports only torch."""
    text = Path(unet.__file__).read_text(encoding="utf-8")
    if type(model.network) is unet.UNet:
        return text
    relatives = Path(variants.__file__).read_text(encoding="utf-8")
    return text + re.sub(r"^from napari_tally\.core\.unet import .*$", "", relatives, flags=re.MULTILINE)


def _kwargs(settings: NetworkSettings) -> dict[str, Any]:
    """Give what the class of the network takes."""
    wishes = to_dict(settings)
    architecture = wishes.pop("architecture")
    del wishes["types"]
    if architecture != "unet":
        del wishes["padding"]
    return wishes


def _classes(settings: NetworkSettings) -> list[str]:
    """Name the output channels."""
    rim = settings.classes - settings.types == 2
    inside = [f"type{i + 1}" for i in range(settings.types)] if settings.types > 1 else ["inside" if rim else "cell"]
    return ["background", *inside, *(["rim"] if rim else [])]


def _sizes(model: Model) -> tuple[int, int]:
    """Give the smallest side of an input and the step to the next: what is left without the halo must not be nothing."""
    network = model.network
    if network.lost:
        return network.input_size(64), network.step
    return math.ceil((2 * network.margin + 2 * network.step) / network.step) * network.step, network.step


def _through(model: Model, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Do what a program does that follows the package."""
    if model.window is None:
        n = model.normalisation
        low, high = (np.percentile(raw, p, axis=(2, 3), keepdims=True) for p in (n.low, n.high))
        normal = (raw - low) / (high - low + _EPS)
    else:
        low, high = (model.window[:, i].astype(float)[None, :, None, None] for i in (0, 1))
        normal = raw * (1 / (high - low)) - low / (high - low)
    picture = torch.from_numpy(np.clip(normal, -1, 4).astype(np.float32))
    with torch.no_grad():
        return model.network(picture).softmax(1).numpy()


def _describe(model: Model, about: Description, folder: Path) -> dict[str, Any]:
    """Give the text of the package (https://bioimage-io.github.io/spec-bioimage-io, model 0.5) as JSON values."""
    network, settings, n = model.network, model.settings, model.normalisation
    smallest, step = _sizes(model)
    place = {"unit": "micrometer", "scale": model.pixel_size / model.scale} if model.pixel_size else {}

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}

    def channels(names: list[str]) -> list[dict[str, Any]]:
        return [{"type": "batch"}, {"type": "channel", "channel_names": names}]

    def output_axis(axis: str) -> dict[str, Any]:
        halo = {} if network.lost else {"halo": network.margin}  # "valid": what the border would spoil is not given out at all
        size = {"tensor_id": "image", "axis_id": axis, "offset": -2 * network.lost}
        return {"type": "space", "id": axis, "size": size, **halo, **place}

    if model.window is None:
        percentiles = {"min_percentile": float(n.low), "max_percentile": float(n.high)}
        normalise: dict[str, Any] = {"id": "scale_range", "kwargs": {"axes": ["y", "x"], **percentiles, "eps": _EPS}}
    else:
        low, high = model.window.astype(float).T
        kwargs = {"axis": "channel", "gain": (1 / (high - low)).tolist(), "offset": (-low / (high - low)).tolist()}
        normalise = {"id": "scale_linear", "kwargs": kwargs}
    numbers = [n - 1 for n in model.channels.order] if model.channels else range(settings.channels)
    colours = ["red", "green", "blue"] if model.colour else [f"channel{i}" for i in numbers]
    sizes = {"min": smallest, "step": step}
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": about.name,
        "description": about.text,
        "authors": [{"name": name} for name in about.authors],
        "cite": [
            {"text": "Ronneberger et al., U-Net, MICCAI 2015", "doi": "10.1007/978-3-319-24574-4_28"},
            {"text": "Falk et al., U-Net: deep learning for cell counting, Nature Methods 2019", "doi": "10.1038/s41592-018-0261-2"},
        ],
        "license": about.licence,
        "documentation": "README.md",
        "covers": ["cover.png"],
        "tags": ["unet", "segmentation", "cells", "2d", "napari-tally"],
        "inputs": [
            {
                "id": "image",
                "axes": [*channels(colours), *({"type": "space", "id": axis, "size": sizes, **place} for axis in "yx")],
                "test_tensor": file("test_input.npy"),
                "preprocessing": [normalise, {"id": "clip", "kwargs": {"min": -1.0, "max": 4.0}}],
            }
        ],
        "outputs": [
            {
                "id": "probabilities",
                "axes": [*channels(_classes(settings)), output_axis("y"), output_axis("x")],
                "test_tensor": file("test_output.npy"),
                "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
            }
        ],
        "weights": {
            "pytorch_state_dict": {
                **file("weights.pt"),
                "architecture": {**file("unet.py"), "callable": type(network).__name__, "kwargs": _kwargs(settings)},
                "pytorch_version": torch.__version__.split("+")[0],
            },
            "onnx": {**file("weights.onnx"), "opset_version": OPSET, "parent": "pytorch_state_dict"},
        },
        "config": {"napari_tally": json.loads(json.dumps(header_of(model)))},
    }


def _readme(model: Model, about: Description) -> str:
    known = model.diameter == model.diameter
    size = f"about {model.diameter * model.scale:.0f} px across" if known else "of the size in the training images"
    c, n, record = model.counting, model.normalisation, model.record
    return f"""# {about.name}

{about.text}

A 2-D U-Net (Ronneberger et al. 2015) trained with napari-tally {napari_tally.__version__} on {len(record.get("images", []))} images
with {record.get("cells", "an unknown number of")} cells. Its output are probabilities; in napari-tally they become cells where
the probability of the inside exceeds {c.seed_threshold}, told apart where it falls by {c.valley} between them.

## Before

- The network knows cells {size}: resample images so that cells have this size
  (in napari-tally this happens by itself).{_which_channels(model)}
- Each channel is brought to 0..1 between its percentiles {n.low} and {n.high}. napari-tally never makes this
  range narrower than {n.noise:g} standard deviations of the camera noise, so that an empty image stays empty; this format cannot say so.

## Validation

{_validation(model)}
"""


def _which_channels(model: Model) -> str:
    return f"\n- The network looks at {model.channels}, counted from 1: give it these alone." if model.channels else ""


def _validation(model: Model) -> str:
    found = model.record.get("validation")
    if not isinstance(found, dict) or not isinstance(found.get("f1"), int | float):
        return "Nothing was held out: compare with your own eyes."
    return f"On held-out cells: F1 = {found['f1']:.2f} at IoU 0.5, counted {found.get('predicted_count')} of {found.get('true_count')}."


def _cover(raw: NDArray[np.float32], path: Path) -> None:
    plane = raw[0].mean(0)
    low, high = np.percentile(plane, (1, 99.8))
    grey = (np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1) * 255).astype(np.uint8)
    side = 2 * max(grey.shape)
    Picture.fromarray(grey).resize((side, side)).save(path)


# ------------------------------------------------------------------ in


def import_package(path: str | Path) -> Model:
    """Read a package of the zoo whose weights fit our network; nothing in it is run.

    Parameters
    ----------
    path : str or Path
        A zip.

    Raises
    ------
    ValueError
        If it is no such package, holds no state dict, or one of another network; one sentence.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    try:
        with zipfile.ZipFile(path) as package:
            text = _member(
                package, next((n for n in ("rdf.yaml", "bioimageio.yaml") if n in package.namelist()), "rdf.yaml"), _LARGEST_TEXT
            )
            stated = _parse(text)
            entry = stated["weights"]["pytorch_state_dict"]
            described = _described(stated, entry)
            weights = _member(package, str(entry["source"]), _LARGEST_WEIGHTS)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: this is no package of the BioImage Model Zoo ({shorten(error, 100)}).") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: the package holds no PyTorch state dict of a U-Net that we know ({shorten(error, 100)}).") from error
    except ValueError as error:
        raise ValueError(f"{path}: the package cannot be used ({shorten(error, 200)}).") from error
    with torch.device("meta"):
        wanted = build_network(described["settings"]).state_dict()

    def fits(found: Any) -> None:
        if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in wanted.items()}:
            raise ValueError(f"{path}: the weights are those of another network than ours, so they cannot be used.")

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights.pt").write_bytes(weights)
        try:
            tensors = {name: tensor.clone() for name, tensor in read_state_dict(Path(folder) / "weights.pt", fits).items()}
        except ValueError as error:
            raise ValueError(str(error).replace(str(Path(folder) / "weights.pt"), f"{path}, weights")) from error
    network = build_network(described["settings"])
    network.load_state_dict(tensors)
    return Model(network.eval(), **described)


def _member(package: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """Read a file of a zip into memory, if it is there and no larger than it may be; no path is made of its name."""
    info = package.getinfo(str(PurePosixPath(name)))
    if info.file_size > min(largest, max(_SMALL, _PACKED * info.compress_size)):
        raise ValueError(f"{shorten(name, 60)} is larger than it may be: its {info.compress_size} bytes claim to be {info.file_size}")
    with package.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise ValueError(f"{shorten(name, 60)} is damaged")
    return content


def _parse(text: bytes) -> dict[str, Any]:
    """Read YAML that builds nothing but texts, numbers, lists and dicts."""
    try:
        import yaml
    except ImportError as error:
        raise ValueError('this needs the extra "zoo": pip install "napari-tally[zoo]"') from error

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where there is one
    try:
        _require_small(yaml.parse(text, loader))
        stated = yaml.load(text, loader)  # builds no objects either way
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"its text cannot be read: {shorten(' '.join(str(error).split()), 100)}") from error
    if not isinstance(stated, dict):
        raise ValueError("its text describes nothing")
    return stated


def _require_small(events: Iterable[Any]) -> None:
    """Raise a ``ValueError`` where a YAML text is nested deeply, or large with all its aliases written out.

    An alias stands for a part of the text, and that may hold more of them, so a kilobyte may unfold into gigabytes. Plain ones are in
    many packages, ours too.
    """
    import yaml

    size, sizes, around = 0, dict[Any, int](), list[tuple[Any, int]]()
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            size += sizes.get(event.anchor, _LARGEST_TEXT)  # not known yet: the part holds itself
            if size > _LARGEST_TEXT:
                raise ValueError(f"its text is too large with the YAML alias *{shorten(event.anchor, 40)}; write out what it stands for")
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1 + len(event.value)
            size += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, size))
            size += 1
            if len(around) > _DEEPEST:
                raise ValueError(f"its text cannot be read: it is nested more than {_DEEPEST} times")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = around.pop()
            sizes[anchor] = size - before


def _described(stated: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """Give the arguments of :class:`Model` that follow the network: as we wrote them, or as far as a foreign package says."""
    ours = (stated.get("config") or {}).get("napari_tally")
    if ours is not None:
        return parse_header(ours)
    architecture = entry["architecture"]
    settings = from_dict(NetworkSettings, dict(architecture.get("kwargs") or {}))
    return {"settings": settings, "colour": False, "record": {"name": str(stated.get("name", ""))[:100]}}
