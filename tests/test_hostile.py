"""Hostile and broken files: whatever lies in them, one sentence, at once, and little memory.

A short campaign runs with every test; the long one, more than 20,000 files, with ``pytest -m slow tests/test_hostile.py``.
"""

import io
import json
import struct
import sys
import time
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from safetensors.torch import save_file

import napari_tally as nt
from napari_tally.cli import main
from napari_tally.core import record
from napari_tally.core.checkpoint import Checkpoint, load_checkpoint, load_pairs, save_checkpoint, save_pairs
from napari_tally.core.image_files import list_images, match_by_stem, read_image
from napari_tally.core.images import as_image
from napari_tally.core.journal import Journal, read_journal
from napari_tally.core.label_files import read_labels, write_labels
from napari_tally.core.model_file import Model, build_network, header_of, load_model, save_model
from napari_tally.core.pickled import read_state_dict
from napari_tally.core.plan import plan_training
from napari_tally.core.regions import read_regions
from napari_tally.core.results import read_groups
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import train
from napari_tally.settings import NetworkSettings, TrainingSettings

SMALL = NetworkSettings(base_width=2, depth=1)
SHORT, LONG = 15, 1400
GIGABYTE = 2**30


def pairs():
    labels = np.zeros((40, 50), np.int32)
    labels[5:15, 5:15], labels[20:30, 20:35] = 1, 2
    return [TrainingPair(as_image(100.0 * (labels > 0), name="a"), labels)]


def model():
    network = build_network(SMALL).eval()
    return Model(network, SMALL, diameter=12.0, record={"steps": 3, "images": ["a"], "versions": {"torch": "2"}})


def a_checkpoint():
    start = model()
    plan = plan_training(pairs(), TrainingSettings(steps=1, patch=16, device="cpu"), start)
    return next(e for e in train(start, pairs(), plan, checkpoint_seconds=1e-9) if isinstance(e, Checkpoint))


def write_journal(path):
    journal, labels = Journal(path, {"image": "a"}), np.zeros((40, 50), np.int32)
    for n in range(1, 4):
        labels[n, n] = n
        journal.write(labels, [{"type": "rectangle", "points": [[0, 0], [1, 1]]}])


def write_run(path):
    image = path.with_name("image.tif")
    tifffile.imwrite(image, PIXELS)
    save_model(model(), path.with_name("m.safetensors"))
    out = path.with_name("out")
    assert main(["predict", "--model", str(path.with_name("m.safetensors")), "--out", str(out), str(image)]) == 0
    path.write_bytes((out / record.NAME).read_bytes())


OUTLINE = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9.5, 9], [0, 9], [0, 0]]]}
REGIONS = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": OUTLINE, "properties": {"name": "a"}}]}
PIXELS = np.random.default_rng(0).integers(0, 999, (40, 50)).astype(np.uint16)

KINDS = {
    "model": ("a.safetensors", lambda path: save_model(model(), path), load_model),
    "unfinished training": ("a.unfinished", lambda path: save_checkpoint(a_checkpoint(), path), load_checkpoint),
    "its images": ("a.safetensors", lambda path: save_pairs(pairs(), path), load_pairs),
    "journal": ("a.journal", write_journal, read_journal),
    "state dict": ("a.pt", lambda path: torch.save(build_network(SMALL).state_dict(), path), read_state_dict),
    "run record": ("a.json", write_run, record.read_record),
    "groups CSV": ("a.csv", lambda path: path.write_text("image,group\na,control\nb,treated\n"), read_groups),
    "regions": ("a.geojson", lambda path: path.write_text(json.dumps(REGIONS)), read_regions),
    "TIFF": ("a.tif", lambda path: tifffile.imwrite(path, PIXELS, compression="zlib", predictor=2, resolution=(3, 3)), read_image),
    "TIFF tiles": ("a.tif", lambda path: tifffile.imwrite(path, np.stack([PIXELS] * 3), tile=(16, 16), compression="lzw"), read_image),
    "OME-TIFF": ("a.ome.tif", lambda path: tifffile.imwrite(path, np.stack([PIXELS] * 2), metadata={"axes": "ZYX"}), read_image),
    "ImageJ": ("a.tif", lambda path: tifffile.imwrite(path, np.stack([PIXELS] * 2), imagej=True), read_image),
    "PNG": ("a.png", lambda path: Pillow.fromarray(PIXELS).save(path), read_image),
    "label image": ("a.png", lambda path: Pillow.fromarray(PIXELS.astype(np.uint8)).convert("P").save(path), read_labels),
}


def reads_or_says(read, path):
    """Read a file; an error is one sentence, nothing takes two seconds of computing or a gigabyte."""
    began, said = time.thread_time(), None
    with at_most(GIGABYTE):
        try:
            read(path)
        except ValueError as error:
            said = str(error)
    assert said is None or str(path) in said or path.stem in said
    assert time.thread_time() - began < 2


