"""``napari-tally audit``: from label images and hand counts to the corrected count."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from pictures import discs
from PIL import Image as Pillow
from test_cli import one_line, run

import napari_tally as nt
from napari_tally.cli.audit import _is_of
from napari_tally.core.audit import Audit, StudyImage, Window, draw_audit
from napari_tally.core.audit_file import read_audit, write_audit
from napari_tally.core.overlay import frame_picture
from napari_tally.settings import AuditSettings


@pytest.fixture
def study(tmp_path) -> Path:
    """Six images with labels in which every fifth cell is missing."""
    for name in ("images", "labels", "truth"):
        (tmp_path / name).mkdir()
    for seed in range(6):
        image, truth = nt.simulate_nuclei(seed=seed, n=25, diameter=14, shape=(160, 160))
        tifffile.imwrite(tmp_path / "images" / f"im{seed}.tif", image)
        tifffile.imwrite(tmp_path / "truth" / f"im{seed}.tif", truth.astype(np.uint16))
        tifffile.imwrite(tmp_path / "labels" / f"im{seed}.tif", np.where(truth % 5, truth, 0).astype(np.uint16))
    (tmp_path / "groups.csv").write_text("image,group\n" + "".join(f"im{i},{'treated' if i % 2 else 'control'}\n" for i in range(6)))
    return tmp_path


def draw(study: Path, *more) -> int:
    return run("audit", "draw", "--labels", study / "labels", "--out", study / "audit", "--windows", 16, "--window", 50, "--seed", 1, *more)


def middles(study: Path) -> pd.DataFrame:
    """The middles of the true cells, as someone would click them."""
    rows = []
    for path in sorted((study / "truth").iterdir()):
        truth = tifffile.imread(path)
        rows += [[path.stem, *np.argwhere(truth == cell).mean(0)] for cell in np.unique(truth)[1:]]
    return pd.DataFrame(rows, columns=["image", "y", "x"])


def fill_in(study: Path) -> None:
    """Count every window by the truth, as a person would in a spreadsheet."""
    table, cells = pd.read_csv(study / "audit" / "windows.csv"), middles(study)
    y, x = cells["y"] + 0.5, cells["x"] + 0.5
    for i, w in table.iterrows():
        inside = (cells["image"] == w["image"]) & (w["top"] <= y) & (y < w["bottom"]) & (w["left"] <= x) & (x < w["right"])
        table.loc[i, "hand"] = inside.sum()
    table.to_csv(study / "audit" / "windows.csv", index=False)


def test_draw_count_and_report(study, capsys):
    assert draw(study, "--images", study / "images", "--groups", study / "groups.csv") == 0
    assert "Drew 16 windows of 54 in 6 images with 120 predicted cells" in capsys.readouterr().out
    pictures = sorted((study / "audit" / "windows").iterdir())
    assert len(pictures) == 16
    colours = np.asarray(Pillow.open(pictures[0])).reshape(-1, 3).tolist()
    assert [60, 220, 90] in colours
    assert [255, 70, 60] in colours
    header = (study / "audit" / "windows.csv").read_text().splitlines()[0]
    assert header == "window,image,plane,top,left,bottom,right,hand"  # not the predicted count: it would lead the eye
    fill_in(study)
    assert run("audit", "report", study / "audit") == 0
    said = capsys.readouterr().out
    true = len(middles(study))
    with (study / "audit" / "corrected.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == ["all"] + ["image"] * 6 + ["group"] * 2
    assert float(rows[0]["low"]) <= true <= float(rows[0]["high"])
    assert (
        f"corrected {float(rows[0]['corrected']):,.0f} ({float(rows[0]['low']):,.0f} to {float(rows[0]['high']):,.0f}, 95 % interval)"
        in said
    )
    assert "from 16 windows" in said
    assert "Ten more windows would narrow it to about ±" in said
    assert "control: predicted" in said
    record = json.loads((study / "audit" / "audit.json").read_text())
    assert len(record["counts"]) == 16
    assert all(image["image_fingerprint"] for image in record["images"])
    assert run("audit", "more", study / "audit") == 0
    assert len(pd.read_csv(study / "audit" / "windows.csv")) == 26
    assert pd.read_csv(study / "audit" / "windows.csv")["hand"].notna().sum() == 16
    fill_in(study)
    assert run("audit", "report", study / "audit") == 0
    assert "from 26 windows" in capsys.readouterr().out


def test_an_audit_that_is_stopped_at_its_pictures_can_be_counted(study, capsys, monkeypatch):
    written = []

    def stopped_at_the_third(image, window):
        written.append(window)
        if len(written) == 3:
            raise KeyboardInterrupt
        return frame_picture(image, window)

    monkeypatch.setattr("napari_tally.core.overlay.frame_picture", stopped_at_the_third)
    draw(study, "--images", study / "images")
    fill_in(study)
    assert run("audit", "report", study / "audit") == 0
    assert "from 16 windows" in capsys.readouterr().out


def test_hand_counts_without_their_audit_are_not_written_over(study, capsys):
    draw(study)
    (study / "audit" / "audit.json").unlink()
    assert draw(study) == 0  # nothing is counted yet
    fill_in(study)
    (study / "audit" / "audit.json").unlink()
    counted = (study / "audit" / "windows.csv").read_bytes()
    capsys.readouterr()
    assert draw(study) == 2
    assert "windows.csv holds hand counts, and the audit.json that they belong to is gone" in one_line(capsys)
    assert (study / "audit" / "windows.csv").read_bytes() == counted


def test_pictures_of_images_with_long_names(study):
    for folder in ("images", "labels"):
        (study / folder / "im0.tif").rename(study / folder / f"{'x' * 250}.tif")
    assert draw(study, "--images", study / "images") == 0
    assert len(list((study / "audit" / "windows").iterdir())) == 16


def test_points_give_the_same_as_counts(study, capsys):
    draw(study)
    fill_in(study)
    assert run("audit", "report", study / "audit") == 0
    by_counts = capsys.readouterr().out
    middles(study).to_csv(study / "points.csv", index=False)
    assert run("audit", "report", study / "audit", "--points", study / "points.csv") == 0
    assert capsys.readouterr().out.splitlines()[1] in by_counts  # after a note on points outside the windows


def test_annotated_images_are_left_out(study, capsys):
    trained = study / "trained"
    trained.mkdir()
    (trained / "im0.tif").write_bytes((study / "truth" / "im0.tif").read_bytes())
    assert draw(study, "--trained", trained) == 0
    assert "windows that touch training annotations are left out, with 20 predicted cells" in capsys.readouterr().out
    assert "im0" not in set(pd.read_csv(study / "audit" / "windows.csv")["image"])


def test_windows_that_are_passed_over_are_named(study, capsys):
    draw(study)
    fill_in(study)
    table = pd.read_csv(study / "audit" / "windows.csv")
    table.loc[2, "hand"] = np.nan
    table.to_csv(study / "audit" / "windows.csv", index=False)
    assert run("audit", "report", study / "audit") == 0
    assert "Note: window 3 is passed over. Count it too" in capsys.readouterr().out
    table.loc[5, "hand"] = np.nan
    table.to_csv(study / "audit" / "windows.csv", index=False)
    assert run("audit", "report", study / "audit") == 0
    assert "Note: windows 3, 6 are passed over. Count them too" in capsys.readouterr().out


def test_what_is_wrong_is_one_line(study, capsys):
    draw(study)
    capsys.readouterr()
    assert draw(study) == 2
    assert "holds an audit already" in one_line(capsys)
    assert run("audit", "report", study / "audit") == 2
    assert "no window is counted yet" in one_line(capsys)
    windows = study / "audit" / "windows.csv"
    windows.write_text("window,hand\n1,-4\n")
    assert run("audit", "report", study / "audit") == 2
    assert "hand count -4" in one_line(capsys)
    windows.write_text("window,hand\n1,many\n")
    assert run("audit", "report", study / "audit") == 2
    assert "'hand' holds something that is no number" in one_line(capsys)
    windows.write_text("window\n1\n")
    assert run("audit", "report", study / "audit") == 2
    assert "the column 'hand' is missing" in one_line(capsys)
    assert run("audit", "report", study / "nowhere") == 2
    assert "there is no such audit" in one_line(capsys)
    (study / "points.csv").write_text("image,y,x\nother,1,1\n")
    assert run("audit", "report", study / "audit", "--points", study / "points.csv") == 2
    assert "not in the audit: other" in one_line(capsys)


def test_a_count_that_is_taken_out_of_the_table_counts_no_more(study, capsys):
    assert draw(study) == 0
    fill_in(study)
    assert run("audit", "report", study / "audit") == 0
    table = pd.read_csv(study / "audit" / "windows.csv")
    table.loc[8:, "hand"] = np.nan
    table.to_csv(study / "audit" / "windows.csv", index=False)
    capsys.readouterr()
    assert run("audit", "report", study / "audit") == 0
    assert "from 8 windows" in capsys.readouterr().out


def test_points_outside_all_windows(study, capsys):
    assert draw(study) == 0
    (study / "far.csv").write_text("image,y,x\nim0,9999,2\n")
    capsys.readouterr()
    assert run("audit", "report", study / "audit", "--points", study / "far.csv") == 2
    assert "None of the 1 points lies in a window of the audit" in one_line(capsys)


def test_a_table_with_semicolons(study, capsys):
    assert draw(study) == 0
    fill_in(study)
    path = study / "audit" / "windows.csv"
    path.write_text("\ufeff" + path.read_text().replace(",", ";").replace(".0", ",0"), encoding="utf-8")
    capsys.readouterr()
    assert run("audit", "report", study / "audit") == 0
    assert "from 16 windows" in capsys.readouterr().out


def test_images_that_are_called_by_numbers(study, tmp_path, capsys):
    for name in ("numbers", "many"):
        (tmp_path / name).mkdir()
    for i in range(2):
        (study / "labels" / f"im{i}.tif").rename(tmp_path / "numbers" / f"00{i + 1}.tif")
    (tmp_path / "g.csv").write_text("image,group\n001,control\n")
    where = "--labels", tmp_path / "numbers", "--out", tmp_path / "many"
    assert run("audit", "draw", *where, "--groups", tmp_path / "g.csv", "--windows", 8, "--window", 50) == 0
    assert "the table of groups does not name 002" in capsys.readouterr().out
    images = json.loads((tmp_path / "many" / "audit.json").read_text())["images"]
    assert [image["group"] for image in images] == ["control", ""]
    assert run("audit", "more", tmp_path / "many", "--windows", 2) == 0
    names = pd.read_csv(tmp_path / "many" / "windows.csv", dtype=str)["image"]
    assert set(names) == {"001", "002"}
    assert len(names) == 10
    (tmp_path / "p.csv").write_text("image,y,x\n001,5,5\n002,5,5\n")
    assert run("audit", "report", tmp_path / "many", "--points", tmp_path / "p.csv") == 0
    assert run("audit", "more", tmp_path / "many", "--windows", -3) == 2
    assert "--windows is -3; a number from 1 on is wanted" in one_line(capsys)


def click(study: Path, *numbers: int, inside: int = 1) -> Audit:
    """Count windows in the window of napari: clicks in their middle."""
    audit = read_audit(study / "audit.json")
    for number in numbers:
        w = audit.window(number)
        audit.count_clicks(number, [((w.top + w.bottom) / 2, (w.left + w.right) / 2)] * inside)
    write_audit(study / "audit.json", audit)
    return audit


def write_hand(study: Path, hand: dict[int, float]) -> None:
    table = pd.read_csv(study / "windows.csv")
    table.assign(hand=table["window"].map(hand)).to_csv(study / "windows.csv", index=False)


def test_clicks_stay_beside_the_numbers_of_the_table(study, capsys):
    assert draw(study) == 0
    place = study / "audit"
    write_hand(place, {1: 2, 2: 1, 3: 3})
    assert run("audit", "report", place) == 0
    click(place, *range(3, 12))
    click(place, 12, inside=0)
    capsys.readouterr()
    assert run("audit", "report", place) == 0
    assert "Windows counted: 3 in windows.csv, 10 more by clicks." in capsys.readouterr().out
    expected = {0: 2, 1: 1, 2: 3} | dict.fromkeys(range(3, 12), 1) | {12: 0}
    assert read_audit(place / "audit.json").counts == expected
    write_hand(place, {1: 2, 2: 1, 5: 4})  # 3 is taken out, 5 has another number than clicks
    assert run("audit", "report", place) == 0
    assert "the clicks in window 5 are not as many as windows.csv says" in capsys.readouterr().out
    del expected[2]
    assert read_audit(place / "audit.json").counts == expected | {4: 4}
    write_hand(place, {})
    assert run("audit", "report", place) == 0
    assert "Windows counted" not in capsys.readouterr().out
    assert read_audit(place / "audit.json").counts == dict.fromkeys(range(3, 12), 1) | {12: 0}


def test_an_audit_that_the_window_wrote_has_no_table(study, capsys):
    audit = draw_audit([StudyImage("im0", tifffile.imread(study / "labels" / "im0.tif"))], AuditSettings(windows=8))
    place = study / "seen"
    write_audit(place / "audit.json", audit)
    assert run("audit", "report", place) == 2
    assert "audit.json: no window is counted yet; count some with '4 Check the count' in napari." in one_line(capsys)
    click(place, *range(8))
    assert run("audit", "report", place) == 0
    assert "from 8 windows, 8 cells counted by hand" in capsys.readouterr().out
    assert run("audit", "more", place, "--windows", 2) == 0
    table = pd.read_csv(place / "windows.csv")
    assert table["window"].tolist() == list(range(1, 11))
    assert table["hand"].isna().all()  # clicks may change in the window: the table would hide it
    capsys.readouterr()
    assert run("audit", "report", place) == 0
    assert "from 8 windows, 8 cells counted by hand" in capsys.readouterr().out


def test_windows_do_not_vanish_where_the_table_cannot_be_read(study, capsys):
    assert draw(study) == 0
    table, record = study / "audit" / "windows.csv", study / "audit" / "audit.json"
    before, known = table.read_bytes(), record.read_bytes()
    table.write_text("no,table\n1,2\n")
    assert run("audit", "more", study / "audit") == 2
    assert run("audit", "more", study / "audit", "--images", study / "truth", "--windows", 0) == 2
    assert record.read_bytes() == known
    table.write_bytes(before)
    (study / "images" / "im0.tif").unlink()
    assert run("audit", "more", study / "audit", "--windows", 38, "--images", study / "images") == 2
    assert "no image belongs to the labels im0" in capsys.readouterr().err
    assert (table.read_bytes(), record.read_bytes()) == (before, known)
    audit = read_audit(record)
    audit.add_windows(3)  # in the window, which knows no table
    write_audit(record, audit)
    assert run("audit", "more", study / "audit", "--windows", 2) == 0
    assert pd.read_csv(table)["window"].tolist() == list(range(1, 22))


def test_points_of_stacks_have_a_plane(study, capsys):
    (study / "stacks").mkdir()
    cells = tifffile.imread(study / "truth" / "im0.tif")
    tifffile.imwrite(study / "stacks" / "im0.tif", np.stack([cells, np.where(cells > 0, cells + 100, 0)]).astype(np.uint16))
    assert run("audit", "draw", "--labels", study / "stacks", "--out", study / "audit", "--windows", 8) == 0
    points = middles(study).query("image == 'im0'")
    points.to_csv(study / "points.csv", index=False)
    capsys.readouterr()
    assert run("audit", "report", study / "audit", "--points", study / "points.csv") == 2
    assert "The points have no column 'plane', but there are stacks among the images of the audit." in one_line(capsys)
    points.assign(plane=1).to_csv(study / "points.csv", index=False)
    assert run("audit", "report", study / "audit", "--points", study / "points.csv") == 0


def test_training_labels_that_belong_to_no_image(study, capsys):
    trained = study / "trained"
    trained.mkdir()
    (trained / "im0_labels.tif").write_bytes((study / "truth" / "im0.tif").read_bytes())
    assert draw(study, "--trained", trained) == 2
    assert "no training label image (im0_labels) is called as an image that is counted (im0, im1, im2 …)" in one_line(capsys)
    assert not (study / "audit").exists()
    (trained / "im1.tif").write_bytes((study / "truth" / "im1.tif").read_bytes())
    assert draw(study, "--trained", trained) == 0
    assert "Note: 1 of 2 training labels belong to no image that is counted: im0_labels." in capsys.readouterr().out


def test_a_report_of_results_with_an_audit_of_all_cells(study, capsys):
    out = study / "out"
    assert run("count", "--images", study / "images", "--labels", study / "labels", "--out", out, "--border", "exclude") == 0
    counted = int(pd.read_csv(out / "counts.csv")["count"].sum())
    assert run("audit", "draw", "--labels", out, "--out", study / "audit", "--windows", 16, "--window", 50) == 0
    fill_in(study)
    assert run("audit", "report", study / "audit") == 0
    assert run("report", out, "--audit", study / "audit") == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f'<p class="count">{counted} cells</p>' in page
    assert "all cells (those at the border included) in 6 of 6 images" in page


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("17,1", "there is no window 17 in this audit; its windows are 1 to 16"),
        (",85", "a row has the hand count 85 and no window; write its window"),
        ("3,1\n3,2", "window 3 is listed twice; keep one of its rows"),
        ("3,1\n3,", "window 3 is listed twice"),
        ("1,1.5", "window 1 has the hand count 1.5; a whole number from 0 to"),
        ("2,1e300", "window 2 has the hand count 1e+300; a whole number from 0 to"),
        ("2,1000000000000", "window 2 has the hand count 1e+12; a whole number from 0 to"),
        ("2,True", "the column 'hand' holds something that is no number: 'True', in the row of window 2."),
        ('2,"3,5"', "the column 'hand' holds something that is no number: '3,5', in the row of window 2."),
        ("inf,", "the column 'window' holds something that is no number: 'inf'"),
    ],
)
def test_a_row_that_cannot_be_believed(study, capsys, rows, said):
    assert draw(study) == 0
    (study / "audit" / "windows.csv").write_text(f"window,hand\n{rows}\n")
    capsys.readouterr()
    assert run("audit", "report", study / "audit") == 2
    assert said in one_line(capsys)


def test_at_most_one_cell_a_pixel(study, capsys):
    assert draw(study) == 0
    table = pd.read_csv(study / "audit" / "windows.csv")
    pixels = int(((table["bottom"] - table["top"]) * (table["right"] - table["left"]))[0])
    write_hand(study / "audit", {1: pixels})
    assert run("audit", "report", study / "audit") == 0
    write_hand(study / "audit", {1: pixels + 1})
    capsys.readouterr()
    assert run("audit", "report", study / "audit") == 2
    assert f"a whole number from 0 to {pixels}, a cell a pixel, is wanted." in one_line(capsys)


def test_a_column_that_is_there_twice(study, capsys):
    assert draw(study) == 0
    (study / "audit" / "windows.csv").write_text("window,hand,hand\n1,2,3\n")
    capsys.readouterr()
    assert run("audit", "report", study / "audit") == 2
    assert "the column 'hand' is there twice; take one of them out." in one_line(capsys)


def test_a_table_that_a_spreadsheet_has_saved(study, capsys):
    """Rows in another order, numbers with decimals, a name without its zeros: all is still of its window."""
    assert draw(study) == 0
    fill_in(study)
    place = study / "audit" / "windows.csv"
    table = pd.read_csv(place).astype(dict.fromkeys(("window", "plane", "top", "left", "bottom", "right"), float))
    table = table.sort_values("top").assign(image=table["image"].str.replace("im0", "0"))
    table.to_csv(place, index=False)
    assert run("audit", "report", study / "audit") == 0
    assert "from 16 windows" in capsys.readouterr().out


def test_places_that_are_saved_as_they_are_shown():
    window = Window(4, "slide", 0, 1_234_567, 0, 1_234_667, 90)
    assert _is_of({"top": 1.23e6, "bottom": 1.23e6, "left": 0.0, "right": np.nan}, window, ["slide", "other"])
    assert not _is_of({"top": 1.25e6}, window, ["slide", "other"])
    assert not _is_of({"plane": 1}, window, ["slide", "other"])
    assert not _is_of({"image": "other"}, window, ["slide", "other"])


@pytest.mark.parametrize("column", ["window", "image", "left"])
def test_one_column_that_was_sorted_alone(study, capsys, column):
    assert draw(study) == 0
    fill_in(study)
    place = study / "audit" / "windows.csv"
    table = pd.read_csv(place)
    table[column] = table[column].sort_values(ascending=False).to_numpy()
    table.to_csv(place, index=False)
    capsys.readouterr()
    assert run("audit", "report", study / "audit") == 2
    said = one_line(capsys)
    assert "is of another place; this window lies on im" in said
    assert said.endswith("Sort whole rows, not one column.")
    assert json.loads((study / "audit" / "audit.json").read_text())["counts"] == {}


def test_a_row_that_is_taken_out_is_open(study, capsys):
    assert draw(study) == 0
    fill_in(study)
    place = study / "audit"
    assert run("audit", "report", place) == 0
    click(place, 12)
    table = pd.read_csv(place / "windows.csv")
    table.iloc[:8].to_csv(place / "windows.csv", index=False)
    capsys.readouterr()
    assert run("audit", "report", place) == 0
    said = capsys.readouterr().out
    assert "Windows counted: 8 in windows.csv, 1 more by clicks." in said
    assert "from 9 windows" in said
    assert sorted(read_audit(place / "audit.json").counts) == [*range(8), 12]
    table.to_csv(place / "windows.csv", index=False)
    assert run("audit", "report", place) == 0
    table.iloc[:8].to_csv(place / "windows.csv", index=False)
    assert run("audit", "more", place, "--windows", 2) == 0  # brings the rows back, but not what stood in them
    assert pd.read_csv(place / "windows.csv")["hand"].notna().tolist() == [True] * 8 + [False] * 10


def test_too_few_windows_give_no_number(study, capsys):
    assert draw(study) == 0
    write_hand(study / "audit", {1: 1})
    capsys.readouterr()
    assert run("audit", "report", study / "audit") == 0
    said = capsys.readouterr().out
    assert "Predicted 120; too few windows to correct it, from 1 window, 1 cell counted by hand." in said
    assert "nan" not in said


def test_masks_of_one_cell_each_are_drawn_as_others_count_them(tmp_path, capsys):
    for kind in ("masks", "labels"):
        (tmp_path / kind).mkdir()
        for i in range(3):
            cells = discs((60, 60), (20 + i, 30, 6))
            tifffile.imwrite(tmp_path / kind / f"im{i}.tif", cells > 0 if kind == "masks" else cells.astype(np.uint16))
        assert run("audit", "draw", "--labels", tmp_path / kind, "--out", tmp_path / f"of {kind}", "--windows", 4) == 0
        assert "in 3 images with 3 predicted cells" in capsys.readouterr().out
    of_masks, of_labels = (read_audit(tmp_path / f"of {kind}" / "audit.json") for kind in ("masks", "labels"))
    assert of_masks.images == of_labels.images
