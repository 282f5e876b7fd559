"""The dock widget to check a count: click on the cells of random windows, and see the corrected count with its interval.

::

    Start ──▶ windows are drawn ──▶ window 1 ──▶ click on cells ──▶ done, next (N) ──▶ ... ──▶ corrected count
    Go on with one ────────────────▶ the first that is open         none here (0)
                                                                    back (B)

What is counted is written into the audit's file after every window, and a second after the last click.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import QAbstractItemView, QFormLayout, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_tally.core.annotations import known_labels
from napari_tally.core.audit import Audit, StudyImage, comparing_labels, draw_audit
from napari_tally.core.audit_file import read_audit, write_audit
from napari_tally.core.images import list_images, read_image
from napari_tally.core.results import few
from napari_tally.core.tables import write_table
from napari_tally.settings import AuditSettings
from napari_tally.widgets._annotation import region_mask
from napari_tally.widgets._form import SettingsForm
from napari_tally.widgets._frame import CountingFrame
from napari_tally.widgets._geometry import label_shape
from napari_tally.widgets._job import Job
from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import KEY, annotation_of, cells_on, image_from_layer, is_source, region_of
from napari_tally.widgets._parts import ask_for_file, ask_for_folder, ask_where_to_save, button, fill, filling, group, note, say
from napari_tally.widgets._plots import HandPlot
from napari_tally.widgets._session import unwrap
from napari_tally.widgets._stacked import theme_colours

if TYPE_CHECKING:
    import napari

_MORE = 10
_PATIENCE = 1000
"""Milliseconds after the last click until the clicks are written."""


@dataclass(frozen=True, eq=False)
class Part:
    """An image of the viewer that is audited: its layer, its predicted cells, and where it is annotated."""

    image: ImageLayer
    labels: Labels
    annotated: Any = None


class AuditWidget(QWidget):
    """Check a count by hand in random windows.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: "napari.Viewer") -> None:
        super().__init__()
        self._viewer = unwrap(napari_viewer)
        self._audit: Audit | None = None
        self._path: Path | None = None
        self._folder: dict[str, Path] = {}  # images on disk, for an audit of more images than the viewer holds
        self._images: dict[str, ImageLayer] = {}
        self._opened: ImageLayer | None = None  # the one image that we have opened from the folder
        self._number = 0
        self._frame = CountingFrame(self._viewer, {"n": self._done, "b": self._back, "0": self._none_here})
        self._frame.clicked.connect(self._clicked)
        self._frame.lost.connect(self._lost)
        self.destroyed.connect(self._frame.forget)
        self._job = Job(self)
        self._job.returned.connect(self._take_audit)
        self._job.failed.connect(self._show_failure)
        self._job.state_changed.connect(self._enable)
        self._others: list[str] = []  # images whose cells were changed after the windows were drawn
        self._comparison = Job(self)
        self._comparison.returned.connect(self._take_others)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_PATIENCE)
        self._later.timeout.connect(self._write)

        self.image_choice = LayerCombo(self._viewer, self._can_be_audited, extra="All images")
        self.image_choice.setToolTip("The images whose predicted cells are checked: all together, or one.")
        self.settings = SettingsForm(AuditSettings)
        self.start_button = button(
            "Start…", "Draw counting windows at random, and choose the file that keeps the audit.", self._ask_where_to_keep_it
        )
        self.open_button = button(
            "Go on with one…", "Open an audit that was begun before, here or by the command line.", self._ask_for_audit
        )
        self.folder_button = button(
            "Folder of its images…", "Where the images of this audit are; each is opened in its turn.", self._ask_for_folder
        )
        self.message = note()

        self.place_text = note(size=1.3)
        self.clicks_text = note()
        self.done_button = button("Done, next  (N)", "All cells of this window are clicked: on to the next one. Key: N", self._done)
        self.none_button = button("None here  (0)", "There is no cell in this window: on to the next one. Key: 0", self._none_here)
        self.back_button = button("Back  (B)", "To the window before, or to the last one where all are counted. Key: B", self._back)
        self.fly_button = button("Go there", "Bring the window into view again, ready to click.", self._go_there)
        self.stop_button = button("Pause", "Take the frame away; the audit can go on at any time.", self._pause)

        self.count_text = note(size=2.0)
        self.details = note()
        self.more_button = button(
            f"{_MORE} more windows", "Go on with the same random order: the interval becomes narrower.", self._add_windows
        )
        self.save_button = button("Save CSV…", "Write corrected.csv: all images together, each image, each group.", self._ask_where_to_save)
        self.table = QTableWidget(0, 4)
        self.table.setHorizontalHeaderLabels(["Image", "Predicted", "Corrected", "95 %"])
        self.table.setToolTip(
            "95 %: the interval. An image has a corrected count of its own where at least 4 of its windows are counted. These need not add "
            "up to the count of all: each is estimated by the windows of its image, that of all by all windows."
        )
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)

        self.plot_button = button("▸ Hand against predicted", "Each window that is done as a dot.", self._fold, checkable=True)
        self.plot = HandPlot(*theme_colours(getattr(self._viewer, "theme", "dark")))
        self.plot_text = note(
            "A dot a window; larger where several agree. On the dashed line hand and prediction are equal, above it cells were missed."
        )

        choices = QFormLayout()
        choices.addRow("Images", self.image_choice)
        rule = (
            "Click once in the middle of every cell whose middle lies in the frame. On a <b>green</b> edge it counts, on a "
            "<b>red dashed</b> edge it does not. What you click outside is not counted."
        )
        self._counting = group(
            "Count by hand",
            self.place_text,
            note(rule),
            self.clicks_text,
            [self.done_button, self.none_button],
            [self.back_button, self.fly_button, self.stop_button],
        )
        self._result = group(
            "Result",
            self.count_text,
            self.details,
            self.table,
            [self.more_button, self.save_button],
            self.plot_button,
            self.plot,
            self.plot_text,
        )
        fill(
            self,
            group("What to check", choices, self.settings.native, [self.start_button, self.open_button], self.folder_button, self.message),
            self._counting,
            self._result,
        )
        self._viewer.layers.events.inserted.connect(self._enable)
        self._viewer.layers.events.removed.connect(self._forget)
        if hasattr(self._viewer.events, "theme"):
            self._viewer.events.theme.connect(self._follow_theme)
        self._fold()
        self._enable()
        self._show()

    # Which images, and the drawing

    def _can_be_audited(self, layer: Any) -> bool:
        return is_source(layer) and layer is not getattr(self, "_opened", None) and cells_on(self._viewer, layer) is not None

    def _chosen(self) -> Sequence[ImageLayer]:
        return [self.image_choice.layer] if self.image_choice.layer else self.image_choice.layers

    def _ask_where_to_keep_it(self) -> None:
        ask_where_to_save(self, "Keep the audit in this file", "audit.json", "Audits (*.json)", self.start)

    def start(self, path: str | Path) -> None:
        """Draw an audit of the chosen images, and keep it in a file."""
        parts = [self._part(layer) for layer in self._chosen()]
        settings = self.settings.value
        self._pause()
        say(self.message, "Drawing the windows…")
        self._job.start(lambda: _draw(parts, settings, Path(path)), description="Drawing counting windows")

    def _part(self, image: ImageLayer) -> Part:
        labels = cells_on(self._viewer, image)
        assert labels
        return Part(image, labels, _not_to_draw(_annotated(self._viewer, image), labels))

    def _ask_for_audit(self) -> None:
        ask_for_file(self, "Go on with an audit", "Audits (*.json)", self.open)

    def open(self, path: str | Path) -> None:
        """Go on with an audit that is kept in a file."""
        if not self._job.is_active:
            self._pause()
            self._job.start(lambda: _open(Path(path)), description="Opening an audit")

    def _take_audit(self, opened: tuple[Audit, Path]) -> None:
        self._audit, self._path = opened
        self._images, self._others = {}, []
        say(self.message, f"Kept in {escape(self._path.name)}." + self._whose_cells() + self._left_out())
        self.message.setToolTip(str(self._path))
        first = self._audit.next_open()
        self._number = self._audit.wanted - 1 if first is None else first
        self._show()
        if first is not None:
            self._go_to(first)
        self._compare_cells()

    def _whose_cells(self) -> str:
        """Say which labels of another origin are taken for the cells of which image."""
        assert self._audit
        names = {image.name for image in self._audit.images}
        foreign = {name: labels for name, labels in self._cells_now().items() if name in names and not labels.metadata.get(KEY)}
        told = [f"“{labels.name}” on {name}" for name, labels in foreign.items()]
        return f"<br>The cells are those of {escape(few(told))}." * bool(told)

    def _cells_now(self) -> dict[str, Labels]:
        """Give the cells that lie on the images of the viewer, by the names of these."""
        both = ((layer.name, cells_on(self._viewer, layer)) for layer in self._viewer.layers if is_source(layer))
        return {name: labels for name, labels in both if labels is not None}

    def _compare_cells(self) -> None:
        """Look whether the cells are still those that the windows were drawn for."""
        if self._audit and not self._comparison.is_active:
            audit, now = self._audit, {name: labels.data for name, labels in self._cells_now().items()}
            self._comparison.start(lambda: _compare(audit, now), description="Comparing cells with an audit")

    def _take_others(self, names: list[str]) -> None:
        self._others = names
        self._show()

    def _left_out(self) -> str:
        n = self._audit.left_out if self._audit else 0
        return (
            f"<br>Windows that touch your annotations are left out, with {n:,} predicted cells: what a model learnt from cannot judge it."
            * bool(n)
        )

    def _show_failure(self, error: Exception) -> None:
        say(self.message, escape(str(error)))

    def _ask_for_folder(self) -> None:
        ask_for_folder(self, "Folder of the images of this audit", self.find_images)

    def find_images(self, folder: str | Path) -> None:
        """Take the images of the audit from a folder."""
        try:
            self._folder = list_images(folder)
        except ValueError as error:
            say(self.message, escape(str(error)))
            return
        self._go_to(self._number)

    # Window by window

    def _go_to(self, number: int) -> None:
        """Show a window of the audit, if its image can be had."""
        assert self._audit
        self._number = number
        window = self._audit.window(number)
        try:
            image = self._image(window.image)
        except ValueError as error:
            self._frame.leave()
            say(self.message, escape(str(error)))
        else:
            if image is not None:
                self._frame.show(window, image, self._audit.clicks.get(number, []))
        self._show()

    def _image(self, name: str) -> ImageLayer | None:
        """Give the layer of an image of the audit: as drawn, else by its name, else from the folder."""
        assert self._audit
        shape = next(image.shape for image in self._audit.images if image.name == name)
        known = self._images.get(name)
        if known is not None and known in self._viewer.layers:
            return known
        fitting = [layer for layer in self._viewer.layers if is_source(layer) and _has_shape(layer, shape)]
        for layer in sorted(fitting, key=lambda layer: layer.name != name):  # one that was renamed meanwhile has the same pixels
            if self._is_of(name, layer):
                self._images[name] = layer
                return layer
        if name in self._folder:
            return self._open_image(name, shape)
        if any(layer.name == name for layer in fitting):
            raise ValueError(f"{name} has other pixels than when the windows were drawn. Open the image of then, and press Go there.")
        raise ValueError(
            f"The next window lies on {name} ({' × '.join(map(str, shape))} px), which is not open. Open it, then press Go there."
        )

    def _is_of(self, name: str, layer: ImageLayer) -> bool:
        """Whether a layer shows the image that windows were drawn on; of a slide its name must do."""
        assert self._audit
        mark = next(image.image_fingerprint for image in self._audit.images if image.name == name)
        image = image_from_layer(layer)
        return layer.name == name if image.is_lazy or not mark else image.fingerprint == mark

    def _open_image(self, name: str, shape: tuple[int, ...]) -> ImageLayer:
        image = read_image(self._folder[name])
        if image.shape != shape:
            raise ValueError(f"{self._folder[name]} has the shape {image.shape}; in the audit {name} has {shape}. Choose another folder.")
        if self._opened is not None and self._opened in self._viewer.layers:
            self._frame.leave()
            self._viewer.layers.remove(self._opened)
        data = (
            image.planes.transpose(0, 2, 3, 1).reshape(*image.shape, image.channels)
            if image.colour
            else image.planes[:, 0].reshape(image.shape)
        )
        scale = (
            {"scale": (*[1] * (len(shape) - 2), *image.pixel_size), "units": [*["pixel"] * (len(shape) - 2), "um", "um"]}
            if image.pixel_size
            else {}
        )
        self._opened = ImageLayer(data, name=name, rgb=image.colour, **scale)
        self._viewer.layers.append(self._opened)
        self._images[name] = self._opened
        return self._opened

    def _clicked(self) -> None:
        if self._audit:
            self._audit.clicks[self._number] = self._frame.clicks
            self._audit.counts.pop(self._number, None)  # until it is done again
            self._later.start()
        self._show_window()

    def _done(self) -> None:
        """Take the clicks as the count of the window, and go on."""
        if not (self._audit and self._frame.is_shown):
            return
        if not self._frame.inside.any():
            say(self.clicks_text, "<b>No cell is clicked in the frame.</b> Press “None here” (0) if there is none.")
            return
        self._count()

    def _none_here(self) -> None:
        """The window has no cell."""
        if not (self._audit and self._frame.is_shown):
            return
        if self._frame.inside.any():
            say(self.clicks_text, "<b>There are clicks in the frame.</b> Press “Done, next” (N), or delete them first.")
            return
        self._count()

    def _count(self) -> None:
        assert self._audit
        self._audit.count_clicks(self._number, self._frame.clicks)
        self._write()
        following = [n for n in range(self._number + 1, self._audit.wanted) if n not in self._audit.counts]
        coming = next(iter(following), self._audit.next_open())
        if coming is None:
            self._frame.leave()
            self._viewer.reset_view()
            self._show()
            self._compare_cells()
        else:
            self._go_to(coming)

    def _back(self) -> None:
        before = self._before()
        if before is not None and not self._job.is_active:
            self._go_to(before)

    def _before(self) -> int | None:
        """Give the window that Back goes to: where all are counted and none is shown, the last one counted."""
        if self._frame.is_shown:
            return self._number - 1 if self._number > 0 else None
        return self._number if self._audit and self._audit.next_open() is None else None

    def _go_there(self) -> None:
        if self._frame.is_shown:
            self._frame.fly()
        elif self._audit:
            coming = self._audit.next_open()
            self._go_to(self._number if coming is None or self._number not in self._audit.counts else coming)

    def _pause(self) -> None:
        self._frame.leave()
        self._show()

    def _lost(self) -> None:
        """The user has deleted a layer of ours: nothing is lost, the audit has the clicks."""
        say(self.clicks_text, "The frame or the points were deleted; the clicks are kept. Press Go there to go on.")
        self._enable()

    def _forget(self, event: Any) -> None:
        gone = event.value
        if not is_source(gone):
            return
        self._images = {name: layer for name, layer in self._images.items() if layer is not gone}
        if gone is self._opened:
            self._opened = None
        window = self._frame.window
        if self._audit and self._frame.is_shown and window and window.image not in self._images:
            self._frame.leave()
            say(self.message, f"{escape(window.image)} was closed. Open it again, then press Go there; all clicks are kept.")
        self._show()

    def _add_windows(self) -> None:
        assert self._audit
        self._audit.add_windows(_MORE)
        self._write()
        coming = self._audit.next_open()
        self._show()
        if coming is not None:
            self._go_to(coming)

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: D102  Qt's: the dock or napari is closed; what was clicked last is kept
        if self._later.isActive():
            self._write()
        super().hideEvent(event)

    def _write(self) -> None:
        self._later.stop()
        if self._audit and self._path:
            try:
                write_audit(self._path, self._audit)
            except OSError as error:
                say(self.message, f"<b>The audit could not be written</b> ({escape(str(error))}). It is still in this window.")

    # What is shown

    def _enable(self, state: object = None) -> None:
        busy, shown = self._job.is_active, self._frame.is_shown
        self.image_choice.follow()
        self.start_button.setEnabled(not busy and bool(self._chosen()))
        self.open_button.setEnabled(not busy)
        self._counting.setEnabled(self._audit is not None)
        for widget in (self.done_button, self.none_button, self.stop_button):
            widget.setEnabled(shown)
        self.back_button.setEnabled(not busy and self._before() is not None)
        self.folder_button.setVisible(self._audit is not None and not shown and self._audit.window(self._number).image not in self._images)
        if not (busy or self._audit or self._chosen()):
            say(self.message, "First count cells with “3 Predict and count”, or open an image and its labels of the same shape.")

    def _show_window(self) -> None:
        audit = self._audit
        self._result.setVisible(audit is not None)
        if audit is None:
            say(self.place_text, "")
            say(self.clicks_text, "")
            return
        done = sum(number in audit.counts for number in range(audit.wanted))
        if self._frame.is_shown:
            inside = int(self._frame.inside.sum())
            outside = len(self._frame.clicks) - inside
            rest = f", {outside} outside, not counted" if outside else ""
            say(self.place_text, f"Window {self._number + 1} of {audit.wanted}")
            say(self.clicks_text, f"{inside} cell{'s' * (inside != 1)} clicked{rest} · {escape(audit.window(self._number).image)}")
        else:
            say(self.place_text, "All windows are counted" if done == audit.wanted else f"{done} of {audit.wanted} windows are counted")
            say(self.clicks_text, "")

    def _show(self) -> None:
        self._enable()
        self._show_window()
        audit = self._audit
        if audit is None:
            return
        total = audit.total()
        known = total.known
        interval = f"({total.low:,.0f} to {total.high:,.0f})" if known else ""
        # Beside the count, or below it where the dock is narrow.
        say(self.count_text, f'{total.corrected:,.0f} cells <span style="font-size: 12pt">{interval}</span>' if known else "")
        if not known:
            need = audit.windows_to_interval()
            lines = [f"Predicted {total.predicted:,.0f}. {need} more window{'s' * (need != 1)} to go until there is an interval."]
        else:
            line = f"predicted {total.predicted:,.0f}, corrected {total.corrected:,.0f} {interval} "
            line += f"from {total.windows} windows, {total.clicks} clicks; in brackets: the 95 % interval"
            lines = [line]
            margin = audit.expected_margin(_MORE)
            if np.isfinite(margin):
                lines.append(f"{_MORE} more windows would narrow it to about ±{margin:,.0f} (now ±{total.margin:,.0f}).")
        if self._others:
            lines.append(
                f"The cells of {escape(few(self._others))} were changed after the windows were drawn. Predicted are those of then; the "
                "corrected count holds all the same."
            )
        say(self.details, "<br>".join(lines))
        self.more_button.setVisible(known and audit.next_open() is None and audit.wanted < len(audit.order))
        self.save_button.setVisible(known)
        self._fill_table(audit)
        self._draw_plot()

    def _fold(self) -> None:
        unfolded = self.plot_button.isChecked()
        self.plot_button.setText(f"{'▾' if unfolded else '▸'} Hand against predicted")
        self.plot.setVisible(unfolded)
        self.plot_text.setVisible(unfolded)
        self._draw_plot()

    def _draw_plot(self) -> None:
        if self._audit and self.plot_button.isChecked():
            done = self._audit.compared()
            self.plot.draw(done["predicted"].to_numpy(), done["hand"].to_numpy())

    def _follow_theme(self, event: object = None) -> None:
        self.plot.set_colours(*theme_colours(self._viewer.theme))

    def _fill_table(self, audit: Audit) -> None:
        rows = audit.by("image") if len(audit.images) > 1 else audit.by("image").iloc[:0]
        self.table.setVisible(len(rows) > 0)
        self.table.setRowCount(len(rows))
        self.table.setFixedHeight(self.table.horizontalHeader().height() + min(len(rows), 5) * self.table.rowHeight(0) + 4)
        with filling(self.table):
            for r, row in enumerate(rows.itertuples()):
                known = row.low == row.low
                interval = f"{row.low:,.0f}–{row.high:,.0f}" if known else "–"
                texts = (row.image, f"{row.predicted:,.0f}", f"{row.corrected:,.0f}" if known else "–", interval)
                for c, text in enumerate(texts):
                    item = QTableWidgetItem(str(text))
                    by_hand = f"{row.windows} window{'s' * (row.windows != 1)}, {row.clicks} cell{'s' * (row.clicks != 1)} counted by hand"
                    item.setToolTip(by_hand if c else str(text))
                    if c:
                        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                    self.table.setItem(r, c, item)

    def _ask_where_to_save(self) -> None:
        ask_where_to_save(self, "Save the corrected counts", "corrected.csv", "Tables (*.csv)", self.save)

    def save(self, path: str | Path) -> None:
        """Write the corrected counts, as the command line does."""
        assert self._audit
        try:
            write_table(path, self._audit.table())
        except OSError as error:
            say(self.message, f"{escape(str(error))}. Choose another folder.")
            return
        say(self.message, f"Saved {escape(str(path))}.")


