"""The part of the widget *Train* that keeps the current model of the viewer: in a file, out of a file, or not at all."""

from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_tally.widgets._job import Job
from napari_tally.widgets._parts import ask_for_file, ask_where_to_save, button, group, may_lose_model, note, say
from napari_tally.widgets._session import Session
from napari_tally.widgets._training import load_file, save_file
from napari_tally.widgets._unsaved import UnsavedModel, let_model_go, unsaved_models

if TYPE_CHECKING:
    from napari_tally.core.model_file import Model

_DOING = "Reading or writing a model"


class ModelPart(QWidget):
    """Saves, loads and forgets the model of a session. Files are read and written on a worker thread.

    Parameters
    ----------
    shared : Session

    Attributes
    ----------
    replaced : Qt signal ()
        The user has loaded another model, or wants none: what is shown of the last training is of the old one.
    said : Qt signal (str)
        A sentence for the user.
    state_changed : Qt signal ()
        `is_busy` may be another.
    """

    replaced = Signal()
    said = Signal(str)
    state_changed = Signal()

    def __init__(self, shared: Session) -> None:
        super().__init__()
        self._session = shared
        self._loading, self._saving = Job(self), Job(self)
        self._loading.returned.connect(self._take_loaded)
        self._saving.returned.connect(self._take_saved)
        for job in (self._loading, self._saving):
            job.state_changed.connect(self._tell)
        self.text = note()
        self.save_button = button("Save model…", "Write the model to a file.", self._ask_where_to_save)
        self.load_button = button("Load model…", "Read a model from a file: to train on, or to predict.", self.ask_for_model)
        self.reset_button = button("Reset", "Forget the model and the curves, to begin anew.", self._reset)
        self.unsaved_text = note()
        self.take_button = button("Take it", "Make it the current model; then it can be saved.", self._ask_to_take_unsaved)
        self.discard_button = button("Discard", "Forget the model that was not saved.", self._discard_unsaved)
        self._unsaved: list[UnsavedModel] = []
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(
            group(
                "Model",
                self.text,
                [self.save_button, self.load_button, self.reset_button],
                self.unsaved_text,
                [self.take_button, self.discard_button],
            )
        )
        shared.model_changed.connect(self._show_name)
        self._show_name()
        self._unsaved = unsaved_models()
        self._offer_unsaved()

    @property
    def is_busy(self) -> bool:
        """Whether a file is being read or written."""
        return self._loading.is_active or self._saving.is_active

    def enable(self, may_save: bool, may_replace: bool) -> None:
        """Offer what can be done now: to save the model, if there is one, and to put another in its place."""
        has_model = self._session.model is not None
        self.save_button.setEnabled(has_model and may_save)
        for part in (self.load_button, self.take_button):
            part.setEnabled(may_replace)
        self.reset_button.setEnabled(has_model and may_replace)

    def save(self, path: str) -> None:
        """Write the current model to a file."""
        model = self._session.model
        if model and not self.is_busy:
            self._saving.start(lambda: save_file(model, Path(path)), description=_DOING)

    def load(self, path: str) -> None:
        """Make the model in a file the current one."""
        if not self.is_busy:
            may_lose_model(self, self._session, partial(self._load, path))

    def _load(self, path: str) -> None:
        self._loading.start(lambda: load_file(Path(path)), description=_DOING)

    def ask_for_model(self) -> None:
        """Ask for a file to load."""
        ask_for_file(self, "Load a model", "Models (*.safetensors)", self.load)

    def _ask_where_to_save(self) -> None:
        ask_where_to_save(self, "Save the model", "model.safetensors", "Models (*.safetensors)", self.save)

    def _take_saved(self, saved: "tuple[Path, Model]") -> None:
        path, model = saved
        if self._session.model is model:  # and not yet a newer one
            self._session.put(model, path)
        self.said.emit(f"The model is saved as {path}.")

    def _take_loaded(self, loaded: "tuple[Path, Model]") -> None:
        path, model = loaded
        self.replaced.emit()
        if self._unsaved and path == self._unsaved[0].path:
            self._session.put(model, self._unsaved[0].name, saved=False)  # which keeps it anew
            self._discard_unsaved()
        else:
            self._session.put(model, path)

    def _reset(self) -> None:
        may_lose_model(self, self._session, self._forget)

    def _forget(self) -> None:
        self._session.put(None)
        self.replaced.emit()

    # A model that an earlier napari, or a viewer that was closed, has left

    def _offer_unsaved(self) -> None:
        """Say what was not saved, the newest first."""
        text = f"<b>A model was not saved:</b> {escape(str(self._unsaved[0]))}. Take it, or discard it." if self._unsaved else ""
        say(self.unsaved_text, text)
        for part in (self.take_button, self.discard_button):
            part.setVisible(bool(self._unsaved))

    def _ask_to_take_unsaved(self) -> None:
        if not self.is_busy:
            may_lose_model(self, self._session, self._take_unsaved)

    def _take_unsaved(self) -> None:
        path = self._unsaved[0].path
        self._loading.start(lambda: load_file(path), description=_DOING)

    def _discard_unsaved(self) -> None:
        let_model_go(self._unsaved.pop(0).folder)
        self._offer_unsaved()

    def _show_name(self, model: object = None) -> None:
        name = self._session.model_name
        say(self.text, f"The current model: {escape(name)}" if name else "There is no model yet.")

    def _tell(self, state: str) -> None:
        self.state_changed.emit()
