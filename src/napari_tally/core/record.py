"""The run record: all that it takes to get the same labels again, or to explain why they differ.

::

    predict ──▶ record.json ──▶ replay: is the model the same? the images? the versions, the device?
                                        predict again, compare to the pixel

Prediction draws no random numbers, so there is no seed but that of the training, which the model carries.

The record also says which label images of a folder belong to the tables in it: those of an earlier run may lie beside them, and what was
changed by hand after it was counted is found by its fingerprint.
"""

import json
import math
import platform
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PureWindowsPath
from typing import Any

import napari_tally
from napari_tally.core.architectures import ARCHITECTURES
from napari_tally.core.devices import choose_device, describe_device
from napari_tally.core.files import whole_file
from napari_tally.core.find import find_cells
from napari_tally.core.image_files import list_images, read_image
from napari_tally.core.images import Image
from napari_tally.core.label_files import fingerprint_labels, read_labels
from napari_tally.core.model_file import Model, find_model
from napari_tally.core.predict import TileDone
from napari_tally.core.prediction import Prediction
from napari_tally.core.stated import require
from napari_tally.settings import CountingSettings, PredictionSettings, RuleSettings, from_dict, to_dict

FORMAT = 1
NAME = "record.json"
_KEY = "napari_tally_record"
BY_HAND = "corrected by hand"
"""What stands in the remarks on an image whose labels are no longer those that were predicted."""
_PACKAGES = ("torch", "numpy", "scipy", "scikit-image")


@dataclass
class RunRecord:
    """What was done, with what, to which images: JSON values.

    Attributes
    ----------
    content : dict
        As it stands in the file: versions, platform, device, model (name, path, fingerprint, training; null where label images were
        counted as they were), settings, images (name, path, fingerprint of the pixels, shape, pixel size, zoom, cells found, label file
        and fingerprint of the labels, remarks), failed (images that could not be counted: name, path and reason).
    """

    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        model: Model,
        name: str,
        settings: PredictionSettings,
        counting: CountingSettings,
        rules: RuleSettings | None = None,
    ) -> "RunRecord":
        """Begin the record of a run.

        Parameters
        ----------
        model : Model
        name : str
            Its file, the name of a shipped model, or words for one that is not saved.
        settings, counting, rules
            How cells are found, and which count.
        """
        training: dict[str, Any] = {
            key: model.record[key] for key in ("name", "trained", "steps", "start", "start_kept") if key in model.record
        }
        training["seed"] = model.record.get("training", {}).get("seed")
        made = cls.of_labels(rules or RuleSettings())
        made.content["device"] = describe_device(choose_device(settings.device))
        network = ARCHITECTURES[model.settings.architecture]
        made.content["model"] = {
            "name": name,
            "path": str(Path(name).resolve()) if Path(name).is_file() else None,
            "fingerprint": model.fingerprint,
            "network": f"{network.title} ({network.source})",
            "training": training,
        }
        made.content["settings"] = {"prediction": to_dict(settings), "counting": to_dict(counting)} | made.content["settings"]
        return made

    @classmethod
    def of_labels(cls, rules: RuleSettings) -> "RunRecord":
        """Begin the record of a count of label images that are there already."""
        return cls(
            {
                _KEY: FORMAT,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": versions(),
                "platform": platform.platform(),
                "device": None,
                "model": None,
                "settings": {"rules": to_dict(rules)},
                "images": [],
                "failed": [],
            }
        )

    def add(
        self, image: Image, path: str | Path | None, found: Prediction, labels_file: str | None = None, remarks: tuple[str, ...] = ()
    ) -> None:
        """Note what was found in an image; see :meth:`note`."""
        self.content["images"].append(self.note(image, path, found, labels_file, remarks))

    @staticmethod
    def note(
        image: Image,
        path: str | Path | None,
        found: Prediction,
        labels_file: str | None = None,
        remarks: tuple[str, ...] = (),
        labels_fingerprint: str = "",
        fingerprint: str = "",
    ) -> dict[str, Any]:
        """Give the note on what was found in an image; `labels_file` is relative to the record.

        The fingerprints of the labels and of the pixels are computed, unless they are given.
        """
        return {
            "name": image.name,
            "path": None if path is None else str(Path(path).resolve()),
            "fingerprint": fingerprint or image.fingerprint,
            "shape": list(image.shape),
            "pixel_size": None if image.pixel_size is None else list(image.pixel_size),
            "zoom": found.zoom,
            "found": found.cells,
            "labels": labels_file,
            "labels_fingerprint": labels_fingerprint or fingerprint_labels(found.labels, image.shape),
            "remarks": [remark for remark in remarks if remark],
        }

    def pass_over(self, path: Path, reason: str) -> None:
        """Note that an image could not be counted, and why."""
        self.content["failed"].append({"name": path.stem, "path": str(path.resolve()), "reason": reason})

    def write(self, folder: str | Path) -> Path:
        """Write record.json into a folder, whole or not at all."""
        path = Path(folder) / NAME
        with whole_file(path) as partial:
            text = json.dumps(self.content, indent=1, ensure_ascii=False) + "\n"
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # of a name that is no text: as JSON escapes it
        return path


