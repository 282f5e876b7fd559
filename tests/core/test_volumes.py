"""Three dimensions: the network, tiles that are exact in all axes, and what a voxel's shape means."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import bright_is_cell, bright_is_cell_in_3d
from pictures import balls
from scipy import ndimage as ndi

import napari_tally as nt
from napari_tally.core import augment
from napari_tally.core.annotations import cells_go_through
from napari_tally.core.architectures import build_network
from napari_tally.core.bodies import find_bodies
from napari_tally.core.checkpoint import Checkpoint, load_checkpoint, load_pairs, save_checkpoint, save_pairs
from napari_tally.core.counting import measure_cells, summarise
from napari_tally.core.events import run_to_end
from napari_tally.core.explain import explain
from napari_tally.core.find import find_cells
from napari_tally.core.fold import folded
from napari_tally.core.images import Image
from napari_tally.core.lazy import LabelsZarr
from napari_tally.core.metrics import evaluate, iou_matrix
from napari_tally.core.model_file import load_model, save_model
from napari_tally.core.plan import dimensions_for, new_model, plan_training
from napari_tally.core.predict import predict, predict_plane
from napari_tally.core.regions import OUTSIDE, Region
from napari_tally.core.samples import Plane, TrainingPair, class_map, prepare_volumes
from napari_tally.core.start import choose_start
from napari_tally.core.strips import classify
from napari_tally.core.tiles import best_stride, plan_tiles
from napari_tally.core.train import Finished, Validation, train
from napari_tally.core.unet import UNet
from napari_tally.core.validation import hold_out, to_judge_by
from napari_tally.core.weights import border_weights
from napari_tally.settings import (
    AugmentationSettings,
    CountingSettings,
    NetworkSettings,
    NormalisationSettings,
    PredictionSettings,
    RuleSettings,
    TrainingSettings,
)

# ------------------------------------------------------------------ the network


def in_3d(**kwargs):
    return UNet(**{"base_width": 2, "dimensions": 3, **kwargs})


@pytest.mark.parametrize("flat", [0, 1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_sizes_of_volumes_are_those_of_the_network(padding, flat):
    with torch.device("meta"):
        network = in_3d(depth=2, padding=padding, flat=flat).eval()
    z, y, x = network.axes
    assert (z.step, y.step, x.step) == (2 ** (2 - flat), 4, 4)
    sizes = z.input_size(5), y.input_size(6), x.input_size(7)
    answer = network(torch.empty(1, 1, *sizes, device="meta"))
    assert answer.shape[2:] == tuple(axis.output_size(n) for axis, n in zip(network.axes, sizes, strict=True))
    assert answer.shape[2:] == tuple(n - 2 * axis.lost for axis, n in zip(network.axes, sizes, strict=True))


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize("flat", [0, 1, 2])
def test_margin_across_slices_is_how_far_the_network_looks(flat, upsampling):
    """With positive weights a huge voxel wins every pooling on its way, so it changes every output that looks at it."""
    torch.manual_seed(0)
    network = in_3d(depth=2, flat=flat, upsampling=upsampling, batch_norm=False).double().eval()
    for parameter in network.parameters():
        parameter.data.uniform_(0.1, 1.0)
    axis = network.axes[0]
    reach = -(-axis.margin // axis.step) * axis.step
    side = 2 * reach + axis.step
    volumes = torch.rand(1, 1, side, 4, 4, dtype=torch.float64).repeat(axis.step + 1, 1, 1, 1, 1)
    for phase in range(axis.step):
        volumes[phase, 0, reach + phase, 2, 2] = 1e6
    with torch.inference_mode():
        answers = network(volumes)[:, 1]
    changed = [(answers[p] != answers[-1]).any(dim=(1, 2)).nonzero() - reach - p for p in range(axis.step)]
    assert max(int(where.abs().max()) for where in changed) == axis.margin


def test_relatives_of_the_unet_say_that_they_know_no_volumes():
    with pytest.raises(ValueError, match="ResU-Net is there for images only; for volumes choose the architecture 'unet'"):
        build_network(NetworkSettings(architecture="res-unet", dimensions=3, base_width=2))
    with pytest.raises(ValueError, match="3 poolings shall leave z alone, and there are 2"):
        build_network(NetworkSettings(dimensions=3, depth=2, flat=3))


# ------------------------------------------------------------------ tiles


def sharp(**kwargs):
    """A network whose answers differ much from place to place."""
    torch.manual_seed(1)
    network = in_3d(classes=3, **kwargs).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    network.head.weight.data *= 3
    return network


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize("flat", [0, 1, 2])
def test_slabs_give_what_the_whole_gives(flat, upsampling):
    network = sharp(depth=2, flat=flat, upsampling=upsampling)
    volume = torch.rand(1, 1, 20, 12, 16)
    with torch.inference_mode():
        whole = network(volume).softmax(1)[0]
    torch.testing.assert_close(run_to_end(classify(folded(network), volume, strip_pixels=1)), whole, atol=1e-5, rtol=0)


@given(
    st.tuples(st.integers(1, 21), st.integers(1, 21), st.integers(1, 21)),
    st.integers(3, 24),
    st.sampled_from([{"flat": 0}, {"flat": 1}, {"flat": 1, "upsampling": "linear"}, {"padding": "valid", "flat": 1}]),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
def test_tiles_of_any_size_give_what_the_whole_gives(shape, stride, kind):
    network = sharp(depth=1, **kind)
    volume = np.random.default_rng(0).random((1, *shape), np.float32)
    whole = run_to_end(predict_plane(network, volume, 100))
    assert whole.shape == (3, *shape)
    np.testing.assert_allclose(whole.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(run_to_end(predict_plane(network, volume, stride)), whole, atol=1e-5)


def test_tiles_of_a_volume_fit_the_memory():
    shape, halo = (90, 500, 400), (24, 56, 56)
    stride = best_stride(shape, halo, 3e6)
    tiles = plan_tiles(shape, stride)
    covered = np.zeros(shape, np.uint8)
    for tile in tiles:
        covered[tile] += 1
    assert (covered == 1).all()
    assert np.prod([min(n, side + 2 * h) for n, side, h in zip(shape, stride, halo, strict=True)]) < 3e6
    assert best_stride(shape, halo, 1e9) == shape


# ------------------------------------------------------------------ what is learned


@pytest.mark.parametrize("aspect", [1.0, 3.0])
def test_border_weights_of_volumes_by_definition(aspect):
    labels = balls((9, 20, 22), (2, 6, 6, 4), (2, 6, 16, 3), (6, 13, 10, 4), aspect=aspect)
    ids = np.array([0, 7, 2**40, 3])[labels]
    away = [ndi.distance_transform_edt(labels != cell, sampling=(aspect, 1, 1)) for cell in (1, 2, 3)]
    d1, d2 = np.sort(away, axis=0)[:2]
    np.testing.assert_allclose(border_weights(ids, 10, 2, aspect), 10 * np.exp(-((d1 + d2) ** 2) / 8), atol=1e-4)
    assert not border_weights(np.where(labels == 1, 1, 0), 10, 2, aspect).any()


def test_inside_and_rim_of_bodies():
    labels = np.zeros((5, 7, 7), np.int32)
    labels[1:4, 1:6, 1:6] = 4
    inside = class_map(labels, 3) == 1
    assert inside.sum() == 1 * 3 * 3
    assert inside[2, 2:5, 2:5].all()
    flat = class_map(labels, 3, flat=True) == 1  # thick slices: the uppermost is no rim for the background above it
    assert flat.sum() == 3 * 3 * 3
    assert flat[1, 2:5, 2:5].all()


def test_cells_one_above_the_other_are_kept_apart():
    labels = np.zeros((4, 5, 5), np.int32)
    labels[:2], labels[2:] = 1, 2
    for flat in (False, True):
        assert (class_map(labels, 3, flat)[1:3] == 2).all()
        assert (class_map(labels, 3, flat)[[0, 3]] == 1).all()
    np.testing.assert_array_equal(class_map(labels, 2)[:, 0, 0], [1, 0, 0, 1])


def test_a_map_without_chance_reads_the_volume_as_it_is(rng):
    off = AugmentationSettings(flips=False, rotation=0, scale=1, elastic_sd=0, intensity=0)
    volume = torch.rand(2, 6, 9, 8)
    where = augment.draw_map(rng, (2.5, 4.0, 3.5), (6, 9, 8), off, aspect=2.5)
    torch.testing.assert_close(augment.warp(volume, where), volume)


def test_a_quarter_turn_about_z_leaves_slices_in_their_places(rng):
    settings = AugmentationSettings(flips=False, rotation=180, scale=1, elastic_sd=0)
    where = augment.draw_map(rng, (2, 4, 4), (5, 9, 9), settings, aspect=3.0)
    np.testing.assert_allclose(where[0], np.broadcast_to(np.arange(5)[:, None, None], (5, 9, 9)), atol=1e-5)
    away = np.hypot(where[1] - 4, where[2] - 4)
    np.testing.assert_allclose(away, np.broadcast_to(np.hypot(*np.mgrid[-4:5, -4:5]), away.shape), atol=1e-4)


def test_elastic_deformation_is_as_large_across_slices_as_along_them(rng):
    settings = AugmentationSettings(flips=False, rotation=0, scale=1, elastic_sd=3)
    aspect, still = 4.0, np.stack(np.meshgrid(np.arange(9) - 4, np.arange(12) - 5.5, np.arange(12) - 5.5, indexing="ij"))
    moved = [augment.draw_map(rng, (0, 0, 0), (9, 12, 12), settings, aspect) - still for _ in range(200)]
    sd = np.std(moved, axis=(0, 2, 3, 4)) * [aspect, 1, 1]
    np.testing.assert_allclose(sd, sd.mean(), rtol=0.15)
    assert 1 < sd.mean() < 3


def test_ids_are_never_mixed(rng):
    labels = torch.from_numpy(balls((8, 24, 24), (3, 8, 8, 5), (5, 16, 16, 6), aspect=2).astype(np.float32) * 1000)[None]
    for _ in range(5):
        where = augment.draw_map(rng, (4, 12, 12), (8, 24, 24), AugmentationSettings(), aspect=2)
        assert set(np.unique(augment.warp(labels, where, nearest=True))) <= {0, 1000, 2000}


def stack(labels, name="stack", noise=0.05, z_size=None, **kwargs):
    picture = 0.2 + 0.6 * (labels > 0) + np.random.default_rng(0).normal(0, noise, labels.shape)
    planes, steps = (1000 * picture).clip(0).astype(np.uint16)[:, None], {"Z": z_size} if z_size else {}
    return TrainingPair(Image(planes, name, (len(labels),), steps=steps, **kwargs), labels)


GRID = [(z, y, x, 4) for z in (3, 9) for y in (6, 18, 30) for x in (6, 18, 30)]


def large_balls():
    """Draw cells that need no enlarging."""
    return balls((18, 54, 54), *((1.5 * z, 1.5 * y, 1.5 * x, 6) for z, y, x, _ in GRID))


def test_cells_that_keep_their_ids_make_volumes():
    bodies = balls((12, 36, 36), *GRID)
    profiles = np.stack([np.unique(plane, return_inverse=True)[1].reshape(plane.shape) + 50 * z for z, plane in enumerate(bodies)])
    profiles = np.where(bodies > 0, profiles, 0)
    assert cells_go_through(bodies, 12)
    assert not cells_go_through(profiles, 12)
    assert not cells_go_through(bodies, 3)  # too few slices
    assert not cells_go_through(bodies, 1)
    assert not cells_go_through(bodies * 0, 12)
    two = np.concatenate([bodies, np.where(bodies > 0, 40 - bodies, 0)])  # ids count within a volume
    assert cells_go_through(two, 12)
    assert dimensions_for([stack(bodies)], TrainingSettings()) == 3
    assert dimensions_for([stack(profiles)], TrainingSettings()) == 2
    assert dimensions_for([stack(bodies)], TrainingSettings(dimensions="2-D")) == 2
    assert dimensions_for([stack(bodies)], TrainingSettings(architecture="res-unet")) == 2
    assert dimensions_for([stack(bodies, axes="T")], TrainingSettings()) == 2
    with pytest.raises(ValueError, match="stack is no z-stack, and volumes are to be learned"):
        dimensions_for([stack(bodies, axes="T")], TrainingSettings(dimensions="3-D"))


@pytest.mark.parametrize(("distance", "z_scale", "flat"), [(0.5, 0.5, 0), (1.0, 1.0, 0), (2.2, 1.0, 1), (4.0, 1.0, 2)])
def test_the_plan_follows_the_shape_of_the_voxels(distance, z_scale, flat):
    pair = stack(large_balls(), pixel_size=(0.25, 0.25), z_size=0.25 * distance)
    plan = plan_training([pair], TrainingSettings(steps=1))
    assert (plan.network.dimensions, plan.z_scale, plan.network.flat) == (3, z_scale, flat)
    assert plan.slice_distance == pytest.approx(distance)
    assert plan.diameter == pytest.approx(12 * np.cbrt(distance), rel=0.15)  # balls of voxels: thick voxels make them long
    assert not plan.notes or "Only 18 cells" in plan.notes[0]
    words = dict(explain(plan))
    assert f"Slices are {distance:.3g} pixel" in words["Slices"]
    assert ("resampled by 0.50" in words["Slices"]) == (distance == 0.5)
    assert ("2 halvings leave z alone" in words["Slices"]) == (flat == 2)
    assert "18 slices, seen as volumes" in words["Images"]


def test_what_the_files_do_not_say_is_said():
    plan = plan_training([stack(balls((12, 36, 36), *GRID))], TrainingSettings(steps=1))
    assert any("do not say how far slices are apart; they are taken to be 1 pixel apart" in note for note in plan.notes)
    stated = plan_training([stack(balls((12, 36, 36), *GRID))], TrainingSettings(steps=1, slice_distance=2))
    assert stated.slice_distance == 2
    assert not any("do not say" in note for note in stated.notes)


def test_slices_that_nobody_has_drawn_in_teach_nothing():
    labels = balls((12, 36, 36), *GRID[:9])  # all of them lie in slices 0 to 7
    how = [(1.0, 1.0)], 1.0, NormalisationSettings(), 10, 3
    (volume,) = prepare_volumes([stack(labels)], 1, *how)
    np.testing.assert_array_equal((volume.labels < 0).all((1, 2)), np.arange(12) > 7)
    marked = labels.copy()
    marked[:, :, 30:] = -1
    (volume,) = prepare_volumes([stack(marked)], 1, *how)
    np.testing.assert_array_equal(volume.labels < 0, marked < 0)
    assert not prepare_volumes([stack(labels * 0)], 1, *how)


@pytest.mark.parametrize("tall", [True, False])
def test_blocks_of_a_volume_share_no_cell(tall):
    shape = (60, 24, 20) if tall else (8, 24, 80)
    places = [(z, y, x, 3) for z in range(4, shape[0], 8) for y in (6, 17) for x in range(6, shape[2], 10)]
    labels = balls(shape, *places)
    plane = Plane(0, "a", np.zeros((1, *shape), np.float32), labels, np.zeros(shape, np.float32), aspect=1.5)
    training, held_out = hold_out([plane], guard=12)
    a, b = training[0].labels, held_out[0].labels
    assert not set(np.unique(a[a > 0])) & set(np.unique(b[b > 0]))
    axis = 0 if tall else 2
    along = [np.flatnonzero((part >= 0).any(tuple(i for i in range(3) if i != axis))) for part in (a, b)]
    gap = along[1][0] - along[0][-1] - 1
    assert gap == min(8 if tall else 12, shape[axis] // 8)  # 12 px are 8 slices of 1.5 px
    window = to_judge_by([replace(plane, labels=np.tile(labels, (3, 10, 3)), picture=np.zeros((1, 3 * shape[0], 240, 3 * shape[2])))])
    assert window[0].labels.size <= 512**2


# ------------------------------------------------------------------ cells


def sure(labels):
    """Probabilities that say what is drawn."""
    inside = ndi.gaussian_filter((class_map(labels, 3) == 1).astype(np.float32), 0.7)
    cell = (labels > 0).astype(np.float32)
    return np.stack([1 - cell, inside * cell, cell * (1 - inside)])


def test_bodies_have_one_number_through_all_slices():
    labels = balls((14, 40, 40), (4, 10, 10, 5), (4, 10, 20, 5), (10, 28, 15, 5), (9, 28, 30, 6))
    found = find_bodies(sure(labels), CountingSettings(smoothing=1, min_area=20))
    np.testing.assert_array_equal(found > 0, labels > 0)
    assert found.max() == 4
    assert all(len(np.unique(found[labels == cell])) == 1 for cell in (1, 3, 4))
    assert iou_matrix(labels, found).max(1).min() > 0.9


def test_a_shallow_valley_between_two_slices_makes_no_two_cells():
    column = np.array([0, 0.8, 0.9, 0.8, 0.75, 0.85, 0.9, 0.8, 0], np.float32)
    height = np.broadcast_to(column[:, None, None], (9, 5, 5))
    probabilities = np.stack([1 - height, height])
    bare = CountingSettings(smoothing=0, min_area=1, valley=0.2)
    assert find_bodies(probabilities, bare).max() == 1
    assert find_bodies(probabilities, replace(bare, valley=0.1)).max() == 2
    assert find_bodies(probabilities, replace(bare, min_area=1000)).max() == 0
    assert find_bodies(probabilities, replace(bare, min_area=1000), zoom=0.5, z_zoom=0.5).max() == 1  # 125 voxels there are 1000 here
    assert find_bodies(probabilities * np.nan, bare).max() == 0


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_count_does_not_depend_on_how_the_volume_lies(turn):
    labels = balls((30, 30, 30), (8, 8, 8, 5), (8, 8, 18, 5), (20, 20, 9, 6), (20, 19, 21, 5))
    found = find_bodies(sure(labels.transpose(turn)), CountingSettings(smoothing=1))
    assert found.max() == 4


@pytest.mark.parametrize(("scale", "z_scale"), [(1.0, 1.0), (0.5, 1.0), (0.7, 0.6)])
def test_volumes_are_counted_as_volumes(scale, z_scale):
    labels = balls((12, 48, 48), (3, 10, 10, 6), (8, 10, 30, 6), (6, 32, 20, 7), aspect=2)
    pair = stack(labels, noise=0.01)
    model = bright_is_cell_in_3d(scale=scale, z_scale=z_scale)
    news = []
    found = run_to_end(find_cells(model, pair.image), news.append)
    assert found.labels.shape == labels.shape
    assert found.cells == found.labels.max() == 3
    assert iou_matrix(labels, found.labels).max(1).min() > (0.95 if scale == 1 else 0.6)
    assert found.probabilities.shape == (12, 3, 48, 48)
    np.testing.assert_allclose(found.probabilities, run_to_end(predict(model, pair.image)), atol=1e-5)
    np.testing.assert_array_equal(found.labelled(model.counting), found.labels)
    assert found.labelled(replace(model.counting, min_area=10000)).max() == 0
    tiled = run_to_end(find_cells(model, pair.image, PredictionSettings(tile=17)))
    np.testing.assert_array_equal(tiled.labels, found.labels)
    assert news[-1].done == news[-1].total


def test_each_time_point_is_a_volume_of_its_own():
    labels = balls((8, 24, 24), (3, 8, 8, 4), (4, 16, 16, 4))
    pair = stack(np.concatenate([labels, labels[::-1]]), noise=0.01)
    image = replace(pair.image, leading=(2, 8))
    found = run_to_end(find_cells(bright_is_cell_in_3d(), image))
    assert found.labels.shape == (2, 8, 24, 24)
    assert found.cells == 4
    assert set(np.unique(found.labels[0])) == {0, 1, 2}
    assert set(np.unique(found.labels[1])) == {0, 3, 4}
    one = run_to_end(find_cells(bright_is_cell_in_3d(), image, planes=[11]))
    assert not one.labels[0].any()
    assert one.cells == 2
    assert len(summarise(measure_cells(found.labels, image), image)) == 2


def test_a_model_for_volumes_says_that_a_plane_is_none():
    model, plane = bright_is_cell_in_3d(), nt.as_image(np.zeros((32, 32), np.uint8), name="a plane")
    with pytest.raises(ValueError, match=r"a plane is a single plane, but this model was trained on volumes \(z-stacks\)"):
        run_to_end(find_cells(model, plane))
    series = nt.as_image(np.zeros((3, 32, 32), np.uint8), axes="TYX", name="film")
    with pytest.raises(ValueError, match="film is a time series of planes"):
        nt.predict(series, model)
    mixed = nt.as_image(np.zeros((3, 2, 32, 32), np.uint8), axes="ZTYX", name="a film")
    with pytest.raises(ValueError, match=r"a film has the axes Z, T, Y, X.*Put time first.*Re-order Hyperstack"):
        run_to_end(find_cells(model, mixed))


def test_a_model_for_planes_takes_a_stack_slice_by_slice():
    labels = balls((6, 40, 40), (3, 12, 12, 6), (3, 28, 28, 6))
    found = run_to_end(find_cells(bright_is_cell(), stack(labels, noise=0.01).image))
    assert found.volumes is None
    assert all(len(np.unique(found.labels[z][labels[z] > 0])) == len(np.unique(labels[z])) - 1 for z in range(6))
    assert len(np.unique(found.labels)) - 1 > 2


# ------------------------------------------------------------------ tables


def test_the_table_of_bodies():
    labels = np.zeros((5, 12, 10), np.int32)
    labels[1:4, 2:5, 3:7] = 9
    labels[2, 2:5, 7] = 9
    labels[3:, 8:, :2] = 4
    pair = stack(labels, pixel_size=(0.5, 0.5), z_size=2.0)
    cells = measure_cells(labels, pair.image).set_index("label")
    cell = cells.loc[9]
    assert (cell["volume_vx"], cell["area_px"], cell["slices"], cell["plane"]) == (39, 15, 3, 2)
    assert cell["volume_um3"] == pytest.approx(39 * 0.5)
    assert (cell["z"], cell["y"]) == (pytest.approx(2), pytest.approx(3))
    assert cell["z_um"] == pytest.approx(5)
    assert cell["mean_intensity"] == pytest.approx(pair.image.planes[:, 0][labels == 9].mean())
    assert not cell["touches_border"]
    assert cells.loc[4, "touches_border"]
    assert cells.loc[4, "touches_top_left"]
    table = summarise(cells.reset_index(), pair.image)
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["count"], row["count_without_border"], row["slices"]) == (2, 1, 5)
    assert row["covered_percent"] == pytest.approx(100 * (labels > 0).mean())
    assert row["cells_per_mm3"] == pytest.approx(2 / (600 * 0.5e-9))
    assert measure_cells(labels, pair.image, RuleSettings(border="exclude"))["counted"].sum() == 1
    assert measure_cells(labels, pair.image, RuleSettings(smallest=14))["counted"].sum() == 1


def test_a_table_of_bodies_from_a_file_is_the_same(tmp_path):
    labels = balls((6, 30, 30), (2, 8, 8, 4), (3, 20, 20, 6))
    pair = stack(labels)
    streamed = LabelsZarr(tmp_path / "labels.zarr", (6, 30, 30))
    for z, plane in enumerate(labels):
        streamed[z, slice(0, 30), slice(0, 30)] = plane
    pd.testing.assert_frame_equal(measure_cells(streamed, pair.image), measure_cells(labels, pair.image))


def test_bodies_are_matched_as_bodies():
    labels = balls((6, 30, 30), (2, 8, 8, 4), (3, 20, 20, 6))
    assert evaluate([("a", labels, labels[:, ::1])]).matchings[0].tp == 2
    halves = np.where(labels > 0, labels + 10 * (np.arange(6)[:, None, None] > 2), 0)  # each body cut into two in its middle
    assert evaluate([("a", labels, halves)]).matchings[-1].tp == 0
    assert evaluate([("a", labels, labels * 0)]).true_counts == (2,)


def test_cells_found_slice_by_slice_are_matched_in_their_slices():
    labels = balls((6, 30, 30), (2, 8, 8, 4), (3, 20, 20, 6))
    slices = np.where(labels > 0, labels + 10 * np.arange(6)[:, None, None], 0)  # the same cells, numbered anew in each slice
    profiles = sum(len(np.unique(plane)) - 1 for plane in labels)
    matching = evaluate([("a", labels, slices)]).matchings[-1]
    assert (matching.tp, matching.fp, matching.fn) == (profiles, 0, 0)


# ------------------------------------------------------------------ training and files


def test_a_model_for_volumes_learns_and_comes_back(tmp_path):
    places = [(z, y, x, 4) for z in (3, 9) for y in (6, 18, 30) for x in range(6, 50, 10)]
    pair = stack(balls((12, 36, 52), *places), pixel_size=(0.5, 0.5), z_size=1.0)
    plan = plan_training([pair], TrainingSettings(steps=4, depth=2, base_width=4, patch=16))
    model = new_model(plan)
    news = list(train(model, [pair], plan))
    assert isinstance(news[-1], Finished)
    assert any(isinstance(event, Validation) for event in news)
    assert model.slice_distance == 2
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert (again.settings, again.z_scale, again.slice_distance) == (model.settings, model.z_scale, 2)
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(nt.predict(pair.image, again).labels, nt.predict(pair.image, model).labels)
    on = plan_training([pair], TrainingSettings(steps=1), again)
    assert (on.network, on.z_scale) == (again.settings, again.z_scale)
    with pytest.raises(ValueError, match=r"The start model is one for volumes \(3-D\), and 2-D is asked for"):
        plan_training([pair], TrainingSettings(dimensions="2-D"), again)


def test_a_training_on_volumes_goes_on_to_the_same_model(tmp_path):
    places = [(z, y, x, 4) for z in (3, 9) for y in (6, 18, 30) for x in range(6, 50, 10)]
    pair = stack(balls((12, 36, 52), *places), pixel_size=(0.5, 0.5), z_size=1.0)
    plan = plan_training([pair], TrainingSettings(steps=6, depth=1, base_width=2, patch=16))
    whole, broken = new_model(plan), new_model(plan)
    run_to_end(train(whole, [pair], plan))
    news = train(broken, [pair], plan, checkpoint_seconds=1e-9)
    kept = next(event for event in news if isinstance(event, Checkpoint) and event.step == 3)
    save_checkpoint(kept, tmp_path / "state.safetensors")
    save_pairs([pair], tmp_path / "data.safetensors")
    again, pairs = load_checkpoint(tmp_path / "state.safetensors"), load_pairs(tmp_path / "data.safetensors")
    model = again.model()
    run_to_end(train(model, pairs, again.plan_here(), again.augmentation, resume=again))
    assert (model.slice_distance, model.z_scale) == (whole.slice_distance, whole.z_scale) == (2, 1)
    for ours, theirs in zip(whole.network.state_dict().values(), model.network.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_an_inflated_model_sees_what_the_plane_model_saw():
    """With the same picture in every slice, each slice of the volume gets what the plane gets, away from the first and last."""
    torch.manual_seed(0)
    settings = NetworkSettings(depth=2, base_width=4)
    flat = nt.Model(build_network(settings).eval(), settings, diameter=8.0, record={"name": "cells"})
    pair = stack(large_balls())
    model = choose_start(flat, [pair], TrainingSettings(dimensions="3-D"))
    assert model.settings == replace(settings, dimensions=3, batch_norm=False)  # folded: tests/core/test_fold.py
    assert model.record["name"] == "cells, for volumes"
    picture = torch.rand(1, 1, 16, 16)
    with torch.inference_mode():
        plane, volume = flat.network(picture), model.network(picture[:, :, None].expand(1, 1, 8, 16, 16))
    torch.testing.assert_close(volume, plane[:, :, None].expand_as(volume), atol=1e-5, rtol=1e-4)
    assert choose_start(flat, [pair], TrainingSettings()).settings.dimensions == 2  # it is asked for: so slice by slice
    assert choose_start("none", [pair], TrainingSettings()) is None


def test_regions_of_a_volume_are_seen_from_above():
    """Whichever slice they are drawn on."""
    pair = stack(balls((6, 30, 40), (3, 15, 10, 3), (3, 15, 30, 3)))
    for z in range(6):
        left = Region("left", (np.array([[-1, -1], [-1, 20], [31, 20], [31, -1]], float),), plane=z)
        table = measure_cells(pair.labels, pair.image, regions=[left], are_bodies=True)
        assert table["region"].tolist() == ["left", OUTSIDE]
        counts = summarise(table, pair.image, regions=[left]).set_index("region")
        assert counts["count"].to_dict() == {"left": 1, OUTSIDE: 1}
        assert counts.loc["left", "area_px"] > 0


def test_regions_of_a_volume_make_up_its_unbiased_brick():
    """Without its first slice, as without its first row and column."""
    labels, rules = balls((10, 30, 40), (5, 15, 10, 3), (5, 15, 30, 3)), RuleSettings(border="frame")
    pair = stack(labels, pixel_size=(1.0, 1.0), z_size=1.0)
    left = Region("left", (np.array([[-1, -1], [-1, 19.5], [31, 19.5], [31, -1]], float),))
    cells = measure_cells(labels, pair.image, rules, [left])
    parts = summarise(cells, pair.image, rules, [left]).set_index("region")["volume_mm3"]
    assert parts["left"] == pytest.approx(9 * 29 * 19 * 1e-9)
    assert parts.sum() == pytest.approx(summarise(cells, pair.image, rules)["volume_mm3"].item())
