"""Mending single cells of a label image: delete, merge, split. Each gives a small change that can be applied and taken back.

Ids stay what they are: of a split cell the larger part keeps its id and each other part gets a new one, merged cells take the id of the
first. All functions work on one plane and leave it as it is; ids must count within the plane.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.draw import line, polygon
from skimage.segmentation import watershed

from napari_tally.core.tiles import around

_EIGHT = np.ones((3, 3), bool)
_CRUMB = 0.02
"""Parts of a cut cell smaller than this share of it are scraps of the cut, no cells."""

Point = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Change:
    """What an edit does to a label image.

    Attributes
    ----------
    indices : tuple of (N,) int arrays
        Which pixels, one array an axis, as :func:`numpy.nonzero` gives them.
    old, new : (N,) int arrays
        Their ids before and after.
    """

    indices: tuple[NDArray[np.intp], ...]
    old: NDArray[np.integer]
    new: NDArray[np.integer]

    @property
    def ids(self) -> list[int]:
        """The cells that it touches, before and after."""
        return [int(i) for i in np.unique(np.concatenate([self.old, self.new])) if i > 0]

    def on_plane(self, plane: tuple[int, ...]) -> "Change":
        """Give the same change for the stack that the plane is taken from."""
        leading = tuple(np.full(self.old.size, p) for p in plane)
        return Change((*leading, *self.indices), self.old, self.new)

    def apply(self, labels: NDArray[np.integer]) -> None:
        """Change `labels` in place."""
        labels[self.indices] = self.new

    def undo(self, labels: NDArray[np.integer]) -> None:
        """Take it back, in place."""
        labels[self.indices] = self.old


def delete_cells(labels: NDArray[np.integer], ids: Sequence[int]) -> Change:
    """Remove cells.

    Parameters
    ----------
    labels : (Y, X) int
    ids : sequence of int
        Those that are not there change nothing.
    """
    return _change(labels, np.where(np.isin(labels, [i for i in ids if i > 0]), 0, labels))


def cells_inside(labels: NDArray[np.integer], outline: NDArray[np.floating]) -> list[int]:
    """Find the cells whose centroid lies inside a polygon.

    Parameters
    ----------
    labels : (Y, X) int
    outline : (N, 2) float
        Corners, y and x in pixels.
    """
    inside = np.zeros(labels.shape, bool)
    inside[polygon(outline[:, 0], outline[:, 1], labels.shape)] = True
    ids = np.unique(labels[inside & (labels > 0)])  # a cell whose centroid is inside but no pixel is, is not one to delete blindly
    if not ids.size:
        return []
    centroids = np.round(ndi.center_of_mass(labels > 0, labels, ids)).astype(int)
    return [int(i) for i, (y, x) in zip(ids, centroids, strict=True) if inside[y, x]]


def merge_cells(labels: NDArray[np.integer], first: int, second: int) -> Change:
    """Make two cells one, with the id of the first. A gap between them is closed.

    Parameters
    ----------
    labels : (Y, X) int
    first, second : int
        Ids.

    Raises
    ------
    ValueError
        If they are the same cell, one is not there, or they are farther apart than the smaller one is wide.
    """
    for cell_id in (first, second):
        _require_cell(labels, cell_id)
    if first == second:
        raise ValueError("Both points lie in the same cell. Click on two cells that are one.")
    window = around(np.isin(labels, [first, second]), margin=2)
    near = labels[window]
    one, other = near == first, near == second
    gap = float(ndi.distance_transform_edt(~one)[other].min()) - 1  # 0 where they touch
    smaller = float(np.sqrt(4 / np.pi * min(one.sum(), other.sum())))
    if gap > smaller:
        raise ValueError(f"These cells are {gap:.0f} px apart, more than the smaller one is wide. Click on two cells that are one.")
    both = one | other
    if gap > 0:  # pixels that are near both: closing by a disc that just spans the gap
        reach = gap / 2 + 1
        room = int(np.ceil(reach)) + 1
        wide = np.pad(both, room)
        closed = ndi.distance_transform_edt(ndi.distance_transform_edt(~wide) <= reach) > reach
        both |= closed[room:-room, room:-room] & (near <= 0)
    wanted = near.copy()
    wanted[both] = first
    return _change(near, wanted, window)


def split_by_points(
    labels: NDArray[np.integer], first: Point, second: Point, inside: NDArray[np.floating] | None = None, new_id: int | None = None
) -> Change:
    """Split a cell in two, each around one of two points in it.

    Parameters
    ----------
    labels : (Y, X) int
    first, second : (y, x)
        In pixels.
    inside : (Y, X) float, optional
        Probability of the inside of a cell. The border runs where this is low and the cell narrow; left out, where it is narrow.
    new_id : int, optional
        For the smaller part; left out, one more than the highest.

    Raises
    ------
    ValueError
        If the points do not lie in one cell, or in the same pixel.
    """
    seeds = [tuple(int(n) for n in np.round(point)) for point in (first, second)]
    ids = {_id_at(labels, seed) for seed in seeds}
    if len(ids) > 1 or 0 in ids:
        raise ValueError("Both points must lie in the cell that is two. Click on the middle of each of the two cells in it.")
    if seeds[0] == seeds[1]:
        raise ValueError("Both points are the same pixel. Click on the middle of each of the two cells.")
    (cell_id,) = ids
    window = around(labels == cell_id, margin=1)
    cell = labels[window] == cell_id
    height = ndi.distance_transform_edt(cell)
    if inside is not None:
        height = height * np.maximum(np.nan_to_num(np.asarray(inside[window], float)), 0.01)
    markers = np.zeros(cell.shape, np.int32)
    for number, (y, x) in enumerate(seeds, start=1):
        markers[y - window[0].start, x - window[1].start] = number
    parts = watershed(-height, markers, mask=cell, connectivity=_EIGHT)
    return _change(labels[window], _number(labels, window, cell_id, parts, new_id), window)


def split_by_line(labels: NDArray[np.integer], start: Point, end: Point, new_id: int | None = None) -> Change:
    """Cut a cell along a line. A line that ends inside the cell is drawn on to its edge.

    Parameters
    ----------
    labels : (Y, X) int
    start, end : (y, x)
        Of the line, in pixels. Of several cells under it the one that it crosses for longest is cut.
    new_id : int, optional
        For the smaller part; left out, one more than the highest. Where the line cuts off more than two parts, ids go on from there.

    Raises
    ------
    ValueError
        If the line crosses no cell, or leaves it in one piece.
    """
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = float(np.hypot(*(end - start)))
    along = start + np.linspace(0, 1, int(4 * length) + 2)[:, None] * (end - start)
    under = np.array([_id_at(labels, point) for point in np.round(along).astype(int)])
    if not under.any() or length == 0:
        raise ValueError("The line crosses no cell. Draw it across the cell that is two.")
    cell_id = _most_frequent(under[under > 0])
    step = (end - start) / length / 2
    for tip, direction in ((start, -step), (end, step)):
        while _id_at(labels, np.round(tip).astype(int)) == cell_id:
            tip += direction
    window = around(labels == cell_id, margin=1)
    cell = labels[window] == cell_id
    corner = np.array([window[0].start, window[1].start])
    rows, columns = line(*np.round(start).astype(int) - corner, *np.round(end).astype(int) - corner)
    on = (rows >= 0) & (rows < cell.shape[0]) & (columns >= 0) & (columns < cell.shape[1])
    rest = cell.copy()
    rest[rows[on], columns[on]] = False
    parts, n = ndi.label(rest)  # 4-connected, which the line of 8-connected pixels cuts
    sizes = np.bincount(parts.ravel(), minlength=n + 1)
    parts[(sizes < max(2, _CRUMB * cell.sum()))[parts]] = 0
    if np.unique(parts[parts > 0]).size < 2:
        raise ValueError("The line leaves the cell in one piece. Draw it across the cell, from edge to edge.")
    nearest = ndi.distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
    parts = np.where(cell, parts[tuple(nearest)], 0)
    return _change(labels[window], _number(labels, window, cell_id, parts, new_id), window)


def take_over(
    annotation: NDArray[np.integer], labels: NDArray[np.integer], window: tuple[slice, slice]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Copy the cells that reach into a window into an annotation of the same plane.

    Parameters
    ----------
    annotation, labels : (Y, X) int
    window : (slice, slice)
        Inside, what the annotation held is replaced; outside, nothing of it is painted over.

    Returns
    -------
    annotation : (Y, X) int
        A new array. A cell that was annotated already, by more than half, keeps the id it has there; the others get new ones.
    ids : (N,) int
        Of the cells that came over, in the annotation.
    """
    wanted = annotation.copy()
    wanted[window] = 0
    cells, cell_at = _ranked(labels)
    drawn, drawn_at = _ranked(annotation)
    cell_sizes, drawn_sizes = (np.bincount(at.ravel(), minlength=n + 1) for at, n in ((cell_at, len(cells)), (drawn_at, len(drawn))))
    reached = np.unique(cell_at[window])
    reached = reached[reached > 0]
    both = (cell_at > 0) & (drawn_at > 0)
    pairs, shared = np.unique(cell_at[both] * (len(drawn) + 1) + drawn_at[both], return_counts=True)
    cell, before = np.divmod(pairs, len(drawn) + 1)
    same = shared * 2 > np.maximum(cell_sizes[cell], drawn_sizes[before])  # so a cell has at most one that it was
    known = dict(zip(cell[same].tolist(), drawn[before[same] - 1].tolist(), strict=True))
    own, top = np.zeros(len(cells) + 1, np.int64), next_id(annotation)
    for n in reached.tolist():
        own[n] = known.get(n, top)
        top += n not in known
    own_at = own[cell_at]
    inside = np.zeros(labels.shape, bool)
    inside[window] = True
    painted = (own_at > 0) & (inside | (wanted == 0))
    wanted[painted] = own_at[painted]
    return wanted, own[reached]