class at_most:
    """Asserts that no more memory than so many bytes is taken inside (where the system tells)."""

    def __init__(self, more):
        self.more = more

    def __enter__(self):
        if sys.platform == "linux":
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # the peak begins anew
            self.before = self.peak()

    def __exit__(self, kind, *_):
        if sys.platform == "linux" and kind is None:
            assert self.peak() - self.before < self.more

    @staticmethod
    def peak():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


@st.composite
def damage(draw):
    """Changes to a file: bytes flipped, numbers made large, parts cut, doubled or strange."""
    where = st.floats(0, 1)
    kinds = {
        "set": st.tuples(where, st.binary(min_size=1, max_size=8)),
        "large": st.tuples(where, st.sampled_from([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80", b"\xff" * 8])),
        "cut": st.tuples(where, where),
        "insert": st.tuples(where, st.binary(min_size=1, max_size=40)),
        "double": st.tuples(where, where),
        "early": st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=4)),
    }
    name = st.sampled_from(sorted(kinds))
    return [(kind, draw(kinds[kind])) for kind in draw(st.lists(name, min_size=1, max_size=5))]


def damaged(content, changes):
    for kind, (a, b) in changes:
        at = a % max(1, len(content)) if kind == "early" else int(a * len(content))
        if kind in ("set", "large", "early"):
            content = content[:at] + b + content[at + len(b) :]
        elif kind == "insert":
            content = content[:at] + b + content[at:]
        else:
            other = int(b * len(content))
            low, high = sorted((at, other))
            content = content[:low] + content[high:] if kind == "cut" else content + content[low:high]
    return content


LENGTHS = [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.slow)]


@pytest.mark.filterwarnings("ignore")  # what decoders warn of is not ours
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", LENGTHS)
def test_damaged_files(tmp_path, kind, inputs):
    name, write, read = KINDS[kind]
    path = tmp_path / name
    write(path)
    read(path)
    whole = path.read_bytes()

    @settings(max_examples=inputs, suppress_health_check=list(HealthCheck), database=None, deadline=None)
    @given(damage())
    def campaign(changes):
        path.write_bytes(damaged(whole, changes))
        reads_or_says(read, path)

    campaign()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=20) | st.just("x" * 5000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("inputs", LENGTHS)
def test_headers_and_records_of_any_json(tmp_path, capsys, inputs):
    """Any value in any place of the header, and the `info` command on what is still read."""
    path, whole = tmp_path / "a.safetensors", header_of(model())
    tensors = {name: tensor.contiguous() for name, tensor in model().network.state_dict().items()}
    places = [(name,) for name in whole] + [(g, n) for g in ("network", "counting", "normalisation", "record") for n in whole[g]]
    places += [("record", "range"), ("record", "seen"), ("record", "training")]
    places += [("record", name) for name in ("name", "licence", "start", "data", "device", "seconds", "cells", "trained", "comparison")]

    @settings(max_examples=inputs, suppress_health_check=list(HealthCheck), database=None, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(places), VALUES), min_size=1, max_size=3))
    def campaign(changes):
        header = json.loads(json.dumps(whole))
        for place, value in changes:
            group = header
            for step in place[:-1]:
                group = group[step] if isinstance(group.get(step), dict) else header
            group[place[-1]] = value
        save_file(tensors, path, metadata={"napari_tally": json.dumps(header)})
        reads_or_says(load_model, path)
        code = main(["info", str(path)])
        out, err = capsys.readouterr()
        assert (code, len(err.splitlines())) in ((0, 0), (2, 1))
        assert "Traceback" not in err

    campaign()


# --- bombs and odd places --------------------------------------------------------------------------


