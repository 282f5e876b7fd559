"""Measuring cells that are bodies: a row a cell and volume, from sums that are taken slice by slice."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_tally.core.images import Image


def measuring_bodies(labels: Any, image: Image) -> Generator[float, None, pd.DataFrame]:
    """Measure every cell of the volumes of an image.

    Parameters
    ----------
    labels : (P, Y, X) int
        0 or less = no cell. Ids count within a volume. Read slice by slice.
    image : Image
        Of z-stacks.

    Yields
    ------
    float
        The fraction that is done.

    Returns
    -------
    pandas.DataFrame
        image, plane (the one that the centroid lies in), volume (its number), label, z, y, x (centroid in voxels), z_um, y_um, x_um,
        slices (how many the cell is in), volume_vx, volume_um3, area_px and area_um2 (of the largest slice of the cell), mean_, min_ and
        max_intensity (with a number for the channel if there are several), touches_top_left and touches_border (of the volume, its
        first and last slice too). What is in um is NaN where the size of voxels is unknown.
    """
    n = max(1, image.slices)
    found = []
    for p in range(len(image.planes)):
        found.append(_measure_slice(labels, image, p, n))
        yield (p + 1) / len(image.planes)
    parts = pd.concat(found)
    how = {"slices": "sum", "voxels": "sum", "z": "sum", "y": "sum", "x": "sum", "area": "max", "first": "any", "border": "any"}
    for c in range(image.channels):
        how |= {f"sum_{c}": "sum", f"min_{c}": "min", f"max_{c}": "max"}
    sums = parts.groupby(["volume", "label"]).agg(how).reset_index()
    voxels = sums["voxels"].to_numpy(np.int64)
    height, width = image.pixel_size or (float("nan"), float("nan"))
    depth = image.z_size or float("nan")
    z, y, x = (sums[axis].to_numpy(float) / voxels for axis in "zyx")
    volume = sums["volume"].to_numpy(int)
    cells = pd.DataFrame({"image": image.name, "plane": volume * n + np.rint(z).astype(int), "volume": volume})
    cells["label"] = sums["label"].to_numpy(int)
    cells["z"], cells["y"], cells["x"] = z, y, x
    cells["z_um"], cells["y_um"], cells["x_um"] = (z + 0.5) * depth, (y + 0.5) * height, (x + 0.5) * width
    cells["slices"] = sums["slices"].to_numpy(int)
    cells["volume_vx"], cells["volume_um3"] = voxels, voxels * depth * height * width
    cells["area_px"] = sums["area"].to_numpy(np.int64)
    cells["area_um2"] = cells["area_px"] * height * width
    for c in range(image.channels):
        end = f"_{c}" if image.channels > 1 else ""
        cells["mean_intensity" + end] = sums[f"sum_{c}"].to_numpy() / voxels
        cells["min_intensity" + end], cells["max_intensity" + end] = sums[f"min_{c}"].to_numpy(), sums[f"max_{c}"].to_numpy()
    cells["touches_top_left"], cells["touches_border"] = sums["first"].to_numpy(bool), sums["border"].to_numpy(bool)
    return cells


def _measure_slice(labels: Any, image: Image, p: int, slices: int) -> pd.DataFrame:
    """Add up what lies in a slice: a row a cell."""
    rows, columns = slice(0, image.shape[-2]), slice(0, image.shape[-1])
    drawn = np.maximum(np.asarray(labels[p, rows, columns]), 0)
    y, x = np.nonzero(drawn)
    ids, place = np.unique(drawn[y, x], return_inverse=True)
    v, z = divmod(p, slices)
    first = (y == 0) | (x == 0) | (z == 0)
    last = (y == drawn.shape[0] - 1) | (x == drawn.shape[1] - 1) | (z == slices - 1)

    def add(values: NDArray[Any] | None = None) -> NDArray[Any]:
        return np.bincount(place, weights=values, minlength=len(ids))

    area = add().astype(np.int64)
    table: dict[str, Any] = {"volume": np.full(len(ids), v), "label": ids.astype(np.int64), "slices": np.ones(len(ids), int)}
    table |= {"voxels": area, "area": area, "z": area * float(z), "y": add(y), "x": add(x)}
    table |= {"first": add(first) > 0, "border": add(first | last) > 0}
    pixels = image.read(p, (rows, columns)) if len(ids) else None
    for c in range(image.channels):
        values = np.zeros(0) if pixels is None else pixels[c, y, x].astype(np.float64)
        low, high = np.full(len(ids), np.inf), np.full(len(ids), -np.inf)
        np.minimum.at(low, place, values)
        np.maximum.at(high, place, values)
        table |= {f"sum_{c}": add(values), f"min_{c}": low, f"max_{c}": high}
    return pd.DataFrame(table)
