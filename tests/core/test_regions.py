"""Regions: where a cell belongs, and how large they are."""

import json
from itertools import permutations

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture

from napari_tally.core.counting import apply_rules, measure_cells, summarise
from napari_tally.core.export.geojson import to_geojson
from napari_tally.core.images import as_image
from napari_tally.core.regions import OUTSIDE, Region, areas, fitted, locate, read_regions, regions_for

SQUARE = np.array([[-0.5, -0.5], [-0.5, 3.5], [3.5, 3.5], [3.5, -0.5]])  # 4 x 4 pixels
HOLE = SQUARE / 4 + 1


def geojson(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def feature(coordinates, kind="Polygon", **properties):
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


BOX = [[[2, 0], [6, 0], [6, 3], [2, 3], [2, 0]]]  # x, y of corners: columns 2 to 5, rows 0 to 2


def test_a_cell_belongs_where_its_centroid_lies_and_to_one_region():
    regions = [Region("a", (SQUARE,), ((HOLE,),)), Region("b", (SQUARE + 2,)), Region("c", (SQUARE,), plane=1)]
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
    assert Region("a", (SQUARE,), ((HOLE,),)).area((9, 9)) == pytest.approx(15)


def ring(first, last):
    return [[first, first], [last, first], [last, last], [first, last], [first, first]]


@pytest.mark.parametrize("kind", ["geojson", "tif"])
def test_an_island_in_a_hole_belongs_to_its_region(tmp_path, kind):
    labels = np.zeros((100, 100), np.uint8)
    for first, last, value in ((10, 90, 1), (20, 80, 0), (40, 60, 1), (45, 50, 0)):
        labels[first:last, first:last] = value
    tifffile.imwrite(tmp_path / "a.tif", labels)
    geojson(tmp_path / "a.geojson", feature([[ring(10, 90), ring(20, 80)], [ring(40, 60), ring(45, 50)]], "MultiPolygon", name="1"))
    (region,) = read_regions(tmp_path / f"a.{kind}")
    assert region.area(labels.shape) == labels.sum() == 80**2 - 60**2 + 20**2 - 5**2
    np.testing.assert_array_equal(region.contains(np.argwhere(labels >= 0).astype(float)).reshape(labels.shape), labels == 1)


def square(first, last):
    return np.array([[first, first], [first, last], [last, last], [last, first]], float) - 0.5


def pixels_of(regions, shape, plane=0):
    """Name -> pixels whose centre a region gets."""
    names, times = np.unique(locate(regions, np.argwhere(np.ones(shape)).astype(float), plane).astype(str), return_counts=True)
    return {region.name: 0 for region in regions} | {OUTSIDE: 0} | dict(zip(names.tolist(), times.tolist(), strict=True))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_what_lies_inside_a_larger_region_is_of_its_own_whatever_the_order(order):
    all_of_them = [Region("tissue", (square(2, 18),)), Region("tumour", (square(5, 15),)), Region("necrosis", (square(5, 9),))]
    regions = [all_of_them[i] for i in order]
    assert areas(regions, (20, 20)) == {"tissue": 256 - 100, "tumour": 100 - 16, "necrosis": 16, OUTSIDE: 400 - 256}
    assert pixels_of(regions, (20, 20)) == areas(regions, (20, 20))


def test_of_regions_that_overlap_the_first_has_what_they_share():
    one, other = Region("one", (square(0, 10),)), Region("other", (square(6, 18),))
    assert areas([one, other], (20, 20)) == {"one": 100, "other": 144 - 16, OUTSIDE: 400 - 228}
    assert areas([other, one], (20, 20)) == {"other": 144, "one": 100 - 16, OUTSIDE: 400 - 228}
    same = [one, Region("again", one.outlines), Region("one", other.outlines)]
    assert areas(same, (20, 20)) == {"one": 228, "again": 0, OUTSIDE: 400 - 228}


def test_regions_of_other_planes_and_one_that_is_called_outside():
    regions = [Region(OUTSIDE, (square(0, 4),)), Region("a", (square(0, 10),), plane=1), Region("b", (square(0, 10),), plane=2)]
    assert areas(regions, (10, 10), plane=0) == {OUTSIDE: 100}
    assert areas(regions, (10, 10), plane=1) == {"a": 84, OUTSIDE: 16}


def test_a_lasso_that_crosses_itself_has_the_area_of_the_pixels_in_it():
    bow = Region("bow", (np.array([[0, 0], [40, 40], [0, 40], [40, 0]], float),))  # two triangles that run round different ways
    assert bow.area((60, 60)) == pytest.approx(2 * 40 * 20 / 2, rel=1e-3)


@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(st.integers(-5, 35), st.integers(-5, 45)), min_size=3, max_size=7), min_size=1, max_size=4))
def test_areas_are_those_of_the_pixels_that_cells_are_sought_in(rings):
    """For any polygons, crossing themselves and each other: with corners off the centres of pixels, and so many pixels that it shows."""
    regions = [Region(str(n), (2 * np.array(ring) + 1.37,)) for n, ring in enumerate(rings)]
    found, pixels = areas(regions, (60, 80)), pixels_of(regions, (60, 80))
    assert sum(found.values()) == pytest.approx(60 * 80)
    around = 1 + sum(np.abs(np.diff(region.outlines[0], axis=0, append=region.outlines[0][:1])).sum() for region in regions)
    assert found == pytest.approx(pixels, abs=0.25 * around)


