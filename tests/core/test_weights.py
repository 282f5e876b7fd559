"""The border weight map against the definition: one distance transform for each cell, over the whole image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import discs, picture
from scipy import ndimage as ndi

from napari_tally.core import weights
from napari_tally.core.weights import border_weights, class_weights


def by_definition(labels, w0=10.0, sigma=5.0):
    distances = [ndi.distance_transform_edt(labels != cell) for cell in np.unique(labels[labels > 0])]
    if len(distances) < 2:
        return np.zeros(labels.shape)
    d1, d2 = np.sort(distances, axis=0)[:2]
    return w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))


def test_touching_cells():
    labels = picture("""
        .........
        .1122333.
        .1122333.
        .11.2.3..
        .........
        """)
    weights = border_weights(labels)
    np.testing.assert_allclose(weights, by_definition(labels), atol=1e-4)
    assert weights[1, 2] == pytest.approx(10 * np.exp(-1 / 50))  # in cell 1, one pixel from cell 2
    assert weights[3, 3] == pytest.approx(10 * np.exp(-4 / 50))  # in the gap: one pixel to either side
    assert weights[1, 2] > weights[1, 1] > weights[0, 0] > 0


@given(
    arrays(np.int32, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([-1, 0, 0, 0, 0, 1, 2, 3, 70000])),
    st.sampled_from([0.5, 1.5, 5.0, 50.0]),
    st.sampled_from([0.0, 1e-6, 1.0, 10.0]),
)
def test_any_picture(labels, sigma, w0):
    np.testing.assert_allclose(border_weights(labels, w0, sigma), by_definition(labels, w0, sigma), atol=1e-4)


def test_many_cells_in_strips(rng, monkeypatch):
    places = np.column_stack([rng.uniform(0, 200, (60, 2)), rng.uniform(1, 9, 60)])
    labels = discs((200, 150), *places)
    monkeypatch.setattr(weights, "_AT_ONCE", 1)  # as narrow as they come
    np.testing.assert_allclose(border_weights(labels, sigma=3), by_definition(labels, sigma=3), atol=1e-4)


@pytest.mark.parametrize("labels", ["....\n....", "11..\n11..", "1111\n1111", "?1..\n...?"])
def test_fewer_than_two_cells_have_no_border(labels):
    assert not border_weights(picture(labels)).any()


def test_ids_do_not_matter(rng):
    labels = discs((60, 60), (20, 20, 9), (20, 40, 9), (40, 30, 9))
    ids = np.array([0, 2**40, 7, 2**31])
    np.testing.assert_array_equal(border_weights(ids[labels]), border_weights(labels))
    np.testing.assert_allclose(border_weights(labels.T), border_weights(labels).T, rtol=1e-6)


def test_class_weights_by_hand():
    classes = np.array([0] * 6 + [1] * 2 + [-1] * 5)
    np.testing.assert_allclose(class_weights(classes, 2, balance=1), [2 / 3, 2])  # 6 * 2/3 = 2 * 2
    np.testing.assert_allclose(class_weights(classes, 2, balance=0), [1, 1])
    np.testing.assert_allclose(class_weights(classes, 3, balance=1), [2 / 3, 2, 0])
    np.testing.assert_allclose(class_weights(np.array([-1]), 2), [1, 1])


@given(st.lists(st.integers(-1, 2), min_size=1), st.floats(0, 1))
def test_class_weights_average_one(classes, balance):
    classes = np.array(classes)
    known = classes[classes >= 0]
    weights = class_weights(classes, 3, balance)
    assert weights[known].sum() == pytest.approx(known.size, rel=1e-5)
    if known.size and balance == 1:
        sums = np.bincount(known, weights[known])
        np.testing.assert_allclose(sums[sums > 0], sums.max(), rtol=1e-5)
