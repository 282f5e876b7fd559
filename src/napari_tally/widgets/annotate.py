"""The dock widget to annotate: draw cells, mark where everything is drawn, check what is drawn.

The loop that people live in: predict, copy the prediction into the annotation, correct it, mark the
corrected region, train on. The layers and what they mean are in :mod:`napari_tally.widgets._layers`.
"""

from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QAbstractButton, QButtonGroup, QCheckBox, QDoubleSpinBox, QFormLayout, QLabel, QWidget

from napari_tally.core.journal import read_journal
from napari_tally.core.words import number
from napari_tally.widgets._annotation import cells_from_points, copy_cells, mark_plane, next_cell, region_mask, start_annotation
from napari_tally.widgets._cell_count import CellCount
from napari_tally.widgets._checking import CheckPart
from napari_tally.widgets._geometry import channels_to_front, label_shape, placement, shown_plane
from napari_tally.widgets._history import History
from napari_tally.widgets._kept import Keeper, left_drawings
from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import annotation_of, fits, image_of, is_a, is_source, layers_of, region_of, uncover
from napari_tally.widgets._parts import button, fill, group, note, say
from napari_tally.widgets._session import unwrap

if TYPE_CHECKING:
    import napari

_TOOLS = {
    "paint": ("Brush", "Paint the current cell. Size: keys [ and ]. Drag with the right button around a cell to fill it."),
    "erase": ("Erase", "Rub out what is drawn (key 1 or E)."),
    "fill": ("Fill", "Give the cell under the mouse the current number, for example to join two halves (key 4 or F)."),
    "pick": ("Pick", "Click on a cell to go on drawing it (key 5 or L)."),
}
_PATIENCE = 250
"""Milliseconds without a stroke after which the cells are counted."""


