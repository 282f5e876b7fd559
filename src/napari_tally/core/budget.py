"""How much of the time, or of the steps, of a training is used, and when more of it brings nothing."""

import time
from collections.abc import Generator
from typing import TypeVar

from napari_tally.settings import TrainingSettings

_Event = TypeVar("_Event")
_Result = TypeVar("_Result")


class Flat:
    """Says when the held-out score has been flat: no new best for half of the phase, and for a few hundred steps."""

    def __init__(self, began: int, best_at: int | None = None, best: float = -1.0) -> None:
        self.state = (began, began if best_at is None else best_at, best)

    def since(self, step: int, quality: float) -> bool:
        """Take the score of a step; give whether it is time to stop."""
        began, best_at, best = self.state
        if quality > best + 0.005:
            best_at, best = step, quality
        self.state = (began, best_at, best)
        return step - best_at > max(400, (step - began) / 2)


class Clock:
    """How much of the budget is used. Time in which the caller keeps us waiting is left out.

    Parameters
    ----------
    settings : TrainingSettings
        Minutes, or steps.
    active, skipped : float
        Of a training that goes on: the seconds of work so far, and the share of the budget that was given up.
    """

    def __init__(self, settings: TrainingSettings, active: float = 0.0, skipped: float = 0.0) -> None:
        self._settings = settings
        self._began = time.perf_counter() - active
        self._waited, self.skipped = 0.0, skipped

    def skip(self, share: float) -> None:
        """Give up a share of the budget."""
        self.skipped += share

    def outside(self, event: _Event) -> Generator[_Event, None, None]:
        """Hand out an event and stop the clock until the caller comes back."""
        began = time.perf_counter()
        yield event
        self._waited += time.perf_counter() - began

    def following(self, work: Generator[_Event, None, _Result]) -> Generator[_Event, None, _Result]:
        """Hand out the events of other work in the same way; give its result."""
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            yield from self.outside(event)

    @property
    def active(self) -> float:
        """Seconds of our own work so far."""
        return time.perf_counter() - self._began - self._waited

    def share(self, seconds: float) -> float:
        """Give the share of the budget that so many seconds are (0 when the budget is steps)."""
        return 0.0 if self._settings.steps else seconds / (60 * self._settings.minutes)

    def fraction(self, step: int) -> float:
        """Give the used share of the budget, 0 to 1."""
        return min(1.0, self.skipped + (step / self._settings.steps if self._settings.steps else self.share(self.active)))

    def seconds_left(self, step: int) -> float:
        """Estimate the seconds to the end."""
        left = 1 - self.fraction(step)
        return left * (self.active / max(1, step) * self._settings.steps if self._settings.steps else 60 * self._settings.minutes)
