"""The dock widget to train: choose images with their labels, press Start, watch, keep the model.

What computes is :func:`napari_tally.core.train.train`; what leads there on the worker thread is in
:mod:`napari_tally.widgets._training`. Here is the form around it; how a training goes is shown by
:mod:`napari_tally.widgets._training_progress`, in layers by :mod:`napari_tally.widgets._training_layers`.
"""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QWidget

from napari_tally.core.estimate import PATCH, network_for, training_memory, training_seconds
from napari_tally.core.words import number
from napari_tally.settings import AugmentationSettings, TrainingSettings, fields_of
from napari_tally.widgets._annotation import region_mask, rewrite
from napari_tally.widgets._form import SettingsForm
from napari_tally.widgets._geometry import channels_to_front, label_shape
from napari_tally.widgets._job import Job
from napari_tally.widgets._kept import Unfinished, discard, unfinished_trainings
from napari_tally.widgets._layers import image_from_layer, is_corrected, layers_of, region_of
from napari_tally.widgets._model_part import ModelPart
from napari_tally.widgets._pairs import PairTable
from napari_tally.widgets._parts import button, fill, group, may_lose_model, note, say
from napari_tally.widgets._session import SHIPPED, session, unwrap
from napari_tally.widgets._training import Run, Source
from napari_tally.widgets._training_layers import TrainingLayers
from napari_tally.widgets._training_progress import TrainingProgress, duration

if TYPE_CHECKING:
    import napari

    from napari_tally.core.annotations import Problem
    from napari_tally.core.model_file import Model
    from napari_tally.core.plan import TrainingPlan
    from napari_tally.core.train import Finished

_PREVIEW_SECONDS = 3.0
_AUTO, _RANDOM, _CURRENT, _FILE = "auto", "none", "current", "file"


