"""The page: what stands on it, and that it needs nothing else."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tifffile
from pictures import discs

import napari_tally as nt
from napari_tally.core.audit import StudyImage, draw_audit
from napari_tally.core.label_files import write_labels
from napari_tally.core.prediction import Prediction
from napari_tally.core.record import RunRecord, read_record
from napari_tally.core.report import Checked, methods, write_report
from napari_tally.core.results import Results
from napari_tally.settings import AuditSettings, CountingSettings, PredictionSettings, RuleSettings

LABELS = discs((60, 80), (20, 20, 7), (40, 50, 9), (0, 70, 6))


@pytest.fixture
def folder(tmp_path):
    return results_in(tmp_path, RuleSettings(border="frame"))


def results_in(tmp_path, rules):
    """Results of two images, one with a name that is no HTML; the model needs no training for this."""
    out = tmp_path / "out"
    (out / "labels").mkdir(parents=True)
    results = Results(rules)
    record = RunRecord.begin(nt.find_model("nuclei"), "nuclei", PredictionSettings(diameter=14), CountingSettings(), rules)
    for name, pixel_size in (("a", (0.5, 0.5)), ("<b> & co", (0.5, 0.5))):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, (LABELS > 0).astype(np.uint8) * 200)
        image = nt.as_image(tifffile.imread(path), name=name, pixel_size=pixel_size)
        write_labels(out / "labels" / f"{name}.tif", LABELS)
        results.add(LABELS, image, group="g")
        record.add(image, path, Prediction(None, LABELS, 1.0, 3), f"labels/{name}.tif", ("", "is odd <i>") if name == "a" else ())
    results.write(out)
    record.write(out)
    return out


def audited(*names, trained=None):
    """An audit of these images in which every window is counted, with a cell more in one of them than was predicted."""
    known = None if trained is None else np.pad(np.ones((trained, trained), bool), ((0, 60 - trained), (0, 80 - trained)))
    images = [StudyImage(name, LABELS, annotated=known if name == "a" else None) for name in names]
    audit = draw_audit(images, AuditSettings(windows=100, window=20))
    for number, row in enumerate(audit.order):
        audit.counts[number] = int(audit.windows["predicted"].iloc[row]) + (number == 0)
    return audit


def words_of(page):
    return re.sub(r"\s+", " ", Elements(page.read_text(encoding="utf-8")).text)


BOTH = "a", "<b> & co"


class Elements(HTMLParser):
    """Collects the elements and the text, and checks that they close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_one_page_with_everything_in_it(folder):
    page = Elements(write_report(folder, "My study").read_text(encoding="utf-8"))
    words = re.sub(r"\s+", " ", page.text)
    assert "4 cells In 2 images. Not checked by hand" in words
    assert "a: is odd <i>" in words  # escaped, so it is text
    assert "<b> & co: 3 cells found" in words
    assert "unbiased frame: cells that do not touch the top or left edge" in words
    sources = [attrs["src"] for tag, attrs in page.seen if tag == "img"]
    assert len(sources) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.seen}
    assert sum(tag == "rect" for tag, _ in page.seen) >= 4
    assert not list(folder.glob("*.part"))


def test_images_that_are_gone_are_left_out(folder):
    (folder.parent / "a.tif").unlink()
    page = Elements(write_report(folder).read_text(encoding="utf-8"))
    assert sum(tag == "img" for tag, _ in page.seen) == 1
    assert "out" in page.text  # the folder names it


def test_a_checked_count_stands_on_top_with_its_interval(tmp_path):
    audit = audited(*BOTH)
    page = write_report(results_in(tmp_path, RuleSettings()), "Two", audit)
    words = words_of(page)
    assert "7 cells (7 to 7) 95 % interval, from 7 cells counted by hand in 24 random windows. Predicted: 6." in words
    assert "<title>Two: 7 cells</title>" in page.read_text(encoding="utf-8")
    assert "Not checked by hand" not in words
    assert "corrected by 7 cells counted by hand in 24 randomly placed windows: 7 (95 % confidence interval 7 to 7)." in words
    assert "Not corrected" not in words


