"""Every choice a user can make, with its default, unit, range and meaning: the ground floor.

The same frozen dataclasses are the form in the window, the options of the command
line and the record inside the model file, so a setting is described once. The
dictionary in each ``Annotated`` is read by magicgui (label, bounds, tooltip) and by
``cli/`` (help text); "zero" is the word that a form shows for 0 or nothing, "pattern" what a text
must be like and "wanted" how to say so. Nothing here imports torch, numpy or Qt.

The names of the Fiji U-Net plugin (Falk et al. 2019) that users know stand in the tooltips.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Device = Literal["auto", "cpu", "cuda", "mps"]
Preset = Literal["quick", "paper"]
Architecture = Literal["unet", "res-unet", "attention-unet", "nnu-net", "unet++", "swin-unetr", "unet-bilinear"]
Dimensions = Literal["auto", "2-D", "3-D"]
Loss = Literal["cross-entropy", "binary-cross-entropy", "dice", "bce-dice", "focal", "tversky"]


@dataclass(frozen=True)
class NetworkSettings:
    """The shape of the network. See :class:`napari_tally.core.unet.UNet` and :mod:`napari_tally.core.architectures`."""

    architecture: Annotated[
        Architecture, {"label": "Architecture", "tooltip": "The U-Net of the paper, or one of its relatives; see 'How it works'."}
    ] = "unet"

    channels: Annotated[
        int, {"min": 1, "max": 64, "label": "Channels", "tooltip": "Channels of the image: 1 = grey, 3 = colour (RGB)."}
    ] = 1
    classes: Annotated[
        int,
        {
            "min": 2,
            "max": 34,
            "label": "Classes",
            "tooltip": "2 = background and cell, as in the paper; 3 = background, cell and the rim where it meets others. "
            "Each further type of cells is one more.",
        },
    ] = 3
    types: Annotated[int, {"min": 1, "max": 32, "label": "Cell types", "tooltip": "Kinds of cells that the network tells apart."}] = 1
    depth: Annotated[
        int,
        {"min": 1, "max": 6, "label": "Depth", "tooltip": "How often the image is halved on the way down (paper: 4)."},
    ] = 4
    base_width: Annotated[int, {"min": 2, "max": 128, "label": "Base width", "tooltip": "Feature maps at full resolution (paper: 64)."}] = (
        16
    )
    padding: Annotated[
        Literal["same", "valid"],
        {"label": "Padding", "tooltip": "'valid' is the paper: the output is smaller than the input. 'same' keeps the size."},
    ] = "same"
    batch_norm: Annotated[bool, {"label": "Batch normalisation", "tooltip": "Steadier in volumes; the paper has none."}] = True
    upsampling: Annotated[
        Literal["transposed", "linear"],
        {"label": "Upsampling", "tooltip": "'transposed' = learned 2x2 up-convolution (paper), 'linear' = interpolation."},
    ] = "transposed"
    dropout: Annotated[
        float,
        {"min": 0.0, "max": 0.9, "step": 0.05, "label": "Dropout", "tooltip": "At the end of the contracting path (paper: 0.5)."},
    ] = 0.0
    dimensions: Annotated[
        int, {"min": 2, "max": 3, "label": "Dimensions", "tooltip": "2 = planes, each seen by itself; 3 = volumes, seen as a whole."}
    ] = 2
    flat: Annotated[
        int,
        {
            "min": 0,
            "max": 6,
            "label": "Flat levels",
            "tooltip": "In 3-D, so many halvings, from the first on, leave z alone: where slices are farther apart than pixels.",
        },
    ] = 0


PAPER_NETWORK = NetworkSettings(classes=2, depth=4, base_width=64, padding="valid", batch_norm=False, dropout=0.5)
"""The network of Ronneberger et al. 2015, figure 1: 572x572 in, 388x388 out, 31.0 M parameters."""


@dataclass(frozen=True)
class NormalisationSettings:
    """How intensities are brought to one scale. See :func:`napari_tally.core.intensity.intensity_window`."""

    statistics: Annotated[
        Literal["image", "experiment"],
        {
            "label": "Brightness",
            "tooltip": "'image': every image is judged by its own range of intensities, so exposure may vary. 'experiment': all by the "
            "range of the training images, so a dim image stays dim; for images taken with the same settings.",
        },
    ] = "image"
    low: Annotated[
        float, {"min": 0.0, "max": 50.0, "step": 0.1, "label": "Low (%)", "tooltip": "Percentile of the image that becomes 0."}
    ] = 1.0
    high: Annotated[
        float, {"min": 50.0, "max": 100.0, "step": 0.1, "label": "High (%)", "tooltip": "Percentile of the image that becomes 1."}
    ] = 99.8
    noise: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1000.0,
            "step": 1.0,
            "label": "Noise floor (×)",
            "tooltip": "The range from 0 to 1 spans at least so many standard deviations of the camera noise, "
            "so that the noise of an empty image is not stretched into cells.",
        },
    ] = 10.0


@dataclass(frozen=True)
class AugmentationSettings:
    """How training patches are varied. See :mod:`napari_tally.core.augment`."""

    flips: Annotated[bool, {"label": "Mirror", "tooltip": "Mirror patches left-right and up-down at random."}] = True
    rotation: Annotated[
        float, {"min": 0.0, "max": 180.0, "step": 5.0, "label": "Rotation (±°)", "tooltip": "Largest rotation in degrees."}
    ] = 180.0
    scale: Annotated[
        float,
        {"min": 1.0, "max": 4.0, "step": 0.05, "label": "Scale (×)", "tooltip": "Zoom drawn between 1/s and s, so cells vary in size."},
    ] = 1.4
    elastic_sd: Annotated[
        float,
        {
            "min": 0.0,
            "max": 50.0,
            "step": 0.5,
            "label": "Elastic (px)",
            "zero": "off",
            "tooltip": "Standard deviation of the 3x3 displacement grid in pixels (paper: 10). 0 = off.",
        },
    ] = 10.0
    intensity: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "label": "Intensity",
            "zero": "off",
            "tooltip": "Strength of random brightness, contrast, gamma, blur and noise. 0 = off.",
        },
    ] = 0.5


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. See :func:`napari_tally.core.train.train`."""

    preset: Annotated[
        Preset,
        {
            "label": "Preset",
            "tooltip": "'quick': a small network, AdamW, as good as it gets in the minutes given. "
            "'paper': the network and optimiser of 2015 (SGD, momentum 0.99, one large tile a step); needs hours.",
        },
    ] = "quick"
    minutes: Annotated[
        float, {"min": 0.05, "max": 10000.0, "step": 0.5, "label": "Minutes", "tooltip": "Time to train. The schedule is fitted to it."}
    ] = 2.0
    steps: Annotated[
        int,
        {
            "min": 0,
            "max": 10**7,
            "label": "Steps",
            "zero": "by minutes",
            "tooltip": "0 = by minutes. A number trains for so many steps: repeatable to the bit on one machine, with as much memory free.",
        },
    ] = 0
    device: Annotated[
        Device, {"label": "Device", "tooltip": "Where to compute. 'auto' takes the GPU (CUDA, then Apple's MPS) where there is one."}
    ] = "auto"
    seed: Annotated[int, {"min": 0, "max": 2**31 - 1, "label": "Seed", "tooltip": "The same seed repeats the same random draws."}] = 0
    patch: Annotated[
        int,
        {
            "min": 0,
            "max": 2048,
            "step": 16,
            "label": "Patch (px)",
            "zero": "by preset",
            "tooltip": "Side of a training patch in network pixels. 0 = by preset.",
        },
    ] = 0
    batch: Annotated[
        int,
        {
            "min": 0,
            "max": 64,
            "label": "Batch",
            "zero": "by preset",
            "tooltip": "Patches a step. 0 = by preset: 1, on a GPU 4 where its memory allows.",
        },
    ] = 0
    learning_rate: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "step": 1e-6,
            "label": "Learning rate",
            "zero": "by preset",
            "tooltip": "The largest learning rate of the schedule. 0 = by preset.",
        },
    ] = 0.0
    compile: Annotated[
        bool,
        {
            "label": "Compile",
            "tooltip": "Translate the network for this processor first: about a minute, then 1.5 times as fast. Needs a C++ compiler.",
        },
    ] = False
    architecture: Annotated[
        Literal["auto", "unet", "res-unet", "attention-unet", "nnu-net", "unet++", "swin-unetr"],
        {
            "label": "Architecture",
            "tooltip": "The network to train from random weights. 'auto' = that of the model to start from, else the U-Net. "
            "'nnu-net', 'unet++' and 'swin-unetr' need MONAI: pip install 'napari-tally[models]'.",
        },
    ] = "auto"
    depth: Annotated[
        int,
        {
            "min": 0,
            "max": 6,
            "label": "Depth",
            "zero": "by preset",
            "tooltip": "How often the network halves the image on the way down; a deeper one sees farther. 0 = by preset.",
        },
    ] = 0
    base_width: Annotated[
        int,
        {
            "min": 0,
            "max": 128,
            "label": "Base width",
            "zero": "by preset",
            "tooltip": "Feature maps at full resolution (paper: 64). 0 = by preset.",
        },
    ] = 0
    dimensions: Annotated[
        Dimensions,
        {
            "label": "Dimensions",
            "tooltip": "'2-D': every slice of a z-stack is seen by itself. '3-D': cells are found as bodies, each with one number through "
            "all slices. 'auto' = as the model to start from, else 3-D where the cells drawn keep their numbers from slice to slice.",
        },
    ] = "auto"
    slice_distance: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1000.0,
            "step": 0.1,
            "label": "Slice distance (px)",
            "zero": "from file",
            "tooltip": "In 3-D, how far slices are apart, in widths of a pixel: 2.2 for slices every 0.28 µm and pixels of 0.127 µm. "
            "0 = as the file says, else 1.",
        },
    ] = 0.0
    channels: Annotated[
        str,
        {
            "pattern": r"[0-9, ]{0,300}",
            "wanted": "numbers counted from 1 are wanted, such as 3 1, or nothing for all channels",
            "label": "Channels",
            "zero": "all, in their order",
            "tooltip": "Which channels of the images the network looks at, and in which order, counted from 1: '3 1' = the third, then "
            "the first. Empty = as the model to start from, else all of them.",
        },
    ] = ""
    statistics: Annotated[
        Literal["auto", "image", "experiment"],
        {
            "label": "Brightness",
            "tooltip": "'image': every image is judged by its own range of intensities, so exposure may vary. 'experiment': all by the "
            "range of the training images, so a dim image stays dim; for images taken with the same settings. 'auto': as the start model "
            "knows it, from random weights by 'image'.",
        },
    ] = "auto"
    loss: Annotated[
        Loss,
        {
            "label": "Loss",
            "tooltip": "What training makes small. 'cross-entropy' with border weights is the paper's. The areas that 'dice' and 'tversky' "
            "compare know no border weights.",
        },
    ] = "cross-entropy"
    insist: Annotated[
        bool,
        {
            "label": "Keep in any case",
            "tooltip": "Keep the trained model even if the one it started from does better on the held-out cells.",
        },
    ] = False
    border_weight: Annotated[
        float,
        {
            "min": 0.0,
            "max": 100.0,
            "step": 0.5,
            "label": "Border weight w0",
            "tooltip": "Extra weight of the gaps between touching cells (paper's w0 = 10; Fiji plugin: ridge weight).",
        },
    ] = 10.0
    border_width: Annotated[
        float,
        {
            "min": 0.5,
            "max": 50.0,
            "step": 0.5,
            "label": "Border width σ (px)",
            "tooltip": "Reach of the border weight in pixels (paper's sigma = 5; Fiji plugin: ridge width).",
        },
    ] = 5.0
    types: Annotated[
        int,
        {
            "min": 0,
            "max": 32,
            "label": "Cell types",
            "zero": "automatic",
            "tooltip": "How many types of cells to tell apart; the number of a cell says its type. In the window, several label layers of "
            "one image are one type each, in their order. 0 = as the model to start from: mostly 1.",
        },
    ] = 0
    ids_per_type: Annotated[
        int,
        {
            "min": 2,
            "max": 10**7,
            "step": 1000,
            "label": "Numbers per type",
            "tooltip": "With 1000, cells 1 to 999 are of type 1, cells 1000 to 1999 of type 2, and so on, if there are several types.",
        },
    ] = 1000
    class_balance: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "label": "Class balance",
            "tooltip": "1 = rare classes weigh as much as frequent ones (paper's w_c; Fiji plugin: foreground/background ratio), "
            "0 = every pixel equal, which draws the truest outlines. The preset 'paper' takes 1.",
        },
    ] = 0.0

    @property
    def own_network(self) -> bool:
        """Whether a network is asked for that none of the shipped models has."""
        return self.preset == "paper" or self.architecture not in ("auto", "unet") or bool(self.depth or self.base_width)


