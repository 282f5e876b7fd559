"""A job: its states, its news, and how its errors reach the user."""

import logging
import threading
import time
from dataclasses import dataclass

import pytest
from napari.utils.notifications import NotificationSeverity, notification_manager
from qtpy.QtCore import QObject

from napari_tally.widgets._job import Job


@dataclass(frozen=True)
class Tick:
    n: int


@dataclass(frozen=True)
class Tock:
    n: int


class Watched:
    """A job with all that it said."""

    def __init__(self, qapp):
        self.parent = QObject()
        self.job = Job(self.parent)
        self.events, self.returned, self.failed, self.states = [], [], [], []
        self.job.event.connect(self.events.append)
        self.job.returned.connect(self.returned.append)
        self.job.failed.connect(self.failed.append)
        self.job.state_changed.connect(self.states.append)


@pytest.fixture
def watched(qapp, qtbot):
    w = Watched(qapp)
    yield w
    w.job.stop()
    qtbot.waitUntil(lambda: not w.job.is_active)


@pytest.fixture
def notices():
    """The notifications of this test."""
    before = len(notification_manager.records)
    return lambda: notification_manager.records[before:]


def endless(closed=None):
    """Tick until closed."""
    n = 0
    try:
        while True:
            n += 1
            yield Tick(n)
    finally:
        if closed is not None:
            closed.append(threading.current_thread())


def test_taken_out_of_its_dock_it_stops(watched, qtbot):
    """So napari closes a dock: the widget lives on for a while, and nobody sees it."""
    dock = QObject()
    watched.parent.setParent(dock)
    watched.job.start(endless)
    qtbot.waitUntil(lambda: bool(watched.events))
    watched.parent.setParent(None)
    qtbot.waitUntil(lambda: watched.job.state == "stopped")


def test_from_start_to_done(watched, qtbot):
    def three():
        for n in range(3):
            yield Tick(n)
        yield Tock(0)
        return "result"

    watched.job.start(three, description="Counting to three")
    assert watched.job.is_active
    qtbot.waitUntil(lambda: not watched.job.is_active)
    assert watched.states == ["running", "done"]
    assert watched.events == [Tick(2), Tock(0)]  # the last of each kind, in their order
    assert (watched.returned, watched.failed) == (["result"], [])


def test_pause_suspends_and_resume_goes_on(watched, qtbot):
    made = []

    def count():
        for event in endless():
            made.append(event)
            yield event

    watched.job.start(count)
    qtbot.waitUntil(lambda: bool(watched.events))
    watched.job.pause()
    let_a_moment_pass(qtbot)  # the step under way comes to its end
    suspended_at = len(made)
    let_a_moment_pass(qtbot)
    assert len(made) == suspended_at
    assert watched.events[-1] == made[-1]  # news from before the pause still came
    watched.job.resume()
    qtbot.waitUntil(lambda: len(made) > suspended_at)
    assert watched.states == ["running", "paused", "running"]


def let_a_moment_pass(qtbot):
    """Run another job to its end."""
    parent = QObject()
    other = Job(parent)
    other.start(lambda: iter_of([]))
    qtbot.waitUntil(lambda: other.state == "done")


@pytest.mark.parametrize("paused_before", [False, True])
def test_stop_closes_the_generator_where_it_ran(watched, qtbot, paused_before):
    closed = []
    watched.job.start(lambda: endless(closed))
    qtbot.waitUntil(lambda: bool(watched.events))
    if paused_before:
        watched.job.pause()
    began = time.perf_counter()
    watched.job.stop()
    qtbot.waitUntil(lambda: not watched.job.is_active)
    assert time.perf_counter() - began < 1
    assert watched.states[-2:] == ["stopping", "stopped"]
    assert len(closed) == 1
    assert closed[0] is not threading.main_thread()


def test_it_can_start_again_but_not_twice_at_a_time(watched, qtbot):
    watched.job.start(endless)
    with pytest.raises(RuntimeError, match="one at a time"):
        watched.job.start(endless)
    watched.job.stop()
    qtbot.waitUntil(lambda: watched.job.state == "stopped")
    watched.job.start(lambda: iter_of([]))
    qtbot.waitUntil(lambda: watched.job.state == "done")


def iter_of(events):
    yield from events


def test_at_most_about_ten_events_a_second(watched, qtbot):
    watched.job.start(endless)
    began = time.perf_counter()
    qtbot.waitUntil(lambda: len(watched.events) >= 3)
    assert time.perf_counter() - began > 0.2
    assert watched.events[-1].n > 10  # many more were made


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), KeyError("x")])
def test_a_bug_gives_one_notification_and_a_traceback_in_the_log(watched, qtbot, notices, caplog, error):
    def fails():
        yield Tick(1)
        raise error

    with caplog.at_level(logging.ERROR):
        watched.job.start(fails)
        qtbot.waitUntil(lambda: not watched.job.is_active)
    assert (watched.states, watched.failed, watched.events) == (["running", "failed"], [error], [Tick(1)])
    assert [n.severity for n in notices()] == [NotificationSeverity.ERROR]
    assert "in fails" in caplog.text


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("No cell is drawn."), "No cell is drawn."),
        (PermissionError(13, "Permission denied", "m.safetensors"), "m.safetensors: Permission denied."),
        (MemoryError(), "The memory is not enough"),
    ],
)
def test_what_the_user_did_is_said_in_one_sentence(watched, qtbot, notices, caplog, error, sentence):
    def fails():
        raise error
        yield

    watched.job.start(fails)
    qtbot.waitUntil(lambda: watched.job.state == "failed")
    assert [n.message.startswith(sentence) for n in notices()] == [True]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_an_error_before_the_generator_is_made(watched, qtbot, notices):
    watched.job.start(lambda: [][0])
    qtbot.waitUntil(lambda: watched.job.state == "failed")
    assert len(notices()) == 1


def test_an_event_that_cannot_be_shown_stops_the_job(watched, qtbot, notices):
    watched.job.event.connect(lambda event: 1 / 0)
    watched.job.start(endless)
    qtbot.waitUntil(lambda: watched.job.state == "stopped")
    assert len(notices()) >= 1


def test_the_job_stops_when_its_widget_goes(qapp, qtbot):
    closed = []
    w = Watched(qapp)
    w.job.start(lambda: endless(closed))
    qtbot.waitUntil(lambda: bool(w.events))
    del w.parent
    qtbot.waitUntil(lambda: bool(closed))


def test_closing_the_window_stops_the_job(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    closed = []
    w = Watched(None)
    w.job.start(lambda: endless(closed), description="Training")
    qtbot.waitUntil(lambda: bool(w.events))
    assert any("Training" in text for text in viewer.window._task_status_manager.get_status())
    viewer.close()
    qtbot.waitUntil(lambda: bool(closed) and not w.job.is_active)
