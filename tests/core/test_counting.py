"""The tables, by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import discs, picture

from napari_tally.core.counting import measure_cells, size_remark, summarise, write_table
from napari_tally.core.images import as_image

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


def test_one_row_a_cell(image):
    cells = measure_cells(LABELS, image)
    assert cells.to_dict("list") == {
        "image": ["well A1"] * 3,
        "plane": [0, 0, 0],
        "label": [1, 3, 7],
        "y": [1.5, 0.5, 3.0],
        "x": [2.0, 8.5, 5.0],
        "area_px": [6, 4, 3],
        "area_um2": [6.0, 4.0, 3.0],  # a pixel is 0.5 um high and 2 um wide
        "mean_intensity": [35.0, 10.0, 10.0],
        "touches_border": [False, True, True],
    }


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


def test_labels_of_another_shape(image):
    with pytest.raises(ValueError, match=r"well A1: labels of shape \(5, 9\) on an image of shape \(5, 10\)"):
        measure_cells(LABELS[:, 1:], image)


def test_written_whole(tmp_path, image):
    cells = measure_cells(LABELS, image)
    write_table(tmp_path / "cells.csv", cells)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "cells.csv"), cells, check_dtype=False)
    assert (tmp_path / "cells.csv").read_text().splitlines()[1] == "well A1,0,1,1.5,2,6,6,35,False"


@pytest.mark.parametrize(("expected", "says"), [(14, False), (25, False), (30, True), (6, True), (float("nan"), False)])
def test_cells_of_another_size_than_the_model_knows(expected, says):
    labels = discs((64, 128), *((y, x, 7) for y in (12, 32, 52) for x in range(10, 128, 18)))
    remark = size_remark(labels, expected)
    assert remark.startswith("The cells found are about 14 px across, but at this magnification the model expects about") is says
    assert (remark == "") is not says


def test_a_few_cells_say_nothing_of_their_size():
    assert size_remark(discs((64, 64), (32, 32, 7)), 100) == ""
