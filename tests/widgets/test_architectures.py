"""Every network that the expert options offer: chosen, trained and counted with, in a real window, by mouse and keys."""

from importlib.util import find_spec
from typing import get_args

import numpy as np
import pytest
from pictures import discs
from qtpy.QtCore import Qt

from napari_tally.core.metrics import evaluate
from napari_tally.settings import TrainingSettings, fields_of
from napari_tally.widgets._session import session
from napari_tally.widgets.predict import PredictWidget
from napari_tally.widgets.train import TrainWidget

CLEAR = {"steps": 30, "batch": 2, "learning_rate": 1e-2}
"""Enough for cells as clear as these."""
SMALL = {"depth": 2, "base_width": 8, "patch": 48}
needs_monai = pytest.mark.skipif(find_spec("monai") is None, reason="MONAI is not installed")
NETWORKS = [
    pytest.param("res-unet", SMALL, id="res-unet"),
    pytest.param("attention-unet", SMALL, id="attention-unet"),
    pytest.param("nnu-net", SMALL, id="nnu-net", marks=needs_monai),
    pytest.param("unet++", {"base_width": 8, "patch": 64}, id="unet++", marks=[needs_monai, pytest.mark.slow]),  # these know one depth
    pytest.param("swin-unetr", {"base_width": 12, "patch": 64}, id="swin-unetr", marks=[needs_monai, pytest.mark.slow]),
]
LABELS = discs((96, 128), (20, 20, 9), (20, 60, 10), (60, 25, 9), (58, 66, 11), (30, 100, 9), (70, 105, 9))
PICTURE = (200 * (LABELS > 0) + np.random.default_rng(0).normal(100, 5, LABELS.shape)).clip(0).astype(np.uint16)


def test_none_is_left_out():
    offered = set(get_args(fields_of(TrainingSettings)["architecture"][0])) - {"auto", "unet"}
    assert {network.values[0] for network in NETWORKS} == offered


@pytest.mark.parametrize(("architecture", "size"), NETWORKS)
def test_from_the_expert_options_to_the_count(architecture, size, make_napari_viewer, qtbot):
    def click(button) -> None:
        assert button.isEnabled()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    viewer = make_napari_viewer()
    viewer.add_image(PICTURE, name="wells")
    viewer.add_labels(LABELS, name="drawn")
    train, predict = TrainWidget(viewer), PredictWidget(viewer)
    viewer.window.add_dock_widget(train, name="2 Train")
    viewer.window.add_dock_widget(predict, name="3 Predict and count")
    click(train.expert_button)
    box = train.expert["architecture"].native
    qtbot.keyClicks(box, architecture)
    assert box.currentText() == architecture
    for name, value in (CLEAR | size).items():
        train.expert[name].value = value
    click(train.start_button)
    qtbot.waitUntil(lambda: not train._job.is_active)
    model = session(viewer).model
    assert model is not None, train.message.text()
    assert (model.settings.architecture, model.record["steps"]) == (architecture, CLEAR["steps"])

    click(predict.run_button)
    qtbot.waitUntil(lambda: predict.count_text.text() == "6 cells")
    assert evaluate([("wells", LABELS, viewer.layers["wells labels"].data)]).matchings[0].ap == 1  # at IoU 0.5
