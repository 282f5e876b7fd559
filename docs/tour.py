"""Drive the real napari window through annotate, train, predict and count, with mouse and keyboard events.

    python docs/tour.py docs/images          # on a virtual display: xvfb-run -a -s "-screen 0 1280x800x24" python docs/tour.py docs/images

It writes the screenshots of the documentation; tests/test_tour.py takes the same way in less time.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from napari import Viewer
from napari.layers import Layer
from qtpy.QtCore import QEvent, QEventLoop, QPoint, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget
from skimage.measure import regionprops

Shoot = Callable[[str], object]
_SIZE = (1280, 800)


def tour(viewer: Viewer, shoot: Shoot, minutes: float = 1.0, patience: float = 60.0) -> int:
    """Count cells as a new user would; give the number that the window shows.

    Parameters
    ----------
    viewer : napari.Viewer
        Shown, and empty.
    shoot : callable
        Called with a name wherever the documentation wants a picture.
    minutes : float
        Training time.
    patience : float
        Seconds to wait for anything else before giving up.
    """
    hands = _Hands(viewer, patience)
    viewer.window._qt_window.resize(*_SIZE)
    viewer.open_sample("napari-tally", "nuclei")
    image, truth = viewer.layers[0], viewer.layers.pop(1).data  # the user has no truth; here it guides the hand
    annotate = _open(viewer, "1 Annotate cells")
    hands.settle()
    viewer.reset_view()  # the dock has taken room from the canvas
    hands.settle()

    hands.click(annotate.start_button)
    height, width = truth.shape
    margin = 4
    for cell in regionprops(truth):
        if cell.centroid[1] > 0.6 * width - 12:
            continue  # we annotate the left part only
        hands.key(Qt.Key.Key_N)
        hands.paint(cell)
    hands.settle()
    shoot("annotate")
    hands.click(annotate.region_button)
    hands.drag([(margin, margin), (height / 2, width / 3), (height - margin, 0.6 * width - 14)])
    hands.click(annotate.check_button)
    hands.settle()
    shoot("region")

    train = _open(viewer, "2 Train")
    train.minutes["minutes"].value = minutes
    hands.click(train.start_button)
    hands.wait(lambda: train.progress.value() > 400, 60 * minutes + patience)  # where the start is kept, it ends early
    hands.settle()
    shoot("train")
    hands.wait(lambda: train.start_button.isVisible(), 60 * minutes + patience)
    hands.settle()
    shoot("helped")
    for layer in list(viewer.layers):
        if layer.name.endswith("preview"):
            viewer.layers.remove(layer)

    predict = _open(viewer, "3 Predict and count")
    hands.click(predict.run_button)
    hands.wait(lambda: predict.count_text.text().split(" ")[0].isdigit() and predict.run_button.isEnabled(), patience)
    for layer in viewer.layers:
        if layer.name in (f"{image.name} cells", f"{image.name} region"):
            layer.visible = False
    hands.settle()
    shoot("count")
    return int(predict.count_text.text().split()[0])


def _open(viewer: Viewer, name: str) -> QWidget:
    """Open a dock widget of ours, in front of the others."""
    dock, widget = viewer.window.add_plugin_dock_widget("napari-tally", name, tabify=True)
    dock.raise_()
    return widget


class _Hands:
    """Mouse and keyboard."""

    def __init__(self, viewer: Viewer, patience: float) -> None:
        self._viewer, self._patience = viewer, patience
        self._canvas = viewer.window._qt_viewer.canvas.native

    def settle(self, milliseconds: int = 300) -> None:
        """Let the window live and draw."""
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Let the window live until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"Waited {seconds:.0f} s in vain.")
            self.settle(20)

    def click(self, button: QWidget) -> None:
        """Click a button as soon as it can be clicked."""
        self.wait(lambda: button.isEnabled() and button.isVisible(), self._patience)
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        QApplication.processEvents()

    def key(self, key: Qt.Key) -> None:
        """Press a key on the canvas."""
        QTest.keyClick(self._canvas, key)
        QApplication.processEvents()

    def paint(self, cell: "regionprops") -> None:
        """Paint a cell with one stroke along its longer axis, the brush as wide as its shorter one."""
        labels = self._viewer.layers.selection.active
        labels.brush_size = max(2.0, 0.85 * cell.axis_minor_length)
        reach = max(0.5, (cell.axis_major_length - cell.axis_minor_length) / 2)
        along = np.array([np.cos(cell.orientation), np.sin(cell.orientation)])
        self.drag([np.array(cell.centroid) + t * reach * along for t in np.linspace(-1, 1, 5)])

    def drag(self, points: list) -> None:
        """Drag the mouse over points in pixels of the image."""
        first, *rest = map(self._at, points)
        QTest.mousePress(self._canvas, Qt.MouseButton.LeftButton, pos=first)
        for point in rest:
            where = QPointF(point)
            held = Qt.MouseButton.LeftButton
            moved = QMouseEvent(
                QEvent.Type.MouseMove, where, self._canvas.mapToGlobal(where), Qt.MouseButton.NoButton, held, Qt.KeyboardModifier.NoModifier
            )
            QApplication.sendEvent(self._canvas, moved)
            QApplication.processEvents()
        QTest.mouseRelease(self._canvas, Qt.MouseButton.LeftButton, pos=rest[-1])
        QApplication.processEvents()

    def tap(self, point: np.ndarray, layer: Layer | None = None) -> None:
        """Click on a pixel of an image."""
        QTest.mouseClick(self._canvas, Qt.MouseButton.LeftButton, pos=self._at(point, layer))
        QApplication.processEvents()

    def _at(self, point: np.ndarray, layer: Layer | None = None) -> QPoint:
        """Where on the canvas a pixel of an image is; of the lowest, where none is named."""
        world = np.array((layer or self._viewer.layers[0]).data_to_world(point))
        offset = (world - self._viewer.scene.camera.center[-2:]) * self._viewer.scene.camera.zoom
        return QPoint(round(self._canvas.width() / 2 + offset[1]), round(self._canvas.height() / 2 + offset[0]))


def take(tour: Callable[[Viewer, Shoot], str]) -> None:
    """Take a tour in a window of its own, put its screenshots into the folder that the command line names, and print what it gives."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    viewer = Viewer()
    viewer.window._qt_window.show()

    def shoot(name: str) -> None:
        viewer.screenshot(folder / f"{name}.png", canvas_only=False, flash=False)

    print(tour(viewer, shoot))
    viewer.close()


if __name__ == "__main__":
    take(lambda viewer, shoot: f"The window shows {tour(viewer, shoot)} cells.")
