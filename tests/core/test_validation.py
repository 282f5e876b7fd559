"""What is held out is not seen in training, and the score is honest."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import discs, picture

from napari_tally.core.annotations import NOT_ANNOTATED
from napari_tally.core.events import run_to_end
from napari_tally.core.samples import Plane
from napari_tally.core.unet import UNet
from napari_tally.core.validation import (
    Comparison,
    Score,
    fit_counting,
    hold_out,
    judge,
    labels_of,
    plan_phases,
    score,
    to_judge_by,
    two_folds,
)
from napari_tally.settings import CountingSettings

ANY_SIZE = CountingSettings(min_area=0, smoothing=0)


def plane(labels, name="a"):
    return Plane(name, name, np.maximum(labels, 0)[None].astype(np.float32), labels, np.zeros(labels.shape, np.float32))


def many(n, height=40, width=200):
    """A row of n cells."""
    return plane(discs((height, width), *((height / 2, x, 4) for x in np.linspace(8, width - 8, n))), f"{n} cells")


def cells(some):
    return set(np.unique(some.labels[some.labels > 0]))


def test_of_three_planes_the_middle_one_is_held_out():
    planes = [many(9), many(2), many(5)]
    training, held_out = hold_out(planes, 10)
    assert held_out == [planes[2]]
    assert training == planes[:2]


def test_planes_of_one_stack_stay_together():
    a, b, c = (replace(many(n), image=image) for n, image in ((9, "stack"), (9, "stack"), (5, "single")))
    training, held_out = hold_out([a, b, c], 10)
    assert [plane.image for plane in training] == ["stack", "stack", "single"]
    for part, other in zip(training[:2], held_out, strict=True):  # the same block of every plane
        np.testing.assert_array_equal(np.flatnonzero((part.labels >= 0)[0]), np.arange(140))
        np.testing.assert_array_equal(np.flatnonzero((other.labels >= 0)[0]), np.arange(150, 200))


def test_an_empty_plane_judges_nothing():
    empty = plane(np.zeros((40, 200), np.int32))
    training, held_out = hold_out([empty, many(5), empty, empty], 10)
    assert held_out == []
    assert len(training) == 4


def test_of_one_plane_a_block_behind_a_guard_band():
    (training,), (held_out,) = hold_out([many(20)], guard=10)
    known, judged = training.labels >= 0, held_out.labels >= 0
    np.testing.assert_array_equal(np.flatnonzero(judged[0]), np.arange(150, 200))
    np.testing.assert_array_equal(np.flatnonzero(known[0]), np.arange(140))
    assert len(cells(training)) >= 4
    assert not cells(training) & cells(held_out)
    np.testing.assert_array_equal(training.picture, held_out.picture)  # the pixels stay, only labels go


def test_the_guard_leaves_most_of_a_small_plane():
    (training,), _ = hold_out([many(20)], guard=107)
    assert (training.labels[0] >= 0).sum() == 150 - 200 // 8


def test_too_few_cells_to_hold_out_any():
    one = many(6)
    assert hold_out([one], 10) == ([one], [])
    two = [many(3), many(4)]
    assert hold_out(two, 10) == (two, [])


def test_cells_on_the_cut_belong_to_neither_side():
    drawn = many(20)
    (training,), (held_out,) = hold_out([drawn], guard=10)
    for part in (training, held_out):
        for cell in cells(part):
            assert ((part.labels == cell) == (drawn.labels == cell)).all()  # whole, or not at all


def test_only_what_is_annotated_is_cut():
    labels = np.full((40, 800), NOT_ANNOTATED, np.int32)
    labels[:, :200] = many(20).labels
    _, (held_out,) = hold_out([plane(labels)], 10)
    np.testing.assert_array_equal(np.flatnonzero((held_out.labels >= 0)[0]), np.arange(150, 200))


def test_tall_planes_are_cut_across():
    tall = many(20)
    _, (held_out,) = hold_out([plane(tall.labels.T.copy())], 10)
    np.testing.assert_array_equal(np.flatnonzero((held_out.labels >= 0)[:, 0]), np.arange(150, 200))


@pytest.fixture(scope="module")
def mirror():
    """A real network, its weights set by hand: it says "cell" where the picture is 1 and "background" where it is 0."""
    network = UNet(classes=3, depth=1, base_width=1, batch_norm=False).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for convolution in (network.down[0][0], network.down[0][2], network.merge[0][0], network.merge[0][2]):
            convolution.weight[0, 0, 1, 1] = 1  # passes on what it sees, along the skip
        network.head.weight[:, 0, 0, 0] = torch.tensor([-100.0, 100, 0])
        network.head.bias[:] = torch.tensor([50.0, -50, -1000])
    return network


def scored(network, found, truth):
    shown = replace(plane(truth), picture=(found > 0)[None].astype(np.float32))
    return score([judge(network, [shown])], [ANY_SIZE])


def test_score_by_hand(mirror):
    truth = picture("11..22..33\n11..22..33")
    assert scored(mirror, truth, truth).f1 == 1
    found = scored(mirror, picture("11...2...3\n11...2...3"), truth)
    assert (found.f1, found.true_count, found.predicted_count) == (1, 3, 3)  # half a cell is IoU 0.5
    found = scored(mirror, picture("11........\n11......3."), truth)
    assert (found.f1, found.true_count, found.predicted_count) == (2 * 1 / (2 + 3), 3, 2)


def test_what_lies_where_nothing_is_annotated_does_not_count(mirror):
    truth = picture("11..??????\n11..??????")
    loss = scored(mirror, truth * (truth > 0), truth).loss
    assert scored(mirror, picture("11...22.33\n11...22.33"), truth) == Score(loss, 1, (1,) * 4, 1, 1)
    mostly_outside = scored(mirror, picture("11.2222222\n11.2222222"), truth)
    assert (mostly_outside.f1, mostly_outside.predicted_count) == (1, 1)


def test_loss_is_the_plain_cross_entropy(mirror):
    truth = picture("1111\n1111\n1111")
    assert scored(mirror, truth, truth).loss == 0
    half = scored(mirror, picture("1111\n1111\n...."), truth)
    np.testing.assert_allclose(half.loss, -np.log(1e-7) / 3, rtol=1e-5)  # a sure error counts as p = 1e-7


def test_labels_of_a_plane(mirror):
    drawn = plane(picture("11..1\n11..1"))
    np.testing.assert_array_equal(labels_of(mirror, drawn, ANY_SIZE), picture("11..2\n11..2"))


def grid(rows, speck=False):
    """Six cells of 3x3 pixels a row; if wished, a speck beside each."""
    drawn = np.zeros((6 * rows, 36), np.int32)
    for i in range(6 * rows):
        y, x = 6 * (i // 6) + 1, 6 * (i % 6) + 1
        drawn[y : y + 3, x : x + 3] = i + 1
        drawn[y + 3, x + 4] = 7000 * speck
    return drawn


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_thresholds_are_fitted_to_what_is_held_out(mirror, scale):
    truth, found = grid(2), grid(2, speck=True)
    shown = replace(plane(truth), picture=(found > 0)[None].astype(np.float32))
    judged = judge(mirror, [shown], scale)
    assert score([judged], [ANY_SIZE]).predicted_count == 24
    better, of_others = run_to_end(fit_counting([judged], ANY_SIZE))
    assert of_others == ANY_SIZE  # there is no other fold
    assert better.min_area == int(9 / scale**2 / 2)  # in image pixels
    after = score([judged], [better])
    assert (after.f1, after.predicted_count) == (1, 12)
    np.testing.assert_array_equal(labels_of(mirror, shown, better, scale), truth)


def test_a_few_cells_change_no_threshold(mirror):
    assert run_to_end(fit_counting([judge(mirror, [plane(grid(1))])], ANY_SIZE))[0] == ANY_SIZE


def test_thresholds_nearly_as_good_do_not_replace_those_given(mirror):
    given = replace(ANY_SIZE, seed_threshold=0.33)
    assert run_to_end(fit_counting([judge(mirror, [plane(grid(2))])], given))[0].seed_threshold == 0.33


def test_large_planes_are_judged_by_their_annotated_middle():
    labels = np.full((1000, 1000), NOT_ANNOTATED, np.int32)
    labels[100:150, 30:] = 0
    (small,) = to_judge_by([plane(labels)])
    assert small.labels.shape == small.picture.shape[1:] == small.border.shape == (50, 512)
    assert (small.labels == 0).all()
    assert len(to_judge_by([many(n) for n in range(2, 30)])) == 5


# --- two folds, and whether training helped --------------------------------------------------------


def named(n, name):
    return replace(many(n), image=name, name=name)


def test_four_images_make_two_folds_with_as_many_cells():
    planes = [named(n, str(n)) for n in (9, 8, 5, 3)]
    a, b = two_folds(planes, 10)
    assert ([plane.name for plane in a], [plane.name for plane in b]) == (["9", "3"], ["8", "5"])


@pytest.mark.parametrize("n", [1, 3])
def test_of_few_images_each_is_halved_behind_a_guard_band(n):
    planes = [named(20, str(i)) for i in range(n)]
    for whole, left, right in zip(planes, *two_folds(planes, guard=10), strict=True):
        np.testing.assert_array_equal(np.flatnonzero(left.labels[0] >= 0), np.arange(90))
        np.testing.assert_array_equal(np.flatnonzero(right.labels[0] >= 0), np.arange(100, 200))
        assert cells(left) | cells(right) < cells(whole)
        assert not cells(left) & cells(right)


def test_too_few_cells_for_two_folds():
    assert two_folds([many(5)], 10) == ([], [])


def names(some):
    return sorted(plane.name for plane in some)


def test_from_a_trained_model_every_image_judges_and_every_image_is_learned():
    planes = [named(n, str(n)) for n in (9, 8, 5, 3)]
    one, two, last = plan_phases(planes, 10, from_trained=True)
    assert (names(one.training), names(one.held_out)) == (names(two.held_out), names(two.training)) == (["3", "9"], ["5", "8"])
    assert (names(last.training), last.held_out, last.begin, last.end) == (["3", "5", "8", "9"], [], "average", 1.0)


def test_images_that_the_start_has_seen_do_not_judge():
    planes = [named(n, str(n)) for n in (9, 8, 5, 3, 7)]
    one, two, last = plan_phases(planes, 10, from_trained=True, seen=["7"])
    assert "7" not in names(one.held_out) + names(two.held_out)
    assert "7" in names(one.training)
    assert "7" in names(two.training)
    (everything,) = plan_phases(planes, 10, from_trained=True, seen=[plane.name for plane in planes])
    assert (len(everything.training), everything.held_out) == (5, [])


def test_from_nothing_one_image_is_held_out_for_three_quarters_of_the_time():
    planes = [named(n, str(n)) for n in (9, 8, 5)]
    one, last = plan_phases(planes, 10, from_trained=False)
    assert (names(one.training), names(one.held_out), one.end) == (["5", "9"], ["8"], 0.75)
    assert (names(last.training), last.begin) == (["5", "8", "9"], "go on")


def test_each_fold_gets_the_thresholds_that_fit_the_other(mirror):
    def fold(speck):
        truth, found = grid(2), grid(2, speck=speck)
        return judge(mirror, [replace(plane(truth), picture=(found > 0)[None].astype(np.float32))])

    large = judge(mirror, [plane(np.kron(grid(2), np.ones((3, 3), np.int32)))])  # cells of 81 px
    both, for_specks, for_large = run_to_end(fit_counting([fold(speck=True), large], ANY_SIZE))
    assert (both.min_area, for_specks.min_area, for_large.min_area) == (4, 40, 4)


def a_score(ap, count=10):
    return Score(0.1, ap, (ap,) * 4, 10, count)


@pytest.mark.parametrize(("before", "after", "helped"), [(0.5, 0.6, True), (0.5, 0.5, True), (0.6, 0.5, False)])
def test_did_it_help(before, after, helped):
    comparison = Comparison(7, a_score(before), a_score(after, 8))
    assert comparison.helped is helped
    assert ("worse" in comparison.verdict) is not helped
    assert "10 held-out cells" in comparison.verdict
    assert comparison.rows()[:3] == [
        ("Agreement F1", f"{before:.2f}", f"{after:.2f}"),
        ("Average precision", f"{before:.2f}", f"{after:.2f}"),
        ("Counted, of 10", "10 (+0%)", "8 (-20%)"),
    ]
