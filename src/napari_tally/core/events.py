"""Long work is a generator of small frozen events; its result is what the generator returns."""

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

Event = TypeVar("Event")
Result = TypeVar("Result")
News = TypeVar("News")


_BREATH = 0.1
"""Seconds between two moments at which a caller may walk away."""
_BESIDE = "napari-tally beside"
"""Name of the threads of calls that somebody may have stopped to wait for."""
_SHORT = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "could not create a primitive",  # oneDNN, which computes convolutions on Intel and AMD processors, gives no reason
    "could not create a memory",
)
OUT_OF_MEMORY = "The memory is not enough for this. Close other programs or images, choose a smaller tile or patch, or the device 'cpu'."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short; torch says so with a RuntimeError."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(words in text for words in _SHORT))


def reason_of(error: Exception) -> str:
    """Say why an image is passed over; what is no reason, but a mistake of ours, is raised again."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, ValueError):
        return str(error)
    raise error


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


def beside(work: Callable[..., Result], *arguments: Any, stop: threading.Event | None = None) -> Generator[None, None, Result]:
    """Do one long call on a thread of its own, and hand out a breath every moment meanwhile; give what it gives.

    Who walks away does not wait: the call comes to its end by itself, and what it gives is dropped. So it must only compute or read.

    Parameters
    ----------
    work : callable
    *arguments
        What to call it with.
    stop : threading.Event, optional
        For work that writes. It is set when the caller walks away, and then the end of the work is awaited, which has to come soon.
    """
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, work(*arguments)))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            outcome.append((False, error))

    thread = threading.Thread(target=run, name=_BESIDE, daemon=True)
    thread.start()
    try:
        thread.join(_BREATH)
        while thread.is_alive():
            yield
            thread.join(_BREATH)
    finally:
        if stop is not None:
            stop.set()
            thread.join()
    well, value = outcome[0]
    if not well:
        raise value
    return value


def is_anything_beside() -> bool:
    """Whether some call is still on its way :func:`beside`, waited for or not."""
    return any(thread.name == _BESIDE for thread in threading.enumerate())


def paced(generator: Generator[Event, None, Result]) -> Generator[Event, None, Result]:
    """Hand out the events of other work, at most about ten a second; give its result."""
    last = time.monotonic()
    while True:
        try:
            event = next(generator)
        except StopIteration as end:
            return end.value
        if time.monotonic() - last >= _BREATH:
            last = time.monotonic()
            yield event


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


def saying(generator: Generator[object, None, Result], news: News) -> Generator[News, None, Result]:
    """Hand out the same news for every event of other work; give its result."""
    return mapped(generator, lambda _: news)
