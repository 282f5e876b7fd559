"""The row of the widgets that count, which says by which model, and loads another: one that comes with the package, or a file."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QHBoxLayout, QLabel, QMenu, QWidget

from napari_tally.widgets._job import Job
from napari_tally.widgets._parts import ask_for_file, button, may_lose_model
from napari_tally.widgets._session import SHIPPED, Session
from napari_tally.widgets._training import load_file

if TYPE_CHECKING:
    from napari_tally.core.model_file import Model


class ModelChoice(QWidget):
    """Shows the model of a session, and loads others on a worker thread.

    Parameters
    ----------
    shared : Session

    Attributes
    ----------
    said : Qt signal (str)
        A sentence for the user.
    failed : Qt signal (object)
        The error that kept a file from being read.
    """

    said = Signal(str)
    failed = Signal(object)

    def __init__(self, shared: Session) -> None:
        super().__init__()
        self._session = shared
        self._loading = Job(self)
        self._loading.returned.connect(self._take_loaded)
        self._loading.failed.connect(self._tell)
        self.text = QLabel()
        self.load_button = button("Load…", "Take a model that comes with napari-tally, or a file.")
        menu = QMenu(self)
        for path in SHIPPED:
            menu.addAction(f"{path.stem} (comes with napari-tally)").setData(str(path))
        menu.addAction("A model file…")
        menu.triggered.connect(self._load_offered)
        self.load_button.setMenu(menu)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.load_button)
        shared.model_changed.connect(self._show)
        self._show(shared.model)

    @property
    def is_loading(self) -> bool:
        """Whether a file is being read."""
        return self._loading.is_active

    def load(self, path: str) -> None:
        """Load a model file, and make it the model of the viewer."""
        if not self.is_loading:
            may_lose_model(self, self._session, partial(self._load, path))

    def _load(self, path: str) -> None:
        self.said.emit("Loading the model…")
        self._loading.start(lambda: load_file(Path(path)), description="Loading a model")

    def _load_offered(self, action: QAction) -> None:
        if action.data():
            self.load(action.data())
        else:
            ask_for_file(self, "Load a model", "Models (*.safetensors)", self.load)

    def _take_loaded(self, loaded: "tuple[Path, Model]") -> None:
        path, model = loaded
        self.said.emit("")
        self._session.put(model, path)

    def _tell(self, error: Exception) -> None:
        self.failed.emit(error)

    def _show(self, model: "Model | None") -> None:
        name = self._session.model_name
        self.text.setText(self.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, 180) if model else "none yet")
        self.text.setToolTip(name or "Train a model (2 Train), or load one.")
