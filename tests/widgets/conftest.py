"""What every test of the window stands on."""

import gc
from collections.abc import Iterator
from functools import partial

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QThreadPool


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Let the workers of a test end, and collect its widgets, before the next one begins: not in the middle of that one's work."""
    yield
    QThreadPool.globalInstance().waitForDone(10_000)
    gc.collect()


@pytest.fixture
def qtbot(qtbot: QtBot) -> QtBot:
    """Wait for two minutes at most, not for five seconds: a machine that has other things to do fails no test."""
    qtbot.waitUntil = partial(qtbot.waitUntil, timeout=120_000)
    return qtbot
