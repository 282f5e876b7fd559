"""What a training takes is said before it starts: against the real network."""

from dataclasses import replace

import pytest

from napari_tally.core.estimate import count_parameters, training_memory, training_seconds
from napari_tally.core.plan import build_meta_network
from napari_tally.settings import PAPER_NETWORK, NetworkSettings


@pytest.mark.parametrize(
    "network",
    [NetworkSettings(), PAPER_NETWORK, NetworkSettings(channels=3, depth=2, base_width=7, upsampling="linear", batch_norm=False)],
)
def test_parameters_are_those_of_the_real_network(network):
    assert count_parameters(network) == sum(p.numel() for p in build_meta_network(network).parameters())


def test_more_of_anything_takes_more_memory():
    small = training_memory(NetworkSettings(), 160, 1, 1e6)
    assert small < training_memory(replace(NetworkSettings(), base_width=32), 160, 1, 1e6)
    assert small < training_memory(NetworkSettings(), 320, 1, 1e6)
    assert small < training_memory(NetworkSettings(), 160, 4, 1e6)
    assert small < training_memory(NetworkSettings(), 160, 1, 1e8)


def test_time_is_the_budget_and_a_little():
    assert 120 < training_seconds(2, 5 * 512**2) < 140
