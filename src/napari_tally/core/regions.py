"""Named regions of an image: polygons in which cells are counted by themselves. A cell belongs where its centroid lies.

They come from a Shapes layer (`widgets/_regions.py`), a GeoJSON file (QuPath writes them) or a label image.

Regions may overlap. Each place belongs to one of them, and cells and areas follow the same rule, so that densities are right::

    ┌─ tissue ────────┐        a region that lies wholly inside another one comes before it, in whatever order they are given
    │  ┌─ tumour ─┐   │        (so "tissue" is the tissue without the tumour)
    │  └──────────┘ ┌─┼── a third one ─┐
    └───────────────┼─┘                │       of others that overlap, the first that is given
                    └──────────────────┘

Areas are measured along lines: what of a line lies in a region is a list of intervals, exact in x, and all lines of a picture are laid
end to end, so that regions are joined and cut by sorting. A line that crosses itself is taken as :meth:`Region.contains` takes it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import points_in_poly

from napari_tally.core.files import require_file
from napari_tally.core.images import Image
from napari_tally.core.label_files import read_labels
from napari_tally.core.outlines import cell_outlines, pieces

OUTSIDE = "outside"
_LINES = 2**18
"""About so many lines are measured, all regions of a plane together: more a pixel where these are small."""
_SPLIT = 2.0**10
"""The most lines to a pixel."""
_OVERHANG = 1e-3
"""A region that lies outside another one by no more than this share of it, lies inside: an edge that both share may be off by a hair."""

Box = tuple[float, float, float, float]
"""Top, left, bottom, right of a part of the plane, in pixels; the first pixel begins at -0.5."""
_JSON = (".geojson", ".json")
_LABELS = (".tif", ".tiff", ".png")


@dataclass(frozen=True, eq=False)
class Region:
    """A part of an image.

    Attributes
    ----------
    name : str
        Regions of one name count as one.
    outlines : tuple of (N, 2) float arrays
        Of its pieces: corners (y, x) in pixels; whole numbers are the centres of pixels.
    holes : tuple of tuple of (N, 2) float arrays
        Those of each piece; () = none has any. In a hole another piece may lie, an island.
    plane : int or None
        The plane that it lies on; None = all.
    time_and_slice : (int, int) or None
        Where its file says that it lies. Which plane that is depends on the image; see :func:`fitted`.
    size : (int, int) or None
        Height and width of the label image that it comes from; only images of this size can have it.
    """

    name: str
    outlines: tuple[NDArray[np.float64], ...]
    holes: tuple[tuple[NDArray[np.float64], ...], ...] = ()
    plane: int | None = None
    time_and_slice: tuple[int, int] | None = None
    size: tuple[int, int] | None = None

    def contains(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Tell which of the points (N, 2), as (y, x), lie inside: (N,) bool."""
        inside = np.zeros(len(points), bool)
        for outline, *holes in self.pieces:
            here = points_in_poly(points, outline)
            for hole in holes:
                here &= ~points_in_poly(points, hole)
            inside |= here
        return inside

    def area(self, shape: tuple[int, int]) -> float:
        """Give the pixels that it covers of a plane of this height and width."""
        return _shares((self,), shape, 0)[0] if self.outlines else 0.0

    @property
    def pieces(self) -> list[tuple[NDArray[np.float64], ...]]:
        """The outline of each piece and its holes, as GeoJSON has them."""
        return [(outline, *holes) for outline, holes in zip(self.outlines, self.holes or [()] * len(self.outlines), strict=True)]

    @property
    def box(self) -> Box:
        """What it spans: top, left, bottom, right."""
        corners = np.concatenate(self.outlines)
        (top, left), (bottom, right) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return top, left, bottom, right


