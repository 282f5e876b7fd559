"""The review in the real window, from a shipped model to mended cells: the tour of the documentation, with fewer looks."""

import numpy as np
from tours import tour_of


def test_whoever_follows_the_list_mends_cells_with_mouse_and_keyboard(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    seen = {}

    def shoot(name):
        seen[name] = viewer.layers["crowded nuclei labels"].data.copy()

    before, after, true = tour_of("review_tour")(viewer, shoot, looks=14)
    assert list(seen) == ["suspects", "split", "mended"]
    assert before < after <= true
    labels = viewer.layers["crowded nuclei labels"]
    found = set(np.unique(labels.data)) - {0}
    assert set(labels.features["index"]) == found
    assert labels.metadata["napari_tally"]["corrected"]
    for _ in range(20):
        labels.undo()
    np.testing.assert_array_equal(labels.data, seen["suspects"])
