"""Warnings of images that are unlike those in training."""

import json

import numpy as np
import pytest

import napari_tally as nt
from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.model_file import load_model, save_model
from napari_tally.core.prediction import Prediction
from napari_tally.core.range import (
    KEY,
    NAMES,
    UNITS,
    Fingerprint,
    distance,
    fingerprint,
    fingerprint_images,
    fingerprint_of,
    judging,
    measure,
    words_of,
)


@pytest.fixture(scope="module")
def model():
    """The shipped weights with a fingerprint of simulated nuclei."""
    model = nt.find_model("nuclei").copy()
    images = [as_image(nt.simulate_nuclei(seed, shape=(160, 160), n=14)[0]) for seed in range(6)]
    model.record[KEY] = fingerprint_images(model, images).as_dict()
    return model


def remark(model, pixels):
    image = as_image(pixels)
    return run_to_end(judging(model, image, nt.predict(image, model)))


def test_images_of_the_same_kind_are_passed_without_a_word(model):
    for seed in range(20, 24):
        assert remark(model, nt.simulate_nuclei(seed, shape=(160, 160), n=14)[0]) == ""


def test_exposure_gain_and_bit_depth_make_no_difference(model):
    pixels = nt.simulate_nuclei(20, shape=(160, 160), n=14)[0].astype(float)
    for other in ((pixels * 3 + 1000).astype(np.uint16), (pixels / pixels.max()).astype(np.float32)):
        assert remark(model, other) == ""


def test_an_empty_well_is_no_other_kind_of_image(model):
    assert remark(model, np.random.default_rng(0).normal(300, 10, (160, 160)).astype(np.uint16)) == ""


def test_an_image_of_one_value_is_said_to_be_empty(model):
    assert remark(model, np.full((160, 160), 7, np.uint16)).startswith("All pixels of this image have one value, 7")


def test_dark_cells_on_bright_ground_are_another_kind(model):
    pixels = nt.simulate_nuclei(20, shape=(160, 160), n=14)[0]
    said = remark(model, pixels.max() - pixels)
    assert said.startswith("This image is unlike those that the model was trained on (distance ")
    assert "the image is mostly brighter" in said
    assert said.endswith("annotate an image like this one and train on.")


def test_a_model_without_a_fingerprint_says_nothing(model):
    bare = model.copy()
    del bare.record[KEY]
    assert fingerprint_of(bare) is None
    assert remark(bare, np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)) == ""
    bare.record[KEY] = {"numbers": ["others"], "points": [], "limit": 1}
    assert fingerprint_of(bare) is None


def test_it_survives_the_model_file(model, tmp_path):
    save_model(model, tmp_path / "m.safetensors")
    before, after = fingerprint_of(model), fingerprint_of(load_model(tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(before.points, after.points)
    assert before.limit == after.limit
    assert len(json.dumps(model.record[KEY])) < 1000


def test_the_numbers_by_hand(model):
    labels = np.zeros((90, 90), np.int32)
    for n in range(4):
        labels[10:20, 20 * n + 5 : 20 * n + 15] = n + 1
    cell = np.where(labels > 0, 0.9, 0.0).astype(np.float32)
    found = Prediction(np.stack([1 - cell, cell, 0 * cell])[None], labels, 1.0, 4)
    numbers = dict(zip(NAMES, measure(model, as_image(np.where(labels > 0, 200, 100).astype(np.uint8)), found), strict=True))
    assert numbers["certainty"] == pytest.approx(0.8)
    assert numbers["share"] == pytest.approx(np.log(400 / 8100 + 0.002))
    assert numbers["size"] == pytest.approx(np.log(np.sqrt(4 / np.pi * 100)))
    assert (numbers["variety"], numbers["solidity"], numbers["brightness"]) == (0, 1, 0)
    assert numbers["contrast"] == pytest.approx(1)


def test_distance_is_to_the_nearest_kind():
    points = np.zeros((40, 8))
    points[20:, 2] = 0.9  # two kinds: dark and bright ground
    known = fingerprint(points)
    assert known.limit == 4
    between = np.zeros(8)
    between[2] = 0.45
    assert distance(Fingerprint(points, 4), between) == pytest.approx(4.5)
    surer, fewer = np.zeros(8), np.zeros(8)
    surer[NAMES.index("certainty")] = 1
    fewer[NAMES.index("share")] = -5
    assert distance(known, surer) == distance(known, fewer) == 0
    assert distance(known, -surer) > 4
    assert distance(known, np.full(8, np.nan)) == 0
    assert fingerprint(points[:1]).limit == 6


def test_an_empty_image_in_training_does_not_make_all_others_known(rng):
    points = UNITS * rng.normal(0, 0.5, (5, 8))
    empty = np.full(8, np.nan)
    empty[[NAMES.index("certainty"), NAMES.index("share")]] = 0.03, -6
    odd = UNITS * np.array([0, 8, 6, -4, 1, 5, 5, -4])
    without, known = fingerprint(points), fingerprint([*points, empty])
    assert known.limit == without.limit
    assert distance(known, odd) == distance(without, odd) > known.limit
    sparse = np.where(np.isnan(empty), odd, empty)  # few cells, but what there is of them is unlike
    assert distance(known, sparse) > known.limit
    assert distance(known, empty) == 0
    assert distance(Fingerprint(empty[None], 6), odd) < np.inf  # nothing better is known


def test_words_name_what_no_training_image_has():
    points = np.zeros((4, 8))
    points[:2, 2] = 0.9  # dark and bright ground are both known
    point = np.zeros(8)
    point[[0, 2, 5]] = -0.3, 0.5, 1.0
    assert words_of(points, point) == ["the model is unsure of what is a cell", "cells are larger"]
    assert words_of(points, points[0]) == []


def test_many_images_keep_it_small(rng):
    known = fingerprint(rng.normal(size=(500, 8)))
    assert known.points.shape == (256, 8)
    assert known.limit > 4