@dataclass(frozen=True)
class PredictionSettings:
    """How the network is run over an image. See :mod:`napari_tally.core.predict`."""

    diameter: Annotated[
        float,
        {
            "min": 0.0,
            "max": 10000.0,
            "step": 1.0,
            "label": "Cell diameter (px)",
            "zero": "as trained",
            "tooltip": "How large the cells of these images are, in pixels. 0 = as large as those that the model was trained on.",
        },
    ] = 0.0
    channels: Annotated[
        str,
        {
            "pattern": r"[0-9, ]{0,300}",
            "wanted": "numbers counted from 1 are wanted, such as 2, or nothing for those that the model has learned",
            "label": "Channels",
            "zero": "as trained",
            "tooltip": "Which channels of these images show the cells, counted from 1. Empty = those that the model has learned.",
        },
    ] = ""
    tile: Annotated[
        int,
        {
            "min": 0,
            "max": 16384,
            "step": 16,
            "label": "Tile (px)",
            "zero": "automatic",
            "tooltip": "Side of a tile. 0 = chosen for you. It changes nothing, but of networks that look at a whole tile.",
        },
    ] = 0
    slice_distance: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1000.0,
            "step": 0.1,
            "label": "Slice distance (px)",
            "zero": "from file",
            "tooltip": "For 3-D models: how far slices are apart, in widths of a pixel. 0 = as the file says, else as in training.",
        },
    ] = 0.0
    average: Annotated[
        bool,
        {
            "label": "Average 8 views",
            "tooltip": "Look at the image turned and mirrored too, 8 times in all, and average: 8 times slower. Of the models that come "
            "with napari-tally it makes none better.",
        },
    ] = False
    device: Annotated[
        Device, {"label": "Device", "tooltip": "Where to compute. 'auto' takes the GPU (CUDA, then Apple's MPS) where there is one."}
    ] = "auto"


