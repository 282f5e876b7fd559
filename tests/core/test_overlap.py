"""What true and predicted cells share: by hand, against counting with masks, and for as many cells as a slide has."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import picture

from napari_tally.core import overlap as overlap_file
from napari_tally.core.matching import match
from napari_tally.core.metrics import mistakes, panoptic_quality, seg
from napari_tally.core.overlap import overlap

labels = arrays(np.int8, (5, 6), elements=st.integers(-1, 4))


def test_by_hand():
    shared = overlap(
        picture("""
            11.??
            11.33
            """),
        picture("""
            .777.
            8877.
            """),
    )
    assert shared.true_ids.tolist() == [0, 1, 3]
    assert shared.predicted_ids.tolist() == [0, 7, 8]
    assert shared.table.toarray().tolist() == [[0, 2, 0], [1, 1, 2], [1, 1, 0]]  # two pixels are not annotated
    assert (shared.of_true.tolist(), shared.of_predicted.tolist()) == ([4, 2], [4, 2])
    assert shared.iou.toarray().tolist() == [[1 / 7, 2 / 4], [1 / 5, 0]]


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint64, np.int64])
def test_any_whole_numbers(kind):
    cells = np.array([[1, 1, 0]]).astype(kind)
    assert overlap(cells, cells).table.toarray().tolist() == [[1, 0], [0, 2]]


@given(labels, labels, st.integers(1, 40))
def test_every_mask_with_every_mask(truth, found, band):
    whole = overlap_file._BAND
    overlap_file._BAND = band  # seen in pieces, it is the same
    try:
        shared = overlap(truth, found)
    finally:
        overlap_file._BAND = whole
    found = np.maximum(found, 0)
    assert shared.true_ids.tolist() == sorted({0, *truth[truth > 0]})
    assert shared.predicted_ids.tolist() == sorted({0, *found[found > 0]})
    expected = [[((truth == t) & (found == p)).sum() for p in shared.predicted_ids] for t in shared.true_ids]
    assert shared.table.toarray().tolist() == expected
    assert (shared.table.data > 0).all()


def test_a_slide_needs_no_square_of_its_cells():
    """40,000 cells of 2 x 2 pixels, each found a pixel further to the right; a matrix of all pairs would take 13 GB."""
    cells = np.arange(1, 40_001).reshape(200, 200)
    truth = np.kron(cells, np.pad(np.ones((2, 2), int), ((0, 1), (0, 1))))
    found = np.roll(truth, 1, axis=1)
    tracemalloc.start()
    shared = overlap(truth, found)
    matched, missed = match(shared.iou, 0.3), match(shared.iou, 0.5)
    quality, covered, wrong = panoptic_quality(shared.iou), seg(shared), mistakes(truth, found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (matched.tp, missed.tp, quality[1], covered.max()) == (40_000, 0, 0, 0)  # each IoU is 2 of 6 pixels
    assert (wrong.splits, wrong.merges, wrong.misses) == (0, 0, 0)
    assert peak < 60e6
