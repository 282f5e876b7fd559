"""The part of the widget *Review cells* that hands cells which are right to the training."""

from html import escape

from napari.components import ViewerModel
from napari.layers import Labels
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_tally.core.words import number
from napari_tally.widgets._annotation import send_cells
from napari_tally.widgets._layers import image_under
from napari_tally.widgets._parts import button, group, note, say
from napari_tally.widgets._pointing import part_in_view


class SendingPart(QWidget):
    """Copies cells into the annotation of their image, and marks them as annotated.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    labels : napari.layers.Labels or None
        Where the cells are.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self.labels: Labels | None = None
        self.view_button = button(
            "What is in view",
            "Copy the cells in view into the annotation of the image, and mark the part in view as annotated. All that you see there must "
            "be right: what is no cell is background.",
            self._send_view,
        )
        self.all_button = button(
            "Whole image",
            "Copy all cells of this image (of a stack: of this plane) into its annotation, and mark all of it.",
            self._send_all,
        )
        self.sent = note()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(group("Train on what is right", [self.view_button, self.all_button], self.sent))

    def _send_view(self) -> None:
        if self.labels is not None:
            self._send(self.labels, part_in_view(self.labels))

    def _send_all(self) -> None:
        if self.labels is not None:
            height, width = self.labels.data.shape[-2:]
            self._send(self.labels, (slice(0, height), slice(0, width)))

    def _send(self, labels: Labels, window: tuple[slice, slice]) -> None:
        image = image_under(self._viewer, labels)
        if image is None:
            say(self.sent, "The image of these cells is gone.")
            return
        try:
            annotation, n = send_cells(self._viewer, image, labels, window)
        except ValueError as error:
            say(self.sent, escape(str(error)))
            return
        self._viewer.layers.selection.active = labels
        say(self.sent, f"{number(n, 'cell')} copied into “{escape(annotation.name)}”. Train on it with “2 Train”.")
