"""From probabilities to cells, drawn."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import discs, picture
from scipy import ndimage as ndi

from napari_tally.core.instances import Hills, climb_tile, find_instances, label_planes, ring
from napari_tally.core.metrics import iou_matrix
from napari_tally.core.samples import class_map
from napari_tally.core.tiles import grown, plan_tiles
from napari_tally.settings import CountingSettings

ANY_SIZE = CountingSettings(min_area=0, smoothing=0)


def probabilities(drawing):
    """Digits: tenths of P(inside a cell); minus: rim; dot: background."""
    inside = np.array([[0.0 if c in ".-" else int(c) / 10 for c in line] for line in drawing.split()])
    rim = np.array([[0.9 if c == "-" else 0.0 for c in line] for line in drawing.split()])
    return np.stack([1 - inside - rim, inside, rim]).astype(np.float32)


def from_labels(labels):
    """What a perfect network says: inside and, one pixel wide, rim."""
    return np.eye(3, dtype=np.float32)[class_map(labels, 3)].transpose(2, 0, 1)


def test_touching_cells_are_told_apart_by_their_rim():
    found = find_instances(
        probabilities("""
            .-----------.
            -9999-999999-
            -9999-999999-
            -9999-999999-
            .-----------.
            """),
        ANY_SIZE,
    )
    np.testing.assert_array_equal(
        np.delete(found, 5, axis=1),  # the rim between them may go to either
        picture("""
            .1111222222.
            111112222222
            111112222222
            111112222222
            .1111222222.
            """),
    )


def test_cells_that_touch_at_a_corner_are_two():
    found = find_instances(probabilities("99..\n99..\n..99\n..99"), ANY_SIZE)
    np.testing.assert_array_equal(found, picture("11..\n11..\n..22\n..22"))


def test_seeds_and_edges():
    """A seed above 0.8 grows out to 0.55; what never reaches 0.8 is no cell."""
    settings = CountingSettings(seed_threshold=0.8, edge_threshold=0.55, min_area=0, smoothing=0)
    found = find_instances(probabilities("..5679765..777.."), settings)
    np.testing.assert_array_equal(found, picture("...11111........"))


def test_small_cells_are_dropped_and_the_others_renumbered():
    drawing = probabilities("99..99..9\n99..99..9\n....99...")
    found = {area: find_instances(drawing, replace(ANY_SIZE, min_area=area)) for area in (0, 2, 3, 4, 5, 6, 7)}
    assert [labels.max() for labels in found.values()] == [3, 3, 2, 2, 1, 1, 0]
    np.testing.assert_array_equal(found[5], picture("....11...\n....11...\n....11..."))


@pytest.mark.parametrize(("valley", "cells"), [(0.05, 6), (0.15, 4), (0.25, 3), (0.35, 2)])
def test_two_cells_are_two_where_the_valley_between_them_is_deep(valley, cells):
    """Valleys of 0.1, 0.2, 0.3 and 0.1 between equal hills, and a hill by itself."""
    settings = CountingSettings(min_area=0, smoothing=0, valley=valley, edge_threshold=0.4)
    found = find_instances(probabilities("989796989..7"), settings)
    assert found.max() == cells
    assert (found[0] > 0).tolist() == [c != "." for c in "989796989..7"]


def test_smoothing_closes_gaps_inside_a_cell():
    drawing = probabilities("\n".join(["99999999999", "99959999999", "99999995999", "99999999999"]))
    assert find_instances(drawing, replace(ANY_SIZE, smoothing=1.0)).max() == 1


def test_lengths_grow_with_the_zoom():
    drawing = from_labels(discs((60, 60), (20, 20, 8), (40, 40, 3)))
    large = np.kron(drawing, np.ones((3, 3), np.float32))
    settings = CountingSettings(min_area=50)
    assert find_instances(drawing, settings).max() == find_instances(large, settings, zoom=3).max() == 1
    assert find_instances(large, settings).max() == 2


def test_a_network_that_says_nan_finds_nothing():
    assert not find_instances(np.full((3, 20, 20), np.nan, np.float32))[:, 1:].any()


def test_nothing_there():
    found = find_instances(probabilities("....\n...."))
    assert found.dtype == np.int32
    assert not found.any()


def test_two_classes():
    both = probabilities("999..999\n999..999")[:2]
    np.testing.assert_array_equal(find_instances(both, ANY_SIZE), picture("111..222\n111..222"))


@pytest.fixture(scope="module")
def cells():
    return discs((80, 90), (20, 20, 12), (22, 43, 10), (45, 30, 9), (60, 70, 15), (5, 85, 8))


def test_a_perfect_network_gives_the_labels_back(cells):
    found = find_instances(from_labels(cells))
    assert found.max() == cells.max()
    np.testing.assert_array_equal(found > 0, cells > 0)
    assert iou_matrix(cells, found).max(axis=1).min() > 0.95


@given(st.integers(0, 3), st.booleans(), st.permutations(range(1, 6)))
def test_counts_survive_turning_mirroring_and_renumbering(cells, turns, mirror, ids):
    cells = np.array([0, *ids], np.int32)[cells]
    drawing = np.rot90(from_labels(cells), turns, axes=(1, 2))
    drawing = drawing[:, :, ::-1] if mirror else drawing
    found = find_instances(drawing)
    assert found.max() == 5
    areas = sorted(np.bincount(found.ravel())[1:])
    np.testing.assert_allclose(areas, sorted(np.bincount(cells.ravel())[1:]), atol=4)  # shared rims may go either way


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.99), st.floats(0.01, 0.99), st.floats(0, 60))
def test_any_probabilities_give_whole_cells(seed, seeds, edge, smallest):
    rng = np.random.default_rng(seed)
    noise = ndi.gaussian_filter(rng.normal(size=(3, 40, 40)), (0, 2, 2)) * 8
    p = np.exp(noise) / np.exp(noise).sum(axis=0)
    found = find_instances(p, CountingSettings(seed_threshold=seeds, edge_threshold=edge, min_area=smallest, smoothing=0))
    n = int(found.max())
    areas = np.bincount(found.ravel(), minlength=n + 1)[1:]
    assert (areas >= max(1, smallest)).all()
    assert ((p[1] > seeds) | (1 - p[0] > edge))[found > 0].all()
    for cell, box in enumerate(ndi.find_objects(found), start=1):
        assert ndi.label(found[box] == cell, np.ones((3, 3)))[1] == 1  # in one piece
        assert (p[1][found == cell] > seeds).any()  # around a seed


def test_ids_go_on_from_plane_to_plane():
    plane = probabilities("999..999\n999..999")
    found = label_planes(np.stack([plane, np.zeros_like(plane), plane]), ANY_SIZE)
    np.testing.assert_array_equal(found[0], picture("111..222\n111..222"))
    assert not found[1].any()
    np.testing.assert_array_equal(found[2], picture("333..444\n333..444"))


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 1.0, 1.5]), st.floats(0.02, 0.3), st.booleans()
)
def test_tiles_in_any_order_give_the_cells_of_the_whole(seed, down, across, smoothing, valley, steps):
    """The same partition and the same numbers, plateaus and cells larger than a tile included."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(5, 60)), int(rng.integers(5, 60))
    noise = ndi.gaussian_filter(rng.normal(size=(3, *shape)), (0, 2, 2)) * 8
    p = (np.exp(noise) / np.exp(noise).sum(axis=0)).astype(np.float32)
    p = np.round(p * 4) / 4 if steps else p
    settings = CountingSettings(min_area=float(rng.integers(0, 20)), smoothing=smoothing, valley=valley)
    hills, numbers = Hills(settings), np.zeros(shape, np.int32)
    for tile in rng.permutation(np.array(plan_tiles(shape, (down, across)), object)):
        tile = tuple(tile)
        known = grown(tile, ring(settings), shape)
        piece, tops = climb_tile(p[:, *known], known, tile, shape, settings)
        numbers[tile] = piece + hills.add(tops) * (piece > 0)
    np.testing.assert_array_equal(hills.cells()[numbers], find_instances(p, settings))
