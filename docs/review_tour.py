"""Review the cells that a shipped model found on a crowded image, in the real napari window, with mouse and keyboard events.

    python docs/review_tour.py docs/images    # on a virtual display: put xvfb-run -a -s "-screen 0 1280x800x24" before it

It writes the screenshots of docs/review.md; tests/test_review_tour.py takes the same way.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from napari import Viewer
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

import napari_tally as nt
from napari_tally.core.matching import match
from napari_tally.core.metrics import iou_matrix

sys.path.insert(0, str(Path(__file__).parent))
from tour import _SIZE, Shoot, _Hands, _open, take


def review_tour(viewer: Viewer, shoot: Shoot, looks: int = 20, patience: float = 120.0) -> tuple[int, int, int]:
    """Look at the first suspects and mend them as somebody would who knows the truth.

    Parameters
    ----------
    viewer : napari.Viewer
        Shown, and empty.
    shoot : callable
        Called with a name wherever the documentation wants a picture.
    looks : int
        How many suspects to look at.
    patience : float
        Seconds to wait for anything.

    Returns
    -------
    before, after, true : int
        Cells that are right (IoU 0.5) as they were found, after the review, and all true cells.
    """
    hands = _Hands(viewer, patience)
    viewer.window._qt_window.resize(*_SIZE)
    picture, truth = nt.simulate_nuclei(seed=2, n=110)
    viewer.add_image(picture, name="crowded nuclei")
    predict = _open(viewer, "3 Predict and count")
    predict.model_choice.load_button.menu().actions()[0].trigger()
    hands.wait(lambda: predict.run_button.isEnabled(), patience)
    predict.counting.value = replace(predict.counting.value, valley=0.5)  # too deep: touching nuclei are one, so that there is much to mend
    hands.click(predict.run_button)
    hands.wait(lambda: predict.count_text.text().split(" ")[0].isdigit() and predict.run_button.isEnabled(), patience)
    labels = viewer.layers["crowded nuclei labels"]
    before = _right(truth, labels.data)

    review = _open(viewer, "5 Review cells")
    hands.click(review.start_button)
    hands.wait(lambda: review.suspects.table.rowCount() > 0, patience)
    labels.opacity = 0.4  # the nuclei shine through
    hands.settle()
    shoot("suspects")
    wanted = {"split"}
    for _ in range(looks):
        cell = labels.selected_label
        keys, places = _remedy(labels.data, truth, cell)
        hands.key(keys)
        for number, place in enumerate(places):
            if number == 1 and keys == Qt.Key.Key_S and wanted:
                hands.settle()
                shoot(wanted.pop())
            hands.tap(place)
        _put_down(review, hands)
        if labels.selected_label == cell and keys != Qt.Key.Key_D:
            hands.key(Qt.Key.Key_N)
    hands.settle()
    shoot("mended")
    return before, _right(truth, labels.data), len(np.unique(truth)) - 1


def _remedy(labels: NDArray[np.integer], truth: NDArray[np.integer], cell: int) -> tuple[Qt.Key, list[NDArray[np.float64]]]:
    """Give the key to press, and where to click then."""
    inside = labels == cell
    shared = np.bincount(truth[inside], minlength=int(truth.max()) + 1)
    shared[0] = 0
    sizes = np.bincount(truth.ravel())
    held = np.flatnonzero(shared * 2 > sizes)
    if held.size > 1:
        return Qt.Key.Key_S, [_middle(inside & (truth == true)) for true in held[:2]]
    likest = int(shared.argmax())
    if shared[likest] * 2 <= inside.sum():
        return Qt.Key.Key_D, []
    lying = np.bincount(labels[truth == likest], minlength=int(labels.max()) + 1) * 2 > np.bincount(labels.ravel())
    pieces = [i for i in np.flatnonzero(lying) if i not in (0, cell)]
    if pieces:
        return Qt.Key.Key_J, [_middle(inside), _middle(labels == pieces[0])]
    return Qt.Key.Key_A, []


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give the pixel of a region that is nearest to its centroid."""
    pixels = np.argwhere(mask)
    return pixels[np.argmin(((pixels - pixels.mean(0)) ** 2).sum(1))].astype(float)


def _put_down(review: QWidget, hands: _Hands) -> None:
    """Put a tool down that could do nothing."""
    for button in review.tool_buttons.values():
        if button.isChecked():
            hands.click(button)


def _right(truth: NDArray[np.integer], labels: NDArray[np.integer]) -> int:
    return match(iou_matrix(truth, labels), 0.5).tp


def main(viewer: Viewer, shoot: Shoot) -> str:
    """Take the tour, and say what it was good for."""
    before, after, true = review_tour(viewer, shoot)
    return f"Right cells: {before} as found, {after} after the review, of {true}."


if __name__ == "__main__":
    take(main)
