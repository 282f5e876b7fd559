"""The dock widget to count many files: drop them, choose a folder for the results, start; a table fills as it goes.

What is written is complete or absent, and a run that was stopped, or broken off by anything, goes on where it was
(core/batch.py). The command line's ``predict`` does the same.
"""

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QFormLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QTableWidget,
    QWidget,
)

from napari_tally.core.events import mapped
from napari_tally.core.image_files import SUFFIXES, list_images
from napari_tally.core.results import few
from napari_tally.core.words import number
from napari_tally.settings import BatchSettings
from napari_tally.widgets._form import SettingsForm
from napari_tally.widgets._job import Job, sentence
from napari_tally.widgets._model_choice import ModelChoice
from napari_tally.widgets._parts import ask, ask_for_folder, button, fill, group, note, say
from napari_tally.widgets._session import Way, session, unwrap, usual_way
from napari_tally.widgets._tables import item_of

if TYPE_CHECKING:
    import napari

    from napari_tally.core.model_file import Model


@dataclass(frozen=True)
class News:
    """News: what is known of each file by now (text and tooltip by row), and how far all are."""

    rows: dict[int, tuple[str, str]]
    fraction: float
    doing: str


class BatchWidget(QWidget):
    """Count the cells of many files.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: "napari.Viewer") -> None:
        super().__init__()
        self._session = session(unwrap(napari_viewer))
        self._paths: list[Path] = []
        self._out: Path | None = None
        self._out_chosen = False  # by the user: else it is beside the files
        self._began = 0.0
        self._job = Job(self)
        self._job.event.connect(self._take)
        self._job.state_changed.connect(self._enable)
        self._job.returned.connect(self._finish)
        self._job.stopped.connect(self._tell_stopped)
        self._job.failed.connect(self._tell_failure)
        self.setAcceptDrops(True)

        self.model_choice = ModelChoice(self._session)
        self.model_choice.said.connect(self._say)
        self.model_choice.failed.connect(self._tell_failure)
        self.add_button = button("Add files…", "Choose images: TIFF, PNG, JPEG. Or drop files and folders here.", self._ask_for_files)
        self.folder_button = button("Add folder…", "All images of a folder, or an OME-Zarr.", self._ask_for_folder)
        self.clear_button = button("Clear", "Empty the list; files stay as they are.", self.clear)
        self.table = QTableWidget(0, 2)
        self.table.setHorizontalHeaderLabels(["File", "Cells"])
        self.table.setToolTip("Drop files or folders here.")
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setMinimumHeight(200)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.table.setColumnWidth(1, self.fontMetrics().horizontalAdvance("0,000,000 (!)") + 24)  # not by contents: files are many
        self.out_text = QLabel()
        self.out_button = button("Choose…", "The folder for label images, tables and the record.", self._ask_for_out)
        self.files = SettingsForm(BatchSettings)
        self.start_button = button(
            "Count all", "Count the cells of all files. Those that are counted already are not counted again.", self._start
        )
        self.stop_button = button("Stop", "Stop after the tile at work. Count all goes on from there.", self._job.stop)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.hide()
        self.message = note()
        self.way_text = note()

        choices = QFormLayout()
        choices.addRow("Model", self.model_choice)
        results = QFormLayout()
        results.addRow("Folder", self.out_text)
        fill(
            self,
            "Files",
            group(
                "What to count",
                choices,
                self.way_text,
                self.table,
                [self.add_button, self.folder_button, self.clear_button],
            ),
            group("Results", results, [self.out_button], self.files.native),
            group("", [self.start_button, self.stop_button], self.bar, self.message),
        )
        self._session.model_changed.connect(self._enable)
        self._session.way_changed.connect(self._show_way)
        self._show_way(self._session.way)
        self._enable()
        self._show_out()

    # What to count

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: D102  Qt's
        if event.mimeData().hasUrls() and not self._job.is_active:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: D102  Qt's
        self.add(Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile())
        event.acceptProposedAction()

    def add(self, paths: Iterable[Path]) -> None:
        """Add files, and the images of folders; what is in the list already, or has the stem of one that is, stays out."""
        refused, listed, stems = [], set(self._paths), {known.stem for known in self._paths}
        for path in paths:
            try:
                found = list(list_images(path).values()) if path.is_dir() and path.suffix.lower() != ".zarr" else [path]
            except ValueError as error:
                refused.append(str(error))
                continue
            for file in found:
                if file.suffix.lower() not in (*SUFFIXES, ".zarr"):
                    refused.append(f"{file.name}: files ending in {', '.join(SUFFIXES)} are read.")
                elif file in listed:
                    continue
                elif file.stem in stems:
                    refused.append(f"{file.name}: there is a file of this name already; their results would overwrite each other.")
                else:
                    self._paths.append(file)
                    listed.add(file)
                    stems.add(file.stem)
        if self._paths and self._out is None:
            self._out = self._paths[0].parent / "counts"
        say(self.message, "<br>".join(escape(reason) for reason in refused[:3]) + ("<br>…" if len(refused) > 3 else ""))
        self._fill_table()
        self._show_out()

    def clear(self) -> None:
        """Empty the list; the next files have their results beside them, unless a folder was chosen."""
        self._paths.clear()
        if not self._out_chosen:
            self._out = None
        say(self.message, "")
        self._fill_table()
        self._show_out()

    def _fill_table(self) -> None:
        self.table.setRowCount(len(self._paths))
        for row, path in enumerate(self._paths):
            for column, (text, tip) in enumerate(((path.name, str(path)), ("", ""))):
                self._set(row, column, text, tip)
        self._enable()

    def _set(self, row: int, column: int, text: str, tip: str) -> None:
        old = self.table.item(row, column)
        if old and (old.text(), old.toolTip()) == (text, tip or text):
            return
        self.table.setItem(row, column, item_of(text, tip or text, is_number=column > 0))

    def _ask_for_files(self) -> None:
        dialog = QFileDialog(self, "Images to count", "", f"Images ({' '.join('*' + suffix for suffix in SUFFIXES)})")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.filesSelected.connect(self._add_chosen)
        dialog.open()

    def _ask_for_folder(self) -> None:
        ask_for_folder(self, "A folder of images", self._add_one)

    def _ask_for_out(self) -> None:
        ask_for_folder(self, "A folder for the results", self.put_out)

    def _add_chosen(self, chosen: list[str]) -> None:
        self.add(Path(path) for path in chosen)

    def _add_one(self, chosen: str) -> None:
        self.add([Path(chosen)])

    def put_out(self, folder: str | Path) -> None:
        """Choose the folder for the results."""
        self._out, self._out_chosen = Path(folder), True
        self._show_out()

    def _show_out(self) -> None:
        text = str(self._out) if self._out else "beside the files"
        self.out_text.setText(self.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, 220))
        self.out_text.setToolTip(text)

    def _show_way(self, way: "Way | None") -> None:
        usual = "Thresholds are those stored in the model, and every cell counts."
        say(self.way_text, "Thresholds, cell diameter and which cells count: as set in “3 Predict and count”." if way else usual)

    # The work

    def _start(self) -> None:
        from napari_tally.core.batch import others_in

        assert self._out
        if not (others := others_in(self._out, self._paths)):
            self._count()
            return
        what = f"{number(len(others), 'other image')} ({few(others, 3)})"
        question = f"{self._out} holds the counts of {what}. They will leave the tables. Go on?"
        ask(self, question, self._count, "To keep them, choose another folder, or add these files to the list.")

    def _count(self) -> None:
        model, paths, out, files, name = self._session.model, list(self._paths), self._out, self.files.value, self._session.model_source
        assert model
        assert out
        self._began = time.monotonic()
        say(self.message, "")
        self._fill_table()
        way = self._session.way or usual_way(model)
        self._job.start(lambda: _run(model.copy(), name, paths, out, files, way), description="Counting files")

    def _take(self, news: News) -> None:
        for row, (text, tip) in news.rows.items():
            self._set(row, 1, text, tip)
        if item := self.table.item(max(news.rows, default=-1), 0):
            self.table.scrollToItem(item)
        self.bar.setValue(round(1000 * news.fraction))
        passed = time.monotonic() - self._began
        left = passed / news.fraction - passed if news.fraction > 0.01 and passed > 2 else 0.0
        self.bar.setFormat(news.doing + (f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left" if left else ""))

    def _enable(self, state: object = None) -> None:
        busy = self._job.is_active
        self.start_button.setEnabled(not busy and bool(self._paths) and self._session.model is not None)
        self.stop_button.setEnabled(busy)
        for part in (self.model_choice.load_button, self.add_button, self.folder_button, self.clear_button, self.out_button):
            part.setEnabled(not busy)
        self.bar.setVisible(busy)

    def _finish(self, summary: str) -> None:
        say(self.message, summary)

    def _say(self, text: str) -> None:
        say(self.message, escape(text))

    def _tell_stopped(self) -> None:
        say(self.message, "Stopped. Count all goes on from here.")

    def _tell_failure(self, error: Exception) -> None:
        say(self.message, escape(sentence(error)))


def _run(model: "Model", name: str, paths: list[Path], out: Path, files: BatchSettings, way: Way) -> Generator[News, None, str]:
    """Run the batch on the worker thread; give a summary."""
    from napari_tally.core.batch import Batch
    from napari_tally.core.done import ImageDone, PassedOver, Working

    rows: dict[int, tuple[str, str]] = {}
    cells = bad = odd = stacks = 0

    def tell(event: Any) -> News:
        nonlocal cells, bad, odd, stacks
        row, part = event.number - 1, 0.0
        if isinstance(event, Working):
            part = event.tile.done / event.tile.total if event.tile else 0.0
            rows[row] = ("…", "at work")
        elif isinstance(event, PassedOver):
            rows[row], bad = ("passed over", event.reason), bad + 1
        elif isinstance(event, ImageDone):
            n = int(event.counts["count"].sum())
            mark = " (!)" if event.remark else ""
            rows[row] = (f"{n}{mark}", event.remark or ("counted by an earlier run" if event.again else "counted"))
            cells, odd = cells + n, odd + bool(event.remark)
            stacks += len(event.counts) > 1 and "slices" not in event.counts
        done = event.number - isinstance(event, Working) + part
        # All rows each time: of the news only the last comes through
        doing = f", {event.tile.doing}" if isinstance(event, Working) and event.tile and event.tile.doing else ""
        return News(dict(rows), min(1.0, done / event.total), f"file {event.number} of {event.total}{doing}")

    counting, settings, rules = way
    yield from mapped(Batch(model, name, out, settings, counting, rules, files).run(paths), tell)
    if bad == len(paths):
        return f"None of the files could be counted: the table, and failed.csv in {escape(str(out))}, say why."
    n = len(paths) - bad
    summary = f"<b>{cells:,} cells</b> in {number(n, 'file')}. Labels, tables and the record are in {escape(str(out))}."
    if bad:
        summary += f"<br>{number(bad, 'file')} could not be counted: the table and failed.csv say why."
    if stacks:
        summary += f"<br>Planes of {number(stacks, 'file')} are counted one by one and added up: a cell may count several times."
    if odd:
        summary += f"<br><b>Please look:</b> something is odd about {number(odd, 'file')}; rest the mouse on the (!) to read what."
    return summary
