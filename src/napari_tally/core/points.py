"""Points as annotation: a dot a cell, as many labs count. Dots become discs to train on (``export`` makes dots of what is found).

Files are CSV as napari writes Points layers: a column for each axis, ``axis-0``, ``axis-1`` (of a stack the plane comes first), or
``y`` and ``x`` (and ``plane``). Positions are in pixels, (0, 0) is the middle of the first one.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from napari_tally.core.tables import read_table


def discs(points: NDArray[np.floating], shape: tuple[int, ...], radius: float) -> NDArray[np.int32]:
    """Draw a disc around every point; where discs meet, each pixel belongs to the nearest point.

    Parameters
    ----------
    points : (n, 2) or (n, 3) float
        y and x in pixels, of a stack with the plane before them.
    shape : tuple of int
        (Y, X), or (planes, Y, X).
    radius : float
        In pixels.

    Returns
    -------
    int32 array of `shape`
        Point i has the number i + 1; 0 = background.

    Raises
    ------
    ValueError
        If the points have another number of axes, or one lies outside.
    """
    points = np.asarray(points, float).reshape(-1, len(shape)) if len(points) == 0 else np.asarray(points, float)
    if points.shape[1] != len(shape):
        raise ValueError(f"The points have {points.shape[1]} coordinates and the image has {len(shape)} axes; one a axis is wanted.")
    pixels = np.round(points).astype(int)
    if outside := int(((pixels < 0) | (pixels >= shape)).any(1).sum()):
        raise ValueError(f"{outside} of {len(points)} points lie outside the image of {' x '.join(map(str, shape))} pixels.")
    planes = np.zeros((int(np.prod(shape[:-2])), *shape[-2:]), np.int32)
    at = np.ravel_multi_index(tuple(pixels[:, :-2].T), shape[:-2]) if len(shape) > 2 else np.zeros(len(points), int)
    for p, plane in enumerate(planes):
        if not (here := np.flatnonzero(at == p)).size:
            continue
        near = np.zeros(plane.shape, bool)  # only these pixels are asked for: a plane has many more
        for y, x in pixels[here, -2:]:
            reach = int(radius) + 1
            near[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
        distance, nearest = KDTree(points[here, -2:]).query(np.argwhere(near), distance_upper_bound=np.nextafter(radius, np.inf))
        plane[near] = np.append(here + 1, 0)[np.where(np.isfinite(distance), nearest, here.size)]
        plane[tuple(pixels[here, -2:].T)] = here + 1  # a radius below one pixel, or two points in one
    return planes.reshape(shape)


def read_points(path: str | Path) -> NDArray[np.float64]:
    """Read the positions of a CSV file.

    Returns
    -------
    (n, 2) or (n, 3) float

    Raises
    ------
    ValueError
        If there is no such file, or no columns of positions.
    """
    table = read_table(path)
    napari = sorted((name for name in table if name.startswith("axis-")), key=lambda name: int(name.removeprefix("axis-")))
    own = [name for name in ("plane", "y", "x") if name in table]
    columns = napari or own
    if columns[-2:] != ["y", "x"] and len(napari) < 2:
        names = ", ".join(map(str, table))
        raise ValueError(f"{path}: the columns are {names}; axis-0 and axis-1 (as napari writes them) or y and x are wanted.")
    values = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {int((~np.isfinite(values)).any(1).sum())} of {len(values)} rows hold no numbers.")
    return values
