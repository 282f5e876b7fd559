"""Wishes and data become one plan, or a sentence that says why not."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from pictures import discs

import napari_tally as nt
from napari_tally.core.devices import choose_device, describe_device
from napari_tally.core.images import as_image
from napari_tally.core.intensity import intensity_window
from napari_tally.core.model_file import find_model, load_model, save_model
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.settings import PAPER_NETWORK, NetworkSettings, NormalisationSettings, TrainingSettings

CELLS = discs((60, 200), *((30, x, 8) for x in range(10, 200, 20)))
CPU = TrainingSettings(device="cpu")


def pair(labels=CELLS, image=None, name="a"):
    return TrainingPair(as_image(np.maximum(labels, 0).astype(np.uint8) if image is None else image, name=name), labels)


def colour(labels=CELLS):
    pixels = np.stack([labels, labels + 1, labels + 2], axis=-1).astype(np.uint8)
    return TrainingPair(as_image(pixels, rgb=True, name="slide"), labels)


def test_quick_plan():
    plan = plan_training([pair(), pair()], CPU)
    assert plan.network == NetworkSettings(batch_norm=False)
    assert plan_training([pair()], TrainingSettings(loss="dice")).network.batch_norm  # without it half of them find no cell
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


def test_patches_are_made_to_fit_the_memory(monkeypatch):
    half = plan_training([pair()], replace(CPU, patch=80))
    assert plan_training([pair()], CPU).memory > 1.05 * half.memory
    monkeypatch.setattr("napari_tally.core.plan.free_memory", lambda device: 1.26 * half.memory)
    assert plan_training([pair()], CPU) == half
    stated = plan_training([pair()], replace(CPU, patch=640))  # what is asked for is done, and said
    assert stated.settings.patch == 640
    assert "GB are free. Take smaller patches" in stated.notes[-1]
    monkeypatch.setattr("napari_tally.core.plan.free_memory", lambda device: 1e6)
    assert plan_training([pair()], CPU).settings.patch == 32  # the smallest there is


def test_a_gpu_takes_four_patches_a_step_or_as_many_as_fit(monkeypatch):
    alone = plan_training([pair()], replace(CPU, batch=2))
    monkeypatch.setattr("napari_tally.core.plan.choose_device", lambda wish: torch.device("cuda"))
    monkeypatch.setattr("napari_tally.core.plan.describe_device", lambda device: "GPU")
    monkeypatch.setattr("napari_tally.core.plan.free_memory", lambda device: 1e12)
    assert plan_training([pair()], TrainingSettings()).settings.batch == 4
    assert plan_training([pair()], TrainingSettings(batch=3)).settings.batch == 3
    assert plan_training([pair()], TrainingSettings(preset="paper")).settings.batch == 1  # one large tile
    monkeypatch.setattr("napari_tally.core.plan.free_memory", lambda device: 1.26 * alone.memory)
    fits = plan_training([pair()], TrainingSettings())
    assert (fits.settings.batch, fits.settings.patch, fits.memory) == (2, alone.settings.patch, alone.memory)


def test_few_cells_are_noted():
    (note,) = plan_training([pair(np.where(CELLS > 3, 0, CELLS))], CPU).notes
    assert note.startswith("Only 3 cells drawn:")


def test_a_start_that_knows_colours_learns_three_stains():
    stains = replace(colour(), image=replace(colour().image, colour=False))
    start = new_model(plan_training([colour()], CPU))
    plan = plan_training([stains], CPU, start)
    assert not plan.colour
    assert any("three other channels" in note for note in plan.notes)
    assert not new_model(plan, start).colour
    assert start.colour


def test_colour_and_grey_train_a_colour_model():
    plan = plan_training([pair(), colour()], CPU)
    assert (plan.network.channels, plan.colour) == (3, True)


def test_a_model_to_start_from_decides():
    start = new_model(plan_training([colour()], CPU))
    start.scale = 0.5
    plan = plan_training([pair()], CPU, start)
    assert (plan.network, plan.scale, plan.colour) == (start.settings, 0.5, True)


def test_a_start_of_other_channels_is_adapted_and_sees_grey_as_before():
    grey = new_model(plan_training([pair()], CPU))
    plan = plan_training([colour()], CPU, grey)
    assert "knows 1 channel(s); its first layer is adapted to 3" in plan.notes[-1]
    adapted = new_model(plan, grey)
    assert (adapted.settings.channels, adapted.colour, grey.settings.channels) == (3, True, 1)
    picture = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(adapted.network(picture.expand(1, 3, 32, 32)), grey.network(picture), atol=1e-4, rtol=1e-4)


def test_images_that_the_start_has_seen_are_known_by_their_pixels():
    start = new_model(plan_training([pair()], CPU))
    start.record = {"seen": [pair().image.fingerprint]}
    renamed = replace(pair(), image=replace(pair().image, name="renamed"))
    assert plan_training([renamed, colour()], CPU, start).seen == (0,)


def test_grey_images_have_a_window_for_each_channel_of_a_start_for_colour(tmp_path):
    start = find_model("nuclei")
    image, labels = nt.simulate_nuclei(seed=0)
    plan = plan_training([TrainingPair(nt.as_image(image), labels)], TrainingSettings(steps=2, statistics="experiment"), start)
    assert plan.window.shape == (3, 2)
    assert (plan.window == plan.window[0]).all()
    assert "The start model knows brightness by the image; from now on it is by the experiment." in plan.notes
    model = new_model(plan, start)
    save_model(model, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load_model(tmp_path / "model.safetensors").window, plan.window)


def test_one_window_for_the_whole_experiment():
    one, two = (replace(pair(), image=replace(pair().image, planes=pair().image.planes.astype(float) * k)) for k in (100, 300))
    settings = NormalisationSettings(statistics="experiment")
    plan = plan_training([one, two], replace(CPU, statistics="experiment"))
    middle = np.mean([intensity_window(p.image, settings) for p in (one, two)], axis=0)
    np.testing.assert_allclose(plan.window, middle, rtol=1e-6)
    assert (new_model(plan).window == plan.window).all()
    assert plan_training([one, two], CPU).window is None
    start = new_model(plan)
    assert plan_training([one, two], CPU, start).normalisation == start.normalisation  # as the start, unless something else is asked for
    assert plan_training([one, two], replace(CPU, statistics="image"), start).window is None


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="There is no annotated image to train on"):
        plan_training([], CPU)
    with pytest.raises(ValueError, match=r"No cell is drawn in 1 image\(s\)"):
        plan_training([pair(np.zeros_like(CELLS))], CPU)
    with pytest.raises(ValueError, match="the network must see background too"):
        plan_training([pair(np.where(CELLS > 0, CELLS, -1))], CPU)


def test_a_tissue_without_gaps_can_be_learned():
    y, x = np.indices((60, 80))
    tissue = (1 + y // 10 * 8 + x // 10).astype(np.int32)
    plan = plan_training([pair(tissue)], CPU)
    assert plan.notes[0].startswith("Cells fill all that is annotated, so no background is learned")


def test_the_seed_decides_the_first_weights_and_nothing_else():
    plan = plan_training([pair()], CPU)
    other = replace(plan, settings=replace(plan.settings, seed=1))
    state = torch.random.get_rng_state()
    one, two, three = (new_model(p).network.head.weight for p in (plan, plan, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(state, torch.random.get_rng_state())


def test_devices(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    assert describe_device(torch.device("cpu")).startswith("CPU (")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert describe_device(torch.device("cpu")) == "CPU (1 thread)"
    best = choose_device("auto")
    assert best.type in ("cuda", "mps", "cpu")
    for wish in ("cuda", "mps"):
        if wish != best.type and not getattr(torch, wish).is_available():
            with pytest.raises(ValueError, match=f"The device '{wish}' is not available on this computer; there is: .*cpu"):
                choose_device(wish)
