"""Folded, a network has no batch normalisation any more and says what it said."""

from dataclasses import replace

import pytest
import torch

from napari_tally.core.model_file import Model, build_network, find_model
from napari_tally.core.start import choose_start
from napari_tally.settings import NetworkSettings, TrainingSettings

SMALL = NetworkSettings(base_width=4, depth=2)


def with_statistics(settings):
    """A model whose normalisation is anything but the identity."""
    torch.manual_seed(0)
    network = build_network(settings).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.normal_()
            elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.2, 3)
    return Model(network, settings, record={"steps": 7})


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, padding="valid", upsampling="linear"), replace(SMALL, dimensions=3, flat=1)])
def test_it_says_what_it_said(settings):
    model = with_statistics(settings)
    picture = torch.randn(1, 1, *([12] if settings.dimensions == 3 else []), 44, 44)
    found = model.folded()
    assert found.settings == replace(settings, batch_norm=False)
    wanted = build_network(found.settings).state_dict()
    assert {name: tensor.shape for name, tensor in found.network.state_dict().items()} == {n: t.shape for n, t in wanted.items()}
    with torch.no_grad():
        before, after = model.network(picture), found.network(picture)
    assert before.std() > 0.1
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    assert all(parameter.requires_grad for parameter in found.network.parameters())  # it is there to learn
    assert model.settings.batch_norm
    assert found.record == model.record


def test_what_has_nothing_to_fold_stays():
    without, residual = replace(SMALL, batch_norm=False), replace(SMALL, architecture="res-unet")
    for settings in (without, residual):
        model = with_statistics(settings)
        assert model.folded() is model


def test_every_start_is_folded():
    start = choose_start(with_statistics(SMALL), [], TrainingSettings(device="cpu", dimensions="2-D"))
    assert not start.settings.batch_norm
    assert not find_model("nuclei").settings.batch_norm  # it comes so