def fitted(regions: Sequence[Region], image: Image) -> list[Region]:
    """Give regions as they were read from a file as those of an image.

    Raises
    ------
    ValueError
        If they are of a label image of another size, or one lies on a plane that the image has not.
    """
    found = []
    for region in regions:
        if region.size not in (None, image.shape[-2:]):
            raise ValueError(
                f"{image.name}: the regions are a label image of {' x '.join(map(str, region.size))} pixels, and the image has "
                f"{' x '.join(map(str, image.shape[-2:]))}; one of the same size is wanted."
            )
        where = region.time_and_slice
        found.append(replace(region, plane=_plane_of(region.name, where, image), time_and_slice=None) if where else region)
    return found


def _plane_of(name: str, where: tuple[int, int], image: Image) -> int | None:
    """Give the number of the plane at a time and a slice; an image of one plane has all regions on it."""
    if len(image.planes) == 1:
        return None
    t, z = where
    if image.axes in ("TZ", "ZT"):
        slow, fast = where if image.axes == "TZ" else (z, t)
        plane = slow * image.leading[-1] + fast
    else:  # one axis; or planes that are numbered through, as :mod:`.export.geojson` writes them
        plane = -1 if t and z else t + z
    if min(t, z, plane) < 0 or plane >= len(image.planes):
        raise ValueError(f"{image.name}: the region {name!r} lies on t {t}, z {z}, and the image has {len(image.planes)} planes.")
    return plane


def locate(regions: Sequence[Region], points: NDArray[np.floating], plane: int = 0) -> NDArray[np.object_]:
    """Give the name of the region that each point (N, 2), as (y, x), lies in; of none "outside".

    Of several regions it is the inner one where one lies wholly inside the other, else the first.
    """
    names = np.full(len(points), OUTSIDE, object)
    free = np.ones(len(points), bool)
    for region in _in_order(_of_plane(regions, plane)):
        inside = free & region.contains(points)
        names[inside], free = region.name, free & ~inside
    return names


def areas(regions: Sequence[Region], shape: tuple[int, int], plane: int = 0, line: int = 0) -> dict[str, float]:
    """Give name -> pixels of each region of a plane, and of what lies outside all of them.

    Parameters
    ----------
    regions : sequence of Region
    shape : (int, int)
        Height and width of the plane.
    plane : int
    line : int
        So many rows at the top and columns at the left belong to no region and to nothing outside: 1 for the unbiased frame.

    Notes
    -----
    Each place belongs to one region, the one that :func:`locate` gives, so the areas add up to the plane.
    """
    ordered = _in_order(_of_plane(regions, plane))
    found = {region.name: 0.0 for region in regions if region.plane in (None, plane)}
    for region, area in zip(ordered, _shares(ordered, shape, line), strict=True):
        found[region.name] += area
    named = found.pop(OUTSIDE, 0.0)  # a region may be called so
    rest = max(0.0, (shape[0] - line) * (shape[1] - line) - sum(found.values()) - named)
    return found | {OUTSIDE: named + rest}


def regions_for(place: str | Path, stem: str) -> list[Region]:
    """Read the regions of one image.

    Parameters
    ----------
    place : str or Path
        A file for all images, or a folder with a file a image: STEM.geojson, STEM.json, or a label image STEM.tif or STEM.png.
    stem : str
        Name of the image.

    Raises
    ------
    ValueError
        If there is no such file, or it holds no region.
    """
    place = Path(place)
    if not place.is_dir():
        return read_regions(place)
    for suffix in (*_JSON, *_LABELS):
        if (path := place / f"{stem}{suffix}").is_file():
            return read_regions(path)
    raise ValueError(f"{place}: there are no regions for {stem}; a file {stem}.geojson or a label image {stem}.tif is wanted.")


