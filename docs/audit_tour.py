"""Check a count by hand in the real napari window, with mouse and keyboard events.

    python docs/audit_tour.py docs/images     # on a virtual display: put xvfb-run -a -s "-screen 0 1280x800x24" before it

It writes the screenshots of docs/how_sure_is_the_count.md; tests/test_audit_tour.py takes the same way. The images are of three dishes:
one as the shipped model likes it, one crowded, and one so noisy that many nuclei are missed.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from napari import Viewer
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog
from skimage.measure import regionprops

import napari_tally as nt

sys.path.insert(0, str(Path(__file__).parent))
from tour import _SIZE, Shoot, _Hands, _open, take


def audit_tour(viewer: Viewer, shoot: Shoot, file: Path, windows: int = 24, patience: float = 180.0) -> tuple[int, int]:
    """Count three images, and check the count as somebody would who knows the truth.

    Parameters
    ----------
    viewer : napari.Viewer
        Shown, and empty.
    shoot : callable
        Called with a name wherever the documentation wants a picture.
    file : Path
        Where to keep the audit.
    windows : int
        How many windows to count by hand.
    patience : float
        Seconds to wait for anything.

    Returns
    -------
    clicks, true : int
        How often a cell was clicked, and how many cells there are in all images.
    """
    hands = _Hands(viewer, patience)
    viewer.window._qt_window.resize(*_SIZE)
    truth = _three_dishes(viewer)
    predict = _open(viewer, "3 Predict and count")
    predict.model_choice.load_button.menu().actions()[0].trigger()
    predict.image_choice.setCurrentText("All images")
    hands.click(predict.run_button)
    hands.wait(lambda: all(f"{name} labels" in viewer.layers for name in truth) and predict.run_button.isEnabled(), patience)

    check = _open(viewer, "4 Check the count")
    check.settings["windows"].value = windows
    hands.click(check.start_button)
    dialog = check.findChild(QFileDialog)
    dialog.setDirectory(str(file.parent))
    dialog.selectFile(file.name)
    dialog.accept()
    hands.wait(lambda: check._frame.is_shown, patience)
    clicks = 0
    for number in range(windows):
        window = check._frame.window
        hands.settle()
        inside = truth[window.image][window.holds(truth[window.image])]
        for place in inside:
            hands.tap(place, viewer.layers[window.image])
        clicks += len(inside)
        if number == 7:
            hands.settle()
            shoot("check")
        hands.key(Qt.Key.Key_N if len(inside) else Qt.Key.Key_0)
    check.result.plot_button.click()
    hands.settle()
    shoot("checked")
    return clicks, sum(map(len, truth.values()))


def _three_dishes(viewer: Viewer) -> dict[str, NDArray[np.float64]]:
    """Open three images; give the middles of their cells, (n, 2) in pixels."""
    truth = {}
    for name, seed, n, noise in (("control", 1, 90, 0.0), ("crowded", 2, 130, 0.0), ("dim", 3, 90, 0.5)):
        picture, labels = nt.simulate_nuclei(seed=seed, n=n, shape=(320, 400))
        spoiled = picture * (1 - noise) + np.random.default_rng(seed).normal(0, noise * picture.std(), picture.shape)
        viewer.add_image(spoiled.astype(np.float32), name=name)
        truth[name] = np.array([cell.centroid for cell in regionprops(labels)])
    return truth


def main(viewer: Viewer, shoot: Shoot) -> str:
    """Take the tour, and say how much work it was."""
    with TemporaryDirectory() as kept:
        clicks, true = audit_tour(viewer, shoot, Path(kept) / "audit.json")
    return f"{clicks} clicks; there are {true} cells."


if __name__ == "__main__":
    take(main)
