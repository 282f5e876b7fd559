"""The folder of results: what was counted in all images of a study, as tables that are written anew each time.

::

    results/  cells.csv      one row a cell
              counts.csv     one row an image (plane)
              regions.csv    one row a region of an image    where regions are given
              groups.csv     one row a group of images       where groups are given
              failed.csv     one row an image that could not be counted, with the reason: it has no row elsewhere
              labels/        label images                    (written by whoever predicts)
              record.json    how it came about               (core/record.py)

With pyarrow, each table is written as Parquet too.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_tally.core.cell_types import with_types
from napari_tally.core.counting import apply_rules, describe_rule, measuring_cells, summarise
from napari_tally.core.events import run_to_end
from napari_tally.core.files import whole_file
from napari_tally.core.image_files import SUFFIXES
from napari_tally.core.images import Image
from napari_tally.core.regions import Region
from napari_tally.core.tables import read_table, writing_table
from napari_tally.core.words import as_text
from napari_tally.settings import RuleSettings

TABLES = ("cells", "counts", "regions", "groups", "failed")
Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]
"""Of the cells of an image, of the image, and of its regions, if there are any."""


def few(names: Sequence[str], most: int = 5) -> str:
    """Name the first of many things, for a sentence: "a, b, c …"."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


@dataclass
class Results:
    """Gathers what is counted, image by image.

    Attributes
    ----------
    rules : RuleSettings
        Which cells count.
    """

    rules: RuleSettings = field(default_factory=RuleSettings)
    _cells: list[pd.DataFrame] = field(default_factory=list)
    _counts: list[pd.DataFrame] = field(default_factory=list)
    _regions: list[pd.DataFrame] = field(default_factory=list)
    _failed: list[tuple[str, str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, labels: Any, image: Image, regions: Sequence[Region] | None = None, group: str = "") -> pd.DataFrame:
        """Count the cells of an image, and take its tables; give its rows of the table of images. See :meth:`measuring`."""
        tables = run_to_end(self.measuring(labels, image, regions, group))
        self.take(*tables)
        return tables[1]

    def measuring(
        self,
        labels: Any,
        image: Image,
        regions: Sequence[Region] | None = None,
        group: str = "",
        types: NDArray[np.integer] | None = None,
        n_types: int = 1,
        are_bodies: bool | None = None,
    ) -> Generator[float, None, Tables]:
        """Count the cells of an image; give the tables of cells, of the image and of its regions, for :meth:`take`.

        Parameters
        ----------
        labels : int array of shape `image.shape`, or (P, Y, X) that is read in pieces
        image : Image
        regions : sequence of Region, optional
        group : str
            The group that the image belongs to; "" = none.
        types, n_types
            The type of each cell, and how many there are: see :class:`napari_tally.core.prediction.Prediction`.
        are_bodies : bool, optional
            As for :func:`measure_cells`.

        Yields
        ------
        float
            The fraction that is done.

        Raises
        ------
        ValueError
            As :func:`measure_cells`.
        """
        cells = yield from measuring_cells(labels, image, self.rules, regions, are_bodies=are_bodies)
        return self._tables(with_types(cells, types, n_types), image, regions, group)

    def by_rules(
        self, cells: pd.DataFrame, image: Image, regions: Sequence[Region] | None = None, group: str = "", n_types: int = 1
    ) -> Tables:
        """Decide anew which of the cells count that :meth:`measuring` gave of an image, whatever its rules, regions and group were."""
        types = cells.get("type")
        cells = apply_rules(cells.drop(columns=["group", "type"], errors="ignore"), image, self.rules, regions)
        if types is not None:
            cells = cells.assign(type=pd.Categorical(types, categories=list(range(1, n_types + 1))))
        return self._tables(cells, image, regions, group)

    def _tables(self, cells: pd.DataFrame, image: Image, regions: Sequence[Region] | None, group: str) -> Tables:
        counts = summarise(cells, image, self.rules)
        parts = summarise(cells, image, self.rules, regions) if regions else None
        for table in (cells, counts) if parts is None else (cells, counts, parts):
            if group:
                table.insert(1 if table is cells else 2, "group", group)
        return cells, counts, parts

    def take(self, cells: pd.DataFrame, counts: pd.DataFrame, regions: pd.DataFrame | None = None) -> None:
        """Take the tables of an image as they are."""
        self._cells.append(cells)
        self._counts.append(counts)
        if regions is not None:
            self._regions.append(regions)

    def pass_over(self, path: Path, reason: str) -> None:
        """Note that an image could not be counted, and why."""
        self._failed.append((as_text(path.stem), as_text(str(path)), as_text(reason)))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Give the tables that there are, by name."""
        tables = {}
        if self._failed:
            tables["failed"] = pd.DataFrame(self._failed, columns=["image", "file", "reason"])
        if not self._counts:
            return tables
        tables |= {"cells": pd.concat(self._cells, ignore_index=True), "counts": pd.concat(self._counts, ignore_index=True)}
        if self._regions:
            tables["regions"] = pd.concat(self._regions, ignore_index=True)
        if "group" in tables["counts"]:
            tables["groups"] = by_group(tables["counts"], describe_rule(self.rules))
        return tables

    def write(self, folder: str | Path) -> list[Path]:
        """Write all tables, each whole or not at all; a table of an earlier run that there is none of now is removed.

        Where nothing was counted, the tables of an earlier run stay, but for that of the images that failed.

        Returns
        -------
        list of Path
            The files.
        """
        return run_to_end(self.writing(folder))

    def writing(self, folder: str | Path) -> Generator[float, None, list[Path]]:
        """Do :meth:`write`; yield the fraction of a table that is done."""
        written, folder = [], Path(folder)
        tables = self.tables()
        for name in TABLES if self._counts else ("failed",):
            path = folder / f"{name}.csv"
            if name in tables:
                written += yield from _writing_tables(path, tables[name])
            else:
                path.unlink(missing_ok=True)
                path.with_suffix(".parquet").unlink(missing_ok=True)
        return written


def _writing_tables(path: Path, table: pd.DataFrame) -> Generator[float, None, list[Path]]:
    """Write a table as CSV and, where pyarrow is installed, as Parquet beside it; give the files."""
    yield from writing_table(path, table)
    if find_spec("pyarrow") is None:
        path.with_suffix(".parquet").unlink(missing_ok=True)  # it would be that of another run
        return [path]
    other = path.with_suffix(".parquet")
    with whole_file(other) as partial:
        table.to_parquet(partial, index=False)
    return [path, other]


def by_group(counts: pd.DataFrame, rule: str = "") -> pd.DataFrame:
    """Compare groups of images.

    Parameters
    ----------
    counts : pandas.DataFrame
        From :func:`summarise`, with a column ``group``. The planes of an image are added up.
    rule : str
        Which cells count, in words.

    Returns
    -------
    pandas.DataFrame
        group, images, count, mean_count, sd_count (between images; NaN for one image), area_mm2, cells_per_mm2 (all cells over all
        area), mean_cells_per_mm2 and sd_cells_per_mm2 (of the images), rule.
    """
    images = counts.groupby(["group", "image"], sort=False, as_index=False)[["count", "area_mm2"]].sum(min_count=1)
    images["density"] = images["count"] / images["area_mm2"]
    groups = images.groupby("group", sort=False)
    table = groups.agg(
        images=("image", "size"),
        count=("count", "sum"),
        mean_count=("count", "mean"),
        sd_count=("count", "std"),
        area_mm2=("area_mm2", lambda area: area.sum(skipna=False)),
        mean_cells_per_mm2=("density", lambda density: density.mean(skipna=False)),
        sd_cells_per_mm2=("density", lambda density: density.std(skipna=False)),
    ).reset_index()
    table.insert(table.columns.get_loc("mean_cells_per_mm2"), "cells_per_mm2", table["count"] / table["area_mm2"])
    return table.assign(rule=rule)


def read_groups(path: str | Path) -> dict[str, str]:
    """Read which image belongs to which group: a CSV file with the columns ``image`` (file name or its stem) and ``group``.

    Raises
    ------
    ValueError
        If the file cannot be read, has no such columns, or names an image twice.
    """
    table = read_table(path, ["image", "group"])[["image", "group"]].dropna(how="all").fillna("")
    groups: dict[str, str] = {}
    for image, group in table.apply(lambda column: column.str.strip()).itertuples(index=False):
        if not image:
            raise ValueError(f"{path}: a line with the group {group} names no image.")
        if not group:
            raise ValueError(f"{path}: the line of {image} names no group. Name one, or leave the image out of the run.")
        stem = Path(image).stem if Path(image).suffix.lower() in (*SUFFIXES, ".zarr") else image
        if groups.setdefault(stem, group) != group:
            raise ValueError(f"{path}: {stem} is in the groups {groups[stem]} and {group}; an image belongs to one.")
    return groups


def group_of(path: Path, groups: Mapping[str, str] | None) -> str:
    """Give the group of an image: by the table, or (None) the name of the folder that it lies in.

    Raises
    ------
    ValueError
        If the table does not name the image.
    """
    if groups is None:
        return path.parent.resolve().name
    if path.stem not in groups:
        raise ValueError(f"{path.name} has no group; add a line for {path.stem} to the table of groups.")
    return groups[path.stem]
