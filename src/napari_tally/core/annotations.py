"""What is known of an image: cell, background, or nothing; and what may be wrong with it, in plain words.

Known labels are int32: 1.. = a cell, 0 = background, -1 = not annotated (ignored in training).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.measure import label as connected_components
from skimage.segmentation import relabel_sequential

from napari_tally.core.images import Image
from napari_tally.core.words import number

NOT_ANNOTATED = -1
"""Pixels of which nothing is known; they never add to a loss."""
_FEWEST_SLICES, _FEW_PIECES = 4, 3
_WHITE = (255, 65535)
"""What "cell" is in masks: no program numbers its only cell so."""
_LIES_OVER_ITSELF, _GOES_ON = 0.95, 0.2
"""See :func:`cells_go_through`. Tissue without gaps, bodies of 1.5 to 14 slices: 1.0, and 0.28 to 0.93; numbered anew in each slice:
0.06 to 0.35, and 0.02 to 0.23."""
_SPARSE, _FEW_CELLS = 0.01, 5
"""Where so small a part of the image is drawn, of so few cells ten times as much, there may well be more."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a label image.

    Attributes
    ----------
    kind : str
        A stable name for code.
    message : str
        What came, what was wanted, what to do; for the user.
    stops : bool
        Whether training is impossible.
    fix : {"", "split"}
        "split": :func:`split_pieces` mends it.
    """

    kind: Literal["shape", "colour", "decimals", "empty", "no background", "binary mask", "pieces", "sparse", "prediction"]
    message: str
    stops: bool = False
    fix: Literal["", "split"] = ""


def known_labels(labels: NDArray[np.integer], region: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """Combine drawn cells with the annotated region.

    Parameters
    ----------
    labels : (..., Y, X) int
        Drawn cells, 0 = nothing drawn; negative = not annotated.
    region : (..., Y, X) bool, optional
        Where everything is annotated. Left out or empty: everywhere.

    Returns
    -------
    (..., Y, X) int32
        Inside the region what is not a cell is background (0); outside it everything is unknown (-1),
        drawn or not: a prediction that was copied and not yet looked at must not become truth.
    """
    labels = np.asarray(labels)
    if labels.max(initial=0) > np.iinfo(np.int32).max:  # such ids would wrap to "not annotated": renumber
        rank = np.searchsorted(np.unique(labels[labels > 0]), labels)
        labels = np.where(labels > 0, rank + 1, np.minimum(labels, 0))
    known = np.maximum(labels.astype(np.int64), NOT_ANNOTATED).astype(np.int32)  # in this order: large negative numbers would wrap
    if region is not None and region.any():
        known[~region] = NOT_ANNOTATED
    return known


def what_can_be_judged(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Leave out what nobody annotated: there is no saying whether it is right.

    Parameters
    ----------
    truth : int array
        -1 = not annotated.
    predicted : int array, of the same shape

    Returns
    -------
    truth, predicted : int arrays
        Without -1; and without the cells that lie, by at least half, where nothing is annotated.
    """
    known = truth != NOT_ANNOTATED
    if known.all():
        return truth, predicted
    _, place = np.unique(predicted, return_inverse=True)
    place = place.reshape(predicted.shape)
    inside = np.bincount(place[known], minlength=place.max(initial=0) + 1) * 2 > np.bincount(place.ravel())
    return np.maximum(truth, 0), np.where(inside[place] & known, predicted, 0)


def cells_go_through(labels: Any, slices: int) -> bool:
    """Say whether cells keep their ids from slice to slice: then they are bodies in a volume, not profiles in planes.

    ::

        slice 1    1111..2222..33       bodies: an id that comes again in the next slice lies over itself; in tissue without gaps
        slice 2    1114444222..33       another one begins wherever one ends

        slice 1    1111..2222..33       profiles, numbered anew in each slice: ids come again, but mostly elsewhere
        slice 2    1112222333..44

    Parameters
    ----------
    labels : (..., Y, X) int array, or (P, Y, X) that is read slice by slice
    slices : int
        Slices of a volume; see :attr:`napari_tally.core.images.Image.slices`.

    Returns
    -------
    bool
        Whether nearly all (95 %, by area) of what has an id that comes again in the next slice overlaps with it there, and of the pixels
        that are cell in two slices one above the other more than a fifth have the same id in both. Fewer than four slices are no volume.

    Notes
    -----
    A few profiles that lie in the same places in all slices, and are numbered alike, look like bodies; and so do tracked cells.
    """
    if slices < _FEWEST_SLICES:
        return False
    both = same = again = over = 0
    stack = labels.reshape(-1, *labels.shape[-2:]) if isinstance(labels, np.ndarray) else labels
    planes = (np.asarray(stack[p, 0 : stack.shape[1], 0 : stack.shape[2]]) for p in range(stack.shape[0]))
    for p, pair in enumerate(pairwise(planes), start=1):
        if p % slices:  # else another volume begins
            two = np.maximum(pair, 0, dtype=np.int64).reshape(2, -1)
            if two.max(initial=0) > two.size:  # what is counted below goes up to the highest id
                two = relabel_sequential(two)[0]
            above, below = two
            cells, n = (above > 0) & (below > 0), int(two.max(initial=0)) + 1
            kept = np.bincount(above[cells & (above == below)], minlength=n)
            smaller = np.minimum(np.bincount(above, minlength=n), np.bincount(below, minlength=n))  # pixels of each id, 0 = none
            both, same = both + int(cells.sum()), same + int(kept.sum())
            again, over = again + int(smaller[1:].sum()), over + int(smaller[kept > 0].sum())
    return over > _LIES_OVER_ITSELF * again and same > _GOES_ON * both


