"""Every member of the family: its sizes, how far it looks, tiles, files, a few steps of training."""

import builtins
from dataclasses import replace
from importlib.util import find_spec
from typing import get_args

import numpy as np
import pytest
import torch
from pictures import discs
from torch import nn
from torch.nn import functional as F

from napari_tally import settings
from napari_tally.core.architectures import ARCHITECTURES, build_network
from napari_tally.core.blend import windows
from napari_tally.core.estimate import count_parameters
from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.model_file import Model, load_model, save_model
from napari_tally.core.plan import build_meta_network, new_model, plan_training
from napari_tally.core.predict import predict, predict_plane
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import Finished, train
from napari_tally.settings import NetworkSettings, TrainingSettings

OURS = ["unet", "res-unet", "attention-unet", "unet-bilinear"]
OF_MONAI = ["nnu-net", "unet++", "swin-unetr"]
needs_monai = pytest.mark.skipif(find_spec("monai") is None, reason="MONAI is not installed")
EVERY = pytest.mark.parametrize("name", [*OURS, *(pytest.param(name, marks=needs_monai) for name in OF_MONAI)])
EXACT = pytest.mark.parametrize("name", ["unet", "res-unet", "attention-unet", pytest.param("unet++", marks=needs_monai)])


def wish(name, **others):
    depth = {} if name in OF_MONAI else {"depth": 2}
    return NetworkSettings(**{"architecture": name, "base_width": 2, **depth, **others})


def a_network(name, **others):
    torch.manual_seed(0)
    network = build_network(wish(name, **others)).eval()
    for key, value in network.state_dict().items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def pairs(rng):
    labels = discs((64, 128), *((y, x, 7) for y in (12, 32, 52) for x in range(10, 128, 18)))
    return [TrainingPair(as_image((labels > 0) * 1000 + rng.normal(100, 20, labels.shape), name="wells"), labels)]


def test_the_settings_name_them_all():
    assert get_args(settings.Architecture) == tuple(ARCHITECTURES)
    offered = set(get_args(settings.fields_of(TrainingSettings)["architecture"][0]))
    assert offered == {"auto", *ARCHITECTURES} - {"unet-bilinear"}  # that one takes over weights


@EVERY
def test_the_registry_says_whether_tiles_are_exact(name):
    assert build_meta_network(wish(name)).exact == ARCHITECTURES[name].exact


@EVERY
def test_sizes(name):
    network = a_network(name, channels=2, classes=3)
    side = network.input_size(5)
    assert network.output_size(side) == side == network.input_size(side)
    with torch.inference_mode():
        assert network(torch.rand(1, 2, side, side + network.step)).shape == (1, 3, side, side + network.step)
    with pytest.raises(ValueError, match=rf"cannot take an input of {side + 1} px; {side + network.step} px works"):
        network.output_size(side + 1)


def mean_everywhere(network, monkeypatch):
    """Make every layer an average with positive weights, so that no dependence hides behind a maximum, a sign or a zero."""
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    for module in network.modules():
        for key, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, key, nn.AvgPool2d(2))
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            weight = module.weight.data.uniform_(0.5, 1.0)
            weight /= weight.sum((1, 2, 3) if isinstance(module, nn.Conv2d) else (0,), keepdim=True)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return network.double().eval()


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", ["unet", "res-unet", "attention-unet"])
def test_pixels_beyond_the_margin_have_no_gradient_and_those_at_it_have_one(name, depth, upsampling, monkeypatch):
    assert reach(mean_everywhere(a_network(name, depth=depth, upsampling=upsampling), monkeypatch)) == 0


@needs_monai
def test_the_margin_of_unet_plus_plus(monkeypatch):
    assert reach(mean_everywhere(a_network("unet++"), monkeypatch)) == 0


def test_the_margin_of_the_bilinear_port_is_a_bound(monkeypatch):
    assert -3 <= reach(mean_everywhere(a_network("unet-bilinear", depth=3), monkeypatch)) <= 0


