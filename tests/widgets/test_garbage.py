"""While a job works, garbage is collected on the main thread alone: in it lie closed widgets, which Qt destroys nowhere else."""

import gc
import threading
import weakref

import pytest
from qtpy.QtWidgets import QWidget

from napari_tally.core.events import beside, is_anything_beside
from napari_tally.widgets._garbage import _collector, hold
from napari_tally.widgets._job import Job


@pytest.fixture
def collected():
    """Which threads collected garbage."""
    threads = []

    def note(phase, info):
        if phase == "start":
            threads.append(threading.current_thread() is threading.main_thread())

    gc.callbacks.append(note)
    yield threads
    gc.callbacks.remove(note)


def allocating(collected):
    """Make objects until somebody has collected, and a while longer."""
    kept, turn = [], 0
    while turn < 30 or (not collected and turn < 3000):
        kept.append([{"a": [k]} for k in range(10_000)])  # each turn would have Python collect a dozen times
        turn += 1
        yield turn


def test_a_worker_collects_nothing(qtbot, collected):
    parent = QWidget()
    qtbot.addWidget(parent)
    job = Job(parent)
    job.start(lambda: allocating(collected))
    qtbot.waitUntil(lambda: job.state == "done")
    qtbot.waitUntil(gc.isenabled)
    assert collected
    assert all(collected)


def test_what_nobody_waits_for_any_more_collects_nothing_either(qtbot):
    done = threading.Event()
    parent = QWidget()
    qtbot.addWidget(parent)
    job = Job(parent)
    try:
        job.start(lambda: beside(done.wait))
        qtbot.waitUntil(is_anything_beside)
        job.stop()
        qtbot.waitUntil(lambda: job.state == "stopped")
        looks = []
        _collector._timer.timeout.connect(lambda: looks.append(gc.isenabled()))
        qtbot.waitUntil(lambda: len(looks) > 2)
        assert not any(looks)
    finally:
        done.set()
    qtbot.waitUntil(gc.isenabled)


def test_who_has_switched_it_off_finds_it_off(qtbot):
    gc.disable()
    try:
        let_go = hold()
        let_go()
        let_go()
        qtbot.waitUntil(lambda: not _collector._timer.isActive())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_garbage_of_all_ages_goes_while_somebody_works(qtbot):
    class Knot:
        def __init__(self):
            self.me = self

    let_go = hold()
    try:
        gone = []
        knot = Knot()
        weakref.finalize(knot, gone.append, True)
        gc.collect()  # it is old now
        del knot
        kept = []
        qtbot.waitUntil(lambda: bool(gone) or bool(kept.append([[k] for k in range(20_000)])))
    finally:
        let_go()
