"""Scores of pixels and pairs of pixels: by hand, against scikit-image, against counting every pair."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import picture
from scipy import ndimage as ndi
from skimage.metrics import adapted_rand_error, variation_of_information

from napari_tally.core.overlap import overlap
from napari_tally.core.pixel_metrics import Partition, confusion, partition, rand_error, warping_error

TRUTH = picture("""
    1122
    1122
    ....
    ??..
    """)
FOUND = picture("""
    1112
    1112
    5...
    5...
    """)
labels = arrays(np.int8, (5, 6), elements=st.integers(0, 4))


# ------------------------------------------------------------------ areas


def test_areas_by_hand():
    cells = confusion(overlap(TRUTH, FOUND))
    assert cells.counts.tolist() == [[5, 1], [0, 8]]  # two pixels are not annotated
    assert cells.iou.tolist() == [5 / 6, 8 / 9]
    assert cells.mean_iou == pytest.approx((5 / 6 + 8 / 9) / 2)
    assert cells.dice.tolist() == pytest.approx([10 / 11, 16 / 17])
    assert (cells + cells).counts.tolist() == [[10, 2], [0, 16]]


def test_three_classes():
    shared = overlap(np.array([0, 1, 2, 2, -1]), np.array([0, 2, 2, 1, 1]))
    classes = confusion(shared, shared.true_ids, shared.predicted_ids, classes=4)
    np.testing.assert_array_equal(classes.iou, [1, 0, 1 / 3, np.nan])  # the fourth is nowhere
    assert classes.mean_iou == pytest.approx(4 / 9)


# ------------------------------------------------------------------ pairs of pixels


def test_two_cells_taken_for_one():
    """By hand: 4 + 4 true pixels, all in one piece: 12 + 12 of 56 ordered pairs; entropies of 1 bit and 0."""
    truth = picture("1122")
    merged = partition(overlap(np.repeat(truth, 2, 0), np.ones((2, 4), int)))
    assert (merged.rand_split, merged.rand_merge) == (1, 24 / 56)
    assert merged.rand == pytest.approx(48 / 80)
    assert (merged.information, merged.information_split, merged.information_merge) == (0, 1, 0)
    broken = partition(overlap(np.ones((2, 4), int), np.repeat(truth, 2, 0)))
    assert (broken.rand_split, broken.rand_merge) == (24 / 56, 1)


def test_a_rim_too_thin_is_split_and_not_merged():
    """By hand: two cells of 9 pixels, of which the middle 3 are found; 18 pixels in two pieces of 3 and twelve of 1."""
    truth = picture("""
        111222
        111222
        111222
        """)
    found = picture("""
        .3..4.
        .3..4.
        .3..4.
        """)
    ours = partition(overlap(truth, found))
    assert (ours.rand_split, ours.rand_merge) == (12 / 144, 1)  # ordered pairs: 2 x 3 x 2 of 2 x 9 x 8
    assert ours.rand == pytest.approx(2 * 12 / (144 + 12))
    pieces = 12 / 18 * np.log2(18) + 2 * 3 / 18 * np.log2(6)  # bits of the prediction; those of the truth are 1
    assert (ours.information_split, ours.information_merge) == (pytest.approx(1 / pieces), pytest.approx(1))
    assert ours.information == pytest.approx(2 / (1 + pieces))
    shrunk = partition(overlap(truth, truth * (found > 0)))
    assert shrunk == ours


def test_the_better_of_two_predictions_scores_better():
    """Rims too thin by a pixel, and the two cells in one piece: as one piece, the background was worse than the merger."""
    truth = np.kron(np.array([[1, 2]]), np.ones((20, 20), int))
    thin, merged = truth.copy(), np.ones_like(truth)
    thin[:, [0, 19, 20, 39]] = thin[[0, -1]] = 0
    assert partition(overlap(truth, thin)).rand_merge == partition(overlap(truth, thin)).information_merge == 1
    assert partition(overlap(truth, thin)).rand > 0.75 > partition(overlap(truth, merged)).rand
    assert partition(overlap(truth, thin)).information > 0.4 > partition(overlap(truth, merged)).information == 0


def test_nothing_predicted():
    """All is split: 8 pixels in two cells of 4 hold 1 bit, and 8 pieces of one pixel 3 bits."""
    truth = np.repeat(picture("1122"), 2, 0)
    assert partition(overlap(truth, 0 * truth)) == Partition(
        0, 0, 1, pytest.approx(2 * 1 / (1 + 3)), pytest.approx(1 / 3), pytest.approx(1)
    )


def test_nothing_predicted_of_many_cells():
    """64 cells of 256 pixels: 6 bits, and 14 for the pixels; said in docs/cli.md."""
    truth = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((16, 16), int))
    assert partition(overlap(truth, 0 * truth)).information == pytest.approx(2 * 6 / (6 + 14))


def alone(truth, found):
    """Give the pieces within the true cells, each pixel where nothing is predicted with a number of its own: (truth, found)."""
    pieces = np.where(found > 0, found.astype(int), 10 + np.arange(found.size).reshape(found.shape))
    return np.where(truth > 0, truth.astype(int), 0), np.where(truth > 0, pieces, 0)


@given(labels, labels)
def test_rand_score_is_that_of_scikit_image(truth, found):
    truth[0, :2] = found[0, :2] = 1  # scikit-image divides by zero where no two pixels are in one piece
    error, precision, recall = adapted_rand_error(*alone(truth, found))
    ours = partition(overlap(truth, found))
    assert ours.rand == pytest.approx(1 - error)
    assert {round(ours.rand_merge, 9), round(ours.rand_split, 9)} == {round(precision, 9), round(recall, 9)}


@given(labels, labels)
def test_information_score_is_that_of_scikit_image(truth, found):
    truth[0, :2] = 1, 2
    ours = partition(overlap(truth, found))
    inside = truth > 0
    truth, found = (a[inside] for a in alone(truth, found))
    splits, merges = variation_of_information(truth, found)  # H(found | true), H(true | found)

    def entropy(a):
        share = np.unique(a, return_counts=True)[1] / a.size
        return -(share * np.log2(share)).sum()

    true, predicted = entropy(truth), entropy(found)
    assert ours.information == pytest.approx((true + predicted - splits - merges) / (true + predicted), abs=1e-9)
    assert ours.information_merge == pytest.approx(1 - merges / true, abs=1e-9)
    if predicted > 1e-9:
        assert ours.information_split == pytest.approx(1 - splits / predicted, abs=1e-9)


@given(arrays(np.int8, (3, 4), elements=st.integers(-1, 2)), arrays(np.int8, (3, 4), elements=st.integers(0, 2)))
def test_rand_error_counts_every_pair(truth, found):
    pixels = [(t, f) for t, f in zip(truth.ravel(), found.ravel(), strict=True) if t >= 0]
    wrong = [(a[0] == b[0]) != (a[1] == b[1]) for a, b in combinations(pixels, 2)]
    assert rand_error(overlap(truth, found)) == pytest.approx(np.mean(wrong) if wrong else 0)


@given(labels, st.permutations(range(1, 5)))
def test_the_same_pieces_under_other_numbers_are_perfect(truth, names):
    found = np.array([0, *names])[truth]
    ours = partition(overlap(truth, found))
    assert (ours.rand, ours.information) == (pytest.approx(1), pytest.approx(1))
    assert rand_error(overlap(truth, found)) == 0
    assert warping_error(truth, found) == 0


def test_nothing_true():
    nothing = np.zeros((3, 3), int)
    assert partition(overlap(nothing, nothing + 1)) == Partition(1, 1, 1, 1, 1, 1)
    assert rand_error(overlap(nothing - 1, nothing)) == 0


# ------------------------------------------------------------------ warping

CELL = picture("""
    ..........
    ..111111..
    ..111111..
    ..111111..
    ..........
    """)


def test_a_shifted_outline_is_forgiven():
    moved = picture("""
        ..........
        .1111.....
        .11111111.
        .111111...
        .111......
        """)
    assert (CELL != moved).sum() > 5
    assert warping_error(CELL, moved) == 0
    assert warping_error(moved, CELL) == 0


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (".......... ..11.111.. ..11.111.. ..11.111.. ..........", 1),  # the gap can grow from both sides, but one pixel must stay
        (".......... ..111111.. ..11.111.. ..111111.. ..........", 1),  # a hole
        (".......... ..111111.. ..111111.1 ..111111.. ..........", 1),  # a false cell of one pixel
        (".......... .......... .......... .......... ..........", 1),  # a missed cell shrinks to one pixel
    ],
    ids=["split", "hole", "false cell", "missed cell"],
)
def test_splits_holes_and_cells_too_many_or_too_few_are_not(found, wrong):
    assert warping_error(CELL, picture(found)) * CELL.size == wrong


def test_what_is_not_annotated_is_left_out():
    half = CELL.copy()
    half[:, 5:] = -1
    assert warping_error(half, np.where(half < 0, 3, half)) == 0


def test_a_merge_costs_the_gap():
    """Two cells with a gap; found as one. The gap can shrink to a line, but not vanish."""
    two = picture("........ .11..22. .11..22. .11..22. ........")
    one = (picture("........ .111111. .111111. .111111. ........") > 0).astype(int)
    assert warping_error(two, one) * two.size == 3


def apart(labels):
    """Give the cells without the pixels that have a pixel of another cell beside them."""
    highest = ndi.maximum_filter(np.maximum(labels, 0), 3, mode="nearest")
    lowest = ndi.minimum_filter(np.where(labels > 0, labels, 100), 3, mode="nearest")
    return (labels > 0) & (highest == labels) & (lowest == labels)


def pixel_by_pixel(truth, found):
    """The same in words as plain as can be: whether a pixel may change is worked out from the pictures around it."""
    wanted, known, mask = np.pad(apart(found), 1), np.pad(truth >= 0, 1), np.pad(apart(truth), 1)
    wrong = (mask != wanted) & known
    queue = [tuple(pixel) for pixel in np.argwhere(wrong).tolist()]
    while queue:
        y, x = queue.pop(0)
        around = mask[y - 1 : y + 2, x - 1 : x + 2].copy()
        around[1, 1] = False
        cells = ndi.label(around)[0]
        around[1, 1] = True
        _, grounds = ndi.label(~around, np.ones((3, 3)))
        if len({int(cells[at]) for at in ((0, 1), (1, 0), (1, 2), (2, 1))} - {0}) == 1 == grounds:
            mask[y, x], wrong[y, x] = wanted[y, x], False
            ring = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            queue += [n for n in ring if wrong[n] and n not in queue]
    return wrong.sum() / max(1, known.sum())


pictures = st.builds(np.kron, arrays(np.int8, (6, 7), elements=st.sampled_from([0, 0, 0, 1, 2, 3, -1])), st.just(np.ones((2, 3), np.int8)))


@settings(max_examples=60)
@given(pictures, pictures, arrays(np.bool_, (12, 21)))
def test_it_is_that_of_visiting_pixel_by_pixel(truth, found, changed):
    for other in (np.maximum(found, 0), np.where(changed, 0, np.maximum(truth, 0)), np.maximum(np.roll(truth, (1, 2), (0, 1)), 0)):
        assert warping_error(truth, other) == pixel_by_pixel(truth, other)  # to the last digit
