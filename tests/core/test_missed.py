"""What is left over in an image outside the predicted cells."""

import numpy as np
import pytest
from pictures import discs

from napari_tally.core import missed
from napari_tally.core.images import as_image
from napari_tally.core.missed import BLOCK, left_over, sum_over

CELLS = discs((60, 90), (20, 20, 7), (40, 70, 9))


def seen(labels) -> np.ndarray:
    """Left over of the two cells, of which some are predicted; counts in windows of 30 px."""
    image = as_image((100 + 1000 * (CELLS > 0)).astype(np.uint16))
    blocks = left_over(image, labels[None])
    assert blocks.shape == (1, 15, 23)
    return sum_over(blocks[0], np.array([0, 30, 60]), np.array([0, 44, 90]))


def test_a_missed_cell_is_left_over_and_a_found_one_is_not():
    nothing, one, both = (seen(np.where(np.isin(CELLS, ids), CELLS, 0)) for ids in ([], [1], [1, 2]))
    assert nothing[0, 0] > 10
    assert nothing[1, 1] > 10
    assert one[0, 0] < 0.2 * nothing[0, 0]
    assert one[1, 1] == nothing[1, 1]
    assert both.sum() < 0.2 * nothing.sum()


def test_exposure_does_not_matter_and_noise_little():
    def total(pixels):
        return left_over(as_image(pixels), np.zeros((1, 60, 90), int)).sum()

    image = 100 + 1000 * (CELLS > 0)
    assert total(image.astype(np.uint16)) == pytest.approx(total((7 * image).astype(np.uint16)), rel=1e-3)
    noise = np.random.default_rng(0).normal(500, 20, (60, 90)).astype(np.uint16)
    assert total(noise) < total(image.astype(np.uint16)) / 2


def test_strips_are_the_same_as_all_at_once(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 60000, (2, 61, 50), np.uint16)
    labels = np.stack([discs((61, 50), (30, 20, 9)), np.zeros((61, 50), int)])
    image = as_image(pixels, axes="ZYX")
    whole = left_over(image, labels)
    monkeypatch.setattr(missed, "_STRIP", 2 * BLOCK)
    np.testing.assert_allclose(left_over(image, labels), whole, rtol=1e-5)


def test_windows_share_out_all_blocks():
    blocks = np.random.default_rng(1).random((8, 11)).astype(np.float32)
    sums = sum_over(blocks, np.array([0, 9, 30]), np.array([0, 20, 31, 42]))
    assert sums.sum() == pytest.approx(blocks.sum())
    assert sums[0, 0] == pytest.approx(blocks[:2, :5].sum())


def test_labels_of_another_image():
    with pytest.raises(ValueError, match="Choose those of this image"):
        left_over(as_image(np.zeros((20, 20), np.uint8)), np.zeros((1, 10, 20), int))
