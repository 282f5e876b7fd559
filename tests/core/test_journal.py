"""The journal of a drawing: what was written comes back, however the file ends."""

import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import discs

from napari_tally.core.journal import Journal, read_journal

REGION = [{"type": "rectangle", "points": [[0.0, 0.0], [0.0, 9.5], [9.0, 9.5], [9.0, 0.0]]}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.journal"


@pytest.fixture
def journal(path):
    return Journal(path, {"image": "Zellkörper\n", "shape": [3]})


def test_what_is_drawn_comes_back(journal, path):
    labels = np.zeros((300, 200), np.int32)
    assert journal.write(labels)
    assert not journal.write(labels)
    labels += discs(labels.shape, (50, 50, 20), (140, 120, 30))
    assert journal.write(labels, REGION)
    labels[labels == 1] = 0
    labels[299, 199] = 7
    assert journal.write(labels, REGION)
    found = read_journal(path)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.labels.dtype == np.int32
    assert found.region == REGION
    assert found.about == {"image": "Zellkörper\n", "shape": [3]}


def test_a_stroke_takes_few_bytes(journal, path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 500, (600, 700)).astype(np.int32)  # hardly packs
    journal.write(labels)
    before = path.stat().st_size
    labels[100:110, 100:110] = 501
    journal.write(labels)
    assert path.stat().st_size - before < 70_000 < before / 5
    labels[:] = 0
    journal.write(labels)
    assert path.stat().st_size - before < 72_000


def test_what_is_rubbed_out_stays_out(journal, path):
    labels = np.ones((130, 130), np.uint8)
    journal.write(labels, REGION)
    labels[:] = 0
    journal.write(labels)
    assert not read_journal(path).labels.any()
    assert read_journal(path).region == []


def test_another_shape_or_type_begins_anew(journal, path):
    journal.write(np.ones((5, 5), np.uint8))
    journal.write(np.full((5, 5), 70_000, np.int32))
    assert read_journal(path).labels.max() == 70_000
    journal.write(np.ones((2, 5, 6), np.int32))
    assert read_journal(path).labels.shape == (2, 5, 6)


def test_the_file_stays_small(journal, path):
    """Ten thousand strokes on the same spot: what is drawn over goes."""
    labels = np.zeros((128, 128), np.int32)
    rng = np.random.default_rng(0)
    for _ in range(100):
        labels[:] = rng.integers(0, 2**31 - 1, labels.shape)  # a record takes 65 kB
        journal.write(labels)
    assert path.stat().st_size <= 2**20 + 70_000
    np.testing.assert_array_equal(read_journal(path).labels, labels)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_torn_end_costs_the_last_stroke_at_most(journal, path):
    """Cut anywhere: the drawing is one of those that were written, and an older one the earlier the cut."""
    labels, states, ends = np.zeros((40, 50), np.int32), [], []
    for n in range(1, 6):
        labels[5 * n, 3:40] = n
        journal.write(labels)
        states.append(labels.copy())
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for size in range(ends[0], len(whole)):
        path.write_bytes(whole[:size])
        last = max(i for i, end in enumerate(ends) if end <= size)
        np.testing.assert_array_equal(read_journal(path).labels, states[last])


def test_a_full_disk_is_said_and_the_next_time_all_is_written(journal, path, monkeypatch):
    labels = np.ones((40, 50), np.int32)
    journal.write(labels)
    labels[3:9] = 2

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        journal.write(labels)
    with path.open("ab") as file:
        file.write(b"half a record")
    monkeypatch.undo()
    assert journal.write(labels)
    np.testing.assert_array_equal(read_journal(path).labels, labels)
    labels[20] = 5
    journal.write(labels)
    np.testing.assert_array_equal(read_journal(path).labels, labels)


def test_a_journal_that_was_deleted_is_written_anew(journal, path):
    labels = np.ones((40, 50), np.int32)
    journal.write(labels)
    path.unlink()
    labels[0] = 2
    journal.write(labels)
    np.testing.assert_array_equal(read_journal(path).labels, labels)


@given(st.data())
@settings(max_examples=30)
def test_any_strokes_on_any_shape(tmp_path_factory, data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(1, 300)))
    path = tmp_path_factory.mktemp("j") / "a.journal"
    journal, labels = Journal(path, {}), np.zeros(shape, np.int32)
    for n in range(data.draw(st.integers(1, 5))):
        corner = [data.draw(st.integers(0, side - 1)) for side in shape]
        labels[tuple(slice(c, c + 40) for c in corner)] = n % 3
        journal.write(labels)
    np.testing.assert_array_equal(read_journal(path).labels, labels)


def written(path, *records):
    content = b"napari-tally drawing 1\n"
    for head, body in records:
        part = (head if isinstance(head, bytes) else json.dumps(head).encode()) + b"\n" + body
        content += struct.pack("<II", len(part), zlib.crc32(part)) + part
    path.write_bytes(content)


FIRST = {"shape": [5, 6], "dtype": "<i4", "about": {}}


@pytest.mark.parametrize(
    "records",
    [
        [],
        [(FIRST | {"shape": [5]}, b"")],
        [(FIRST | {"shape": [-1, 5]}, b"")],
        [(FIRST | {"shape": [10**9, 10**9]}, b"")],
        [(FIRST | {"shape": [10**200, 10**200]}, b"")],
        [(FIRST | {"shape": "55"}, b"")],
        [(FIRST | {"dtype": "O"}, b"")],
        [(FIRST | {"dtype": "<f8"}, b"")],
        [(FIRST | {"dtype": 3}, b"")],
        [(FIRST | {"dtype": "i4,("}, b"")],
        [(FIRST | {"about": 3}, b"")],
        [([], b"")],
        [(b"[" * 100_000, b"")],
        [(FIRST, b""), ({"tiles": [[9, 0, 0, 5]], "region": []}, b"12345")],
        [(FIRST, b""), ({"tiles": [[-1, 0, 0, 5]], "region": []}, b"12345")],
        [(FIRST, b""), ({"tiles": [[0, 0, 0, 5]], "region": []}, b"12345")],
        [(FIRST, b""), ({"tiles": [[0, 0, 0, 99]], "region": []}, zlib.compress(bytes(10**7)))],
        [(FIRST, b""), ({"tiles": [[0, 0, 0]], "region": []}, b"")],
        [(FIRST, b""), ({"tiles": [], "region": [{"type": "x"}]}, b"")],
        [(FIRST, b""), ({"tiles": [], "region": [{"type": "x", "points": ["a"]}]}, b"")],
    ],
)
def test_a_damaged_journal_is_one_sentence(path, records):
    written(path, *records)
    with pytest.raises(ValueError, match="no drawing can be read from this file"):
        read_journal(path)


def test_what_is_no_journal(path, tmp_path):
    for content in (b"", b"napari-tally drawing 2\n", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no drawing can be read"):
            read_journal(path)
    with pytest.raises(ValueError, match="no drawing can be read"):
        read_journal(tmp_path / "absent")
