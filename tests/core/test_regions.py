"""Regions: where a cell belongs, and how large they are."""

import json

import numpy as np
import pytest
import tifffile
from pictures import picture

from napari_tally.core.regions import Region, locate, read_regions, regions_for

SQUARE = np.array([[-0.5, -0.5], [-0.5, 3.5], [3.5, 3.5], [3.5, -0.5]])  # 4 x 4 pixels
HOLE = SQUARE / 4 + 1


def geojson(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def feature(coordinates, kind="Polygon", **properties):
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


BOX = [[[2, 0], [6, 0], [6, 3], [2, 3], [2, 0]]]  # x, y of corners: columns 2 to 5, rows 0 to 2


def test_a_cell_belongs_where_its_centroid_lies_and_to_one_region():
    regions = [Region("a", (SQUARE,), (HOLE,)), Region("b", (SQUARE + 2,)), Region("c", (SQUARE,), plane=1)]
    points = np.array([[0, 0], [3, 3], [5, 5], [1, 1], [9, 9]], float)
    assert locate(regions, points).tolist() == ["a", "a", "b", "outside", "outside"]
    assert locate(regions, points, plane=1).tolist() == ["a", "a", "b", "c", "outside"]
    assert locate([], points[:0]).tolist() == []


@pytest.mark.parametrize(
    ("shift", "area"), [((0, 0), 16), ((-2, 0), 8), ((0, -2), 8), ((18, 0), 8), ((0, 28), 8), ((18, 28), 4), ((50, 0), 0), ((-9, -9), 0)]
)
def test_only_what_lies_in_the_image_counts_as_area(shift, area):
    assert Region("a", (SQUARE + shift,)).area((20, 30)) == pytest.approx(area)


def test_the_area_of_a_bent_region_that_reaches_out_twice():
    comb = np.array([[-5, 0], [-5, 2], [3, 2], [3, 4], [-5, 4], [-5, 6], [5, 6], [5, 0]], float)  # two teeth above the image
    assert Region("comb", (comb,)).area((20, 30)) == pytest.approx(2 * 6 + 3.5 * 4)


def test_holes_are_no_area():
    assert Region("a", (SQUARE,), (HOLE,)).area((9, 9)) == pytest.approx(15)


def test_geojson_as_qupath_writes_it(tmp_path):
    path = geojson(
        tmp_path / "a.geojson",
        feature(BOX, name="cortex"),
        feature([BOX], "MultiPolygon", classification={"name": "Tumor"}),
        feature([0, 0], "Point", name="ignored"),
        feature(BOX),
    )
    regions = read_regions(path)
    assert [region.name for region in regions] == ["cortex", "Tumor", "region 3"]
    assert regions[0].area((10, 10)) == 12
    assert locate(regions, np.array([[0, 2], [2, 5], [3, 2], [0, 1.0]])).tolist() == ["cortex", "cortex", "outside", "outside"]


def test_a_label_image_is_regions_to_the_pixel(tmp_path):
    labels = picture("""
        ..1122
        ..1222
        3..22.
        """)
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.uint8))
    regions = regions_for(tmp_path, "a")
    assert {region.name: region.area(labels.shape) for region in regions} == {"1": 3, "2": 7, "3": 1}
    names = locate(regions, np.argwhere(labels >= 0).astype(float))
    assert names.tolist() == [str(cell) if cell else "outside" for cell in labels.ravel()]


def test_a_file_for_all_or_a_folder_with_one_each(tmp_path):
    path = geojson(tmp_path / "well 1.json", feature(BOX, name="x"))
    assert [region.name for region in regions_for(path, "any")] == ["x"]
    assert [region.name for region in regions_for(tmp_path, "well 1")] == ["x"]
    with pytest.raises(ValueError, match="there are no regions for well 2; a file well 2.geojson"):
        regions_for(tmp_path, "well 2")


@pytest.mark.parametrize("text", ["", "[1]", '{"type": "Polygon", "coordinates": [[["a", 1]]]}', "null"])
def test_what_is_no_geojson(tmp_path, text):
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(ValueError, match="this cannot be read as GeoJSON"):
        read_regions(tmp_path / "a.geojson")


def test_nothing_in_it(tmp_path):
    with pytest.raises(ValueError, match="there is no region in this file"):
        read_regions(geojson(tmp_path / "a.geojson"))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="one plane of whole numbers is wanted"):
        read_regions(tmp_path / "a.tif")
