"""Measuring the cells of labels that do not fit into memory: sums over pieces, the same numbers as of the whole."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pandas as pd

from napari_tally.core.images import Image
from napari_tally.core.lazy import pieces

_SIDE = 1024
"""Of a piece, in pixels."""


def measuring_pieces(labels: Any, image: Image, side: int = _SIDE) -> Generator[float, None, pd.DataFrame]:
    """Measure every cell, piece by piece.

    Parameters
    ----------
    labels : (P, Y, X) array of int
        Read in pieces; no id comes in two planes.
    image : Image
    side : int
        Of a piece, in pixels.

    Yields
    ------
    float
        The fraction that is done.

    Returns
    -------
    pandas.DataFrame
        As :func:`napari_tally.core.counting.measure_cells` without shapes, before any rule.
    """
    sums, all_pieces = [], list(pieces(labels.shape, side))
    for n, piece in enumerate(all_pieces, start=1):
        sums.append(sums_of(labels, image, *piece))
        yield n / len(all_pieces)
    how = {"plane": "max"} | dict.fromkeys(("area", "y", "x"), "sum")
    parts = pd.concat(sums).groupby("label").agg(how | how_to_add(image))  # a row a cell, in the order of the labels
    cells = pd.DataFrame({"image": image.name, "plane": parts["plane"].to_numpy(int), "label": parts.index.to_numpy(int)})
    area = parts["area"].to_numpy(np.int64)
    cells["y"], cells["x"] = parts["y"].to_numpy() / area, parts["x"].to_numpy() / area
    cells["area_px"] = area
    return with_sums(cells, parts, area, image)


def how_to_add(image: Image) -> dict[str, str]:
    """Say how what :func:`sums_of` gives of each piece is put together, but for places and areas."""
    how = {"border": "any", "first": "any"}
    for c in range(image.channels):
        how |= {f"sum_{c}": "sum", f"min_{c}": "min", f"max_{c}": "max"}
    return how


def with_sums(cells: pd.DataFrame, parts: pd.DataFrame, sizes: Any, image: Image) -> pd.DataFrame:
    """Add the columns of intensity and border to a table, from sums over cells of so many pixels or voxels."""
    for c in range(image.channels):
        end = f"_{c}" if image.channels > 1 else ""
        cells["mean_intensity" + end] = parts[f"sum_{c}"].to_numpy() / sizes
        cells["min_intensity" + end], cells["max_intensity" + end] = parts[f"min_{c}"].to_numpy(), parts[f"max_{c}"].to_numpy()
    cells["touches_top_left"], cells["touches_border"] = parts["first"].to_numpy(bool), parts["border"].to_numpy(bool)
    return cells


def sums_of(labels: Any, image: Image, p: int, rows: slice, columns: slice) -> pd.DataFrame:
    """Add up what lies in a piece of a plane: a row a cell. Whether it touches a border is that of the plane."""
    piece = np.maximum(np.asarray(labels[p, rows, columns]), 0)
    down, right = np.nonzero(piece)
    ids, place = np.unique(piece[down, right], return_inverse=True)
    y, x = down + rows.start, right + columns.start
    first = (y == 0) | (x == 0)
    last = (y == image.shape[-2] - 1) | (x == image.shape[-1] - 1)
    n = len(ids)
    table = {
        "label": ids.astype(np.int64),
        "plane": np.full(n, p),
        "area": np.bincount(place, minlength=n),
        "y": np.bincount(place, weights=y, minlength=n),
        "x": np.bincount(place, weights=x, minlength=n),
        "border": np.bincount(place, weights=first | last, minlength=n) > 0,
        "first": np.bincount(place, weights=first, minlength=n) > 0,
    }
    pixels = image.read(p, (rows, columns)) if n else None
    for c in range(image.channels):
        values = np.zeros(0) if pixels is None else pixels[c, down, right].astype(np.float64)
        low, high = np.full(n, np.inf), np.full(n, -np.inf)
        np.minimum.at(low, place, values)
        np.maximum.at(high, place, values)
        table |= {f"sum_{c}": np.bincount(place, weights=values, minlength=n), f"min_{c}": low, f"max_{c}": high}
    return pd.DataFrame(table)
