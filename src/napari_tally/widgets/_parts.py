"""Small parts of which the dock widgets are made, so that they look alike: buttons, groups, wrapped text."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QDockWidget,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLayout,
    QMessageBox,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_tally.core.results import few
from napari_tally.widgets._job import sentence
from napari_tally.widgets._session import Session

Row = QWidget | QLayout | list[QWidget]


def button(text: str, tooltip: str, clicked: Callable[[], object] | None = None, checkable: bool = False) -> QPushButton:
    """Make a push button that calls `clicked` without arguments.

    A method of the widget is best: Qt would keep a widget that hangs in a lambda for ever, with all its images.
    """
    made = QPushButton(text)
    made.setToolTip(tooltip)
    made.setCheckable(checkable)
    if clicked:
        made.clicked.connect(clicked)
    return made


def note(text: str = "", size: float = 1.0) -> QLabel:
    """Make a text that wraps and can be copied; `size` times as large as usual."""
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.RichText)  # always: what is escaped must not depend on whether there is a tag
    label.setWordWrap(True)
    label.setIndent(4)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
    if size != 1:
        label.setStyleSheet(f"font-size: {round(size * 10)}pt; font-weight: bold;")
    return label


def may_lose_model(parent: QWidget, session: Session, then: Callable[[], object]) -> None:
    """Ask before a model that is not saved goes; `then` is called at once where there is none, else on Yes."""
    if session.model is None or session.saved:
        then()
    else:
        ask(parent, "The current model is not saved. Discard it?", then)


def unless_there(parent: QWidget, folder: str | Path, names: Sequence[str], write: Callable[[], object]) -> None:
    """Ask before files of these names are replaced in a folder; `write` is called at once where there are none, else on Yes."""
    there = [name for name in names if (Path(folder) / name).exists()]
    if there:
        ask(parent, f"{folder} has {few(there)} already. Replace?", write)
    else:
        write()


def ask(parent: QWidget, question: str, yes: Callable[[], object], more: str = "") -> None:
    """Ask a question that is answered with Yes or No, without holding up the window; `yes`, best a method, is called on Yes."""
    box = QMessageBox(parent)
    box.setText(question)
    box.setInformativeText(more)
    box.setStandardButtons(QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No)
    box.setDefaultButton(QMessageBox.StandardButton.No)  # Enter, pressed without reading, loses nothing
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.accepted.connect(yes)
    box.open()


def ask_for_file(parent: QWidget, title: str, kinds: str, chosen: Callable[[str], object]) -> None:
    """Ask for a file that there is, of these kinds ("Models (*.safetensors)"); `chosen`, best a method, is called with its path."""
    dialog = _dialog(parent, title, chosen, kinds)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    dialog.open()


def ask_for_folder(parent: QWidget, title: str, chosen: Callable[[str], object]) -> None:
    """Ask for a folder."""
    dialog = _dialog(parent, title, chosen)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    dialog.open()


def ask_where_to_save(parent: QWidget, title: str, name: str, kinds: str, chosen: Callable[[str], object]) -> None:
    """Ask for the place of a file that will be written; `name` is offered."""
    dialog = _dialog(parent, title, chosen, kinds)
    dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
    dialog.setDefaultSuffix(name.rpartition(".")[2])
    dialog.selectFile(name)
    dialog.open()


def _dialog(parent: QWidget, title: str, chosen: Callable[[str], object], kinds: str = "") -> QFileDialog:
    for other in parent.findChildren(QFileDialog):  # one at a time
        other.close()
    dialog = QFileDialog(parent, title, "", kinds)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.fileSelected.connect(chosen)
    return dialog


def say(label: QLabel, text: str) -> None:
    """Show a text, and take no room for an empty one."""
    label.setText(text)
    label.setVisible(bool(text))


def say_error(label: QLabel, error: BaseException) -> None:
    """Show in a sentence what went wrong."""
    say(label, escape(sentence(error)))


def group(title: str, *rows: Row) -> QGroupBox:
    """Make a titled frame of rows; a list is a row of widgets side by side."""
    box = QGroupBox(title)
    _fill(QVBoxLayout(box), rows)
    return box


def fill(widget: QWidget, tab: str, *rows: Row) -> None:
    """Lay rows into a dock widget; what does not fit on a small screen scrolls. `tab` is a short name, for docks that share a place."""
    content = QWidget()
    content.setMinimumWidth(320)
    column = QVBoxLayout(content)
    _fill(column, rows)
    column.addStretch()
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setMinimumWidth(356)  # with its vertical bar
    area.setWidget(content)
    for part in content.findChildren(QAbstractSpinBox) + content.findChildren(QComboBox):
        spare_from_wheel(part)
    outer = QVBoxLayout(widget)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.addWidget(area)
    widget.installEventFilter(_Tab(widget, tab))


def spare_from_wheel(part: QWidget) -> None:
    """Let the wheel scroll past a field that has not been clicked: else scrolling would change settings unseen."""
    part.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    part.installEventFilter(_PastWheel(part))


class _Tab(QObject):
    """Names the tab of the dock that a widget comes to lie in: the names that napari gives are too long for several side by side."""

    def __init__(self, widget: QWidget, name: str) -> None:
        super().__init__(widget)
        self._name = name

    def eventFilter(self, widget: QObject, event: QEvent) -> bool:
        if event.type() in (QEvent.Type.ParentChange, QEvent.Type.Show):
            around = widget.parent()
            while around is not None and not isinstance(around, QDockWidget):
                around = around.parent()
            if around is not None:
                around.setWindowTitle(self._name)  # its title bar is napari's own, and keeps the long name
        return False


class _PastWheel(QObject):
    def eventFilter(self, part: QObject, event: QEvent) -> bool:
        passes = event.type() == QEvent.Type.Wheel and isinstance(part, QWidget) and not part.hasFocus()
        if passes:
            event.ignore()  # so that it goes on to the scroll area
        return passes


def _fill(column: QVBoxLayout, rows: tuple[Row, ...]) -> None:
    column.setSpacing(6)
    for row in rows:
        if isinstance(row, QWidget):
            column.addWidget(row)
        elif isinstance(row, QLayout):
            column.addLayout(row)
        else:
            side_by_side = QHBoxLayout()
            side_by_side.setSpacing(4)
            for part in row:
                narrow = isinstance(part, QLabel) and not part.wordWrap()
                side_by_side.addWidget(part, 0 if narrow else 2 if isinstance(part, QComboBox) else 1)
                if isinstance(part, QAbstractButton):
                    part.setMinimumWidth(10)
            column.addLayout(side_by_side)
