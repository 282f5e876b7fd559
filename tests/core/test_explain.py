"""A plan in plain words."""

from dataclasses import replace

import numpy as np
import pytest
from pictures import discs

import napari_tally as nt
from napari_tally.core.explain import explain
from napari_tally.core.images import as_image
from napari_tally.core.model_file import Model, build_network
from napari_tally.core.plan import plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.settings import NetworkSettings, TrainingSettings

LARGE = discs((200, 200), *((y, x, 20) for y in (40, 100, 160) for x in (40, 100, 160)))


def pair(labels=LARGE, image=None):
    return TrainingPair(as_image(labels.astype(np.float32) if image is None else image), labels)


def words(pairs, start=None, name="", **wishes):
    return dict(explain(plan_training(pairs, TrainingSettings(device="cpu", **wishes), start), name))


def test_from_nothing():
    said = words([pair()], minutes=1)
    assert said["Images"] == "1 image, two-dimensional, 9 cells drawn. The network takes grey."
    assert "40 px across; images are scaled by 0.60, so that it is 24 px" in said["Cell size"]
    assert said["Start"] == "From random weights."
    assert "U-Net (Ronneberger et al. 2015) with 1.9 M weights: halves the image 4 times and sees 107 px" in said["Network"]
    assert "4.5 cell diameters. Tiles are exact." in said["Network"]
    assert said["Classes"] == "Background, inside of a cell, rim of a cell."
    assert said["Loss"] == "cross-entropy, gaps between cells weigh up to 10 more."
    assert said["Patches"].startswith("1 patch of 160 px a step, 7 cells wide")
    assert said["Held out"].startswith("For three quarters of the time a quarter of the image, for there are fewer than three")
    assert said["Time"].startswith("About 66 s on the ")
    assert said["Note"] == "Only 9 cells drawn: from about 50 on the model becomes dependable."


def test_from_a_model():
    settings = NetworkSettings(depth=2, base_width=2)
    start = Model(build_network(settings), settings, scale=1.0, diameter=20.0)
    said = words([pair()] * 4, start, "mine", steps=7, loss="dice", batch=2)
    assert said["Start"] == "From “mine”: it fixes the network."
    assert "so that it is 20 px, which the start knows" in said["Cell size"]
    assert said["Loss"] == "dice."
    assert said["Patches"].startswith("2 patches of 160 px")
    assert "Two folds (half of the images each)" in said["Held out"]
    assert said["Time"].startswith("7 steps on the ")
    assert "the halves of every image" in words([pair()], start, "mine")["Held out"]


def test_stacks_colours_and_types():
    stack = np.stack([LARGE, LARGE])
    said = words([pair(stack)])
    assert "2 planes, each seen by itself" in said["Images"]
    assert "a quarter of every plane of the series, for" in said["Held out"]
    assert "a quarter of every plane of the series with most cells" in words([pair(stack)] * 2)["Held out"]
    assert "a quarter of the image with most cells" in words([pair()] * 2)["Held out"]
    assert "time one whole image;" in words([pair()] * 3)["Held out"]
    colour = np.random.default_rng(0).random((200, 200, 3), np.float32)
    assert "colour (red, green, blue)" in words([pair(image=colour)])["Images"]
    typed = np.where(LARGE > 4, LARGE + 1000, LARGE)
    assert words([pair(typed)], types=2)["Classes"] == "Background, inside of a cell of each of 2 types, rim of a cell."


def test_one_is_one():
    plan = plan_training([pair()], TrainingSettings(device="cpu", dimensions="2-D", depth=1))
    assert "halves the image once and sees" in dict(explain(plan))["Network"]
    flat = replace(plan, network=replace(plan.network, dimensions=3, flat=1), slice_distance=1.0)
    assert dict(explain(flat))["Slices"].startswith("Slices are 1 pixel apart and are taken as they are: a voxel of the")
    cube = dict(explain(replace(flat, scale=1.0)))["Slices"]
    assert cube.endswith("a voxel of the network is as thick as wide. The first halving leaves z alone.")
    even = replace(flat, network=replace(flat.network, flat=0))
    assert dict(explain(even))["Slices"].endswith("The only halving halves z, y and x.")
    deep = replace(flat, network=replace(flat.network, depth=2))
    assert dict(explain(deep))["Slices"].endswith("The first halving leaves z alone, the other one halves z too.")
    assert "a quarter of the volume, for" in dict(explain(flat))["Held out"]


def test_the_record_of_a_model_has_it():
    model = nt.train([(LARGE, LARGE)], start=None, steps=2, patch=32)
    assert model.record["plan"][0] == "Images: 1 image, two-dimensional, 9 cells drawn. The network takes grey."


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_the_size_is_said_as_it_is(scale):
    plan = replace(plan_training([pair()], TrainingSettings()), scale=scale)
    assert (f"scaled by {scale:.2f}" in dict(explain(plan))["Cell size"]) == (scale != 1)
    assert ("less work" in dict(explain(plan))["Cell size"]) == (scale < 1)


def test_several_pixel_sizes_are_said():
    pairs = [replace(pair(), image=replace(pair().image, pixel_size=(size, size))) for size in (0.2, 0.4)]
    said = words(pairs)
    assert "42 px across in pixels of 0.283 µm; each image is scaled by its own pixel size, so that it is 24 px" in said["Cell size"]
    assert said["Note"] == "The images have pixels of 0.2 to 0.4 µm; each is brought to 0.5 µm."
    small = dict(explain(replace(plan_training(pairs, TrainingSettings(device="cpu")), scale=1.0)))
    assert small["Cell size"].endswith("in pixels of 0.283 µm; each image is scaled to such.")
