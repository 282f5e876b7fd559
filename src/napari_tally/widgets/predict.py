"""The dock widget to predict and count: an image and a model in, cells as a label layer and their number out.

::

    image, model ──▶ probabilities ──▶ labels ──▶ table of cells ──▶ the count
                     the network,      thresholds: quick, so it runs
                     tile by tile      again whenever they change

Both steps run on a worker thread. The probabilities are kept as long as their image is in the viewer.
"""

import time
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import pandas as pd
from napari.layers import Image as ImageLayer
from napari.layers import Labels
from qtpy.QtCore import QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QProgressBar,
    QWidget,
)

from napari_tally.core.results import few
from napari_tally.settings import CountingSettings, PredictionSettings
from napari_tally.widgets import _counting
from napari_tally.widgets._annotation import copy_cells
from napari_tally.widgets._count_text import details, headline, remarks, table
from napari_tally.widgets._counted import Mending
from napari_tally.widgets._counting import Counted, Filling, Progress, Results, Run
from napari_tally.widgets._form import SettingsForm
from napari_tally.widgets._found_layers import UNFINISHED, FoundLayers
from napari_tally.widgets._gaze import Gaze
from napari_tally.widgets._geometry import channels_to_front, label_shape
from napari_tally.widgets._job import Job
from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import found_of, is_corrected, is_source, layers_of
from napari_tally.widgets._model_choice import ModelChoice
from napari_tally.widgets._parts import ask_for_folder, button, fill, group, note, say, say_error, unless_there
from napari_tally.widgets._results import ResultsPart, shade
from napari_tally.widgets._session import session, unwrap, usual_way
from napari_tally.widgets._tables import fill_rows, number_table

if TYPE_CHECKING:
    import napari

    from napari_tally.core.model_file import Model

_NO_MODEL = "Train a model (2 Train), or load one: some come with napari-tally."
_DECIDING, _MENDING = "Finding the cells anew…", "Counting what was mended…"
_PATIENCE = 200
"""Milliseconds without a change of the thresholds after which the cells are found anew."""


