"""Images that stay in their files: the same pixels, and one sentence where they cannot be read."""

import time

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from models import bright_is_cell, nine_discs

from napari_tally.core import image_files, images, intensity
from napari_tally.core.counting import apply_rules, measure_cells
from napari_tally.core.events import run_to_end
from napari_tally.core.find import Piece, find_cells
from napari_tally.core.image_files import read_image
from napari_tally.core.images import as_image
from napari_tally.core.intensity import intensity_window
from napari_tally.core.label_files import read_labels
from napari_tally.core.large import measuring_pieces
from napari_tally.core.lazy import LabelsZarr, open_ome_zarr, write_tiff_in_pieces
from napari_tally.core.model_file import find_model
from napari_tally.core.regions import Region
from napari_tally.settings import NormalisationSettings, PredictionSettings, RuleSettings

WHOLE = slice(None), slice(None)


@pytest.fixture
def large(monkeypatch):
    """Let images of a kilobyte count as large."""
    monkeypatch.setattr(image_files, "LAZY_BYTES", 1000)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((70, 90), {"tile": (32, 48)}),
        ((70, 90), {"rowsperstrip": 7}),
        ((70, 90), {"compression": "zstd", "predictor": True}),
        ((3, 70, 90), {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}),
        ((3, 70, 90), {"photometric": "minisblack", "metadata": {"axes": "CYX"}}),
        ((70, 90, 3), {"photometric": "rgb", "tile": (16, 16)}),
        ((70, 90), {"byteorder": ">"}),
    ],
)
def test_tiff_read_in_pieces(tmp_path, rng, monkeypatch, shape, options):
    tifffile.imwrite(tmp_path / "a.tif", rng.integers(0, 30000, shape).astype(np.uint16), ome="metadata" in options, **options)
    whole = read_image(tmp_path / "a.tif")
    monkeypatch.setattr(image_files, "LAZY_BYTES", 1000)
    image = read_image(tmp_path / "a.tif")
    assert image.is_lazy
    assert not whole.is_lazy
    assert (image.shape, image.channels, image.colour, image.leading) == (whole.shape, whole.channels, whole.colour, whole.leading)
    np.testing.assert_array_equal(image.read(0, (slice(3, 60), slice(10, 90))), whole.planes[0][:, 3:60, 10:90])
    np.testing.assert_array_equal(image.loaded().planes, whole.planes)
    assert image.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(intensity_window(image, NormalisationSettings()), intensity_window(whole, NormalisationSettings()))


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr(tmp_path, rng, version):
    pixels = rng.integers(0, 255, (2, 40, 50)).astype(np.uint8)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    group.create_array("s0", shape=pixels.shape, chunks=(1, 16, 16), dtype="uint8")[:] = pixels
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "nanometer"} for a in "yx")]
    scale = [{"type": "scale", "scale": [1, 250, 500]}]
    multiscales = {"multiscales": [{"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": scale}]}]}
    group.attrs.update(multiscales if version == 2 else {"ome": {"version": "0.5", **multiscales}})
    image = read_image(tmp_path / "a.zarr")
    assert image.is_lazy
    assert image.channels == 2
    assert image.pixel_size == (0.25, 0.5)
    np.testing.assert_array_equal(image.read(0, WHOLE), pixels)


