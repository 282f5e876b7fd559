"""Files as microscopes and people write them, good and bad."""

import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tifffile

from napari_tally.core import image_files
from napari_tally.core.image_files import list_images, match_by_stem, read_image, stated_sizes
from napari_tally.core.intensity import intensity_window, normalise
from napari_tally.settings import NormalisationSettings

GREY = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
COLOUR = np.stack([GREY % 251, GREY % 241, GREY % 239], axis=-1).astype(np.uint8)


@pytest.fixture
def written(tmp_path):
    """Write a TIFF and read it back as an Image."""

    def write_and_read(array, **options):
        tifffile.imwrite(tmp_path / "picture.tif", array, **options)
        return read_image(tmp_path / "picture.tif")

    return write_and_read


# --- TIFF ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"predictor": True}, {"tile": (16, 32)}, {"tile": (16, 16), "predictor": True}, {"rowsperstrip": 5}]
)
@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd"])
def test_compressed_tiff(written, compression, options):
    image = written(GREY, compression=compression, **options)
    np.testing.assert_array_equal(image.planes, GREY[None, None])
    assert (image.name, image.leading, image.colour, image.pixel_size) == ("picture", (), False, None)


def test_jpeg_in_tiff(written):
    smooth = (np.add.outer(np.arange(48), np.arange(64)) * 2).astype(np.uint8)
    image = written(smooth, compression="jpeg", compressionargs={"level": 95})
    np.testing.assert_allclose(image.planes[0, 0], smooth, atol=6)
    image = written(np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=-1), compression="jpeg", photometric="rgb")
    assert image.planes.shape == (1, 3, 48, 64)
    assert image.colour


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", ">u2", ">f4"])
def test_number_types(written, dtype):
    values = (GREY % 120).astype(dtype)
    image = written(values, byteorder=">" if dtype[0] == ">" else "<")
    np.testing.assert_array_equal(image.planes[0, 0], values)
    window = intensity_window(image, NormalisationSettings())
    assert np.isfinite(normalise(image.planes, window)).all()


def test_bilevel_tiff(written):
    image = written(GREY % 3 == 0, photometric="minisblack")
    np.testing.assert_array_equal(image.planes[0, 0], GREY % 3 == 0)
    assert image.planes.dtype == np.uint8


def test_imagej_pixel_size(written):
    image = written(GREY, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    assert image.pixel_size == (0.5, 0.25)  # height, width
    assert written(GREY, imagej=True, resolution=(0.002, 0.002), metadata={"unit": "nm"}).pixel_size == pytest.approx((0.5, 0.5))
    assert written(GREY, imagej=True, resolution=(2, 2), metadata={"unit": "\\u00B5m"}).pixel_size == (0.5, 0.5)
    assert written(GREY, imagej=True, resolution=(2, 2), metadata={"unit": "pixel"}).pixel_size is None
    assert written(GREY, imagej=True).pixel_size is None


@pytest.mark.parametrize(("unit", "in_um"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3), (None, 1)])
def test_ome_pixel_size(written, unit, in_um):
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    assert written(GREY, ome=True, metadata=metadata).pixel_size == pytest.approx((0.5 * in_um, 0.25 * in_um))


def test_ome_without_a_length(written):
    assert written(GREY, ome=True).pixel_size is None
    strange = {"axes": "YX", "PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"}
    assert written(GREY, ome=True, metadata=strange).pixel_size is None


def test_centimetres_are_a_pixel_size_and_inches_are_not(written):
    assert written(GREY, resolution=(1e4, 2e4), resolutionunit="CENTIMETER").pixel_size == (0.5, 1.0)
    assert written(GREY, resolution=(300, 300), resolutionunit="INCH").pixel_size is None
    assert written(GREY, resolution=(0, 0), resolutionunit="CENTIMETER").pixel_size is None