class AnnotateWidget(QWidget):
    """Draw cells on an image and mark the region where all of them are drawn.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: "napari.Viewer") -> None:
        super().__init__()
        self._viewer = unwrap(napari_viewer)
        self._labels: Labels | None = None  # what the buttons work on
        self._region: Shapes | None = None
        self._cells = CellCount(self._viewer)
        self._history = History()
        self._history.moved.connect(self._undone)
        self._left: list[Path] = []  # journals of drawings on this image that a crash left behind
        self._keeper = Keeper(self)
        self._keeper.trouble.connect(self._show_trouble)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_PATIENCE)
        self._later.timeout.connect(self._count)

        self.image_choice = LayerCombo(self._viewer, is_source)
        self.image_choice.setToolTip("The image to annotate.")
        self.labels_choice = LayerCombo(self._viewer, self._can_hold_cells, extra="New layer")
        self.labels_choice.setToolTip("Where the cells are drawn: a new layer, or labels that you have already.")
        self.start_button = button(
            "Start annotating", "Make the layers for cells and region, where they are missing, and take the brush.", self._start
        )
        self.message = note()
        self.left_text = note()
        self.bring_button = button("Bring it back", "Lay the drawing that was left behind on the image, as a new layer.", self._bring_back)
        self.drop_button = button("Discard", "Forget the drawing that was left behind.", self._drop)

        self.next_button = button("Next cell  (N)", "Take the brush with a new number: each cell needs its own. Key: N", self._next)
        self.tool_buttons = {mode: button(text, tip, checkable=True) for mode, (text, tip) in _TOOLS.items()}
        tools = QButtonGroup(self)
        tools.setExclusive(False)  # none is down while the region is marked
        for tool in self.tool_buttons.values():
            tools.addButton(tool)
        tools.buttonClicked.connect(self._use)
        self.undo_button = button("Undo", "Take back what was done last to cells and regions (Ctrl+Z).", self._history.undo)
        self.protect = QCheckBox("Do not paint over other cells")
        self.protect.setToolTip("The brush leaves other cells as they are; the eraser then rubs out the current cell only (key B).")
        self.protect.toggled.connect(self._protect)
        self.count_text = note("", size=1.3)

        self.region_button = button("Mark region", "Drag rectangles around parts of the image where every cell is drawn.", self._mark)
        self.whole_button = button("Whole image", "Every cell of this image (of a stack: of this plane) is drawn.", self._mark_whole)
        self.clear_button = button("Clear", "Remove all regions.", self._clear_region)
        self.region_text = note()

        self.copy_choice = LayerCombo(self._viewer, self._can_be_copied)
        self.copy_choice.setToolTip("Labels that a model (or another program) found on this image.")
        self.copy_button = button(
            "Copy here",
            "Copy the found cells into the annotation, to correct them. What is annotated stays: cells that reach into the region or, "
            "without a region, every cell. Undo takes it back.",
            self._copy,
        )
        self.copy_button.setEnabled(False)
        self.points_choice = LayerCombo(self._viewer, lambda layer: isinstance(layer, Points))
        self.points_choice.setToolTip("A Points layer with one point on each cell.")
        self.radius = QDoubleSpinBox()
        self.radius.setRange(0.5, 500)
        self.radius.setValue(8)
        self.radius.setDecimals(1)
        self.radius.setSuffix(" px")
        self.radius.setToolTip("Radius of the disc that stands for a cell: about that of the smallest cells.")
        self.points_button = button(
            "Make cells",
            "Draw a disc around every point that lies on no cell yet. Training then learns to find the cells, not their outlines. "
            "Undo takes it back.",
            self._make_cells,
        )
        self.check = CheckPart(self._viewer)
        self.check.rewritten.connect(self._count_anew)
        self.check_button, self.split_button, self.result = self.check.check_button, self.check.split_button, self.check.result

        dots = [self.points_choice, QLabel("Radius"), self.radius]
        self.points_group = group("Points instead of outlines", dots, self.points_button)
        choices = QFormLayout()
        choices.addRow("Image", self.image_choice)
        choices.addRow("Cells in", self.labels_choice)
        self._drawing = [
            group("Draw", [self.next_button, self.undo_button], list(self.tool_buttons.values()), self.protect, self.count_text),
            group(
                "Annotated region",
                note("Inside it, what is not drawn is background. Outside it nothing is known, and training ignores it."),
                [self.region_button, self.whole_button, self.clear_button],
                self.region_text,
            ),
            self.points_group,
            group("Correct a prediction", [self.copy_choice, self.copy_button]),
            self.check,
        ]
        fill(
            self,
            "1 Annotate",
            group("Image", choices, self.left_text, [self.bring_button, self.drop_button], self.start_button, self.message),
            *self._drawing,
        )
        self.image_choice.changed.connect(self._change_image)
        self.labels_choice.changed.connect(self._change_labels)
        self._viewer.layers.selection.events.active.connect(self._follow_active)
        self.copy_choice.changed.connect(self._enable_copy)
        self._viewer.layers.events.inserted.connect(self._follow_predictions)
        for name in ("inserted", "removed"):
            self._viewer.layers.events[name].connect(self._follow_points)
            self._viewer.layers.events[name].connect(self._follow_region)
        self._follow_points()
        self._change_image()
        self._enable_copy(self.copy_choice.layer)

    # Which layers

    def _follow_points(self, event: object = None) -> None:
        """Offer to make cells of points where there are any."""
        self.points_group.setVisible(bool(self.points_choice.layers))

    def _follow_region(self, event: object = None) -> None:
        """Say that nothing is marked when the user has deleted the region."""
        if self._labels is not None and region_of(self._viewer, self._labels) is not self._region:
            self._change_labels()

    def _can_hold_cells(self, layer: Layer) -> bool:
        image = self.image_choice.layer
        return image is not None and fits(layer, image) and not is_a(layer, "prediction", image)

    def _can_be_copied(self, layer: Layer) -> bool:
        image = self.image_choice.layer
        return image is not None and layer is not self._labels and fits(layer, image)

    def _follow_active(self, event: object = None) -> None:
        """Work on the annotation that the user selects in the layer list."""
        active = self._viewer.layers.selection.active
        image = image_of(self._viewer, active) if isinstance(active, Labels) else None
        if image and is_a(active, "annotation", image):
            self.image_choice.layer = image
            self.labels_choice.layer = active
        self._show()

    def _follow_predictions(self, event: object = None) -> None:
        """Offer the newest prediction to be copied."""
        found = layers_of(self._viewer, "prediction", self.image_choice.layer) if self.image_choice.layer else []
        if found:
            self.copy_choice.layer = found[-1]

    # A drawing that was left behind

    def _offer_left(self) -> None:
        image = self.image_choice.layer
        self._left = left_drawings(image.name, label_shape(image)) if image else []
        when = f"{datetime.fromtimestamp(self._left[0].stat().st_mtime):%d %b %H:%M}" if self._left else ""
        say(self.left_text, f"<b>A drawing on this image was left behind</b> ({when}), by a crash or without being saved." if when else "")
        for part in (self.bring_button, self.drop_button):
            part.setVisible(bool(self._left))

    def _bring_back(self) -> None:
        image, path = self.image_choice.layer, self._left[0]
        try:
            found = read_journal(path)
            channels_to_front(self._viewer, image)
            place = placement(image, found.labels.ndim)
            layer = Labels(found.labels, name=f"{image.name} cells", **place)
            self._viewer.add_layer(layer)
            start_annotation(self._viewer, image, layer)
            region = region_of(self._viewer, layer)
            if found.region and region is not None:
                region.add([np.array(one["points"]) for one in found.region], shape_type=[one["type"] for one in found.region])
        except ValueError as error:
            say(self.message, escape(str(error)))
            return
        self.labels_choice.layer = layer
        self._change_labels()
        self._keeper.flush()  # into a journal of its own
        self._drop()

    def _drop(self) -> None:
        self._left[0].unlink(missing_ok=True)
        self._offer_left()

    def _show_trouble(self, text: str) -> None:
        say(self.message, escape(text))

    def _change_image(self, image: ImageLayer | None = None) -> None:
        self._offer_left()
        self.labels_choice.follow()
        self.labels_choice.layer = annotation_of(self._viewer, self.image_choice.layer) if self.image_choice.layer else None
        self._change_labels()
        self._follow_predictions()

    def _change_labels(self, layer: Labels | None = None) -> None:
        """Connect the buttons to the chosen annotation, if it is one."""
        image, labels = self.image_choice.layer, self.labels_choice.layer
        if not (image and labels and is_a(labels, "annotation", image)):
            labels = None
        for event in self._events():
            event.disconnect(self._noticed)
        self._labels, self._region = labels, region_of(self._viewer, labels) if labels else None
        self._history.watch(self._labels, self._region)
        for event in self._events():
            event.connect(self._noticed)
        self.copy_choice.follow()
        self.start_button.setEnabled(image is not None)
        self.start_button.setText("Go on annotating" if labels else "Start annotating")
        for box in self._drawing:
            box.setEnabled(labels is not None)
        say(self.message, "" if image else "Open an image first: File > Open File(s), or drop it into the window.")
        self._keeper.watch(image.name if image else "", self._labels, self._region)
        self.check.watch(image, labels)
        self._show()
        self._count_anew()

    def _events(self) -> list[Any]:
        """What the layers that are worked on can tell."""
        told = [self._labels.events[name] for name in ("paint", "set_data", "data", "mode", "preserve_labels")] if self._labels else []
        return told + ([self._region.events["data"]] if self._region else [])

    # Drawing

    def _start(self) -> None:
        chosen = self.labels_choice.layer
        if chosen is not None and not chosen.visible:
            chosen.visible = True
        try:
            labels = start_annotation(self._viewer, self.image_choice.layer, chosen)
        except ValueError as error:
            say(self.message, escape(str(error)))
            return
        self.labels_choice.layer = labels
        uncover(self._viewer, self.image_choice.layer)
        self._change_labels()

    def _next(self) -> None:
        next_cell(self._take())

    def _use(self, tool: QAbstractButton) -> None:
        self._take().mode = next(mode for mode, offered in self.tool_buttons.items() if offered is tool)
        self._show()

    def _undone(self) -> None:
        self.check.forget()
        self._cells.forget()  # what is undone may lie on any plane
        self._later.start()

    def _protect(self, on: bool) -> None:
        if self._labels:
            self._labels.preserve_labels = on

    def _take(self) -> Labels:
        """Give the labels, selected in the layer list so that the mouse draws in them."""
        assert self._labels
        if not self._labels.visible:  # a count hides what was drawn, and napari draws in nothing that is hidden
            self._labels.visible = True
        self._viewer.layers.selection.active = self._labels
        return self._labels

    def _noticed(self, event: Any = None) -> None:
        """Something was drawn, or another tool taken."""
        self._show()
        if event.type in ("paint", "set_data", "data"):
            self._keeper.stroke()
        if event.source is self._labels and event.type == "data":
            self._cells.forget()
        if event.type in ("paint", "set_data") and self._labels is not None:
            self._cells.stroke(self._labels)
            self._later.start()
        if event.type in ("paint", "data"):
            self.check.forget()

    def _show(self) -> None:
        labels = self._labels
        mode = labels.mode if labels and labels is self._viewer.layers.selection.active else ""
        for name, tool in self.tool_buttons.items():
            tool.setChecked(name == mode)
        self.protect.setChecked(labels is not None and labels.preserve_labels)
        flat = labels is None or labels.ndim == 2
        self.whole_button.setText("Whole image" if flat else "Whole plane")
        n = sum(kind not in ("line", "path") for kind in self._region.shape_type) if self._region else 0
        parts = "1 region is marked." if n == 1 else f"{n} regions are marked."
        say(self.region_text, (parts if n else "No region is marked: the whole image counts as annotated.") if labels else "")

    def _count(self) -> None:
        """Count the drawn cells, where something was drawn."""
        self._later.stop()
        self.count_text.setText(f"{number(self._cells.count(self._labels), 'cell')} drawn" if self._labels else "")

    def _count_anew(self) -> None:
        """Count the drawn cells on all planes."""
        self._cells.forget()
        self._count()

    # The region

    def _take_region(self) -> Shapes:
        """Give the region, made anew if the user has deleted it."""
        labels = self._take()
        region = region_of(self._viewer, labels)
        if region is None:
            start_annotation(self._viewer, self.image_choice.layer, labels)
            self._change_labels()
            region = region_of(self._viewer, labels)
        assert region
        return region

    def _mark(self) -> None:
        region = self._take_region()
        self._viewer.layers.selection.active = region
        region.mode = "add_rectangle"

    def _mark_whole(self) -> None:
        region, labels = self._take_region(), self._take()
        if not region_mask(region, labels)[shown_plane(self._viewer, labels)].all():
            mark_plane(self._viewer, region, labels)

    def _clear_region(self) -> None:
        self._take_region().data = []

    # A prediction to correct, and the check

    def _enable_copy(self, found: Labels | None) -> None:
        self.copy_button.setEnabled(found is not None)

    def _copy(self) -> None:
        try:
            copy_cells(self._viewer, self.image_choice.layer, self.copy_choice.layer, self._labels)
        except ValueError as error:
            say(self.message, escape(str(error)))
        self._change_labels()

    def _make_cells(self) -> None:
        labels = self._take()
        try:
            n = cells_from_points(self._viewer, self.points_choice.layer, labels, self.radius.value())
            say(self.message, f"{number(n, 'cell')} made of points.")
        except ValueError as error:
            say(self.message, escape(str(error)))
        self._count_anew()
