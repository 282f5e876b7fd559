"""Signs of a mistake, drawn, and the faults that they speak of."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import discs, picture
from scipy import ndimage as ndi
from skimage.morphology import local_maxima, reconstruction

from napari_tally.core.suspects import FAULTS, measure_planes, measure_signs, rank_suspects, usual_area
from napari_tally.settings import CountingSettings

AS_IS = CountingSettings(smoothing=0, valley=0.2)


def network(labels, inside=1.0, cell=1.0):
    """What a network says that gives these probabilities inside of cells, and background outside."""
    inside = np.where(labels > 0, inside, 0.0)
    background = 1 - np.where(labels > 0, cell, 0.0)
    return np.stack([background, inside, np.zeros(labels.shape)]).astype(np.float32)


def of(table, label):
    return table.set_index("label").loc[label]


def test_size_and_shape_by_hand():
    labels = picture("""
        33....
        33..8.
        ....8.
        ....8.
        ....88
        """)
    signs = measure_signs(None, labels)
    assert list(signs["label"]) == [3, 8]
    assert list(signs["area_px"]) == [4, 5]
    np.testing.assert_allclose(signs[["y", "x"]], [[0.5, 0.5], [2.8, 4.2]])
    assert list(signs["touches_border"]) == [True, True]
    yy, xx, xy = 1.36 + 1 / 12, 0.16 + 1 / 12, 0.24
    assert of(signs, 8)["dent"] == pytest.approx(1 - 5 / (4 * np.pi * np.sqrt(yy * xx - xy**2)))
    assert (signs[["doubt", "valley_inside", "open_border"]] == 0).all(axis=None)  # nothing is known of these


def test_a_disc_has_no_dent_and_two_discs_in_one_have():
    labels = discs((60, 60), (20, 20, 10), (45, 20, 8), (45, 35, 8))
    labels[labels == 3] = 2
    signs = measure_signs(None, labels)
    assert of(signs, 1)["dent"] < 0.01
    assert of(signs, 2)["dent"] > 0.07
    assert not signs["touches_border"].any()


def test_the_depth_of_valleys_by_hand():
    inside = np.array([[0.9, 0.8, 0.84, 0.7, 0.8, 0.0, 0.5, 0.9, 0.6]])
    labels = np.array([[4, 4, 4, 4, 4, 0, 7, 7, 6]])
    signs = measure_signs(network(labels, inside), labels, AS_IS)
    # within 4: 0.84 stands out by 0.04, the last hill (0.8) by 0.1, of the 0.2 that tell two cells apart
    assert list(signs["label"]) == [4, 6, 7]
    np.testing.assert_allclose(signs["valley_inside"], [0.5, 0, 0], atol=1e-6)
    # 6 rises to 0.6 and meets 7 there, so there is no valley between them; 4 meets no other cell
    np.testing.assert_allclose(signs["open_border"], [0, 1, 1], atol=1e-6)


def test_a_border_in_a_deep_valley_is_closed():
    inside = np.array([[0.9, 0.1, 0.5], [0.9, 0.3, 0.8]])
    labels = np.array([[1, 1, 2], [1, 1, 2]])
    open_border = measure_signs(network(labels, inside), labels, AS_IS)["open_border"]
    np.testing.assert_allclose(open_border, 1 - (0.8 - 0.3) / 0.6, atol=1e-6)


@given(arrays(np.int8, (5, 6), elements=st.integers(0, 6)), st.integers(1, 4))
def test_the_valley_inside_is_the_dynamics_of_the_second_hill(heights, depth):
    labels = np.ones(heights.shape, int)
    valley = measure_signs(network(labels, heights / 10), labels, CountingSettings(smoothing=0, valley=0.6))["valley_inside"][0] * 6
    # Whole numbers: at least `depth` deep is more than `depth` - 1/2. (h_maxima gives both of two equal hills, however near.)
    filled = reconstruction(heights - (depth - 0.5), heights)
    hills = ndi.label(local_maxima(filled), np.ones((3, 3)))[1]
    assert (round(valley, 4) >= depth) == (hills >= 2)


@given(arrays(np.int8, (7, 6), elements=st.integers(0, 4)), st.integers(0, 7))
def test_the_signs_turn_with_the_image_and_do_not_know_the_ids(drawing, turn):
    def turned(array):
        array = np.rot90(array, turn % 4, (-2, -1))
        return array[..., ::-1] if turn > 3 else array

    labels = drawing.astype(int)
    height = np.random.default_rng(0).random(labels.shape)
    settings = CountingSettings(smoothing=1, valley=0.2)
    columns = ["area_px", "touches_border", "doubt", "valley_inside", "open_border", "dent"]
    one = measure_signs(network(labels, height, height), labels, settings)
    other = measure_signs(turned(network(labels, height, height)).copy(), turned(np.where(labels, 10 - labels, 0)), settings)
    pd.testing.assert_frame_equal(one[columns], other[columns][::-1].reset_index(drop=True), atol=1e-5)


def scene():
    """Draw nine sure cells and, from 10 on: two in one, the smaller part of a broken one, a faint one, one at the border."""
    places = [(15 + 25 * i, 15 + 25 * j, 8) for i in range(3) for j in range(3)]
    labels = np.zeros((100, 120), np.int32)
    labels[:, :100] = discs((100, 100), *places)
    labels[discs(labels.shape, (92, 20, 7), (92, 33, 7)) > 0] = 10
    labels[:, 43:] = np.where((labels[:, 43:] == 5), 11, labels[:, 43:])  # 5 and 11 were one cell
    labels[discs(labels.shape, (20, 100, 6)) > 0] = 12
    labels[discs(labels.shape, (60, 119, 5)) > 0] = 13
    inside = ndi.gaussian_filter((labels > 0).astype(float), 2)
    cell = np.where(labels == 12, 0.65, 0.97)
    inside = np.where(labels == 12, 0.5 * inside, inside)
    inside[:, 26:28] = np.where(labels[:, 26:28] == 10, 0.78 * inside[:, 26:28], inside[:, 26:28])
    return labels, network(labels, inside, cell)


def test_the_four_faults_come_first_and_are_named():
    labels, probabilities = scene()
    ranked = rank_suspects(measure_signs(probabilities, labels))
    assert ranked["score"].is_monotonic_decreasing
    assert ranked["score"].between(0, 1).all()
    assert set(ranked["label"][:4]) == {10, 5, 11, 12}
    faults = ranked.set_index("label")["fault"]
    assert dict(faults[[10, 11, 12, 13]]) == {
        10: "two cells?",
        11: "part of a cell?",
        12: "not a cell?",
        13: "cut by the image border",
    }
    assert set(faults) <= set(FAULTS)
    assert len(ranked) == 13


def test_the_order_of_a_part_of_the_cells_follows_the_population_given():
    labels, probabilities = scene()
    signs = measure_signs(probabilities, labels)
    whole = rank_suspects(signs).set_index("label")["score"]
    part = rank_suspects(signs[signs["label"] > 9], usual_area(signs["area_px"])).set_index("label")["score"]
    pd.testing.assert_series_equal(part, whole[part.index])


def test_the_usual_cell_is_not_a_crumb():
    assert usual_area(np.array([400, 2, 3, 410, 4, 5, 2, 390])) == 400
    assert np.isnan(usual_area(np.array([])))


def test_a_stack_is_one_population():
    labels, probabilities = scene()
    stack = np.stack([labels, np.where(labels == 3, 3, 0)])
    signs = measure_planes(np.stack([probabilities, probabilities]), stack)
    assert list(signs["plane"]) == [0] * 13 + [1]
    scores = rank_suspects(signs).set_index(["plane", "label"])["score"]
    assert scores[(1, 3)] == pytest.approx(scores[(0, 3)])


@pytest.mark.parametrize("labels", [np.zeros((4, 5), int), np.full((4, 5), -1), np.zeros((0, 5), int)])
def test_nothing_is_suspicious_where_there_is_nothing(labels):
    ranked = rank_suspects(measure_signs(network(labels), labels))
    assert len(ranked) == 0
    assert {"label", "y", "x", "score", "fault"} <= set(ranked.columns)


def test_a_network_gone_wild_is_no_crash():
    labels = discs((20, 20), (10, 10, 5))
    signs = rank_suspects(measure_signs(np.full((3, 20, 20), np.nan, np.float32), labels))
    assert np.isfinite(signs["score"]).all()
