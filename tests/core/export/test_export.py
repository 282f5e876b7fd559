"""What is written for other programs is the label image again."""

import io
import json
import zipfile

import numpy as np
import pytest
import roifile
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import picture
from skimage.measure import grid_points_in_poly, regionprops

from napari_tally.core import outlines
from napari_tally.core.export import FORMATS, export
from napari_tally.core.export.geojson import to_geojson
from napari_tally.core.export.imagej import to_imagej
from napari_tally.core.regions import read_regions

LABELS = picture("""
    ..1111....
    ..1..1.333
    ..1.11.3.3
    2..11..333
    .2....????
    """)


def fill(rings, shape):
    """Fill rings of (x, y) corners as ImageJ does: even-odd, by the centres of pixels."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        mask ^= grid_points_in_poly(shape, np.asarray(ring, float)[:, ::-1] - 0.5)
    return mask


def rois_of(folder, name):
    return {roi.name: roi for roi in roifile.roiread(folder / "imagej" / f"{name}.zip")}


def test_imagej_gives_every_cell_back_to_the_pixel(tmp_path):
    export(LABELS, "a", tmp_path, ["imagej"])
    rois = rois_of(tmp_path, "a")
    assert sorted(rois) == ["00001", "00002", "00003"]
    for name, roi in rois.items():
        np.testing.assert_array_equal(
            fill(roi.coordinates(multi=True) if roi.composite else [roi.coordinates()], LABELS.shape), LABELS == int(name)
        )
    assert rois["00003"].composite
    assert (rois["00003"].left, rois["00003"].top, rois["00003"].right, rois["00003"].bottom) == (7, 1, 10, 4)


def test_a_plain_cell_is_what_the_wand_of_imagej_gives():
    """One pixel at column 2, row 1: corners (2, 1) to (3, 2), whole numbers, no sub-pixel flag."""
    labels = np.zeros((4, 4), int)
    labels[1, 2] = 7
    with zipfile.ZipFile(io.BytesIO(to_imagej(labels[None]))) as archive:
        assert archive.namelist() == ["00007.roi"]
        roi = roifile.ImagejRoi.frombytes(archive.read("00007.roi"))
    assert roi.roitype == roifile.ROI_TYPE.TRACED
    assert roi.subpixel_coordinates is None
    assert {tuple(corner) for corner in roi.coordinates().tolist()} == {(2, 1), (3, 1), (3, 2), (2, 2)}
    assert (roi.left, roi.top, roi.right, roi.bottom) == (2, 1, 3, 2)


ANY = arrays(np.int32, (6, 7), elements=st.integers(0, 3))
"""Cells at every border, with holes, in pieces that touch at corners alone."""


@given(ANY)
def test_any_cells_as_geojson_by_its_rules(labels):
    """RFC 7946, section 3.1.6: rings of four places or more, closed; outlines anticlockwise, holes clockwise. Filled, they are the cell."""
    features = json.loads(to_geojson(labels[None], "a"))["features"]
    assert sorted(int(feature["properties"]["name"]) for feature in features) == np.unique(labels[labels > 0]).tolist()
    assert len({feature["id"] for feature in features}) == len(features)
    for feature in features:
        geometry = feature["geometry"]
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for ring, number in [(np.array(ring), number) for polygon in polygons for number, ring in enumerate(polygon)]:
            assert len(ring) >= 4
            assert ring[0].tolist() == ring[-1].tolist()
            (x0, y0), (x1, y1) = ring[:-1].T, ring[1:].T
            assert ((x0 * y1 - x1 * y0).sum() > 0) == (number == 0)
        whole = sum(fill(polygon, labels.shape).astype(int) for polygon in polygons)
        np.testing.assert_array_equal(whole, labels == int(feature["properties"]["name"]))


@given(ANY)
def test_any_cells_as_rois_are_the_cells_again(labels):
    with zipfile.ZipFile(io.BytesIO(to_imagej(labels[None]))) as archive:
        rois = {int(name[:5]): roifile.ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()}
    assert sorted(rois) == np.unique(labels[labels > 0]).tolist()
    for cell, roi in rois.items():
        rings = roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]
        np.testing.assert_array_equal(fill(rings, labels.shape), labels == cell)
        y, x = np.nonzero(labels == cell)
        assert (roi.left, roi.top, roi.right, roi.bottom) == (x.min(), y.min(), x.max() + 1, y.max() + 1)


def test_geojson_is_read_back_as_regions(tmp_path):
    (path,) = export(LABELS, "a", tmp_path, ["geojson"])
    assert {region.name: region.area(LABELS.shape) for region in read_regions(path)} == {"1": 11, "2": 2, "3": 8}
    (one, two, three) = json.loads(path.read_text())["features"]
    assert (one["geometry"]["type"], two["geometry"]["type"]) == ("Polygon", "MultiPolygon")
    assert len(three["geometry"]["coordinates"]) == 2
    assert one["properties"]["objectType"] == "detection"
    assert one["geometry"]["coordinates"][0][0] == one["geometry"]["coordinates"][0][-1]
    assert len({feature["id"] for feature in (one, two, three)}) == 3


def test_planes_keep_their_place(tmp_path):
    stack = np.stack([LABELS, np.zeros_like(LABELS), np.where(LABELS == 2, 9, 0)])
    export(stack, "s", tmp_path, FORMATS)
    assert [(roi.name, roi.position) for roi in rois_of(tmp_path, "s").values()] == [
        ("0001-00001", 1),
        ("0001-00002", 1),
        ("0001-00003", 1),
        ("0003-00009", 3),
    ]
    features = json.loads((tmp_path / "geojson" / "s.geojson").read_text())["features"]
    assert [feature["geometry"]["plane"]["z"] for feature in features] == [0, 0, 0, 2]
    assert (tmp_path / "points" / "s.csv").read_text().splitlines()[4] == "3,2,3.5,0.5"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels" / "s.tif"), np.maximum(stack, 0))


def test_napari_reads_the_points(tmp_path):
    from napari_builtins.io import csv_to_layer_data

    (path,) = export(LABELS, "a", tmp_path, ["points"])
    data, _, kind = csv_to_layer_data(str(path))
    assert kind == "points"
    np.testing.assert_allclose(data, [cell.centroid for cell in regionprops(np.maximum(LABELS, 0))], rtol=1e-5)


def test_a_body_is_one_point(tmp_path):
    """Seven voxels in an L: the corner is the first of four in a column through the slices. Numbers count within a volume."""
    volume = np.zeros((4, 5, 6), int)
    volume[:, 1, 1] = volume[0, 1, 1:5] = 3
    volume[1:3, 3, 5] = 2**40
    (path,) = export(np.stack([volume, volume[::-1]]), "a", tmp_path, ["points"], slices=4)
    points = np.loadtxt(path, delimiter=",", skiprows=1)
    bodies = [(0 + 0 + 0 + 0 + 1 + 2 + 3) / 7, 1, (1 + 1 + 1 + 1 + 2 + 3 + 4) / 7], [1.5, 3, 5]
    turned = [[4 + 3 - z, y, x] for z, y, x in bodies]
    np.testing.assert_allclose(points, [[n, *place] for n, place in enumerate([*bodies, *turned])], rtol=1e-5)


@pytest.mark.parametrize("kind", FORMATS)
def test_written_anew_and_the_same_each_time(tmp_path, kind):
    (path,) = export(LABELS, "a", tmp_path, [kind])
    before = path.read_bytes()
    export(np.ones_like(LABELS), "a", tmp_path, [kind])
    assert path.read_bytes() != before
    export(LABELS, "a", tmp_path, [kind])
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", FORMATS)
def test_no_cells(tmp_path, kind):
    (path,) = export(np.zeros((5, 5), int), "a", tmp_path, [kind])
    assert path.stat().st_size > 0


@pytest.mark.parametrize(("number", "kind"), [(200_000_000, np.uint32), (2**31 - 1, np.int32), (2**63, np.uint64)])
def test_high_ids_cost_nothing_and_stay(tmp_path, monkeypatch, number, kind):
    low = np.maximum(LABELS, 0)
    high = np.where(low == 3, np.array(number, kind), low.astype(kind))
    usual = regionprops
    monkeypatch.setattr(outlines, "regionprops", lambda labels: [] if labels.max() > labels.size else usual(labels))
    roi, geojson, points = export(high, "a", tmp_path, ["imagej", "geojson", "points"])
    assert f"{number:05d}.roi" in zipfile.ZipFile(roi).namelist()
    assert str(number) in [cell["properties"]["name"] for cell in json.loads(geojson.read_text())["features"]]
    assert points.read_text() == export(low, "b", tmp_path, ["points"])[0].read_text()
