"""Measuring cells that are bodies: a row a cell and volume, from sums that are taken slice by slice."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pandas as pd

from napari_tally.core.images import Image
from napari_tally.core.large import how_to_add, sums_of, with_sums


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
        image, plane (the one that the centroid lies in), volume (its number), label, z, y, x (centroid in voxels), slices (how many the
        cell is in), volume_vx, area_px (of the largest slice of the cell), mean_, min_ and max_intensity (with a number for the channel
        if there are several), touches_top_left and touches_border (of the volume, its first and last slice too).
    """
    n = max(1, image.slices)
    found = []
    for p in range(len(image.planes)):
        found.append(_measure_slice(labels, image, p, n))
        yield (p + 1) / len(image.planes)
    how = {"slices": "sum", "voxels": "sum", "z": "sum", "y": "sum", "x": "sum", "area": "max"} | how_to_add(image)
    sums = pd.concat(found).groupby(["volume", "label"]).agg(how).reset_index()
    voxels = sums["voxels"].to_numpy(np.int64)
    z, y, x = (sums[axis].to_numpy(float) / voxels for axis in "zyx")
    volume = sums["volume"].to_numpy(int)
    cells = pd.DataFrame({"image": image.name, "plane": volume * n + np.rint(z).astype(int), "volume": volume})
    cells["label"] = sums["label"].to_numpy(int)
    cells["z"], cells["y"], cells["x"] = z, y, x
    cells["slices"] = sums["slices"].to_numpy(int)
    cells["volume_vx"] = voxels
    cells["area_px"] = sums["area"].to_numpy(np.int64)
    return with_sums(cells, sums, voxels, image)


def _measure_slice(labels: Any, image: Image, p: int, slices: int) -> pd.DataFrame:
    """Add up what lies in a slice: a row a cell."""
    v, z = divmod(p, slices)
    table = sums_of(labels, image, p, slice(0, image.shape[-2]), slice(0, image.shape[-1]))
    table["first"] |= z == 0
    table["border"] |= z in (0, slices - 1)
    return table.assign(volume=v, slices=1, voxels=table["area"], z=table["area"] * float(z))
