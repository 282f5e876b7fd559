"""The dock widget to check a count: click on the cells of random windows, and see the corrected count with its interval.

::

    Start ──▶ windows are drawn ──▶ window 1 ──▶ click on cells ──▶ done, next (N) ──▶ ... ──▶ corrected count
    Go on with one ────────────────▶ the first that is open         none here (0)
                                                                    back (B)

What is counted is written into the audit's file after every window, and a second after the last click.
"""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_tally.core.audit import Audit
from napari_tally.core.audit_file import write_audit
from napari_tally.core.results import few
from napari_tally.core.words import number
from napari_tally.settings import AuditSettings
from napari_tally.widgets import _auditing
from napari_tally.widgets._audit_images import AuditImages
from napari_tally.widgets._audit_result import AuditResult
from napari_tally.widgets._form import SettingsForm
from napari_tally.widgets._frame import CountingFrame
from napari_tally.widgets._job import Job
from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import cells_by_image, is_source, notes_of
from napari_tally.widgets._parts import ask_for_file, ask_for_folder, ask_where_to_save, button, fill, group, note, say, say_error
from napari_tally.widgets._session import unwrap

if TYPE_CHECKING:
    import napari

_NO_CELLS = "First count cells with “3 Predict and count”, or open an image and its labels of the same shape."
_PATIENCE = 1000
"""Milliseconds after the last click until the clicks are written."""


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
        self._kept = ""
        self._number = 0
        self._frame = CountingFrame(self._viewer, {"n": self._done, "b": self._back, "0": self._none_here})
        self._frame.clicked.connect(self._clicked)
        self._frame.elsewhere.connect(self._tell_elsewhere)
        self._frame.lost.connect(self._lost)
        self.destroyed.connect(self._frame.forget)
        self._images = AuditImages(self._viewer)
        self._images.closing.connect(self._frame.leave)
        self._images.changed.connect(self._take_pixels)
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

        self.image_choice = LayerCombo(self._viewer, self._is_of_the_user, extra="All images", among=partial(cells_by_image, self._viewer))
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
        self.result = AuditResult(self._viewer)
        self.result.more_wanted.connect(self._add_windows)
        self.result.said.connect(self._say)

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
        fill(
            self,
            "4 Check",
            group("What to check", choices, self.settings.native, [self.start_button, self.open_button], self.folder_button, self.message),
            self._counting,
            self.result,
        )
        self._viewer.layers.events.inserted.connect(self._enable)
        self._viewer.layers.events.removed.connect(self._forget)
        self._enable()
        self._show()

    # Which images, and the drawing

    def _is_of_the_user(self, layer: Any) -> bool:
        return not self._images.has_opened(layer)

    def _chosen(self) -> Sequence[ImageLayer]:
        return [self.image_choice.layer] if self.image_choice.layer else self.image_choice.layers

    def _ask_where_to_keep_it(self) -> None:
        ask_where_to_save(self, "Keep the audit in this file", "audit.json", "Audits (*.json)", self.start)

    def start(self, path: str | Path) -> None:
        """Draw an audit of the chosen images, and keep it in a file."""
        cells = cells_by_image(self._viewer)
        self.image_choice.follow()  # labels may have become an annotation since
        parts = [_auditing.part_of(self._viewer, layer, cells[layer]) for layer in self._chosen() if layer in cells]
        if not parts:
            say(self.message, "There are no cells to check any more. Count cells first (3 Predict and count).")
            return
        settings = self.settings.value
        self._pause()
        say(self.message, "Drawing the windows…")
        self._job.start(lambda: _auditing.draw(parts, settings, Path(path)), description="Drawing counting windows")

    def _ask_for_audit(self) -> None:
        ask_for_file(self, "Go on with an audit", "Audits (*.json)", self.open)

    def open(self, path: str | Path) -> None:
        """Go on with an audit that is kept in a file."""
        if not self._job.is_active:
            self._pause()
            self._job.start(lambda: _auditing.read(Path(path)), description="Opening an audit")

    def _take_audit(self, opened: tuple[Audit, Path]) -> None:
        self._audit, self._path = opened
        self._images.look_for(self._audit.images)
        self._others = []
        self._kept = f"Kept in {escape(self._path.name)}." + self._whose_cells() + self._left_out()
        say(self.message, self._kept)
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
        foreign = {name: labels for name, labels in self._cells_now().items() if name in names and "role" not in notes_of(labels)}
        told = [f"“{labels.name}” on {name}" for name, labels in foreign.items()]
        return f"<br>The cells are those of {escape(few(told))}." * bool(told)

    def _cells_now(self) -> dict[str, Labels]:
        """Give the cells that lie on the images of the viewer, by the names of these."""
        return {image.name: labels for image, labels in cells_by_image(self._viewer).items()}

    def _compare_cells(self) -> None:
        """Look whether the cells are still those that the windows were drawn for."""
        if self._audit and not self._comparison.is_active:
            audit, now = self._audit, {name: labels.data for name, labels in self._cells_now().items()}
            self._comparison.start(lambda: _auditing.compare(audit, now), description="Comparing cells with an audit")

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
        say_error(self.message, error)

    def _say(self, text: str) -> None:
        say(self.message, escape(text))

    def _ask_for_folder(self) -> None:
        ask_for_folder(self, "Folder of the images of this audit", self.find_images)

    def find_images(self, folder: str | Path) -> None:
        """Take the images of the audit from a folder."""
        try:
            self._images.look_in(folder)
        except ValueError as error:
            self._show_failure(error)
            return
        self._go_to(self._number)

    # Window by window

    def _go_to(self, number: int) -> None:
        """Show a window of the audit, if its image can be had."""
        assert self._audit
        self._number = number
        window = self._audit.window(number)
        try:
            image = self._images.find(window.image)
        except ValueError as error:
            self._frame.leave()
            self._show_failure(error)
        else:
            self._frame.show(window, image, self._audit.clicks.get(number, []))
            say(self.message, self._kept)  # what was in the way is no longer
        self._show()

    def _clicked(self) -> None:
        if self._audit:
            self._audit.clicks[self._number] = self._frame.clicks
            self._audit.counts.pop(self._number, None)  # until it is done again
            self._later.start()
        self._show_window()

    def _tell_elsewhere(self) -> None:
        say(self.clicks_text, "<b>This click was not taken:</b> the window lies on another plane. Press “Go there” to come back to it.")

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
            self._go_to(self._number)  # laid anew, if its image was moved or scaled
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
        self._images.forget(gone)
        window = self._frame.window
        if self._audit and self._frame.is_shown and window and window.image not in self._images.known:
            self._frame.leave()
            say(self.message, f"{escape(window.image)} was closed. Open it again, then press Go there; all clicks are kept.")
        self._show()

    def _take_pixels(self, name: str) -> None:
        """An image has other pixels now: nobody shall click on them in a window of the old ones."""
        if self._frame.window and self._frame.window.image == name:
            self._frame.leave()
            self._say(f"{name} has other pixels now. Open the image as it was, then press Go there; all clicks are kept.")
        self._show()

    def _add_windows(self, n: int) -> None:
        assert self._audit
        self._audit.add_windows(n)
        self._write()
        coming = self._audit.next_open()
        self._show()
        if coming is not None:
            self._go_to(coming)

    def changeEvent(self, event: QEvent) -> None:
        """Show all layers again when napari takes the widget out of its window: nobody could do so later."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._frame.leave()
        super().changeEvent(event)

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
        self.start_button.setEnabled(not busy and bool(self._chosen()))
        self.open_button.setEnabled(not busy)
        self._counting.setEnabled(self._audit is not None)
        for widget in (self.done_button, self.none_button, self.stop_button):
            widget.setEnabled(shown)
        self.back_button.setEnabled(not busy and self._before() is not None)
        self.folder_button.setVisible(
            self._audit is not None and not shown and self._audit.window(self._number).image not in self._images.known
        )
        if not (busy or self._audit or self._chosen()):
            say(self.message, _NO_CELLS)
        elif self.message.text() == _NO_CELLS:
            say(self.message, "")

    def _show_window(self) -> None:
        audit = self._audit
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
            say(self.clicks_text, f"{number(inside, 'cell')} clicked{rest} · {escape(audit.window(self._number).image)}")
        else:
            say(self.place_text, "All windows are counted" if done == audit.wanted else f"{done} of {audit.wanted} windows are counted")
            say(self.clicks_text, "")

    def _show(self) -> None:
        self._enable()
        self._show_window()
        self.result.show_audit(self._audit, self._others)

    def save(self, path: str | Path) -> None:
        """Write the corrected counts, as the command line does."""
        self.result.save(path)
