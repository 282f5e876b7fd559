"""The audit of a count: random counting windows over all images of a study, hand counts in them, and the record of both.

Every plane is cut into windows without gap or overlap. The frame of a window has inclusion and exclusion edges (Gundersen 1977,
J. Microscopy 111:219)::

        included            One rule for predicted cells and for clicks: a cell belongs to the window in which its middle lies (its
       ┌ ─────────┐         centroid; the click). A middle on an included edge is inside, on an excluded edge it is outside: it
       │          ┊         belongs to the neighbour, whose included edge that is. So every cell belongs to exactly one window,
       │  window  ┊         cells that the border of the image cuts included, and the counts of all windows add up to the count
       │          ┊         of the image, for the hand as for the model.
       └┈┈┈┈┈┈┈┈┈┈┘
        excluded

The windows are sorted by size into strata of equal total size, and each stratum gives the same number of windows::

    size of a window  =  predicted cells  +  floor       as much, over all windows, as there are predicted cells; shared out by what is
                                                         seen in the image outside of these (core/missed.py), else evenly

So a window is drawn about in proportion to the cells that may be in it, found or missed; and as each stratum gives windows, that of the
smallest too, any window can be drawn. They are counted in a fixed random order, stratum by stratum in turns: after any number of windows,
what is counted is a random sample, and ten more can be added at any time.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

import napari_tally
from napari_tally.core.annotations import cells_go_through
from napari_tally.core.corrected_count import Corrected, Sample
from napari_tally.core.images import Image
from napari_tally.core.label_files import fingerprint_labels, fingerprinting_labels
from napari_tally.core.missed import left_over, sum_over
from napari_tally.settings import AuditSettings, check

_CELLS = 8.0
"""Predicted cells that an average window holds."""
_CROWD = 1.5
"""Windows of a crowded image are made smaller until they hold at most so many times as many."""
_MANY = 200
"""Windows that a study has at least, unless they would be smaller than this many cell diameters:"""
_SMALL = 3.0
_UNKNOWN = 20.0
"""Diameter in pixels where nothing is predicted."""
_FLOOR = 1.0
"""What a mean window counts for the drawing beside its predicted cells, in mean predicted cells of a window."""
_EACH = 4
"""Windows drawn from a stratum."""
COLUMNS = ["image", "plane", "top", "left", "bottom", "right", "predicted", "stratum"]


@dataclass(frozen=True, eq=False)
class StudyImage:
    """An image of the study, as far as it matters here.

    Attributes
    ----------
    name : str
    labels : (..., Y, X) int or bool
        The predicted cells; 0 or less = no cell. Ids count within a plane.
    group : str
        For example the condition; counts are reported by it.
    annotated : (..., Y, X) bool, optional
        Where the model was trained or its thresholds were chosen: windows that touch it cannot be drawn.
    fingerprint : str
        Of the pixels of the image (:attr:`napari_tally.core.images.Image.fingerprint`), for the record.
    image : Image, optional
        Shows where cells may have been missed. Without it all windows have the same floor, and the interval is wider where the model
        misses many.
    """

    name: str
    labels: NDArray[np.integer]
    group: str = ""
    annotated: NDArray[np.bool_] | None = None
    fingerprint: str = ""
    image: Image | None = None


@dataclass(frozen=True)
class ImageRecord:
    """What the record keeps of an image; `left_out` are predicted cells in windows that touch annotations."""

    name: str
    group: str
    shape: tuple[int, ...]
    predicted: int
    left_out: int
    image_fingerprint: str
    labels_fingerprint: str


@dataclass(frozen=True)
class Window:
    """A counting window: rows `top` to `bottom` (exclusive) and columns `left` to `right` of a plane, in pixels."""

    number: int
    image: str
    plane: int
    top: int
    left: int
    bottom: int
    right: int

    @property
    def pixels(self) -> int:
        """How many pixels it has: more cells than these have no room in it."""
        return (self.bottom - self.top) * (self.right - self.left)

    def holds(self, places: ArrayLike) -> NDArray[np.bool_]:
        """Tell which places belong to the window.

        Parameters
        ----------
        places : (n, 2) array
            y and x in pixels; a pixel reaches from half a pixel before its index to half a pixel behind it.
        """
        y, x = np.asarray(places, float).reshape(-1, 2).T + 0.5
        return (self.top <= y) & (y < self.bottom) & (self.left <= x) & (x < self.right)


@dataclass(eq=False)
class Audit:
    """An audit: what was drawn, and what has been counted by hand.

    Attributes
    ----------
    images : tuple of ImageRecord
    windows : pandas.DataFrame
        All windows that can be drawn: image (its index), plane, top, left, bottom, right, predicted, stratum.
    order : list of int
        Rows of `windows` in the order in which they are counted: any beginning of it is a random sample.
    wanted : int
        How many of them are to be counted.
    settings : AuditSettings
    counts : dict
        Hand counts of the windows that are done, by their position in `order`.
    clicks : dict
        (y, x) of every click, by the same position; also those outside the window.
    origin : dict
        Versions and date of the drawing.
    """

    images: tuple[ImageRecord, ...]
    windows: pd.DataFrame
    order: list[int]
    wanted: int
    settings: AuditSettings
    counts: dict[int, int] = field(default_factory=dict)
    clicks: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    def window(self, number: int) -> Window:
        """Give the window at a position of the order, from 0 on."""
        row = self.windows.iloc[self.order[number]]
        place = [int(row[name]) for name in ("plane", "top", "left", "bottom", "right")]
        return Window(number, self.images[int(row["image"])].name, *place)

    def count_clicks(self, number: int, clicks: Sequence[tuple[float, float]]) -> int:
        """Take the clicks of a window as its hand count; give the count."""
        self.clicks[number] = [(float(y), float(x)) for y, x in clicks]
        self.counts[number] = int(self.window(number).holds(self.clicks[number]).sum())
        return self.counts[number]

    def redrawn(self, seed: int) -> "Audit":
        """Draw anew from the same windows, with nothing counted yet."""
        settings = replace(self.settings, seed=seed)
        return replace(self, order=_order(self.windows["stratum"].to_numpy(), seed), settings=settings, counts={}, clicks={})

    def next_open(self) -> int | None:
        """Give the first window that is to be counted and is not."""
        return next((number for number in range(self.wanted) if number not in self.counts), None)

    def add_windows(self, more: int) -> int:
        """Ask for more windows; give how many there are to count now."""
        self.wanted = min(self.wanted + more, len(self.order))
        return self.wanted

    @property
    def left_out(self) -> int:
        """Cells predicted in windows that touch training annotations; no count below contains them."""
        return sum(image.left_out for image in self.images)

    def total(self) -> Corrected:
        """Give the corrected count of all windows that can be drawn."""
        return self._sample().total()

    def by(self, what: str) -> pd.DataFrame:
        """Correct the counts of parts of the study.

        Parameters
        ----------
        what : {"image", "group"}

        Returns
        -------
        pandas.DataFrame
            One row a part: its name, predicted, corrected, low, high (NaN until two windows of each stratum are counted, and four of
            the part), windows, clicks.
        """
        sample = self._sample()
        names = np.array([image.name if what == "image" else image.group for image in self.images], object)
        owner = names[self.windows["image"].to_numpy(int)]
        rows = [{what: name, **asdict(sample.part(owner == name))} for name in dict.fromkeys(names) if (owner == name).any()]
        return pd.DataFrame(rows, columns=[what, "predicted", "corrected", "low", "high", "windows", "clicks"])

    def table(self) -> pd.DataFrame:
        """Give all corrected counts: the whole study, each image, each group (if there are any); `what` says which."""
        parts = [pd.DataFrame([{"what": "all", "name": "", **asdict(self.total())}])]
        for what in ["image"] + ["group"] * any(image.group for image in self.images):
            parts.append(self.by(what).rename(columns={what: "name"}).assign(what=what))
        columns = ["what", "name", "predicted", "corrected", "low", "high", "windows", "clicks"]
        return pd.concat([part[columns].astype({"corrected": float}) for part in parts], ignore_index=True)

    def compared(self) -> pd.DataFrame:
        """Give the windows that are done: predicted and hand, the cells of each."""
        predicted = self.windows["predicted"].to_numpy()[[self.order[number] for number in self.counts]]
        return pd.DataFrame({"predicted": predicted, "hand": list(self.counts.values())}, dtype=np.int64)

    def windows_to_interval(self) -> int:
        """Give how many more windows, in their order, must be counted until there is an interval; 0 where there is one."""
        done = [self.order[number] for number in self.counts]
        coming = [row for number, row in enumerate(self.order) if number not in self.counts]
        strata, predicted = self.windows["stratum"], self.windows["predicted"]
        for more in range(len(coming) + 1):
            drawn = done + coming[:more]
            if Sample(predicted, strata, drawn, predicted.iloc[drawn]).enough:
                return more
        return 0

    def expected_margin(self, more: int = 10) -> float:
        """Give half the width that the interval of the total can be expected to have after more windows; NaN where unknown."""
        done = set(self.counts)
        coming = [number for number in range(len(self.order)) if number not in done][:more]
        return self._sample().expected_margin([self.order[number] for number in coming]) if coming else float("nan")

    def _sample(self) -> Sample:
        drawn = [self.order[number] for number in self.counts]
        return Sample(self.windows["predicted"], self.windows["stratum"], drawn, list(self.counts.values()))


def draw_audit(images: Iterable[StudyImage], settings: AuditSettings | None = None) -> Audit:
    """Draw counting windows at random over all images of a study.

    Parameters
    ----------
    images : iterable of StudyImage
        Gone through once; names must differ.
    settings : AuditSettings, optional

    Raises
    ------
    ValueError
        If two images have one name, labels are no label images, or no window can be drawn.
    """
    settings = settings or AuditSettings()
    check(settings)
    records, centres, areas, annotated, seen = [], [], [], [], []
    for image in images:
        if image.labels.ndim < 2 or image.labels.dtype.kind not in "biu":
            raise ValueError(f"{image.name}: labels are whole numbers with a height and a width; here are {_describe(image.labels)}.")
        if image.annotated is not None and image.annotated.shape != image.labels.shape:
            raise ValueError(f"{image.name}: annotations of shape {image.annotated.shape} on labels of shape {image.labels.shape}.")
        slices = image.image.slices if image.image else image.labels.shape[-3] if image.labels.ndim > 2 else 1
        if cells_go_through(image.labels, slices):
            series = "" if image.image else " If these are the frames of a time series, give the images too: they say so."
            raise ValueError(
                f"{image.name}: its cells go through the slices of a volume, and the windows lie in planes, so this count cannot be "
                f"checked with them. Leave the image out.{series}"
            )
        planes = np.asarray(image.labels).reshape(-1, *image.labels.shape[-2:])
        places, sizes = zip(*map(_centres, planes), strict=True)
        digest = fingerprint_labels(planes, image.labels.shape)
        predicted = sum(map(len, places))
        records.append(ImageRecord(image.name, image.group, image.labels.shape, predicted, 0, image.fingerprint, digest))
        centres.append(places)
        areas.append(np.concatenate(sizes))
        annotated.append(None if image.annotated is None else image.annotated.reshape(planes.shape))
        seen.append(None if image.image is None else left_over(image.image, planes))
    names = [record.name for record in records]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Two images are called {double}: rename one, so that each has a name of its own.")
    side = settings.window or _side(records, areas)
    rows: list[list[float]] = []
    for i, (record, places, known, blocks) in enumerate(zip(records, centres, annotated, seen, strict=True)):
        found, left_out = _windows_of(i, record, places, known, blocks, side, fixed=bool(settings.window))
        rows += found
        records[i] = ImageRecord(**asdict(record) | {"left_out": left_out})
    if not rows:
        reason = "there is no image" if not records else "every window touches annotations that the model was trained on"
        raise ValueError(f"No counting window can be drawn: {reason}. Add images that the model has not been trained on.")
    windows = pd.DataFrame(rows, columns=[*COLUMNS[:-1], "seen"])
    windows["stratum"] = _strata(windows, records, settings.windows)
    windows = windows[COLUMNS]
    origin = {
        "napari-tally": napari_tally.__version__,
        "numpy": np.__version__,  # the order of random numbers is a promise of one version of numpy
        "drawn": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    order = _order(windows["stratum"].to_numpy(), settings.seed)
    return Audit(tuple(records), windows, order, min(settings.windows, len(order)), settings, origin=origin)


def comparing_labels(audit: Audit, labels: Mapping[str, NDArray[np.integer]]) -> Generator[float, None, list[str]]:
    """Name the images whose cells are others than those that the windows were drawn for; yield the fraction of an image.

    Parameters
    ----------
    audit : Audit
    labels : mapping of str to (..., Y, X) int array
        The cells as they are now, by the name of their image. Images of the audit that are not among them are not judged.
    """
    others = []
    for image in audit.images:
        if image.name in labels:
            now = labels[image.name]
            if now.shape != image.shape or (yield from fingerprinting_labels(now)) != image.labels_fingerprint:
                others.append(image.name)
    return others


def _centres(plane: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Give the centroids (n, 2) and the areas of the cells of a plane."""
    y, x = np.nonzero(plane > 0)
    _, cell, area = np.unique(plane[y, x], return_inverse=True, return_counts=True)
    return np.stack([np.bincount(cell, y) / area, np.bincount(cell, x) / area], axis=1) if y.size else np.zeros((0, 2)), area


