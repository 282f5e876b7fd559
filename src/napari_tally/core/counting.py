"""From labels to numbers: one row a cell, one row an image. Which cells count is a rule, and the tables say it.

::

    rule "frame"   ■━━━━━━■━━━━┐       ■ on the first row or column of pixels: does not count
    (the edges of  ┃           ┊       □ inside, or on the last row or column: counts
    the image)     ┃    □      □       So each cell counts in exactly one of images laid side by side,
                   ■           ┊       and the area that belongs to the count is that without
                   └┄┄┄┄□┄┄┄┄┄┄┘       the first row and column.

Where cells keep their numbers from slice to slice of a z-stack, they are bodies: one row a cell and one a volume, and the border has
a first and a last slice too.

References
----------
H. J. G. Gundersen: Notes on the estimation of the numerical density of arbitrary profiles: the edge effect. J. Microscopy 111, 1977.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from skimage.measure import regionprops
from skimage.segmentation import relabel_sequential

from napari_tally.core.annotations import cells_go_through
from napari_tally.core.body_table import measuring_bodies
from napari_tally.core.events import mapped, part_of, run_to_end
from napari_tally.core.images import Image
from napari_tally.core.large import measuring_pieces
from napari_tally.core.regions import Region, areas, locate
from napari_tally.settings import RuleSettings

_OTHER_SIZE = 2.0
"""Factor by which cells differ from those in training before it is worth a word."""
_FEW_CELLS = 5
_AT_ONCE = 200
"""Cells that are measured between two moments at which a caller may walk away."""
_SHAPES = ("perimeter", "eccentricity", "solidity")
_SQUARE = 0.01
"""A pixel is square if height and width differ by no more than this part."""


def measure_cells(
    labels: Any,
    image: Image,
    rules: RuleSettings | None = None,
    regions: Sequence[Region] | None = None,
    shapes: bool = True,
    are_bodies: bool | None = None,
) -> pd.DataFrame:
    """Measure every cell.

    Parameters
    ----------
    labels : int array of shape `image.shape`, or (P, Y, X) that is read in pieces
        0 or less = no cell. Ids count within a plane; where labels are read in pieces, no id comes in two planes.
    image : Image
        For intensities, name and pixel size.
    rules : RuleSettings, optional
        Which cells count; left out: all.
    regions : sequence of Region, optional
        Named parts of the image. A cell belongs to one: of several to the inner one, where one lies wholly inside the other, else to
        the first.
    shapes : bool
        Measure perimeter, eccentricity and solidity too, about a millisecond a cell; not of labels that are read in pieces.
    are_bodies : bool, optional
        The cells go through the slices of a z-stack. Left out: seen from the labels, whether cells keep their ids from slice to slice.

    Returns
    -------
    pandas.DataFrame
        Of volumes: see :func:`napari_tally.core.body_table.measuring_bodies`.
        Else one row a cell and plane: image, plane, label, y and x (centroid in pixels; whole numbers are centres of pixels), y_um and x_um
        (from the corner of the image), area_px, area_um2, perimeter_px, perimeter_um (only of square pixels), eccentricity, solidity,
        mean_intensity, min_intensity, max_intensity (with a number for the channel if there are several), touches_top_left and
        touches_border (of the image), counted, and region where there are regions. What is in um is NaN where the pixel size is unknown.

    Raises
    ------
    ValueError
        If the shapes differ, or the rule is in um2 and the pixel size is unknown.
    """
    return run_to_end(measuring_cells(labels, image, rules, regions, shapes, are_bodies))


def measuring_cells(
    labels: Any,
    image: Image,
    rules: RuleSettings | None = None,
    regions: Sequence[Region] | None = None,
    shapes: bool = True,
    are_bodies: bool | None = None,
) -> Generator[float, None, pd.DataFrame]:
    """Compute :func:`measure_cells`; yield the fraction that is done."""
    is_whole = isinstance(labels, np.ndarray)
    if is_whole and labels.shape != image.shape:
        raise ValueError(f"{image.name}: labels of shape {labels.shape} on an image of shape {image.shape}.")
    stack = np.maximum(labels, 0).reshape(-1, *labels.shape[-2:]) if is_whole else labels
    if cells_go_through(stack, image.slices) if are_bodies is None else are_bodies:
        cells = yield from measuring_bodies(stack, image)
    elif is_whole:
        planes = []
        for p, plane in enumerate(stack):
            planes.append((yield from mapped(_measure_plane(plane, image, p, shapes), part_of(len(stack), p))))
        cells = pd.concat(planes, ignore_index=True)
    else:
        cells = yield from measuring_pieces(stack, image)
    return apply_rules(cells, image, rules, regions)


def apply_rules(
    cells: pd.DataFrame, image: Image, rules: RuleSettings | None = None, regions: Sequence[Region] | None = None
) -> pd.DataFrame:
    """Decide anew which of the cells that are measured count, and in which region they lie; give a new table.

    Parameters
    ----------
    cells : pandas.DataFrame
        From :func:`measure_cells` of the same image, whatever its rules were.
    image, rules, regions
        As there.

    Raises
    ------
    ValueError
        If the rule is in um2 and the pixel size is unknown.
    """
    rules = rules or RuleSettings()
    image = image.calibrated(rules.pixel_size)
    cells = _in_micrometres(cells.drop(columns="region", errors="ignore"), image)
    cells["counted"] = _counted(cells, rules, image)
    if regions:
        names = np.full(len(cells), "", object)
        slices, planes = (image.slices, cells["volume"] * image.slices) if "volume_vx" in cells else (1, cells["plane"])
        regions = _from_above(regions, slices)
        for p in range(0, len(image.planes), slices):
            here = (planes == p).to_numpy()
            names[here] = locate(regions, cells.loc[here, ["y", "x"]].to_numpy(float), p)
        cells["region"] = names
    return cells


def _in_micrometres(cells: pd.DataFrame, image: Image) -> pd.DataFrame:
    """Give a table with what is measured in pixels in micrometres too, each column behind its own; NaN where their size is unknown."""
    height, width = image.pixel_size or (float("nan"), float("nan"))
    sides = {"z": image.z_size or float("nan"), "y": height, "x": width}
    factors = {
        "area_px": ("area_um2", height * width),
        "perimeter_px": ("perimeter_um", height if abs(height - width) <= _SQUARE * height else float("nan")),
        "volume_vx": ("volume_um3", sides["z"] * height * width),
    }
    derived = [f"{axis}_um" for axis in sides] + [name for name, _ in factors.values()]
    cells, table = cells.drop(columns=derived, errors="ignore"), dict[str, Any]()
    for column in cells:
        table[column] = cells[column]
        if column == "x":  # the corner of the image, not the centre of its first pixel, is the origin
            table |= {f"{axis}_um": (cells[axis] + 0.5) * side for axis, side in sides.items() if axis in cells}
        elif column in factors:
            name, factor = factors[column]
            table[name] = cells[column] * factor
    return pd.DataFrame(table)


def _from_above(regions: Sequence[Region], slices: int) -> list[Region]:
    """Give regions of volumes as those of the first slice, which stands for all."""
    return [region if region.plane is None else replace(region, plane=region.plane - region.plane % slices) for region in regions]


def _measure_plane(labels: NDArray[np.integer], image: Image, p: int, shapes: bool) -> Generator[float, None, pd.DataFrame]:
    whole = slice(0, image.shape[-2]), slice(0, image.shape[-1])
    ids = None
    if labels.max(initial=0) > labels.size:  # regionprops walks through all ids up to the highest
        labels, _, ids = relabel_sequential(labels)
    found = regionprops(labels, image.read(p, whole).transpose(1, 2, 0))
    names = ["label", "centroid-0", "centroid-1", "area", *(f"bbox-{i}" for i in range(4)), *(_SHAPES if shapes else ())]
    names += [f"intensity_{what}-{c}" for what in ("mean", "min", "max") for c in range(image.channels)]
    rows = np.empty((len(found), len(names)))
    for n, cell in enumerate(found):  # not regionprops_table, which is at it for many seconds
        if n % _AT_ONCE == 0 and n:
            yield n / len(found)
        seen = cell.intensity_mean, cell.intensity_min, cell.intensity_max
        shape = (getattr(cell, name) for name in _SHAPES) if shapes else ()
        rows[n] = [cell.label, *cell.centroid, cell.area, *cell.bbox, *shape, *np.concatenate(seen)]
    table = dict(zip(names, rows.T, strict=True))
    own = table["label"].astype(int)
    cells = pd.DataFrame({"image": image.name, "plane": p, "label": own if ids is None else ids[own].astype(int)})
    cells["y"], cells["x"] = table["centroid-0"], table["centroid-1"]
    cells["area_px"] = table["area"].astype(int)
    if shapes:
        cells["perimeter_px"] = table["perimeter"]
        cells["eccentricity"], cells["solidity"] = table["eccentricity"], table["solidity"]
    for c in range(image.channels):
        for what in ("mean", "min", "max"):
            cells[f"{what}_intensity" + (f"_{c}" if image.channels > 1 else "")] = table[f"intensity_{what}-{c}"]
    cells["touches_top_left"] = (table["bbox-0"] == 0) | (table["bbox-1"] == 0)
    cells["touches_border"] = cells["touches_top_left"] | (table["bbox-2"] == labels.shape[0]) | (table["bbox-3"] == labels.shape[1])
    return cells


def _counted(cells: pd.DataFrame, rules: RuleSettings, image: Image) -> NDArray[np.bool_]:
    """Apply the rule."""
    if rules.smallest and rules.unit == "um2" and not image.pixel_size:
        raise ValueError(
            f"{image.name}: cells below {rules.smallest:g} um2 shall not count, but the pixel size of the image is not known. "
            "State that size, or the area in pixels."
        )
    area = cells["area_um2" if rules.unit == "um2" else "area_px"]
    large = (area >= rules.smallest).to_numpy() if rules.smallest else np.ones(len(cells), bool)
    column = {"all": None, "exclude": "touches_border", "frame": "touches_top_left"}[rules.border]
    return large & ~cells[column].to_numpy(bool) if column else large


def describe_rule(rules: RuleSettings) -> str:
    """Say in words which cells count, for the tables."""
    border = {
        "all": "all cells",
        "exclude": "cells that do not touch the border",
        "frame": "unbiased frame: cells that do not touch the top or left edge",
    }[rules.border]
    return border + (f", of at least {rules.smallest:g} {rules.unit}" if rules.smallest else "")


def summarise(
    cells: pd.DataFrame, image: Image, rules: RuleSettings | None = None, regions: Sequence[Region] | None = None
) -> pd.DataFrame:
    """Count the cells of an image.

    Parameters
    ----------
    cells : pandas.DataFrame
        From :func:`measure_cells` of the same image, with the same rules and regions.
    image : Image
    rules : RuleSettings, optional
    regions : sequence of Region, optional
        Left out: a row a plane. Given: a row a region of a plane, and one for what lies outside all of them. Where regions overlap,
        areas go to the region that the cells there go to: that of "tissue" is without the "tumour" that lies inside it.
        Of cells that are bodies: a row a volume; regions are seen from above.

    Returns
    -------
    pandas.DataFrame
        image, [region,] count (of the cells that count), count_without_border (of these, cells that do not touch the border of the
        image), found (cells before the rule), plane, area_px and area_mm2 (of the plane, of its unbiased frame, or of the region),
        covered_percent (of the plane or region, by cells that were found), cells_per_mm2, mean_area_px, mean_area_um2 (of the cells
        that count), rule. NaN where the pixel size is unknown. Of several types of cells count_type_1, count_type_2, ...
        Of volumes plane is the first slice, areas are those of the volume seen from above, covered_percent is that of its voxels,
        and there are slices, volume_mm3, cells_per_mm3, mean_volume_vx and mean_volume_um3 too.
    """
    bodies = "volume_vx" in cells
    rules, rows = rules or RuleSettings(), []
    image = image.calibrated(rules.pixel_size)
    slices = image.slices if bodies else 1
    mm2 = image.pixel_size[0] * image.pixel_size[1] * 1e-6 if image.pixel_size else float("nan")
    shape = (image.shape[-2], image.shape[-1])
    mm3 = mm2 * image.z_size * 1e-3 if image.z_size else float("nan")
    regions = _from_above(regions or (), slices)
    for p in range(0, len(image.planes), slices):
        plane = cells[cells["volume"] == p // slices] if bodies else cells[cells["plane"] == p]
        parts = _areas(regions, shape, p, rules)
        for name, area in parts.items():
            found = plane[plane["region"] == name] if regions else plane
            inside = found["volume_vx"].sum() / slices if bodies else found["area_px"].sum()
            here, visible = found[found["counted"].astype(bool)], area if regions else shape[0] * shape[1]
            row = {
                "image": image.name,
                "region": name,
                "count": len(here),
                "count_without_border": int((~here["touches_border"].astype(bool)).sum()),
                "found": len(found),
                "plane": p,
                "area_px": area,
                "area_mm2": area * mm2,
                "covered_percent": 100 * inside / visible if visible else float("nan"),
                "cells_per_mm2": len(here) / (area * mm2) if area else float("nan"),
                "mean_area_px": here["area_px"].mean(),
                "mean_area_um2": here["area_um2"].mean(),
                **(_of_bodies(here, area * (slices - (rules.border == "frame" and not regions)), slices, mm3) if bodies else {}),
                "rule": describe_rule(rules),
                **({f"count_type_{k}": int(n) for k, n in here["type"].value_counts(sort=False).items()} if "type" in here else {}),
            }
            rows.append(row if regions else {key: value for key, value in row.items() if key != "region"})
    return pd.DataFrame(rows)


def _of_bodies(cells: pd.DataFrame, voxels: float, slices: int, mm3: float) -> dict[str, float]:
    """Give what the table of a volume has beside that of a plane: `cells` that count in so many voxels, of `mm3` each."""
    return {
        "slices": slices,
        "volume_mm3": voxels * mm3,
        "cells_per_mm3": len(cells) / (voxels * mm3) if voxels else float("nan"),
        "mean_volume_vx": cells["volume_vx"].mean(),
        "mean_volume_um3": cells["volume_um3"].mean(),
    }


def _areas(regions: Sequence[Region], shape: tuple[int, int], plane: int, rules: RuleSettings) -> dict[str, float]:
    """Give name -> pixels of the regions of a plane, and of what lies outside; of no regions: of the plane."""
    line = int(rules.border == "frame")
    return areas(regions, shape, plane, line) if regions else {"": float((shape[0] - line) * (shape[1] - line))}


def pixel_remark(image: Image, rules: RuleSettings) -> str:
    """Say so where the rules state another size of pixels than the image itself; "" where they do not."""
    if not (image.pixel_size and rules.pixel_size) or np.allclose(rules.pixel_size, image.pixel_size, rtol=_SQUARE):
        return ""
    height, width = image.pixel_size
    own = f"{width:.4g}" if np.isclose(height, width) else f"{width:.4g} × {height:.4g}"
    return f"Pixels are taken to be {rules.pixel_size:.4g} µm wide, as you stated; the file says {own} µm."


def planes_remark(image: Image, are_bodies: bool) -> str:
    """Say so where one cell may count several times, as planes are counted one by one; "" where there are none, or cells are bodies."""
    n, slices = len(image.planes), image.slices if image.axes.endswith("Z") else 1
    if are_bodies and n <= image.slices or n < 2:
        return ""
    if slices > 1 and not are_bodies:
        return (
            f"The {slices} slices of this z-stack are counted one by one, so a cell counts in each slice that shows it. "
            "It counts once where it keeps its number from slice to slice, as a model that was trained on volumes (3-D) gives it."
        )
    if "T" in image.axes:
        return f"The {n // slices} frames of this time series are counted one by one and added up: a cell counts in each that shows it."
    return (
        f"The {n} planes of this image are counted one by one and added up; what they are is not known. "
        "If they are channels, count one of them alone (in the window: right-click on the layer, Split Stack)."
    )


def size_remark(areas: ArrayLike, expected: float) -> str:
    """Say so where the cells that were found are much larger or smaller than those that the model knows; "" where all is well.

    Parameters
    ----------
    areas : (n,) array
        Of the cells that were found, in pixels.
    expected : float
        Diameter in pixels that the model expects; NaN if unknown.
    """
    areas = np.asarray(areas)
    if areas.size < _FEW_CELLS or not expected > 0:
        return ""
    found = float(np.sqrt(4 / np.pi * np.median(areas)))
    if 1 / _OTHER_SIZE <= found / expected <= _OTHER_SIZE:
        return ""
    return (
        f"The cells found are about {found:.0f} px across, but at this magnification the model expects about {expected:.0f} px. "
        "If they look wrong, state the cell diameter, or annotate an image like this one and train on."
    )