def _has_shape(layer: ImageLayer, shape: tuple[int, ...]) -> bool:
    """Whether cells on a layer have this shape; false where that cannot be told."""
    try:
        return label_shape(layer) == shape
    except ValueError:
        return False


def _not_to_draw(annotated: Any, labels: Labels) -> Any:
    """Tell where no window may lie: what is annotated, and planes that nobody has counted; None = they may lie anywhere."""
    planes = labels.metadata.get(KEY, {}).get("planes")
    if planes is None:
        return annotated
    known = np.zeros(labels.data.shape, bool) if annotated is None else annotated
    counted = np.isin(np.arange(int(np.prod(known.shape[:-2]))), planes).reshape(known.shape[:-2])
    return known | ~counted[..., None, None]


def _annotated(viewer: "napari.Viewer", image: ImageLayer) -> Any:
    """Tell where an image is annotated, as training takes it; None where it is not."""
    labels = annotation_of(viewer, image)
    if labels is None or labels.data.shape != label_shape(image):
        return None
    region = region_of(viewer, labels)
    mask = region_mask(region, labels) if region else None
    drawn = np.asarray(labels.data)
    if not (drawn > 0).any() and (mask is None or not mask.any()):
        return None
    return known_labels(drawn, mask) >= 0


def _draw(parts: Sequence[Part], settings: AuditSettings, path: Path) -> Generator[None, None, tuple[Audit, Path]]:
    """Draw an audit on the worker thread."""
    images = []
    for part in parts:
        yield
        image = image_from_layer(part.image)
        fingerprint = "" if image.is_lazy else image.fingerprint
        images.append(StudyImage(part.image.name, np.asarray(part.labels.data), "", part.annotated, fingerprint, image))
    audit = draw_audit(images, settings)
    write_audit(path, audit)
    return audit, path


def _compare(audit: Audit, labels: dict[str, Any]) -> Generator[float, None, list[str]]:
    """Compare cells with those of an audit on the worker thread."""
    return (yield from comparing_labels(audit, {name: np.asarray(cells) for name, cells in labels.items()}))


def _open(path: Path) -> Generator[None, None, tuple[Audit, Path]]:
    """Read an audit on the worker thread."""
    yield
    return read_audit(path), path
