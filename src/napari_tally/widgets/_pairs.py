"""The images to train on, each with its labels: one row a pair."""

from typing import TYPE_CHECKING
from weakref import WeakSet

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from qtpy.QtCore import Signal
from qtpy.QtGui import QEnterEvent, QShowEvent
from qtpy.QtWidgets import QAbstractButton, QButtonGroup, QGridLayout, QLabel, QPushButton, QToolButton, QWidget

from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import image_of, is_source, labels_for_image, layers_of, region_of
from napari_tally.widgets._parts import button, note, say, spare_from_wheel

if TYPE_CHECKING:
    import napari

Pair = tuple[ImageLayer, Labels]


def propose_pairs(viewer: "napari.Viewer") -> list[Pair]:
    """Guess what to train on: every annotation; without any, the first image with labels of its shape."""
    if annotated := _annotated(viewer):
        return annotated
    images = [layer for layer in viewer.layers if is_source(layer)]
    fitting = [(image, labels) for image in images for labels in fitting_labels(viewer, image) if image_of(viewer, labels) is None]
    return fitting[:1]


def _annotated(viewer: "napari.Viewer") -> list[Pair]:
    """List the images that are annotated, each with its newest annotation."""
    images = [layer for layer in viewer.layers if is_source(layer)]
    return [(image, layers[-1]) for image in images if (layers := layers_of(viewer, "annotation", image))]


def fitting_labels(viewer: "napari.Viewer", image: ImageLayer | None) -> list[Labels]:
    """List the label layers that fit an image; none if it cannot be told."""
    try:
        return labels_for_image(viewer, image) if image else []
    except ValueError:  # odd axes; reading the image says so in full
        return []


