"""What every test of the window stands on."""

import gc
from collections.abc import Iterator

import pytest
from qtpy.QtCore import QThreadPool


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Let the workers of a test end, and collect its widgets, before the next one begins: not in the middle of that one's work."""
    yield
    QThreadPool.globalInstance().waitForDone(10_000)
    gc.collect()
