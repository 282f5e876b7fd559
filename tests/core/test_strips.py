"""Layers in strips: the network on the whole picture, with its batch normalisation folded in."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from napari_tally.core.events import run_to_end
from napari_tally.core.fold import folded
from napari_tally.core.strips import bytes_per_pixel, classify
from napari_tally.core.unet import UNet


def a_network(**kwargs):
    torch.manual_seed(0)
    network = UNet(**{"channels": 2, "classes": 3, "depth": 2, "base_width": 4, **kwargs}).eval()
    for name, value in network.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return network


NETWORKS = {(up, norm): a_network(upsampling=up, batch_norm=norm) for up in ("transposed", "linear") for norm in (True, False)}


@given(st.sampled_from(sorted(NETWORKS)), st.integers(1, 20), st.integers(1, 8), st.integers(1, 4000))
def test_strips_are_the_whole(kind, rows, columns, strip):
    network = NETWORKS[kind]
    picture = torch.randn(1, 2, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(rows))
    with torch.inference_mode():
        whole = network(picture).softmax(1)[0]
    torch.testing.assert_close(run_to_end(classify(network, picture, strip)), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(run_to_end(classify(folded(network), picture, strip)), whole, atol=1e-5, rtol=0)


def test_folding_leaves_the_network_as_it_is_and_no_normalisation_in_the_copy():
    network = a_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copy = folded(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_the_news_grows_to_one():
    news = []
    run_to_end(classify(a_network(), torch.zeros(1, 2, 128, 32), 512), news.append)
    assert news == sorted(news)
    assert news[-1] == 1
    assert len(news) > 20


@pytest.mark.parametrize("width", [16, 32])
def test_the_estimate_of_memory_covers_the_maps_that_are_kept(width):
    """The skips of all levels are base * (1 + 1/2 + 1/4 + ...) floats a pixel."""
    network = UNet(1, 3, 4, width)
    skips = sum(width * 2**level / 4**level for level in range(4))
    assert bytes_per_pixel(network) > 4 * (skips + width)