def check_labels(labels: NDArray[Any], image: Image, region: NDArray[np.bool_] | None = None) -> list[Problem]:
    """Look for what would spoil training.

    Parameters
    ----------
    labels : array
        As read or drawn: ideally ints of shape `image.shape`.
    image : Image
        The image that the labels belong to.
    region : bool array of `image.shape`, optional
        The annotated region.

    Returns
    -------
    list of Problem
        Empty if all is well; the problems that stop training first.
    """
    name = image.name
    if labels.shape != image.shape:
        if labels.ndim == len(image.shape) + 1 and labels.shape[:-1] == image.shape and labels.shape[-1] in (3, 4):
            return [
                Problem(
                    "colour",
                    f"{name}: the labels are a colour picture; a label image holds one whole number a pixel. "
                    "Export the labels themselves, not a picture of them.",
                    stops=True,
                )
            ]
        return [
            Problem(
                "shape",
                f"{name}: the labels have the shape {labels.shape} and the image has {image.shape}; they must be equal. "
                "Choose the labels that were drawn on this image.",
                stops=True,
            )
        ]
    if not _are_whole(labels):
        return [
            Problem(
                "decimals",
                f"{name}: the labels hold decimal numbers (type {labels.dtype}); whole numbers are wanted, one a cell. "
                "If this is a probability map, choose the label image instead.",
                stops=True,
            )
        ]
    known = known_labels(labels, region)
    cells = np.maximum(known, 0)
    drawn = cells > 0
    if not drawn.any():
        return [Problem("empty", f"{name}: no cell is drawn. It can serve as an example of background, if other images have cells.")]
    problems = []
    if not (known == 0).any():
        problems.append(
            Problem(
                "no background",
                f"{name}: every annotated pixel is a cell; the network must see background too. "
                "Draw an annotated region that reaches around the cells, or see that other images have background.",
            )
        )
    ids = np.unique(cells[drawn])
    pieces = _pieces_of_ids(cells, _of_bodies(cells, image.slices))
    split = int((pieces > 1).sum())
    if ids.size == 1 and _are_many(pieces[0], ids[0]):
        problems.append(Problem("binary mask", _mask_message(name, pieces[0], ids[0]), fix="split"))
    elif split:
        problems.append(
            Problem(
                "pieces",
                f"{name}: {split} of {ids.size} ids are in several pieces that do not touch. "
                "Split them (on the command line: --split) if the pieces are different cells; keep them if a cell is hidden in part.",
                fix="split",
            )
        )
    everywhere = (region is None or not region.any()) and not (known < 0).any()
    if everywhere and drawn.mean() < (_SPARSE if ids.size > _FEW_CELLS else 10 * _SPARSE):
        problems.append(
            Problem(
                "sparse",
                f"{name}: {number(ids.size, 'cell')} drawn, {100 * drawn.mean():.1f} % of the image, and no annotated region, so all the "
                "rest is taken as background. If you drew only some of the cells, mark the region where you drew all of them.",
            )
        )
    return problems


def require_labels(labels: NDArray[Any], image: Image) -> NDArray[np.int32]:
    """Give known labels, or raise a ``ValueError`` with the first problem that stops training, or would count many cells as one."""
    return known_and_odd(labels, image)[0]


def known_and_odd(labels: NDArray[Any], image: Image) -> tuple[NDArray[np.int32], list[Problem]]:
    """Do :func:`require_labels`; give the problems too that stop nothing."""
    problems = check_labels(labels, image)
    for problem in problems:
        if problem.stops or problem.kind == "binary mask":
            raise ValueError(problem.message)
    return known_labels(labels), problems


