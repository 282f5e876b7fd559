"""The list of cells to look at, while they are mended."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import discs

from napari_tally.core.edit import delete_cells, merge_cells, split_by_line
from napari_tally.core.events import run_to_end
from napari_tally.core.review import ReviewList
from napari_tally.core.suspects import measure_planes, rank_suspects
from napari_tally.settings import CountingSettings

SHAPE = (60, 80)


def random_cells(rng, n=14):
    return discs(SHAPE, *((*rng.uniform(0, 80, 2), rng.uniform(3, 9)) for _ in range(n)))


def random_probabilities(rng):
    return rng.dirichlet([1, 2, 1], SHAPE).transpose(2, 0, 1).astype(np.float32)[None]


def listed(labels, probabilities=None, settings=None):
    return run_to_end(ReviewList(labels, probabilities, settings).measure())


@given(st.integers(0, 2**32 - 1))
def test_after_any_change_it_is_the_list_of_the_changed_image(seed):
    rng = np.random.default_rng(seed)
    labels, probabilities, settings = random_cells(rng), random_probabilities(rng), CountingSettings(smoothing=1)
    review = listed(labels, probabilities, settings)
    for _ in range(3):
        y, x, r = rng.integers(0, 60), rng.integers(0, 80), rng.integers(1, 12)
        labels[y : y + r, x : x + r] = rng.choice([0, labels.max() + 1, labels[y, x], -1])
        review.update(labels)
    wanted = rank_suspects(measure_planes(probabilities, labels, settings))
    by = ["plane", "label"]
    got = review.cells.drop(columns="accepted").sort_values(by, ignore_index=True)
    pd.testing.assert_frame_equal(got, wanted.sort_values(by, ignore_index=True), atol=1e-4, rtol=1e-4)


def test_nothing_is_measured_where_nothing_has_changed(rng):
    labels = random_cells(rng)
    review = listed(labels)
    before = review.cells
    assert not review.update(labels)
    assert review.cells is before


def test_an_accepted_cell_is_accepted_until_it_changes_and_again_when_that_is_undone():
    labels = discs(SHAPE, (20, 20, 8), (20, 50, 8))
    review = listed(labels)

    def accepted():
        return sorted(review.cells.query("accepted")["label"])

    review.accept(0, 2)
    assert accepted() == [2]
    change = split_by_line(labels, (10, 48), (30, 48))
    change.apply(labels)
    assert review.update(labels)
    assert accepted() == []
    assert sorted(review.cells["label"]) == [1, 2, 3]
    change.undo(labels)
    review.update(labels)
    assert accepted() == [2]
    review.accept(0, 2, yes=False)
    assert accepted() == []


def test_rows_are_found_and_ids_are_never_given_twice():
    labels = discs(SHAPE, (20, 20, 8), (20, 36, 8), (40, 60, 5))
    review = listed(labels)
    assert review.next_id() == 4
    assert review.cells["label"][review.where(0, 3)] == 3
    merge_cells(labels, 1, 2).apply(labels)
    delete_cells(labels, [3]).apply(labels)
    review.update(labels)
    assert review.where(0, 3) is None
    assert list(review.cells["label"]) == [1]
    assert review.next_id() == 4  # 3 was there; undo must not bring back another cell of that id


def test_planes_of_a_stack_are_kept_apart():
    stack = np.stack([discs(SHAPE, (20, 20, 8)), discs(SHAPE, (20, 20, 8), (40, 40, 6))])
    review = listed(stack)
    review.accept(1, 1)
    assert review.cells.query("accepted")[["plane", "label"]].to_numpy().tolist() == [[1, 1]]
    stack[0] = 0
    review.update(stack)
    assert sorted(zip(review.cells["plane"], review.cells["label"], strict=True)) == [(1, 1), (1, 2)]


@pytest.mark.parametrize("shape", [(7, 9), (2, 7, 9)])
def test_an_empty_image_has_an_empty_list(shape):
    labels = np.zeros(shape, np.int32)
    review = listed(labels)
    assert len(review.cells) == 0
    assert review.next_id() == 1
    labels[..., 3:5, 3:5] = 7
    review.update(labels)
    assert set(review.cells["label"]) == {7}