class TrainWidget(QWidget):
    """Train a U-Net on annotated images.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: "napari.Viewer") -> None:
        super().__init__()
        self._viewer = unwrap(napari_viewer)
        self._session = session(self._viewer)
        self._run: Run | None = None
        self._problems: list[tuple[Source, Problem]] = []
        self._current: Model | None = None  # the one that this training has shared last
        self._unfinished: list[Unfinished] = []
        self._layers = TrainingLayers(self._viewer)
        self._job = Job(self)
        self._job.event.connect(self._show_event)
        self._job.returned.connect(self._returned)
        self._job.stopped.connect(self._ended)
        self._job.failed.connect(self._ended)
        self._job.state_changed.connect(self._show_state)
        self._weighed: Run | None = None  # whose weight maps are on the way
        self._weighing = Job(self)
        self._weighing.returned.connect(self._show_weights)
        self._weighing.state_changed.connect(self._show_state)

        self.pairs = PairTable(self._viewer)
        self.start_from = QComboBox()
        self.start_from.setToolTip("The weights to begin with. A model that knows similar cells needs fewer annotations and less time.")
        self.start_from.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.minutes = SettingsForm(TrainingSettings, fields=("minutes",))
        spin = self.minutes["minutes"].native
        spin.setSuffix(" min")
        spin.setStyleSheet("font-size: 13pt;")
        spin.setMinimumHeight(30)
        self.start_button = button("Start", "", self._start)
        self.pause_button = button("Pause", "", self._pause)
        self.stop_button = button("Stop", "End the training now. The model is kept as it is.", self._stop)
        self.unfinished_text = note()
        self.go_on_button = button("Go on", "Go on with the training that was interrupted, with its images and settings.", self._go_on)
        self.discard_button = button("Discard", "Forget the training that was interrupted.", self._discard_unfinished)
        self.estimate = note()
        self.estimate.setToolTip("Estimated for this computer before anything runs.")
        self.message = note()
        self.split_button = button("Split them", "Give every separate piece its own number. Undo takes it back.", self._split)
        self.anyway_button = button("Train anyway", "The labels are as they should be.", self._start_anyway)

        self.course = TrainingProgress(self._viewer)
        self.progress, self.status, self.quality = self.course.bar, self.course.status, self.course.quality
        self.preview = QCheckBox("Show a preview in the image")
        self.preview.setToolTip("Every few seconds, the cells that the model finds now in the first image, as a layer.")
        self.preview.setChecked(True)

        self.model_part = ModelPart(self._session)
        self.model_part.replaced.connect(self._forget)
        self.model_part.said.connect(self._say)
        self.model_part.state_changed.connect(self._show_state)

        others = tuple(name for name in fields_of(TrainingSettings) if name != "minutes")
        self.expert = SettingsForm(TrainingSettings, fields=others)
        self.augmentation = SettingsForm(AugmentationSettings)
        self.weights_button = button("", "How much the gaps between cells weigh in training, as a layer.", self._weigh)
        self.expert_button = button("▸ Expert options", "How training works in detail.", self._fold, checkable=True)
        self.expert_options = [
            group("How to train", self.expert.native, self.weights_button),
            group("How the images are varied", self.augmentation.native),
        ]

        choices = QFormLayout()
        choices.addRow("Start from", self.start_from)
        choices.addRow("Train for", self.minutes["minutes"].native)
        fill(
            self,
            "2 Train",
            group("Annotated images", self.pairs, self.pairs.add_button),
            group(
                "Training",
                self.unfinished_text,
                [self.go_on_button, self.discard_button],
                choices,
                self.estimate,
                [self.start_button, self.pause_button, self.stop_button],
                self.message,
                [self.split_button, self.anyway_button],
                self.course,
                self.preview,
            ),
            self.model_part,
            self.expert_button,
            *self.expert_options,
        )
        self._fold()
        self.pairs.changed.connect(self._show_state)
        self.minutes.changed.connect(self._show_state)
        self.expert.changed.connect(self._show_state)
        self.start_from.activated.connect(self._choose_start)
        self._session.model_changed.connect(self._offer_starts)
        self._offer_starts()
        self._forget()
        self._unfinished = unfinished_trainings()
        self._offer_unfinished()

    # What to start from

    def _offer_starts(self, model: object = None) -> None:
        """List what training can start from; a current model comes chosen, for that is what one wants next."""
        box, wish = self.start_from, self.start_from.currentData()
        box.clear()
        if self._session.model is not None:
            box.addItem("The current model", _CURRENT)
        if SHIPPED:
            box.addItem("What fits best", _AUTO)
        for path in SHIPPED:
            box.addItem(f"{path.stem} (comes with napari-tally)", path.stem)
        box.addItem("Nothing: random weights", _RANDOM)
        box.addItem("A model file…", _FILE)
        if self._job.is_active:  # the model in training: what it began with stays shown
            box.setCurrentIndex(box.findData(wish))
        self._show_state()

    def _fold(self) -> None:
        """Show the expert options, or hide them."""
        unfolded = self.expert_button.isChecked()
        self.expert_button.setText(f"{'▾' if unfolded else '▸'} Expert options")
        for box in self.expert_options:
            box.setVisible(unfolded)

    def _choose_start(self, index: int) -> None:
        if self.start_from.currentData() == _FILE:
            self.start_from.setCurrentIndex(0)
            self.model_part.ask_for_model()
        self._show_state()

    # A training that was interrupted

    def _offer_unfinished(self) -> None:
        """Say what was interrupted, the newest first."""
        offer = self._unfinished[0] if self._unfinished and not self._job.is_active else None
        say(self.unfinished_text, f"<b>A training was interrupted:</b> {escape(str(offer))}. Go on, or start anew." if offer else "")
        for part in (self.go_on_button, self.discard_button):
            part.setVisible(offer is not None)

    def _go_on(self) -> None:
        may_lose_model(self, self._session, self._resume)

    def _resume(self) -> None:
        found = self._unfinished.pop(0)
        wishes = self._wishes()
        self._begin(replace(wishes, sources=[], preview_seconds=0.0, folder=found.folder, goes_on=True), "Reading the training …")

    def _discard_unfinished(self) -> None:
        discard(self._unfinished.pop(0).folder)
        self._offer_unfinished()

    # Start, pause, stop

    def _wishes(self, anyway: bool = False) -> Run:
        """Take the choices of the user, and the labels as they are now."""
        sources = []
        for layer, labels in self.pairs.pairs:
            with suppress(ValueError):  # reading the image says so in full
                channels_to_front(self._viewer, layer)  # so that preview and weights can lie on it
            region = region_of(self._viewer, labels)
            mask = region_mask(region, labels) if region is not None else None
            is_prediction = labels in layers_of(self._viewer, "prediction", layer) and not is_corrected(labels)
            sources.append(Source(layer.name, layer, labels, np.array(labels.data), mask, is_prediction))
        chosen = self.start_from.currentData()
        return Run(
            sources,
            replace(self.expert.value, minutes=self.minutes.value.minutes),
            self.augmentation.value,
            {_CURRENT: self._session.model, _RANDOM: None}.get(chosen, chosen),
            anyway,
            _PREVIEW_SECONDS if self.preview.isChecked() else 0.0,
        )

    def _start(self, anyway: bool = False) -> None:
        start = partial(self._start_now, anyway)
        if self.start_from.currentData() == _CURRENT:
            start()
        else:
            may_lose_model(self, self._session, start)

    def _start_now(self, anyway: bool) -> None:
        self._begin(self._wishes(anyway), "Reading and checking the images …")

    def _start_anyway(self) -> None:
        self._start(anyway=True)

    def _begin(self, run: Run, status: str) -> None:
        self._run, self._current = run, self._session.model
        self._forget()
        self.course.begin(status)
        self._job.start(self._run.events, description="Training")

    def _pause(self) -> None:
        if self._job.state == "paused":
            self._job.resume()
        else:
            self._job.pause()
        self.course.mark_paused(self._job.state == "paused")

    def _stop(self) -> None:
        if self._run:
            self._run.unwanted = True
        self._job.stop()

    def _show_estimate(self) -> None:
        """Say before Start how long it takes and how much memory."""
        pixels = sum(float(np.prod(label_shape(layer))) for layer, _ in self.pairs.pairs)
        wish = self.expert.value
        memory = training_memory(replace(network_for(wish), channels=3), wish.patch or PATCH, wish.batch or 1, pixels)
        seconds = training_seconds(self.minutes.value.minutes, pixels)
        known = pixels and wish.preset == "quick" and wish.dimensions != "3-D" and not wish.steps
        say(self.estimate, f"Takes about {duration(seconds)} and {memory / 1e9:.1f} GB of memory." if known else "")

    def _show_state(self, state: object = None) -> None:
        """Buttons that fit the state."""
        self._show_estimate()
        self._offer_unfinished()
        active, paused, stopping = self._job.is_active, self._job.state == "paused", self._job.state == "stopping"
        aside = self._weighing.is_active or self.model_part.is_busy
        free = not active and not aside
        goes_on = self.start_from.currentData() == _CURRENT
        self.start_button.setVisible(not active)
        self.start_button.setEnabled(free and bool(self.pairs.pairs))
        self.start_button.setText("Train on" if goes_on else "Start")
        self.start_button.setToolTip(
            "Go on training the current model." if goes_on else "Train a new model. The window stays usable meanwhile."
        )
        self.pause_button.setVisible(active)
        self.pause_button.setEnabled(not stopping)
        self.pause_button.setText("Resume" if paused else "Pause")
        self.pause_button.setToolTip("Go on where it stopped." if paused else "Hold the training; the time does not run on.")
        self.stop_button.setVisible(active)
        self.stop_button.setEnabled(not stopping)
        self.stop_button.setText("Stopping …" if stopping else "Stop")
        for part in (self.pairs, self.pairs.add_button, self.start_from, self.minutes["minutes"].native, self.preview):
            part.setEnabled(not active)
        for part in (self.expert.native, self.augmentation.native):
            part.setEnabled(free)
        weighs = self._weighing.is_active
        self.weights_button.setEnabled(free or weighs)
        self.weights_button.setText("Stop weighing" if weighs else "Show weight map")
        self.model_part.enable(may_save=not aside, may_replace=free)

    # News from the worker

    def _show_event(self, event: Any) -> None:
        match type(event).__name__:
            case "Planned":
                self._show_plan(event.plan, event.start)
                self.message.setToolTip(event.words)
            case "Shared":
                if self._session.model is self._current:  # none was loaded meanwhile
                    self._current = event.model
                    self._session.put(event.model, "in training", saved=False, keep=False)
            case "Step":
                self.course.show_step(event, paused=self._job.state == "paused")
            case "Validation":
                self.course.show_validation(event)
            case "Preview":
                if self._run:
                    self._layers.show_preview(self._run.sources, event.name, event.labels)
                    self.course.hold_off()
            case "Trouble" | "NotKept":
                self._say(event.message)
            case "Comparison":
                self.course.show_comparison(event)
            case "Finished":
                self._show_finished(event)

    def _show_plan(self, plan: "TrainingPlan", start: str) -> None:
        images, cells = number(plan.n_images, "image"), number(plan.n_cells, "cell")
        words = [f"Learns from {cells} in {images}, about {plan.diameter:.0f} px across."]
        if plan.scale != 1 and len(set(plan.scales)) == 1:  # else a note says it
            words.append(f"The network sees the images at {plan.scale:.0%} of their size, so that the cells have the size it knows.")
        if start:
            words.append(f"Starts from “{start}”.")
        self._say(" ".join([*words, *plan.notes]))
        self.course.show_plan(plan)
        if self._run and self._run.preview_seconds:
            self._layers.make_preview(self._run.sources[0], plan)

    def _show_finished(self, event: "Finished") -> None:
        self.course.show_finished(event)
        if event.start_kept and self._run:
            self._run.start_kept = True
            wish = "To have the trained one, tick “Keep in any case” (expert options) and train again."
            self._say(f"The start model is kept; the table says why. {wish}")

    def _say(self, text: str) -> None:
        say(self.message, escape(text))

    # The end

    def _returned(self, problems: "list[tuple[Source, Problem]]") -> None:
        self._ended()
        if problems:
            self._problems = problems
            self.course.clear()
            stops = any(p.stops for _, p in problems)
            lines = [("<b>Stops training:</b> " if p.stops else "<b>Please look:</b> ") + escape(p.message) for _, p in problems]
            say(self.message, "<br><br>".join(lines))
            self.split_button.setVisible(any(p.fix == "split" for _, p in problems))
            self.anyway_button.setVisible(not stops)

    def _ended(self, error: Exception | None = None) -> None:
        """Keep what was learned."""
        run, self._run = self._run, None
        if run and (run.unwanted or self._job.state == "done"):
            run.forget()
        if run and run.model and run.steps:
            if run.start_kept:  # it has learned nothing that could be lost
                start = run.model.record.get("start", "")
                self._session.put(run.model, f"{start}, kept", source=start)
            else:
                self._session.put(run.model, f"trained for {number(run.steps, 'step')}, not saved", saved=False)
        if error or self._job.state == "stopped":
            kept = "The model is kept as it was then." if run and run.steps else "Nothing was learned yet."
            say(self.status, f"{'Stopped' if error is None else 'Failed'} after {number(run.steps if run else 0, 'step')}. {kept}")
        if error:
            self._say(str(error) or type(error).__name__)
        self._show_state()

    def _split(self) -> None:
        from napari_tally.core.annotations import split_drawn

        for source, problem in self._problems:
            if problem.fix == "split" and source.labels_layer in self._viewer.layers:
                rewrite(source.labels_layer, split_drawn(source.labels_layer.data, image_from_layer(source.layer)))
        self._forget()
        self._say("Every piece has its own number now. Look at the labels, then press Start.")

    def _forget(self) -> None:
        """Clear what the last training left in the form."""
        self._problems = []
        self._layers.begin_anew()
        self.course.clear()
        say(self.message, "")
        self.split_button.hide()
        self.anyway_button.hide()

    # The model and its file

    def save(self, path: str) -> None:
        """Write the current model to a file."""
        self.model_part.save(path)

    def load(self, path: str) -> None:
        """Make the model in a file the current one."""
        self.model_part.load(path)

    # The weight map

    def _weigh(self) -> None:
        if self._weighing.is_active:
            self._weighed = None  # they may be ready by now
            self._weighing.stop()
            return
        self._weighed = run = self._wishes()
        self._weighing.start(run.weight_maps, description="Computing the weight map")

    def _show_weights(self, maps: list[tuple[str, NDArray[np.float32]]]) -> None:
        run, self._weighed = self._weighed, None
        if run is None:
            return
        for name, weights in maps:
            self._layers.show_weights(run.sources, name, weights)

    def changeEvent(self, event: QEvent) -> None:
        """Stop when napari takes the widget out of its window: nobody could stop it later."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._job.stop()
        super().changeEvent(event)