@pytest.mark.parametrize(
    ("rules", "audit", "counted", "scope"),
    [
        (RuleSettings(border="frame"), audited(*BOTH), 4, "all cells (those at the border included) in 2 of 2 images"),
        (RuleSettings("exclude", 200), audited(*BOTH), 2, "all cells (those at the border and small ones included) in 2 of 2 images"),
        (RuleSettings(), audited("a"), 6, "all cells in 1 of 2 images"),
        (RuleSettings(), audited(*BOTH, "c"), 6, "all cells in 2 of 2 images and in 1 that is not among them"),
        (
            RuleSettings(),
            audited(*BOTH, trained=30),
            6,
            "all cells in 2 of 2 images, without the windows that touch training annotations (1 predicted cells)",
        ),
        (
            RuleSettings(),
            audited(*BOTH, trained=2),  # nothing is predicted there; a cell may have been missed
            6,
            "all cells in 2 of 2 images, without the windows that touch training annotations (0 predicted cells)",
        ),
    ],
)
def test_the_count_of_other_cells_does_not_take_the_place_of_the_number_counted(tmp_path, rules, audit, counted, scope):
    words, total = words_of(write_report(results_in(tmp_path, rules), audit=audit)), audit.total()
    assert f"{counted} cells In 2 images. Not corrected, for the audit is of other cells than these: {scope}. Of those" in words
    numbers = f"{total.corrected:,.0f} ({total.low:,.0f} to {total.high:,.0f}, 95 % interval)"
    assert (
        f"Of those the corrected count is {numbers}, from {total.clicks} cells counted by hand in {total.windows} random windows." in words
    )
    assert f"In all, {counted} cells were counted. This number is not corrected." in words
    assert f"the corrected count is of {scope}: {total.corrected:,.0f} (95 % confidence interval" in words


def test_hand_against_predicted_counts_of_the_windows(folder):
    audit = audited("a")
    audit.counts = {number: count for number, count in audit.counts.items() if number < 4}
    pairs = audit.compared().value_counts(["predicted", "hand"])
    page = write_report(folder, audit=audit).read_text(encoding="utf-8")
    assert page.count("<circle ") == len(pairs)
    for (predicted, hand), n in pairs.items():
        assert f"{n} window{'s' * (n != 1)}: predicted {predicted}, counted {hand}" in page
    assert Checked.by(audit, read_record(folder).content).windows.equals(audit.compared())
    assert "<circle " not in write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(("yes", "no"), [("TRUE", "FALSE"), ("WAHR", "FALSCH"), ("Vrai", "Faux"), ("VERDADERO", "FALSO"), ("1", "0")])
def test_what_counts_as_a_spreadsheet_writes_it(folder, yes, no):
    as_written = words_of(write_report(folder))
    assert "Diameter of the cells that count" in as_written
    cells = pd.read_csv(folder / "cells.csv")
    cells.assign(counted=np.where(cells["counted"], yes, no)).to_csv(folder / "cells.csv", index=False)
    assert words_of(write_report(folder)) == as_written


def test_images_that_could_not_be_counted_are_named(folder):
    assert "could not be counted" not in words_of(write_report(folder))
    record = read_record(folder)
    for name in "cdefgh":
        record.pass_over(folder.parent / f"{name}.tif", "it is no image")
    record.write(folder)
    assert "6 of 8 images could not be counted, so they are in none of the numbers: c, d, e, f, g …." in words_of(write_report(folder))
    del record.content["failed"]  # a record of an earlier version
    record.write(folder)
    assert "could not be counted" not in words_of(write_report(folder))


def test_the_methods_say_what_was_done(folder):
    text = methods(read_record(folder).content, pd.read_csv(folder / "counts.csv"))
    for part in (
        "2 images",
        nt.__version__,
        "Ronneberger et al. 2015",
        "'nuclei'",
        "seed threshold 0.4",
        "Gundersen 1977",
        "stated as 14 px",
        "4 cells",
    ):
        assert part in text
    assert text.endswith("The count was not checked against hand counts.")


def test_no_cells_and_no_pixel_size(folder):
    empty = nt.as_image(np.zeros((20, 20), np.uint8), name="empty")
    results = Results()
    results.add(np.zeros((20, 20), int), empty)
    results.write(folder)
    page = Elements(write_report(folder).read_text(encoding="utf-8"))
    assert "0 cells" in page.text
    assert "the pixel size is not known" in page.text


def test_settings_that_a_record_leaves_out_are_the_usual_ones(folder):
    record = json.loads((folder / "record.json").read_text())
    record["settings"]["rules"] = {}
    (folder / "record.json").write_text(json.dumps(record))
    assert "border = all" in write_report(folder).read_text()


def test_a_folder_without_results(tmp_path):
    with pytest.raises(ValueError, match=r"counts.csv and cells.csv are wanted"):
        write_report(tmp_path)


def test_the_page_does_without_an_image_that_is_no_longer_as_it_was(folder, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), np.uint8))
    (tmp_path / "<b> & co.tif").write_bytes(b"no image")
    page = Elements(write_report(folder).read_text(encoding="utf-8"))
    assert not [tag for tag, with_ in page.seen if tag == "img" and with_["src"].startswith("data:image/jpeg")]
    assert "4 cells" in re.sub(r"\s+", " ", page.text)