def _side(records: Sequence[ImageRecord], areas: Sequence[NDArray[np.integer]]) -> float:
    """Choose the side of a window in pixels."""
    pixels = sum(int(np.prod(record.shape)) for record in records)
    sizes = np.concatenate(areas) if areas else np.zeros(0)
    diameter = float(np.sqrt(4 / np.pi * np.median(sizes))) if sizes.size else _UNKNOWN
    return max(float(np.sqrt(pixels / max(sizes.size / _CELLS, _MANY))), _SMALL * diameter)


def _windows_of(
    index: int,
    record: ImageRecord,
    places: Sequence[NDArray[np.floating]],
    annotated: NDArray[np.bool_] | None,
    blocks: NDArray[np.float32] | None,
    side: float,
    fixed: bool,
) -> tuple[list[list[float]], int]:
    """Cut an image into windows; give rows of `COLUMNS` with what is seen as the last, and the predicted cells that are left out."""
    height, width = record.shape[-2:]
    rows: list[list[float]] = []
    left_out = 0
    for p, centres in enumerate(places):
        wanted = side if fixed or not len(centres) else min(side, np.sqrt(_CROWD * _CELLS * height * width / len(centres)))
        edges = [np.linspace(0, n, max(1, round(n / wanted)) + 1).round().astype(int) for n in (height, width)]
        cells = np.histogram2d(centres[:, 0] + 0.5, centres[:, 1] + 0.5, bins=edges)[0].astype(int)  # half-open, as Window.holds
        seen = np.full(cells.shape, np.nan) if blocks is None else sum_over(blocks[p], *edges)
        for (a, b), predicted in np.ndenumerate(cells):
            top, bottom, left, right = *edges[0][a : a + 2], *edges[1][b : b + 2]
            if annotated is not None and annotated[p, top:bottom, left:right].any():
                left_out += predicted
            else:
                rows.append([index, p, *map(int, (top, left, bottom, right, predicted)), float(seen[a, b])])
    return rows, int(left_out)