def tiff_that_claims(path, side, compressed):
    """A TIFF of one strip whose header claims a side of so many pixels."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((16, 16), np.uint8), compression="zlib", metadata=None)
    content = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        for name, value in (("ImageWidth", side), ("ImageLength", side), ("RowsPerStrip", side)):
            tag = tif.pages[0].tags[name]
            content[tag.offset : tag.offset + 12] = struct.pack("<HHII", tag.code, 4, 1, value)
        for name, value in (("StripOffsets", len(content)), ("StripByteCounts", len(compressed))):
            tag = tif.pages[0].tags[name]
            content[tag.offset : tag.offset + 12] = struct.pack("<HHII", tag.code, 4, 1, value)
    path.write_bytes(bytes(content) + compressed)


@pytest.mark.parametrize("side", [40_000, 2**31 - 1])
def test_a_tiff_that_claims_gigabytes(tmp_path, side):
    tiff_that_claims(tmp_path / "bomb.tif", side, zlib.compress(bytes(10**7), 9))
    assert (tmp_path / "bomb.tif").stat().st_size < 20_000
    with pytest.raises(ValueError, match="would unfold to .* GB, which no microscope image does"), at_most(GIGABYTE):
        read_image(tmp_path / "bomb.tif")


def test_a_png_that_unfolds_into_gigabytes(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(10**7), 9)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_image(tmp_path / "bomb.png")


def test_an_empty_label_image_is_no_bomb(tmp_path):
    """As we write them ourselves: 200 MB in 200 kB."""
    write_labels(tmp_path / "a.tif", np.zeros((10_000, 10_000), np.uint16))
    assert read_labels(tmp_path / "a.tif").shape == read_image(tmp_path / "a.tif").shape == (10_000, 10_000)


def test_nor_is_one_that_another_program_packed_with_zstd(tmp_path):
    """140 MB in 20 kB."""
    labels = np.zeros((6000, 6000), np.uint32)
    labels[100:120, 100:120] = 1
    tifffile.imwrite(tmp_path / "a.tif", labels, compression="zstd")
    assert (tmp_path / "a.tif").stat().st_size < labels.nbytes / 2000
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), labels)


def test_nor_is_one_in_a_single_strip_of_lzw(tmp_path):
    labels = np.zeros((6500, 6500), np.uint16)
    labels[100:120, 100:120] = 1
    tifffile.imwrite(tmp_path / "a.tif", labels, compression="lzw", rowsperstrip=len(labels))
    assert (tmp_path / "a.tif").stat().st_size < labels.nbytes / 1200
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), labels)


@pytest.mark.skipif(sys.platform == "win32", reason="names that Windows does not allow")
@pytest.mark.parametrize("name", ["two\nlines", "tab\tbell\x07", "\x1b[31mred", "umlaut ü 细胞", " - ", "a;rm -rf b", "%s{0}$HOME"])
def test_names_as_nobody_should_give_them(tmp_path, capsys, name):
    image, labels = nt.simulate_nuclei(seed=1, n=6)
    for folder, pixels in (("i", image), ("l", labels.astype(np.uint16))):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / f"{name}.tif", pixels)
    out = tmp_path / "m.safetensors"
    train = [
        "train",
        "--images",
        tmp_path / "i",
        "--labels",
        tmp_path / "l",
        "--out",
        out,
        "--steps",
        "1",
        "--patch",
        "32",
        "--start",
        "none",
    ]
    assert main([str(a) for a in train]) == 0
    assert main(["predict", "--model", str(out), "--out", str(tmp_path / "o"), str(tmp_path / "i")]) == 0
    assert (tmp_path / "o" / "labels" / f"{name}.tif").is_file()
    (tmp_path / "i" / f"{name}.tif").write_bytes(b"II*\0 this is no TIFF")
    capsys.readouterr()
    assert main(["predict", "--model", str(out), "--out", str(tmp_path / "o"), str(tmp_path / "i" / f"{name}.tif")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be read as an image" in line
    assert "\x1b" not in line
    assert main(["info", str(out)]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_a_name_that_is_no_text(tmp_path, capsys):
    import os

    path = os.fsencode(tmp_path) + b"/\xff\xfe.tif"
    with open(path, "wb") as file:
        file.write(b"II*\0 this is no TIFF")
    assert main(["predict", "--model", "nuclei", "--out", str(tmp_path / "o"), os.fsdecode(path)]) == 2
    assert "cannot be read as an image" in capsys.readouterr().err


def test_files_that_are_no_files(tmp_path):
    import os

    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "a.tif")  # opening it would wait for ever
        for read in (read_image, load_model, load_checkpoint, read_state_dict):
            with pytest.raises(ValueError, match="there is no"):
                read(tmp_path / "a.tif")
    (tmp_path / "b.tif").symlink_to(tmp_path / "b.tif")
    for read in (read_image, load_model):
        with pytest.raises((ValueError, OSError), match=r"b\.tif"):
            read(tmp_path / "b.tif")


@pytest.mark.parametrize("n", [pytest.param(2000, id="few"), pytest.param(1_000_000, id="million", marks=pytest.mark.slow)])
def test_a_folder_of_very_many_files(tmp_path, n):
    import os

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for i in range(n):
        os.close(os.open(tmp_path / "a" / f"{i}.dat", os.O_CREAT))
    for i in range(min(n, 20_000)):
        for folder in ("a", "b"):
            os.close(os.open(tmp_path / folder / f"{i}.tif", os.O_CREAT))
    began = time.thread_time()
    assert len(list_images(tmp_path / "a")) == min(n, 20_000)
    assert len(match_by_stem(tmp_path / "a", tmp_path / "b")) == min(n, 20_000)
    assert time.thread_time() - began < 10
