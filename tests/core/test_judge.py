"""Scores, thresholds, and whether training helped, on pictures drawn by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import picture, plane

from napari_tally.core.events import run_to_end
from napari_tally.core.judge import Comparison, Score, choose_counting, fit_counting, judge, labels_of, score
from napari_tally.core.unet import UNet
from napari_tally.settings import CountingSettings

ANY_SIZE = CountingSettings(min_area=0, smoothing=0)


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


def test_where_a_cell_may_go_on_no_class_is_asked_for(mirror):
    truth = picture("11111???\n11111???\n11111???")
    assert scored(mirror, truth * (truth > 0), truth).loss == 0  # not even in the last column of the cell
    assert scored(mirror, picture("????\n????\n????"), picture("?1??\n????\n????")).loss == 0  # of a cell of one pixel nothing is known


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


def test_only_whole_cells_say_how_small_they_are(mirror):
    truth = grid(3)
    truth[:, 32:] = -1  # what is annotated ends in the middle of the last column
    (better, _) = run_to_end(fit_counting([judge(mirror, [plane(truth)])], ANY_SIZE))
    assert better.min_area == 4  # half of 9; the cut ones have 3


def test_a_few_cells_change_no_threshold(mirror):
    assert run_to_end(fit_counting([judge(mirror, [plane(grid(1))])], ANY_SIZE))[0] == ANY_SIZE


def test_thresholds_nearly_as_good_do_not_replace_those_given(mirror):
    given = replace(ANY_SIZE, seed_threshold=0.33)
    assert run_to_end(fit_counting([judge(mirror, [plane(grid(2))])], given))[0].seed_threshold == 0.33


def test_learned_cells_cannot_ask_for_more_breaking(mirror):
    """Pairs with a shallow gap between them: to tell them apart takes shallower valleys than those given."""
    truth, found = np.zeros((14, 140), np.int32), np.zeros((14, 140), np.float32)
    for i in range(10):
        truth[2:12, 14 * i + 1 : 14 * i + 7], truth[2:12, 14 * i + 7 : 14 * i + 13] = 2 * i + 1, 2 * i + 2
        found[2:12, 14 * i + 1 : 14 * i + 13] = 1
        found[2:12, 14 * i + 6 : 14 * i + 8] = 0.5 + np.log(0.7 / 0.3) / 200  # a probability of 0.7
    judged = judge(mirror, [replace(plane(truth), picture=found[None])])
    given = replace(ANY_SIZE, valley=0.2, smoothing=1.0)
    assert score([judged], [given]).predicted_count == 10
    held_out, learned = (run_to_end(fit_counting([judged], given, learned=known))[0] for known in (False, True))
    assert score([judged], [held_out]).predicted_count == 20
    assert (learned.valley, learned.smoothing) == (0.2, 1.0)


def test_each_fold_gets_the_thresholds_that_fit_the_other(mirror):
    def fold(speck):
        truth, found = grid(2), grid(2, speck=speck)
        return judge(mirror, [replace(plane(truth), picture=(found > 0)[None].astype(np.float32))])

    large = judge(mirror, [plane(np.kron(grid(2), np.ones((3, 3), np.int32)))])  # cells of 81 px
    both, for_specks, for_large = run_to_end(fit_counting([fold(speck=True), large], ANY_SIZE))
    assert (both.min_area, for_specks.min_area, for_large.min_area) == (4, 40, 4)
    # Those that fit the large cells lose the small ones, so what was given stays; specks in both folds are dropped in both.
    assert run_to_end(choose_counting([fold(speck=True), large], ANY_SIZE))[0] == ANY_SIZE
    chosen, score = run_to_end(choose_counting([fold(speck=True), fold(speck=True)], ANY_SIZE))
    assert (chosen.min_area, score.f1) == (4, 1)


@pytest.mark.parametrize(
    ("gain", "helped", "verdict"),
    [(0.0, False, "changed nothing"), (0.35, False, "no more than chance may"), (0.45, True, "Training helped"), (-0.1, False, "worse")],
)
def test_a_start_that_knows_cells_of_any_size_is_given_up_for_more_than_two_cells(gain, helped, verdict):
    comparison = Comparison(7, a_score(0.5), a_score(0.5 + gain), is_broad=True)  # of 10 cells
    assert comparison.helped is helped
    assert verdict in comparison.verdict


def a_score(ap, count=10):
    return Score(0.1, ap, (ap,) * 4, 10, count)


def test_a_better_count_of_worse_outlines_is_called_that():
    comparison = Comparison(7, a_score(0.5, 20), a_score(0.4, 12))
    assert comparison.helped
    assert comparison.verdict == "Training made the count better and the outlines worse, on 10 held-out cells."


@pytest.mark.parametrize(
    ("before", "after", "count", "helped", "verdict"),
    [
        (0.5, 0.6, 10, True, "Training helped"),
        (0.5, 0.5, 10, True, "changed nothing"),
        (0.6, 0.5, 10, False, "made it worse"),
        (0.5, 0.6, 8, False, "the outlines better and the count worse"),
        (0.5, 0.75, 8, True, "Training helped"),
    ],
)
def test_did_it_help(before, after, count, helped, verdict):
    comparison = Comparison(7, a_score(before), a_score(after, count))
    assert comparison.helped is helped
    assert verdict in comparison.verdict
    assert "10 held-out cells" in comparison.verdict
    assert comparison.rows()[:3] == [
        ("Agreement F1", f"{before:.2f}", f"{after:.2f}"),
        ("Average precision", f"{before:.2f}", f"{after:.2f}"),
        ("Counted, of 10", "10 (+0%)", f"{count} ({count / 10 - 1:+.0%})"),
    ]