@dataclass(frozen=True)
class BatchSettings:
    """What a batch writes. See :mod:`napari_tally.core.batch`."""

    format: Annotated[
        Literal["tiff", "ome-zarr"],
        {"label": "Label images as", "tooltip": "TIFF (opens in Fiji) or OME-Zarr (with a pyramid, for slides)."},
    ] = "tiff"
    anew: Annotated[
        bool,
        {
            "label": "Count all anew",
            "tooltip": "Predict and count images again that are counted already, those too whose cells were corrected by hand.",
        },
    ] = False


LARGEST_MIN_AREA = 1e6
"""Pixels, or voxels, that the smallest cell may be asked to have."""


@dataclass(frozen=True)
class CountingSettings:
    """How probabilities become cells. See :mod:`napari_tally.core.instances`."""

    seed_threshold: Annotated[
        float,
        {
            "min": 0.05,
            "max": 0.99,
            "step": 0.01,
            "label": "Seed threshold",
            "tooltip": "A cell starts where the probability of 'cell' is above this. Higher: fewer faint cells.",
        },
    ] = 0.4
    valley: Annotated[
        float,
        {
            "min": 0.01,
            "max": 0.95,
            "step": 0.05,
            "label": "Valley between cells",
            "tooltip": "Two cells are two if the probability falls by this much between them. Higher: more cells merged, fewer broken.",
        },
    ] = 0.2
    smoothing: Annotated[
        float,
        {
            "min": 0.0,
            "max": 500.0,
            "step": 0.5,
            "label": "Smoothing (px)",
            "tooltip": "Smooths the probability before cells are told apart (standard deviation). Higher: fewer cells broken into pieces.",
        },
    ] = 1.5
    edge_threshold: Annotated[
        float,
        {
            "min": 0.01,
            "max": 0.99,
            "step": 0.01,
            "label": "Edge threshold",
            "tooltip": "A cell reaches out to where the probability falls below this. Lower: larger cells.",
        },
    ] = 0.55
    min_area: Annotated[
        float,
        {
            "min": 0.0,
            "max": LARGEST_MIN_AREA,
            "step": 1.0,
            "label": "Smallest cell (px)",
            "tooltip": "Cells with fewer pixels are dropped.",
        },
    ] = 16.0


