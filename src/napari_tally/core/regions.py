"""Named regions of an image: polygons in which cells are counted by themselves. A cell belongs where its centroid lies.

They come from a Shapes layer (`widgets/_regions.py`), a GeoJSON file (QuPath writes them) or a label image.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import points_in_poly

from napari_tally.core.images import read_labels
from napari_tally.core.outlines import cell_outlines, signed_area

OUTSIDE = "outside"
_JSON = (".geojson", ".json")
_LABELS = (".tif", ".tiff", ".png")


@dataclass(frozen=True, eq=False)
class Region:
    """A part of an image.

    Attributes
    ----------
    name : str
        Regions of one name count as one.
    outlines, holes : tuple of (N, 2) float arrays
        Corners (y, x) in pixels; whole numbers are the centres of pixels.
    plane : int or None
        The plane that it lies on; None = all.
    """

    name: str
    outlines: tuple[NDArray[np.float64], ...]
    holes: tuple[NDArray[np.float64], ...] = ()
    plane: int | None = None

    def contains(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Tell which of the points (N, 2), as (y, x), lie inside: (N,) bool."""
        inside, hole = np.zeros(len(points), bool), np.zeros(len(points), bool)
        for rings, found in ((self.outlines, inside), (self.holes, hole)):
            for ring in rings:
                found |= points_in_poly(points, ring)
        return inside & ~hole

    def area(self, shape: tuple[int, int]) -> float:
        """Give the pixels that it covers of a plane of this height and width."""
        return sum(_clipped_area(ring, shape) for ring in self.outlines) - sum(_clipped_area(ring, shape) for ring in self.holes)


def locate(regions: Sequence[Region], points: NDArray[np.floating], plane: int = 0) -> NDArray[np.object_]:
    """Give the name of the region that each point (N, 2), as (y, x), lies in: of several the first, of none "outside"."""
    names = np.full(len(points), OUTSIDE, object)
    free = np.ones(len(points), bool)
    for region in regions:
        if region.plane in (None, plane):
            inside = free & region.contains(points)
            names[inside], free = region.name, free & ~inside
    return names


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
    """Read polygons from GeoJSON, or the areas of a label image (each id is a region).

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
        found = [Region(str(cell), _centred(outer), _centred(holes)) for cell, outer, holes in cell_outlines(labels)]
    else:
        try:
            found = _parse(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(f"{path}: this cannot be read as GeoJSON ({error}).") from error
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
        name = properties.get("name") or (properties.get("classification") or {}).get("name") or f"region {len(regions) + 1}"
        outer, holes = [polygon[0] for polygon in rings], [ring for polygon in rings for ring in polygon[1:]]
        regions.append(Region(str(name), _centred(outer), _centred(holes)))
    return regions


def _centred(rings: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], ...]:
    """From corners of pixels to coordinates in which whole numbers are centres of pixels."""
    return tuple(ring.astype(float) - 0.5 for ring in rings)


def _clipped_area(ring: NDArray[np.float64], shape: tuple[int, int]) -> float:
    """Give the area of a ring inside the image (Sutherland and Hodgman 1974: cut by one side after the other)."""
    for axis, sign, edge in ((0, 1, -0.5), (1, 1, -0.5), (0, -1, 0.5 - shape[0]), (1, -1, 0.5 - shape[1])):
        if not len(ring):
            return 0.0
        ahead = sign * ring[:, axis] - edge  # 0 or more: inside
        nxt, after = np.roll(ring, -1, axis=0), np.roll(ahead, -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            cut = ring + (nxt - ring) * (ahead / (ahead - after))[:, None]
        crosses = (ahead >= 0) != (after >= 0)
        both = np.stack([ring, cut], axis=1).reshape(-1, 2)
        ring = both[np.stack([ahead >= 0, crosses], axis=1).ravel()]
    return abs(signed_area(ring)) if len(ring) else 0.0