class PairTable(QWidget):
    """Rows of (image, labels). Until the user changes a row, they follow the layers; then new annotations are added to his.

    Attributes
    ----------
    changed : Qt signal
        The pairs are others.
    """

    changed = Signal()

    def __init__(self, viewer: "napari.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self._own = False  # whether the user has chosen
        self._seen: WeakSet[Labels] = WeakSet()  # annotations that were proposed: he may not want them
        self._removers = QButtonGroup(self)  # a lambda for each button would keep its row
        self._removers.buttonClicked.connect(self._remove)
        self._rows: list[_Row] = []
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(4)
        for column, text in enumerate(("Image", "Its labels")):
            self._grid.addWidget(QLabel(text), 0, column)
            self._grid.setColumnStretch(column, 1)
        self.add_button: QPushButton = button("Add pair", "Train on one more image with its labels.", self.add_pair)
        for name in ("inserted", "removed", "renamed"):
            viewer.layers.events[name].connect(self._follow)
        viewer.layers.selection.events.active.connect(self._follow)  # comes last when an annotation is made
        self._follow()

    @property
    def pairs(self) -> list[Pair]:
        """The complete rows, each pair once."""
        return list(dict.fromkeys(row.pair for row in self._rows if all(row.pair)))

    def showEvent(self, event: QShowEvent) -> None:
        """Come to the front, as :meth:`enterEvent`."""
        self._tell()
        super().showEvent(event)

    def enterEvent(self, event: QEnterEvent) -> None:
        """Regions may have been drawn meanwhile."""
        self._tell()
        super().enterEvent(event)

    def add_pair(self) -> None:
        """Add a row: the first image that has none yet, else an empty choice."""
        self._own = True
        taken = [row.image.layer for row in self._rows]
        free = next((layer for layer in self._viewer.layers if is_source(layer) and layer not in taken), None)
        self._add_row(free)
        self._tell()

    def _add_row(self, image: ImageLayer | None = None, labels: Labels | None = None) -> None:
        row = _Row(self._viewer, self._grid, self)
        self._rows.append(row)
        row.show_pair(image, labels)
        row.image.activated.connect(self._chosen)
        row.labels.activated.connect(self._chosen)
        for combo in (row.image, row.labels):
            combo.changed.connect(self._tell)
        self._removers.addButton(row.remove)

    def _remove(self, remover: QAbstractButton) -> None:
        self._own = True
        self._take_out([row for row in self._rows if row.remove is remover])
        self._tell()

    def _take_out(self, rows: "list[_Row]") -> None:
        for row in rows:
            self._rows.remove(row)
            self._removers.removeButton(row.remove)
            row.leave()

    def _chosen(self, index: int) -> None:
        self._own = True
        for row in self._rows:
            row.chosen = row.image.layer

    def _follow(self, event: object = None) -> None:
        """Layers came, went or got another name."""
        annotated = _annotated(self._viewer)
        if self._own:
            self._take_out([row for row in self._rows if row.chosen is not None and row.chosen not in self._viewer.layers])
            taken = [row.image.layer for row in self._rows]
            for image, labels in annotated:
                if labels not in self._seen and image not in taken:
                    self._add_row(image, labels)
            self._own = bool(self._rows)
        self._seen.update(labels for _, labels in annotated)
        if not self._own:
            proposed = propose_pairs(self._viewer) or [(None, None)]
            self._take_out(self._rows[len(proposed) :])
            while len(self._rows) < len(proposed):
                self._add_row()
            for row, pair in zip(self._rows, proposed, strict=True):
                row.show_pair(*pair)
        self._tell()

    def _tell(self, layer: object = None) -> None:
        for row in self._rows:
            row.describe()
            row.remove.setVisible(len(self._rows) > 1)
        self.changed.emit()


class _Row:
    """The widgets of one pair in the grid: two choices, a button, and a line on what counts as annotated.

    `chosen` is the image that somebody has chosen: where that is gone, the choice itself goes on to the next one.
    """

    def __init__(self, viewer: "napari.Viewer", grid: QGridLayout, parent: QWidget) -> None:
        self._viewer = viewer
        self.chosen: ImageLayer | None = None
        self.image = LayerCombo(viewer, is_source)
        self.labels = LayerCombo(viewer, self._fits)
        spare_from_wheel(self.image)
        spare_from_wheel(self.labels)
        self.remove = QToolButton()
        self.remove.setText("✕")
        self.remove.setToolTip("Do not train on this pair.")
        self.line = note()
        line = grid.rowCount()
        for column, widget in enumerate((self.image, self.labels, self.remove)):
            grid.addWidget(widget, line, column)
        grid.addWidget(self.line, line + 1, 0, 1, 3)
        self.image.changed.connect(self._image_changed)

    @property
    def pair(self) -> Pair:
        return self.image.layer, self.labels.layer

    def show_pair(self, image: ImageLayer | None, labels: Labels | None) -> None:
        """Choose these layers; without labels the first that fit."""
        self.image.layer = self.chosen = image
        self._image_changed()
        if labels is not None:
            self.labels.layer = labels

    def leave(self) -> None:
        for widget in (self.image, self.labels, self.remove, self.line):
            widget.hide()
            widget.setParent(None)

    def describe(self) -> None:
        """Say what counts as annotated, or what is missing."""
        image, labels = self.pair
        names = [layer.name if layer else "none" for layer in self.pair]  # long ones do not fit into the fields
        self.image.setToolTip(f"{names[0]}: an image to learn from.")
        self.labels.setToolTip(f"{names[1]}: its cells, each with a number of its own; a Labels layer of the shape of the image.")
        if image is None:
            text = "Open an image first."
        elif labels is None:
            text = "No labels of the shape of this image: draw cells with “1 Annotate cells”."
        else:
            region = region_of(self._viewer, labels)
            marked = region is not None and len(region.data) > 0
            text = f"Annotated: inside “{region.name}”." if marked and region else "Annotated: the whole image."
        say(self.line, text)

    def _fits(self, layer: Layer) -> bool:
        return layer in fitting_labels(self._viewer, self.image.layer)

    def _image_changed(self, layer: object = None) -> None:
        self.labels.follow()
        self.labels.layer = next(iter(fitting_labels(self._viewer, self.image.layer)), None)  # its annotation comes first
