"""What every test stands on: no test reads or writes the settings of whoever runs it."""

import faulthandler
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Before napari is imported: it reads this once.
_SETTINGS = tempfile.TemporaryDirectory(prefix="napari-tally-tests-", ignore_cleanup_errors=True)  # a drawing may still be written
os.environ["NAPARI_CONFIG"] = str(Path(_SETTINGS.name) / "settings.yaml")
os.environ["NAPARI_TALLY_STATE"] = str(Path(_SETTINGS.name) / "state")


@pytest.fixture
def rng() -> np.random.Generator:
    """One seed for every test, so that a failure can be repeated."""
    return np.random.default_rng(0)


def pytest_unconfigure() -> None:
    """Tidy up. A thread that a failed test left running must not keep the whole run from ending."""
    _SETTINGS.cleanup()
    faulthandler.dump_traceback_later(30, exit=True)
