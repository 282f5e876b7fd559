"""Long work is a generator of small frozen events; its result is what the generator returns."""

from collections.abc import Callable, Generator
from typing import TypeVar

Event = TypeVar("Event")
Result = TypeVar("Result")
News = TypeVar("News")


OUT_OF_MEMORY = "The memory is not enough for this. Close other programs or images, choose a smaller tile or patch, or the device 'cpu'."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short; torch says so with a RuntimeError."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text or "not enough memory" in text)
    )


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


def part_of(parts: int, number: int) -> Callable[[float], float]:
    """Turn the fraction that is done of one of several equal parts (0..) into that of the whole."""
    return lambda fraction: (number + fraction) / parts


def mapped(generator: Generator[Event, None, Result], change: Callable[[Event], News]) -> Generator[News, None, Result]:
    """Hand out the events of other work, each changed; give its result.

    Parameters
    ----------
    generator : generator of events
    change : callable
        Turns an event into the news to hand out.
    """
    while True:
        try:
            event = next(generator)
        except StopIteration as end:
            return end.value
        yield change(event)