_MODEL = {"name": str, "path": str | None, "fingerprint": str, "training": dict}
_ENTRY = {
    **{"name": str, "path": str | None, "fingerprint": str, "shape": list, "found": int},
    **{"labels": str | None, "labels_fingerprint": str, "remarks": list},
}
"""Fields of a record, and of what kind they are."""


@dataclass(frozen=True)
class Replayed:
    """News: an image was predicted again.

    Attributes
    ----------
    name : str
    same : bool
        The labels are those of the record, to the pixel.
    pixels : int or None
        Pixels that differ; None where they cannot be compared.
    cells : tuple of int or None
        Cells in the record and now; None where the image could not be predicted.
    why : tuple of str
        What is not as it was, in words, and so explains a difference.
    """

    name: str
    same: bool
    pixels: int | None
    cells: tuple[int, int] | None
    why: tuple[str, ...]


def versions() -> dict[str, str]:
    """Give the versions of what takes part in a prediction."""
    return {
        "napari-tally": napari_tally.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def read_record(path: str | Path) -> RunRecord:
    """Read a record, or that of a folder of results.

    Raises
    ------
    ValueError
        If there is none, or the file is no record of this program.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path}: there is no such record. 'predict' writes {NAME} into the folder of results.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get(_KEY), int):
            raise ValueError(f"no entry {_KEY}")
        if content[_KEY] > FORMAT:
            raise ValueError(f"format {content[_KEY]}, this version reads up to {FORMAT}; update napari-tally")
        for key, kind in (("model", dict | None), ("settings", dict), ("images", list), ("versions", dict)):
            if not isinstance(content[key], kind):
                raise ValueError(f"no {key}")
        predicted = {"prediction": PredictionSettings, "counting": CountingSettings} if content["model"] else {}
        for key, cls in ({"rules": RuleSettings} | predicted).items():
            content["settings"][key] = to_dict(from_dict(cls, content["settings"][key]))  # what is left out has its default
        if not all(isinstance(part, dict) for part in content["settings"].values()):
            raise ValueError("settings that are no group of settings")
        require(content, {"created": str, "device": str | None}, "a run")
        require(content["versions"], dict.fromkeys(("napari-tally", "torch"), str), "versions")
        if content["model"] is not None:
            require(content["model"], _MODEL, "the model")
        for entry in require({"failed": []} | content, {"failed": list}, "a run")["failed"]:
            require(entry, {"name": str}, "an image that failed")
        for entry in content["images"]:
            require(entry, _ENTRY, "an image")
            if not all(isinstance(n, int) for n in entry["shape"]):
                raise ValueError("an image whose shape is no list of whole numbers")
            place = PureWindowsPath(entry["labels"] or "")  # knows both kinds of slashes
            if place.anchor or ".." in place.parts:
                raise ValueError("labels outside of its folder")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: this is no run record of napari-tally ({error}).") from error
    return RunRecord(content)


def recorded_labels(folder: str | Path) -> tuple[dict[str, Path], list[str]]:
    """Find the label images of a study.

    Parameters
    ----------
    folder : str or Path
        Of results, the folder `labels` in it, or any folder of label images. Where there is a record, what it names is taken.

    Returns
    -------
    dict of str to Path
        The label images by their stems.
    list of str
        Label images beside them that the record does not name: of another run.

    Raises
    ------
    ValueError
        If there are none, or one that the record names is gone.
    """
    folder = Path(folder)
    if (results := _recorded(folder)) is None:
        return list_images(folder / "labels" if (folder / "labels").is_dir() else folder), []
    named = [results / entry["labels"] for entry in read_record(results).content["images"] if entry["labels"]]
    for path in named:
        if not path.exists():
            raise ValueError(f"{path}: these labels are gone; the record of {results} names them. Predict or count again.")
    known, own = {path.resolve() for path in named}, results / "labels"
    beside = [path for suffix in (".tif", ".zarr") for path in sorted(own.glob(f"[!.]*{suffix}"))]  # as we write them
    return {path.stem: path for path in named}, [path.name for path in beside if path.resolve() not in known]


def changed_labels(folder: str | Path) -> list[str]:
    """Name the images whose labels are others than when they were counted: mended by hand, or gone."""
    folder = Path(folder)
    return [
        entry["name"]
        for entry in read_record(folder).content["images"]
        if entry["labels"] and print_of(folder / entry["labels"], entry["shape"]) != entry["labels_fingerprint"]
    ]


def print_of(path: Path, shape: Sequence[int]) -> str:
    """Give the fingerprint of a label image as that of an image of this shape ("" = it is gone): OME-Zarr may hold several axes as one."""
    if not path.exists():
        return ""
    labels = read_labels(path)
    return fingerprint_labels(labels, shape if labels.size == math.prod(shape) else None)


def replay(
    path: str | Path, images: str | Path | None = None, model: str | Path | None = None
) -> Generator[TileDone | Replayed, None, bool]:
    """Do again what a record says, and compare.

    Parameters
    ----------
    path : str or Path
        The record, or its folder.
    images : str or Path, optional
        A folder to look for the images in, by name, where they are no longer at their place.
    model : str or Path, optional
        Use this model file, or shipped model, in place of the one that the record names.

    Yields
    ------
    TileDone, Replayed

    Returns
    -------
    bool
        Whether all labels are the same to the pixel.

    Raises
    ------
    ValueError
        If the record or the model cannot be read.
    """
    content, path = read_record(path).content, Path(path)
    folder = path if path.is_dir() else path.parent
    wanted = content["model"]
    if wanted is None:
        raise ValueError(f"{path}: these labels were counted as they were, not predicted, so there is nothing to predict again.")
    place = str(model or wanted["path"] or wanted["name"])
    network = find_model(place)
    settings = from_dict(PredictionSettings, content["settings"]["prediction"])
    counting = from_dict(CountingSettings, content["settings"]["counting"])
    rules = from_dict(RuleSettings, content["settings"]["rules"])
    why = _differences(content, network, Path(place).name, settings)
    others = list_images(images) if images else {}
    all_same = True
    for entry in content["images"]:
        replayed = yield from _again(entry, network, settings, counting, rules, folder, others, why)
        all_same = all_same and replayed.same
        yield replayed
    return all_same


def _differences(content: Mapping[str, Any], model: Model, name: str, settings: PredictionSettings) -> tuple[str, ...]:
    """Say what is not as it was when the record was made, apart from the images."""
    found = []
    if model.fingerprint != content["model"]["fingerprint"]:
        found.append(f"the model {name} is another one than {content['model']['name']} at the time ({content['model']['fingerprint']})")
    now = versions()
    changed = [f"{name} {then} then, {now.get(name, 'absent')} now" for name, then in content["versions"].items() if then != now.get(name)]
    found += [f"other versions: {', '.join(changed)}"] if changed else []
    device = describe_device(choose_device(settings.device))
    if device.split(" (")[0] != str(content.get("device")).split(" (")[0]:
        found.append(f"another device: {content.get('device')} then, {device} now")
    return tuple(found)


def _again(
    entry: Mapping[str, Any],
    model: Model,
    settings: PredictionSettings,
    counting: CountingSettings,
    rules: RuleSettings,
    folder: Path,
    others: Mapping[str, Path],
    why: tuple[str, ...],
) -> Generator[TileDone, None, Replayed]:
    """Predict one image again."""
    name = entry["name"]
    place = others.get(name) or (Path(entry["path"]) if entry["path"] else None)
    if place is None or not place.exists():
        where = f"is no longer at {place}" if place else "was in no file"
        return Replayed(name, False, None, None, (f"the image {where}; say in which folder it is", *why))
    try:
        image = read_image(place)
        if image.fingerprint != entry["fingerprint"]:
            why = (f"the pixels of {place.name} are others than at the time", *why)
        found = yield from find_cells(model, image.calibrated(rules.pixel_size), settings, counting)
    except ValueError as error:
        return Replayed(name, False, None, None, (str(error), *why))
    same = fingerprint_labels(found.labels) == entry["labels_fingerprint"]
    pixels, file = 0 if same else None, folder / entry["labels"] if entry["labels"] else None
    if same and file and file.exists() and print_of(file, entry["shape"]) != entry["labels_fingerprint"]:
        why = (f"{file.name} in the folder was changed since", *why)
    if not same and file and file.exists():
        then = read_labels(file)
        then = then.reshape(found.labels.shape) if then.size == found.labels.size else then
        if fingerprint_labels(then) == entry["labels_fingerprint"] and then.shape == found.labels.shape:
            pixels = int((then != found.labels).sum())
    if not same and any(BY_HAND in str(remark) for remark in entry.get("remarks") or ()):
        why = (f"the cells were {BY_HAND} after they were predicted, which a prediction does not repeat", *why)
    if not same and not why:
        why = ("no reason is known: model, image, versions and kind of device are those of the record",)
    return Replayed(name, same, pixels, (entry["found"], found.cells), why)


def recorded_images(folder: str | Path) -> dict[str, Path]:
    """Give where the images of a study were, by the stems of their label images; {} where there is no record."""
    results = _recorded(Path(folder))
    entries = read_record(results).content["images"] if results else []
    return {Path(entry["labels"]).stem: Path(entry["path"]) for entry in entries if entry["labels"] and entry["path"]}


def _recorded(folder: Path) -> Path | None:
    """Find the folder of results that has the record of a folder, where there is one."""
    results = next((place for place in (folder, folder.parent) if (place / NAME).is_file()), None)
    return results if folder == results or folder.name == "labels" else None
