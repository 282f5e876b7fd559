"""The list of cells to look at, kept up to date while somebody mends them one by one.

::

    labels, probabilities ──▶ signs of every cell ──▶ ranked list, less what is accepted
                                  ▲
    an edit, an undo, a stroke of the brush: only the cells around what has changed are measured again
"""

from collections.abc import Generator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_tally.core.events import beside, saying
from napari_tally.core.instances import TRUNCATE
from napari_tally.core.suspects import measure_signs, rank_suspects
from napari_tally.core.tiles import around
from napari_tally.settings import CountingSettings

_KEY = ["plane", "label"]
_SAME = ["plane", "label", "area_px", "y", "x"]
"""What tells that a cell has not changed since it was accepted."""


class ReviewList:
    """The cells of a label image with score and fault.

    Parameters
    ----------
    labels : (..., Y, X) int
        A copy is kept; :meth:`update` compares with it. Ids count within a plane.
    probabilities : (P, classes, Y, X) float, or None
        What the labels were made from; None: only size and shape are judged.
    settings : CountingSettings, optional
    zoom : float
        As for :func:`napari_tally.core.instances.find_instances`.
    accepted : set, optional
        What an earlier list of these labels had in its own: it is kept up to date, so that who begins anew need not begin at nothing.

    Attributes
    ----------
    cells : pandas.DataFrame
        One row a cell, the most suspicious first; see :func:`napari_tally.core.suspects.rank_suspects`. Also `plane`, and `accepted`:
        whether somebody said that this cell is right, and it has not changed since.
    """

    def __init__(
        self,
        labels: NDArray[np.integer],
        probabilities: NDArray[np.floating] | None = None,
        settings: CountingSettings | None = None,
        zoom: float = 1.0,
        accepted: set[tuple[float, ...]] | None = None,
    ) -> None:
        self._known = np.array(labels, np.promote_types(labels.dtype, np.int32)).reshape(-1, *labels.shape[-2:])
        self._probabilities, self._settings, self._zoom = probabilities, settings or CountingSettings(), zoom
        self._accepted = set() if accepted is None else accepted
        self._top = max(0, int(labels.max(initial=0)))
        self._signs = pd.DataFrame()
        self.cells = pd.DataFrame()

    def measure(self) -> Generator[int, None, "ReviewList"]:
        """Measure every cell; must come first. Yields the number of planes done, returns itself."""
        tables = []
        for p in range(len(self._known)):
            tables.append((yield from saying(beside(self._measure, p, (slice(None), slice(None))), p)))
            yield p + 1
        self._signs = pd.concat(tables, ignore_index=True)
        self._rank()
        return self

    def update(self, labels: NDArray[np.integer]) -> bool:
        """Take over a changed label image of the same shape; give whether anything has changed."""
        planes = labels.reshape(self._known.shape)
        touched = np.flatnonzero([not np.array_equal(plane, known) for plane, known in zip(planes, self._known, strict=True)])
        for p in touched:
            self._update_plane(int(p), planes[p])
        if touched.size:
            self._rank()
        return bool(touched.size)

    def accept(self, plane: int, label: int, yes: bool = True) -> None:
        """Note that a cell is right as it is, or take that back."""
        for mark in self._marks(self._signs[(self._signs["plane"] == plane) & (self._signs["label"] == label)]):
            (self._accepted.add if yes else self._accepted.discard)(mark)
        self._rank()

    def accept_or_not(self, plane: int, label: int) -> None:
        """Accept a cell, or take that back where it is accepted."""
        self.accept(plane, label, yes=not self.cells["accepted"].iloc[self.where(plane, label)])

    def where(self, plane: int, label: int) -> int | None:
        """Give the row of a cell in `cells`; None if it is gone."""
        rows = np.flatnonzero((self.cells["plane"] == plane) & (self.cells["label"] == label))
        return int(rows[0]) if rows.size else None

    def areas(self) -> dict[tuple[int, int], int]:
        """Give the pixels of every cell, by plane and id."""
        return {(plane, label): area for plane, label, area in self.cells[[*_KEY, "area_px"]].itertuples(index=False, name=None)}

    def next_id(self) -> int:
        """Give an id that no cell of any plane has, or had: undo may bring it back."""
        return self._top + 1

    def _rank(self) -> None:
        ranked = rank_suspects(self._signs)
        self.cells = ranked.assign(accepted=[mark in self._accepted for mark in self._marks(ranked)])

    def _marks(self, rows: pd.DataFrame) -> list[tuple[float, ...]]:
        return [tuple(row) for row in rows[_SAME].round(2).itertuples(index=False)]

    def _measure(self, p: int, window: tuple[slice, slice]) -> pd.DataFrame:
        probabilities = None if self._probabilities is None else np.asarray(self._probabilities[p])[(slice(None), *window)]
        signs = measure_signs(probabilities, self._known[p][window], self._settings, self._zoom)
        signs["y"] += window[0].start or 0
        signs["x"] += window[1].start or 0
        plane = self._known[p]
        at_border = np.concatenate([plane[[0, -1]].ravel(), plane[:, [0, -1]].ravel()])
        signs["touches_border"] = signs["label"].isin(at_border)  # of the plane, not of the window
        signs.insert(0, "plane", p)
        return signs

    def _update_plane(self, p: int, labels: NDArray[np.integer]) -> None:
        """Measure the changed cells and those that touch them."""
        known = self._known[p]
        pixels = known != labels
        changed = np.unique(np.concatenate([known[pixels], labels[pixels]]))
        known[pixels] = labels[pixels]
        self._top = max(self._top, int(changed[-1]))
        area = pixels | np.isin(labels, changed[changed > 0])
        affected = self._ids_in(p, around(area, 1))  # with the neighbours: their borders are others now
        context = self._ids_in(p, around(area | np.isin(labels, affected), 1))  # the valley to a neighbour needs the whole of it
        reach = int(np.ceil(TRUNCATE * self._settings.smoothing * self._zoom)) + 2
        signs = self._measure(p, around(area | np.isin(labels, context), reach))
        stale = (self._signs["plane"] == p) & self._signs["label"].isin(np.union1d(affected, changed))
        kept = self._signs[~stale], signs[signs["label"].isin(affected)]
        self._signs = pd.concat(kept, ignore_index=True).sort_values(_KEY, ignore_index=True)

    def _ids_in(self, p: int, box: tuple[slice, slice]) -> NDArray[np.integer]:
        ids = np.unique(self._known[p][box])
        return ids[ids > 0]