@pytest.mark.parametrize("ome", [True, False])
def test_the_pixel_size_is_that_of_the_image_that_is_read_not_of_its_thumbnail(tmp_path, ome):
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    with tifffile.TiffWriter(path, ome=ome) as tif:
        for pixels, side in ((GREY[::8, ::8], 4.0), (GREY, 0.5)):
            physical = {"axes": "YX", "PhysicalSizeX": side, "PhysicalSizeY": side}
            tif.write(pixels, metadata=physical if ome else None, resolution=(1e4 / side, 1e4 / side), resolutionunit="CENTIMETER")
    image = read_image(path)
    assert (image.shape, image.pixel_size) == (GREY.shape, (0.5, 0.5))
    assert stated_sizes(path, GREY.shape)[0] == (0.5, 0.5)
    assert stated_sizes(path, (6, 8)) == (None, {})  # of another image than the one that is read


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("samples", [3, 4])
def test_colour_tiff(written, planar, samples):
    pixels = np.concatenate([COLOUR, np.full((48, 64, 1), 255, np.uint8)], axis=-1)[..., :samples]
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    image = written(stored, photometric="rgb", planarconfig=planar)
    assert (image.shape, image.channels, image.colour) == ((48, 64), 3, True)
    np.testing.assert_array_equal(image.planes[0], COLOUR.transpose(2, 0, 1))


def test_inks_are_no_colours_of_light(written):
    with pytest.raises(ValueError, match="CMYK; save it as RGB"):
        written(np.stack([GREY] * 4, axis=-1), photometric="separated")


def test_grey_saved_as_colour_is_grey(written):
    image = written(np.stack([GREY] * 3, axis=-1), photometric="rgb")
    assert (image.channels, image.colour) == (1, False)
    np.testing.assert_array_equal(image.planes[0, 0], GREY)


@pytest.mark.parametrize(
    "options", [{"photometric": "minisblack"}, {"imagej": True, "metadata": {"axes": "ZYX"}}, {"ome": True, "metadata": {"axes": "TYX"}}]
)
def test_several_pages(written, options):
    stack = np.stack([GREY, GREY + 1, GREY + 2])
    image = written(stack, **options)
    assert image.shape == (3, 48, 64)
    np.testing.assert_array_equal(image.planes[:, 0], stack)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}])
def test_channels_are_no_planes(written, options):
    stack = np.stack([GREY, GREY + 1])
    image = written(stack, **options, metadata={"axes": "CYX"})
    assert (image.shape, image.channels, image.colour) == ((48, 64), 2, False)
    np.testing.assert_array_equal(image.planes[0], stack)


def test_time_depth_and_channels(written):
    stack = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 16, 17)).astype(np.uint8)
    image = written(stack, imagej=True, metadata={"axes": "TZCYX"})
    assert (image.leading, image.channels) == ((2, 3), 4)
    np.testing.assert_array_equal(image.planes, stack.reshape(6, 4, 16, 17))


@pytest.mark.parametrize("shape", [(1, 1), (17, 3), (1, 40)])
def test_tiny_images(written, shape):
    image = written(np.full(shape, 7, np.uint8))
    assert image.shape == shape
    assert np.isfinite(normalise(image.planes, intensity_window(image, NormalisationSettings()))).all()


