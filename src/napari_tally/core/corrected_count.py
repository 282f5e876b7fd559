"""From predicted counts everywhere and hand counts in a random sample of windows to a corrected count with its interval.

The windows of a study are sorted into strata; of the N_h windows of stratum h, n_h are drawn at random and counted by hand::

    window i       p_i  predicted cells, known of every window     y_i  hand count, known of the sample

    corrected = w * sum of all p  +  sum over h of  N_h / n_h * sum over the sample in h of (y_i - w * p_i)
                └ the prediction ┘   └──────── what the hand counts say is wrong with it ────────────────┘

With a fixed weight w this is the difference estimator of survey sampling (Saerndal, Swensson and Wretman 1992, section 6.3): right on
average over all samples, whatever the model does. Here w is learnt from the sample (the optimal regression estimator; "power tuning" in
Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453, section 6, after prediction-powered inference, Angelopoulos et al. 2023,
doi:10.1126/science.adi6000), so a model that is no use takes part with w near 0; where even that widens the interval, w is 0, and the
result is that of counting by hand.

The interval goes down by Student's t and up by the log-normal formula that distance sampling uses for animals (Buckland et al. 2001,
section 3.6.1), with the degrees of freedom of Satterthwaite (1946): the cells that a model misses lie crowded in few windows, so a
sample that has met few of them gives a count and a standard error that are both too small. Chosen by measured coverage, see
``benchmarks/audit_coverage.py``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL = 0.95
_TRUST = 4
"""The weight is learnt as if so many more windows had been counted in which hand count / prediction is as in all windows together."""
_MOST = 1.5
"""The largest weight."""
_UNSEEN = float(-np.log((1 - LEVEL) / 2))
"""So many mistakes may be expected in a sample that shows none (Poisson): 3.7. They keep the interval from closing by luck."""
_JUDGE = 8
"""Windows that must be counted before the prediction is left out for doing harm; judged by fewer, the count would be biased."""
_FEW = 4
"""Windows in a part of the study below which it has no interval of its own."""


@dataclass(frozen=True)
class Corrected:
    """A corrected count.

    Attributes
    ----------
    predicted : float
        Cells predicted in all windows.
    corrected : float
        NaN where no window is counted.
    low, high : float
        95 % interval; NaN where the sample is too small to give one.
    windows, clicks : int
        Windows counted by hand, and the cells in them.
    weight : float
        The weight w of the prediction: 1 = taken whole, 0 = no use.
    """

    predicted: float
    corrected: float
    low: float
    high: float
    windows: int
    clicks: int
    weight: float

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low == self.low  # not NaN

    @property
    def margin(self) -> float:
        """Half the width of the interval, in cells."""
        return (self.high - self.low) / 2


class Sample:
    """Hand counts in a stratified random sample of windows.

    Parameters
    ----------
    predicted : (N,) array
        Predicted cells of every window of the study.
    strata : (N,) int array
        The stratum of every window, from 0 on, each used.
    drawn : (n,) int array
        Indices of the windows that are counted by hand; in each stratum a simple random sample without replacement.
    hand : (n,) array
        Their hand counts.
    weight : float, optional
        The weight w; left out, it is learnt from the sample.

    Examples
    --------
    >>> windows = {"predicted": [8, 7, 9, 8, 1, 0, 1, 2], "strata": [0, 0, 0, 0, 1, 1, 1, 1]}
    >>> sample = Sample(**windows, drawn=[0, 2, 5, 7], hand=[9, 9, 0, 4], weight=1.0)
    >>> sample.total().corrected  # 36 predicted, and 2 * (1 + 0) + 2 * (0 + 2) that were missed
    42.0
    """

    def __init__(self, predicted: ArrayLike, strata: ArrayLike, drawn: ArrayLike, hand: ArrayLike, weight: float | None = None) -> None:
        self._p, self._strata = np.asarray(predicted, float), np.asarray(strata, int)
        self._drawn, self._y = np.asarray(drawn, int), np.asarray(hand, float)
        if len(self._drawn) != len(self._y) or len(np.unique(self._drawn)) != len(self._drawn):
            raise ValueError("Every window that is drawn needs one hand count.")
        self._size = np.bincount(self._strata).astype(float)  # N_h
        self._in = self._strata[self._drawn]
        self._n = np.bincount(self._in, minlength=len(self._size)).astype(float)  # n_h
        self._learnt = weight is None and bool(np.ptp(self._p))  # of equal predictions there is nothing to learn
        self.weight = self._learn() if self._learnt else 1.0 if weight is None else weight
        if self._learnt and self.enough and len(self._y) >= _JUDGE and self._does_harm():
            self.weight, self._learnt = 0.0, False

    @property
    def enough(self) -> bool:
        """Whether every stratum has two hand counts (or all), so that there can be an interval."""
        return bool(((self._n >= 2) | (self._n == self._size)).all()) and self._freedom(self._n) >= 1

    def total(self) -> Corrected:
        """Correct the count of the whole study."""
        if not (self._n > 0).all():
            return self._report(self._p.sum(), np.nan)
        residual = self._y - self.weight * self._p[self._drawn]
        corrected = self.weight * self._p.sum() + (self._size / self._n * self._sums(residual)).sum()
        corrected = max(corrected, self._y.sum())  # no fewer than were counted
        if not self.enough:
            return self._report(self._p.sum(), corrected)
        return self._report(self._p.sum(), corrected, *self._interval(corrected, self._spread(residual), self._n, self._y.sum()))

    def part(self, of: NDArray[np.bool_]) -> Corrected:
        """Correct the count of a part of the study, for example of an image or a group.

        Parameters
        ----------
        of : (N,) bool array
            The windows of the part.

        Notes
        -----
        Saerndal et al. 1992, section 10.3: the mean residual in the part times its number of windows. The weight is that of the study,
        but 0, so hand counts alone, where the standard error is larger than the count: what the model does elsewhere is no help then.
        Where it is larger even so there is no interval. A part holds no fewer cells than were counted in it.
        """
        here, p = of[self._drawn], float(self._p[of].sum())
        n, clicks = int(here.sum()), float(self._y[here].sum())
        if n == of.sum():
            return Corrected(p, clicks, clicks, clicks, n, int(clicks), self.weight)
        if n < _FEW or not self.enough:
            return Corrected(p, np.nan, np.nan, np.nan, n, int(clicks), self.weight)
        weight = self.weight
        corrected, error = self._part(of, here, weight)
        if error > corrected:  # a prediction that is far off in this part, and would make it negative
            weight = 0.0
            corrected, error = self._part(of, here, weight)
        known = error <= corrected  # else the upper end, which grows as exp(error / corrected), would say nothing
        corrected = max(corrected, clicks)
        if not known:
            return Corrected(p, corrected, np.nan, np.nan, n, int(clicks), weight)
        low, high = _bounds(corrected, error, n - 1 - self._learnt, clicks, _UNSEEN * of.sum() / n * np.sqrt(1 - n / of.sum()))
        return Corrected(p, corrected, low, high, n, int(clicks), weight)

    def _part(self, of: NDArray[np.bool_], here: NDArray[np.bool_], weight: float) -> tuple[float, float]:
        """Give the corrected count of a part and its standard error; `here` are the windows drawn that lie in it."""
        n, size = here.sum(), of.sum()
        expansion = (self._size / np.maximum(self._n, 1))[self._in]
        residual = self._y - weight * self._p[self._drawn]
        seen = expansion[here].sum()  # windows of the part, as the sample estimates them
        mean = (expansion * residual)[here].sum() / seen
        variance = self._variance(self._spread(here * (residual - mean) * size / seen), self._n)
        return float(weight * self._p[of].sum() + size * mean), float(np.sqrt(variance * n / (n - 1)))

    def expected_margin(self, more: ArrayLike) -> float:
        """Give the margin to be expected after more windows.

        Parameters
        ----------
        more : (m,) int array
            The windows that will be counted next.
        """
        now = self.total()
        if not self.enough:
            return float("nan")
        n = self._n + np.bincount(self._strata[np.asarray(more, int)], minlength=len(self._n)).astype(float)
        spread = self._spread(self._y - self.weight * self._p[self._drawn])
        low, high = self._interval(now.corrected, spread, n, 0)
        return (high - low) / 2

    def _learn(self) -> float:
        """Minimise the estimated variance over w, with a few windows' worth of trust in the ratio of all hand counts to the prediction."""
        p, y = self._p[self._drawn], self._y
        factor = self._factor(self._n) / np.maximum(self._n - 1, 1)
        spread_p, spread_y = p - self._means(p), y - self._means(y)
        both, own = (factor * self._sums(spread_p * spread_y)).sum(), (factor * self._sums(spread_p**2)).sum()
        everywhere = np.bincount(self._strata, self._p) / self._size
        variance = np.bincount(self._strata, (self._p - everywhere[self._strata]) ** 2) / self._size
        trust = _TRUST / max(len(p), 1) * (self._factor(self._n) * variance).sum()
        expansion = self._size / np.maximum(self._n, 1)
        hand, predicted = (expansion * self._sums(y)).sum(), (expansion * self._sums(p)).sum()
        ratio = hand / predicted if predicted else 1.0
        return float(np.clip((both + min(ratio, _MOST) * trust) / (own + trust), 0, _MOST)) if own + trust > 0 else 1.0

    def _does_harm(self) -> bool:
        """Whether the hand counts alone vary less than what is left of them beside the prediction."""
        alone = (self._factor(self._n) * self._spread(self._y)).sum()
        return bool(alone < self._variance(self._spread(self._y - self.weight * self._p[self._drawn]), self._n))

    def _sums(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.bincount(self._in, values, len(self._n)).astype(float)

    def _means(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        return (self._sums(values) / np.maximum(self._n, 1))[self._in]

    def _spread(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sample variance in each stratum."""
        return self._sums((values - self._means(values)) ** 2) / np.maximum(self._n - 1, 1)

    def _factor(self, n: NDArray[np.floating]) -> NDArray[np.float64]:
        """By what the variance in each stratum adds to that of the total."""
        return self._size**2 * (1 - n / self._size) / np.maximum(n, 1)

    def _freedom(self, n: NDArray[np.floating]) -> float:
        """Degrees of freedom; strata that are counted whole add nothing."""
        part = n < self._size
        return float(n[part].sum() - part.sum() - self._learnt) if part.any() else np.inf

    def _variance(self, spread: NDArray[np.floating], n: NDArray[np.floating]) -> float:
        # The learnt weight has been fitted to the same residuals: as in any regression with one slope.
        fitted = 1 + 1 / (self._freedom(n) + 1) if self._learnt else 1.0
        return float(fitted * (self._factor(n) * spread).sum())

    def _interval(self, corrected: float, spread: NDArray[np.floating], n: NDArray[np.floating], seen: float) -> tuple[float, float]:
        part = n < self._size
        if not part.any():
            return corrected, corrected  # every window is counted
        scale = self._size[part].sum() / n[part].sum()
        least = _UNSEEN * scale * np.sqrt(1 - 1 / scale)
        shares = (self._factor(n) * spread)[part]  # of the variance
        most = self._freedom(n)
        freedom = min(most, shares.sum() ** 2 / (shares**2 / np.maximum(n[part] - 1, 1)).sum()) if shares.any() else most
        return _bounds(corrected, float(np.sqrt(self._variance(spread, n))), freedom, seen, least)

    def _report(self, predicted: float, corrected: float, low: float = np.nan, high: float = np.nan) -> Corrected:
        return Corrected(float(predicted), float(corrected), float(low), float(high), len(self._y), int(self._y.sum()), self.weight)


def _bounds(corrected: float, error: float, freedom: float, seen: float, least: float) -> tuple[float, float]:
    """Give the interval: t downwards, log-normal upwards, at least `least` to both sides, never below what was `seen`."""
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2))
    centre = max(corrected, seen, 1.0)
    factor = np.exp(reach * np.sqrt(np.log1p((error / centre) ** 2)))
    low, high = corrected - max(reach * error, least), max(centre * factor, corrected + reach * error, corrected + least)
    return float(max(low, seen)), float(max(high, seen))
