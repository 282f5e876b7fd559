"""The whole path in the real window: the tour of the documentation, with a short training."""

import numpy as np
from tours import tour_of

import napari_tally as nt
from napari_tally.core.images import Image


def test_annotate_train_predict_and_count_with_mouse_and_keyboard(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    seen = []
    shown = tour_of("tour")(viewer, seen.append, minutes=0.15)
    assert seen == ["annotate", "region", "train", "helped", "count"]
    image = viewer.layers[0]
    drawn = viewer.layers[f"{image.name} cells"].data
    assert len(np.unique(drawn)) > 10  # the brush has really painted
    found = viewer.layers[f"{image.name} labels"]
    assert shown == len(np.unique(found.data)) - 1 == len(found.features)
    from napari_tally.widgets._session import session

    model = session(viewer).model
    assert model.record["steps"] >= 1
    picture = Image(image.data[None, None], image.name)
    assert np.array_equal(nt.predict(picture, model).labels, found.data)  # the window's result is that of Python, to the pixel
