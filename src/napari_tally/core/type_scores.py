"""How well types of cells are told apart: areas and counts by class, the background first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_tally.core.cell_types import require_numbers, types_of_ids
from napari_tally.core.overlap import Overlap
from napari_tally.core.pixel_metrics import Confusion, confusion
from napari_tally.core.tables import read_table


@dataclass(frozen=True, eq=False)
class TypeScores:
    """Pixels and cells by class; those of several images can be added.

    Attributes
    ----------
    pixels : Confusion
        Classes are the background and types 1, 2, ...; it has their IoU and Dice and the means over those that are there.
    true_counts, predicted_counts : (types,) int
        Cells of each type.
    """

    pixels: Confusion
    true_counts: NDArray[np.int64]
    predicted_counts: NDArray[np.int64]

    def __add__(self, other: "TypeScores") -> "TypeScores":
        """Give both together."""
        counts = self.true_counts + other.true_counts, self.predicted_counts + other.predicted_counts
        return TypeScores(self.pixels + other.pixels, *counts)

    def as_dict(self) -> dict[str, Any]:
        """Give all numbers as JSON values; what does not exist is null."""
        cells = [(None, None), *zip(self.true_counts.tolist(), self.predicted_counts.tolist(), strict=True)]
        rows = zip(class_names(len(self.true_counts)), self.pixels.iou.tolist(), self.pixels.dice.tolist(), cells, strict=True)
        return {
            "classes": [
                {"class": name, "iou": _value(iou), "dice": _value(dice), "true_count": true, "predicted_count": predicted}
                for name, iou, dice, (true, predicted) in rows
            ],
            "mean_iou": _value(self.pixels.mean_iou),
            "mean_dice": _value(self.pixels.mean_dice),
        }


def class_names(types: int) -> list[str]:
    """Give the names of the classes.

    Examples
    --------
    >>> class_names(2)
    ['background', 'type 1', 'type 2']
    """
    return ["background", *(f"type {k}" for k in range(1, types + 1))]


def _value(score: float) -> float | None:
    return None if score != score else score


@dataclass(frozen=True, eq=False)
class TypeRule:
    """How to know the type of a cell.

    Attributes
    ----------
    types : int
    ids_per_type : int
        The number of a cell tells its type; see :mod:`napari_tally.core.cell_types`.
    predicted : mapping of str to pandas.Series, optional
        Image -> the type of each predicted cell, by its number: what predicts numbers cells through, whatever type they are of. Left out:
        by their numbers, as the true ones.
    """

    types: int
    ids_per_type: int
    predicted: Mapping[str, "pd.Series[int]"] | None = field(default=None)

    def scores(self, name: str, shared: Overlap, true_ids: NDArray[np.integer], predicted_ids: NDArray[np.integer]) -> TypeScores:
        """Give the scores of an image.

        Parameters
        ----------
        name : str
            The image.
        shared : Overlap
        true_ids, predicted_ids : (n + 1,) int
            The numbers of the pieces as they are in the files; entry 0 is the background.

        Raises
        ------
        ValueError
            If a cell is of no type that there is.
        """
        of_true = self._by_number(true_ids, f"{name}, truth: ")
        of_predicted = self._by_number(predicted_ids, f"{name}: ") if self.predicted is None else self._by_table(predicted_ids, name)
        true_counts, predicted_counts = (np.bincount(of[1:], minlength=self.types + 1)[1:] for of in (of_true, of_predicted))
        return TypeScores(confusion(shared, of_true, of_predicted, self.types + 1), true_counts, predicted_counts)

    def _by_number(self, ids: NDArray[np.integer], where: str) -> NDArray[np.int64]:
        require_numbers(ids[1:], self.types, self.ids_per_type, where)
        return np.append(0, types_of_ids(ids[1:], self.ids_per_type))

    def _by_table(self, ids: NDArray[np.integer], name: str) -> NDArray[np.int64]:
        assert self.predicted is not None
        known = self.predicted.get(name, pd.Series(dtype=float)).reindex(ids[1:]).to_numpy(float)
        if (odd := ~np.isin(known, np.arange(1, self.types + 1))).any():
            number, kind = ids[1:][odd][0], known[odd][0]
            said = (
                f"is of type {kind:g} in the table of cells, and the types are 1 to {self.types}" if kind == kind else "has no type there"
            )
            raise ValueError(
                f"{name}: cell {number} {said}. Ask for as many types as the model tells apart, with the table of cells of these labels."
            )
        return np.append(0, known.astype(np.int64))


def read_types(path: str | Path) -> dict[str, "pd.Series[int]"] | None:
    """Read the types of cells from the table of cells of a folder of results.

    Returns
    -------
    dict of str to pandas.Series, or None
        Image -> types by the number of the cell; None where the table has no column ``type``.

    Raises
    ------
    ValueError
        If it is no such table, or a cell is in it twice.
    """
    table = read_table(path, wanted=("image", "label"), numbers=("label", "type"))
    if "type" not in table:
        return None
    if (twice := table[table.duplicated(["image", "label"])]).size:
        raise ValueError(f"{path}: cell {twice['label'].iloc[0]:g} of {twice['image'].iloc[0]} is there twice, so its type is not known.")
    return {str(image): cells.set_index("label")["type"] for image, cells in table.groupby("image")}
