"""What is held out is not seen in training."""

from dataclasses import replace

import numpy as np
import pytest
from pictures import many, plane

from napari_tally.core.annotations import NOT_ANNOTATED
from napari_tally.core.validation import hold_out, plan_phases, to_judge_by, two_folds


def cells(some):
    return set(np.unique(some.labels[some.labels > 0]))


def test_of_three_planes_the_middle_one_is_held_out():
    planes = [many(9), many(2), many(5)]
    training, held_out = hold_out(planes, 10)
    assert held_out == [planes[2]]
    assert training == planes[:2]


def test_planes_of_one_stack_stay_together():
    a, b, c = (replace(many(n), image=image) for n, image in ((9, 0), (9, 0), (5, 1)))
    training, held_out = hold_out([a, b, c], 10)
    assert [plane.image for plane in training] == [0, 0, 1]
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


def test_large_planes_are_judged_by_their_annotated_middle():
    labels = np.full((1000, 1000), NOT_ANNOTATED, np.int32)
    labels[100:150, 30:] = 0
    (small,) = to_judge_by([plane(labels)])
    assert small.labels.shape == small.picture.shape[1:] == small.border.shape == (50, 512)
    assert (small.labels == 0).all()
    assert len(to_judge_by([many(n) for n in range(2, 30)])) == 5


def test_cells_that_a_window_cuts_judge_nothing_in_it():
    labels = np.zeros((20, 600), np.int32)
    labels[5:15, 30:60], labels[5:15, 100:110], labels[5:15, 545:560] = 1, 2, 3
    small, left = to_judge_by([plane(labels)])
    assert small.labels.shape == (20, 512)
    assert cells(small) == {1, 2}  # the window from 0 on holds more than the middle one
    assert cells(left) == {3}  # judged once, in what is left of the plane


def test_the_windows_that_judge_are_where_the_cells_are():
    labels = np.zeros((1500, 1500), np.int32)
    for n, (y, x) in enumerate(((20, 20), (20, 60), (60, 20), (1440, 1440), (1440, 1400), (800, 30)), start=1):
        labels[y : y + 18, x : x + 18] = n
    windows = to_judge_by([plane(labels)])
    assert [sorted(cells(window)) for window in windows] == [[1, 2, 3], [4, 5], [6]]  # those with most cells first, each cell once
    assert sum(int((window.labels >= 0).sum()) for window in windows) <= labels.size


def test_pictures_of_background_do_not_switch_judging_off():
    one, empty = many(12), [replace(plane(np.zeros((40, 200), np.int32)), image=n) for n in (50, 51, 52)]
    for n in range(4):
        held_out = hold_out([one, *empty[:n]], 10)[1]
        assert cells(held_out[0])
        assert len(plan_phases([one, *empty[:n]], 10, from_trained=True)) == 3


# --- two folds, and whether training helped --------------------------------------------------------


def named(n, name):
    return replace(many(n), image=int(name), name=name)


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


def test_planes_of_one_stack_are_cut_in_one_place():
    """Their slices show the same cells, wherever each was annotated."""
    drawn = many(20).labels
    columns = np.arange(200)
    slices = [plane(np.where(known, drawn, NOT_ANNOTATED).astype(np.int32)) for known in (columns < 140, columns >= 60)]
    slices = [replace(one, image=0, name=f"slice {i}") for i, one in enumerate(slices)]
    a, b = two_folds(slices, 10)
    assert [np.flatnonzero((one.labels >= 0)[0])[[0, -1]].tolist() for one in a] == [[0, 89], [60, 89]]
    assert [np.flatnonzero((one.labels >= 0)[0])[[0, -1]].tolist() for one in b] == [[100, 139], [100, 199]]


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
    one, two, last = plan_phases(planes, 10, from_trained=True, seen=[7])
    assert "7" not in names(one.held_out) + names(two.held_out)
    assert "7" in names(one.training)
    assert "7" in names(two.training)
    (everything,) = plan_phases(planes, 10, from_trained=True, seen=[plane.image for plane in planes])
    assert (len(everything.training), everything.held_out) == (5, [])


def test_from_nothing_one_image_is_held_out_for_three_quarters_of_the_time():
    planes = [named(n, str(n)) for n in (9, 8, 5)]
    one, last = plan_phases(planes, 10, from_trained=False)
    assert (names(one.training), names(one.held_out), one.end) == (["5", "9"], ["8"], 0.75)
    assert (names(last.training), last.begin) == (["5", "8", "9"], "go on")