def read_regions(path: str | Path) -> list[Region]:
    """Read polygons from GeoJSON, or the areas of a label image (each id is a region); see :func:`fitted` for what an image has of them.

    Raises
    ------
    ValueError
        If the file cannot be read, or holds no region; the message says which.
    """
    path = Path(path)
    if path.suffix.lower() not in _JSON:
        labels = read_labels(path)
        if labels.ndim != 2 or labels.dtype.kind not in "ui":
            raise ValueError(f"{path}: regions of shape {labels.shape} and type {labels.dtype}; one plane of whole numbers is wanted.")
        size = (labels.shape[0], labels.shape[1])
        found = [replace(_region(str(cell), pieces(*rings)), size=size) for cell, *rings in cell_outlines(labels)]
    else:
        try:
            require_file(path)
            found = _parse(json.loads(path.read_text(encoding="utf-8-sig")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: this cannot be read as GeoJSON ({why}).") from error
    if not found:
        raise ValueError(f"{path}: there is no region in this file; polygons or a label image are wanted.")
    return found


def _parse(value: Any) -> list[Region]:
    """Read a feature collection, a list of features, a feature or a geometry. Their corners are corners of pixels."""
    if isinstance(value, dict) and value.get("type") == "FeatureCollection":
        value = value["features"]
    regions: list[Region] = []
    for feature in value if isinstance(value, list) else [value]:
        geometry, properties = feature.get("geometry", feature), feature.get("properties") or {}
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            continue  # lines and points have no inside
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        rings = [[np.array(ring, float)[:, 1::-1] for ring in polygon] for polygon in polygons]
        if not all(len(ring) > 2 and np.isfinite(ring).all() for polygon in rings for ring in polygon):
            raise ValueError("an outline has fewer than three corners, or one that is no number")
        name = properties.get("name") or (properties.get("classification") or {}).get("name") or f"region {len(regions) + 1}"
        regions.append(replace(_region(str(name), rings), time_and_slice=_time_and_slice(geometry.get("plane"))))
    if any(region.time_and_slice for region in regions):  # QuPath leaves out the first one, and all of them where there is but one
        regions = [replace(region, time_and_slice=region.time_and_slice or (0, 0)) for region in regions]
    return regions


def _time_and_slice(plane: dict[str, int] | None) -> tuple[int, int] | None:
    return None if plane is None else (index(plane.get("t", 0)), index(plane.get("z", 0)))


def _region(name: str, polygons: Sequence[Sequence[NDArray[Any]]]) -> Region:
    """Make a region of polygons, each an outline and its holes, from corners of pixels."""
    moved = [[ring - 0.5 for ring in polygon] for polygon in polygons]
    return Region(name, tuple(outline for outline, *_ in moved), tuple(tuple(holes) for _, *holes in moved))


def _of_plane(regions: Sequence[Region], plane: int) -> tuple[Region, ...]:
    return tuple(region for region in regions if region.plane in (None, plane) and region.outlines)


@lru_cache(maxsize=16)  # the planes of a stack ask for the same
def _in_order(regions: tuple[Region, ...]) -> tuple[Region, ...]:
    """Put regions that lie wholly inside another one before it; else leave them in their order."""
    inner = _inner(regions)
    ordered: dict[Region, None] = {}

    def put(k: int) -> None:
        for i in inner[k] if regions[k] not in ordered else ():
            put(i)
        ordered.setdefault(regions[k])

    for k in range(len(regions)):
        put(k)
    return tuple(ordered)


def _inner(regions: tuple[Region, ...]) -> list[list[int]]:
    """Give for each region the numbers of the smaller ones that lie wholly inside it."""
    if not regions:
        return []
    boxes = np.array([region.box for region in regions])
    room = _OVERHANG * np.maximum(np.ptp(boxes[:, ::2], axis=1), np.ptp(boxes[:, 1::2], axis=1))
    inner: list[list[int]] = [[] for _ in regions]
    known: dict[int, NDArray[np.float64]] = {}  # most regions are beside each other, and need not be measured
    lines = _Lines.over(regions, (*boxes.min(axis=0)[:2], *boxes.max(axis=0)[2:]))
    for k, box in enumerate(boxes):
        fits = (boxes[:, :2] >= box[:2] - room[:, None]).all(axis=1) & (boxes[:, 2:] <= box[2:] + room[:, None]).all(axis=1)
        for i in np.flatnonzero(fits).tolist():
            if i == k:
                continue
            for n in (i, k):
                if n not in known:
                    known[n] = lines.of(regions[n])
            area, larger = _length(known[i]), _length(known[k])
            if area < (1 - _OVERHANG) * larger and _length(_join([known[i]], [known[k]])) <= _OVERHANG * area:
                inner[k].append(i)
    return inner


@lru_cache(maxsize=16)
def _shares(regions: tuple[Region, ...], shape: tuple[int, int], line: int) -> tuple[float, ...]:
    """Give the pixels of each region that lie in no earlier one, and not in the first `line` rows and columns."""
    if not regions:
        return ()
    lines = _Lines.over(regions, (line - 0.5, line - 0.5, shape[0] - 0.5, shape[1] - 0.5))
    boxes, covers, found = np.array([region.box for region in regions]), [], []
    for k, region in enumerate(regions):
        covers.append(lines.of(region))
        near = (boxes[:k, :2] <= boxes[k, 2:]).all(axis=1) & (boxes[:k, 2:] >= boxes[k, :2]).all(axis=1)
        free = _join([covers[k]], [covers[i] for i in np.flatnonzero(near)])
        found.append(_length(free) / lines.split)
    return tuple(found)


@dataclass(frozen=True)
class _Lines:
    """Horizontal lines over a part of the plane, `split` to a pixel, laid end to end: line n goes from n * width to (n + 1) * width.

    What a region covers is an increasing array of places on it: where it begins, where it ends, where it begins again, ...
    """

    box: Box
    split: float

    @classmethod
    def over(cls, regions: Iterable[Region], box: Box) -> "_Lines":
        """Choose how dense the lines over a part of the plane are, for these regions."""
        heights = sum(max(0.0, min(region.box[2], box[2]) - max(region.box[0], box[0])) for region in regions)
        split = 2.0 ** np.floor(np.log2(_LINES / max(heights, 1.0)))  # a power of 2, so that edges of pixels are exact
        return cls(box, min(_SPLIT, split))

    def of(self, region: Region) -> NDArray[np.float64]:
        """Give what a region covers, the same points that :meth:`Region.contains` says are in it."""
        crossings = [[self._crossings(ring) for ring in piece] for piece in region.pieces]
        return _join([_join([outline], holes) for outline, *holes in crossings], [])

    def _crossings(self, ring: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give where a ring is crossed: an even number of times on each line, so between each two it is inside."""
        top, left, bottom, right = self.box
        nxt = np.roll(ring, -1, axis=0)
        first, last = (
            np.ceil((np.clip(end(ring[:, 0], nxt[:, 0]), top, bottom) - top) * self.split - 0.5).astype(np.int64)
            for end in (np.minimum, np.maximum)
        )
        edge = np.repeat(np.arange(len(ring)), last - first)
        line = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
        y = top + (line + 0.5) / self.split
        slope = (nxt[edge, 1] - ring[edge, 1]) / (nxt[edge, 0] - ring[edge, 0])  # edges along a line cross none
        x = np.clip(ring[edge, 1] + slope * (y - ring[edge, 0]), left, right)
        return np.sort(line * (right - left) + (x - left))


def _join(inside: Sequence[NDArray[np.float64]], outside: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Give what lies in any of `inside` and in none of `outside`."""
    places = np.concatenate([*inside, *outside])
    steps = np.tile([1, -1], len(places) // 2)
    order = np.argsort(places, kind="stable")  # so that each begins before it ends
    is_inside = (np.arange(len(places)) < sum(map(len, inside)))[order]
    within = (np.cumsum(steps[order] * is_inside) > 0) & (np.cumsum(steps[order] * ~is_inside) == 0)
    return places[order][np.diff(within, prepend=False)]


def _length(cover: NDArray[np.float64]) -> float:
    return float((cover[1::2] - cover[::2]).sum())
