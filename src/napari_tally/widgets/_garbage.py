"""While work goes on beside the window, garbage is collected on the main thread alone.

Python collects on whichever thread happens to allocate, and closed dock widgets lie in its garbage, for they hang in cycles. On a worker
their C++ side would be destroyed on the wrong thread; PySide then deletes it a second time on the main thread, and napari ends with a
segmentation fault (seen with PySide 6.11)::

    hold() ──▶ Python's own collections are off ──▶ a timer of the window collects instead ──▶ nobody works any more ──▶ on again
"""

import gc
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from qtpy.QtCore import QCoreApplication, QTimer

from napari_tally.core.events import is_anything_beside

log = logging.getLogger(__name__)

_INTERVAL = 100
"""Milliseconds between two looks at how much garbage there may be."""


class _Collector:
    """Counts who works, and collects meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._working = 0
        self._was_on = False
        self._made = 0  # objects since all generations were collected
        self._timer: QTimer | None = None

    def hold(self) -> Callable[[], None]:
        with self._lock:
            if not self._working and (self._timer is None or not self._timer.isActive()):
                self._was_on = gc.isenabled()
            self._working += 1
            gc.disable()
        if self._timer is None:
            self._timer = QTimer(QCoreApplication.instance())
            self._timer.setInterval(_INTERVAL)
            self._timer.timeout.connect(self._look)
        self._timer.start()
        held = [True]

        def let_go() -> None:
            with self._lock:
                self._working -= bool(held)
                held.clear()

        return let_go

    def _look(self) -> None:
        """Collect as Python would have: young objects often, all of them seldom. Then, where nobody works any more, leave it to Python."""
        new, (few, *more) = gc.get_count()[0], (max(1, limit) for limit in gc.get_threshold())
        if new > few:
            self._made += new
            every = self._made > few * more[0] * more[1]
            hook, sys.excepthook = sys.excepthook, _note
            try:
                gc.collect(2 if every else int(new > few * more[0]))
            finally:
                sys.excepthook = hook
            self._made *= not every
        with self._lock:
            if not self._working and not is_anything_beside():  # what nobody waits for any more works on
                assert self._timer
                self._timer.stop()
                if self._was_on:
                    gc.enable()


def _note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Keep from the user what half of a plot answers when Qt asks for its size while it is taken apart."""
    log.debug("While garbage was collected", exc_info=(kind, error, trace))


_collector = _Collector()


def hold() -> Callable[[], None]:
    """Keep other threads from collecting garbage, from now on; to be called on the main thread.

    Returns
    -------
    callable
        Lets go again. It may be called on any thread, and more than once.
    """
    return _collector.hold()
