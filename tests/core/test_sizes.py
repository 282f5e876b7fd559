"""How large images are shown to a network: by drawn cells, by what the start knows, by the size of a pixel."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from models import bright_is_cell, bright_is_cell_in_3d
from pictures import balls, discs

import napari_tally as nt
from napari_tally.core.bodies import find_bodies
from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.images import as_image
from napari_tally.core.instances import find_instances
from napari_tally.core.model_file import Model, build_network
from napari_tally.core.plan import new_model, plan_training, prepare
from napari_tally.core.predict import Predictor, predict_plane, window_for
from napari_tally.core.samples import TrainingPair, body_diameter, cell_diameter, class_map
from napari_tally.core.sizes import own_scale, working_scale, z_scale_for
from napari_tally.core.train import train
from napari_tally.settings import CountingSettings, NetworkSettings, PredictionSettings, TrainingSettings

CPU = TrainingSettings(device="cpu")
CELLS = discs((60, 200), *((30, x, 8) for x in range(10, 200, 20)))


def pair(labels=CELLS):
    return TrainingPair(as_image(np.maximum(labels, 0).astype(np.uint8)), labels)


def test_large_cells_are_shrunk():
    large = discs((400, 400), (100, 100, 80), (300, 280, 80))
    plan = plan_training([pair(large)], CPU)
    assert plan.scale == pytest.approx(24 / 160, rel=0.02)
    assert plan_training([pair(large)], replace(CPU, preset="paper")).scale == 1


@pytest.mark.parametrize(("known", "scale"), [(16, 1.0), (14, 1.0), (18, 1.0), (24, 1.5), (11, 0.7), (32, 2.0), (8, 0.5)])
def test_images_are_scaled_where_the_start_knows_cells_of_another_size(known, scale):
    start = replace(new_model(plan_training([pair()], CPU)), diameter=known)
    plan = plan_training([pair()], CPU, start)
    assert plan.scale == pytest.approx(scale, rel=0.05)
    assert plan.diameter == pytest.approx(16, abs=0.5)


def test_images_whose_cells_differ_in_size_are_scaled_one_by_one():
    large = discs((120, 400), *((60, x, 20) for x in range(30, 400, 50)))
    start = replace(new_model(plan_training([pair()], CPU)), diameter=16.0, any_size=True)
    plan = plan_training([pair(), pair(large)], CPU, start)
    assert (plan.any_size, plan.scale, plan.diameter) == (True, 1.0, 16.0)
    assert plan.scales == pytest.approx((1.0, 16 / 40), rel=0.05)
    assert "differ in size from image to image" in plan.notes[-1]
    assert new_model(plan, start).any_size
    bound = plan_training([pair(), pair(large)], CPU, replace(start, any_size=False))
    assert (bound.any_size, set(bound.scales)) == (False, {bound.scale})
    assert not plan_training([pair(), pair()], CPU, start).any_size


def sized(*sizes, **wishes):
    """Give the plan for images of these pixel sizes."""
    start = wishes.pop("start", None)
    pairs = [replace(pair(), image=replace(pair().image, pixel_size=size and (size, size))) for size in sizes]
    return plan_training(pairs, replace(CPU, **wishes), start)


def test_the_pixel_size_is_that_of_all_images_or_none():
    assert sized(0.5, 0.51).pixel_size == pytest.approx(0.505, rel=1e-3)
    assert sized(0.5, 0.51).scales == (1, 1)  # rounded metadata must not move pixels
    for unknown in (None, 0.0, 500.0):  # not stated, or nothing that can be
        plan = sized(0.5, 0.2, unknown)
        assert (plan.pixel_size, plan.scales) == (None, (1, 1, 1))
        assert "but not all state one that can be believed" in plan.notes[-1]


def test_an_image_that_prediction_would_refuse_is_not_trained_on():
    tiny = TrainingPair(as_image((spots(3) > 0).astype(np.uint8)), spots(3))
    pairs = [replace(tiny, image=replace(tiny.image, name=f"{size}.tif", pixel_size=(size, size))) for size in (1.0, 1.0, 8.0)]
    with pytest.raises(ValueError, match=r"pixels of 1 to 8 µm, so 8.0.tif would be enlarged \d+ times .* at most 16"):
        plan_training(pairs, CPU)


@pytest.mark.parametrize(("sizes", "middle"), [((0.2, 0.4), 0.08**0.5), ((0.4, 0.2, 0.2), 0.2), ((0.65, 0.5, 0.1, 1.0), 0.325**0.5)])
def test_images_of_several_pixel_sizes_are_brought_to_the_middle_one(sizes, middle):
    plan = sized(*sizes)
    assert plan.pixel_size == pytest.approx(middle)
    np.testing.assert_allclose(np.divide(plan.scales, plan.scale), np.divide(sizes, middle))
    assert f"of {min(sizes):.3g} to {max(sizes):.3g} µm; each is brought to {middle / plan.scale:.3g} µm." in plan.notes[-1]


def test_whose_images_are_taken_at_one_scale_all_the_same():
    assert (sized(0.2, 0.4, preset="paper").pixel_size, sized(0.2, 0.4, preset="paper").scales) == (None, (1, 1))
    start = replace(new_model(sized(0.2)), diameter=16.0, any_size=True)
    assert (sized(0.2, 0.4, start=start).pixel_size, sized(0.2, 0.4, start=start).scales) == (None, (1, 1))
    bound = sized(0.2, 0.4, start=replace(start, any_size=False))
    assert bound.scales == pytest.approx((0.5**0.5, 2**0.5))


@pytest.fixture
def magnified(tmp_path):
    """The same nuclei at two magnifications, in the files that Fiji and OME write."""
    image, labels = nt.simulate_nuclei(seed=1, shape=(256, 320))
    ome = {"axes": "YX", "PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.2, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "fine.ome.tif", image, metadata=ome)
    tifffile.imwrite(tmp_path / "coarse.tif", image[::2, ::2], imagej=True, resolution=(2.5, 2.5), metadata={"unit": "um"})
    files = (tmp_path / "fine.ome.tif", labels), (tmp_path / "coarse.tif", np.ascontiguousarray(labels[::2, ::2]))
    return [TrainingPair(nt.read_image(path), known) for path, known in files]


def test_two_magnifications_are_one_size_in_training_and_at_prediction(magnified):
    plan = plan_training(magnified, replace(CPU, steps=3, depth=2, base_width=4, patch=32))
    fine, coarse = plan.scales
    assert coarse / fine == pytest.approx(2, rel=1e-6)
    assert plan.pixel_size == pytest.approx(0.08**0.5, rel=1e-6)
    planes = prepare(plan, magnified)
    wide = [cell_diameter([TrainingPair(as_image(plane.picture[0]), plane.labels)]) for plane in planes]
    assert wide[0] == pytest.approx(wide[1], rel=0.03)
    assert plan.diameter * plan.scale == pytest.approx(np.mean(wide), rel=0.03)
    model = new_model(plan)
    run_to_end(train(model, magnified, plan))
    for one, plane, scale in zip(magnified, planes, plan.scales, strict=True):
        predictor = Predictor(model, one.image, PredictionSettings(device="cpu"), window_for(model, one.image))
        assert (predictor.scale, predictor.grid) == (scale, plane.labels.shape)
        found = run_to_end(predictor.network_tile(0, tuple(slice(0, n) for n in predictor.grid)))
        np.testing.assert_allclose(found, run_to_end(predict_plane(model.network, plane.picture)), atol=1e-6)
        assert run_to_end(find_cells(model, one.image)).zoom == pytest.approx(plan.scale / scale)


def test_images_to_validate_on_are_seen_as_at_prediction(magnified):
    fine, coarse = magnified
    plan = plan_training([fine], replace(CPU, steps=2, depth=2, base_width=4, patch=32))
    model = new_model(plan)
    run_to_end(train(model, [fine], plan, validation=[coarse]))
    assert own_scale(model, coarse) == pytest.approx(2 * plan.scale, rel=1e-6)
    assert own_scale(replace(model, any_size=True), coarse) == pytest.approx(2 * plan.scale, rel=0.05)  # by its cells


def spots(width, n=20):
    """Discs of so many pixels across, wide apart."""
    side = 5 * width
    return discs((side, n * side), *((side / 2, side * (i + 0.5), width / 2) for i in range(n)))


@pytest.mark.parametrize("width", [2, 3, 5, 7])
def test_images_of_tiny_cells_are_enlarged_and_that_is_said(width):
    plan = plan_training([pair(spots(width))], CPU)
    assert plan.diameter * plan.scale == pytest.approx(12)
    (note,) = plan.notes
    assert f"only {plan.diameter:.1f} pixels across" in note
    assert f"enlarged {plan.scale:.1f} times, which takes {plan.scale**2:.0f} times the work" in note
    assert new_model(plan).counting.min_area < plan.diameter**2 / 4  # what was 16 px would drop them
    (plane,) = prepare(plan, [pair(spots(width))])
    wanted = class_map(plane.labels, 3)
    assert find_instances(np.stack([wanted == c for c in range(3)]).astype(np.float32), new_model(plan).counting, plan.scale).max() == 20


def bodies(width, thickness, side_um=1.0):
    """Give a volume of balls of so many pixels across, wide apart, and of slices so many pixels thick."""
    side, slices = 2 * width, round(2 * width / thickness) + 1
    places = [(slices / 2, side * (i + 0.5), side * (j + 0.5), width / 2) for i in range(4) for j in range(5)]
    labels = balls((slices, 4 * side, 5 * side), *places, aspect=thickness)
    image = as_image(labels.astype(np.uint8), axes="ZYX", pixel_size=(side_um, side_um), steps={"Z": thickness * side_um})
    return TrainingPair(image, labels)


def test_volumes_of_two_magnifications_are_one_size_in_training_and_at_prediction():
    both = [bodies(20, 1.5, side_um=0.5), bodies(10, 2.0, side_um=1.0)]  # balls of 10 um, slices 0.75 and 2 um apart
    plan = plan_training(both, replace(CPU, dimensions="3-D", steps=1, depth=1, base_width=2, patch=16))
    assert (plan.pixel_size, plan.diameter) == (pytest.approx(0.5**0.5), pytest.approx(10 / 0.5**0.5, rel=0.05))
    assert f"of 0.5 to 1 µm; each is brought to {plan.pixel_size / plan.scale:.3g} µm." in plan.notes[-1]
    assert "how far slices are apart" not in "".join(plan.notes)
    volumes = prepare(plan, both)
    wide = [body_diameter([TrainingPair(as_image(v.picture[0], axes="ZYX"), v.labels)], [plan.aspect]) for v in volumes]
    np.testing.assert_allclose(wide, plan.diameter * plan.scale, rtol=0.06)
    model = new_model(plan)
    run_to_end(train(model, both, plan))
    for one, volume in zip(both, volumes, strict=True):
        assert volume.labels.shape == Predictor(model, one.image, PredictionSettings(device="cpu"), window_for(model, one.image)).grid


@pytest.mark.parametrize("thickness", [0.5, 1.0, 2.2])
@pytest.mark.parametrize("width", [3, 5, 6])
def test_volumes_of_tiny_bodies_are_enlarged_too(width, thickness):
    drawn = bodies(width, thickness)
    plan = plan_training([drawn], replace(CPU, dimensions="3-D"))
    assert plan.diameter == pytest.approx(width, rel=0.15)
    assert plan.diameter * plan.scale == pytest.approx(12)
    assert plan.aspect == pytest.approx(thickness * plan.scale)  # slices stay: what was not seen cannot be made up
    assert f"enlarged {plan.scale:.1f} times, which takes {plan.scale**2:.0f} times the work" in plan.notes[-1]
    (volume,) = prepare(plan, [drawn])
    wanted = class_map(volume.labels, 3, volume.is_flat)
    sure, at = np.stack([wanted == c for c in range(3)]).astype(np.float32), (plan.scale, plan.z_scale, plan.aspect)
    assert find_bodies(sure, new_model(plan).counting, *at).max() == 20
    assert plan_training([drawn], replace(CPU, dimensions="3-D", preset="paper")).scale == 1
    start = replace(new_model(plan), diameter=4.0 * width)  # that knows larger ones: they are enlarged for it, and that is said as well
    assert "times the work" in plan_training([drawn], replace(CPU, dimensions="3-D"), start).notes[-1]


def test_no_others_are():
    for width in (9, 10, 16, 29):
        plan = plan_training([pair(spots(width))], CPU)
        assert (plan.scale, plan.notes, new_model(plan).counting) == (1.0, (), CountingSettings())
    single = np.zeros((20, 40), np.int32)
    single[::3, ::3] = np.arange(1, 99).reshape(7, 14)
    assert plan_training([pair(single)], CPU).scale == 8  # of single pixels: not more
    (note,) = plan_training([pair(spots(3))], replace(CPU, preset="paper")).notes
    assert "may not be found" in note
    start = Model(build_network(NetworkSettings(depth=2, base_width=2)), NetworkSettings(depth=2, base_width=2), scale=1.0, diameter=6.0)
    assert plan_training([pair(spots(6))], CPU, start).scale == 1  # the start knows them


SIDE = (0.5, 0.5)
"""Micrometres a pixel."""


@pytest.mark.parametrize(
    ("pixel_size", "trained_with", "diameter", "scale"),
    [
        (None, None, 0, 0.7),
        (SIDE, None, 0, 0.7),
        (None, 0.5, 0, 0.7),
        (SIDE, 0.5, 0, 0.7),
        (SIDE, 0.49, 0, 0.7),  # rounded metadata must not move pixels
        (SIDE, 0.25, 0, 1.4),  # half the magnification: the cells have half the pixels
        (SIDE, 1.0, 0, 0.35),
        (SIDE, 500.0, 0, 0.7),  # that cannot be
        (SIDE, 0.25, 40, 0.35),  # what the user says comes first
        (None, None, 10, 1.4),
    ],
)
def test_images_are_brought_to_the_size_that_the_model_knows(pixel_size, trained_with, diameter, scale):
    model = replace(bright_is_cell(diameter=20), scale=0.7, pixel_size=trained_with)
    image = as_image(np.zeros((40, 40)), pixel_size=pixel_size)
    settings = PredictionSettings(diameter=diameter)
    assert working_scale(model, image, settings) == pytest.approx(scale)
    assert run_to_end(find_cells(model, image, settings)).zoom == pytest.approx(0.7 / scale)


def test_voxels_keep_their_shape():
    model = bright_is_cell_in_3d(scale=0.5, z_scale=1.0, slice_distance=2.0, pixel_size=0.5, diameter=20)
    alike = as_image(np.zeros((8, 20, 20)), axes="ZYX", pixel_size=(0.5, 0.5), steps={"Z": 1.0})
    assert z_scale_for(model, alike, 0.5) == 1
    assert z_scale_for(model, replace(alike, steps={"Z": 2.0}), 0.5) == 2  # slices twice as far apart become twice as many
    assert z_scale_for(model, replace(alike, steps={"Z": 1.02}), 0.5) == 1  # rounded metadata move nothing
    assert z_scale_for(model, replace(alike, steps={}), 0.5) == 1
    assert z_scale_for(model, replace(alike, steps={}), 0.25) == 0.5  # larger cells are so in z too
    assert z_scale_for(model, alike, 0.5, slice_distance=4.0) == 2
