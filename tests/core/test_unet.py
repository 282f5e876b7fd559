"""The network against its own arithmetic: sizes, parameters and how far it looks."""

import pytest
import torch
from torch import nn

from napari_tally.core import unet
from napari_tally.core.model_file import build_network
from napari_tally.settings import PAPER_NETWORK


def paper_network():
    with torch.device("meta"):  # shapes without memory or time
        return build_network(PAPER_NETWORK)


def small(**kwargs):
    return unet.UNet(**{"base_width": 2, **kwargs})


def test_paper_sizes():
    network = paper_network()
    assert network.output_size(572) == 388
    assert network(torch.empty(1, 1, 572, 572, device="meta")).shape == (1, 2, 388, 388)
    assert network.lost == 92


def test_paper_has_23_convolutions_and_31_million_parameters():
    network = paper_network()
    assert sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in network.modules()) == 23
    assert sum(p.numel() for p in network.parameters()) == 31_030_658
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.5}


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_sizes_are_those_of_the_network(padding, depth):
    with torch.device("meta"):
        network = small(depth=depth, padding=padding).eval()
    smallest = network.input_size(1)
    for size in [*range(1, 48), smallest, smallest + 2**depth, 256, 572]:
        try:
            expected = network.output_size(size)
        except ValueError:
            continue
        assert network(torch.empty(1, 1, size, size, device="meta")).shape[-1] == expected == size - 2 * network.lost
    assert network.output_size(smallest) >= 1


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_input_size_is_the_smallest_that_serves(padding, depth):
    with torch.device("meta"):
        network = small(depth=depth, padding=padding).eval()
    legal = {}
    for size in range(1, 400):
        try:
            legal[size] = network.output_size(size)
        except ValueError as error:
            assert "works" in str(error) or "smallest" in str(error)  # noqa: PT017
    for wish in (1, 2, 7, 16, 33, 100):
        assert network.input_size(wish) == min(size for size, out in legal.items() if out >= wish)
        assert network.input_size(wish, of_output=False) == min(size for size in legal if size >= wish)


def test_a_wrong_size_is_answered_with_one_that_works():
    with pytest.raises(ValueError, match="cannot take an input of 573 px; 588 px works"):
        paper_network().output_size(573)


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_margin_is_how_far_the_network_looks(padding, depth, upsampling):
    """With positive weights a huge pixel wins every pooling on its way, so it changes every output that looks at it."""
    torch.manual_seed(0)
    network = small(depth=depth, padding=padding, upsampling=upsampling, batch_norm=False).double().eval()
    for parameter in network.parameters():
        parameter.data.uniform_(0.1, 1.0)
    step, margin = network.step, network.margin
    reach = -(-margin // step) * step
    side = network.input_size(2 * reach + step)
    first = side // 2 // step * step
    width = network.input_size(1)  # one axis tells all; the other is kept short
    images = torch.rand(1, 1, side, width, dtype=torch.float64).repeat(step + 1, 1, 1, 1)
    for phase in range(step):  # every place in the grid of the poolings
        images[phase, 0, first + phase, width // 2] = 1e6
    with torch.inference_mode():
        answers = network(images)[:, 1]
    farthest = 0
    for phase in range(step):
        rows = (answers[phase] != answers[-1]).any(dim=1).nonzero() + network.lost
        farthest = max(farthest, int((rows - first - phase).abs().max()))
    assert farthest == margin


def test_he_initialisation():
    torch.manual_seed(0)
    network = unet.UNet(depth=1, base_width=64, batch_norm=False)
    convolution, up = network.down[1][2], network.up[0]
    assert convolution.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert up.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    assert not convolution.bias.any()


def test_moving_the_image_by_a_step_moves_the_answer():
    network = small(depth=2, padding="valid").eval()
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        whole, moved = network(image[..., :60, :60]), network(image[..., 4:, 4:])
    torch.testing.assert_close(whole[..., 4:, 4:], moved[..., :-4, :-4])
