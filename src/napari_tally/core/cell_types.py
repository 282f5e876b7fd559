"""Several kinds of cells: which kind a cell is of, in labels and in what the network says.

In labels the number of a cell tells its kind: with 1000 numbers a kind, 1 to 999 are of the first, 1000 to 1999 of the second.
The network has one class "inside" for each kind and, as always, one for the rim of any cell::

    background | inside 1 | inside 2 | ... | rim          what the network gives, for K kinds
    background |       inside        |     | rim          what cells are told apart by: the kinds together
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def types_of_ids(ids: NDArray[np.integer], ids_per_type: int) -> NDArray[np.int64]:
    """Give the kind of each cell, from 1 on.

    Examples
    --------
    >>> types_of_ids(np.array([1, 999, 1000, 2500]), 1000)
    array([1, 1, 2, 3])
    """
    return np.asarray(ids, np.int64) // ids_per_type + 1


def merge_layers(layers: Sequence[NDArray[np.integer]], ids_per_type: int) -> NDArray[np.int32]:
    """Make one label image of several of one shape, each of which holds the cells of one kind.

    Where two layers have a cell the later one counts. What any layer leaves as not annotated (-1) without a cell of another is not
    annotated.

    Raises
    ------
    ValueError
        If a layer has more cells than there are numbers.
    """
    merged = np.zeros(layers[0].shape, np.int32)
    for k, layer in enumerate(layers):
        ids = np.unique(layer[layer > 0])
        if ids.size >= ids_per_type:
            raise ValueError(f"{ids.size} cells are drawn in one layer, and there are {ids_per_type - 1} numbers a type; set more.")
        merged = np.where((layer < 0) & (merged == 0), -1, merged)
        merged = np.where(layer > 0, np.searchsorted(ids, layer) + 1 + k * ids_per_type - (k > 0), merged)
    return merged.astype(np.int32)


def require_numbers(ids: NDArray[np.integer], types: int, ids_per_type: int, where: str = "") -> None:
    """Raise a ``ValueError`` if a cell has a number that no kind has; `where` is what the message begins with."""
    if ids.size and (kind := int(types_of_ids(highest := ids.max(), ids_per_type))) > types:
        raise ValueError(
            f"{where}{'a' if where else 'A'} cell has the number {highest}, so it is of type {kind} with {ids_per_type} numbers a type, "
            f"and {types} types are asked for. Ask for more types, or number the cells anew."
        )


def require_types(labels: Sequence[NDArray[np.integer]], types: int, ids_per_type: int) -> None:
    """Raise a ``ValueError`` if numbers are drawn that no kind has, or a kind has no cell."""
    drawn = np.unique(np.concatenate([np.unique(a[a > 0]) for a in labels]))
    found = np.unique(types_of_ids(drawn, ids_per_type))
    require_numbers(drawn, types, ids_per_type)
    if missing := sorted(set(range(1, types + 1)) - set(found.tolist())):
        low = max(1, (missing[0] - 1) * ids_per_type)
        raise ValueError(
            f"No cell of type {missing[0]} is drawn; its numbers are {low} to {missing[0] * ids_per_type - 1}. "
            "Draw some, or ask for fewer types."
        )


def typed(classes: NDArray[np.int64], labels: NDArray[np.integer], type_of: NDArray[np.integer], types: int) -> NDArray[np.int64]:
    """Tell the insides of a class map (0 background, 1 inside, 2 rim, -1 not annotated) apart by kind.

    Parameters
    ----------
    classes : int array
    labels : int array of the same shape
    type_of : (n + 1,) int
        Kind of each cell; entry 0 is not used.
    types : int
        Number of kinds; the rim becomes class `types` + 1.
    """
    return np.where(classes == 1, type_of[np.maximum(labels, 0)], np.where(classes == 2, types + 1, classes))


def together(probabilities: NDArray[np.floating], types: int) -> NDArray[np.floating]:
    """Add up the kinds: (..., 1 + K (+ 1), Y, X) to (..., 2 or 3, Y, X)."""
    if types == 1:
        return probabilities
    background, inside, rim = np.split(probabilities, [1, 1 + types], axis=-3)
    return np.concatenate([background, inside.sum(axis=-3, keepdims=True), rim], axis=-3)


def shares(probabilities: NDArray[np.floating], labels: NDArray[np.integer], types: int) -> NDArray[np.float64]:
    """Add up how much of each kind is in each cell of a piece.

    Parameters
    ----------
    probabilities : (1 + types (+ 1), Y, X) float
    labels : (Y, X) int
        0 = background, 1..n.
    types : int

    Returns
    -------
    (n + 1, types) float
    """
    n = int(labels.max(initial=0)) + 1
    return np.stack([np.bincount(labels.ravel(), probabilities[1 + k].ravel(), minlength=n) for k in range(types)], axis=1)


def decide(sums: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Give the kind of each cell, from 1 on: the one that has most of it. Row 0 is the background, and so is entry 0.

    Parameters
    ----------
    sums : (n + 1, types) float
        From :func:`shares`, added up over all pieces of a cell.
    """
    kinds = (sums.argmax(1) + 1).astype(np.uint8)
    kinds[0] = 0
    return kinds


def types_of_cells(probabilities: NDArray[np.floating], labels: NDArray[np.integer], types: int) -> NDArray[np.uint8]:
    """Give the kind of each cell, from 1 on; entry 0 is the background.

    Parameters
    ----------
    probabilities : (P, 1 + types (+ 1), Y, X) float
    labels : (P, Y, X) int
        No number comes in two planes.
    types : int
    """
    width = labels.shape[-1]
    stacked = probabilities.swapaxes(0, 1).reshape(probabilities.shape[1], -1, width)  # all planes below each other
    return decide(shares(stacked, labels.reshape(-1, width), types))


def with_types(cells: pd.DataFrame, of_cell: NDArray[np.integer] | None, types: int) -> pd.DataFrame:
    """Give the table of cells with a column of their kinds, which knows all kinds there are; as it is where there is but one.

    Parameters
    ----------
    cells : pandas.DataFrame
        With the column ``label``.
    of_cell : (n + 1,) int
        The kind of each label; 0 = none.
    types : int
    """
    if of_cell is None:
        return cells
    codes = of_cell[cells["label"].to_numpy()].astype(int) - 1
    return cells.assign(type=pd.Categorical.from_codes(codes, categories=list(range(1, types + 1))))


def types_by_number(cells: pd.DataFrame, top: int) -> NDArray[np.uint8] | None:
    """Give the kind of each cell up to the number `top` as a table of cells says it, for :func:`with_types`; None where it says none.

    A cell that is not in the table, as one that was drawn by hand later, has kind 0, which is none.
    """
    if "type" not in cells:
        return None
    known = cells.dropna(subset="type")
    kinds = np.zeros(1 + max(top, int(known["label"].max() if len(known) else 0)), np.uint8)
    kinds[known["label"].to_numpy(int)] = known["type"].to_numpy(int)
    return kinds