class PredictWidget(QWidget):
    """Find and count the cells of images.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: "napari.Viewer") -> None:
        super().__init__()
        self._viewer = unwrap(napari_viewer)
        self._session = session(self._viewer)
        self._results = self._session.counted
        self._results.changed.connect(self._take_change)
        self._taken = WeakSet[Counted]()  # results come again with each further image
        self._offered: CountingSettings | None = None  # the thresholds of the last model
        self._began, self._save_to = 0.0, ""
        self._counting: list[ImageLayer] = []  # what the work is about
        self._filling: ImageLayer | None = None  # whose labels are on the way
        self._gaze, self._layers = Gaze(self._viewer), FoundLayers(self._viewer)
        self._finding, self._deciding, self._mending = Job(self), Job(self), Job(self)
        self._mended: list[Mending] = []  # what the last of these is about
        self._mending.returned.connect(self._take_mended)
        self._mending.failed.connect(self._show_failure)
        self._finding.returned.connect(self._show_refused)
        for job in (self._finding, self._deciding):
            job.event.connect(self._take_event)
            job.state_changed.connect(self._enable)
            job.returned.connect(self._decide)
            job.stopped.connect(self._decide)
            job.failed.connect(self._show_failure)
        self._finding.stopped.connect(self._tidy_up)
        self._finding.failed.connect(self._tidy_up)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_PATIENCE)
        self._later.timeout.connect(self._decide)

        self.image_choice = LayerCombo(self._viewer, is_source, extra="All images", extra_last=True)
        self.image_choice.setToolTip("The image to count, or all images of the viewer.")
        self.this_plane = QCheckBox("Only the plane shown")
        self.this_plane.setToolTip("Count the plane that the sliders show, rather than all planes.")
        self.model_choice = ModelChoice(self._session)
        self.model_choice.said.connect(self._say)
        self.model_choice.failed.connect(self._show_failure)
        self.run_button = button("Count cells", "Find the cells of the image with the model, and count them.", self._run)
        self.cancel_button = button("Cancel", "Stop. Images that are counted already stay.", self._finding.stop)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.hide()
        self.message = note()
        self.how = SettingsForm(PredictionSettings)
        self.expert_button = button("▸ Expert options", "Cell diameter, averaging, tiles, device.", self._fold, checkable=True)
        self.expert_options = group("How to compute", self.how.native)

        self.count_text = note(size=2.4)
        self.details = note()
        self.table = number_table(
            ["Image", "Cells", "Inside", "per mm²"],
            "One row an image, or plane of a stack. Inside: cells that do not touch the border of the image.",
        )
        self.save_button = button(
            "Save…", "Write tables (counts.csv, cells.csv), labels, the record and a report of what is shown.", self._ask_for_folder
        )
        self.results = ResultsPart(self._viewer)
        self.copy_button = button(
            "Copy to annotation",
            "Copy the cells into the annotation of the image, to correct them and train on. What is annotated already stays.",
            self._copy,
        )
        self.mend_hint = note(
            "To mend cells: “5 Review cells”. Napari's brush does not paint here, for thresholds may change these labels."
        )
        self.counting = SettingsForm(CountingSettings)
        self.counting.changed.connect(self._decide_later)

        choices = QFormLayout()
        choices.addRow("Image", self.image_choice)
        choices.addRow("", self.this_plane)
        choices.addRow("Model", self.model_choice)
        fill(
            self,
            "3 Count",
            group("What to count", choices, [self.run_button, self.cancel_button], self.bar, self.message),
            group(
                "Result",
                self.count_text,
                self.details,
                self.table,
                [self.save_button, self.results.export_button],
                [self.copy_button],
                self.mend_hint,
            ),
            self.results,
            group("What is a cell?", self.counting.native, note("Changes count at once: the network does not run again.")),
            self.expert_button,
            self.expert_options,
        )
        for form in (self.counting, self.how, self.results.form):
            form.changed.connect(self._tell_way)
        self.results.changed.connect(self._recount)
        self.results.said.connect(self._say)
        self.image_choice.changed.connect(self._change_image)
        self._viewer.layers.events.removed.connect(self._forget)
        self._viewer.layers.events.renamed.connect(self._show)
        self._viewer.layers.events.inserted.connect(self._show_new)
        self._session.model_changed.connect(self._take_model)
        self._session.cells_mended.connect(self._show_if_seen)
        self._take_model(self._session.model)
        self._fold()
        self._show()

    # The model

    def _take_model(self, model: "Model | None") -> None:
        if not model or self.message.text() == _NO_MODEL:  # else what stands there stays: in training a copy comes every few seconds
            say(self.message, "" if model else _NO_MODEL)
        if model and model.counting != self._offered:  # else the user's own thresholds stay
            self._offered = self.counting.value = model.counting
            self._later.stop()  # they are for what it will find: what another model found was counted with thresholds of its own
        self._show()

    def _tell_way(self, settings: object) -> None:
        """Many files shall be counted as this image is."""
        way = self.counting.value, self.how.value, self.results.form.value
        self._session.put_way(None if way == usual_way(self._session.model) else way)

    # The network

    def _fold(self) -> None:
        """Show the expert options, or hide them."""
        unfolded = self.expert_button.isChecked()
        self.expert_button.setText(f"{'▾' if unfolded else '▸'} Expert options")
        self.expert_options.setVisible(unfolded)

    def _chosen(self) -> Sequence[ImageLayer]:
        return [self.image_choice.layer] if self.image_choice.layer else self.image_choice.layers

    def _run(self) -> None:
        model, layers, counting, settings = self._session.model, list(self._chosen()), self.counting.value, self.how.value
        assert model
        try:
            for layer in layers:
                channels_to_front(self._viewer, layer)
        except ValueError as error:
            self._show_failure(error)
            return
        run = Run(model, self._session.model_name, self._session.model_source, settings, self.results.form.value.pixel_size)
        self._results.watch(layers)
        gaze, self._counting = self._gaze, layers
        gaze.follow(layers)
        one_plane = self.this_plane.isChecked() and self.this_plane.isVisible()
        only = {layer: gaze.plane(layer) for layer in layers} if one_plane else None  # what is shown now: the user may move on
        self._deciding.stop()  # of what was found before
        say(self.message, "")
        self._began = time.monotonic()
        self._finding.start(lambda: _counting.find(run, layers, counting, gaze, only), description="Counting cells")

    def _take_event(self, event: Progress | Filling | Results) -> None:
        if isinstance(event, Filling):
            if self._filling is not event.layer:
                self._tidy_up()  # that one was refused in the middle
            if event.layer in self._viewer.layers:
                self._layers.put_labels(event.layer, event.labels).refresh()
                self._filling = event.layer
            return
        if isinstance(event, Results):
            for counted in event.counted:
                known = self._results.get(counted.layer.unique_id)
                if counted not in self._taken and counted.layer in self._viewer.layers:
                    self._taken.add(counted)  # once: its cells may be mended before the next image is through
                    self._results.take(counted)
                    if counted.layer.unique_id not in self._results:  # it has other pixels by now
                        continue
                    new = known is None or known.run is not counted.run
                    labels = self._layers.lay(counted, new, alone=len(self._chosen()) == 1)
                    self._tabulate(labels, self._results[counted.layer.unique_id])
                    labels.refresh()
                    self._filling = None if self._filling is counted.layer else self._filling
            self._show()
            return
        self.bar.setValue(round(1000 * event.fraction))
        passed = time.monotonic() - self._began
        left = f", {_duration(passed / event.fraction - passed)} left" if event.fraction > 0 and passed > 2 else ""
        self.bar.setFormat(event.doing + left)

    def _tidy_up(self, why: object = None) -> None:
        """After a stop in the middle of an image: show what was found in it before, else say in the name that the labels are no cells."""
        layer, self._filling = self._filling, None
        if layer is None or layer not in self._viewer.layers:
            return
        known, all_labels = self._results.get(layer.unique_id), layers_of(self._viewer, "prediction", layer)
        is_mended = known is not None and any(found_of(labels)[0] is known.found and is_corrected(labels) for labels in all_labels)
        if known and not is_mended:
            self._layers.put_labels(layer, _counting.to_show(known.found.labels, known.image)).refresh()
            return
        for labels in all_labels[-1:]:
            if (
                is_mended or isinstance(labels.data, np.ndarray) and not labels.data.any()
            ):  # refused, or stopped before there was anything to see
                self._viewer.layers.remove(labels)
                for before in all_labels[:-1][-1:]:
                    before.visible = True
            else:
                labels.name += UNFINISHED
                text = f"{layer.name}: the labels show what was done; cells are not joined where tiles meet, and not counted."
                say(self.message, escape(text))

    def _tabulate(self, labels: Labels, counted: Counted) -> None:
        """Give the table of cells to the label layer, where napari's features table shows it, and shade those that do not count."""
        cells = self.results.cells(counted)
        labels.features = cells.drop(columns="image").rename(columns={"label": "index"}).dropna(axis="columns", how="all")
        shade(labels, cells)

    def _recount(self) -> None:
        """Count by another rule, or in other regions: nothing is measured anew."""
        for counted in self._results.values():
            for labels in layers_of(self._viewer, "prediction", counted.layer):
                if found_of(labels)[0] is counted.found:
                    self._tabulate(labels, counted)
        self._show()

    def _take_change(self, text: str) -> None:
        """Pixels of an image are others, or of another size."""
        if text:
            self._say(text)
        self._recount()

    def _say(self, text: str) -> None:
        say(self.message, escape(text))

    def _show_refused(self, refused: list[str]) -> None:
        """The counting is at its end; these images could not be used."""
        self._tidy_up()
        if refused:
            say(self.message, "<br>".join(escape(reason) for reason in refused))

    def _show_failure(self, error: Exception) -> None:
        self._save_to = ""  # else it would be saved at some later time, when nobody thinks of it
        say_error(self.message, error)

    # The thresholds

    def _decide_later(self, counting: CountingSettings) -> None:
        say(self.message, "")  # what was saved is of other thresholds
        self._later.start()

    def _decide(self, returned: object = None) -> None:
        """Find the cells anew where other thresholds are wished; the latest wish wins. Slides are too large for that: they stay."""
        self._results.follow()  # cells that were mended meanwhile stay as they are
        counting = self.counting.value
        mine = [counted for counted in self._results.values() if counted.run.model is self._session.model]
        kept = [counted for counted in mine if counted.found.probabilities is not None and not counted.is_mended]
        stale = [counted for counted in kept if counted.counting != counting]
        if self._later.isActive() or self._finding.is_active:
            return
        if not stale:
            self._tell_to_count(self._shown())
            if self._save_to and not self._deciding.is_active:
                folder, self._save_to = self._save_to, ""
                self.results.save(folder)
            elif self.message.text() == _DECIDING:
                say(self.message, "")
            return
        if self._deciding.is_active:
            self._deciding.stop()
        else:
            if not self._save_to:
                say(self.message, _DECIDING)
            self._deciding.start(lambda: _counting.decide(stale, counting), description="Finding cells")

    # What is shown

    def _enable(self, state: object = None) -> None:
        busy = self._finding.is_active
        self.run_button.setEnabled(not busy and self._session.model is not None and bool(self._chosen()))
        self.cancel_button.setEnabled(busy)
        self.bar.setVisible(busy)
        if not busy:
            self.bar.reset()
            self._counting = []  # layers that the user deletes shall go

    def _shown(self) -> list[Counted]:
        return [self._results[layer.unique_id] for layer in self._chosen() if layer.unique_id in self._results]

    def showEvent(self, event: QShowEvent) -> None:
        """Come to the front: cells may have been mended meanwhile."""
        super().showEvent(event)
        self._show_if_seen()

    def _show_if_seen(self) -> None:
        """Cells may have been mended while both docks are in view, or this one was not: they are counted beside the window."""
        if not self.isVisible() or self._mending.is_active:
            return
        self._mended = self._results.mendings()
        if not self._mended:
            self._show()
            return
        say(self.message, _MENDING)
        copies = [(one.known, one.labels.data.copy()) for one in self._mended]
        self._mending.start(lambda: _counting.mend(copies), description="Counting what was mended")

    def _take_mended(self, counted: Sequence[Counted]) -> None:
        """What was mended is counted; the user may have gone on meanwhile."""
        for mending, mended in zip(self._mended, counted, strict=True):
            self._results.take_mended(mending, mended)
        self._mended = []
        if self.message.text() == _MENDING:
            say(self.message, "")
        self._show_count()
        self._show_if_seen()

    def _change_image(self, layer: object = None) -> None:
        """Another image is chosen: what was said was of the one before."""
        if not self._finding.is_active and self.message.text() != _NO_MODEL:
            say(self.message, "")
        self._show()

    def _show_new(self, event: Any) -> None:
        """A layer has come; of all images one more may not be counted, or be a stack."""
        if is_source(event.value):
            self._show()

    def _show(self, layer: object = None) -> None:
        self._results.follow()
        self._show_count()

    def _show_count(self) -> None:
        self.this_plane.setVisible(any(len(label_shape(layer)) > 2 for layer in self._chosen()))
        shown = self._shown()
        for widget in (self.save_button, self.results.export_button, self.copy_button, self.mend_hint):
            widget.setVisible(bool(shown))
        self.results.show_results(shown)
        self.table.hide()
        self._enable()
        if not shown:
            say(self.count_text, "")
            say(self.details, "Nothing is counted yet.")
            return
        self._tell_to_count(shown)
        of_each = [self.results.summary(counted) for counted in shown]
        rows = pd.concat(of_each, ignore_index=True)
        say(self.count_text, headline(rows))
        lines = details(shown, rows, [layer.name for layer in self._chosen() if layer.unique_id not in self._results])
        if others := [counted.run.name or "another model" for counted in shown if counted.run.model is not self._session.model]:
            names = escape(few(list(dict.fromkeys(others))))
            lines.append(f"Counted with the model “{names}”. Press Count cells to use the model above.")
        aside = [f"{counted.layer.name}: {text}" for counted in shown if (text := self._set_aside(counted))]
        lines += [f"<b>Please look:</b> {escape(remark)}" for remark in (*remarks(shown), *aside)]
        say(self.details, "<br>".join(lines))
        self.table.setVisible(len(rows) > 1)
        fill_rows(self.table, table(shown, of_each))

    def _tell_to_count(self, shown: Sequence[Counted]) -> None:
        """Say so where what is wished does not show at once."""
        mine = [counted for counted in shown if counted.run.model is self._session.model]
        if any(counted.found.probabilities is None and counted.counting != self.counting.value for counted in mine):
            say(self.message, "The image is large: press Count cells to use the new thresholds.")
        if names := [counted.layer.name for counted in mine if counted.is_mended and counted.counting != self.counting.value]:
            text = f"The cells of {few(names)} were mended by hand, so thresholds leave them as they are. Count cells finds them anew."
            say(self.message, escape(text))
        size = self.results.form.value.pixel_size
        if any(counted.run.model.pixel_size and counted.run.pixel_size != size for counted in mine):
            say(self.message, "The model goes by the pixel size too: press Count cells to use the new one.")

    def _set_aside(self, counted: Counted) -> str:
        """Say that cells which were mended by hand are no longer those that are counted; "" = they are, or there are none."""
        others = [layer for layer in layers_of(self._viewer, "prediction", counted.layer) if is_corrected(layer)]
        others = [layer for layer in others if found_of(layer)[0] is not counted.found]
        return f"these cells were found anew; those that you mended are in “{others[-1].name}” and are not counted" if others else ""

    def _forget(self, event: Any) -> None:
        gone = event.value
        if self._finding.is_active and gone in self._counting and not any(layer in self._viewer.layers for layer in self._counting):
            self._finding.stop()
            say(self.message, escape(f"{gone.name} was closed, so it is not counted."))
        self._results.forget(gone)
        self._show()

    # What to do with it

    def _copy(self) -> None:
        try:
            for counted in self._shown():
                labels = layers_of(self._viewer, "prediction", counted.layer)  # gone, if the user has deleted it
                copy_cells(self._viewer, counted.layer, labels[-1] if labels else Labels(counted.found.labels))
        except ValueError as error:
            say_error(self.message, error)

    def _ask_for_folder(self) -> None:
        ask_for_folder(self, "A folder for the results", self._save_unless_there)

    def _save_unless_there(self, folder: str) -> None:
        unless_there(self, folder, self.results.files(), partial(self.save, folder))

    def save(self, folder: str | Path) -> None:
        """Write the results of the images that are shown, as the command line does; once cells that are found anew are there."""
        if self._later.isActive() or self._deciding.is_active:
            self._save_to = str(folder)
            say(self.message, "Finding the cells anew, then saving…")
            return
        self._show()  # cells may have been mended meanwhile
        self.results.save(folder)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
