"""From labels to numbers: one row a cell, one row an image."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from napari_tally.core.images import Image

_OTHER_SIZE = 2.0
"""Factor by which cells differ from those in training before it is worth a word."""
_FEW_CELLS = 5


def measure_cells(labels: NDArray[np.integer], image: Image) -> pd.DataFrame:
    """Measure every cell.

    Parameters
    ----------
    labels : int array of shape `image.shape`
        0 or less = no cell. Ids count within a plane.
    image : Image
        For intensities, name and pixel size.

    Returns
    -------
    pandas.DataFrame
        One row a cell and plane: image, plane, label, y and x (centroid in pixels), area_px,
        area_um2 (NaN where the pixel size is unknown), mean_intensity (one column a channel if there
        are several), touches_border.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if labels.shape != image.shape:
        raise ValueError(f"{image.name}: labels of shape {labels.shape} on an image of shape {image.shape}.")
    stack = np.maximum(labels, 0).reshape(-1, *labels.shape[-2:])
    tables = [_measure_plane(plane, image, p) for p, plane in enumerate(stack)]
    return pd.concat(tables, ignore_index=True)


def _measure_plane(labels: NDArray[np.integer], image: Image, p: int) -> pd.DataFrame:
    table = regionprops_table(
        labels, image.planes[p].transpose(1, 2, 0), properties=["label", "centroid", "area", "bbox", "mean_intensity"]
    )
    height, width = labels.shape
    cells = pd.DataFrame({"image": image.name, "plane": p, "label": table["label"].astype(int)})
    cells["y"], cells["x"] = table["centroid-0"], table["centroid-1"]
    cells["area_px"] = table["area"].astype(int)
    um2 = image.pixel_size[0] * image.pixel_size[1] if image.pixel_size else float("nan")
    cells["area_um2"] = cells["area_px"] * um2
    for c in range(image.channels):
        cells["mean_intensity" if image.channels == 1 else f"mean_intensity_{c}"] = table[f"mean_intensity-{c}"]
    cells["touches_border"] = (table["bbox-0"] == 0) | (table["bbox-1"] == 0) | (table["bbox-2"] == height) | (table["bbox-3"] == width)
    return cells


def summarise(cells: pd.DataFrame, image: Image) -> pd.DataFrame:
    """Count the cells of an image.

    Parameters
    ----------
    cells : pandas.DataFrame
        From :func:`measure_cells` of the same image.
    image : Image

    Returns
    -------
    pandas.DataFrame
        One row a plane: image, count, count_without_border (cells that do not touch the border of the
        image), plane, covered_percent (area of the plane that cells cover), cells_per_mm2 (NaN where the
        pixel size is unknown), mean_area_px, mean_area_um2.
    """
    height, width = image.shape[-2:]
    mm2 = height * width * image.pixel_size[0] * image.pixel_size[1] * 1e-6 if image.pixel_size else float("nan")
    rows = []
    for p in range(len(image.planes)):
        here = cells[cells["plane"] == p]
        rows.append(
            {
                "image": image.name,
                "count": len(here),
                "count_without_border": int((~here["touches_border"].astype(bool)).sum()),
                "plane": p,
                "covered_percent": 100 * here["area_px"].sum() / (height * width),
                "cells_per_mm2": len(here) / mm2,
                "mean_area_px": here["area_px"].mean(),
                "mean_area_um2": here["area_um2"].mean(),
            }
        )
    return pd.DataFrame(rows)


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as CSV (UTF-8, decimal points, 6 significant digits), whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    table.to_csv(partial, index=False, float_format="%.6g")
    partial.replace(path)


def size_remark(labels: NDArray[np.integer], expected: float) -> str:
    """Say so where the cells that were found are much larger or smaller than those that the model knows; "" where all is well.

    Parameters
    ----------
    labels : (..., Y, X) int
        What was found, 0 = background.
    expected : float
        Diameter in pixels that the model expects, from :func:`napari_tally.core.predict.expected_diameter`; NaN if unknown.
    """
    areas = np.bincount(labels[labels > 0])
    areas = areas[areas > 0]
    if areas.size < _FEW_CELLS or not expected > 0:
        return ""
    found = float(np.sqrt(4 / np.pi * np.median(areas)))
    if 1 / _OTHER_SIZE <= found / expected <= _OTHER_SIZE:
        return ""
    return (
        f"The cells found are about {found:.0f} px across, but at this magnification the model expects about {expected:.0f} px. "
        "If they look wrong, state the cell diameter, or annotate an image like this one and train on."
    )
