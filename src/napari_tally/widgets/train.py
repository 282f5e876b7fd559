"""The dock widget to train: choose images with their labels, press Start, watch, keep the model.

What computes is :func:`napari_tally.core.train.train`; what leads there on the worker thread is in
:mod:`napari_tally.widgets._training`. Here is the form around it.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QProgressBar, QWidget

from napari_tally.core.estimate import training_memory, training_seconds
from napari_tally.settings import AugmentationSettings, NetworkSettings, NormalisationSettings, TrainingSettings, fields_of
from napari_tally.widgets._annotation import region_mask, rewrite
from napari_tally.widgets._curves import Curves
from napari_tally.widgets._form import SettingsForm
from napari_tally.widgets._geometry import label_shape, placement
from napari_tally.widgets._job import Job
from napari_tally.widgets._kept import Unfinished, discard, unfinished_trainings
from napari_tally.widgets._layers import belong, layers_of, region_of
from napari_tally.widgets._pairs import PairTable
from napari_tally.widgets._parts import ask_for_file, ask_where_to_save, button, fill, group, may_lose_model, note, say
from napari_tally.widgets._session import SHIPPED, session, unwrap
from napari_tally.widgets._stacked import theme_colours
from napari_tally.widgets._training import Run, Source, load_file, save_file

if TYPE_CHECKING:
    import napari

    from napari_tally.core.annotations import Problem
    from napari_tally.core.judge import Comparison
    from napari_tally.core.model_file import Model
    from napari_tally.core.plan import TrainingPlan
    from napari_tally.core.train import Finished, Preview, Step, Validation

_PREVIEW_SECONDS = 3.0
_PREVIEW_SIDE = 1024
"""Pixels that a preview has at most along a side: napari takes long to show more."""
_DRAW_SECONDS = 1.0
"""Seconds between two paintings of the progress: see :meth:`Curves.draw`."""
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
        self._plan: TrainingPlan | None = None
        self._problems: list[tuple[Source, Problem]] = []
        self._current: Model | None = None  # the one that this training has shared last
        self._unfinished: list[Unfinished] = []
        self._drawn = 0.0  # when the progress was painted
        self._laid: set[str] = set()  # layers that this training has made
        self._job = Job(self)
        self._job.event.connect(self._show_event)
        self._job.returned.connect(self._returned)
        self._job.stopped.connect(self._ended)
        self._job.failed.connect(self._ended)
        self._job.state_changed.connect(self._show_state)
        self._aside = Job(self)  # files and the weight map
        self._aside.state_changed.connect(self._show_state)
        self._aside.returned.connect(lambda value: self._then(value))
        self._then: Callable[[Any], None] = lambda value: None

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
        self.anyway_button = button("Train anyway", "The labels are as they should be.", lambda: self._start(anyway=True))

        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setFormat("%p %")
        self.status = note()
        self.curves = Curves(*theme_colours(self._viewer.theme))
        self.quality = note()
        self.preview = QCheckBox("Show a preview in the image")
        self.preview.setToolTip("Every few seconds, the cells that the model finds now in the first image, as a layer.")
        self.preview.setChecked(True)

        self.model_text = note()
        self.save_button = button("Save model…", "Write the model to a file.", self._ask_where_to_save)
        self.load_button = button("Load model…", "Read a model from a file: to train on, or to predict.", self._ask_for_model)
        self.reset_button = button("Reset", "Forget the model and the curves, to begin anew.", self._reset)

        others = tuple(name for name in fields_of(TrainingSettings) if name != "minutes")
        self.expert = SettingsForm(TrainingSettings, fields=others)
        self.augmentation = SettingsForm(AugmentationSettings)
        self.normalisation = SettingsForm(NormalisationSettings, fields=("statistics",))
        self.weights_button = button("Show weight map", "How much the gaps between cells weigh in training, as a layer.", self._weigh)
        self.expert_button = button("▸ Expert options", "How training works in detail.", self._fold, checkable=True)
        self.expert_options = [
            group("How to train", self.expert.native, self.normalisation.native, self.weights_button),
            group("How the images are varied", self.augmentation.native),
        ]

        choices = QFormLayout()
        choices.addRow("Start from", self.start_from)
        choices.addRow("Train for", self.minutes["minutes"].native)
        fill(
            self,
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
                self.progress,
                self.status,
                self.curves,
                self.quality,
                self.preview,
            ),
            group("Model", self.model_text, [self.save_button, self.load_button, self.reset_button]),
            self.expert_button,
            *self.expert_options,
        )
        self._fold()
        self.pairs.changed.connect(self._show_state)
        self.minutes.changed.connect(self._show_state)
        self.expert.changed.connect(self._show_state)
        self.start_from.activated.connect(self._choose_start)
        self._session.model_changed.connect(self._offer_starts)
        self._viewer.events.theme.connect(self._follow_theme)
        self._offer_starts()
        self._forget()
        self._unfinished = unfinished_trainings()
        self._offer_unfinished()

    # What to start from

    def _offer_starts(self, model: object = None) -> None:
        """List what training can start from; a current model comes chosen, for that is what one wants next."""
        name = self._session.model_name
        say(self.model_text, f"The current model: {escape(name)}" if name else "There is no model yet.")
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
            self._ask_for_model()
        self._show_state()

    # A training that was interrupted

    def _offer_unfinished(self) -> None:
        """Say what was interrupted, the newest first."""
        offer = self._unfinished[0] if self._unfinished and not self._job.is_active else None
        say(self.unfinished_text, f"<b>A training was interrupted:</b> {escape(str(offer))}. Go on, or start anew." if offer else "")
        for part in (self.go_on_button, self.discard_button):
            part.setVisible(offer is not None)

    def _go_on(self) -> None:
        if may_lose_model(self, self._session):
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
            region = region_of(self._viewer, labels)
            mask = region_mask(region, labels) if region is not None else None
            sources.append(Source(layer.name, layer, labels, np.array(labels.data), mask))
        chosen = self.start_from.currentData()
        return Run(
            sources,
            replace(self.expert.value, minutes=self.minutes.value.minutes),
            self.augmentation.value,
            replace(NormalisationSettings(), statistics=self.normalisation.value.statistics),
            {_CURRENT: self._session.model, _RANDOM: None}.get(chosen, chosen),
            anyway,
            _PREVIEW_SECONDS if self.preview.isChecked() else 0.0,
        )

    def _start(self, anyway: bool = False) -> None:
        if self.start_from.currentData() != _CURRENT and not may_lose_model(self, self._session):
            return
        self._begin(self._wishes(anyway), "Reading and checking the images …")

    def _begin(self, run: Run, status: str) -> None:
        self._run, self._current = run, self._session.model
        self._forget()
        self._show_progress(True)
        say(self.status, status)
        self._job.start(self._run.events, description="Training")

    def _pause(self) -> None:
        if self._job.state == "paused":
            self._job.resume()
            say(self.status, self.status.text().removesuffix(" · paused"))
        else:
            self._job.pause()
            say(self.status, f"{self.status.text()} · paused")

    def _stop(self) -> None:
        if self._run:
            self._run.unwanted = True
        self._job.stop()

    def _show_estimate(self) -> None:
        """Say before Start how long it takes and how much memory."""
        pixels = sum(float(np.prod(label_shape(layer))) for layer, _ in self.pairs.pairs)
        patch, batch = self.expert.value.patch or 160, self.expert.value.batch or 1
        wish = self.expert.value
        network = NetworkSettings(
            architecture="unet" if wish.architecture == "auto" else wish.architecture,
            channels=3,
            depth=wish.depth or NetworkSettings().depth,
            base_width=wish.base_width or NetworkSettings().base_width,
        )
        memory = training_memory(network, patch, batch, pixels)
        seconds = training_seconds(self.minutes.value.minutes, pixels)
        known = pixels and self.expert.value.preset == "quick" and not self.expert.value.steps
        say(self.estimate, f"Takes about {_duration(seconds)} and {memory / 1e9:.1f} GB of memory." if known else "")

    def _show_state(self, state: object = None) -> None:
        """Buttons that fit the state."""
        self._show_estimate()
        self._offer_unfinished()
        active, paused, stopping = self._job.is_active, self._job.state == "paused", self._job.state == "stopping"
        free = not active and not self._aside.is_active
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
        for box in self.expert_options:
            box.setEnabled(free)
        has_model = self._session.model is not None
        self.save_button.setEnabled(has_model and not self._aside.is_active)
        self.load_button.setEnabled(free)
        self.reset_button.setEnabled(has_model and free)

    # News from the worker

    def _show_event(self, event: Any) -> None:
        match type(event).__name__:
            case "Planned":
                self._show_plan(event.plan, event.start)
                self.message.setToolTip(event.words)
            case "Shared":
                if self._session.model is self._current:  # none was loaded meanwhile
                    self._current = event.model
                    self._session.put(event.model, "in training", saved=False)
            case "Step":
                self._show_step(event)
            case "Validation":
                self._show_validation(event)
            case "Preview":
                self._show_preview(event)
            case "Trouble" | "NotKept":
                say(self.message, escape(event.message))
            case "Comparison":
                self._show_comparison(event)
            case "Finished":
                self._show_finished(event)

    def _show_plan(self, plan: "TrainingPlan", start: str) -> None:
        self._plan = plan
        images, cells = _number(plan.n_images, "image"), _number(plan.n_cells, "cell")
        words = [f"Learns from {cells} in {images}, about {plan.diameter:.0f} px across."]
        if plan.scale != 1:
            words.append(f"The network sees the images at {plan.scale:.0%} of their size, so that the cells have the size it knows.")
        if start:
            words.append(f"Starts from “{start}”.")
        say(self.message, escape(" ".join([*words, *plan.notes])))
        say(self.status, f"{plan.device_name} · getting ready …")
        if self._run and self._run.preview_seconds:  # making a layer takes a moment: now, and not while training runs
            source = self._run.sources[0]
            shape = [max(1, round(n * plan.scales[0])) for n in label_shape(source.layer)[-2:]]
            if plan.slices:
                shape = [max(1, round(label_shape(source.layer)[-3] * plan.z_scale)), *shape]
            self._lay("preview", self._run, source.name, np.zeros(shape, np.int32))

    def _show_step(self, event: "Step") -> None:
        assert self._plan
        self.curves.add_loss(event.step, event.loss)
        if time.monotonic() - self._drawn < _DRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        self.curves.draw()
        self._show_fraction(event.fraction)
        paused = " · paused" if self._job.state == "paused" else ""
        say(self.status, f"{self._plan.device_name} · step {event.step} · {_duration(event.seconds_left)} left{paused}")

    def _show_validation(self, event: "Validation") -> None:
        s = event.score
        self.curves.add_validation(event.step, s.loss, s.f1)
        say(self.quality, f"On held-out cells: finds {s.predicted_count} where {s.true_count} are drawn; agreement F1 = {s.f1:.2f}.")

    def _show_comparison(self, event: "Comparison") -> None:
        """Show whether training helped, as a small table."""
        cells = "".join(
            f"<tr><td>{escape(what)}</td><td align=right>&nbsp;{before}</td><td align=right>&nbsp;<b>{after}</b></td></tr>"
            for what, before, after in event.rows()
        )
        head = "<tr><td></td><td align=right>&nbsp;start</td><td align=right>&nbsp;<b>trained</b></td></tr>"
        self.quality.setToolTip("F1: of cells found with at least half of their area. Average precision: also how true the outlines are.")
        say(self.quality, f"<b>{escape(event.verdict)}</b><table cellspacing=2>{head}{cells}</table>")

    def _show_finished(self, event: "Finished") -> None:
        self.curves.draw()
        self._show_fraction(1)
        say(self.status, f"Done: {_number(event.step, 'step')} in {_duration(event.seconds)}.")
        if event.start_kept and self._run:
            self._run.start_kept = True
            say(self.message, "The start model is kept; the table says why. “Keep in any case” (expert options) keeps the trained one.")
        if event.validation is None:
            say(self.quality, "No cells were held out to judge by. Compare with your own eyes in “3 Predict and count”.")

    def _show_preview(self, event: "Preview") -> None:
        """Lay the labels, which are in network pixels, on the image; a layer that the user deleted stays away."""
        if self._run:
            every = -(-max(event.labels.shape[-2:]) // _PREVIEW_SIDE)
            self._lay("preview", self._run, event.name, event.labels[..., every // 2 :: every, every // 2 :: every])
            self._drawn = time.monotonic()  # the curves another time: together they take long

    def _lay(self, kind: str, run: Run, plane_name: str, pixels: NDArray[Any]) -> None:
        """Show a plane or volume in network pixels on its image, in a layer of its own or the one from before."""
        what = " plane " if pixels.ndim == 2 else " volume "
        source = next(s for s in run.sources if plane_name == s.name or plane_name.startswith(s.name + what))
        name, image = f"{source.name} {kind}", source.layer
        layer = next((one for one in layers_of(self._viewer, "aid", image) if one.name == name), None)
        known, self._laid = name in self._laid, self._laid | {name}
        if image not in self._viewer.layers or (known and layer is None):
            return  # the user has deleted it: it stays away
        shape, n = label_shape(image), pixels.ndim
        leading = shape[:-n]
        place = placement(image, len(shape))
        plane = int(plane_name.rpartition(what)[2]) if plane_name != source.name else 0
        index = np.unravel_index(plane, leading) if leading else ()
        factor = np.array([1.0] * len(leading) + [m / k for m, k in zip(shape[-n:], pixels.shape, strict=True)])
        shift = np.array([*index, *((factor[-n:] - 1) / 2)])  # from the centre of the first pixel to that of the larger one
        place["translate"] = place["translate"] + shift * place["scale"]
        place["scale"] = place["scale"] * factor
        data = pixels[(None,) * len(leading)]
        if layer is not None:
            layer.data = data
            for attribute in ("scale", "translate"):
                if not np.allclose(getattr(layer, attribute), place[attribute]):  # setting costs as much as new data
                    setattr(layer, attribute, place[attribute])
            return
        active = self._viewer.layers.selection.active
        if kind == "preview":
            layer = self._viewer.add_labels(data, name=name, **place)
            layer.contour = 1  # the image stays visible
        else:
            layer = self._viewer.add_image(data, name=name, colormap="inferno", blending="additive", **place)
        belong(layer, "aid", image)
        self._viewer.layers.selection.active = active  # whoever is drawing goes on drawing

    # The end

    def _returned(self, problems: "list[tuple[Source, Problem]]") -> None:
        self._ended()
        if problems:
            self._problems = problems
            self._show_progress(False)
            say(self.status, "")
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
            name = "the start, kept as it was" if run.start_kept else f"trained for {_number(run.steps, 'step')}, not saved"
            self._session.put(run.model, name, saved=False)
        if error or self._job.state == "stopped":
            kept = "The model is kept as it was then." if run and run.steps else "Nothing was learned yet."
            say(self.status, f"{'Stopped' if error is None else 'Failed'} after {_number(run.steps if run else 0, 'step')}. {kept}")
        if error:
            say(self.message, escape(str(error) or type(error).__name__))
        self._show_state()

    def _show_fraction(self, fraction: float) -> None:
        self.progress.setUpdatesEnabled(False)  # else setValue paints at once, and what changes with it once more
        self.progress.setValue(round(1000 * fraction))
        self.progress.setUpdatesEnabled(True)

    def _show_progress(self, on: bool) -> None:
        self.progress.setVisible(on)
        self.curves.setVisible(on)

    def _split(self) -> None:
        from napari_tally.core.annotations import split_pieces

        for source, problem in self._problems:
            if problem.fix == "split" and source.labels_layer in self._viewer.layers:
                rewrite(source.labels_layer, split_pieces(source.labels_layer.data))
        self._forget()
        say(self.message, "Every piece has its own number now. Look at the labels, then press Start.")

    def _forget(self) -> None:
        """Clear what the last training left in the form."""
        self._problems, self._plan, self._laid = [], None, set()
        self.curves.clear_curves()
        self._show_fraction(0)
        self._show_progress(False)
        for text in (self.message, self.status, self.quality):
            say(text, "")
        self.split_button.hide()
        self.anyway_button.hide()

    # The model and its file

    def _reset(self) -> None:
        if may_lose_model(self, self._session):
            self._session.put(None)
            self._forget()

    def _ask_where_to_save(self) -> None:
        ask_where_to_save(self, "Save the model", "model.safetensors", "Models (*.safetensors)", self.save)

    def save(self, path: str) -> None:
        """Write the current model to a file."""
        if model := self._session.model:
            self._beside(lambda: save_file(model, Path(path)), self._show_saved)

    def _show_saved(self, saved: "tuple[Path, Model]") -> None:
        path, model = saved
        if self._session.model is model:  # and not yet a newer one
            self._session.put(model, path.stem)
        say(self.message, f"The model is saved as {escape(str(path))}.")

    def _ask_for_model(self) -> None:
        ask_for_file(self, "Load a model", "Models (*.safetensors)", self.load)

    def load(self, path: str) -> None:
        """Make the model in a file the current one."""
        if may_lose_model(self, self._session):
            self._beside(lambda: load_file(Path(path)), self._show_loaded)

    def _show_loaded(self, loaded: "tuple[Path, Model]") -> None:
        path, model = loaded
        self._forget()
        self._session.put(model, path.stem)

    def _weigh(self) -> None:
        run = self._wishes()
        self._beside(run.weight_maps, lambda maps: self._show_weights(run, maps))

    def _show_weights(self, run: Run, maps: list[tuple[str, NDArray[np.float32]]]) -> None:
        for name, weights in maps:
            self._lay("border weights", run, name, weights)

    def _beside(self, make_generator: Callable[[], Generator[Any, None, Any]], then: Callable[[Any], None]) -> None:
        """Do something short on the worker thread, then show what it gave."""
        if not self._aside.is_active:
            self._then = then
            self._aside.start(make_generator, description="Reading or writing a model")

    def _follow_theme(self, event: object = None) -> None:
        self.curves.set_colours(*theme_colours(self._viewer.theme))

    def changeEvent(self, event: QEvent) -> None:
        """Stop when napari takes the widget out of its window: nobody could stop it later."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._job.stop()
        super().changeEvent(event)


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 s"
