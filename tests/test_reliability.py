"""The campaign of kill -9, a short one: benchmarks/reliability.py judges itself."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "reliability.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_what_is_killed_loses_no_more_than_promised():
    done = subprocess.run([sys.executable, str(CAMPAIGN), "--times", "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n| ") == 3
