"""An audit on disk: it keeps all, and nothing that was changed by hand is believed."""

import json

import numpy as np
import pytest
from studies import study

import napari_tally as nt
from napari_tally.core.audit import draw_audit
from napari_tally.core.audit_file import read_audit, write_audit
from napari_tally.settings import AuditSettings


def test_the_record_keeps_all_and_goes_on_where_it_was(tmp_path):
    audit = draw_audit(study(fingerprint="abc"), AuditSettings(windows=12, seed=3))
    for number in range(7):
        audit.count_clicks(number, [(5.25, 7.5), (-3, 1000)])
    write_audit(tmp_path / "audit.json", audit)
    again = read_audit(tmp_path / "audit.json")
    assert again.order == audit.order
    assert again.images == audit.images
    assert again.windows[audit.windows.columns].equals(audit.windows)
    assert (again.counts, again.clicks, again.settings, again.wanted) == (audit.counts, audit.clicks, audit.settings, 12)
    assert again.total() == audit.total()
    assert np.isfinite(audit.total().low)
    assert again.next_open() == 7
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["origin"]["napari-tally"] == nt.__version__
    assert record["origin"]["numpy"] == np.__version__
    assert record["settings"] == {"windows": 12, "window": 0, "seed": 3}
    assert [image["image_fingerprint"] for image in record["images"]] == ["abc"] * 6
    assert len({image["labels_fingerprint"] for image in record["images"]}) == 6
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not an audit"),
        ("{}", "not an audit"),
        ('{"napari_tally_audit": 99}', "newer napari-tally"),
        ("[1]", "not an audit"),
        ('{"napari_tally_audit": 1}', "an audit without origin"),
        ("[" * 200_000, "not an audit"),
    ],
)
def test_a_file_that_is_no_audit_is_said_in_one_sentence(tmp_path, content, said):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_audit(tmp_path / "a.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> str:
    """An audit as it stands in its file."""
    path = tmp_path_factory.mktemp("whole") / "a.json"
    write_audit(path, draw_audit(study(), AuditSettings(windows=8, window=32)))
    return path.read_text()


HUGE, NAN, INFINITE = 10**30, float("nan"), float("inf")


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        *[("napari_tally_audit", value, "a file whose napari_tally_audit is") for value in ("1", True, INFINITE)],
        *[("wanted", value, "an audit whose wanted is") for value in ("8", True, None, 1e300, INFINITE)],
        *[("wanted", value, "or more are wanted than there are") for value in (-1, 0, HUGE)],
        *[("order", value, "the order of its windows does not name each once") for value in ([], [0, 0], [INFINITE], [HUGE], ["a"])],
        *[("windows", value, "row 0 of its windows is") for value in ([[1, 2]], [3], [["a"] * 8], [[0, 0, 0, 0, 5, 5, 0, INFINITE]])],
        *[(("images", 0, "left_out"), value, "an image whose left_out is") for value in ("q", 1.5, True, NAN)],
        *[(("images", 0, "name"), value, "an image whose name is") for value in ([1], None, 7)],
        (("images", 0, "group"), {}, "an image whose group is {}"),
        *[(("images", 0, "shape"), value, "an image whose shape is") for value in ([128], [0, 5], [-1, -5], [HUGE, 5], ["a", "b"])],
        *[(("images", 1, "predicted"), value, "an image of 20480 pixels with") for value in (-25, HUGE, 20481)],
        (("images", 1, "left_out"), 26, "25 predicted cells, 26 of them left out"),
        (("images", 1, "name"), "im0", "two of its images have one name"),
        (("images", 0), [], r"an image that is \[\]"),
        *[(("windows", 0, 0), value, "row 0 of its windows is") for value in (-1, 6, HUGE, INFINITE, 1.0, None)],
        *[(("windows", 0, 1), value, "row 0 of its windows is") for value in (-1, 1)],
        *[(("windows", 0, 4), value, "row 0 of its windows is") for value in (0, 129, 10**12)],
        *[(("windows", 0, 6), value, "row 0 of its windows is") for value in (-5, 26, True)],
        (("windows", 0, 7), -1, "row 0 of its windows is"),
        *[(("windows", 0, 7), value, "the strata of its windows are") for value in (99, 10**12)],
        *[(("counts", "0"), value, "of window 0 is no number of cells") for value in (-1, 1.5, "3", True, 1025, HUGE, INFINITE, None)],
        *[(("counts", number), 1, "is no number of cells in a window of it") for number in ("-1", "9999", "a", "1_0", "9" * 5000)],
        *[(("clicks", "0"), value, "the clicks .* of window 0 are no places") for value in (3, [3], [[1, 2, 3]], [[1, INFINITE]])],
        *[(("clicks", "0"), value, "the clicks .* of window 0 are no places") for value in ([[NAN, 1]], [[10**400, 1]], [["a", "b"]])],
        (("clicks", "x"), [], "the clicks .* of window x are no places"),
        (("settings", "windows"), INFINITE, "a whole number is wanted"),
        (("settings", "colour"), 1, "no setting 'colour'"),
    ],
)
def test_an_audit_that_was_changed_by_hand_is_said(tmp_path, written, where, value, said):
    record = json.loads(written)
    *path, last = where if isinstance(where, tuple) else (where,)
    part = record
    for key in path:
        part = part[key]
    part[last] = value
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=said) as raised:
        read_audit(tmp_path / "a.json")
    assert len(str(raised.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("key", ["name", "shape", "left_out", "labels_fingerprint"])
def test_an_audit_in_which_something_is_missing_is_said(tmp_path, written, key):
    record = json.loads(written)
    del record["images"][2][key]
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"this is not an audit of napari-tally .an image without {key}"):
        read_audit(tmp_path / "a.json")