def _ranked(labels: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Give the ids of cells, and at each pixel which of them it is, from 1 on; ids may be as high as they like."""
    highest = int(labels.max(initial=0))
    if highest > labels.size:
        ids, at = np.unique(np.maximum(labels, 0), return_inverse=True)
        first = int(ids[0] > 0)  # there is no background
        return ids[ids > 0], at.reshape(labels.shape) + first
    there = np.zeros(highest + 1, bool)
    there[labels[labels > 0]] = True
    return np.flatnonzero(there), np.where(there, np.cumsum(there), 0)[np.maximum(labels, 0)]


def next_id(labels: NDArray[np.integer]) -> int:
    """Give an id that no cell has: one more than the highest."""
    return max(0, int(labels.max(initial=0))) + 1


def _most_frequent(ids: NDArray[np.integer]) -> int:
    """Give the id that comes most often, of several the lowest; of none 0. Not by counting up to the highest, which may be anything."""
    found, times = np.unique(ids, return_counts=True)
    return int(found[times.argmax()]) if found.size else 0


def _number(
    labels: NDArray[np.integer], window: tuple[slice, slice], cell_id: int, parts: NDArray[np.integer], new_id: int | None
) -> NDArray:
    """Give the parts of a cell their ids: the largest keeps that of the cell. What no part reaches stays with it."""
    wanted = labels[window].astype(np.int64)  # the new ids may not fit the type
    sizes = np.bincount(parts[parts > 0])
    number = next_id(labels) if new_id is None else new_id
    for part in np.argsort(-sizes, kind="stable")[1 : np.count_nonzero(sizes)]:
        wanted[parts == part] = number
        number += 1
    return wanted


def _change(labels: NDArray[np.integer], wanted: NDArray[np.integer], window: tuple[slice, slice] | None = None) -> Change:
    """Compare, and give what differs in pixels of the plane that the window is cut from."""
    indices = np.nonzero(labels != wanted)
    old, new = labels[indices], wanted[indices]
    if window:
        indices = tuple(along + side.start for along, side in zip(indices, window, strict=True))
    return Change(indices, old, new)


def _id_at(labels: NDArray[np.integer], pixel: Sequence[int] | NDArray[np.integer]) -> int:
    """Give the id at a pixel; 0 outside the plane and where there is no cell."""
    y, x = int(pixel[0]), int(pixel[1])
    inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
    return max(0, int(labels[y, x])) if inside else 0


def _require_cell(labels: NDArray[np.integer], cell_id: int) -> None:
    """Raise a ``ValueError`` if there is no such cell."""
    if cell_id <= 0 or not (labels == cell_id).any():
        raise ValueError("There is no cell at one of the points. Click on two cells that are one.")
