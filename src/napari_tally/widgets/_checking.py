"""The part of the widget *Annotate* that looks for what would spoil the training."""

from collections.abc import Generator
from html import escape

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_tally.core.annotations import Problem, check_labels, known_labels, split_drawn
from napari_tally.core.events import beside
from napari_tally.core.words import number
from napari_tally.widgets._annotation import region_mask, rewrite
from napari_tally.widgets._cell_count import cells_in
from napari_tally.widgets._job import Job
from napari_tally.widgets._layers import image_from_layer, region_of
from napari_tally.widgets._parts import button, group, note, say

Checked = tuple[list[Problem], int, float]


class CheckPart(QWidget):
    """Checks an annotation on a worker thread, and mends what can be mended. What was found holds until something is drawn.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    rewritten : Qt signal
        Cells on any plane have other numbers.
    """

    rewritten = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._image: ImageLayer | None = None
        self._labels: Labels | None = None
        self._wanted = False  # whether what is being looked for will still be true
        self._job = Job(self)
        self._job.returned.connect(self._show)
        self._job.failed.connect(self._show_failure)
        self._job.state_changed.connect(self._show_state)
        self.check_button = button("", "Look for what would spoil the training.", self._press)
        self.split_button = button("Split them", "Give every separate piece its own number. Undo takes it back.", self._split)
        self.result = note()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(group("Ready to train?", self.check_button, self.result, self.split_button))
        self._show_state()

    def watch(self, image: ImageLayer | None, labels: Labels | None) -> None:
        """Check this annotation from now on."""
        self._image, self._labels = image, labels
        self.forget()

    def forget(self) -> None:
        """What was found, or is being looked for, is no longer true."""
        self._wanted = False
        self._job.stop()
        say(self.result, "")
        self.split_button.hide()

    def _press(self) -> None:
        if self._job.is_active:
            self.forget()
        else:
            self._check()

    def _check(self) -> None:
        image, labels = self._image, self._labels
        if image is None or labels is None or self._job.is_active:
            return
        region = region_of(self._viewer, labels)
        mask = region_mask(region, labels) if region else None
        self._wanted = True
        self._job.start(lambda: _checking(image, labels, mask), description=f"Checking {labels.name}")

    def _show_state(self, state: str = "") -> None:
        self.check_button.setText("Stop checking" if self._job.is_active else "Check annotation")

    def _show(self, outcome: Checked) -> None:
        if not self._wanted:  # it had come to its end when it was stopped
            return
        problems, cells, known = outcome
        lines = [("<b>Stops training:</b> " if p.stops else "<b>Please look:</b> ") + escape(p.message) for p in problems]
        part = f"{number(cells, 'cell')}, {known:.0%} of the image annotated."
        say(self.result, "<br><br>".join(lines) or f"<b>Ready to train:</b> {part}")
        self.split_button.setVisible(any(p.fix == "split" for p in problems))

    def _show_failure(self, error: Exception) -> None:
        if self._wanted:
            say(self.result, escape(str(error)))

    def _split(self) -> None:
        assert self._labels
        self._viewer.layers.selection.active = self._labels
        rewrite(self._labels, split_drawn(self._labels.data, image_from_layer(self._image)))
        self.rewritten.emit()
        self._check()


def _checking(layer: ImageLayer, labels: Labels, region: NDArray[np.bool_] | None) -> Generator[None, None, Checked]:
    """Check an annotation on the worker thread; give the problems, the cells and the annotated share of the image."""
    yield
    drawn = np.array(labels.data)  # a copy: the user may go on drawing
    image = yield from beside(image_from_layer, layer)
    problems = yield from beside(check_labels, drawn, image, region)
    known = known_labels(drawn, region)
    return problems, sum(cells_in(plane) for plane in known.reshape(-1, *known.shape[-2:])), float((known >= 0).mean())