def test_the_first_level_of_a_pyramid(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(GREY, subifds=1, photometric="minisblack")
        tif.write(GREY[::2, ::2], subfiletype=1, photometric="minisblack")
    assert read_image(tmp_path / "a.tif").shape == (48, 64)


# --- PNG and JPEG ----------------------------------------------------------------------------------


def test_png(tmp_path):
    def read(picture):
        picture.save(tmp_path / "a.png")
        return read_image(tmp_path / "a.png")

    grey, colour = PIL.Image.fromarray(GREY.astype(np.uint8)), PIL.Image.fromarray(COLOUR)
    assert read(grey).planes.shape == (1, 1, 48, 64)
    np.testing.assert_array_equal(read(PIL.Image.fromarray(GREY)).planes[0, 0], GREY)  # 16 bits
    for other in (colour, colour.convert("RGBA")):
        np.testing.assert_array_equal(read(other).planes[0], COLOUR.transpose(2, 0, 1))
        assert read(other).colour
    assert read(colour.quantize(16)).channels == 3  # a palette
    assert read(grey.convert("RGBA")).channels == 1
    assert read(grey.convert("LA")).channels == 1
    assert set(np.unique(read(grey.convert("1")).planes)) == {0, 1}


@pytest.mark.parametrize(("samples", "kind"), [(2, 4), (3, 2), (4, 6)])
def test_png_of_sixteen_bits_and_several_channels(tmp_path, rng, samples, kind):
    pixels = rng.integers(0, 2**16, (9, 8, samples)).astype(">u2")

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head, lines = struct.pack(">IIBBBBB", 8, 9, 16, kind, 0, 0, 0), b"".join(b"\0" + line.tobytes() for line in pixels)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    image, channels = read_image(tmp_path / "a.png"), {2: 1, 3: 3, 4: 3}[samples]  # without alpha
    assert image.planes.dtype == np.uint16
    np.testing.assert_array_equal(image.planes[0], pixels[..., :channels].transpose(2, 0, 1))
    (tmp_path / "a.png").write_bytes(content[:-60])
    with pytest.raises(ValueError, match="a.png: the file cannot be read as an image"):
        read_image(tmp_path / "a.png")


def test_jpeg(tmp_path):
    smooth = (np.add.outer(np.arange(48), np.arange(64)) * 2).astype(np.uint8)
    PIL.Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    PIL.Image.fromarray(np.stack([smooth, smooth.T[:48, :].repeat(2, axis=1)[:, :64], smooth], axis=-1)).save(tmp_path / "b.JPEG")
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").planes[0, 0], smooth, atol=6)
    assert read_image(tmp_path / "b.JPEG").colour


# --- what cannot be read ---------------------------------------------------------------------------


def test_bad_files_are_answered_with_one_sentence(tmp_path):
    def refuses(name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)

    tifffile.imwrite(tmp_path / "good.tif", np.random.default_rng(0).integers(0, 999, (64, 64)).astype(np.uint16), compression="zlib")
    good = (tmp_path / "good.tif").read_bytes()
    PIL.Image.fromarray(COLOUR).save(tmp_path / "good.png")
    png = (tmp_path / "good.png").read_bytes()
    cannot = "the file cannot be read as an image"
    refuses("empty.tif", b"", cannot)
    refuses("text.tif", b"this is no picture", cannot)
    refuses("half.tif", good[: len(good) // 2], cannot)
    refuses("damaged.tif", good[:300] + bytes(len(good) - 300), cannot)
    refuses("directory.tif", struct.pack("<2sHI", b"II", 42, 10**6), cannot)
    refuses("empty.png", b"", cannot)
    refuses("half.png", png[: len(png) // 2], cannot)
    refuses("tiff.png", b"not a picture either", cannot)
    refuses("notes.txt", b"", r"files ending in .tif, .*jpeg are read, not .txt")
    refuses("no_ending", b"", "not files without an ending")
    with pytest.raises(ValueError, match="absent.tif: there is no such file"):
        read_image(tmp_path / "absent.tif")
    with pytest.raises(ValueError, match="there is no such file"):
        read_image(tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(written, bad):
    values = GREY.astype(np.float32)
    values[3, 4:6] = bad
    with pytest.raises(ValueError, match=r"picture: 2 of 3072 values are not finite \(NaN or infinite\)\. Replace them"):
        written(values)


def test_complex_images(written):
    with pytest.raises(ValueError, match="values are of type complex64; integers or real numbers are wanted"):
        written(GREY.astype(np.complex64))


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_images_of_a_folder(tmp_path):
    folder = touch(tmp_path / "a", "b.TIF", "a.png", "notes.txt", ".hidden.png")
    assert {stem: path.name for stem, path in list_images(folder).items()} == {"a": "a.png", "b": "b.TIF"}
    with pytest.raises(ValueError, match="there is no such folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"there is no image in this folder \(\.tif"):
        list_images(touch(tmp_path / "empty", "notes.txt"))
    with pytest.raises(ValueError, match=r"x\.png and x\.tif have the same stem; rename one"):
        list_images(touch(tmp_path / "twice", "x.tif", "x.png"))


def test_pairs_by_stem(tmp_path):
    images, labels = touch(tmp_path / "images", "a.png", "b.tif"), touch(tmp_path / "labels", "a.tif", "b.tif", "c.tif")
    assert [(a.name, b.name) for a, b in match_by_stem(images, labels)] == [("a.png", "a.tif"), ("b.tif", "b.tif")]
    touch(images, "d.png", "e.png", "f.png", "g.png")
    with pytest.raises(ValueError, match=r"4 of 6 files in .*images have no partner of the same stem in .*labels: d, e, f \.\.\."):
        match_by_stem(images, labels)


# --- intensities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [100, 2**28])
def test_each_file_of_a_data_set_in_many_files_is_read_by_itself(tmp_path, monkeypatch, least):
    """OME-TIFF may name planes in other files; each file is an image of its own here, and a missing one gives no black planes."""
    pixels = '<Pixels ID="P" DimensionOrder="XYZCT" Type="uint8" SizeX="30" SizeY="20" SizeZ="2" SizeC="1" SizeT="1">'
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>' for z in range(2)
    )
    ome = (
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"><Image ID="I">{pixels}{planes}'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "0.ome.tif", np.full((20, 30), 7, np.uint8), description=ome, metadata=None)
    monkeypatch.setattr(image_files, "LAZY_BYTES", least)
    image = read_image(tmp_path / "0.ome.tif")
    assert image.is_lazy == (least == 100)
    assert image.planes.shape[2:] == (20, 30)
    assert (image.loaded().planes == 7).all()
    assert len(image.planes) == 1


@pytest.mark.parametrize("planes", ['SizeZ="1001" SizeC="1000" SizeT="1"', "SizeT='&#49;001000' SizeZ='1' SizeC='1'"])
def test_metadata_that_claim_more_planes_than_there_are(tmp_path, planes):
    """Ten kilobytes may claim a thousand million, and a list of them would fill the memory."""
    ome = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="I"><Pixels ID="P" DimensionOrder="XYZCT" Type="uint8" '
        f'SizeX="30" SizeY="20" {planes}><TiffData/></Pixels></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", np.ones((20, 30), np.uint8), description=ome, metadata=None)
    with pytest.raises(ValueError, match=r"a.ome.tif: .*its metadata state 1001000 planes, and 1000000 are the most"):
        read_image(tmp_path / "a.ome.tif")


def test_the_largest_series_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(np.zeros((20, 30), np.uint8))  # a thumbnail
        tif.write(np.ones((40, 60), np.uint8))
    assert read_image(tmp_path / "a.tif").shape == (40, 60)


def test_images_that_are_not_read_are_said(tmp_path):
    def note_of(*images, **options):
        with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
            for pixels in images:
                tif.write(pixels, photometric="minisblack", **options)
        return read_image(tmp_path / "a.tif").note

    assert note_of(GREY) == note_of(GREY, GREY[::2, ::2], GREY[:, ::2], GREY[::4, ::4]) == note_of(np.stack([GREY] * 3)) == ""
    assert note_of(*[GREY] * 6) == "5 further images in the file are not read; save each as a file."
    assert (
        note_of(GREY[:30], GREY) == note_of(GREY, GREY.astype(np.uint8)) == "1 further image in the file is not read; save each as a file."
    )
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(GREY, subifds=1)
        tif.write(GREY[::2, ::2], subfiletype=1)
        tif.write(GREY)
    assert read_image(tmp_path / "a.ome.tif").note.startswith("1 further image ")


@pytest.mark.parametrize("size", ["NaN", "-1", "0", "1e-9", "wide"])
def test_a_pixel_size_that_cannot_be_is_not_believed(tmp_path, size):
    ome = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="I"><Pixels ID="P" DimensionOrder="XYZCT" Type="uint8" '
        f'SizeX="30" SizeY="20" SizeZ="1" SizeC="1" SizeT="1" PhysicalSizeX="{size}" PhysicalSizeY="{size}"><TiffData/>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", np.ones((20, 30), np.uint8), description=ome, metadata=None)
    assert read_image(tmp_path / "a.ome.tif").pixel_size is None
