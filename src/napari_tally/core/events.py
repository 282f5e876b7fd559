"""Long work is a generator of small frozen events; its result is what the generator returns."""

from collections.abc import Callable, Generator
from typing import TypeVar

Event = TypeVar("Event")
Result = TypeVar("Result")


def run_to_end(generator: Generator[Event, None, Result], on_event: Callable[[Event], object] | None = None) -> Result:
    """Run a generator to its end.

    Parameters
    ----------
    generator : generator of events
    on_event : callable, optional
        Called with every event.

    Returns
    -------
    What the generator returns.
    """
    while True:
        try:
            event = next(generator)
        except StopIteration as end:
            return end.value
        if on_event:
            on_event(event)