def reach(network):
    """Give how much farther the network looks than its margin says, over every place in the grid of its halvings (one axis)."""
    step, margin = network.step, network.margin
    first = -(-margin // step) * step
    width = network.input_size(1)
    image = torch.rand(1, 1, 2 * first + step, width, dtype=torch.float64, requires_grad=True)
    answer = network(image)[0, 1, :, width // 2]
    farthest = 0
    for place in range(first, first + step):
        (slope,) = torch.autograd.grad(answer[place], image, retain_graph=True)
        rows = slope[0, 0].any(dim=1).nonzero()
        farthest = max(farthest, int((rows - place).abs().max()))
    return farthest - margin


@EXACT
def test_stitched_tiles_are_the_whole_image(name, rng):
    network = a_network(name)
    picture = rng.normal(size=(1, 70, 45)).astype(np.float32)
    whole = run_to_end(predict_plane(network, picture, 96))
    for stride in (16, 32, 48):
        np.testing.assert_allclose(run_to_end(predict_plane(network, picture, stride)), whole, atol=1e-5)


@EVERY
@pytest.mark.parametrize("shape", [(1, 1), (17, 3), (70, 45)])
def test_odd_images(name, shape, rng):
    found = run_to_end(predict(Model(a_network(name), wish(name)), as_image(rng.integers(0, 255, shape).astype(np.uint8))))
    assert found.shape == (1, 3, *shape)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@EVERY
def test_no_convolution_of_one_pixel_has_a_stride(name):
    """Below 16 channels these crash on their way back, channels last: oneDNN of torch 2.13, on processors with AVX-512."""
    convolutions = [module for module in a_network(name).modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) > 5
    assert not [c for c in convolutions if max(c.kernel_size) == 1 < max(c.stride)]


@EVERY
def test_trained_saved_and_loaded(name, pairs, tmp_path):
    model = Model(a_network(name), wish(name))
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    plan = plan_training(pairs, TrainingSettings(steps=2, patch=32, device="cpu"), model)
    assert isinstance(list(train(model, pairs, plan))[-1], Finished)
    after = model.network.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(before[key], after[key]) for key in before)
    save_model(model, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert loaded.settings == wish(name)
    one, other = (run_to_end(predict(m, pairs[0].image)) for m in (model, loaded))
    np.testing.assert_array_equal(one, other)


@EVERY
def test_the_estimate_knows_about_how_many_parameters_there_are(name):
    network = NetworkSettings(architecture=name)
    counted = sum(p.numel() for p in build_meta_network(network).parameters())
    assert count_parameters(network) == pytest.approx(counted, rel=0.05)


def test_a_wish_for_a_network_is_planned(pairs):
    plan = plan_training(pairs, TrainingSettings(architecture="attention-unet", depth=3, base_width=4, patch=30))
    assert plan.network == NetworkSettings(architecture="attention-unet", depth=3, base_width=4)
    assert plan.settings.patch == 32
    assert new_model(plan).network.state_dict()["head.weight"].shape == (3, 4, 1, 1)
    assert plan_training(pairs, TrainingSettings(preset="paper", architecture="res-unet")).network.padding == "same"
    assert plan_training(pairs, TrainingSettings()).network == NetworkSettings(batch_norm=False)


def test_the_start_has_the_last_word_on_the_network(pairs):
    start = Model(a_network("res-unet"), wish("res-unet"))
    assert plan_training(pairs, TrainingSettings(), start).network.architecture == "res-unet"
    with pytest.raises(ValueError, match="The start model has the architecture res-unet and attention-unet is asked for"):
        plan_training(pairs, TrainingSettings(architecture="attention-unet"), start)
    with pytest.raises(ValueError, match="The start model has the depth 2 and 3 is asked for"):
        plan_training(pairs, TrainingSettings(depth=3), start)


@EVERY
def test_a_start_with_other_channels_sees_grey_as_before(name, rng):
    start = Model(a_network(name, channels=3), wish(name, channels=3))
    grey = torch.rand(1, 1, 64, 64)
    labels = discs((64, 64), (20, 20, 6), (40, 40, 6))
    pair = TrainingPair(as_image(rng.random((2, 64, 64)), axes="CYX"), labels)
    adapted = new_model(plan_training([pair], TrainingSettings(), start), start).network
    with torch.inference_mode():
        torch.testing.assert_close(adapted(grey.expand(1, 2, 64, 64)), start.network(grey.expand(1, 3, 64, 64)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 300, 384, 385, 416, 1000, 1152])
def test_the_weights_of_the_windows_sum_to_one(n):
    for wanted in (slice(0, n), slice(n // 2, n // 2 + 1)):
        total = np.zeros(n)
        for window, weight in windows(n, wanted):
            assert 0 <= window.start < window.stop <= n
            assert (np.abs(np.diff(weight)) <= 1 / 64 + 1e-6).all()  # no jump
            total[window] += weight
        np.testing.assert_allclose(total[wanted], 1, atol=1e-6)


def test_networks_that_are_not_exact_give_the_same_whatever_the_tiles(rng):
    """Each window asks the network for all of itself; which pixels are wanted of it does not matter."""
    network = a_network("unet-bilinear")
    picture = rng.normal(size=(1, 30, 800)).astype(np.float32)
    whole = run_to_end(predict_plane(network, picture, 800))
    for stride in (70, 384):
        np.testing.assert_array_equal(run_to_end(predict_plane(network, picture, stride)), whole)


def test_seams_that_are_approximate_are_said(pairs):
    start = Model(a_network("unet-bilinear"), wish("unet-bilinear"))
    assert any("approximate, and blended, where two meet" in note for note in plan_training(pairs, TrainingSettings(), start).notes)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (wish("res-unet", padding="valid"), "ResU-Net keeps the size of the image; choose the padding 'same'"),
        pytest.param(wish("unet++", depth=3), r"U-Net\+\+ has depth 4, not 3", marks=needs_monai),
        pytest.param(wish("unet++", batch_norm=False), "switch batch normalisation on", marks=needs_monai),
        pytest.param(wish("swin-unetr", depth=3), "depth of its own", marks=needs_monai),
    ],
)
def test_what_an_architecture_does_not_know(network, says):
    with pytest.raises(ValueError, match=says):
        build_network(network)


@pytest.mark.parametrize("name", OF_MONAI)
def test_without_monai_the_message_says_how_to_get_it(name, monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda n, *a, **k: _refuse(n) if n.startswith("monai") else real(n, *a, **k))
    with pytest.raises(ValueError, match=r"pip install 'napari-tally\[models\]'"):
        build_network(wish(name))


def _refuse(name):
    raise ImportError(name)


def test_old_settings_mean_the_unet():
    old = settings.to_dict(NetworkSettings())
    del old["architecture"]
    assert settings.from_dict(NetworkSettings, old) == replace(NetworkSettings(), architecture="unet")