def _strata(windows: pd.DataFrame, records: Sequence[ImageRecord], wanted: int) -> NDArray[np.int64]:
    """Sort windows by size (then by the predicted density of their image) into strata of equal total size."""
    predicted, image, seen = (windows[name].to_numpy(float) for name in ("predicted", "image", "seen"))
    density = np.array([record.predicted / np.prod(record.shape) for record in records])[image.astype(int)]
    share = seen / seen.mean() if np.isfinite(seen).all() and seen.any() else np.ones(len(seen))
    size = predicted + (_FLOOR * predicted.mean() or 1.0) * share
    number = max(2 if wanted >= 2 * _EACH else 1, wanted // _EACH)
    order = np.lexsort((image, density, size))
    reached = np.cumsum(size[order])
    strata = np.empty(len(size), np.int64)
    strata[order] = np.minimum(number * (reached - size[order] / 2) / reached[-1], number - 1).astype(int)
    return np.unique(strata, return_inverse=True)[1]


def _order(strata: NDArray[np.integer], seed: int) -> list[int]:
    """Give all windows in random order, the strata in turns."""
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    turn = np.empty(len(strata), int)  # how many of the same stratum come before
    for stratum in np.unique(strata):
        mine = strata[shuffled] == stratum
        turn[mine] = np.arange(mine.sum())
    return [int(i) for i in shuffled[np.argsort(turn, kind="stable")]]


def _describe(array: NDArray[Any]) -> str:
    return f"{array.dtype} numbers of shape {array.shape}"
