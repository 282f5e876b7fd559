"""Long work beside the window: a generator of events on a worker thread, and its errors as notifications.

::

            start()              pause()
    idle ───────────▶ running ◀──────────▶ paused        idle, done, stopped and failed can start again
                       │ │ │    resume()   │
                       │ │ └──── stop() ───┴──▶ stopping ──▶ stopped
                       │ └── the generator returns ────────▶ done
                       └── it raises ──────────────────────▶ failed

Between two events the generator is suspended, and that is where pausing and stopping act; on stopping it
is closed, on the worker thread, so its ``finally`` runs. The worker thread touches nothing of Qt: it lays
the newest event of each kind into a tray, which the window empties ten times a second. So a fast
generator cannot flood the window, and the last news of each kind always arrives.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any

from psygnal import EmitLoopError, Signal
from qtpy.QtCore import QObject, QThreadPool, QTimer
from superqt.utils import WorkerBase

from napari_tally.core.events import OUT_OF_MEMORY, is_out_of_memory
from napari_tally.widgets._garbage import hold

_INTERVAL = 100
"""Milliseconds between two looks into the tray."""
_USERS = (ValueError, OSError)
"""Errors that the user can do something about; their message says what. Any other is a bug."""

MakeGenerator = Callable[[], Generator[Any, None, Any]]

log = logging.getLogger(__name__)


class Job:
    """Runs a generator of events on a worker thread.

    Parameters
    ----------
    parent : QObject
        The widget that the job belongs to; when it goes, the job stops.

    Attributes
    ----------
    event : psygnal signal (object)
        An event of the generator. Of each class only the newest comes through, at most ten times a second.
    returned : psygnal signal (object)
        The generator is at its end; what it returned.
    failed : psygnal signal (Exception)
        The generator raised. The user has been told already.
    stopped : psygnal signal ()
        The generator was stopped and is closed.
    state_changed : psygnal signal (str)
        The new state. It is emitted before `returned`, `failed` or `stopped`.
    state : str
        "idle", "running", "paused", "stopping", "stopped", "done" or "failed".

    Examples
    --------
    >>> job = Job(widget)  # doctest: +SKIP
    >>> job.event.connect(widget.show_progress)  # doctest: +SKIP
    >>> job.start(lambda: predict(model, image), description="Predicting")  # doctest: +SKIP
    """

    event = Signal(object)
    returned = Signal(object)
    failed = Signal(Exception)
    stopped = Signal()
    state_changed = Signal(str)

    def __init__(self, parent: QObject) -> None:
        self.state = "idle"
        self._task: _Task | None = None
        self._housed = False
        self._timer = QTimer(parent)
        self._timer.setInterval(_INTERVAL)
        self._timer.timeout.connect(self._look)
        parent.destroyed.connect(self._abandon)

    @property
    def is_active(self) -> bool:
        """Whether there is work that has not come to its end."""
        return self.state in ("running", "paused", "stopping")

    def start(self, make_generator: MakeGenerator, description: str = "Working") -> None:
        """Start the work.

        Parameters
        ----------
        make_generator : callable
            Called on the worker thread, so slow imports and preparations belong inside it.
        description : str
            What napari calls the work, for example when it asks before closing.

        Raises
        ------
        RuntimeError
            If the job is active already.
        """
        from napari.qt.threading import create_worker

        if self.is_active:
            raise RuntimeError(f"This job is {self.state}; one at a time.")
        self._task = _Task(make_generator, description)
        weakref.finalize(self, _stop, weakref.ref(self._task))  # a widget without a dock may be collected without a word from Qt
        # Through napari, so that it asks before closing the window and stops the work when it closes. Not with a progress bar
        # of napari: its animation repaints the whole window all the time, which without a graphics card takes half a core.
        create_worker(self._task, _worker_class=_Worker, _ignore_errors=True, _start_thread=True)
        self._timer.start()
        self._enter("running")

    def pause(self) -> None:
        """Suspend the generator at its next event."""
        if self._task and self.state == "running":
            self._task.go.clear()
            self._enter("paused")

    def resume(self) -> None:
        """Let the generator go on."""
        if self._task and self.state == "paused":
            self._task.go.set()
            self._enter("running")

    def stop(self) -> None:
        """Close the generator at its next event."""
        if self._task and self.state in ("running", "paused"):
            self._task.stop()
            self._enter("stopping")

    def _enter(self, state: str) -> None:
        self.state = state
        self.state_changed.emit(state)

    def _look(self) -> None:
        """Empty the tray; at the end of the work say how it ended."""
        task = self._task
        if task is None:
            return
        widget = self._timer.parent()
        if widget is not None and widget.parent() is not None:  # asked of Qt: a reference to the widget would keep it alive
            self._housed = True
        elif self._housed:  # napari takes a widget out of a dock that is closed, and keeps it for a while
            self.stop()
        outcome = task.outcome  # before the events: what comes before the end is in the tray by then
        try:
            for event in task.take():
                self.event.emit(event)
        except EmitLoopError as error:  # the window could not show an event
            self.stop()
            _tell(error.__cause__ or error)
        if outcome:
            self._end(*outcome)

    def _end(self, state: str, value: Any) -> None:
        self._timer.stop()
        self._task = None
        self._enter(state)
        if state == "done":
            self.returned.emit(value)
        elif state == "stopped":
            self.stopped.emit()
        else:
            _tell(value)
            self.failed.emit(value)

    def _abandon(self) -> None:
        """Stop when the widget is gone: nobody is left to look into the tray."""
        if self._task:
            self._task.stop()


class _Task:
    """The side of the worker thread. Plain Python: it may outlive the window."""

    def __init__(self, make_generator: MakeGenerator, description: str) -> None:
        self._make: MakeGenerator | None = make_generator
        self._description = description
        self._lock = threading.Lock()
        self._tray: dict[type, Any] = {}
        self._stop = False
        self.go = threading.Event()
        self.go.set()
        self.outcome: tuple[str, Any] | None = None

    def __str__(self) -> str:
        return self._description  # napari shows it

    def stop(self) -> None:
        self._stop = True
        self.go.set()

    def take(self) -> list[Any]:
        """Give the events in the tray, in the order of their arrival."""
        with self._lock:
            events = list(self._tray.values())
            self._tray.clear()
        return events

    def run(self) -> None:
        """Run the generator to one of its ends; nothing escapes from here."""
        try:
            self.outcome = self._run()
        except BaseException as error:  # noqa: BLE001 - the one place where an error of any kind, an exit too, is turned into news
            self.outcome = "failed", error
        self._make = None  # napari remembers every worker until its window closes; images and models must not hang on it

    def _run(self) -> tuple[str, Any]:
        assert self._make
        generator = self._make()
        try:
            while True:
                self.go.wait()
                if self._stop:
                    return "stopped", None
                try:
                    event = next(generator)
                except StopIteration as end:
                    return "done", end.value
                with self._lock:
                    self._tray.pop(type(event), None)  # so that the newest comes last
                    self._tray[type(event)] = event
        finally:
            generator.close()


def _stop(task: "weakref.ref[_Task]") -> None:
    if there := task():
        there.stop()


class _Worker(WorkerBase):
    """Runs a task in the thread pool, in a way that napari knows of.

    ``WorkerBase.run`` is not used: it swallows every RuntimeError (torch raises those when memory is
    short), and it swaps the warning filters of the whole process, which two workers at a time garble.
    """

    def __init__(self, task: _Task) -> None:
        super().__init__()
        self.setAutoDelete(False)  # Python alone owns it: else Qt deletes it on its thread, while Python may just collect it on another
        self._task: _Task | None = task
        self._let_go = hold()

    def run(self) -> None:
        """Run the task; called by the thread pool."""
        assert self._task
        pool = QThreadPool.globalInstance()
        pool.releaseThread()  # a job may pause for hours: it must not take a place from the other work of napari
        self.started.emit()
        self._task.run()
        self._task = None  # Qt and napari remember a worker for a while; what came of the work must not hang on it
        self.finished.emit()
        self._finished.emit(self)
        self._let_go()
        pool.reserveThread()

    def quit(self) -> None:
        """Stop the task; called by napari when its window closes."""
        super().quit()
        if task := self._task:
            task.stop()


def _tell(error: BaseException) -> None:
    """Show an error to the user, once."""
    from napari.utils.notifications import ErrorNotification, notification_manager, show_error

    if isinstance(error, _USERS) or is_out_of_memory(error):
        log.info("Stopped by %s", type(error).__name__, exc_info=error)
        show_error(sentence(error))
    else:
        log.error("A job failed; this is a bug", exc_info=error)
        notice = ErrorNotification(error)  # has a button for the traceback
        notice.message = f"This should not have happened: a bug ({type(error).__name__}: {error}). The log has the details."
        notification_manager.dispatch(notice)


def sentence(error: BaseException) -> str:
    """Say in one sentence what went wrong."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}."
    return str(error) or type(error).__name__
