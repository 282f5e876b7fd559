"""Wishes and data become one plan, or a sentence that says why not."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from pictures import discs

from napari_tally.core.devices import choose_device, describe_device
from napari_tally.core.images import as_image
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.settings import PAPER_NETWORK, NetworkSettings, TrainingSettings

CELLS = discs((60, 200), *((30, x, 8) for x in range(10, 200, 20)))
CPU = TrainingSettings(device="cpu")


def pair(labels=CELLS, image=None, name="a"):
    return TrainingPair(as_image(np.maximum(labels, 0).astype(np.uint8) if image is None else image, name=name), labels)


def colour(labels=CELLS):
    pixels = np.stack([labels, labels + 1, labels + 2], axis=-1).astype(np.uint8)
    return TrainingPair(as_image(pixels, rgb=True, name="slide"), labels)


def test_quick_plan():
    plan = plan_training([pair(), pair()], CPU)
    assert plan.network == NetworkSettings()
    assert (plan.scale, plan.colour, plan.device, plan.n_images, plan.n_cells) == (1, False, "cpu", 2, 20)
    assert plan.diameter == pytest.approx(16, abs=1)
    s = plan.settings
    assert s.patch % 16 == 0
    assert min(s.patch, s.batch, s.learning_rate) > 0  # nothing is left at "by preset"
    assert plan.notes == ()
    with pytest.raises(FrozenInstanceError):
        plan.scale = 2


def test_paper_plan():
    plan = plan_training([pair()], replace(CPU, preset="paper"))
    assert plan.network == PAPER_NETWORK
    assert (plan.settings.patch, plan.settings.batch, plan.settings.class_balance) == (572, 1, 1)


def test_wishes_are_kept_and_the_patch_is_made_to_fit():
    plan = plan_training([pair()], replace(CPU, patch=100, batch=3, learning_rate=1e-5))
    assert (plan.settings.patch, plan.settings.batch, plan.settings.learning_rate) == (112, 3, 1e-5)
    assert plan_training([pair()], replace(CPU, preset="paper", patch=573)).settings.patch == 588
    assert plan_training([pair()], replace(CPU, patch=1)).settings.patch == 32


def test_large_cells_are_shrunk():
    large = discs((400, 400), (100, 100, 80), (300, 280, 80))
    plan = plan_training([pair(large)], CPU)
    assert plan.scale == pytest.approx(24 / 160, rel=0.02)
    assert plan_training([pair(large)], replace(CPU, preset="paper")).scale == 1


def test_few_cells_are_noted():
    (note,) = plan_training([pair(np.where(CELLS > 3, 0, CELLS))], CPU).notes
    assert note.startswith("Only 3 cells are drawn")


def test_colour_and_grey_train_a_colour_model():
    plan = plan_training([pair(), colour()], CPU)
    assert (plan.network.channels, plan.colour) == (3, True)


def test_a_model_to_start_from_decides():
    start = new_model(plan_training([colour()], CPU))
    start.scale = 0.5
    plan = plan_training([pair()], CPU, start)
    assert (plan.network, plan.scale, plan.colour) == (start.settings, 0.5, True)
    grey = new_model(plan_training([pair()], CPU))
    with pytest.raises(ValueError, match=r"takes 1 channel\(s\) and the images have 3\. Start from another model, or from none"):
        plan_training([colour()], CPU, grey)


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="There is no annotated image to train on"):
        plan_training([], CPU)
    with pytest.raises(ValueError, match=r"No cell is drawn in 1 image\(s\)"):
        plan_training([pair(np.zeros_like(CELLS))], CPU)
    with pytest.raises(ValueError, match="the network must see background too"):
        plan_training([pair(np.where(CELLS > 0, CELLS, -1))], CPU)


def test_the_seed_decides_the_first_weights_and_nothing_else():
    plan = plan_training([pair()], CPU)
    other = replace(plan, settings=replace(plan.settings, seed=1))
    state = torch.random.get_rng_state()
    one, two, three = (new_model(p).network.head.weight for p in (plan, plan, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(state, torch.random.get_rng_state())


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert "CPU" in describe_device(torch.device("cpu"))
    best = choose_device("auto")
    assert best.type in ("cuda", "mps", "cpu")
    for wish in ("cuda", "mps"):
        if wish != best.type and not getattr(torch, wish).is_available():
            with pytest.raises(ValueError, match=f"The device '{wish}' is not available on this computer; there is: .*cpu"):
                choose_device(wish)