@dataclass(frozen=True)
class RuleSettings:
    """Which of the cells that were found count, and how large a pixel is. See :func:`napari_tally.core.counting.measure_cells`."""

    border: Annotated[
        Literal["all", "exclude", "frame"],
        {
            "label": "Cells at the border",
            "tooltip": "'all': every cell counts. 'exclude': cells that touch the border of the image do not count. 'frame': the unbiased "
            "counting frame: cells that touch the top or left edge do not count, those at the bottom and right do (Gundersen 1977). It is "
            "fair to whole images, not to a region along one edge.",
        },
    ] = "all"
    smallest: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1e6,
            "step": 1.0,
            "label": "Smallest that counts",
            "zero": "all count",
            "tooltip": "Cells of a smaller area are found, but do not count. 0 = all do.",
        },
    ] = 0.0
    unit: Annotated[
        Literal["px", "um2"],
        {"label": "Given in", "tooltip": "'px': pixels. 'um2': square micrometres, for images whose pixel size is known."},
    ] = "px"
    pixel_size: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1000.0,
            "step": 0.0001,
            "label": "Pixel size (µm)",
            "zero": "from file",
            "tooltip": "How wide a pixel of these images is, in micrometres: for areas and for cells per square millimetre, and for "
            "models that know the size of their pixels. 0 = as the file, or its layer, says.",
        },
    ] = 0.0