def test_the_parts_of_a_slide_are_measured_in_a_moment():
    turn = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    circle = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    inner = [Region(str(n), (150 * circle + (10000 + 400 * (n // 10), 10000 + 400 * (n % 10)),)) for n in range(100)]
    found = areas([Region("tissue", (14000 * circle + 15000,)), *inner], (30000, 30000))
    assert found["7"] == pytest.approx(np.pi * 150**2, rel=1e-3)
    assert found["tissue"] == pytest.approx(np.pi * (14000**2 - 100 * 150**2), rel=1e-4)


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


def test_a_label_image_of_another_size_is_not_of_this_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((50, 60), np.uint8))
    regions, image = read_regions(tmp_path / "a.tif"), as_image(np.zeros((100, 120), np.uint8), name="a")
    cells = measure_cells(np.ones(image.shape, int), image)
    for count in (apply_rules, summarise):
        with pytest.raises(ValueError, match="a: the regions are a label image of 50 x 60 pixels, and the image has 100 x 120; one of the"):
            count(cells, image, None, regions)


def on_plane(**plane):
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": BOX, "plane": {"c": -1, **plane}}, "properties": {}}


@pytest.mark.parametrize(
    ("axes", "shape", "planes"),
    [("TZYX", (3, 4), [6, 0]), ("ZTYX", (4, 3), [7, 0]), ("YX", (), [None, None])],
)
def test_a_region_lies_on_the_plane_that_its_file_states(tmp_path, axes, shape, planes):
    """QuPath leaves out the first plane."""
    image = as_image(np.zeros((*shape, 9, 9), np.uint8), axes=axes)
    regions = read_regions(geojson(tmp_path / "a.geojson", on_plane(z=2, t=1), feature(BOX)))
    assert [region.plane for region in fitted(regions, image)] == planes
    everywhere = read_regions(geojson(tmp_path / "a.geojson", feature(BOX)))
    assert [region.plane for region in fitted(everywhere, image)] == [None]


@pytest.mark.parametrize(
    ("plane", "where"), [({"z": 2}, 2), ({"t": 2, "z": 0}, 2), ({"t": 1, "z": 1}, None), ({"z": 3}, None), ({"z": -1}, None)]
)
def test_of_one_axis_slices_are_its_steps(tmp_path, plane, where):
    image = as_image(np.zeros((3, 9, 9), np.uint8), name="a")
    regions = read_regions(geojson(tmp_path / "a.geojson", on_plane(**plane)))
    if where is None:
        with pytest.raises(ValueError, match="a: the region 'region 1' lies on t .*, z .*, and the image has 3 planes"):
            fitted(regions, image)
    else:
        assert [region.plane for region in fitted(regions, image)] == [where]


@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_cells_that_were_exported_are_regions_of_their_own_planes(tmp_path, axes):
    labels = np.stack([picture("11.\n11."), picture("...\n..2"), picture("3..\n...")])
    (tmp_path / "a.geojson").write_bytes(to_geojson(labels, "a"))
    image = as_image(labels.astype(np.uint8), axes=axes)
    regions = fitted(read_regions(tmp_path / "a.geojson"), image)
    assert [areas(regions, (2, 3), p) for p in range(3)] == [{"1": 4, OUTSIDE: 2}, {"2": 1, OUTSIDE: 5}, {"3": 1, OUTSIDE: 5}]


def test_a_file_for_all_or_a_folder_with_one_each(tmp_path):
    path = geojson(tmp_path / "well 1.json", feature(BOX, name="x"))
    assert [region.name for region in regions_for(path, "any")] == ["x"]
    assert [region.name for region in regions_for(tmp_path, "well 1")] == ["x"]
    with pytest.raises(ValueError, match="there are no regions for well 2; a file well 2.geojson"):
        regions_for(tmp_path, "well 2")


ON = '{"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4]]], "plane": {"z": %s}}'
POLYGON = '{"type": "Polygon", "coordinates": [[%s]]}'


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "null", POLYGON % '["a", 1]', POLYGON % "[0, 0], [4, 0]", POLYGON % "[0, 0], [4, NaN], [4, 4]", ON % 1.5],
)
def test_what_is_no_geojson(tmp_path, text):
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(ValueError, match="this cannot be read as GeoJSON"):
        read_regions(tmp_path / "a.geojson")


def test_geojson_with_the_mark_of_windows(tmp_path):
    (tmp_path / "a.geojson").write_text(POLYGON % "[0, 0], [4, 0], [4, 4]", encoding="utf-8-sig")
    assert len(read_regions(tmp_path / "a.geojson")) == 1


def test_nothing_in_it(tmp_path):
    with pytest.raises(ValueError, match="there is no region in this file"):
        read_regions(geojson(tmp_path / "a.geojson"))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="one plane of whole numbers is wanted"):
        read_regions(tmp_path / "a.tif")


def test_in_the_unbiased_frame_regions_are_without_its_first_row_and_column():
    regions = [Region("corner", (square(0, 10),)), Region("inside", (square(12, 18),))]
    assert areas(regions, (20, 20), line=1) == {"corner": 81, "inside": 36, OUTSIDE: 361 - 81 - 36}
