"""The tables, by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import discs, picture
from skimage.measure import regionprops

from napari_tally.core import counting
from napari_tally.core.counting import apply_rules, measure_cells, pixel_remark, planes_remark, size_remark, summarise
from napari_tally.core.images import as_image
from napari_tally.core.regions import Region
from napari_tally.settings import RuleSettings

LABELS = picture("""
    ........33
    .111....33
    .111.7....
    .....7....
    .....7....
    """)


@pytest.fixture
def image():
    values = np.full(LABELS.shape, 10, np.uint8)
    values[1:3, 1:4] = [[10, 20, 30], [40, 50, 60]]
    return as_image(values, name="well A1", pixel_size=(0.5, 2.0))


def test_planes_that_are_counted_one_by_one_are_remarked():
    stack = np.stack([LABELS] * 4)
    assert planes_remark(as_image(stack, axes="ZYX"), are_bodies=False).startswith("The 4 slices of this z-stack are counted one by one")
    assert not planes_remark(as_image(stack, axes="ZYX"), are_bodies=True)
    assert planes_remark(as_image(stack, axes="TYX"), are_bodies=False).startswith(
        "The 4 frames of this time series are counted one by one"
    )
    series = as_image(np.stack([stack] * 2), axes="TZYX")
    assert planes_remark(series, are_bodies=True).startswith("The 2 frames")
    assert planes_remark(series, are_bodies=False).startswith("The 4 slices")
    assert "If they are channels, count one of them alone" in planes_remark(as_image(stack), are_bodies=False)
    assert not planes_remark(as_image(LABELS), are_bodies=False)


def test_what_the_cells_of_a_stack_were_taken_as_is_remarked():
    stack, seen = np.stack([LABELS] * 4), {"by_labels": True}
    bodies = planes_remark(as_image(stack, axes="ZYX"), are_bodies=True, **seen)
    assert bodies == "Cells are counted as bodies, each once, as they keep their numbers through the 4 planes of this stack."
    unknown = planes_remark(as_image(stack), are_bodies=True, **seen)
    assert unknown == bodies + " If they are frames of a time series, each cell should count in each of them."
    profiles = planes_remark(as_image(stack, axes="ZYX"), are_bodies=False, **seen)
    assert profiles.endswith("Cells that keep their numbers through four slices or more are counted as bodies.")
    assert not planes_remark(as_image(LABELS), are_bodies=False, **seen)


def test_one_row_a_cell(image):
    cells = measure_cells(LABELS, image)
    assert cells.drop(columns=["perimeter_px", "perimeter_um", "eccentricity", "solidity"]).to_dict("list") == {
        "image": ["well A1"] * 3,
        "plane": [0, 0, 0],
        "label": [1, 3, 7],
        "y": [1.5, 0.5, 3.0],
        "x": [2.0, 8.5, 5.0],
        "y_um": [1.0, 0.5, 1.75],  # from the corner of the image; a pixel is 0.5 um high and 2 um wide
        "x_um": [5.0, 18.0, 11.0],
        "area_px": [6, 4, 3],
        "area_um2": [6.0, 4.0, 3.0],
        "mean_intensity": [35.0, 10.0, 10.0],
        "min_intensity": [10.0, 10.0, 10.0],
        "max_intensity": [60.0, 10.0, 10.0],
        "touches_top_left": [False, True, False],
        "touches_border": [False, True, True],
        "counted": [True, True, True],
    }


def test_shapes():
    labels = discs((60, 60), (20, 20, 12), (45, 45, 6))
    labels[40:, 5:8] = 3
    cells = measure_cells(labels, as_image(labels, pixel_size=(0.5, 0.5))).set_index("label")
    assert cells.loc[1, "perimeter_px"] == pytest.approx(2 * np.pi * 12, rel=0.05)
    assert cells.loc[1, "perimeter_um"] == pytest.approx(cells.loc[1, "perimeter_px"] / 2)
    assert cells.loc[1, "eccentricity"] < 0.1
    assert cells.loc[3, "eccentricity"] > 0.98
    assert cells["solidity"].between(0.9, 1).all()
    assert "solidity" not in measure_cells(labels, as_image(labels), shapes=False)
    assert measure_cells(labels, as_image(labels, pixel_size=(0.5, 2.0)))["perimeter_um"].isna().all()  # no such thing as its length then


@pytest.mark.parametrize(("border", "counted"), [("all", "127adz"), ("exclude", "7"), ("frame", "7dz")])
def test_cells_at_the_border(border, counted):
    labels = picture("""
        1...2
        .....
        a.7.d
        .....
        .....
        .z...
        """)
    cells = measure_cells(labels, as_image(labels), RuleSettings(border=border))
    assert cells.loc[cells["counted"], "label"].tolist() == sorted(int(c, 36) for c in counted)
    assert summarise(cells, as_image(labels))[["count", "found"]].to_numpy().tolist() == [[len(counted), 6]]


def test_in_images_side_by_side_the_frame_counts_each_cell_once(rng):
    places = [(y + rng.uniform(-2, 2), x + rng.uniform(-2, 2), 4) for y in range(8, 90, 14) for x in range(8, 90, 14)]
    labels = discs((90, 90), *places)
    counted = []
    for corner in ((y, x) for y in (0, 30, 60) for x in (0, 30, 60)):
        tile = labels[corner[0] :, corner[1] :][:31, :31]  # one pixel is shared: the line that must not be touched
        cells = measure_cells(tile, as_image(tile), RuleSettings(border="frame"))
        counted += cells.loc[cells["counted"], "label"].tolist()
    assert sorted(counted) == list(range(1, len(places) + 1))
    assert summarise(cells, as_image(tile), RuleSettings(border="frame"))["area_px"].tolist() == [
        30 * 30 if tile.shape == (31, 31) else 29 * 29
    ]


def test_a_stated_pixel_size_is_taken_for_that_of_the_file(image):
    stated = RuleSettings(pixel_size=0.5)
    known = as_image(LABELS, name=image.name, pixel_size=(0.5, 0.5))
    by_hand, by_file = apply_rules(measure_cells(LABELS, image), image, stated), measure_cells(LABELS, known)
    pd.testing.assert_frame_equal(by_hand[list(by_file)].filter(like="um"), by_file.filter(like="um"))
    assert summarise(by_hand, image, stated)["cells_per_mm2"].item() == summarise(by_file, known)["cells_per_mm2"].item()
    assert by_hand["area_um2"].tolist() == (by_hand["area_px"] / 4).tolist()
    assert pixel_remark(image, stated) == "Pixels are taken to be 0.5 µm wide, as you stated; the file says 2 × 0.5 µm."
    assert [pixel_remark(known, stated), pixel_remark(as_image(LABELS), stated), pixel_remark(image, RuleSettings())] == [""] * 3
    back = apply_rules(by_hand, image)  # and the other way round
    pd.testing.assert_frame_equal(back, measure_cells(LABELS, image))


def test_small_cells_do_not_count(image):
    assert measure_cells(LABELS, image, RuleSettings(smallest=4))["counted"].tolist() == [True, True, False]
    assert measure_cells(LABELS, image, RuleSettings(smallest=3.5, unit="um2"))["counted"].tolist() == [True, True, False]
    with pytest.raises(ValueError, match="the pixel size of the image is not known. State that size, or the area in pixels"):
        measure_cells(LABELS, as_image(LABELS), RuleSettings(smallest=4, unit="um2"))


def test_one_row_an_image(image):
    (row,) = summarise(measure_cells(LABELS, image), image).to_dict("records")
    assert row["image"] == "well A1"
    assert (row["count"], row["count_without_border"], row["plane"]) == (3, 1, 0)
    assert row["covered_percent"] == pytest.approx(100 * 13 / 50)
    assert row["cells_per_mm2"] == pytest.approx(3 / (50 * 1e-6))
    assert row["mean_area_px"] == row["mean_area_um2"] == pytest.approx(13 / 3)


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_each_border_counts_as_border(side):
    labels = np.zeros((5, 6), np.int32)
    labels[{"top": 0, "bottom": -1}.get(side, 2), {"left": 0, "right": -1}.get(side, 2)] = 1
    assert measure_cells(labels, as_image(labels))["touches_border"].tolist() == [True]


def test_unknown_pixel_size_is_not_invented(image):
    image = as_image(image.planes[0, 0])
    cells = measure_cells(LABELS, image)
    (row,) = summarise(cells, image).to_dict("records")
    assert cells["area_um2"].isna().all()
    assert np.isnan(row["cells_per_mm2"])
    assert np.isnan(row["mean_area_um2"])


def test_no_cells(image):
    cells = measure_cells(np.full(LABELS.shape, -1), image)
    assert len(cells) == 0
    assert list(cells) == list(measure_cells(LABELS, image))
    (row,) = summarise(cells, image).to_dict("records")
    assert (row["count"], row["count_without_border"], row["covered_percent"], row["cells_per_mm2"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_mean_of_short_numbers_is_exact(dtype, rng):
    """Added up in their own type, 900 values of float16 near 3000 are beyond its largest, and the mean is one of its even numbers."""
    values = rng.normal(3000, 20, (30, 30)).astype(dtype)
    cells = measure_cells(np.ones(values.shape, int), as_image(values))
    assert cells["mean_intensity"].tolist() == [pytest.approx(values.astype(float).mean(), rel=1e-12)]


def test_planes_and_channels():
    values = np.stack([np.stack([plane * np.ones_like(LABELS), 100 * np.ones_like(LABELS)]) for plane in (1, 2, 3)])
    image = as_image(values, axes="ZCYX")
    labels = np.stack([LABELS, np.zeros_like(LABELS), LABELS])
    cells = measure_cells(labels, image)
    assert cells["plane"].tolist() == [0, 0, 0, 2, 2, 2]
    assert cells["mean_intensity_0"].tolist() == [1, 1, 1, 3, 3, 3]
    assert cells["mean_intensity_1"].tolist() == [100] * 6
    assert summarise(cells, image)["count"].tolist() == [3, 0, 3]


@given(st.integers(0, 3), st.booleans(), st.permutations([1, 2, 3, 4, 900]))
def test_counts_survive_turning_mirroring_and_renumbering(turns, mirror, ids):
    labels = discs((40, 50), (0, 10, 6), (12, 20, 5), (20, 29, 5), (30, 8, 7), (39, 49, 9))
    before = measure_cells(labels, as_image(labels))
    after = np.rot90(np.array([0, *ids])[labels], turns)
    after = after[:, ::-1] if mirror else after
    after = measure_cells(after, as_image(after))
    assert sorted(after["area_px"]) == sorted(before["area_px"])
    assert after["touches_border"].sum() == before["touches_border"].sum() == 2


@pytest.mark.parametrize("order", [1, -1])
def test_a_density_is_that_of_the_place_where_regions_lie_in_each_other(order):
    labels = np.zeros((100, 100), np.int32)
    labels[4::10, 4::10] = np.arange(1, 101).reshape(10, 10)  # everywhere one cell to 100 pixels
    image = as_image(labels, pixel_size=(1.0, 1.0))
    corners = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
    regions = [Region("tissue", (80 * corners + 49.5,)), Region("tumour", (40 * corners + 49.5,))][::order]
    counts = summarise(measure_cells(labels, image, regions=regions), image, regions=regions).set_index("region")
    assert counts["count"].to_dict() == {"tissue": 48, "tumour": 16, "outside": 36}
    assert counts["area_px"].to_dict() == {"tissue": 4800, "tumour": 1600, "outside": 3600}
    assert counts["cells_per_mm2"].tolist() == pytest.approx([10_000] * 3)
    assert counts["covered_percent"].tolist() == pytest.approx([1] * 3)


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.uint64])
def test_high_ids_cost_nothing_and_stay(kind, monkeypatch):
    highest = []
    monkeypatch.setattr(counting, "regionprops", lambda labels, pixels: highest.append(labels.max()) or regionprops(labels, pixels))
    labels = LABELS.astype(kind)
    labels[LABELS > 1] += 4_000_000_000
    cells, same = measure_cells(labels, as_image(LABELS)), measure_cells(LABELS, as_image(LABELS))
    assert cells["label"].tolist() == [1, 4_000_000_003, 4_000_000_007]
    assert cells.drop(columns="label").equals(same.drop(columns="label"))
    assert highest == [3, 7]


def test_labels_of_another_shape(image):
    with pytest.raises(ValueError, match=r"well A1: labels of shape \(5, 9\) on an image of shape \(5, 10\)"):
        measure_cells(LABELS[:, 1:], image)


@pytest.mark.parametrize(("expected", "says"), [(14, False), (25, False), (30, True), (6, True), (float("nan"), False)])
def test_cells_of_another_size_than_the_model_knows(expected, says):
    labels = discs((64, 128), *((y, x, 7) for y in (12, 32, 52) for x in range(10, 128, 18)))
    remark = size_remark(np.bincount(labels.ravel())[1:], expected)
    assert remark.startswith("The cells found are about 14 px across, but at this magnification the model expects about") is says
    assert (remark == "") is not says


def test_a_few_cells_say_nothing_of_their_size():
    assert size_remark([154, 150], 100) == ""
