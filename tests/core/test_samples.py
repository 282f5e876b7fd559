"""Training patches: what the network is shown and what it should answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import discs, picture

from napari_tally.core import outlines
from napari_tally.core.images import as_image
from napari_tally.core.rescale import scaled_shape
from napari_tally.core.samples import PatchSampler, TrainingPair, body_diameter, cell_diameter, class_map, prepare_planes
from napari_tally.core.weights import border_weights
from napari_tally.settings import AugmentationSettings, NormalisationSettings

STILL = AugmentationSettings(flips=False, rotation=0, scale=1, elastic_sd=0, intensity=0)
LABELS = discs((60, 80), (20, 20, 10), (20, 39, 8), (45, 60, 9))


def prepare(*pairs, channels=1, scale=1.0):
    return prepare_planes(pairs, channels, scale, NormalisationSettings(), 10, 5)


def pair(labels=LABELS, image=None, name="a"):
    return TrainingPair(as_image(np.maximum(labels, 0).astype(np.float32) if image is None else image, name=name), labels)


def test_two_classes_keep_a_gap_between_touching_cells():
    labels = picture("""
        .........
        .1112222.
        .1112222.
        ?1113....
        """)
    np.testing.assert_array_equal(
        class_map(labels, 2),
        picture("""
            .........
            .11..111.
            .11...11.
            ?11......
            """),
    )


def test_three_classes_have_a_rim():
    labels = picture("""
        ........
        .111222.
        .111222.
        .111222.
        .111222.
        ????????
        """)
    np.testing.assert_array_equal(
        class_map(labels, 3),
        picture("""
            ........
            .222222.
            .212212.
            .212212.
            .2?22?2.
            ????????
            """),
    )  # whether the cells end above what is not annotated, or go on, nobody knows
    np.testing.assert_array_equal(class_map(picture("111\n111\n111"), 3), 1)  # the border of the image is no rim


def by_hand(labels, flat=False):
    """Classes with a rim, pixel by pixel."""
    answer = np.empty_like(labels)
    for at in np.ndindex(labels.shape):
        box = tuple(slice(max(0, i - 1), i + 2) for i in at)
        around = labels[box]
        beside = labels[at[0], box[1], box[2]] if flat else around
        own = labels[at]
        if own <= 0:
            answer[at] = own
        elif ((around > 0) & (around != own)).any() or (beside == 0).any():
            answer[at] = 2
        else:
            answer[at] = -1 if (beside < 0).any() else 1
    return answer


@given(arrays(np.int32, (3, 5, 6), elements=st.sampled_from([-1, 0, 1, 1, 1, 2])), st.booleans())
def test_rims_in_volumes(labels, flat):
    np.testing.assert_array_equal(class_map(labels, 3, flat), by_hand(labels, flat))


def test_where_the_region_ends_no_rim_is_taught():
    (plane,) = prepare(pair(np.where(np.arange(80) < 41, LABELS, -1)))  # through the middle of two cells
    sampler = PatchSampler([plane], 3, 0, STILL)
    whole, cut = class_map(LABELS, 3), sampler._class_map(plane.labels, 0)
    changed = whole != cut
    assert (cut[changed] == -1).all()
    np.testing.assert_array_equal(np.flatnonzero(changed.any(0)), np.arange(40, 80))  # what lies outside, and the last column inside


@given(arrays(np.int32, (7, 8), elements=st.integers(-1, 3)), st.sampled_from([2, 3]))
def test_classes_of_anything(labels, classes):
    answer = class_map(labels, classes)
    np.testing.assert_array_equal((answer == -1) & (labels <= 0), labels == -1)
    assert set(np.unique(answer)) <= set(range(-1, classes))
    assert not answer[labels == 0].any()
    if classes == 3:
        np.testing.assert_array_equal((answer > 0) | ((answer == -1) & (labels > 0)), labels > 0)
        np.testing.assert_array_equal(answer, by_hand(labels))
    inside = answer == 1  # no pixel of one cell lies next to a pixel of another
    for a, b in (
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[1:], np.s_[:-1]),
        (np.s_[1:, 1:], np.s_[:-1, :-1]),
        (np.s_[1:, :-1], np.s_[:-1, 1:]),
    ):
        assert (labels[a] == labels[b])[inside[a] & inside[b]].all()


def test_cell_diameter():
    assert cell_diameter([pair()]) == pytest.approx(18, rel=0.05)
    assert np.isnan(cell_diameter([pair(np.zeros((5, 5), np.int32))]))


def test_high_ids_are_measured_as_low_ones(monkeypatch):
    """And no array has a place for each id up to the highest."""
    usual = outlines.regionprops
    monkeypatch.setattr(outlines, "regionprops", lambda labels: [] if labels.max() > labels.size else usual(labels))
    monkeypatch.setattr(np, "bincount", None)
    high = np.where(LABELS == 3, np.int32(2**31 - 1), LABELS)
    assert cell_diameter([pair(high)]) == cell_diameter([pair()])
    stack = [pair(np.stack([labels] * 4)) for labels in (high, LABELS)]
    assert body_diameter(stack[:1], [2.0]) == body_diameter(stack[1:], [2.0]) > 0


def test_planes_are_normalised_scaled_and_weighted():
    (plane,) = prepare(pair())
    np.testing.assert_allclose(plane.picture, LABELS[None] / 3, atol=0.05)
    np.testing.assert_array_equal(plane.labels, LABELS)
    np.testing.assert_allclose(plane.border, border_weights(LABELS))
    (half,) = prepare(pair(), scale=0.5)
    assert half.picture.shape == (1, 30, 40)
    np.testing.assert_array_equal(half.labels, LABELS[1::2, 1::2])
    assert half.border.max() > plane.border[LABELS == 0].max() / 2  # computed after scaling, not shrunk


def test_grey_fills_a_colour_network():
    (plane,) = prepare(pair(), channels=3)
    assert plane.picture.shape == (3, 60, 80)
    np.testing.assert_array_equal(plane.picture[0], plane.picture[2])


def test_huge_and_sparse_ids_become_small():
    ids = np.array([0, 7, 2**31 - 1, 2**24 + 1], np.int32)
    (plane,) = prepare(pair(np.where(np.arange(80) < 70, ids[LABELS], -1), image=LABELS.astype(np.float32)))
    assert np.unique(plane.labels).tolist() == [-1, 0, 1, 2, 3]


def test_of_a_stack_only_annotated_planes_serve():
    labels = np.stack([LABELS, np.zeros_like(LABELS), np.full_like(LABELS, -1), np.where(LABELS > 0, 0, -1)])
    planes = prepare(pair(labels.astype(np.int32), image=np.ones(labels.shape)))
    assert [plane.name for plane in planes] == ["a plane 0", "a plane 1", "a plane 3"]  # regions are marked: 1 and 3 say "background"
    planes = prepare(pair(np.maximum(labels, 0).astype(np.int32), image=np.ones(labels.shape)))
    assert [plane.name for plane in planes] == ["a plane 0"]  # none is marked: what is empty was not drawn on
    assert [plane.name for plane in prepare(pair(np.zeros((9, 9), np.int32)))] == ["a"]  # a single plane may be empty


def test_a_pair_must_fit():
    with pytest.raises(ValueError, match=r"a: labels of shape \(59, 80\) on an image of shape \(60, 80\)"):
        TrainingPair(as_image(LABELS, name="a"), LABELS[1:])


@given(st.integers(1, 5000), st.floats(0.01, 10))
def test_no_image_vanishes(side, scale):
    height, width = scaled_shape((side, 1), scale)
    assert height == max(1, round(side * scale))
    assert width >= 1


def test_a_patch_is_cut_from_all_maps_at_one_place(rng):
    """Without augmentation a patch is a shifted piece of the plane, and picture, classes and weights show one place."""
    (plane,) = prepare(pair())
    sampler = PatchSampler([plane], 3, balance=0, augmentation=STILL)
    for _ in range(20):
        drawn, classes, weights = sampler.draw(rng, 32)
        assert drawn.shape == (1, 32, 32)
        assert drawn.dtype == weights.dtype == torch.float32
        assert (classes.shape, classes.dtype) == ((32, 32), torch.int64)
        brightness = drawn[0].numpy()
        assert brightness[classes.numpy() == 1].min(initial=1) > 0.25  # the dimmest cell is 1/3
        assert brightness[classes.numpy() == 0].max(initial=0) < 0.6
        assert weights.min() >= 1  # w_c = 1 without balance, plus the border term


def test_patches_hold_annotations(rng):
    labels = np.full((400, 400), -1, np.int32)
    labels[300:330, 40:80] = LABELS[5:35, 10:50]
    sampler = PatchSampler(prepare(pair(labels, image=np.ones((400, 400)))), 3, 0.5, AugmentationSettings())
    seen = [(sampler.draw(rng, 64)[1] >= 0).any().item() for _ in range(50)]
    assert np.mean(seen) > 0.9


def test_large_planes_come_more_often_but_small_ones_too(rng):
    small = np.zeros((30, 30), np.int32)
    small[10:20, 10:20] = 1
    planes = prepare(pair(small, image=np.zeros((30, 30))), pair(np.tile(small, (4, 4)), image=np.zeros((120, 120))))
    planes[1] = replace(planes[1], picture=planes[1].picture + 1)
    sampler = PatchSampler(planes, 2, 0, STILL)
    share = np.mean([sampler.draw(rng, 8)[0].mean().item() for _ in range(400)])
    assert share == pytest.approx(4 / 5, abs=0.07)  # 16 times the area, 4 times the share


def test_one_seed_repeats():
    planes = prepare(pair())
    one, other = (PatchSampler(planes, 3, 0.5, AugmentationSettings()).draw(np.random.default_rng(5), 40) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
