"""Corrected counts: every possible sample of small studies, and what must hold for any."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from napari_tally.core.corrected_count import Sample

PREDICTED = np.array([0, 0, 1, 0, 9, 7, 8, 12, 10])
HAND = np.array([1, 0, 1, 2, 8, 9, 8, 15, 7])
STRATA = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])


def every_sample(n: tuple[int, ...] = (2, 3)) -> list[list[int]]:
    """All samples that the design can give."""
    each = [combinations(np.flatnonzero(STRATA == h), k) for h, k in enumerate(n)]
    return [[int(i) for part in parts for i in part] for parts in product(*each)]


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_the_mean_over_every_possible_sample_is_the_truth(weight):
    estimates = [Sample(PREDICTED, STRATA, drawn, HAND[drawn], weight).total().corrected for drawn in every_sample()]
    assert len(estimates) == 6 * 10
    assert np.mean(estimates) == pytest.approx(HAND.sum(), abs=1e-9)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_mean_estimated_variance_is_the_variance_over_every_possible_sample(weight):
    samples = [Sample(PREDICTED, STRATA, drawn, HAND[drawn], weight) for drawn in every_sample()]
    spread = [sample._variance(sample._spread(HAND[drawn] - weight * PREDICTED[drawn]), sample._n) for sample, drawn in _with(samples)]
    assert np.mean(spread) == pytest.approx(np.var([sample.total().corrected for sample in samples]))


def _with(samples):
    return zip(samples, every_sample(), strict=True)


def test_the_learnt_weight_costs_little_bias_even_with_five_windows():
    estimates = [Sample(PREDICTED, STRATA, drawn, HAND[drawn]).total().corrected for drawn in every_sample()]
    assert np.mean(estimates) == pytest.approx(HAND.sum(), rel=0.03)


def test_the_mean_of_the_parts_over_every_sample():
    """With all windows of a stratum equally likely, a part is estimated nearly without bias, and its parts do not depend on the others."""
    part = np.isin(np.arange(len(HAND)), [4, 5, 6, 7])
    rows = [Sample(PREDICTED, STRATA, drawn, HAND[drawn], 1.0).part(part) for drawn in every_sample((3, 4))]
    known = [row.corrected for row in rows if np.isfinite(row.corrected)]
    assert np.mean(known) == pytest.approx(HAND[part].sum(), rel=0.02)


def test_a_part_in_which_the_model_is_far_off_is_counted_by_hand_alone():
    """Debris in six of 40 windows, and just these are drawn: with the prediction that would be 300 - 40 * 48 cells."""
    part, drawn = np.arange(80) < 40, [*range(6), *range(40, 60)]
    predicted, hand = np.repeat([50, 0, 9], [6, 34, 40]), np.repeat([2, 9], [40, 40])
    hand[3] = 4
    sample = Sample(predicted, np.zeros(80, int), drawn, hand[drawn], weight=1.0)
    row, other = sample.part(part), sample.part(~part)
    assert (row.weight, other.weight, sample.total().weight) == (0, 1, 1)
    assert row.corrected == pytest.approx(40 * 14 / 6)
    assert 14 <= row.low <= row.corrected <= row.high < 3 * row.corrected
    assert (other.corrected, other.clicks) == (360, 180)


def test_a_part_of_which_too_little_is_known_has_no_interval_rather_than_an_absurd_one():
    hand, strata = np.zeros(80, int), np.tile(np.repeat([0, 1], [36, 4]), 2)
    hand[36] = 30  # one window with cells, in the stratum that is small
    drawn = [0, 36, 37, 38, 40, 76]
    row = Sample(np.zeros(80), strata, drawn, hand[drawn]).part(np.arange(80) < 40)
    assert row.corrected == pytest.approx(40 * (30 * 2) / (36 + 3 * 2))
    assert not row.known


def test_the_parts_of_a_study_are_sensible_whatever_the_model_finds(rng):
    rows, covered = [], []
    for _ in range(60):
        true, image = rng.poisson(rng.gamma(0.5, 12, 200)), np.arange(200) // 40
        predicted = rng.poisson(6, 200) * (rng.random(200) < 0.5) * 3  # nonsense
        drawn = rng.permutation(200)[:30]
        sample = Sample(predicted, np.zeros(200, int), drawn, true[drawn])
        for k in range(5):
            row = sample.part(image == k)
            if row.windows >= 4:
                rows.append(row)
                covered += [row.low <= true[image == k].sum() <= row.high] * row.known
    assert all(row.clicks <= row.corrected for row in rows)
    assert all(row.clicks <= row.low <= row.corrected <= row.high < 40 * row.corrected for row in rows if row.known)
    assert sum(row.known for row in rows) > 0.9 * len(rows)
    assert np.mean(covered) > 0.88


def test_a_part_without_cells_keeps_its_interval():
    row = Sample(np.zeros(40), np.zeros(40, int), range(10), [0, 0, 0, 0, 0, 3, 2, 4, 3, 2]).part(np.arange(40) % 20 < 5)
    assert (row.corrected, row.low, row.clicks) == (0, 0, 0)
    assert row.high == pytest.approx(3.689 * 10 / 5 * np.sqrt(0.5), rel=1e-3)


def test_all_windows_counted_is_the_truth_and_nothing_is_left_to_guess():
    total = Sample(PREDICTED, STRATA, range(9), HAND).total()
    assert (total.corrected, total.low, total.high) == pytest.approx((HAND.sum(),) * 3)
    part = Sample(PREDICTED, STRATA, range(9), HAND).part(STRATA == 1)
    assert (part.low, part.high, part.clicks) == (47, 47, 47)


@pytest.mark.parametrize("cells", [0, 5])
def test_no_mistake_seen_is_no_proof_that_there_is_none(cells):
    predicted = np.full(100, cells)
    total = Sample(predicted, np.zeros(100, int), range(16), predicted[:16]).total()
    assert total.corrected == 100 * cells
    # up to 3.7 missed cells agree with none in 16 windows: 3.7 / 16 * 100 windows, less for those that are counted
    assert total.high - total.corrected == pytest.approx(3.689 / 16 * 100 * np.sqrt(0.84), rel=1e-3)
    assert 16 * cells <= total.low <= total.corrected - min(cells, 20)
    assert Sample(predicted, np.zeros(100, int), range(99), predicted[:99]).total().margin > 0


def test_a_model_that_is_right_everywhere_gives_a_narrower_interval_than_hand_counts_alone(rng):
    true = rng.poisson(8, 300)
    wrong = true + (rng.random(300) < 0.2)
    drawn = rng.permutation(300)[:16]
    with_model = Sample(wrong, np.zeros(300, int), drawn, true[drawn]).total()
    alone = Sample(wrong, np.zeros(300, int), drawn, true[drawn], weight=0.0).total()
    assert with_model.margin < 0.4 * alone.margin
    assert with_model.low <= true.sum() <= with_model.high


def test_a_model_that_is_no_use_takes_part_with_a_small_weight(rng):
    true, nonsense = rng.poisson(8, 1000), rng.poisson(40, 1000) * 3
    drawn = rng.permutation(1000)[:200]
    sample = Sample(nonsense, np.zeros(1000, int), drawn, true[drawn])
    assert abs(sample.weight) < 0.05
    alone = Sample(nonsense, np.zeros(1000, int), drawn, true[drawn], weight=0.0).total()
    assert sample.total().margin == pytest.approx(alone.margin, rel=0.03)


def test_too_few_windows_have_no_interval():
    for drawn in ([], [0], [0, 4], [0, 1, 4]):
        sample = Sample(PREDICTED, STRATA, drawn, HAND[drawn])
        total = sample.total()
        assert not sample.enough
        assert np.isnan([total.low, total.high]).all()
        assert np.isnan(sample.expected_margin([5]))
        assert np.isnan(total.corrected) == (len(drawn) < 2)
    assert np.isnan(Sample(PREDICTED, STRATA, [0, 1, 4, 5, 6], HAND[[0, 1, 4, 5, 6]]).part(STRATA == 1).low)


def test_more_windows_are_expected_to_narrow_the_interval(rng):
    true = rng.poisson(8, 400)
    predicted = rng.binomial(true, 0.9)
    order = rng.permutation(400)
    sample = Sample(predicted, np.zeros(400, int), order[:20], true[order[:20]])
    margins = [sample.total().margin] + [sample.expected_margin(order[20 : 20 + more]) for more in (10, 40, 380)]
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] == 0  # all are counted then
    # four times as many windows: half the standard error, less for the fewer that are left, and t is closer to normal
    half = 0.5 * np.sqrt((1 - 80 / 400) / (1 - 20 / 400)) * student.ppf(0.975, 78) / student.ppf(0.975, 18)
    assert sample.expected_margin(order[20:80]) == pytest.approx(margins[0] * half, rel=0.05)


def test_the_interval_reaches_further_where_few_windows_decide():
    """Two strata with equal variances; or one with it all, and so with 3 degrees of freedom instead of 6."""
    strata, drawn, predicted = np.repeat([0, 1], 50), [0, 1, 2, 3, 50, 51, 52, 53], np.full(100, 20)
    even = Sample(predicted, strata, drawn, [18, 22, 18, 22, 18, 22, 18, 22], 1.0).total()
    uneven = Sample(predicted, strata, drawn, [20, 20, 20, 20, *(20 + np.sqrt(2) * np.array([-2, 2, -2, 2]))], 1.0).total()
    assert uneven.low < even.low
    error = (2000 - even.low) / student.ppf(0.975, 6)
    for total, freedom in ((even, 6), (uneven, 3)):
        assert total.high == pytest.approx(2000 * np.exp(student.ppf(0.975, freedom) * np.sqrt(np.log1p((error / 2000) ** 2))))


def test_a_window_is_counted_once():
    with pytest.raises(ValueError, match="Every window that is drawn needs one hand count"):
        Sample(PREDICTED, STRATA, [0, 0], [1, 1])


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2)), min_size=10, max_size=40),
    st.integers(0, 1000),
)
def test_the_interval_is_in_order_for_any_counts(windows, seed):
    predicted, hand, strata = np.array(windows).T
    strata = np.unique(strata, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(len(hand))
    sample = Sample(predicted, strata, order[:8], hand[order[:8]])
    total = sample.total()
    assert 0 <= sample.weight <= 1.5
    if sample.enough:
        assert hand[order[:8]].sum() <= total.low <= total.high
        assert total.low <= max(total.corrected, hand[order[:8]].sum()) <= total.high
        assert np.isfinite([total.low, total.high]).all()
        assert total.margin > 0 or len(hand) == 8
