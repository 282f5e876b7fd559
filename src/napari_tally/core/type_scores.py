"""How well types of cells are told apart: areas, counts and matched cells by class, the background first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_tally.core.cell_types import require_numbers, types_of_ids
from napari_tally.core.matching import THRESHOLDS, Matching, match
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
    matched : (types, thresholds, 3) int
        TP, FP and FN of each type at each of :data:`~napari_tally.core.matching.THRESHOLDS`. A pair of a true and a predicted cell is one
        of the same type, so a cell that is found as one of another type is missed in its own and false in the other.
    """

    pixels: Confusion
    true_counts: NDArray[np.int64]
    predicted_counts: NDArray[np.int64]
    matched: NDArray[np.int64]

    def __add__(self, other: "TypeScores") -> "TypeScores":
        """Give both together."""
        counts = self.true_counts + other.true_counts, self.predicted_counts + other.predicted_counts
        return TypeScores(self.pixels + other.pixels, *counts, self.matched + other.matched)

    @property
    def matchings(self) -> list[tuple[Matching, ...]]:
        """The matchings of each type, one for each threshold."""
        return [tuple(Matching(t, *counts) for t, counts in zip(THRESHOLDS, of_type, strict=True)) for of_type in self.matched.tolist()]

    @property
    def bias(self) -> NDArray[np.float64]:
        """(predicted - true) / true of the count of each type; NaN where there is none."""
        return np.where(self.true_counts > 0, (self.predicted_counts - self.true_counts) / np.maximum(self.true_counts, 1), np.nan)

    def as_dict(self) -> dict[str, Any]:
        """Give all numbers as JSON values; what does not exist is null."""
        of_cells: list[dict[str, Any]] = [
            {"true_count": true, "predicted_count": predicted, "bias": _value(bias), "matching": [m.as_dict() for m in matchings]}
            for true, predicted, bias, matchings in zip(
                self.true_counts.tolist(), self.predicted_counts.tolist(), self.bias.tolist(), self.matchings, strict=True
            )
        ]
        of_cells = [dict.fromkeys(("true_count", "predicted_count", "bias", "matching")), *of_cells]  # of the background
        rows = zip(class_names(len(self.true_counts)), self.pixels.iou.tolist(), self.pixels.dice.tolist(), of_cells, strict=True)
        return {
            "classes": [{"class": name, "iou": _value(iou), "dice": _value(dice), **cells} for name, iou, dice, cells in rows],
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
        matched = np.zeros((self.types, len(THRESHOLDS), 3), np.int64)
        for k in range(self.types):
            iou = shared.iou[np.flatnonzero(of_true[1:] == k + 1)][:, np.flatnonzero(of_predicted[1:] == k + 1)]
            matched[k] = [(m.tp, m.fp, m.fn) for m in (match(iou, threshold) for threshold in THRESHOLDS)]
        return TypeScores(confusion(shared, of_true, of_predicted, self.types + 1), true_counts, predicted_counts, matched)

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