def test_the_scale_of_an_ome_zarr_is_that_of_the_level_times_that_of_the_image(tmp_path):
    """As in the example of the specification: the time step stands where it is said once for all levels."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=np.zeros((3, 16, 16), np.uint8))
    axes = [{"name": "t", "type": "time", "unit": "millisecond"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    level, whole = ([{"type": "scale", "scale": scale}] for scale in ([1.0, 0.5, 0.25], [100.0, 1.0, 2.0]))
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": level}], "coordinateTransformations": whole}
    group.attrs["multiscales"] = [image]
    opened = open_ome_zarr(tmp_path / "a.zarr")
    assert (opened.pixel_size, opened.steps) == ((0.5, 0.5), {"T": 0.1})


def claim(path, shape, chunks, axes="yx"):
    """Write an OME-Zarr that says how large it is, and holds nothing."""
    group = zarr.open_group(path, mode="w")
    array = group.create_array("0", shape=shape, chunks=chunks, dtype="uint8")
    names = [{"name": name, "type": "channel" if name == "c" else "space"} for name in axes]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": names, "datasets": [{"path": "0"}]}]}
    return array


@pytest.mark.parametrize(
    ("shape", "chunks", "axes", "wanted"),
    [
        ((2000, 2000), (64, 500), "yx", (512, 1000)),
        ((2000, 2000), (1024, 600), "yx", (1024, 600)),
        ((3, 5, 700, 40), (1, 2, 16, 40), "czyx", (1, 2, 512, 40)),
    ],
)
def test_small_chunks_are_read_several_at_a_time(tmp_path, rng, shape, chunks, axes, wanted):
    array = claim(tmp_path / "a.zarr", shape, chunks, axes)
    pixels = rng.integers(0, 255, shape).astype(np.uint8)
    array[:] = pixels
    opened = open_ome_zarr(tmp_path / "a.zarr")
    assert opened.pixels.chunksize == wanted
    np.testing.assert_array_equal(opened.pixels, pixels)


def test_a_file_that_claims_ten_million_chunks(tmp_path):
    """No list of what is missing, and no graph of as many parts."""
    claim(tmp_path / "a.zarr", (200_000, 200_000), (64, 64))
    began = time.monotonic()
    image = read_image(tmp_path / "a.zarr")
    assert time.monotonic() - began < 30  # it was minutes
    assert (image.shape, image.note) == ((200_000, 200_000), "")
    assert image.read(0, (slice(0, 64), slice(0, 64))).max() == 0


def test_a_file_that_claims_too_many_chunks_is_refused(tmp_path):
    claim(tmp_path / "a.zarr", (10**7, 64, 64), (1, 64, 64), "zyx")
    wanted = r"a\.zarr: .*10000000 x 64 x 64 in chunks of 1 x 64 x 64 would be read in 10000000 pieces, and 1000000 are the most; save"
    with pytest.raises(ValueError, match=wanted):
        read_image(tmp_path / "a.zarr")


def test_a_chunk_that_unfolds_to_gigabytes_is_refused(tmp_path):
    """Three megabytes may hold one, and whoever wants a pixel of it has to unfold it all."""
    claim(tmp_path / "a.zarr", (54_772, 54_772), (54_772, 54_772))
    with pytest.raises(
        ValueError, match=r"a\.zarr: .*a chunk of 54772 x 54772 would unfold to 3.0 GB; save the image in chunks of 512 x 512"
    ):
        read_image(tmp_path / "a.zarr")


def test_a_folder_that_is_no_ome_zarr(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(ValueError, match=r"a\.zarr: this folder cannot be read as an OME-Zarr image"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("dtype", "last", "is_colour"), [("uint8", "0000FF", True), ("uint8", "FF00FF", False), ("uint16", "0000ff", False)]
)
def test_channels_that_are_shown_in_red_green_and_blue_are_colours(tmp_path, dtype, last, is_colour):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", shape=(3, 20, 30), chunks=(1, 10, 10), dtype=dtype)[...] = 7
    channels = [{"color": colour} for colour in ("ff0000", "00FF00", last)]
    multiscales = [{"axes": [{"name": name} for name in "cyx"], "datasets": [{"path": "0"}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales, "omero": {"channels": channels}}
    image = read_image(tmp_path / "a.zarr")
    assert (image.channels, image.shape, image.colour) == (3, (20, 30), is_colour)


@pytest.mark.parametrize("omero", [None, [], {"channels": None}, {"channels": [None, 3]}, {}])
def test_odd_words_on_how_to_show_an_image_do_not_matter(tmp_path, omero):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", shape=(3, 20, 30), chunks=(1, 10, 10), dtype="uint8")[...] = 7
    multiscales = [{"axes": [{"name": name} for name in "cyx"], "datasets": [{"path": "0"}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales, "omero": omero}
    assert not read_image(tmp_path / "a.zarr").colour


@pytest.mark.parametrize(("written", "missing"), [((0, 1, 2, 3), 0), ((0, 2, 3), 1), ((), 4)])
def test_chunks_that_are_missing_are_told(tmp_path, written, missing):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    array = group.create_array("0", shape=(20, 20), chunks=(10, 10), dtype="uint8")
    for n in written:
        array[10 * (n // 2) : 10 * (n // 2) + 10, 10 * (n % 2) : 10 * (n % 2) + 10] = 7
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    note = read_image(tmp_path / "a.zarr").note
    assert bool(note) == bool(missing)
    assert note.startswith(f"{missing} of the 4 chunks of the file are missing and were read as 0." if missing else "")


@pytest.mark.parametrize(
    ("shape", "axes", "names"),
    [
        ((700, 530), "", "yx"),
        ((3, 40, 30), "", "zyx"),
        ((3, 40, 30), "T", "tyx"),
        ((2, 3, 40, 30), "TZ", "tzyx"),
        ((2, 3, 40, 30), "", "zyx"),
    ],
)
def test_times_and_planes_of_labels_stay_apart(tmp_path, rng, shape, axes, names):
    truth = rng.integers(0, 70000, shape).astype(np.uint32)
    labels = LabelsZarr(tmp_path / "l.zarr", shape, axes, {"T": 60.0, "Z": 1.5})
    stack = truth.reshape(-1, *shape[-2:])
    for p, plane in enumerate(stack):
        labels[p, slice(0, 33), slice(0, shape[-1])] = plane[:33]
        labels[p, slice(33, shape[-2]), slice(0, shape[-1])] = plane[33:]
        np.testing.assert_array_equal(labels[p, slice(5, 40), slice(2, 9)], plane[5:40, 2:9])
    run_to_end(labels.finish((0.5, 0.25)))
    image = read_image(tmp_path / "l.zarr")
    np.testing.assert_array_equal(image.loaded().planes[:, 0], stack)
    assert image.leading == (shape[:-2] if len(names) == len(shape) else (6,))
    assert image.axes == names[:-2].upper()
    assert image.steps == {letter: step for letter, step in (("T", 60.0), ("Z", 1.5)) if letter in image.axes}
    assert image.pixel_size == (0.5, 0.25)
    (multiscale,) = zarr.open_group(tmp_path / "l.zarr").attrs["ome"]["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == list(names)
    assert [axis["type"] for axis in multiscale["axes"]] == ["time" if name == "t" else "space" for name in names]


def test_what_a_stack_says_of_its_axes_goes_into_its_labels(tmp_path, rng):
    stack = rng.integers(0, 99, (2, 3, 30, 40)).astype(np.uint8)
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0, "TimeIncrement": 2.0, "TimeIncrementUnit": "min"}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "TZYX", **sizes})
    image = read_image(tmp_path / "a.ome.tif")
    assert (image.axes, image.steps, image.pixel_size) == ("TZ", {"T": 120.0, "Z": 2.0}, (0.5, 0.25))
    tifffile.imwrite(tmp_path / "b.tif", stack[0], imagej=True, resolution=(4, 2), metadata={"axes": "ZYX", "unit": "um", "spacing": 3.0})
    image = read_image(tmp_path / "b.tif")
    assert (image.axes, image.steps, image.pixel_size) == ("Z", {"Z": 3.0}, (0.5, 0.25))


def test_labels_of_two_runs_do_not_meet(tmp_path):
    """What a run that seems dead still writes is not in the labels of the next."""
    old, new = (LabelsZarr(tmp_path / "l.zarr", (20, 20)) for _ in range(2))
    old[0, slice(0, 20), slice(0, 20)] = np.full((20, 20), 5)
    run_to_end(new.finish())
    old[0, slice(0, 20), slice(0, 20)] = np.full((20, 20), 6)
    old.discard()
    assert read_labels(tmp_path / "l.zarr").max() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["l.zarr"]


def test_walking_away_from_writing_leaves_nothing(tmp_path, rng):
    labels = LabelsZarr(tmp_path / "l.zarr", (3000, 3000))
    labels[0, slice(0, 3000), slice(0, 3000)] = rng.integers(0, 9, (3000, 3000))
    work = labels.finish()
    next(work)
    work.close()
    labels.discard()
    work = write_tiff_in_pieces(tmp_path / "l.tif", labels_of(rng), (1, 3000, 3000), "uint16")
    next(work)  # the writing goes on on a thread of its own, until
    work.close()
    assert list(tmp_path.iterdir()) == []


def labels_of(rng):
    """Labels that are slow to write: a compressor finds nothing in them."""
    return rng.integers(0, 2**16, (1, 3000, 3000)).astype(np.uint16)


def test_the_window_of_a_large_image_is_that_of_the_whole(rng, monkeypatch):
    pixels = rng.integers(0, 4000, (2, 3, 70, 50)).astype(np.uint16)
    whole = intensity_window(as_image(pixels, axes="QCYX"), NormalisationSettings())
    monkeypatch.setattr(images, "BAND", 300)
    monkeypatch.setattr(intensity, "BAND", 300)
    for planes in (pixels, da.from_array(pixels, chunks=(1, 2, 12, 50))):
        image, news = as_image(planes, axes="QCYX"), []
        np.testing.assert_array_equal(run_to_end(intensity.measuring_window(image, NormalisationSettings()), news.append), whole)
        assert len(news) > 3
        assert news == sorted(news)
        assert image.fingerprint == as_image(pixels, axes="QCYX").fingerprint


def test_values_that_are_not_finite_are_found_where_they_are_read():
    pixels = np.zeros((40, 40), np.float32)
    pixels[30, 30] = np.nan
    image = as_image(da.from_array(pixels, chunks=10), name="slide")
    assert image.read(0, (slice(0, 20), slice(0, 20))).shape == (1, 20, 20)
    with pytest.raises(ValueError, match=r"slide: there are values that are not finite .* in rows 20 to 39, columns 20 to 39"):
        image.read(0, (slice(20, 40), slice(20, 40)))


def test_a_torn_tiff_says_where(tmp_path, large, rng):
    tifffile.imwrite(tmp_path / "a.tif", rng.integers(0, 255, (64, 64)).astype(np.uint8), tile=(16, 16), compression="zlib")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 600] = bytes(600)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ValueError, match=r"a: the pixels in rows 0 to 63, columns 0 to 63 cannot be read|cannot be read as an image"):
        read_image(tmp_path / "a.tif").read(0, (slice(0, 64), slice(0, 64)))


def test_labels_written_in_pieces(tmp_path, rng):
    truth = rng.integers(0, 70000, (2, 700, 530)).astype(np.uint32)
    labels = LabelsZarr(tmp_path / "l.zarr", (2, 700, 530))
    for p in (0, 1):
        for rows in (slice(0, 333), slice(333, 700)):
            labels[p, rows, slice(0, 530)] = truth[p, rows]
    assert not (tmp_path / "l.zarr").exists()
    run_to_end(write_tiff_in_pieces(tmp_path / "l.tif", labels, (2, 700, 530), np.uint32, (0.5, 0.25)))
    np.testing.assert_array_equal(read_labels(tmp_path / "l.tif"), truth)
    run_to_end(labels.finish((0.5, 0.25)))
    group = zarr.open_group(tmp_path / "l.zarr")
    np.testing.assert_array_equal(group["0"][:], truth)
    np.testing.assert_array_equal(group["1"][:], truth[:, ::2, ::2])
    assert read_image(tmp_path / "l.zarr").pixel_size == (0.5, 0.25)
    assert not labels.partial.exists()


def test_cells_measured_in_pieces_are_those_of_the_whole(rng):
    labels = np.kron(rng.permutation(np.arange(1, 31)).reshape(5, 6) * rng.integers(0, 2, (5, 6)), np.ones((9, 11), int))
    image = as_image(rng.integers(0, 999, (2, *labels.shape)), axes="CYX", pixel_size=(0.5, 0.5))
    regions = [Region("left", (np.array([(-1.0, -1), (-1, 30), (60, 30), (60, -1)]),))]
    rules = RuleSettings(border="frame")
    pieces = apply_rules(run_to_end(measuring_pieces(labels[None], image, side=8)), image, rules, regions)
    whole = measure_cells(labels, image, rules, regions, shapes=False)
    pd.testing.assert_frame_equal(pieces, whole[pieces.columns], check_dtype=False)


def test_the_order_of_planes_does_not_matter():
    stack = as_image(np.stack([nine_discs(radius=radius) for radius in (4, 5, 6, 7)]))
    whole = run_to_end(find_cells(bright_is_cell(), stack))
    for order in (lambda waiting: -1, lambda waiting: len(waiting) // 2):
        other = run_to_end(find_cells(bright_is_cell(), stack, PredictionSettings(tile=40), next_plane=order))
        np.testing.assert_array_equal(other.labels, whole.labels)
        assert other.cells == whole.cells == 36


def test_the_tiles_that_are_looked_at_come_first():
    model, image = find_model("nuclei"), as_image(np.zeros((96, 96), np.uint8))
    last = find_cells(
        model, image, PredictionSettings(tile=48, diameter=20, device="cpu"), next_tile=lambda plane, waiting: len(waiting) - 1
    )
    news = []
    run_to_end(last, news.append)
    assert [event.region[0].start + event.region[1].start for event in news if isinstance(event, Piece)] == [96, 48, 48, 0]
