"""The Python API: the engine's generators, run to the end. Window and command line stand on the same functions.

The same image, model and settings give the same labels here, in the window and from the command
line, to the pixel.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from napari_tally.core.annotations import require_ids, require_labels
from napari_tally.core.counting import measure_cells, planes_remark
from napari_tally.core.events import run_to_end
from napari_tally.core.images import Image, as_image
from napari_tally.settings import CountingSettings, PredictionSettings, TrainingSettings, from_dict

if TYPE_CHECKING:
    import pandas as pd

    from napari_tally.core.model_file import Model
    from napari_tally.core.prediction import Prediction


def train(
    pairs: Sequence[tuple[Image | ArrayLike, ArrayLike]],
    start: "Model | str | None" = "auto",
    on_event: Callable[[Any], object] | None = None,
    **settings: Any,
) -> "Model":
    """Train a model.

    Parameters
    ----------
    pairs : sequence of (image, labels)
        Images as arrays or :class:`Image`; labels as int arrays of the same height and width,
        0 = background, -1 = not annotated.
    start : Model or str or None
        What to start from: a model (it stays as it is), the name of a shipped one or a file, ``"auto"`` for the shipped one that
        knows such cells best, None for random weights.
    on_event : callable, optional
        Called with every event of :func:`napari_tally.core.train.train`.
    **settings
        Fields of :class:`napari_tally.settings.TrainingSettings`, for example ``minutes=2``.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If images, labels or settings cannot be used; the message says what to do.

    Examples
    --------
    >>> import napari_tally as nt
    >>> model = nt.train([nt.simulate_nuclei(seed=1)], steps=2)
    >>> model.record["steps"]
    2
    """
    from napari_tally.core.plan import new_model, plan_training
    from napari_tally.core.samples import TrainingPair
    from napari_tally.core.start import choose_start
    from napari_tally.core.train import train as events

    chosen = from_dict(TrainingSettings, settings)
    annotated = []
    for number, (image, labels) in enumerate(pairs, start=1):
        picture = image if isinstance(image, Image) else as_image(image, name=f"image {number}")
        annotated.append(TrainingPair(picture, require_labels(np.asarray(labels), picture)))
    begin = choose_start(start, annotated, chosen)
    plan = plan_training(annotated, chosen, begin)
    model = new_model(plan, begin)
    run_to_end(events(model, annotated, plan), on_event)
    return model


def predict(
    image: Image | ArrayLike,
    model: "Model",
    counting: CountingSettings | None = None,
    settings: PredictionSettings | None = None,
) -> "Prediction":
    """Find the cells of an image.

    Parameters
    ----------
    image : array or Image
        (Y, X), (Y, X, 3 or 4) colour, or planes before them; see :func:`napari_tally.as_image`.
    model : Model
    counting : CountingSettings, optional
        Thresholds; left out, those of the model.
    settings : PredictionSettings, optional

    Examples
    --------
    >>> import napari_tally as nt
    >>> image, truth = nt.simulate_nuclei(seed=1)
    >>> model = nt.train([(image, truth)], steps=2)
    >>> nt.predict(image, model).labels.shape == truth.shape
    True
    """
    from napari_tally.core.find import find_cells

    return run_to_end(find_cells(model, _as_image(image), settings, counting))


def count(labels: ArrayLike, image: Image | ArrayLike, bodies: bool | None = None) -> "pd.DataFrame":
    """Measure and count the cells of a label image: one row a cell.

    Parameters
    ----------
    labels : int array
        0 = background.
    image : array or Image
        The image that the labels belong to; its pixel size gives areas in um2.
    bodies : bool, optional
        Of a z-stack: whether cells go through the slices, a row each, or every slice is counted by itself. Left out: seen from the
        labels, whether cells keep their ids from slice to slice; a warning says what they were taken as.

    Raises
    ------
    ValueError
        If these are no labels, or not those of an image of this shape.

    Examples
    --------
    >>> import napari_tally as nt
    >>> image, truth = nt.simulate_nuclei(seed=1)
    >>> len(nt.count(truth, image)) == int(truth.max())
    True
    """
    picture = _as_image(image)
    cells = measure_cells(require_ids(np.asarray(labels), picture.name), picture, are_bodies=bodies)
    if bodies is None and picture.slices > 1:
        remark = planes_remark(picture, "volume_vx" in cells, by_labels=True)
        warnings.warn(f"{picture.name}: {remark} State it: bodies=True or bodies=False.", stacklevel=2)
    return cells


def _as_image(image: Image | ArrayLike) -> Image:
    return image if isinstance(image, Image) else as_image(image)
