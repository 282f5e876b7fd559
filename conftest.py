"""What holds for every test and for the examples in the docstrings."""

from collections.abc import Iterator

import hypothesis
import pytest

# Busy cores are no failure, and a failure must come again: no deadlines, the same examples every time.
hypothesis.settings.register_profile(
    "house", deadline=None, derandomize=True, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True, scope="module")
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread for torch: the networks of the tests are tiny, so a second one only waits for the first."""
    if "widgets" in request.path.parts:  # there it matters that training leaves the window its share
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