def require_ids(labels: NDArray[Any], name: object) -> NDArray[np.integer]:
    """Give a label image as whole numbers, or raise a ``ValueError`` if it holds no ids: decimals, a colour picture, or a mask."""
    if not _are_whole(labels) or (labels.ndim == 3 and labels.shape[-1] in (3, 4) and labels.dtype == np.uint8):
        raise ValueError(f"{name}: {labels.dtype} values of shape {labels.shape} are no label image; one whole number a pixel is wanted.")
    labels = labels.astype(np.int64) if labels.dtype.kind == "f" else labels
    cells = np.maximum(labels, 0, dtype=np.int64)
    ids = np.unique(cells[cells > 0])
    if ids.size == 1 and _are_many(pieces := _pieces_of_ids(cells)[0], ids[0]):
        raise ValueError(_mask_message(name, pieces, ids[0]))
    return labels


def _are_whole(labels: NDArray[Any]) -> bool:
    """Whether these are whole numbers, of whatever type: some programs write labels as floats."""
    if labels.dtype.kind != "f":
        return labels.dtype.kind in "bui"
    return bool(np.isfinite(labels).all() and (labels == np.floor(labels)).all())


def _are_many(pieces: int, number: int) -> bool:
    """Whether so many pieces of the only id are more than those of one cell: it is a mask."""
    return pieces > (1 if number in _WHITE else _FEW_PIECES)


def _mask_message(name: object, pieces: int, number: int) -> str:
    return (
        f"{name}: all {pieces} separate objects have the same id {number}, so they would count as one cell. "
        "Split them into one id for each object: 'Split them' in the window, --split on the command line."
    )


def split_pieces(labels: NDArray[np.integer], slices: int, are_bodies: bool = False) -> NDArray[np.int32]:
    """Give every connected piece of every id its own id; touching ids stay apart.

    Parameters
    ----------
    labels : (Y, X) or (planes, Y, X) int
        0 or less is kept as it is. Planes are split each by itself, with ids that go on.
    slices : int
        So many planes are one volume (:attr:`napari_tally.core.images.Image.slices`): where cells go through them, pieces are connected
        through slices.
    are_bodies : bool
        They are, though the labels do not tell: of a mask.
    """
    labels = np.asarray(labels)
    planes = _volumes(labels, slices if are_bodies else _of_bodies(labels, slices))
    result = np.minimum(planes, 0).astype(np.int32)
    top = 0
    for plane, out in zip(planes, result, strict=True):
        pieces = connected_components(np.maximum(plane, 0), background=0)
        out[pieces > 0] = pieces[pieces > 0] + top
        top += int(pieces.max(initial=0))
    return result.reshape(labels.shape)


def split_drawn(labels: NDArray[np.integer], image: Image) -> NDArray[np.int32]:
    """Do :func:`split_pieces` for the labels of an image; of a mask of a z-stack, whose objects go through the slices, through them."""
    return split_pieces(labels, image.slices, are_bodies=_is_mask(labels) and image.axes.endswith("Z"))


def _is_mask(labels: NDArray[np.integer]) -> bool:
    top = labels.max(initial=0)
    return bool(labels.min(initial=top, where=labels > 0) == top)


def _of_bodies(labels: NDArray[np.integer], slices: int) -> int:
    """Give the slices that pieces are connected through: 1 where cells do not go through them, and of a mask, which does not tell."""
    return 1 if _is_mask(labels) or not cells_go_through(labels, slices) else slices


def _volumes(labels: NDArray[Any], slices: int) -> NDArray[Any]:
    """Give the planes (P, Y, X), or the volumes (V, slices, Y, X)."""
    return labels.reshape(-1, *([slices] if slices > 1 else []), *labels.shape[-2:])


def _pieces_of_ids(cells: NDArray[np.integer], slices: int = 1) -> NDArray[np.integer]:
    """Count the connected pieces of each id (in the order of the ids), the largest over the planes, or over volumes of so many slices."""
    planes = _volumes(cells, slices)
    ids = np.unique(cells[cells > 0])
    most = np.zeros(ids.size, int)
    for plane in planes:
        pieces = connected_components(plane, background=0)  # corners connect
        n = int(pieces.max(initial=0))
        if n:
            owner = ndi.maximum(plane, pieces, np.arange(1, n + 1)).astype(plane.dtype)
            most = np.maximum(most, np.bincount(np.searchsorted(ids, owner), minlength=ids.size))
    return most
