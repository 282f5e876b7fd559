"""One thread for torch in tests and in the examples of the docstrings: their networks are tiny, so a second one only waits."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    if "widgets" in request.path.parts:  # there it matters that training leaves the window its share
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
