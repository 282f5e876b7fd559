"""What the dock says of a count: the number, what stands below it, and a row for each image or plane."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import pandas as pd

from napari_tally.core.counting import size_remark
from napari_tally.core.results import few
from napari_tally.core.words import number
from napari_tally.widgets._counting import Counted
from napari_tally.widgets._results import MANY_COLOURS


class Row(NamedTuple):
    """A row of the table: an image or a plane, and its numbers as text."""

    name: str
    cells: str
    inside: str
    density: str


def headline(rows: pd.DataFrame) -> str:
    """Give the number of cells that count."""
    return number(f"{int(rows['count'].sum()):,}", "cell")


def details(shown: Sequence[Counted], rows: pd.DataFrame, not_counted: Sequence[str]) -> list[str]:
    """Say what there is to know of a count, a line each.

    Parameters
    ----------
    shown : sequence of Counted
    rows : pandas.DataFrame
        Their tables, one below the other; see :func:`napari_tally.core.counting.summarise`.
    not_counted : sequence of str
        Names of images that are asked for too, and that nobody has counted.
    """
    n, inside, found = (int(rows[column].sum()) for column in ("count", "count_without_border", "found"))
    lines = [f"{inside:,} of them do not touch the border" if inside < n else "None of them touches the border"] if n else []
    if found > n:
        in_grey = all(counted.cells["label"].max() <= MANY_COLOURS for counted in shown if len(counted.cells))
        lines.append(f"{number(found - n, 'more cell')} found, not counted" + (" (grey)" if in_grey else " (too many cells to grey them)"))
    if len(shown) > 1 or not_counted:
        lines.append(f"In {len(shown)} of {len(shown) + len(not_counted)} images" if not_counted else f"In {len(shown)} images")
    elif len(rows) > 1:
        lines.append(f"In {len(rows)} planes")
    elif shown[0].planes is not None:
        lines.append(f"Only of {shown[0].image.plane_name(int(rows['plane'].iloc[0]))}")
    if len(rows) == 1:
        density, unknown = rows["cells_per_mm2"].item(), "No density: the pixel size is not known. You can state it below"
        lines.append(f"{density:,.0f} cells/mm²" if np.isfinite(density) else unknown)
        which = "Cells" if (rows["count"] == rows["found"]).all() else "All cells found, also those that do not count,"
        lines.append(f"{which} cover {rows['covered_percent'].item():.1f} % of the {'plane' if shown[0].planes else 'image'}")
    if not_counted:
        lines.append(f"<b>Please look:</b> not counted yet: {escape(few(list(not_counted)))}. Press Count cells.")
    return lines


def remarks(shown: Sequence[Counted]) -> list[str]:
    """Give what the user should know of each image, with its name; "" is left out."""
    lines = []
    for counted in shown:
        size = size_remark(counted.cells["area_px"], counted.diameter * counted.found.zoom)
        lines += [f"{counted.layer.name}: {text}" for text in (size, *counted.remarks) if text]
    return lines


def table(shown: Sequence[Counted], of_each: Sequence[pd.DataFrame]) -> list[Row]:
    """Lay out a row for each image, or each plane of a stack."""
    made = []
    for counted, rows in zip(shown, of_each, strict=True):
        for row in rows.itertuples():
            name = f"{row.image}, {counted.image.plane_name(int(row.plane))}" if len(counted.image.planes) > 1 else row.image
            density = f"{row.cells_per_mm2:,.0f}" if np.isfinite(row.cells_per_mm2) else "–"
            made.append(Row(name, f"{row.count:,}", f"{row.count_without_border:,}", density))
    return made
