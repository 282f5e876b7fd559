"""What is known of an image, and every problem in plain words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import balls, picture
from scipy.spatial import cKDTree

from napari_tally.core.annotations import cells_go_through, check_labels, known_labels, require_ids, require_labels, split_pieces
from napari_tally.core.images import as_image

GOOD = picture("""
    .11..2..
    .11..22.
    ........
    ..333...
    """)
IMAGE = as_image(np.zeros((4, 8)), name="a")


def kinds(labels, image=IMAGE, region=None):
    return [problem.kind for problem in check_labels(labels, image, region)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint32, np.float32, np.float64])
def test_good_labels_have_no_problem(dtype):
    assert kinds(GOOD.astype(dtype)) == []
    np.testing.assert_array_equal(require_labels(GOOD.astype(dtype), IMAGE), GOOD)


def test_shape():
    (problem,) = check_labels(GOOD[:, 1:], IMAGE)
    assert problem.kind == "shape"
    assert problem.stops
    assert problem.message.startswith("a: the labels have the shape (4, 7) and the image has (4, 8); they must be equal.")
    with pytest.raises(ValueError, match="must be equal"):
        require_labels(GOOD[1:], IMAGE)


@pytest.mark.parametrize("samples", [3, 4])
def test_colour(samples):
    (problem,) = check_labels(np.zeros((4, 8, samples), np.uint8), IMAGE)
    assert (problem.kind, problem.stops) == ("colour", True)
    assert "one whole number a pixel" in problem.message


@pytest.mark.parametrize("labels", [GOOD / 3, np.full((4, 8), np.nan), np.full((4, 8), np.inf), GOOD * 1j, GOOD.astype(str)])
def test_decimals(labels):
    (problem,) = check_labels(labels, IMAGE)
    assert (problem.kind, problem.stops) == ("decimals", True)
    assert f"type {labels.dtype}" in problem.message


@pytest.mark.parametrize("nothing", [0, -1])
def test_empty(nothing):
    (problem,) = check_labels(np.full((4, 8), nothing), IMAGE)
    assert (problem.kind, problem.stops) == ("empty", False)


def test_no_background():
    (problem,) = check_labels(np.ones((4, 8), int), IMAGE)
    assert (problem.kind, problem.stops) == ("no background", False)
    assert kinds(np.where(GOOD == 0, -1, GOOD)) == ["no background"]
    assert (require_labels(np.ones((4, 8), bool), IMAGE) == 1).all()  # other images may have some; plan_training asks them all


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint64])
def test_a_mask_holds_no_ids(kind):
    mask = np.zeros((9, 9), kind)
    mask[::4, ::4] = 1
    with pytest.raises(ValueError, match="all 9 separate objects have the same id 1, so they would count as one cell"):
        require_ids(mask, "a.tif")
    mask[::4] = 1
    assert require_ids(mask, "a.tif") is mask  # a few pieces may be one cell


def test_whole_numbers_in_a_type_for_decimals_are_ids():
    labels = require_ids(GOOD.astype(np.float32), "a.tif")
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, GOOD)
    with pytest.raises(ValueError, match="one whole number a pixel is wanted"):
        require_ids(GOOD + 0.5, "a.tif")


def test_a_region_around_the_cells_gives_background():
    labels = np.where(GOOD == 0, -1, GOOD)
    assert kinds(np.maximum(labels, 0), region=np.arange(8)[None, :] < np.full((4, 1), 5)) == []


def test_binary_mask():
    labels = picture("1.1.1.1.\n........\n1.1.1.1.\n........") * 255
    (problem,) = check_labels(labels, IMAGE)
    assert (problem.kind, problem.stops, problem.fix) == ("binary mask", False, "split")
    assert "all 8 separate objects have the same id 255" in problem.message
    assert kinds(split_pieces(labels, 1)) == []


def test_pieces():
    labels = picture("1.1.22..\n....22..\n....3..3\n........")
    (problem,) = check_labels(labels, IMAGE)
    assert (problem.kind, problem.stops, problem.fix) == ("pieces", False, "split")
    assert "2 of 3 ids are in several pieces" in problem.message
    assert kinds(split_pieces(labels, 1)) == []


def test_one_cell_hidden_in_part_is_no_binary_mask():
    assert kinds(picture("11.11...\n11.11...\n........\n........")) == ["pieces"]


def test_a_cell_may_touch_itself_at_a_corner():
    assert kinds(picture("11......\n..11....\n........\n........")) == []


def test_sparse():
    image, labels = as_image(np.zeros((100, 100)), name="a"), np.zeros((100, 100), int)
    labels[:5, :10] = 1
    (problem,) = check_labels(labels, image)
    assert (problem.kind, problem.stops) == ("sparse", False)
    assert "1 cell drawn, 0.5 % of the image" in problem.message
    assert kinds(labels, image, np.arange(100)[:, None] < np.full(100, 30)) == []  # the region says what is background
    assert kinds(np.where(np.arange(100) < 50, labels, -1), image) == []  # so does "not annotated"


def test_stacks_are_checked_plane_by_plane():
    image = as_image(np.zeros((2, 4, 8)), name="stack")
    assert kinds(np.stack([GOOD, np.roll(GOOD, 1, axis=1)]), image) == []  # the same id in two planes is fine
    assert kinds(np.stack([GOOD, picture("1.1.....\n........\n........\n........")]), image) == ["pieces"]
    assert kinds(GOOD, image) == ["shape"]


def test_known_labels():
    region = picture("""
        11111...
        11111...
        11111...
        ........
        """).astype(bool)
    np.testing.assert_array_equal(
        known_labels(GOOD, region),
        picture("""
            .11..???
            .11..???
            .....???
            ????????
            """),
    )
    np.testing.assert_array_equal(known_labels(GOOD, np.zeros_like(region)), GOOD)  # no region drawn: everywhere
    np.testing.assert_array_equal(known_labels(GOOD - 1), np.maximum(GOOD - 1, -1))
    assert known_labels(np.array([[-7, 0, 3]], np.int8)).tolist() == [[-1, 0, 3]]
    assert GOOD.min() == 0  # what came in stays as it is


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64, np.float64])
def test_huge_ids_stay_cells(dtype):
    labels = np.array([[0, 2**32 - 1, 5, 5, 2**31]]).astype(dtype)
    np.testing.assert_array_equal(known_labels(labels) > 0, labels > 0)
    assert np.unique(known_labels(labels)).size == 4


def test_split_pieces():
    np.testing.assert_array_equal(
        split_pieces(
            picture("""
            11..11.2
            .11...22
            ?...1...
            ??5555..
            """),
            slices=1,
        ),
        picture("""
            11..22.3
            .11...33
            ?...4...
            ??5555..
            """),
    )


@pytest.mark.parametrize("thick", [2, 3, 6, 12])
def test_bodies_of_tissue_without_gaps_go_through_their_slices(thick):
    """However few slices each is in; numbered anew in each slice they are profiles."""
    places = np.random.default_rng(0).uniform(0, 1, (round(12 * 80 * 80 / (16 * 16 * thick)), 3)) * [12 * 16 / thick, 80, 80]
    voxels = np.stack(np.meshgrid(np.arange(12) * 16 / thick, np.arange(80), np.arange(80), indexing="ij"), axis=-1)
    bodies = cKDTree(places).query(voxels)[1] + 1
    assert cells_go_through(bodies, 12)
    assert cells_go_through(bodies * 10**6, 12)  # the height of the numbers does not matter
    anew = np.stack([np.unique(plane, return_inverse=True)[1].reshape(plane.shape) + 1 for plane in bodies])
    assert not cells_go_through(anew, 12)
    assert not cells_go_through(anew + 1000 * np.arange(12)[:, None, None], 12)


def test_what_comes_again_elsewhere_does_not_go_through():
    slices = (
        picture("""
        111....222
        111....222
        ....333...
        """),
        picture("""
        ....111...
        222....333
        222....333
        """),
    )
    assert not cells_go_through(np.stack(slices * 3), 6)


def test_bodies_are_split_through_their_slices():
    labels = balls((7, 30, 40), (3, 8, 8, 3.5), (3, 8, 28, 3.5), (3, 22, 8, 3.5), (3, 22, 28, 3.5))
    labels[labels == 4] = 3  # one id in two pieces
    assert cells_go_through(split_pieces(labels, 7), 7)
    assert np.unique(split_pieces(labels, 7)).tolist() == [0, 1, 2, 3, 4]
    assert split_pieces(labels, 1).max() > 4 * 5  # planes of a series: profiles
    mask = (labels > 0).astype(np.int32)  # which does not tell what goes on in the next slice
    assert (split_pieces(mask, 7).max() > 4 * 5, split_pieces(mask, 7, are_bodies=True).max()) == (True, 4)


@given(arrays(np.int32, (2, 5, 6), elements=st.integers(-1, 3)))
def test_split_pieces_of_anything(labels):
    split = split_pieces(labels, 1)
    np.testing.assert_array_equal(np.minimum(split, 0), np.minimum(labels, 0))
    np.testing.assert_array_equal(split > 0, labels > 0)
    ids = np.unique(split[split > 0])
    assert ids.tolist() == list(range(1, ids.size + 1))
    assert all(np.unique(labels[split == i]).size == 1 for i in ids)  # touching ids stay apart
    np.testing.assert_array_equal(split_pieces(split, 1), split)
