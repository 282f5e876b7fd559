"""A label layer under review: where its cells lie, what is known of them, and what the review leaves in the layer.

::

    (plane, id)  ◀──▶  pixels of the layer          metadata   what it was found with, how often it was mended
                                                    features   one row a cell, with score and fault
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any
from weakref import WeakMethod

import numpy as np
import pandas as pd
from napari.layers import Labels
from numpy.typing import NDArray
from psygnal import Signal

from napari_tally.core.cell_types import together
from napari_tally.core.edit import Change
from napari_tally.core.review import ReviewList
from napari_tally.widgets._keys import bind_keys
from napari_tally.widgets._layers import add_notes, found_of, notes_of
from napari_tally.widgets._pointing import outlines

_UNCHANGED = 0.01
"""Pixels by which the middle of a cell may differ between two tables."""


class ReviewedLabels:
    """The cells of a label layer, from the beginning of a review to its end.

    A cell is a plane, counted through all leading axes, and an id.

    Parameters
    ----------
    layer : napari.layers.Labels
        Its pixels are in memory.

    Attributes
    ----------
    layer : napari.layers.Labels
    data : (..., Y, X) int
        Its pixels when the review began: others are another prediction.
    changed : psygnal signal ()
        The labels are drawn on, undone or replaced.
    painted : psygnal signal ()
        They have a step more in their history.
    brush_taken : psygnal signal ()
        The user has taken another tool of napari than the camera.
    """

    changed = Signal()
    brush_taken = Signal()
    painted = Signal()

    def __init__(self, layer: Labels) -> None:
        self.layer = layer
        self.data = layer.data
        self._keymap: dict[Any, Any] | None = None  # what the layer had; None = it has that
        for event in self._events():
            event.connect(self._noticed)

    def leave(self) -> None:
        """End the review: hear nothing more, and give the layer its own keys back."""
        for event in self._events():
            event.disconnect(self._noticed)
        if self._keymap is not None:
            self.layer.keymap = self._keymap

    def take_keys(self, methods: Mapping[str, Callable[[], object]]) -> None:
        """Call methods by key; the layer may be an annotation, with a key of its own."""
        self._keymap = dict(self.layer.keymap)
        bind_keys(self.layer, {key: WeakMethod(method) for key, method in methods.items()})

    def _events(self) -> list[Any]:
        """What the labels can tell."""
        return [self.layer.events[name] for name in ("paint", "set_data", "data", "mode")]

    def _noticed(self, event: Any) -> None:
        if event.type == "paint":
            self.painted.emit()
        if event.type != "mode":
            self.changed.emit()
        elif event.source.mode != "pan_zoom":
            self.brush_taken.emit()

    # What is known

    @property
    def is_replaced(self) -> bool:
        """Whether the cells were found anew."""
        return self.layer.data is not self.data

    @property
    def _found(self) -> tuple[Any, Any]:
        """The prediction that the labels are of, and the thresholds that gave them; None where they are not known."""
        return found_of(self.layer)

    @property
    def probabilities(self) -> NDArray[np.floating] | None:
        """What the labels were made from, (P, classes, Y, X); None if it is not known."""
        found, _ = self._found
        return None if found is None else found.probabilities

    def inside(self, plane: int) -> NDArray[np.floating] | None:
        """Give the probability of the inside of a cell, of whichever type, on a plane, where it is known."""
        found, _ = self._found
        return None if self.probabilities is None else together(self.probabilities[plane], found.n_types)[1]

    def ranking(self) -> Callable[[], Generator[int, None, tuple[NDArray[np.integer], ReviewList]]]:
        """Give the job for the worker thread that ranks the cells; it returns the list with the pixels that it is of."""
        data, probabilities, (found, counting) = self.data, self.probabilities, self._found
        zoom = 1.0 if found is None else found.zoom
        if "accepted" not in notes_of(self.layer):  # which of its cells somebody found right
            add_notes(self.layer, accepted=set())
        accepted = notes_of(self.layer)["accepted"]

        def rank() -> Generator[int, None, tuple[NDArray[np.integer], ReviewList]]:
            of_cells = None if probabilities is None else together(probabilities, found.n_types)  # (P, 2 or 3, Y, X)
            ranked = yield from ReviewList(data, of_cells, counting, zoom, accepted).measure()
            return data, ranked

        return rank

    # Planes and cells

    def index(self, plane: int) -> tuple[int, ...]:
        """Give the index of a plane in the layer."""
        return tuple(int(i) for i in np.unravel_index(plane, self.layer.data.shape[:-2])) if self.layer.ndim > 2 else ()

    def has(self, point: NDArray[np.floating]) -> bool:
        """Whether the layer has the plane of a point; other layers may have more."""
        return _is_inside(point[:-2], self.layer.data.shape[:-2])

    def plane_at(self, point: NDArray[np.floating]) -> int:
        """Give the plane of a point in pixels of the layer."""
        index = np.round(point[:-2]).astype(int)
        return int(np.ravel_multi_index(tuple(index), self.layer.data.shape[:-2])) if len(index) else 0

    def pixels(self, plane: int) -> NDArray[np.integer]:
        """Give the (Y, X) ids of a plane."""
        return self.layer.data[self.index(plane)]

    def id_at(self, point: NDArray[np.floating]) -> int:
        """Give the id of the cell at a point; 0 if there is none."""
        pixel = tuple(int(i) for i in np.round(point))
        return max(0, int(self.layer.data[pixel])) if _is_inside(point, self.layer.data.shape) else 0

    def diameter(self, plane: int, cell: int) -> float:
        """Give the diameter of a disc as large as a cell, in pixels."""
        return float(2 * np.sqrt(np.count_nonzero(self.pixels(plane) == cell) / np.pi))

    def outlines(self, plane: int, cell: int) -> list[NDArray[np.float64]]:
        """Give the outlines of a cell, in pixels of its plane; none if it is gone."""
        mask = self.pixels(plane) == cell
        if not mask.any():
            return []
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return outlines(mask[box], (int(rows[0]), int(columns[0])))

    # What is written

    def make_room(self, highest: int) -> bool:
        """Make the layer hold ids up to `highest`; give whether it could not, so that its history begins anew."""
        if highest <= np.iinfo(self.layer.data.dtype).max:
            return False
        self.layer.data = self.layer.data.astype(np.int32)
        self.data = self.layer.data
        return True

    def mend(self, plane: int, change: Change) -> None:
        """Change cells of a plane as one step of the history."""
        change = change.on_plane(self.index(plane))
        self.layer.data_setitem(change.indices, change.new)

    def count_correction(self) -> None:
        """Note that the cells are no longer as they were found."""
        add_notes(self.layer, corrected=notes_of(self.layer).get("corrected", 0) + 1)

    def write_features(self, cells: pd.DataFrame) -> None:
        """Keep the features of the layer, one row a cell, with score and fault.

        Parameters
        ----------
        cells : pandas.DataFrame
            As in :class:`napari_tally.core.review.ReviewList`.
        """
        cells = cells[["plane", "label", "score", "fault", "area_px", "y", "x"]].rename(columns={"label": "index"})
        old = self.layer.features
        if "index" in old:
            keys = ["plane", "index"] if "plane" in old else ["index"]
            cells = cells.merge(old.drop(columns=["score", "fault"], errors="ignore"), on=keys, how="left", suffixes=("", " before"))
            for column in ("area_px", "y", "x"):
                if (before := f"{column} before") in cells:  # what was measured of a cell that has changed is no longer true
                    stale = (cells[column] - cells.pop(before)).abs() > _UNCHANGED
                    measured = [name for name in old if name not in (*keys, "score", "fault", "area_px", "y", "x")]
                    cells[measured] = cells[measured].where(~stale)
        self.layer.features = cells.sort_values(["plane", "index"], ignore_index=True)


def _is_inside(point: NDArray[np.floating], shape: tuple[int, ...]) -> bool:
    """Whether the pixel nearest to a point is one of an array."""
    return all(0 <= i < n for i, n in zip(np.round(point), shape, strict=True))
