"""A choice among layers."""

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image

from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import belong, is_source


def test_the_choice_follows_the_layers(qtbot):
    viewer = ViewerModel()
    combo = LayerCombo(viewer, is_source)
    qtbot.addWidget(combo)
    heard = []
    combo.changed.connect(heard.append)
    assert combo.layer is None
    a = viewer.add_image(np.zeros((5, 5)), name="a")
    viewer.add_labels(np.zeros((5, 5), int))
    b = viewer.add_image(np.zeros((5, 5)), name="b")
    assert combo.layer is a
    combo.layer = b
    b.name = "c"
    assert combo.currentText() == "c"
    viewer.layers.move(0, 3)
    assert combo.layer is b
    probability = Image(np.zeros((5, 5)))
    belong(probability, "probability", b)
    viewer.add_layer(probability)
    assert combo.layers == [b, a]
    viewer.layers.remove(b)
    viewer.layers.remove(a)
    assert combo.layer is None
    assert heard == [a, b, a, None]


def test_an_extra_entry_stands_for_no_layer(qtbot):
    viewer = ViewerModel()
    combo = LayerCombo(viewer, is_source, "all images")
    qtbot.addWidget(combo)
    a = viewer.add_image(np.zeros((5, 5)))
    assert combo.layer is None
    assert combo.currentText() == "all images"
    combo.layer = a
    assert combo.layer is a