@dataclass(frozen=True)
class AuditSettings:
    """How a count is checked by hand. See :mod:`napari_tally.core.audit`."""

    windows: Annotated[
        int,
        {
            "min": 4,
            "max": 10000,
            "label": "Windows",
            "tooltip": "Counting windows to draw; more can be added later. 24 is a good start, below 16 the interval is wide.",
        },
    ] = 24
    window: Annotated[
        int,
        {
            "min": 0,
            "max": 100000,
            "label": "Window side (px)",
            "zero": "automatic",
            "tooltip": "Side of a counting window in pixels. 0 = chosen so that an average window holds about 8 predicted cells.",
        },
    ] = 0
    seed: Annotated[int, {"min": 0, "max": 2**31 - 1, "label": "Seed", "tooltip": "The same seed draws the same windows."}] = 0


def to_dict(settings: Any) -> dict[str, Any]:
    """Give the settings as plain JSON values."""
    return dataclasses.asdict(settings)


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Build settings of class `cls` from plain JSON values; every field is checked.

    Raises
    ------
    ValueError
        Names the field that is unknown, of the wrong type, or out of its range.
    """
    known = {f.name for f in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise ValueError(f"{cls.__name__} has no setting {name!r}; it has {', '.join(sorted(known))}.")
    settings = cls(**values)
    check(settings)
    return settings


def check(settings: Any) -> None:
    """Raise a ``ValueError`` that names the first field outside its type or range."""
    for name, (kind, meta) in fields_of(type(settings)).items():
        value, where = getattr(settings, name), f"{meta.get('label', name)} ({name})"
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                raise ValueError(f"{where} is {value!r}; choose one of {', '.join(map(str, get_args(kind)))}.")
            continue
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
            raise ValueError(f"{where} is {value!r}; {wanted} is wanted.")
        if kind in (int, float) and not meta.get("min", value) <= value <= meta.get("max", value):  # also refuses NaN
            raise ValueError(f"{where} is {value}; it must lie between {meta.get('min')} and {meta.get('max')}.")
        if kind is str and isinstance(value, str) and not re.fullmatch(meta["pattern"], value):
            raise ValueError(f"{where} is {value[:40]!r}; {meta['wanted']}.")


def fields_of(cls: type) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Give name -> (type, metadata) of a settings class, in the order of its fields."""
    found = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        found[name] = (kind, extras[0] if extras else {})
    return found
