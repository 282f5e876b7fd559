"""The model to start from is the shipped one that finds the drawn cells best."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import discs

from napari_tally.core import start as module
from napari_tally.core.images import as_image
from napari_tally.core.model_file import Model, save_model, shipped_models
from napari_tally.core.samples import TrainingPair
from napari_tally.core.start import choose_start
from napari_tally.core.unet import UNet
from napari_tally.settings import NetworkSettings, TrainingSettings

LABELS = discs((64, 128), *((y, x, 7) for y in (12, 32, 52) for x in range(10, 128, 18)))
BRIGHT = TrainingPair(as_image((LABELS > 0).astype(np.uint8), name="bright"), LABELS)
DARK = TrainingPair(as_image((LABELS == 0).astype(np.uint8), name="dark"), LABELS)
QUICK = TrainingSettings(device="cpu")


def finds(bright):
    """A real network, its weights set by hand: cells are where the picture is bright, or where it is dark."""
    settings = NetworkSettings(depth=1, base_width=2, batch_norm=False)
    network = UNet(channels=1, classes=3, depth=1, base_width=2, batch_norm=False).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for convolution in (network.down[0][0], network.down[0][2], network.merge[0][0], network.merge[0][2]):
            convolution.weight[0, 0, 1, 1] = 1
        network.head.weight[:, 0, 0, 0] = torch.tensor([-100.0, 100, 0]) * (1 if bright else -1)
        network.head.bias[:] = torch.tensor([50.0, -50, -1000]) * torch.tensor([1.0 if bright else -1.0] * 2 + [1.0])
    return Model(network, settings, record={"name": "bright" if bright else "dark"}, diameter=14.0)


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    for model in (finds(bright=True), finds(bright=False)):
        save_model(model, tmp_path / f"{model.record['name']}.safetensors")
    monkeypatch.setattr(module, "shipped_models", lambda: {p.stem: p for p in sorted(tmp_path.glob("*.safetensors"))})


@pytest.mark.parametrize(("pair", "name"), [(BRIGHT, "bright"), (DARK, "dark")])
@pytest.mark.usefixtures("two_models")
def test_auto_takes_the_model_that_finds_the_cells(pair, name):
    assert choose_start("auto", [pair], QUICK).record["name"] == name


@pytest.mark.usefixtures("two_models")
@pytest.mark.usefixtures("two_models")
def test_volumes_begin_with_random_weights_where_no_model_knows_such_cells():
    stack = np.stack([LABELS] * 6)
    known = TrainingPair(as_image((stack > 0).astype(np.uint8), axes="ZYX"), stack)
    strange = TrainingPair(as_image(np.random.default_rng(0).integers(0, 255, stack.shape).astype(np.uint8), axes="ZYX"), stack)
    assert choose_start("auto", [known], QUICK).settings.dimensions == 3
    assert choose_start("auto", [strange], QUICK) is None
    assert choose_start("auto", [TrainingPair(as_image(strange.image.planes[0, 0]), LABELS)], QUICK) is not None


def test_wishes_are_followed():
    assert choose_start("none", [BRIGHT], QUICK) is None
    assert choose_start(None, [BRIGHT], QUICK) is None
    assert choose_start("auto", [BRIGHT], replace(QUICK, preset="paper")) is None
    model = finds(bright=False)
    assert choose_start(model, [BRIGHT], QUICK) is model
    with pytest.raises(ValueError, match=r"nothing: there is no such model file, and no shipped model of that name \(shipped: nuclei"):
        choose_start("nothing", [BRIGHT], QUICK)


def test_shipped_models_are_small_and_say_what_they_are_made_of():
    shipped = shipped_models()
    assert set(shipped) == {"nuclei", "phase"}
    assert sum(path.stat().st_size for path in shipped.values()) <= 16e6
    for name in shipped:
        record = choose_start(name, [BRIGHT], QUICK).record
        assert record["name"] == name
        assert "BBBC038 (CC0)" in record["licence"]
        assert ("Usiigaci" in record["licence"]) == (name == "phase")
        assert record["steps"] > 0
    assert (shipped["phase"].parent / "NOTICE.txt").read_text().count("MIT License") == 1
