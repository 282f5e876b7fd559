"""The page: what stands on it, and that it needs nothing else."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tifffile
from pictures import discs

import napari_tally as nt
from napari_tally.core.corrected_count import Corrected
from napari_tally.core.images import write_labels
from napari_tally.core.prediction import Prediction
from napari_tally.core.record import RunRecord, read_record
from napari_tally.core.report import methods, write_report
from napari_tally.core.results import Results
from napari_tally.settings import CountingSettings, PredictionSettings, RuleSettings

LABELS = discs((60, 80), (20, 20, 7), (40, 50, 9), (0, 70, 6))


@pytest.fixture
def folder(tmp_path):
    """Results of two images, one with a name that is no HTML; the model needs no training for this."""
    out = tmp_path / "out"
    (out / "labels").mkdir(parents=True)
    rules = RuleSettings(border="frame")
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


def test_a_checked_count_stands_on_top_with_its_interval(folder):
    page = Elements(write_report(folder, checked=Corrected(4, 5.2, 4.1, 6.3, 12, 30, 1)).read_text(encoding="utf-8"))
    words = re.sub(r"\s+", " ", page.text)
    assert "5 cells (4 to 6) 95 % interval, from 30 cells counted by hand in 12 random windows." in words
    assert "Not checked by hand" not in words
    assert "corrected by 30 cells counted by hand in 12 randomly placed windows: 5 (95 % confidence interval 4 to 6)" in words


def test_hand_against_predicted_counts_of_the_windows(folder):
    windows = pd.DataFrame({"predicted": [4, 4, 0], "hand": [5, 5, 0]})
    page = write_report(folder, checked=Corrected(4, 5.2, 4.1, 6.3, 12, 30, 1), windows=windows).read_text(encoding="utf-8")
    assert page.count("<circle ") == 2
    assert "2 windows: predicted 4, counted 5" in page
    assert 'cx="10.0" cy="250.0"' in page  # 0 and 0: the lower left corner
    assert "<circle " not in write_report(folder).read_text(encoding="utf-8")


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


def test_a_folder_without_results(tmp_path):
    with pytest.raises(ValueError, match=r"counts.csv and cells.csv are wanted"):
        write_report(tmp_path)


def test_the_page_does_without_an_image_that_is_no_longer_as_it_was(folder, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9), np.uint8))
    (tmp_path / "<b> & co.tif").write_bytes(b"no image")
    page = Elements(write_report(folder).read_text(encoding="utf-8"))
    assert not [tag for tag, with_ in page.seen if tag == "img" and with_["src"].startswith("data:image/jpeg")]
    assert "4 cells" in re.sub(r"\s+", " ", page.text)
