"""Mending cells, drawn before and after."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import discs, picture

from napari_tally.core.edit import cells_inside, delete_cells, merge_cells, next_id, split_by_line, split_by_points, take_over


def after(labels, change):
    """Apply a change to a copy; taking it back must give the original."""
    changed = labels.copy()
    change.apply(changed)
    back = changed.copy()
    change.undo(back)
    np.testing.assert_array_equal(back, labels)
    assert (change.old != change.new).all()  # small: no pixel that stays
    return changed


TWO = picture("""
    ..........
    .111..222.
    .1111222..
    .111..222.
    ..........
    ....3.....
    """)


def test_a_deleted_cell_leaves_background():
    change = delete_cells(TWO, [2, 99])
    assert change.ids == [2]
    wanted = picture("""
        ..........
        .111......
        .1111.....
        .111......
        ..........
        ....3.....
        """)
    np.testing.assert_array_equal(after(TWO, change), wanted)


def test_what_is_not_annotated_is_no_cell_to_delete():
    labels = picture("11??..")
    np.testing.assert_array_equal(after(labels, delete_cells(labels, [-1, 0, 1])), picture("..??.."))


def test_touching_cells_are_merged_into_the_first():
    for first, second in ((1, 2), (2, 1)):
        merged = after(TWO, merge_cells(TWO, first, second))
        np.testing.assert_array_equal(merged, np.where(np.isin(TWO, [1, 2]), first, TWO))


def test_a_gap_between_merged_cells_is_closed():
    apart = picture("""
        ...........
        .1111.2222.
        .1111.2222.
        .1111.2222.
        .1111.2222.
        .........3.
        """)
    merged = after(apart, merge_cells(apart, 1, 2))
    wanted = picture("""
        ...........
        .1111.1111.
        .111111111.
        .111111111.
        .1111.1111.
        .........3.
        """)
    assert (merged[wanted == 1] == 1).all()
    assert ((merged == 1) <= (apart > 0) | (np.indices(apart.shape)[1] == 5)).all()  # nothing grows outwards
    assert merged[5, 9] == 3


def test_what_cannot_be_merged_is_refused_in_words():
    with pytest.raises(ValueError, match="same cell"):
        merge_cells(TWO, 1, 1)
    with pytest.raises(ValueError, match="no cell at one of the points"):
        merge_cells(TWO, 1, 0)
    with pytest.raises(ValueError, match="5 px apart"):
        merge_cells(picture("111.....222"), 1, 2)


def test_a_line_cuts_a_cell_and_the_larger_part_keeps_the_id():
    labels = picture("""
        ..........
        .55555555.
        .55555555.
        .55555555.
        ........7.
        """)
    cut = after(labels, split_by_line(labels, (0, 6.0), (4, 6.0)))
    parts = cut == 5, cut == 8
    assert parts[0][1:4, 1:6].all()
    assert parts[1][1:4, 7:9].all()
    assert (parts[0] | parts[1])[1:4, 1:9].all()  # not a pixel is lost
    assert cut[4, 8] == 7


def test_a_line_that_ends_in_the_cell_is_drawn_on():
    labels = discs((40, 40), (20, 20, 12))
    cut = after(labels, split_by_line(labels, (16, 14), (24, 14), new_id=70))
    assert set(np.unique(cut)) == {0, 1, 70}
    assert (cut == 1).sum() > (cut == 70).sum() > 80
    assert ((cut > 0) == (labels > 0)).all()
    np.testing.assert_array_equal(np.unique(np.nonzero(cut == 70)[1] // 16), [0])  # all of it is on the left


def test_only_the_cell_under_most_of_the_line_is_cut():
    labels = picture("""
        11111111
        11111111
        11111111
        11111111
        11111111
        22222222
        22222222
        """)
    cut = after(labels, split_by_line(labels, (-1, 4), (5, 4)))
    assert set(np.unique(cut[:5])) == {1, 3}
    assert (cut[5:] == 2).all()


def test_a_line_across_a_horseshoe_may_cut_off_both_arms():
    labels = picture("""
        .111...111.
        .111...111.
        .111...111.
        .111...111.
        .111111111.
        .111111111.
        """)
    cut = after(labels, split_by_line(labels, (2, -1), (2, 12)))
    assert set(np.unique(cut)) == {0, 1, 2, 3}
    assert cut[5, 5] == 1


@pytest.mark.parametrize(("start", "end", "reason"), [((0, 0), (0, 9), "crosses no cell"), ((2, 2), (2, 2), "crosses no cell")])
def test_a_line_that_cuts_nothing_is_refused_in_words(start, end, reason):
    with pytest.raises(ValueError, match=reason):
        split_by_line(TWO, start, end)


def test_a_ring_stays_in_one_piece():
    labels = discs((41, 41), (20, 20, 15))
    labels[discs((41, 41), (20, 20, 8)) > 0] = 0
    with pytest.raises(ValueError, match="one piece"):
        split_by_line(labels, (20, 2), (20, 11))


def test_two_points_split_at_the_waist():
    labels = discs((30, 50), (15, 14, 9), (15, 31, 10))
    labels[labels > 0] = 4
    halves = after(labels, split_by_points(labels, (15, 12), (15, 33)))
    assert set(np.unique(halves)) == {0, 4, 5}
    np.testing.assert_allclose(np.mean(np.nonzero(halves == 4)[1]), 31, atol=1)  # the larger keeps the id
    np.testing.assert_allclose(np.mean(np.nonzero(halves == 5)[1]), 14, atol=1)


def test_the_probability_draws_the_border_where_the_shape_says_nothing():
    labels = np.zeros((20, 60), np.int32)
    labels[2:18, 2:58] = 1
    inside = np.ones(labels.shape)
    inside[:, 16] = 0.2
    halves = after(labels, split_by_points(labels, (10, 8), (10, 40), inside, new_id=9))
    assert (halves[2:18, 2:15] == 9).all()
    assert (halves[2:18, 18:58] == 1).all()


def test_points_that_split_nothing_are_refused_in_words():
    with pytest.raises(ValueError, match="in the cell that is two"):
        split_by_points(TWO, (2, 2), (2, 7))
    with pytest.raises(ValueError, match="in the cell that is two"):
        split_by_points(TWO, (0, 0), (0, 1))
    with pytest.raises(ValueError, match="in the cell that is two"):
        split_by_points(TWO, (-5, 2), (2, 2))
    with pytest.raises(ValueError, match="same pixel"):
        split_by_points(TWO, (2, 2), (2.2, 1.9))


def test_a_polygon_holds_the_cells_whose_centroid_is_inside():
    labels = discs((40, 40), (10, 10, 4), (10, 30, 4), (30, 20, 4))
    outline = np.array([(4, 4), (4, 31), (16, 31), (16, 4)])
    assert cells_inside(labels, outline) == [1, 2]
    assert cells_inside(labels, outline - 30) == []
    assert cells_inside(labels, np.array([(0, 0), (20, 9.4), (0, 9.4)])) == []  # reaches into a cell, but not to its middle


@given(st.integers(0, 2**32 - 1))
def test_splits_keep_every_pixel_and_every_other_cell(seed):
    rng = np.random.default_rng(seed)
    labels = discs((40, 50), *((*rng.uniform(5, 35, 2), rng.uniform(3, 9)) for _ in range(6)))
    before = labels.copy()
    try:
        change = split_by_line(labels, rng.uniform(0, 40, 2), rng.uniform(0, 50, 2))
    except ValueError:
        return
    np.testing.assert_array_equal(labels, before)  # a pure function
    cut = after(labels, change)
    assert ((cut > 0) == (labels > 0)).all()
    assert np.unique(change.old).size == 1
    assert change.new.min() >= next_id(labels)
    assert change.new.size <= (cut == change.old[0]).sum() * np.unique(change.new).size  # the largest part keeps the id


def test_the_next_id_is_new():
    assert next_id(TWO) == 4
    assert next_id(picture("??..")) == 1


def test_a_change_of_a_plane_is_one_of_the_stack():
    stack = np.stack([np.zeros_like(TWO), TWO])
    changed = after(stack, delete_cells(stack[1], [1]).on_plane((1,)))
    assert not changed[0].any()
    np.testing.assert_array_equal(np.unique(changed[1]), [0, 2, 3])


def test_corrected_cells_replace_what_the_annotation_held_in_the_window():
    annotation = picture("""
        11.......
        11.222...
        ..3222..4
        """)
    corrected = picture("""
        ....55...
        ....555..
        .....77..
        """)
    taken, ids = take_over(annotation, corrected, (slice(0, 3), slice(2, 7)))
    wanted = picture("""
        11..55...
        11..555..
        .....66.4
        """)
    np.testing.assert_array_equal(taken, wanted)
    assert list(ids) == [5, 6]


def test_a_cell_that_was_annotated_already_keeps_its_id():
    annotation = picture("""
        .1111..2
        .1111..2
        """)
    corrected = picture("""
        .99999.3
        .99999..
        """)
    taken, ids = take_over(annotation, corrected, (slice(0, 2), slice(0, 4)))
    np.testing.assert_array_equal(
        taken,
        picture("""
        .11111.2
        .11111.2
        """),
    )
    assert list(ids) == [1]


def test_ids_may_be_as_high_as_they_like():
    """Nothing is counted up to the highest: 2**40 would not fit into memory."""
    high = 2**40
    labels = np.where(TWO > 0, TWO.astype(np.int64) + high, 0)
    ys, xs = np.nonzero(TWO == 1)
    cut = split_by_line(labels, (ys.min() - 1, xs.mean()), (ys.max() + 1, xs.mean()))
    assert set(cut.ids) == {high + 1, next_id(labels)}
    taken, ids = take_over(labels, labels, (slice(0, labels.shape[0]), slice(0, labels.shape[1])))
    np.testing.assert_array_equal(taken, labels)
    assert ids.tolist() == np.unique(labels[labels > 0]).tolist()
