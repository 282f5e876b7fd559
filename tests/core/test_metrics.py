"""Matching and scores, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import FOUND, TRUTH, picture
from scipy.optimize import linear_sum_assignment

from napari_tally.core.matching import THRESHOLDS, Matching, match
from napari_tally.core.metrics import Mistakes, evaluate, iou_matrix, mistakes, panoptic_quality, seg
from napari_tally.core.overlap import overlap


def test_iou_by_hand():
    expected = [  # columns: 4 7 8 9
        [0, 6 / 8, 0, 0],
        [2 / 6, 0, 3 / 5, 0],
        [0, 0, 0, 0],
    ]
    np.testing.assert_allclose(iou_matrix(TRUTH, FOUND), expected)


def test_matching_by_hand():
    iou = iou_matrix(TRUTH, FOUND)
    assert match(iou, 0.5) == Matching(0.5, tp=2, fp=2, fn=1)
    assert match(iou, 0.6) == Matching(0.6, tp=2, fp=2, fn=1)  # exactly 0.6 is enough
    assert match(iou, 0.7) == Matching(0.7, tp=1, fp=3, fn=2)
    assert match(iou, 0.8) == Matching(0.8, tp=0, fp=4, fn=3)


def test_scores_by_hand():
    found = match(iou_matrix(TRUTH, FOUND), 0.5)
    assert (found.precision, found.recall) == (2 / 4, 2 / 3)
    assert found.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert found.ap == 2 / 5


def test_panoptic_quality_by_hand():
    assert panoptic_quality(iou_matrix(TRUTH, FOUND)) == (pytest.approx(6 / 8 + 3 / 5), 2, 2, 1)
    assert evaluate([("a", TRUTH, FOUND)]).scores["panoptic quality"] == pytest.approx((6 / 8 + 3 / 5) / (2 + 2 / 2 + 1 / 2))


def test_seg_by_hand():
    """Cell 1 is covered to 6 of 8, cell 2 to 3 of 5, cell 3 not at all."""
    assert seg(overlap(TRUTH, FOUND)).tolist() == [6 / 8, 3 / 5, 0]
    assert seg(overlap(picture("1111"), picture("11.."))).tolist() == [0]  # exactly half is not enough
    assert evaluate([("a", TRUTH, FOUND), ("b", TRUTH, TRUTH)]).scores["SEG"] == pytest.approx((6 / 8 + 3 / 5 + 3) / 6)


def test_all_scores_of_a_perfect_prediction():
    scores = evaluate([("a", TRUTH, TRUTH), ("empty", 0 * TRUTH, 0 * TRUTH)]).scores
    assert scores.pop("Rand error") == scores.pop("warping error") == 0
    assert scores == {name: pytest.approx(1) for name in scores}
    assert len(scores) == 7


def test_scores_that_do_not_exist_are_null():
    scores = evaluate([("empty", 0 * TRUTH, 0 * TRUTH)]).as_dict()["scores"]
    assert scores["SEG"] is scores["Rand score"] is scores["pixel IoU"] is None


def test_nothing_to_find_and_nothing_found():
    nothing = np.zeros((4, 4), int)
    assert match(iou_matrix(nothing, nothing), 0.5) == Matching(0.5, 0, 0, 0)
    assert Matching(0.5, 0, 0, 0).f1 == Matching(0.5, 0, 0, 0).ap == Matching(0.5, 0, 0, 0).precision == 1
    assert match(iou_matrix(nothing, FOUND[:, :4]), 0.5) == Matching(0.5, 0, 3, 0)
    assert match(iou_matrix(TRUTH, np.zeros_like(TRUTH)), 0.5) == Matching(0.5, 0, 0, 3)
    assert iou_matrix(np.ones((2, 2), int), np.ones((2, 2), int)).tolist() == [[1.0]]  # no background at all


def test_many_pairs_go_before_good_pairs():
    """Greedy matching would take the 0.9 and lose a pair."""
    assert match(np.array([[0.9, 0.6], [0.6, 0.0]]), 0.5).tp == 2


def test_a_tie_counts_once():
    """Two halves at IoU 0.5 each: one cell is found, and one found cell is too many."""
    halves = match(iou_matrix(picture("1111"), picture("1122")), 0.5)
    assert (halves.tp, halves.fp, halves.fn) == (1, 1, 0)


labels = arrays(np.int8, (5, 6), elements=st.integers(-1, 4))


@given(labels, labels, st.floats(0.05, 1))
def test_any_pair(truth, found, threshold):
    iou = iou_matrix(truth, found)
    assert iou.shape == tuple(len(set(a[a > 0])) for a in (truth, found))
    one, other = match(iou, threshold), match(iou_matrix(found, truth), threshold)
    assert (one.tp, one.fp, one.fn) == (other.tp, other.fn, other.fp)  # truth and prediction may change places
    assert one.tp + one.fn == iou.shape[0]
    assert one.tp + one.fp == iou.shape[1]
    if threshold > 0.5:  # then no cell can fit two
        assert one.tp == (iou >= threshold).sum()


def by_a_full_matrix(truth, found, threshold):
    """Everything once more, with every pair of cells: (matching, parts of panoptic quality, SEG, mistakes)."""
    masks = [[a == i for i in np.unique(a[a > 0])] for a in (truth, found)]
    shape = tuple(map(len, masks))
    both = np.array([[(t & p).sum() for p in masks[1]] for t in masks[0]], float).reshape(shape)
    of_true, of_found = (np.array([m.sum() for m in some], float) for some in masks)
    iou = both / (of_true[:, None] + of_found - both)
    good = iou >= threshold
    pairs = linear_sum_assignment(-(good + iou / (2 * max(1, min(shape)))))  # first as many as possible, then the best
    tp, sure = int(good[pairs].sum()), iou > 0.5
    return (
        Matching(threshold, tp, shape[1] - tp, shape[0] - tp),
        (float(iou[sure].sum()), sure.sum(), shape[1] - sure.sum(), shape[0] - sure.sum()),
        np.where(both > of_true[:, None] / 2, iou, 0).max(1, initial=0).tolist(),
        Mistakes(
            ((both > of_found / 2).sum(1) > 1).sum(), ((both > of_true[:, None] / 2).sum(0) > 1).sum(), (both.sum(1) < of_true / 2).sum()
        ),
    )


crowded = arrays(np.int8, (7, 8), elements=st.integers(0, 9))


@given(crowded, crowded, st.one_of(st.floats(0.01, 1), st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5])))
def test_the_pairs_that_meet_say_all_that_a_full_matrix_says(truth, found, threshold):
    shared = overlap(truth, found)
    matching, quality, covered, wrong = by_a_full_matrix(truth, found, threshold)
    assert match(shared.iou, threshold) == match(iou_matrix(truth, found), threshold) == matching
    assert panoptic_quality(shared.iou) == panoptic_quality(iou_matrix(truth, found)) == quality  # to the last digit
    assert seg(shared).tolist() == covered
    assert mistakes(truth, found) == wrong


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(THRESHOLDS))
def test_so_they_do_where_cells_are_many_and_shifted(seed, threshold):
    """A mosaic of 64 cells and a shifted, coarser or finer one: a graph that hangs together, with halves at exactly 0.5."""
    rng = np.random.default_rng(seed)
    truth, found = (
        np.kron(np.arange(1, 64 // h * (64 // w) + 1).reshape(64 // h, 64 // w), np.ones((h, w), int))
        for h, w in ((8, 8), rng.choice([4, 8, 16], 2))
    )
    found = np.roll(found, rng.integers(0, 5, 2), axis=(0, 1)) * (rng.random(truth.shape) < rng.choice([0.9, 1.0]))
    shared = overlap(truth, found)
    matching, quality, covered, _ = by_a_full_matrix(truth, found, threshold)
    assert match(shared.iou, threshold) == matching
    assert panoptic_quality(shared.iou) == quality
    assert seg(shared).tolist() == covered


@given(labels)
def test_a_perfect_prediction(truth):
    evaluation = evaluate([("a", truth, truth + 7 * (truth > 0))])
    assert all(m.f1 == m.ap == 1 for m in evaluation.matchings)
    assert evaluation.mae == 0


def test_images_are_pooled():
    evaluation = evaluate([("a", TRUTH, FOUND), ("b", TRUTH, TRUTH)])
    assert evaluation.names == ("a", "b")
    assert (evaluation.true_counts, evaluation.predicted_counts) == ((3, 3), (4, 3))
    assert tuple(m.threshold for m in evaluation.matchings) == THRESHOLDS
    assert evaluation.matchings[0] == Matching(0.5, tp=5, fp=2, fn=1)
    assert evaluation.matchings[0].ap == 5 / 8  # of the sums, not the mean of the images
    assert evaluation.mae == 0.5
    assert evaluation.bias == pytest.approx(1 / 6)


def test_bias_without_truth_is_unknown():
    assert np.isnan(evaluate([("a", 0 * TRUTH, FOUND)]).bias)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"The truth has the shape \(4, 10\) and the prediction \(4, 9\)"):
        iou_matrix(TRUTH, FOUND[:, 1:])


def test_what_nobody_annotated_is_not_judged():
    partly = np.where(np.arange(TRUTH.shape[1]) < TRUTH.shape[1] // 2, TRUTH, -1)
    result = evaluate([("a", partly, TRUTH)])
    assert result.matchings[0].fp == 0
    assert result.true_counts == result.predicted_counts


def test_nor_do_its_pixels_count_as_background():
    """Nobody annotated the right part, so the scores are those of the left part alone."""
    partly = np.where(np.arange(10) < 6, TRUTH, -1)
    assert evaluate([("a", partly, FOUND)]).scores == pytest.approx(evaluate([("a", TRUTH[:, :6], FOUND[:, :6])]).scores)


def test_in_a_stack_ids_count_within_a_plane():
    again = np.stack([TRUTH] * 3)  # each plane begins at 1
    through = again + np.arange(3)[:, None, None] * TRUTH.max() * (again > 0)
    result = evaluate([("a", again, through)])
    assert result.matchings[0].ap == 1
    assert result.true_counts == (3 * (len(np.unique(TRUTH)) - 1),)


def test_bodies_are_matched_as_bodies():
    body = np.stack([TRUTH] * 4)
    assert evaluate([("a", body, body)]).true_counts == (len(np.unique(TRUTH)) - 1,)
    series = np.stack([body, body])  # each volume begins at 1
    through = series + np.arange(2)[:, None, None, None] * TRUTH.max() * (series > 0)
    result = evaluate([("a", series, through)])
    assert result.true_counts == result.predicted_counts == (2 * (len(np.unique(TRUTH)) - 1),)
    assert result.matchings[0].ap == 1


# ------------------------------------------------------------------ against MONAI

some = arrays(np.int8, (6, 7), elements=st.sampled_from([0, 0, 1, 2, 3]))


@st.composite
def alike(draw):
    """Two label images that are mostly the same, so that cells match at high IoU too."""
    truth, other, changed = draw(some), draw(some), draw(arrays(np.bool_, (6, 7), elements=st.sampled_from([True, False, False, False])))
    truth[0, 0] = 1
    found = np.where(changed, other, truth)
    found[0, 1] = 2
    return truth, found


@settings(max_examples=30)
@given(alike(), st.sampled_from([0.5, 0.55, 0.6, 0.7, 0.8, 0.9]))
def test_matching_and_its_scores_are_those_of_monai(pair, threshold):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    threshold += 1e-4  # exactly 0.6 is enough here and not there
    found = [torch.tensor(a.astype(np.int32)) for a in pair[::-1]]
    tp, fp, fn, _ = metrics.compute_panoptic_quality(*found, match_iou_threshold=threshold, output_confusion_matrix=True)
    ours = match(overlap(*pair).iou, threshold)
    assert ours == Matching(threshold, int(tp), int(fp), int(fn))
    table = torch.stack([tp, fp, torch.zeros(()), fn])  # no cell is a true negative
    names = {"threat score": ours.ap, "f1 score": ours.f1, "precision": ours.precision, "sensitivity": ours.recall}
    for name, value in names.items():
        assert value == pytest.approx(metrics.compute_confusion_matrix_metric(name, table).item()), name
    quality = metrics.compute_panoptic_quality(*found, metric_name="rq", match_iou_threshold=threshold).item()
    assert ours.f1 == pytest.approx(quality, abs=1e-5)  # they add a millionth below the line


@settings(max_examples=20)
@given(alike(), alike())
def test_panoptic_quality_and_areas_of_two_images_are_those_of_monai(first, second):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    ours = evaluate([("a", *first), ("b", *second)]).scores
    truth, found = (torch.tensor(np.stack([one, other]).astype(np.int64)) for one, other in zip(first, second, strict=True))
    panoptic = metrics.PanopticQualityMetric(num_classes=1, reduction="sum_batch")
    panoptic(*(torch.stack([a, (a > 0).long()], dim=1) for a in (found, truth)))
    assert ours["panoptic quality"] == pytest.approx(panoptic.aggregate().item(), abs=1e-5)
    # The pixels of both images as those of one:
    one_hot = [torch.nn.functional.one_hot((a.reshape(1, 12, 7) > 0).long(), 2).movedim(-1, 1) for a in (found, truth)]
    iou, dice = metrics.compute_iou(*one_hot)[0], metrics.compute_dice(*one_hot)[0]
    assert ours["pixel IoU"] == pytest.approx(iou[1].item())
    assert ours["mean IoU"] == pytest.approx(iou.mean().item())
    assert ours["Dice"] == pytest.approx(dice[1].item())
