"""Label images that are there already, counted as they are. What is odd about them is said as it is of predicted ones."""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.annotations import known_and_odd
from napari_tally.core.counting import pixel_remark, planes_remark
from napari_tally.core.events import beside
from napari_tally.core.images import Image
from napari_tally.core.regions import Region
from napari_tally.core.results import Results, Tables
from napari_tally.settings import RuleSettings


def measuring_labels(
    drawn: NDArray[Any],
    image: Image,
    rules: RuleSettings,
    regions: Sequence[Region] | None = None,
    group: str = "",
    types: NDArray[np.integer] | None = None,
    n_types: int = 1,
    are_bodies: bool | None = None,
) -> Generator[float | None, None, tuple[Tables, NDArray[np.int32], tuple[str, ...]]]:
    """Count the cells of labels as somebody drew them.

    Parameters
    ----------
    drawn : array
        As read from a file. What is not annotated is no cell.
    image : Image
        As read from its file.
    rules, regions, group, types, n_types, are_bodies
        As for :meth:`napari_tally.core.results.Results.measuring`.

    Yields
    ------
    float or None
        The fraction that is done, where it is known.

    Returns
    -------
    tables : (cells, counts, regions)
    labels : int32 array of `image.shape`
        0 = no cell.
    remarks : tuple of str
        What is odd about them.

    Raises
    ------
    ValueError
        If these are no labels of this image, or many objects have one id; or as :func:`measure_cells`.
    """
    known, problems = yield from beside(known_and_odd, drawn, image)
    labels = np.maximum(known, 0)
    stated = image.calibrated(rules.pixel_size)
    tables = yield from Results(rules).measuring(labels, stated, regions, group, types, n_types, are_bodies)
    remarks = (
        image.note,
        pixel_remark(image, rules),
        planes_remark(image, "volume_vx" in tables[0]),
        *(problem.message.removeprefix(f"{image.name}: ") for problem in problems if problem.kind == "pieces"),  # others are of training
    )
    return tables, labels, tuple(filter(None, remarks))
